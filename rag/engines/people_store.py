"""Who may sign in and which browsers are signed in, in a database through SQLAlchemy: hashes, and no password or token.

What a person may see is not decided here.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.engine import URL, Connection

from rag.engines.database import Database, Purpose
from rag.errors import BadInput, LibraryUnavailable, SignInRefused
from rag.types import Person

SCHEMA_VERSION = 1
PURPOSE = Purpose("the list of people", "RANK37_DATABASE_URL", LibraryUnavailable)

NAME_CHARACTERS = 320
"""Longest name of a person: an e-mail address fits."""
LEAST_PASSWORD = 12
"""Fewest characters of a password."""
MOST_PASSWORD = 1000
TRIES_A_MINUTE = 5
"""How often a minute a name can be tried, whether or not it is someone's."""
MINUTE_S = 60.0
SESSION_S = 12 * 3600.0
"""How long a browser stays signed in."""
TOKEN_BYTES = 32
"""Randomness of a token: so much can't be guessed, so one round of SHA-256 is enough to hide it."""
AT_ONCE = 2
"""How many passwords are hashed at a time in one process: each takes 64 MiB."""

_hashing = threading.BoundedSemaphore(AT_ONCE)

_tables = sql.MetaData()

_schema = sql.Table("people_schema", _tables, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False))

_people = sql.Table(
    "people",
    _tables,
    sql.Column("name", sql.String(NAME_CHARACTERS), primary_key=True),
    sql.Column("password", sql.String(255), nullable=False, comment="Argon2id; empty: signs in at a provider only"),
    sql.Column("is_admin", sql.Boolean, nullable=False),
    sql.Column("created_at", sql.String(40), nullable=False),
)

_sessions = sql.Table(
    "people_sessions",
    _tables,
    sql.Column("digest", sql.String(64), primary_key=True, comment="SHA-256 of the token"),
    sql.Column("name", sql.String(NAME_CHARACTERS), nullable=False),
    sql.Column("ends", sql.Double, nullable=False, comment="seconds since 1970, UTC"),
)

_tries = sql.Table(
    "people_tries",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("digest", sql.String(64), nullable=False, comment="SHA-256 of the name that was typed"),
    sql.Column("at", sql.Double, nullable=False, comment="seconds since 1970, UTC"),
)


class SqlPeopleStore:
    """The people in one database. Safe to use from several threads, and together with other processes."""

    def __init__(
        self, where: str | URL | Path, *, clock: Callable[[], float] = time.time, hasher: PasswordHasher | None = None
    ) -> None:
        """Open it: a URL, or a SQLite file. Raises BadInput for a URL that is none, LibraryUnavailable."""
        self._clock = clock
        self._hasher = hasher or PasswordHasher()
        # What the password of a name that is no one's is compared with, so that it takes as long.
        self._nobodys = self._hasher.hash(secrets.token_hex())
        self._database = Database.open(where, PURPOSE, _tables, _schema, SCHEMA_VERSION)

    def add(self, name: str, password: str | None, *, is_admin: bool = False) -> Person:
        """Let a person sign in; see `PeopleStore.add`. Raises BadInput."""
        name = checked_person(name)
        hashed = "" if password is None else self._hashed(password, name)
        with self._database.writing() as connection:
            if _row(connection, name) is not None:
                raise BadInput(
                    f"there is a person {name!r} already: `python -m rag people password` changes a password"
                )
            first = connection.execute(sql.select(_people.c.name).limit(1)).first() is None
            row = {
                "name": name,
                "password": hashed,
                "is_admin": is_admin or first,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            connection.execute(sql.insert(_people).values(row))
        return _person(row)

    def listed(self) -> list[Person]:
        """All of them, by name."""
        with self._database.reading() as connection:
            return [_person(row) for row in connection.execute(sql.select(_people).order_by(_people.c.name)).mappings()]

    def person(self, name: str) -> Person | None:
        """The one of that name, or None."""
        with self._database.reading() as connection:
            row = _row(connection, folded(name))
        return None if row is None else _person(row)

    def set_password(self, name: str, password: str) -> None:
        """Give a person another password. Raises BadInput."""
        name = self._known(name)
        hashed = self._hashed(password, name)
        with self._database.deleting() as connection:
            connection.execute(sql.update(_people).where(_people.c.name == name).values(password=hashed))
            connection.execute(sql.delete(_sessions).where(_sessions.c.name == name))

    def remove(self, name: str) -> None:
        """Take a person off the list. Raises BadInput for an unknown name, or the only administrator of several."""
        name = self._known(name)
        with self._database.deleting() as connection:
            others = connection.execute(sql.select(_people.c.is_admin).where(_people.c.name != name)).scalars().all()
            if others and not any(others):
                raise BadInput(f"{name!r} is the only administrator: add another one first, with --admin")
            connection.execute(sql.delete(_people).where(_people.c.name == name))
            connection.execute(sql.delete(_sessions).where(_sessions.c.name == name))

    def sign_in(self, name: str, password: str) -> str:
        """A token of a new session; see `PeopleStore.sign_in`."""
        name = folded(name)
        self._note_try(name)
        with self._database.reading() as connection:
            row = _row(connection, name)
        hashed = str(row["password"]) if row is not None and row["password"] else ""
        fits = self._fits(hashed or self._nobodys, password[: MOST_PASSWORD + 1])
        if not (fits and hashed):
            raise SignInRefused("name and password don’t fit together: type both again")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        now = self._clock()
        with self._database.deleting() as connection:
            still = _row(connection, name)
            if still is None or still["password"] != hashed:  # removed or changed while it was compared
                raise SignInRefused("name and password don’t fit together: type both again")
            connection.execute(sql.delete(_sessions).where(_sessions.c.ends <= now))
            connection.execute(sql.delete(_tries).where(_tries.c.digest == _digest(name)))
            connection.execute(sql.insert(_sessions).values(digest=_digest(token), name=name, ends=now + SESSION_S))
        return token

    def signed_in(self, token: str) -> Person | None:
        """Whose session a token is of; None where it is of none, or has ended.

        It is found by its hash: how far a wrong one agrees with a right one shows in no time.
        """
        wanted = (
            sql.select(_people)
            .join(_sessions, _sessions.c.name == _people.c.name)
            .where(_sessions.c.digest == _digest(token), _sessions.c.ends > self._clock())
        )
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
        return None if row is None else _person(row)

    def sign_out(self, token: str) -> None:
        """End a session."""
        with self._database.deleting() as connection:
            connection.execute(sql.delete(_sessions).where(_sessions.c.digest == _digest(token)))

    def close(self) -> None:
        """Release the database. Idempotent."""
        self._database.close()

    def _note_try(self, name: str) -> None:
        """Count a try before it is made, so that many at once are not more. Raises SignInRefused for too many."""
        now, digest = self._clock(), _digest(name)
        with self._database.writing() as connection:
            connection.execute(sql.delete(_tries).where(_tries.c.at <= now - MINUTE_S))
            of_name = sql.select(sql.func.count(), sql.func.min(_tries.c.at)).where(_tries.c.digest == digest)
            n_tries, first = connection.execute(of_name).one()
            if n_tries >= TRIES_A_MINUTE:
                wait_s = max(1, round(first + MINUTE_S - now))
                raise SignInRefused(
                    f"there were {n_tries} tries with this name within a minute, the limit is {TRIES_A_MINUTE}: "
                    f"try again in {wait_s} seconds"
                )
            connection.execute(sql.insert(_tries).values(digest=digest, at=now))

    def _fits(self, hashed: str, password: str) -> bool:
        with _hashing:
            try:
                return self._hasher.verify(hashed, password.encode("utf-8", "surrogatepass"))
            except (VerificationError, InvalidHashError):
                return False

    def _hashed(self, password: str, name: str) -> str:
        if len(password) < LEAST_PASSWORD:
            raise BadInput(
                f"the password has {len(password)} characters, the least is {LEAST_PASSWORD}: take a longer one"
            )
        if len(password) > MOST_PASSWORD:
            raise BadInput(f"the password has {len(password)} characters, the limit is {MOST_PASSWORD}: shorten it")
        if folded(password) == name:
            raise BadInput("the password is the name itself: take another")
        with _hashing:
            return self._hasher.hash(password.encode("utf-8", "surrogatepass"))

    def _known(self, name: str) -> str:
        found = self.person(name)
        if found is None:
            raise BadInput(f"there is no person {name!r}: `python -m rag people list` names those there are")
        return found.name


def folded(name: str) -> str:
    """A name as it is compared.

    >>> folded(" Ann@Example.org ")
    'ann@example.org'
    """
    return unicodedata.normalize("NFKC", name).strip().casefold()


def checked_person(name: str) -> str:
    """The name as it is kept. Raises BadInput for an empty or too long one, or characters that can't be seen."""
    checked = folded(name)
    if not checked:
        raise BadInput("a person needs a name: type one, such as an e-mail address")
    if len(checked) > NAME_CHARACTERS:
        raise BadInput(f"the name has {len(checked)} characters, the limit is {NAME_CHARACTERS}: shorten it")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") for character in checked):
        raise BadInput(f"the name {checked!r} has characters that can't be seen: type it anew")
    return checked


def _row(connection: Connection, name: str) -> Mapping[Any, Any] | None:
    return connection.execute(sql.select(_people).where(_people.c.name == name)).mappings().first()


def _person(row: Mapping[Any, Any]) -> Person:
    return Person(row["name"], bool(row["is_admin"]), bool(row["password"]), row["created_at"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
