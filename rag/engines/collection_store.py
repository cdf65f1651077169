"""Which collections there are, what they are called and whose they are: in a database through SQLAlchemy.

It holds no document and opens no index. A collection's key is its folder and its name in Qdrant, and never changes; its
title is what people read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection

from rag.engines.database import Database, Purpose
from rag.errors import BadInput, LibraryUnavailable
from rag.types import CollectionCard

SCHEMA_VERSION = 1
PURPOSE = Purpose("the list of collections", "RANK37_DATABASE_URL", LibraryUnavailable)

_tables = sql.MetaData()

_schema = sql.Table(
    "collection_schema", _tables, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False)
)

_collections = sql.Table(
    "collections",
    _tables,
    sql.Column("key", sql.String(63), primary_key=True),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("owner", sql.String(320), nullable=False, comment="empty: no one's, open to everyone"),
    sql.Column("created_at", sql.String(40), nullable=False),
)

_members = sql.Table(
    "collection_members",
    _tables,
    sql.Column("key", sql.ForeignKey("collections.key", ondelete="CASCADE"), primary_key=True),
    sql.Column("member", sql.String(320), primary_key=True),
)


class SqlCollectionStore:
    """The list in one database. Safe to use from several threads, and together with other processes."""

    def __init__(self, where: str | URL | Path) -> None:
        """Open it: a URL, or a SQLite file. Raises BadInput for a URL that is none, LibraryUnavailable."""
        self._database = Database.open(where, PURPOSE, _tables, _schema, SCHEMA_VERSION)

    def cards(self) -> list[CollectionCard]:
        """All collections, by title and then key."""
        with self._database.reading() as connection:
            rows = connection.execute(sql.select(_collections)).mappings().all()
            members = _members_of(connection)
        cards = [_card(row, members.get(row["key"], ())) for row in rows]
        return sorted(cards, key=lambda card: (card.title.casefold(), card.key))

    def card(self, key: str) -> CollectionCard | None:
        """One collection, or None."""
        return next((card for card in self.cards() if card.key == key), None)

    def add(self, key: str, title: str, *, owner: str = "") -> CollectionCard:
        """Note a collection; one that is known already stays as it is."""
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        with self._database.writing() as connection:
            known = connection.execute(sql.select(_collections.c.key).where(_collections.c.key == key)).first()
            if known is None:
                row = {"key": key, "title": title, "owner": owner, "created_at": created_at}
                connection.execute(sql.insert(_collections).values(row))
        return self._known(key)

    def rename(self, key: str, title: str) -> CollectionCard:
        """Give a collection another title. Raises BadInput for an unknown key."""
        self._known(key)
        with self._database.writing() as connection:
            connection.execute(sql.update(_collections).where(_collections.c.key == key).values(title=title))
        return self._known(key)

    def share(self, key: str, *, owner: str, members: Sequence[str]) -> CollectionCard:
        """Set whose it is and who else may use it. Raises BadInput for an unknown key."""
        self._known(key)
        with self._database.writing() as connection:
            connection.execute(sql.update(_collections).where(_collections.c.key == key).values(owner=owner))
            connection.execute(sql.delete(_members).where(_members.c.key == key))
            rows = [{"key": key, "member": member} for member in dict.fromkeys(members) if member != owner]
            if rows:
                connection.execute(sql.insert(_members), rows)
        return self._known(key)

    def remove(self, key: str) -> bool:
        """Take a collection off the list; False if it was not on it."""
        with self._database.writing() as connection:
            connection.execute(sql.delete(_members).where(_members.c.key == key))
            return bool(connection.execute(sql.delete(_collections).where(_collections.c.key == key)).rowcount)

    def close(self) -> None:
        """Release the database. Idempotent."""
        self._database.close()

    def _known(self, key: str) -> CollectionCard:
        card = self.card(key)
        if card is None:
            raise BadInput(f"there is no collection {key!r}: it may have been deleted; choose another")
        return card


def _members_of(connection: Connection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in connection.execute(sql.select(_members).order_by(_members.c.member)).mappings():
        found.setdefault(row["key"], []).append(row["member"])
    return found


def _card(row: Mapping[Any, Any], members: Sequence[str]) -> CollectionCard:
    return CollectionCard(row["key"], row["title"], row["owner"], tuple(members), row["created_at"])
