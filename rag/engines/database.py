"""A database through SQLAlchemy, as the stores use one: opened, made ready, its failures told as errors for a person.

It knows no table: those are the stores'. A SQLite file by default, PostgreSQL by its URL. One writer at a time: whoever
writes locks the row of the schema's version first, which SQLite does by its nature.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from rag.errors import BadInput, Rank37Error

BUSY_LIMIT_S = 5.0
"""Longest wait for another process that writes, and for a connection to a server."""
STATEMENT_LIMIT_S = 30
"""Longest wait for a server to do one thing."""


class Damaged(Exception):
    """What the database holds was not written by this program."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a database is for, in the words of its errors."""

    what: str
    """Such as `the traces`."""
    setting: str
    """The variable that names another database."""
    unavailable: type[Rank37Error]
    """The error of a database that can't be opened, read or written."""
    or_else: str = ""
    """A further remedy, put after `name another database with ...`."""


class Database:
    """Tables of one purpose in one database. Safe to use from several threads, and together with other processes."""

    def __init__(self, url: URL, purpose: Purpose, tables: sql.MetaData, schema: sql.Table, version: int) -> None:
        """Describe it; nothing is opened yet.

        Args:
            url: As `checked_url` gives it.
            purpose: For the errors.
            tables: All tables of the purpose, `schema` among them.
            schema: The table whose only row holds the version of the others, in a column `version`.
            version: The version that this program reads and writes.
        """
        self._url = url
        self._purpose = purpose
        self._tables = tables
        self._schema = schema
        self._version = version
        self._engine = _engine(url, purpose)
        self._writer = self._engine.execution_options(rank37_writes=True)

    @classmethod
    def open(
        cls, where: str | URL | Path, purpose: Purpose, tables: sql.MetaData, schema: sql.Table, version: int
    ) -> Self:
        """Open it and make its tables if there are none; a path names a SQLite file, made if it is not there.

        Raises: BadInput for a URL that is none, the purpose's error where it can't be opened.
        """
        url = URL.create("sqlite", database=str(where)) if isinstance(where, Path) else where
        database = cls(checked_url(url, purpose), purpose, tables, schema, version)
        try:
            database.make_ready()
        except BaseException:
            database.close()
            raise
        return database

    @property
    def where(self) -> str:
        """The file, or the URL without its password."""
        if self._url.get_backend_name() == "sqlite":
            return str(self._url.database)
        return self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections. Idempotent; a later use opens them again."""
        self._engine.dispose()

    def make_ready(self) -> None:
        """Make the tables if there are none; those of a newer version are refused. Raises the purpose's error."""
        with self._errors("opened"):
            if self._url.get_backend_name() == "sqlite" and self._url.database:
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            self._prepare()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._errors("read"), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, alone."""
        with self._errors("written"), self._writer.begin() as connection:
            self._check_version(connection, locking=True)  # one writer at a time
            yield connection

    @contextmanager
    def deleting(self) -> Iterator[Connection]:
        """Writing, after which what was deleted is not in the file any more."""
        with self.writing() as connection:
            yield connection
        if self._url.get_backend_name() == "sqlite":
            with suppress(SQLAlchemyError), self._engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                # A script: `execute` would take one step of it, which frees one page.
                raw.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")

    def _prepare(self) -> None:
        for attempt in range(3):
            with self._engine.begin() as connection:
                if sql.inspect(connection).has_table(self._schema.name):
                    self._check_version(connection)
                    return
            try:
                with self._writer.begin() as connection:
                    if not sql.inspect(connection).has_table(self._schema.name):
                        self._tables.create_all(connection)
                        connection.execute(sql.insert(self._schema).values(version=self._version))
            except DBAPIError:  # two processes at once make tables: one of them fails on a server
                if attempt == 2 or self._url.get_backend_name() == "sqlite":
                    raise
                time.sleep(0.1)
        with self._engine.begin() as connection:
            self._check_version(connection)

    def _check_version(self, connection: Connection, *, locking: bool = False) -> None:
        wanted = sql.select(self._schema.c.version)
        version = connection.execute(wanted.with_for_update() if locking else wanted).scalar()
        if version == self._version:
            return
        what, setting = self._purpose.what, self._purpose.setting
        if isinstance(version, int) and version > self._version:
            raise self._purpose.unavailable(
                f"{what} in {self.where} were written by a newer version of Rank37 (their schema is {version}, "
                f"this version reads {self._version}): update Rank37, or name another database with {setting}"
            )
        raise self._purpose.unavailable(
            f"{what} in {self.where} are damaged (their schema is {version!r}, {self._version} is expected): "
            f"move that database away, a new one is made; or name another with {setting}"
        )

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """The database's failures as errors for a person: without statements, texts or a password."""
        try:
            yield
        except DBAPIError as error:
            raise self._purpose.unavailable(self._told(done, error.orig or error)) from None
        except (SQLAlchemyError, OSError, Damaged) as error:
            raise self._purpose.unavailable(self._told(done, error)) from None

    def _told(self, done: str, error: BaseException) -> str:
        reason = " ".join(str(error).split()) or type(error).__name__
        if self._url.password:
            reason = reason.replace(str(self._url.password), "***")
        damaged = isinstance(error, Damaged) or (
            isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        )
        if damaged:
            remedy = "the database is damaged: move it away, a new one is made"
        elif "locked" in reason:
            remedy = "another program holds it: try again"
        elif self._url.get_backend_name() == "sqlite":
            remedy = "see that its folder can be written and the disk has room"
        else:
            remedy = "see that the server runs and lets this user in"
        comma = "," if self._purpose.or_else else ", or"
        return (
            f"{self._purpose.what} in {self.where} can't be {done} ({reason}): {remedy}{comma} name another database "
            f"with {self._purpose.setting}{self._purpose.or_else}"
        )


def checked_url(url: str | URL, purpose: Purpose) -> URL:
    """The URL, with the driver that is tested. Raises BadInput, which never shows the URL: it may hold a password."""
    try:
        checked = make_url(url)
    except ArgumentError:
        raise BadInput(
            f"{purpose.setting} is no database URL: it should be like sqlite:////folder/file.sqlite or "
            "postgresql://user:password@host/database"
        ) from None
    if checked.drivername in ("postgres", "postgresql"):
        checked = checked.set(drivername="postgresql+psycopg")
    if checked.get_backend_name() == "sqlite" and checked.database in (None, "", ":memory:"):
        raise BadInput(f"{purpose.setting} names a database in memory, which keeps nothing: name a file")
    return checked


def _engine(url: URL, purpose: Purpose) -> Engine:
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": BUSY_LIMIT_S}
    else:
        options["pool_pre_ping"] = True
    if url.drivername == "postgresql+psycopg":
        limits = f"-c statement_timeout={STATEMENT_LIMIT_S * 1000} -c lock_timeout={int(BUSY_LIMIT_S * 1000)}"
        options["connect_args"] = {"connect_timeout": int(BUSY_LIMIT_S), "options": limits}
    try:
        engine = sql.create_engine(url, **options)
    except ModuleNotFoundError as error:
        remedy = 'install it: `pip install "rank37[postgres]"`' if error.name == "psycopg" else "install it"
        raise BadInput(f"{purpose.setting} needs the package {error.name}, which is not installed: {remedy}") from None
    except (NoSuchModuleError, ArgumentError, TypeError, ValueError) as error:
        raise BadInput(
            f"{purpose.setting} can't be used: {type(error).__name__} for {url.render_as_string(hide_password=True)}"
        ) from None
    if url.get_backend_name() == "sqlite":
        sql.event.listen(engine, "connect", _made_ready)
        sql.event.listen(engine, "begin", _begun)
    return engine


def _made_ready(connection: sqlite3.Connection, _record: object) -> None:
    """A new connection to a SQLite file."""
    connection.isolation_level = None  # else Python decides where a transaction begins
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    deadline = time.monotonic() + BUSY_LIMIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            break
        except sqlite3.OperationalError as error:
            # SQLite doesn't wait for another process that turns a new file's log on.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA secure_delete = ON").fetchall()  # deleted text is overwritten, not just unlisted


def _begun(connection: Connection) -> None:
    """A transaction that writes waits for its turn at the start, where SQLite can wait."""
    writes = connection.get_execution_options().get("rank37_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
