"""Token vectors of passages as Qdrant multivectors, scored by the index with MaxSim: in a folder, or on a server.

They follow from the passages, so this is no part of a collection but a store beside it: what is lost or outdated is
computed again, and a store that another encoder filled starts anew. It doesn't encode anything.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from rag.engines.disk_room import check_room
from rag.errors import CollectionError, CollectionLocked, IndexUnavailable, Rank37Error
from rag.types import Passage

log = logging.getLogger(__name__)

TokenVectors = NDArray[np.float32]
"""`(n_tokens, dimension)`, float32, rows of unit length."""

TOKENS = "tokens"
"""Name of the multivector. Half precision: its rounding is far below what tells passages apart, its size is half."""

BATCH_POINTS = 16
"""A passage of 250 tokens in 384 dimensions is some megabyte of JSON, and a server takes 32."""

_NAMESPACE = uuid.UUID("b8a4b7f4-5f0c-5a0e-8d1f-3737a1c01be7")
_ENCODER_POINT = str(uuid.uuid5(_NAMESPACE, "encoder"))


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """What a store remembers of the model whose vectors it holds."""

    name: str
    revision: str
    dimension: int


class TokenStore(Protocol):
    """Token vectors by passage id. Safe to use from several threads."""

    def max_sim(self, query: TokenVectors, passages: Sequence[Passage]) -> dict[str, float]:
        """By passage id: the sum over the query's vectors of the greatest dot product with one of the passage's.

        Passages that are not stored, or whose text has changed since, are left out.
        """
        ...

    def write(self, passages: Sequence[Passage], vectors: Sequence[TokenVectors]) -> None:
        """Store vectors, replacing those of the same passage id. A passage without any is passed over."""
        ...

    def delete(self, passage_ids: Sequence[str]) -> None:
        """Forget passages; unknown ids are passed over."""
        ...

    def close(self) -> None:
        """Release the store. Idempotent."""
        ...


class EdgeTokenStore:
    """A `TokenStore` in a folder, by Qdrant Edge."""

    def __init__(self, folder: Path, encoder: EncoderIdentity | None) -> None:
        """Open it, or make a new one.

        Args:
            folder: Where it lies.
            encoder: Whose vectors it is to hold; another's are deleted. None: only to delete from what is there.

        Raises:
            CollectionLocked: It is open in another process, or twice in this one.
            CollectionError: It can't be read or written.
        """
        self._folder = folder
        self._closed = False
        check_room(folder, "token vectors")
        with self._translated():
            self._shard = self._opened(encoder)

    def max_sim(self, query: TokenVectors, passages: Sequence[Passage]) -> dict[str, float]:
        """As in `TokenStore`."""
        request = edge.QueryRequest(
            limit=max(len(passages), 1),
            query=edge.Query.Nearest(query.tolist(), using=TOKENS),
            filter=edge.Filter(must=[edge.HasIdCondition({_point_id(passage.id) for passage in passages})]),
            with_payload=True,
        )
        with self._translated():
            points = self._shard.query(request) if passages else []
        return _fresh(passages, {str(point.id): (point.payload or {}, point.score) for point in points})

    def write(self, passages: Sequence[Passage], vectors: Sequence[TokenVectors]) -> None:
        """As in `TokenStore`."""
        for batch in _batches(passages, vectors):
            points = [
                edge.Point(
                    id=_point_id(passage.id), vector={TOKENS: matrix.tolist()}, payload={"text": _text_hash(passage)}
                )
                for passage, matrix in batch
            ]
            check_room(self._folder, "token vectors", to_write_bytes=sum(matrix.nbytes for _, matrix in batch) * 2)
            with self._translated():
                self._shard.update(edge.UpdateOperation.upsert_points(points))

    def delete(self, passage_ids: Sequence[str]) -> None:
        """As in `TokenStore`."""
        with self._translated():
            if passage_ids:
                ids: list[Any] = [_point_id(passage_id) for passage_id in passage_ids]
                self._shard.update(edge.UpdateOperation.delete_points(ids))
                self._shard.flush()

    def close(self) -> None:
        """As in `TokenStore`."""
        if not self._closed:
            self._closed = True
            self._shard.close()

    def _opened(self, encoder: EncoderIdentity | None) -> edge.EdgeShard:
        if self._folder.exists():
            shard = self._loaded(or_none=encoder is not None)
            if encoder is None and shard is not None:
                return shard
            if encoder is not None and shard is not None:
                records = shard.retrieve([_ENCODER_POINT], True, False)
                if records and records[0].payload == _encoder_payload(encoder):
                    return shard
                log.warning("the token vectors in %s are another encoder's: they are made anew", self._folder)
                shard.close()
            shutil.rmtree(self._folder)
        if encoder is None:
            raise CollectionError(f"there are no token vectors in {self._folder}")
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        # Without a graph (m = 0): only the candidates of a question are ever scored, each exactly.
        parameters = edge.EdgeVectorParams(
            size=encoder.dimension,
            distance=edge.Distance.Dot,
            on_disk=True,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=edge.VectorStorageDatatype.Float16,
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10_000),
        )
        shard = edge.EdgeShard.create(
            str(self._folder), edge.EdgeConfig(vectors={TOKENS: parameters}, wal_enabled=True)
        )
        record = edge.Point(id=_ENCODER_POINT, vector={}, payload=_encoder_payload(encoder))
        shard.update(edge.UpdateOperation.upsert_points([record]))
        shard.flush()
        return shard

    def _loaded(self, *, or_none: bool) -> edge.EdgeShard | None:
        try:
            return edge.EdgeShard.load(str(self._folder))
        except BaseException as error:
            if not or_none or not _is_engine_error(error) or "WouldBlock" in str(error):
                raise
            log.warning("the token vectors in %s can't be read (%s): they are made anew", self._folder, error)
            return None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The engine raises plain `Exception`, and Rust panics (a `BaseException`)."""
        try:
            if self._closed:
                raise CollectionError(f"the token vectors in {self._folder} are closed: open them again")
            yield
        except Rank37Error:
            raise
        except BaseException as error:
            if not _is_engine_error(error):
                raise
            if "WouldBlock" in str(error):
                raise CollectionLocked(
                    f"the token vectors in {self._folder} are open in another process, or twice in this one: use the "
                    "running app, or share a Qdrant server between processes (set QDRANT_URL)"
                ) from error
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CollectionError(
                f"the token vectors in {self._folder} can't be used ({cause}): delete that folder, they are computed "
                "again"
            ) from error


class ServerTokenStore:
    """A `TokenStore` in a collection of its own on a Qdrant server, or in qdrant-client's local mode."""

    def __init__(self, client: QdrantClient, collection: str, encoder: EncoderIdentity | None) -> None:
        """Open it, or make a new one. `close` closes the client.

        Args:
            client: Connected to the server.
            collection: Name of the collection of token vectors.
            encoder: Whose vectors it is to hold; another's are deleted. None: only to delete from what is there.

        Raises:
            IndexUnavailable: The server is down, slow or answers nonsense.
            CollectionError: There is no such collection, and no encoder to make it for.
        """
        self._client = client
        self._collection = collection
        # Local mode is Python lists without locks; the remote client is safe by itself.
        self._taking_turns = threading.RLock() if client.init_options["location"] == ":memory:" else None
        with self._answered():
            self._open(encoder)

    @staticmethod
    def exists(client: QdrantClient, collection: str) -> bool:
        """Whether the server has such a collection. Raises IndexUnavailable."""
        try:
            return client.collection_exists(collection)
        except Exception as error:  # the client's errors have no common base
            raise _server_trouble(collection, error) from error

    def max_sim(self, query: TokenVectors, passages: Sequence[Passage]) -> dict[str, float]:
        """As in `TokenStore`."""
        if not passages:
            return {}
        with self._answered():
            points = self._client.query_points(
                self._collection,
                query=query.tolist(),
                using=TOKENS,
                query_filter=models.Filter(
                    must=[models.HasIdCondition(has_id=[_point_id(passage.id) for passage in passages])]
                ),
                limit=len(passages),
                with_payload=True,
            ).points
        return _fresh(passages, {str(point.id): (point.payload or {}, float(point.score)) for point in points})

    def write(self, passages: Sequence[Passage], vectors: Sequence[TokenVectors]) -> None:
        """As in `TokenStore`."""
        for batch in _batches(passages, vectors):
            points = [
                models.PointStruct(
                    id=_point_id(passage.id), vector={TOKENS: matrix.tolist()}, payload={"text": _text_hash(passage)}
                )
                for passage, matrix in batch
            ]
            with self._answered():
                self._client.upsert(self._collection, points, wait=True)

    def delete(self, passage_ids: Sequence[str]) -> None:
        """As in `TokenStore`."""
        if passage_ids:
            points = models.PointIdsList(points=[_point_id(passage_id) for passage_id in passage_ids])
            with self._answered():
                self._client.delete(self._collection, points, wait=True)

    def close(self) -> None:
        """As in `TokenStore`."""
        self._client.close()

    def _open(self, encoder: EncoderIdentity | None) -> None:
        if self._client.collection_exists(self._collection):
            if encoder is None:
                return
            records = self._client.retrieve(self._collection, [_ENCODER_POINT], with_payload=True)
            if records and records[0].payload == _encoder_payload(encoder):
                return
            log.warning("the token vectors in %s are another encoder's: they are made anew", self._collection)
            self._client.delete_collection(self._collection)
        if encoder is None:
            raise CollectionError(f"there is no collection {self._collection!r} of token vectors")
        self._client.create_collection(
            self._collection,
            vectors_config={
                TOKENS: models.VectorParams(
                    size=encoder.dimension,
                    distance=models.Distance.DOT,
                    on_disk=True,
                    multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                    datatype=models.Datatype.FLOAT16,
                    hnsw_config=models.HnswConfigDiff(m=0),  # no graph: every score is exact
                )
            },
        )
        record = models.PointStruct(id=_ENCODER_POINT, vector={}, payload=_encoder_payload(encoder))
        self._client.upsert(self._collection, [record], wait=True)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        if self._taking_turns is not None:
            self._taking_turns.acquire()
        try:
            yield
        except Rank37Error:
            raise
        except Exception as error:  # the client's errors have no common base
            raise _server_trouble(self._collection, error) from error
        finally:
            if self._taking_turns is not None:
                self._taking_turns.release()


def max_sim(query: TokenVectors, passage: TokenVectors) -> float:
    """The sum over the query's vectors of the greatest dot product with one of the passage's; of none, 0.

    >>> one, two = np.eye(2, dtype=np.float32)
    >>> max_sim(np.stack([one, two]), np.stack([one, (one + two) / 2]))
    1.5
    """
    return float((query @ passage.T).max(axis=1).sum()) if query.size and passage.size else 0.0


def _batches(
    passages: Sequence[Passage], vectors: Sequence[TokenVectors]
) -> Iterator[list[tuple[Passage, TokenVectors]]]:
    """What can be stored, a write's worth at a time."""
    filled = [(passage, matrix) for passage, matrix in zip(passages, vectors, strict=True) if len(matrix)]
    for start in range(0, len(filled), BATCH_POINTS):
        yield filled[start : start + BATCH_POINTS]


def _is_engine_error(error: BaseException) -> bool:
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _fresh(passages: Sequence[Passage], found: dict[str, tuple[dict[str, Any], float]]) -> dict[str, float]:
    """The scores of those whose text is still the one that was encoded."""
    scores = {}
    for passage in passages:
        payload, score = found.get(_point_id(passage.id), ({}, 0.0))
        if payload.get("text") == _text_hash(passage):
            scores[passage.id] = score
    return scores


def _point_id(passage_id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"passage {passage_id}"))


def _text_hash(passage: Passage) -> str:
    return hashlib.sha256(passage.text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _encoder_payload(encoder: EncoderIdentity) -> dict[str, Any]:
    return {"name": encoder.name, "revision": encoder.revision, "dimension": encoder.dimension}


def _server_trouble(collection: str, error: Exception) -> IndexUnavailable:
    reason = type(getattr(error, "source", error)).__name__
    return IndexUnavailable(
        f"the Qdrant server can't serve the token vectors in {collection!r} ({reason}): check QDRANT_URL and its log, "
        "or take another reranker (RANK37_RERANKER)"
    )
