"""Traces and labels in a database through SQLAlchemy: a SQLite file by default, PostgreSQL by its URL.

It decides nothing about questions and draws no conclusions from labels.

A passage is kept once for all the questions that recalled it. The numbers that floor replay needs stand in columns of
their own, so that thousands of questions are replayed without a passage being read. One writer at a time: whoever
writes locks the row of the schema's version first, which SQLite does by its nature.

Measured with 100 of the samples' 455 passages a question, at random: a question takes 8.3 kB in SQLite, 9.3 kB with the
prompt and reply of an LLM, and 9 ms of a CPU core to keep; the numbers of 400 are read in 11 ms.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection

from rag.engines.database import Damaged, Database, Purpose, checked_url
from rag.errors import BadInput, TracesUnavailable
from rag.trace_json import chunk_as_json, chunk_from_json, pack, place_after_rerank, quoted_chunks, unpack
from rag.types import (
    Answer,
    Chunk,
    EngineInfo,
    Failure,
    Label,
    Refusal,
    StoredTrace,
    Trace,
    TraceSummary,
    Verdict,
)

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
RETENTION_EVERY_S = 3600.0
"""How often traces are looked through for their age."""
EVICTED_SHARE = 0.1
"""What part of the most that are kept makes room at a time, the oldest: so that most questions delete nothing."""
AT_A_TIME = 500
"""Values in one statement: SQLite takes 999 at least."""
TRACES_AT_A_TIME = 20

DELETED_TITLE = "(deleted document)"
DELETED_ANSWER = "(The answer rested on a document that was deleted since, and is no longer kept.)"
DELETED_NOTE = "A document that the answer could rest on was deleted since: its words are no longer kept."

_RIGHT_FOR = {"wrongly_refused": "refusal", "good_answer": "answer", "bad_answer": "answer"}
"""Which outcome a verdict on an outcome can be of."""

PURPOSE = Purpose("the traces", "RANK37_TRACES_URL", TracesUnavailable, or_else=", or keep none with RANK37_TRACES=off")

_tables = sql.MetaData()

_schema = sql.Table("trace_schema", _tables, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False))

_traces = sql.Table(
    "traces",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("id", sql.String(64), nullable=False, unique=True),
    sql.Column("asked", sql.Double, nullable=False, comment="seconds since 1970, UTC"),
    sql.Column("asked_at", sql.String(40), nullable=False),
    sql.Column("collection", sql.String(64), nullable=False),
    sql.Column("question", sql.Text, nullable=False),
    sql.Column("query", sql.Text, nullable=False),
    sql.Column("floor", sql.Double, nullable=False),
    sql.Column("answer_limit", sql.Integer, nullable=False),
    sql.Column("outcome", sql.String(16), nullable=False),
    sql.Column("reason", sql.String(64), nullable=False),
    sql.Column("scores", sql.LargeBinary, nullable=False, comment="float64 in rank order, NaN: none"),
    sql.Column("recall_ranks", sql.LargeBinary, nullable=False, comment="int32 in rank order"),
    sql.Column("timings_ms", sql.Text, nullable=False),
    sql.Column("engines", sql.Integer, nullable=False),
    sql.Column(
        "passages", sql.LargeBinary, nullable=False, comment="int32: numbers of the passages, as body names them"
    ),
    sql.Column("quoted", sql.LargeBinary, nullable=False, comment="int32: those whose words may stand in the body"),
    sql.Column("body", sql.LargeBinary(2**32 - 1), nullable=False, comment="zlib of JSON, see rag.trace_json"),
    sql.Column("feedback", sql.Text, nullable=False),
    sql.Index("traces_by_age", "asked", "number"),
)

_passages = sql.Table(
    "trace_passages",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("digest", sql.String(64), nullable=False, unique=True),
    sql.Column("collection", sql.String(64), nullable=False),
    sql.Column("document_id", sql.String(64), nullable=False),
    sql.Column("is_deleted", sql.Boolean, nullable=False),
    sql.Column("body", sql.LargeBinary(2**32 - 1), nullable=False, comment="zlib of a chunk's JSON"),
    sql.Index("trace_passages_by_document", "document_id"),
)

_engines = sql.Table(
    "trace_engines",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("digest", sql.String(64), nullable=False, unique=True),
    sql.Column("body", sql.Text, nullable=False),
)

_labels = sql.Table(
    "trace_labels",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("trace_id", sql.String(64), nullable=False),
    sql.Column("chunk_id", sql.String(64), nullable=False, comment="empty: the outcome"),
    sql.Column("collection", sql.String(64), nullable=False),
    sql.Column("document_id", sql.String(64), nullable=False),
    sql.Column("question", sql.Text, nullable=False),
    sql.Column("verdict", sql.String(32), nullable=False),
    sql.Column("passage", sql.Text),
    sql.Column("rank", sql.Integer),
    sql.Column("score", sql.Double),
    sql.Column("given", sql.Double, nullable=False),
    sql.Column("given_at", sql.String(40), nullable=False),
    sql.UniqueConstraint("trace_id", "chunk_id"),
)

_LABEL_NUMBERS = [column for column in _labels.columns if column.name != "passage"]
_SUMMARY = [column for column in _traces.columns if column.name not in ("passages", "quoted", "body", "feedback")]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long traces are kept. Labels outlive it: they were given on purpose."""

    days: float = 0.0
    """0: for ever."""
    limit: int = 0
    """Most traces kept, all collections together; 0: no limit."""


class SqlTraceStore:
    """The store in one database. Safe to use from several threads, and together with other processes."""

    def __init__(self, url: URL, retention: Retention, clock: Callable[[], float]) -> None:
        self._retention = retention
        self._clock = clock
        self._aged_at = float("-inf")
        self._database = Database(url, PURPOSE, _tables, _schema, SCHEMA_VERSION)

    @classmethod
    def open_file(
        cls, path: Path, retention: Retention | None = None, *, clock: Callable[[], float] = time.time
    ) -> Self:
        """Open a SQLite file, made if it is not there. Raises TracesUnavailable."""
        return cls.open(URL.create("sqlite", database=str(path)), retention, clock=clock)

    @classmethod
    def open(
        cls, url: str | URL, retention: Retention | None = None, *, clock: Callable[[], float] = time.time
    ) -> Self:
        """Open the database, made ready by whoever comes first.

        Args:
            url: A SQLAlchemy URL. A password in it is never shown.
            retention: None: everything is kept.
            clock: Seconds since 1970.

        Raises:
            BadInput: The URL is none, or its driver is not installed.
            TracesUnavailable: The database can't be opened, is damaged, or was made by a newer version.
        """
        store = cls(checked_url(url, PURPOSE), retention or Retention(), clock)
        try:
            store._database.make_ready()
            store._let_go_of_old()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def where(self) -> str:
        """The file, or the URL without its password."""
        return self._database.where

    def close(self) -> None:
        """Close all connections. Idempotent; a later use opens them again."""
        self._database.close()

    def add(self, trace: Trace, outcome: Answer | Refusal | Failure, *, collection: str) -> None:
        """Keep a question; see `TraceStore.add`."""
        packed = pack(trace, outcome)
        engines = packed.body["trace"].pop("engines")
        ranked = trace.ranked
        scores = [np.nan if one.score is None else one.score for one in ranked]
        with self._database.writing() as connection:
            connection.execute(sql.delete(_traces).where(_traces.c.id == trace.id))
            numbers = _number_of_passages(connection, packed.chunks, collection)
            quoted = quoted_chunks(trace, outcome)
            connection.execute(
                sql.insert(_traces).values(
                    id=trace.id,
                    asked=_asked(trace, self._clock),
                    asked_at=trace.asked_at,
                    collection=collection,
                    question=_storable(trace.question),
                    query=_storable(trace.query),
                    floor=trace.floor,
                    answer_limit=trace.answer_limit,
                    outcome=_kind(outcome),
                    reason=_reason(outcome),
                    scores=np.array(scores, "<f8").tobytes(),
                    recall_ranks=np.array([one.candidate.rank for one in ranked], "<i4").tobytes(),
                    timings_ms=json.dumps(dict(trace.timings_ms)),
                    engines=_number_of_engines(connection, engines),
                    passages=_as_bytes(numbers[chunk] for chunk in packed.chunks),
                    quoted=_as_bytes(numbers[chunk] for chunk in packed.chunks if chunk in quoted),
                    body=_zipped(packed.body),
                    feedback="",
                )
            )
            self._retain(connection)

    def trace(self, trace_id: str) -> StoredTrace | None:
        """One question with everything that was kept of it, or None."""
        with self._database.reading() as connection:
            row = connection.execute(sql.select(_traces).where(_traces.c.id == trace_id)).mappings().first()
            return _whole(connection, [row])[0] if row else None

    def traces(
        self, *, collection: str | None = None, since: str | None = None, limit: int | None = None
    ) -> Iterator[StoredTrace]:
        """Whole traces, newest first; those deleted meanwhile are left out."""
        with self._database.reading() as connection:
            numbers = list(connection.execute(_chosen([_traces.c.number], collection, since, limit)).scalars())
        for some in _in_portions(numbers, TRACES_AT_A_TIME):
            with self._database.reading() as connection:
                found = connection.execute(_newest_first(sql.select(_traces).where(_traces.c.number.in_(some))))
                stored = _whole(connection, found.mappings().all())
            yield from stored

    def summaries(
        self, *, collection: str | None = None, since: str | None = None, limit: int | None = None
    ) -> list[TraceSummary]:
        """The numbers of traces, newest first: no passage is read."""
        with self._database.reading() as connection:
            rows = connection.execute(_chosen(_SUMMARY, collection, since, limit)).mappings().all()
            engines = _engines_by_number(connection, {row["engines"] for row in rows})
            wanted = sql.select(*_LABEL_NUMBERS).order_by(_labels.c.number)
            if collection is not None:
                wanted = wanted.where(_labels.c.collection == collection)
            labels: dict[str, list[Label]] = {}
            for row in connection.execute(wanted).mappings():
                labels.setdefault(row["trace_id"], []).append(_label(row))
        return [
            TraceSummary(
                id=row["id"],
                asked_at=row["asked_at"],
                collection=row["collection"],
                question=row["question"],
                floor=row["floor"],
                answer_limit=row["answer_limit"],
                outcome=row["outcome"],
                reason=row["reason"],
                scores=_scores(row["scores"]),
                recall_ranks=tuple(_numbers(row["recall_ranks"])),
                timings_ms=json.loads(row["timings_ms"]),
                engines=engines[row["engines"]],
                labels=tuple(labels.get(row["id"], ())),
            )
            for row in rows
        ]

    def count(self, *, collection: str | None = None) -> int:
        """Number of traces kept."""
        with self._database.reading() as connection:
            return _count(connection, collection)

    def label(self, trace_id: str, verdict: Verdict, *, chunk_id: str | None = None) -> Label:
        """Note a judgement; see `TraceStore.label`."""
        stored = self.trace(trace_id)
        if stored is None:
            raise BadInput(
                f"there is no trace {trace_id!r} to label: `python -m rag traces list` names those there are"
            )
        label, document_id = _judged(stored, verdict, chunk_id, self._clock())
        with self._database.writing() as connection:
            connection.execute(sql.delete(_labels).where(*_same_label(trace_id, chunk_id)))
            connection.execute(
                sql.insert(_labels).values(
                    trace_id=trace_id,
                    chunk_id=chunk_id or "",
                    collection=stored.collection,
                    document_id=document_id,
                    question=_storable(label.question),
                    verdict=verdict,
                    passage=None if label.passage is None else _storable(label.passage),
                    rank=label.rank,
                    score=label.score,
                    given=self._clock(),
                    given_at=label.given_at,
                )
            )
        return label

    def unlabel(self, trace_id: str, *, chunk_id: str | None = None) -> None:
        """Take a judgement back, if there is one."""
        with self._database.writing() as connection:
            connection.execute(sql.delete(_labels).where(*_same_label(trace_id, chunk_id)))

    def labels(self, *, collection: str | None = None) -> list[Label]:
        """All judgements with the passages that they are about, in the order in which they were given."""
        wanted = sql.select(_labels).order_by(_labels.c.number)
        if collection is not None:
            wanted = wanted.where(_labels.c.collection == collection)
        with self._database.reading() as connection:
            return [_label(row) for row in connection.execute(wanted).mappings()]

    def write_feedback(self, trace_id: str, feedback: str) -> None:
        """Keep a person's remark in place of the earlier one. Raises BadInput for an unknown trace."""
        with self._database.writing() as connection:
            change = sql.update(_traces).where(_traces.c.id == trace_id).values(feedback=_storable(feedback))
            if connection.execute(change).rowcount == 0:
                raise BadInput(f"there is no trace {trace_id!r} to write feedback to")

    def delete(self, trace_id: str) -> bool:
        """Delete one trace with its labels; False where there is none."""
        with self._database.deleting() as connection:
            n_labels = connection.execute(sql.delete(_labels).where(_labels.c.trace_id == trace_id)).rowcount
            n_traces = connection.execute(sql.delete(_traces).where(_traces.c.id == trace_id)).rowcount
            _sweep(connection)
        return n_labels + n_traces > 0

    def delete_before(self, moment: str, *, collection: str | None = None) -> int:
        """Delete traces asked before a time with their labels, and labels given before it."""
        before = _seconds(moment)
        return self._delete_where(_traces.c.asked < before, _labels.c.given < before, collection)

    def delete_all(self, *, collection: str | None = None) -> int:
        """Delete all traces and all labels; returns the number of traces."""
        return self._delete_where(sql.true(), sql.true(), collection)

    def forget_document(self, document_id: str, *, collection: str) -> int:
        """Remove a document's words; see `TraceStore.forget_document`."""
        of_document = (_passages.c.document_id == document_id, _passages.c.collection == collection)
        with self._database.deleting() as connection:
            connection.execute(
                sql.delete(_labels).where(_labels.c.document_id == document_id, _labels.c.collection == collection)
            )
            rows = connection.execute(sql.select(_passages).where(*of_document, _passages.c.is_deleted.is_(False)))
            found = rows.mappings().all()
            for row in found:
                bare = replace(_chunk(row["body"]), title=DELETED_TITLE, heading=None, text="")
                # Another digest: should the document come again, its passages are not these.
                connection.execute(
                    sql.update(_passages)
                    .where(_passages.c.number == row["number"])
                    .values(is_deleted=True, digest=f"deleted {row['number']}", body=_zipped(chunk_as_json(bare)))
                )
            deleted = {row["number"] for row in found}
            in_collection = sql.select(_traces.c.number, _traces.c.passages, _traces.c.quoted).where(
                _traces.c.collection == collection
            )
            rows_of_traces = connection.execute(in_collection).all()
            touched = [one for one in rows_of_traces if not deleted.isdisjoint(_numbers(one.passages))]
            for one in touched:
                if not deleted.isdisjoint(_numbers(one.quoted)):
                    _forget_words(connection, one.number, document_id)
        return len(touched)

    def _delete_where(
        self, of_traces: sql.ColumnElement[bool], of_labels: sql.ColumnElement[bool], collection: str | None
    ) -> int:
        if collection is not None:
            of_traces &= _traces.c.collection == collection
            of_labels &= _labels.c.collection == collection
        with self._database.deleting() as connection:
            theirs = _labels.c.trace_id.in_(sql.select(_traces.c.id).where(of_traces))
            connection.execute(sql.delete(_labels).where(of_labels | theirs))
            n_traces = connection.execute(sql.delete(_traces).where(of_traces)).rowcount
            _sweep(connection)
        return n_traces

    def _retain(self, connection: Connection) -> None:
        """Let go of the traces past their time, or too many; a transaction that writes is open."""
        n_deleted = 0
        now = self._clock()
        if self._retention.days and now >= self._aged_at + RETENTION_EVERY_S:
            too_old = sql.delete(_traces).where(_traces.c.asked < now - self._retention.days * 86400)
            n_deleted += connection.execute(too_old).rowcount
            self._aged_at = now
        limit = self._retention.limit
        if limit and (n_kept := _count(connection, None)) > limit:
            n_excess = n_kept - limit + int(limit * EVICTED_SHARE)
            oldest = sql.select(_traces.c.number).order_by(_traces.c.asked, _traces.c.number).limit(n_excess)
            numbers = list(connection.execute(oldest).scalars())
            for some in _in_portions(numbers, AT_A_TIME):
                n_deleted += connection.execute(sql.delete(_traces).where(_traces.c.number.in_(some))).rowcount
        if n_deleted:
            _sweep(connection)

    def _let_go_of_old(self) -> None:
        """What is past its time goes at the start as well: perhaps nothing is asked for long."""
        if not self._retention.days:
            return
        before = self._clock() - self._retention.days * 86400
        with self._database.reading() as connection:
            is_due = connection.execute(sql.select(_traces.c.number).where(_traces.c.asked < before).limit(1)).first()
        if is_due:
            try:
                with self._database.deleting() as connection:
                    self._retain(connection)
            except TracesUnavailable as error:  # they can be read all the same
                log.warning("traces older than %g days are still there: %s", self._retention.days, error)


def _number_of_passages(connection: Connection, chunks: Sequence[Chunk], collection: str) -> dict[Chunk, int]:
    """The numbers of passages, those not yet kept included."""
    bodies = {chunk: chunk_as_json(chunk) for chunk in chunks}
    digests = {chunk: _digest([collection, body]) for chunk, body in bodies.items()}
    known = _numbers_by_digest(connection, _passages, digests.values())
    missing = {digests[chunk]: chunk for chunk in chunks if digests[chunk] not in known}
    if missing:
        rows = [
            {
                "digest": digest,
                "collection": collection,
                "document_id": chunk.document_id,
                "is_deleted": False,
                "body": _zipped(bodies[chunk]),
            }
            for digest, chunk in missing.items()
        ]
        connection.execute(sql.insert(_passages), rows)
        known |= _numbers_by_digest(connection, _passages, missing)
    return {chunk: known[digest] for chunk, digest in digests.items()}


def _number_of_engines(connection: Connection, engines: list[dict[str, Any]]) -> int:
    digest = _digest(engines)
    known = _numbers_by_digest(connection, _engines, [digest])
    if not known:
        connection.execute(sql.insert(_engines).values(digest=digest, body=json.dumps(engines)))
        known = _numbers_by_digest(connection, _engines, [digest])
    return known[digest]


def _numbers_by_digest(connection: Connection, table: sql.Table, digests: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in _in_portions(list(dict.fromkeys(digests)), AT_A_TIME):
        rows = connection.execute(sql.select(table.c.digest, table.c.number).where(table.c.digest.in_(some)))
        found.update((row.digest, row.number) for row in rows)
    return found


def _engines_by_number(connection: Connection, numbers: Iterable[int]) -> dict[int, tuple[EngineInfo, ...]]:
    bodies: dict[int, str] = {}
    for some in _in_portions(sorted(numbers), AT_A_TIME):
        rows = connection.execute(sql.select(_engines.c.number, _engines.c.body).where(_engines.c.number.in_(some)))
        bodies.update((row.number, row.body) for row in rows)
    return {number: tuple(EngineInfo(**info) for info in json.loads(body)) for number, body in bodies.items()}


def _whole(connection: Connection, rows: Sequence[Mapping[Any, Any]]) -> list[StoredTrace]:
    """The traces of these rows, in their order."""
    of_trace = {row["id"]: _numbers(row["passages"]) for row in rows}
    chunks: dict[int, Chunk] = {}
    for some in _in_portions(sorted({number for numbers in of_trace.values() for number in numbers}), AT_A_TIME):
        found = connection.execute(sql.select(_passages.c.number, _passages.c.body).where(_passages.c.number.in_(some)))
        chunks.update((row.number, _chunk(row.body)) for row in found)
    engines = _engines_by_number(connection, {row["engines"] for row in rows})
    wanted = sql.select(_labels).where(_labels.c.trace_id.in_(list(of_trace))).order_by(_labels.c.number)
    labels = [_label(row) for row in connection.execute(wanted).mappings()]
    stored = []
    for row in rows:
        try:
            body = _unzipped(row["body"])
            body["trace"]["engines"] = [asdict(info) for info in engines[row["engines"]]]
            trace, outcome = unpack(body, [chunks[number] for number in of_trace[row["id"]]])
        except (KeyError, BadInput) as error:
            raise Damaged(f"trace {row['id']}: {error}") from None
        of_it = tuple(label for label in labels if label.trace_id == trace.id)
        stored.append(StoredTrace(trace, outcome, row["collection"], row["feedback"], of_it))
    return stored


def _forget_words(connection: Connection, number: int, document_id: str) -> None:
    """Remove from one trace what can repeat a document's words: its passages are without texts by now."""
    row = connection.execute(sql.select(_traces).where(_traces.c.number == number)).mappings().one()
    stored = _whole(connection, [row])[0]
    outcome = stored.outcome
    if isinstance(outcome, Answer):
        citations = tuple(
            replace(one, quote="") if one.chunk.document_id == document_id else one for one in outcome.citations
        )
        outcome = replace(outcome, text=DELETED_ANSWER, citations=citations)
    notes = tuple(note for note in stored.trace.notes if note != DELETED_NOTE)
    packed = pack(replace(stored.trace, prompt=(), reply="", notes=(*notes, DELETED_NOTE)), outcome)
    packed.body["trace"].pop("engines")
    connection.execute(sql.update(_traces).where(_traces.c.number == number).values(body=_zipped(packed.body)))


def _sweep(connection: Connection) -> None:
    """Delete the passages and engines that no trace names any more."""
    used: set[int] = set()
    for blob in connection.execute(sql.select(_traces.c.passages)).scalars():
        used.update(_numbers(blob))
    unused = [number for number in connection.execute(sql.select(_passages.c.number)).scalars() if number not in used]
    for some in _in_portions(unused, AT_A_TIME):
        connection.execute(sql.delete(_passages).where(_passages.c.number.in_(some)))
    connection.execute(sql.delete(_engines).where(_engines.c.number.not_in(sql.select(_traces.c.engines))))


def _judged(stored: StoredTrace, verdict: Verdict, chunk_id: str | None, now: float) -> tuple[Label, str]:
    """The label, and the id of the document that it is about. Raises BadInput for what does not fit."""
    trace = stored.trace
    kind = _kind(stored.outcome)
    needed = _RIGHT_FOR.get(verdict)
    if verdict in ("right", "wrong"):
        if chunk_id is None:
            raise BadInput(f"{verdict!r} is said of a passage: name its chunk")
    elif needed is None:
        raise BadInput(f"{verdict!r} is no verdict: right, wrong, {', '.join(_RIGHT_FOR)} are")
    elif kind != needed:
        raise BadInput(f"{verdict!r} is said of a question that ended in {needed}: this one ended in {kind}")
    elif chunk_id is not None and verdict != "wrongly_refused":
        raise BadInput(f"{verdict!r} is said of the whole answer: name no chunk")
    label = Label(trace.id, trace.query, verdict, _iso(now), chunk_id)
    if chunk_id is None:
        return label, ""
    candidate = next((one for one in trace.candidates if one.chunk.id == chunk_id), None)
    if candidate is None:
        raise BadInput(f"chunk {chunk_id!r} was not recalled for this question: label one of its passages")
    if not candidate.chunk.text:
        raise BadInput("the document of this passage was deleted: it can't be labelled any more")
    ranked = place_after_rerank(trace, chunk_id)
    rank, score = (ranked.rank, ranked.score) if ranked else (None, None)
    return replace(label, passage=candidate.chunk.passage, rank=rank, score=score), candidate.chunk.document_id


def _label(row: Mapping[Any, Any]) -> Label:
    return Label(
        trace_id=row["trace_id"],
        question=row["question"],
        verdict=cast(Verdict, row["verdict"]),
        given_at=row["given_at"],
        chunk_id=row["chunk_id"] or None,
        passage=row.get("passage"),
        rank=row["rank"],
        score=row["score"],
    )


def _same_label(trace_id: str, chunk_id: str | None) -> tuple[sql.ColumnElement[bool], sql.ColumnElement[bool]]:
    return _labels.c.trace_id == trace_id, _labels.c.chunk_id == (chunk_id or "")


def _chosen(
    columns: Sequence[sql.Column[Any]], collection: str | None, since: str | None, limit: int | None
) -> sql.Select[Any]:
    wanted = sql.select(*columns)
    if collection is not None:
        wanted = wanted.where(_traces.c.collection == collection)
    if since is not None:
        wanted = wanted.where(_traces.c.asked >= _seconds(since))
    return _newest_first(wanted if limit is None else wanted.limit(limit))


def _newest_first(wanted: sql.Select[Any]) -> sql.Select[Any]:
    return wanted.order_by(_traces.c.asked.desc(), _traces.c.number.desc())


def _count(connection: Connection, collection: str | None) -> int:
    wanted = sql.select(sql.func.count()).select_from(_traces)
    if collection is not None:
        wanted = wanted.where(_traces.c.collection == collection)
    return int(connection.execute(wanted).scalar_one())


def _kind(outcome: Answer | Refusal | Failure) -> str:
    return {Answer: "answer", Refusal: "refusal", Failure: "failure"}[type(outcome)]


def _reason(outcome: Answer | Refusal | Failure) -> str:
    match outcome:
        case Answer():
            return outcome.kind
        case Refusal():
            return outcome.reason
        case Failure():
            return outcome.error[:64]


def _asked(trace: Trace, clock: Callable[[], float]) -> float:
    try:
        return _seconds(trace.asked_at)
    except BadInput:
        return clock()


def _seconds(moment: str) -> float:
    """Seconds since 1970 of a time in ISO 8601; UTC where it names no zone. Raises BadInput.

    >>> _seconds("1970-01-02"), _seconds("1970-01-01T01:00:00+01:00")
    (86400.0, 0.0)
    """
    try:
        read = datetime.fromisoformat(moment)
    except ValueError:
        raise BadInput(f"{moment!r} is no time: write it like 2026-01-31 or 2026-01-31T12:00:00+00:00") from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _storable(text: str) -> str:
    """The text without what a text column refuses: NUL and halves of surrogate pairs. The body has it as it was."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _zipped(value: object) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode())


def _unzipped(blob: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(zlib.decompress(blob))
    except (zlib.error, ValueError) as error:
        raise Damaged(str(error)) from None
    return value


def _chunk(blob: bytes) -> Chunk:
    try:
        return chunk_from_json(_unzipped(blob))
    except BadInput as error:
        raise Damaged(str(error)) from None


def _as_bytes(numbers: Iterable[int]) -> bytes:
    return np.fromiter(numbers, "<i4").tobytes()


def _numbers(blob: bytes) -> list[int]:
    numbers: list[int] = np.frombuffer(blob, "<i4").tolist()
    return numbers


def _scores(blob: bytes) -> tuple[float | None, ...]:
    return tuple(None if score != score else score for score in np.frombuffer(blob, "<f8").tolist())


def _in_portions(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
