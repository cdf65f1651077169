"""API keys in a database through SQLAlchemy: whose they are, and a hash by which a key is known again.

A key itself is shown once, when it is made, and kept nowhere. What a key may do is not decided here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import URL

from rag.engines.database import Database, Purpose
from rag.errors import BadInput, LibraryUnavailable
from rag.types import ApiKey

SCHEMA_VERSION = 1
PURPOSE = Purpose("the API keys", "RANK37_DATABASE_URL", LibraryUnavailable)

NAME_CHARACTERS = 60
"""Longest name of a key."""
PERSON_CHARACTERS = 320
"""Longest name of a person: an e-mail address fits."""
SECRET_BYTES = 32
"""Randomness of a key: so much can't be guessed, so one round of SHA-256 is enough to hide it."""

_KEY = re.compile(r"r37-(?P<id>[0-9a-f]{12})-[A-Za-z0-9_-]{43}")

_tables = sql.MetaData()

_schema = sql.Table("key_schema", _tables, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False))

_keys = sql.Table(
    "api_keys",
    _tables,
    sql.Column("id", sql.String(12), primary_key=True),
    sql.Column("name", sql.String(60), nullable=False, unique=True),
    sql.Column("person", sql.String(320), nullable=False, comment="empty: no one's, open to everything"),
    sql.Column("digest", sql.String(64), nullable=False, comment="SHA-256 of the whole key"),
    sql.Column("created_at", sql.String(40), nullable=False),
    sql.Column("revoked_at", sql.String(40), nullable=False, comment="empty: in force"),
)


class SqlKeyStore:
    """The keys in one database. Safe to use from several threads, and together with other processes."""

    def __init__(self, where: str | URL | Path) -> None:
        """Open it: a URL, or a SQLite file. Raises BadInput for a URL that is none, LibraryUnavailable."""
        self._database = Database.open(where, PURPOSE, _tables, _schema, SCHEMA_VERSION)

    def create(self, name: str, *, person: str = "") -> tuple[ApiKey, str]:
        """Make a key; see `KeyStore.create`."""
        name = _checked(name, "name", NAME_CHARACTERS)
        person = _checked(person, "person", PERSON_CHARACTERS, empty=True)
        key_id = secrets.token_hex(6)
        text = f"r37-{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
        key = ApiKey(key_id, name, person, datetime.now(UTC).isoformat(timespec="seconds"))
        with self._database.writing() as connection:
            if connection.execute(sql.select(_keys.c.id).where(_keys.c.name == name)).first() is not None:
                raise BadInput(f"there is a key {name!r} already: take another name, or forget that one first")
            connection.execute(
                sql.insert(_keys).values(
                    id=key.id,
                    name=key.name,
                    person=key.person,
                    digest=_digest(text),
                    created_at=key.created_at,
                    revoked_at="",
                )
            )
        return key, text

    def listed(self) -> list[ApiKey]:
        """All keys, revoked ones too, by name."""
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(sql.select(_keys).order_by(_keys.c.name)).mappings()]

    def exist(self) -> bool:
        """Whether any key was made and not forgotten: then callers need one."""
        with self._database.reading() as connection:
            return connection.execute(sql.select(_keys.c.id).limit(1)).first() is not None

    def find(self, text: str) -> ApiKey | None:
        """The key in force that this is, or None. Compared in constant time."""
        parts = _KEY.fullmatch(text)
        if parts is None:
            return None
        with self._database.reading() as connection:
            row = connection.execute(sql.select(_keys).where(_keys.c.id == parts["id"])).mappings().first()
        if row is None or not hmac.compare_digest(row["digest"], _digest(text)) or row["revoked_at"]:
            return None
        return _key(row)

    def revoke(self, name: str) -> ApiKey:
        """Let a key open nothing from now on. Raises BadInput for an unknown name."""
        key = self._named(name)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._database.writing() as connection:
            in_force = sql.update(_keys).where(_keys.c.id == key.id, _keys.c.revoked_at == "")
            connection.execute(in_force.values(revoked_at=now))
        return self._named(name)

    def forget(self, name: str) -> None:
        """Take a key off the list; it opens nothing from now on. Raises BadInput for an unknown name."""
        key = self._named(name)
        with self._database.writing() as connection:
            connection.execute(sql.delete(_keys).where(_keys.c.id == key.id))

    def close(self) -> None:
        """Release the database. Idempotent."""
        self._database.close()

    def _named(self, name: str) -> ApiKey:
        key = next((key for key in self.listed() if key.name == name), None)
        if key is None:
            raise BadInput(f"there is no key {name!r}: `python -m rag keys list` names those there are")
        return key


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(value: str, what: str, limit: int, *, empty: bool = False) -> str:
    value = value.strip()
    if not value and not empty:
        raise BadInput(f"a key needs a {what}: type one")
    if len(value) > limit:
        raise BadInput(f"the {what} of the key has {len(value)} characters, the limit is {limit}: shorten it")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") for character in value):
        raise BadInput(f"the {what} {value!r} has characters that can't be seen: type it anew")
    return value


def _key(row: Mapping[Any, Any]) -> ApiKey:
    return ApiKey(row["id"], row["name"], row["person"], row["created_at"], row["revoked_at"])
