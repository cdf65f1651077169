"""Chats and their questions, in a database through SQLAlchemy: what was asked, in which order, and with which trace.

It keeps no answers: those are with the traces, and go when those go.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection

from rag.engines.database import Database, Purpose
from rag.errors import BadInput, LibraryUnavailable
from rag.types import Chat, ChatCard, ChatQuestion

SCHEMA_VERSION = 1
PURPOSE = Purpose("the chats", "RANK37_DATABASE_URL", LibraryUnavailable)
TITLE_CHARACTERS = 120
"""Longest title; a longer question is cut at a word."""

_tables = sql.MetaData()

_schema = sql.Table("chat_schema", _tables, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False))

_chats = sql.Table(
    "chats",
    _tables,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("title", sql.Text, nullable=False),
    sql.Column("collection", sql.String(63), nullable=False),
    sql.Column("owner", sql.String(320), nullable=False, comment="empty: no one signed in"),
    sql.Column("created_at", sql.String(40), nullable=False),
    sql.Column("changed_at", sql.String(40), nullable=False),
    sql.Index("chats_by_change", "changed_at"),
)

_questions = sql.Table(
    "chat_questions",
    _tables,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("chat", sql.String(32), nullable=False),
    sql.Column("position", sql.Integer, nullable=False, comment="0-based, with gaps where questions were dropped"),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("document_ids", sql.Text, nullable=False, comment="JSON; an empty list: all documents"),
    sql.Column("trace_id", sql.String(64), nullable=False, comment="empty: none"),
    sql.UniqueConstraint("chat", "position"),
)


class SqlChatStore:
    """The chats in one database. Safe to use from several threads, and together with other processes."""

    def __init__(self, where: str | URL | Path) -> None:
        """Open it: a URL, or a SQLite file. Raises BadInput for a URL that is none, LibraryUnavailable."""
        self._database = Database.open(where, PURPOSE, _tables, _schema, SCHEMA_VERSION)

    def chats(
        self, *, owner: str | None = None, collection: str | None = None, words: str = "", limit: int | None = None
    ) -> list[ChatCard]:
        """The chats last asked first; see `ChatStore.chats`."""
        wanted = sql.select(_chats).order_by(_chats.c.changed_at.desc(), _chats.c.id)
        if owner is not None:
            wanted = wanted.where(_chats.c.owner == owner)
        if collection is not None:
            wanted = wanted.where(_chats.c.collection == collection)
        for word in words.split():
            asked = sql.exists().where(
                _questions.c.chat == _chats.c.id, _questions.c.text.icontains(word, autoescape=True)
            )
            wanted = wanted.where(_chats.c.title.icontains(word, autoescape=True) | asked)
        with self._database.reading() as connection:
            return [ChatCard(**row) for row in connection.execute(wanted.limit(limit)).mappings()]

    def chat(self, chat_id: str) -> Chat | None:
        """One chat with its questions, or None."""
        of_it = sql.select(_questions).where(_questions.c.chat == chat_id).order_by(_questions.c.position)
        with self._database.reading() as connection:
            row = connection.execute(sql.select(_chats).where(_chats.c.id == chat_id)).mappings().first()
            questions = [] if row is None else connection.execute(of_it).mappings().all()
        return None if row is None else Chat(ChatCard(**row), tuple(map(_question, questions)))

    def owner_of_trace(self, trace_id: str) -> str | None:
        """Whose chat the question of a trace stands in; None where it stands in none."""
        wanted = (
            sql.select(_chats.c.owner)
            .join(_questions, _questions.c.chat == _chats.c.id)
            .where(_questions.c.trace_id == trace_id)
            .limit(1)
        )
        with self._database.reading() as connection:
            owner: str | None = connection.execute(wanted).scalar() if trace_id else None
        return owner

    def begin(self, question: str, *, collection: str, owner: str = "") -> ChatCard:
        """Make a chat without questions, called after the one that it will begin with."""
        now = _now()
        card = ChatCard(uuid.uuid4().hex, title_of(question), collection, owner, now, now)
        with self._database.writing() as connection:
            row = {column.name: getattr(card, column.name) for column in _chats.columns}
            connection.execute(sql.insert(_chats).values(row))
        return card

    def add_question(self, chat_id: str, text: str, *, document_ids: Sequence[str] = ()) -> ChatQuestion:
        """Put a question at the end of a chat. Raises BadInput where the chat was deleted."""
        question = ChatQuestion(uuid.uuid4().hex, text, tuple(document_ids))
        with self._database.writing() as connection:
            self._touch(connection, chat_id, changed_at=_now())
            last = sql.select(sql.func.max(_questions.c.position)).where(_questions.c.chat == chat_id)
            highest = connection.execute(last).scalar()
            row = {
                "id": question.id,
                "chat": chat_id,
                "position": 0 if highest is None else highest + 1,
                "text": text,
                "document_ids": json.dumps(question.document_ids),
                "trace_id": "",
            }
            connection.execute(sql.insert(_questions).values(row))
        return question

    def set_trace(self, question_id: str, trace_id: str) -> None:
        """Note which trace tells what came of a question; one that was dropped meanwhile stays dropped."""
        with self._database.writing() as connection:
            of_it = sql.update(_questions).where(_questions.c.id == question_id)
            connection.execute(of_it.values(trace_id=trace_id))

    def drop_from(self, chat_id: str, question_id: str) -> int:
        """Take a question and all later ones out of a chat; returns how many went."""
        with self._database.deleting() as connection:
            first = connection.execute(
                sql.select(_questions.c.position).where(_questions.c.id == question_id, _questions.c.chat == chat_id)
            ).scalar()
            if first is None:
                return 0
            of_it = sql.delete(_questions).where(_questions.c.chat == chat_id, _questions.c.position >= first)
            return connection.execute(of_it).rowcount

    def rename(self, chat_id: str, title: str) -> None:
        """Give a chat another title. Raises BadInput for an empty one, and where the chat was deleted."""
        title = " ".join(title.split())
        if not title:
            raise BadInput("a chat needs a title: type one")
        if len(title) > TITLE_CHARACTERS:
            raise BadInput(f"the title has {len(title)} characters, the limit is {TITLE_CHARACTERS}: shorten it")
        with self._database.writing() as connection:
            self._touch(connection, chat_id, title=title)

    def delete(self, chat_id: str) -> bool:
        """Delete a chat; False if there is none."""
        return bool(self._delete(_chats.c.id == chat_id))

    def delete_all(self, *, collection: str) -> int:
        """Delete the chats of a collection; returns how many."""
        return self._delete(_chats.c.collection == collection)

    def close(self) -> None:
        """Release the database. Idempotent."""
        self._database.close()

    def _delete(self, which: sql.ColumnElement[bool]) -> int:
        with self._database.deleting() as connection:
            chosen = sql.select(_chats.c.id).where(which)
            connection.execute(sql.delete(_questions).where(_questions.c.chat.in_(chosen)))
            return connection.execute(sql.delete(_chats).where(which)).rowcount

    def _touch(self, connection: Connection, chat_id: str, **values: str) -> None:
        if not connection.execute(sql.update(_chats).where(_chats.c.id == chat_id).values(values)).rowcount:
            raise BadInput("this chat was deleted meanwhile: begin a new one")


def title_of(question: str) -> str:
    r"""A chat's title from its first question: on one line, cut at a word.

    >>> title_of("How long is \n the waiting period?")
    'How long is the waiting period?'
    >>> title_of("word " * 40)[-11:], len(title_of("x" * 500))
    ('word word …', 120)
    """
    title = " ".join(question.split())
    if len(title) <= TITLE_CHARACTERS:
        return title
    cut = title[: TITLE_CHARACTERS - 1]
    return f"{cut.rsplit(' ', 1)[0]} …" if " " in cut.rstrip() else f"{cut}…"


def _question(row: Mapping[Any, Any]) -> ChatQuestion:
    return ChatQuestion(row["id"], row["text"], tuple(json.loads(row["document_ids"])), row["trace_id"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
