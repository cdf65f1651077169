"""What both Qdrant engines share: the schema, values as points, and the life of a document from `begin` to `publish`.

It doesn't know how points are stored and searched: that is a `PointStore`, one for Qdrant Edge and one for a server.

A collection holds three kinds of points, told apart by the payload field `kind`:

    collection   one, without vectors: the embedder that made the collection, and the version of this schema
    document     one a document, without vectors: the `StoredDocument`, and its state
    chunk        one a chunk, with a dense and a sparse (BM25) vector

The state in the document's record alone decides whether its chunks are recalled: `ingesting` -> `ready` -> `deleting`.
Chunks carry no such flag, so publishing is the write of *one* point, which happens or doesn't, however many chunks the
document has and wherever the process is killed:

- Before that write, the chunks are there and hidden; ingestion continues from them (`chunk_ids`).
- The write that publishes a document marks the documents it replaces as `deleting` in the same operation, so at every
  moment one version is searchable, not both and not neither.
- A document marked `deleting` is already gone for every reader. What is left of it after a crash is deleted when the
  collection is next opened.

Recall excludes the documents that are not `ready` by id. Usually there are none, and the search runs without a filter.
A filter on a flag in each chunk costs far more: over 20,000 chunks (Qdrant Edge, two CPU cores) the p50 of a hybrid
search is 1.7 ms without a filter, 2.6 ms excluding a document by id, and 56 ms with `live = true`.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from qdrant_edge import Bm25, Bm25Config

from rag.errors import CollectionDamaged, CollectionError, EmbedderMismatch
from rag.ports import Optimizable, Vector, Vectors
from rag.recall import RRF_CONSTANT
from rag.types import Candidate, Chunk, Document, EmbedderIdentity, EngineInfo, PageSpan, StoredDocument

DENSE = "dense"
SPARSE = "sparse"
INDEXED_FIELDS = ("kind", "document_id")
"""Payload fields with a keyword index."""

BATCH_POINTS = 256
"""Most points of one write and of one page of a read: Qdrant Edge holds Python's lock during each."""

SCHEMA_VERSION = 1
"""Changes whenever points of an older version can't be read or searched together with new ones; the parameters of
`bm25` are part of it."""

QDRANT_RRF_CONSTANT = RRF_CONSTANT + 1
"""What Qdrant calls k. It computes 1 / (k + rank - 1) for the 1-based rank, where the paper (and `RRF_CONSTANT`) has
1 / (k + rank).

Source: https://github.com/qdrant/qdrant/blob/master/lib/segment/src/common/reciprocal_rank_fusion.rs"""

RECALL_ROUNDS = 10
"""How often a recall starts again because documents appear or vanish under it."""

Kind = Literal["collection", "document", "chunk"]
Payload = dict[str, Any]
SparseWeights = tuple[list[int], list[float]]
"""Term numbers and their weights, of equal length."""
Hit = tuple[str, Payload, float]
"""Point id, payload and score of a chunk that a search found."""

_NAMESPACE = uuid.UUID("7f6e6d0b-6f0d-5d2e-9a37-37a1b5c0d037")
COLLECTION_POINT_ID = str(uuid.uuid5(_NAMESPACE, "collection"))

_bm25 = Bm25(Bm25Config(language="english", ascii_folding=True))

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class NewPoint:
    """A point to be written."""

    id: str
    """A UUID."""
    payload: Payload
    dense: list[float] | None = None
    sparse: SparseWeights | None = None
    """None where the point has no vector, or its text no BM25 term."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which points are meant: all conditions hold."""

    kind: Kind | None = None
    within: frozenset[str] | None = None
    """Only points of these documents; None: of all."""
    without: frozenset[str] = frozenset()
    """No points of these documents."""


class PointStore(Protocol):
    """The primitive operations of a Qdrant engine on one collection. Safe to call from several threads.

    Every method raises what the port `Index` allows, never an engine's own error.
    """

    def write(self, points: Sequence[NewPoint], *, only_new: bool = False) -> None:
        """Insert or replace at most `BATCH_POINTS` points in one operation. With `only_new`, present ones stay."""
        ...

    def delete(self, point_ids: Sequence[str]) -> None:
        """Delete at most `BATCH_POINTS` points by id in one operation."""
        ...

    def delete_selected(self, selection: Selection) -> None:
        """Delete points by filter in one operation."""
        ...

    def read(self, point_ids: Sequence[str]) -> dict[str, Payload]:
        """Payloads by point id, without the ids that are not there."""
        ...

    def scan(self, selection: Selection, *, with_payload: bool = True) -> Iterator[tuple[str, Payload]]:
        """All selected points, page by page, in no particular order."""
        ...

    def count(self, selection: Selection) -> int:
        """Exact number of selected points."""
        ...

    def search(
        self, dense: list[float], sparse: SparseWeights | None, selection: Selection, *, limit: int
    ) -> list[Hit]:
        """Reciprocal rank fusion of the best `limit` of each search: all of the union, best first, ties in any order.

        `selection.kind` is not looked at: only chunks have vectors.
        """
        ...

    def flush(self) -> None:
        """Make all writes durable."""
        ...

    def close(self) -> None:
        """Release the collection. Idempotent."""
        ...


class QdrantIndex:
    """The port `Index` over a `PointStore`. Subclasses say how a collection is opened.

    Several threads may call it at once; writers of one process take turns. Over a server, several processes may share a
    collection: what another one publishes or deletes shows at the next call.
    """

    def __init__(self, store: PointStore, collection: str, embedder: EmbedderIdentity, info: EngineInfo) -> None:
        """Check that the collection belongs to `embedder` (writing its record if new) and finish interrupted deletions.

        Raises:
            EmbedderMismatch: Another embedder made the collection.
            CollectionDamaged: It holds points but no readable record of its embedder.
            CollectionError: It was made by an incompatible version of this program.
        """
        self._store = store
        self._collection = collection
        self._embedder = embedder
        self._info = info
        self._writing = threading.RLock()
        # Documents last seen unready. Only a hint that saves a second search: every recall verifies it.
        self._hidden: frozenset[str] = frozenset()
        self._watched: dict[int, set[str]] = {}
        """What was published since, for each search under way."""

        self._check_collection_record()
        for payload in self._document_payloads():
            document_id = _text(payload, "document_id")
            if payload.get("state") == "deleting":
                self._delete_points_of(document_id)
            elif payload.get("state") != "ready":
                self._hidden |= {document_id}

    @property
    def info(self) -> EngineInfo:
        """Name and version of the engine, and where it sends data."""
        return self._info

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self._collection

    @property
    def embedder(self) -> EmbedderIdentity:
        """The embedder that the collection was made with."""
        return self._embedder

    @property
    def optimizable(self) -> Optimizable | None:
        """None: a Qdrant server optimizes by itself."""
        return None

    def documents(self) -> list[StoredDocument]:
        """All documents, ready and unfinished, by title and then id."""
        stored = [document_of(payload) for payload in self._document_payloads() if payload.get("state") != "deleting"]
        return sorted(stored, key=lambda item: (item.document.title, item.document.id))

    def document(self, document_id: str) -> StoredDocument | None:
        """One document, or None."""
        payload = self._read_record(document_id)
        return None if payload is None or payload.get("state") == "deleting" else document_of(payload)

    def begin_document(self, stored: StoredDocument) -> None:
        """Register a document in state `ingesting`. Again for the same id: its record is overwritten, chunks stay."""
        document_id = stored.document.id
        with self._writing:
            self._hidden |= {document_id}
            record = self._read_record(document_id)
            if record is not None and record.get("state") == "deleting":
                self._delete_points_of(document_id)
            self._store.write([document_point(dataclasses.replace(stored, state="ingesting"))])

    def chunk_ids(self, document_id: str) -> set[str]:
        """Ids of the chunks already written for a document, published or not."""
        return {point_id for point_id, _ in self._store.scan(_chunks_of(document_id), with_payload=False)}

    def add_chunks(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Write chunks with their dense vectors, replacing those of the same id; not searchable yet.

        Raises:
            CollectionError: The document is not in state `ingesting`: it was never begun, or deleted meanwhile.
            ValueError: `vectors` is not finite and of shape `(n_chunks, dimension)`.
        """
        self._check_vectors(vectors, (len(chunks), self._embedder.dimension))
        with self._writing:
            for document_id in sorted({chunk.document_id for chunk in chunks}):
                self._check_being_ingested(document_id)
            for batch in _batches(list(zip(chunks, vectors, strict=True))):
                self._store.write([chunk_point(chunk, vector) for chunk, vector in batch])

    def publish_document(self, stored: StoredDocument, *, replaces: Sequence[str] = ()) -> None:
        """Make the document searchable (state `ready`) and only then delete the documents `replaces`. Durable.

        Raises:
            CollectionError: The document was never begun, or deleted meanwhile.
        """
        document_id = stored.document.id
        with self._writing:
            self._check_being_ingested(document_id, or_ready=True)
            replaced = self._store.read([record_id(old_id) for old_id in set(replaces) - {document_id}])
            points = [document_point(dataclasses.replace(stored, state="ready"))]
            points += [NewPoint(point_id, payload | {"state": "deleting"}) for point_id, payload in replaced.items()]
            old_ids = [_text(payload, "document_id") for payload in replaced.values()]
            for published in list(self._watched.values()):
                published.add(document_id)
            self._store.write(points)
            self._hidden = (self._hidden | frozenset(old_ids)) - {document_id}
            self._store.flush()
            for old_id in old_ids:
                self._delete_points_of(old_id)

    def delete_document(self, document_id: str) -> int:
        """Delete a document and its chunks; returns the number of chunks deleted. Unknown id: 0."""
        with self._writing:
            n_chunks = self._store.count(_chunks_of(document_id))
            record = self._read_record(document_id)
            if record is not None:
                self._hidden |= {document_id}
                self._store.write([NewPoint(record_id(document_id), record | {"state": "deleting"})])
            if record is not None or n_chunks:
                self._delete_points_of(document_id)
                self._store.flush()
            return n_chunks

    def delete_chunks(self, chunk_ids: Sequence[str]) -> None:
        """Delete chunks by id (left over from an interrupted run with other chunking)."""
        with self._writing:
            for batch in _batches(chunk_ids):
                self._store.delete(batch)

    def chunks(self, document_id: str) -> list[Chunk]:
        """The chunks of a document in order of position."""
        chunks = [chunk_of(point_id, payload) for point_id, payload in self._store.scan(_chunks_of(document_id))]
        return sorted(chunks, key=lambda chunk: (chunk.position, chunk.id))

    def count_chunks(self) -> int:
        """Number of searchable chunks."""
        states = {_text(payload, "document_id"): payload.get("state") for payload in self._document_payloads()}
        unready = frozenset(document_id for document_id, state in states.items() if state != "ready")
        return self._store.count(Selection("chunk", without=unready))

    def recall(
        self, query: str, vector: Vector, *, limit: int, document_ids: Sequence[str] | None = None
    ) -> list[Candidate]:
        """The best `limit` chunks of published documents, by reciprocal rank fusion of dense and BM25 search.

        The score is the sum over both searches of 1 / (`RRF_CONSTANT` + rank), with the 1-based ranks among the best
        `limit` of each. Equal scores are ordered by document id and position.

        Args:
            query: The words for BM25; without a usable term (stop words, emoji), dense search alone decides.
            vector: The embedded query, `(dimension,)`.
            limit: Most candidates.
            document_ids: Restricts the search to those documents (None: all; empty: none).

        Raises:
            ValueError: `vector` is not finite and of shape `(dimension,)`.
        """
        self._check_vectors(vector, (self._embedder.dimension,))
        if limit < 1:
            return []
        dense, sparse = vector.tolist(), query_weights(query)
        asked = None if document_ids is None else frozenset(document_ids)
        if asked == frozenset():
            return []
        hits: list[Hit] = []
        unready: frozenset[str] = frozenset()
        for _ in range(RECALL_ROUNDS):
            hidden = self._hidden
            selection = Selection(without=hidden) if asked is None else Selection(within=asked - hidden)
            with self._watching() as published:
                nothing = selection.within == frozenset()
                hits = [] if nothing else self._store.search(dense, sparse, selection, limit=limit)
                # Read after the search, so that a document that was begun or deleted under it is seen as such here.
                looked_at = hidden | {_text(payload, "document_id") for _, payload, _ in hits}
                unready = self._unready(looked_at)
            if unready == hidden and not published & looked_at:  # the search may have seen a part of what was published
                break
            self._hidden = (self._hidden | unready) - (looked_at - unready)
        ready = sorted((hit for hit in hits if hit[1]["document_id"] not in unready), key=_best_first)
        return [
            Candidate(chunk_of(point_id, payload), rank, score)
            for rank, (point_id, payload, score) in enumerate(ready[:limit], start=1)
        ]

    @contextmanager
    def _watching(self) -> Iterator[set[str]]:
        """The documents that this process publishes while the block runs."""
        published: set[str] = set()
        self._watched[id(published)] = published
        try:
            yield published
        finally:
            del self._watched[id(published)]

    def flush(self) -> None:
        """Make everything written so far durable."""
        self._store.flush()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """While the block runs, all that was written is on disk and nothing more is: for a copy of the folder."""
        with self._writing:
            self._store.flush()
            yield

    def close_when_unused(self, then: Callable[[], None]) -> Callable[[], object]:
        """Close it once nobody refers to it any more, and call `then`; what is returned does both at once."""
        return weakref.finalize(self, _close_then, self._store.close, then)

    def close(self) -> None:
        """Release the collection. Idempotent."""
        with self._writing:
            self._store.close()

    def _check_collection_record(self) -> None:
        record = self._store.read([COLLECTION_POINT_ID]).get(COLLECTION_POINT_ID)
        if record is None:
            n_points = self._store.count(Selection())
            if n_points:
                raise CollectionDamaged(
                    f"collection {self._collection!r} holds {n_points} points but no record of the embedder that made "
                    "them, so it is another program's, or damaged: choose another collection (RANK37_COLLECTION), or "
                    "make the index again from the kept original files (`python -m rag rebuild`)"
                )
            self._store.write([collection_point(self._embedder)], only_new=True)
            self._store.flush()
            # Read back: over a server, another process may have been faster.
            record = self._store.read([COLLECTION_POINT_ID]).get(COLLECTION_POINT_ID, {})
        version = record.get("schema_version")
        if version != SCHEMA_VERSION:
            raise CollectionError(
                f"collection {self._collection!r} has schema version {version}, this program reads {SCHEMA_VERSION}: "
                "ingest into another collection (RANK37_COLLECTION)"
            )
        made_with = _identity_of(record)
        if made_with != self._embedder:
            raise EmbedderMismatch(mismatch_message(self._collection, made_with, self._embedder))

    def _document_payloads(self) -> list[Payload]:
        return [payload for _, payload in self._store.scan(Selection("document"))]

    def _read_record(self, document_id: str) -> Payload | None:
        point_id = record_id(document_id)
        return self._store.read([point_id]).get(point_id)

    def _unready(self, document_ids: Iterable[str]) -> frozenset[str]:
        """Those without a record in state `ready`."""
        point_ids = {record_id(document_id): document_id for document_id in document_ids}
        records: dict[str, Payload] = {}
        for batch in _batches(list(point_ids)):
            records |= self._store.read(batch)
        return frozenset(
            document_id
            for point_id, document_id in point_ids.items()
            if records.get(point_id, {}).get("state") != "ready"
        )

    def _delete_points_of(self, document_id: str) -> None:
        """Delete the chunks of a document that no reader sees any more, and its record last: until then, it's known."""
        self._store.delete_selected(_chunks_of(document_id))
        self._store.delete([record_id(document_id)])
        self._hidden -= {document_id}

    def _check_being_ingested(self, document_id: str, *, or_ready: bool = False) -> None:
        state = (self._read_record(document_id) or {}).get("state")
        if state != "ingesting" and not (or_ready and state == "ready"):
            raise CollectionError(
                f"document {document_id} of collection {self._collection!r} is not being ingested "
                f"(its state: {state or 'not there'}): it was deleted meanwhile, or never begun; ingest the file again"
            )

    def _check_vectors(self, vectors: Vector | Vectors, shape: tuple[int, ...]) -> None:
        if vectors.shape != shape or not np.isfinite(vectors).all():
            raise ValueError(f"vectors must be finite and of shape {shape}, not {vectors.shape}")


def _close_then(close: Callable[[], None], then: Callable[[], None]) -> None:
    close()
    then()


def document_weights(text: str) -> SparseWeights | None:
    """BM25 term weights of a passage; the inverse document frequency is Qdrant's part. None: no usable term."""
    weights = _bm25.embed_document(_encodable(text))
    return (weights.indices, weights.values) if weights.indices else None


def query_weights(text: str) -> SparseWeights | None:
    """BM25 terms of a query, of weight 1 each. None: no usable term, as in stop words or emoji."""
    weights = _bm25.embed_query(_encodable(text))
    return (weights.indices, weights.values) if weights.indices else None


def record_id(document_id: str) -> str:
    """Point id of a document's record."""
    return str(uuid.uuid5(_NAMESPACE, f"document {document_id}"))


def chunk_point(chunk: Chunk, vector: Vector) -> NewPoint:
    """A chunk as a point. Its sparse vector is of `Chunk.passage`, so that title and heading are found by word."""
    payload = {
        "kind": "chunk",
        "document_id": chunk.document_id,
        "title": chunk.title,
        "heading": chunk.heading,
        "text": chunk.text,
        "spans": [[span.page, span.start, span.end] for span in chunk.spans],
        "position": chunk.position,
        "n_tokens": chunk.n_tokens,
    }
    return NewPoint(chunk.id, payload, vector.tolist(), document_weights(chunk.passage))


def chunk_of(point_id: str, payload: Mapping[str, Any]) -> Chunk:
    """The chunk that `chunk_point` made a point of. Raises CollectionDamaged."""
    try:
        return Chunk(
            id=point_id,
            document_id=payload["document_id"],
            title=payload["title"],
            heading=payload["heading"],
            text=payload["text"],
            spans=tuple(PageSpan(*span) for span in payload["spans"]),
            position=payload["position"],
            n_tokens=payload["n_tokens"],
        )
    except (KeyError, TypeError) as error:
        raise _unreadable("chunk", point_id, error) from error


def document_point(stored: StoredDocument) -> NewPoint:
    """A document's record as a point without vectors."""
    document = stored.document
    payload = {
        "kind": "document",
        "document_id": document.id,
        "title": document.title,
        "source": document.source,
        "page_count": document.page_count,
        "state": stored.state,
        "n_chunks": stored.n_chunks,
        "pages_without_text": list(stored.pages_without_text),
        "warnings": list(stored.warnings),
        "ingested_at": stored.ingested_at,
        "seconds": stored.seconds,
        "file_kind": stored.kind,
        "size_bytes": stored.size_bytes,
        "ocr_pages": list(stored.ocr_pages),
    }
    return NewPoint(record_id(document.id), payload)


def document_of(payload: Mapping[str, Any]) -> StoredDocument:
    """The record that `document_point` made a point of. Raises CollectionDamaged."""
    try:
        return StoredDocument(
            document=Document(
                id=payload["document_id"],
                title=payload["title"],
                source=payload["source"],
                page_count=payload["page_count"],
            ),
            state="ready" if payload["state"] == "ready" else "ingesting",
            n_chunks=payload["n_chunks"],
            pages_without_text=tuple(payload["pages_without_text"]),
            warnings=tuple(payload["warnings"]),
            ingested_at=payload["ingested_at"],
            seconds=payload["seconds"],
            kind=payload.get("file_kind", "pdf"),  # records of earlier versions lack these three
            size_bytes=payload.get("size_bytes", 0),
            ocr_pages=tuple(payload.get("ocr_pages", ())),
        )
    except (KeyError, TypeError) as error:
        raise _unreadable("document", str(payload.get("document_id")), error) from error


def collection_point(embedder: EmbedderIdentity) -> NewPoint:
    """The collection's record: the embedder that makes it and the version of this schema."""
    payload = {"kind": "collection", "schema_version": SCHEMA_VERSION, "embedder": dataclasses.asdict(embedder)}
    return NewPoint(COLLECTION_POINT_ID, payload)


def mismatch_message(collection: str, made_with: EmbedderIdentity, embedder: EmbedderIdentity) -> str:
    """What a person reads when a collection meets another embedder. Revisions appear where only they differ.

    >>> mismatch_message("manuals", EmbedderIdentity("minilm", "", 384), EmbedderIdentity("bge-m3", "", 1024))
    "collection 'manuals' was made with minilm (384); this run embeds with bge-m3 (1024): re-ingest into another \
collection, or set RANK37_EMBEDDER=minilm"
    """
    alike = (made_with.name, made_with.dimension) == (embedder.name, embedder.dimension)

    def described(identity: EmbedderIdentity) -> str:
        revision = f", revision {identity.revision or 'unknown'}" if alike else ""
        return f"{identity.name} ({identity.dimension}{revision})"

    setting = "RANK37_EMBEDDER_REVISION or RANK37_EMBEDDER" if alike else f"RANK37_EMBEDDER={made_with.name}"
    return (
        f"collection {collection!r} was made with {described(made_with)}; this run embeds with {described(embedder)}: "
        f"re-ingest into another collection, or set {setting}"
    )


def _identity_of(record: Mapping[str, Any]) -> EmbedderIdentity:
    try:
        return EmbedderIdentity(**record["embedder"])
    except (KeyError, TypeError) as error:
        raise _unreadable("collection", COLLECTION_POINT_ID, error) from error


def _unreadable(kind: Kind, name: str, error: Exception) -> CollectionDamaged:
    return CollectionDamaged(
        f"the record of {kind} {name} can't be read ({error!r}): make the index again from the kept original files "
        "(`python -m rag rebuild`), or restore a backup (`python -m rag restore FILE`)"
    )


def _text(payload: Mapping[str, Any], field: str) -> str:
    value = payload.get(field)
    if not isinstance(value, str):
        raise _unreadable("document", repr(value), TypeError(f"{field} is no text"))
    return value


def _best_first(hit: Hit) -> tuple[float, str, int, str]:
    """Sort key: by score, and equal scores by document and position, so that no two runs or engines differ."""
    point_id, payload, score = hit
    return -score, payload["document_id"], payload.get("position", 0), point_id


def _chunks_of(document_id: str) -> Selection:
    return Selection("chunk", within=frozenset([document_id]))


def _encodable(text: str) -> str:
    """Without lone surrogates, which the engine can't take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), BATCH_POINTS):
        yield items[start : start + BATCH_POINTS]
