"""The embedded index: Qdrant Edge, Qdrant's own engine inside this process, in a folder.

It never optimizes (that holds Python's lock for seconds; up to about 50,000 chunks exact search is as fast), and one
process at a time can have a folder open. What a document goes through is in `rag.engines.qdrant_points`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Self

from qdrant_edge import (
    CountRequest,
    Distance,
    EdgeConfig,
    EdgeShard,
    EdgeSparseVectorParams,
    EdgeVectorParams,
    FieldCondition,
    Filter,
    Fusion,
    MatchAny,
    MatchValue,
    Modifier,
    PayloadSchemaType,
    Point,
    Prefetch,
    Query,
    QueryRequest,
    ScrollRequest,
    SparseVector,
    UpdateMode,
    UpdateOperation,
)

from rag.engines.disk_room import check_room
from rag.engines.qdrant_points import (
    BATCH_POINTS,
    DENSE,
    INDEXED_FIELDS,
    QDRANT_RRF_CONSTANT,
    SPARSE,
    Hit,
    NewPoint,
    Payload,
    QdrantIndex,
    Selection,
    SparseWeights,
)
from rag.errors import CollectionDamaged, CollectionError, CollectionLocked, Rank37Error
from rag.types import EmbedderIdentity, EngineInfo

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


POINT_BYTES = 16 * 1024
"""Room asked for each chunk, in storage and in the log: 1,024 dimensions take 2 * 4 kB, 500 words 2 * 3 kB."""


class EdgeIndex(QdrantIndex):
    """The port `Index` on Qdrant Edge. Open it once in a process and share it between threads."""

    @classmethod
    def open(cls, folder: Path, collection: str, embedder: EmbedderIdentity) -> Self:
        """Open the collection in `folder`, or make a new one there. A lock file lies beside `folder`.

        Raises:
            CollectionLocked: It is open already, in another process or in this one.
            EmbedderMismatch: Another embedder made it.
            CollectionDamaged: It can't be read.
            CollectionError: The folder can't be written, or an incompatible version of this program made it.
        """
        store = EdgeStore(folder, collection, embedder.dimension)
        info = EngineInfo(
            role="index",
            name="Qdrant Edge",
            revision=version("qdrant-edge-py"),
            why="the embedded index: no Qdrant server is configured (QDRANT_URL)",
        )
        try:
            index = cls(store, collection, embedder, info)
            index._check_nothing_is_missing(folder)
        except BaseException:
            store.close()
            raise
        return index

    def _check_nothing_is_missing(self, folder: Path) -> None:
        """A truncated file of the engine can take points away without an error: then there are too few.

        Raises: CollectionDamaged.
        """
        expected = sum(stored.n_chunks for stored in self.documents() if stored.state == "ready")
        found = self.count_chunks()
        if found < expected:
            raise CollectionDamaged(
                f"collection {self.collection!r} in {folder} lost {expected - found} of its {expected} chunks: make "
                "the index again from the kept original files (`python -m rag rebuild`), or restore a backup "
                "(`python -m rag restore FILE`)"
            )


class EdgeStore:
    """A `PointStore` over one `EdgeShard`."""

    def __init__(self, folder: Path, collection: str, dimension: int) -> None:
        self._folder = folder
        self._collection = collection
        self._closed = False
        self._lock = _lock(folder.with_name(f"{folder.name}.lock"), folder, collection)
        try:
            self._check_room()  # opening finishes what a kill left in the log
            if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
                _create(folder, collection, dimension)
            with self._translated(loading=True):
                self._shard = EdgeShard.load(str(folder))
        except BaseException:
            self._lock.close()
            raise

    def write(self, points: Sequence[NewPoint], *, only_new: bool = False) -> None:
        """As in `PointStore`."""
        mode = UpdateMode.InsertOnly if only_new else UpdateMode.Upsert
        self._check_room(len(points))
        with self._translated():
            self._shard.update(UpdateOperation.upsert_points([_edge_point(point) for point in points], None, mode))

    def delete(self, point_ids: Sequence[str]) -> None:
        """As in `PointStore`."""
        self._check_room()
        with self._translated():
            self._shard.update(UpdateOperation.delete_points(list(point_ids)))

    def delete_selected(self, selection: Selection) -> None:
        """As in `PointStore`."""
        self._check_room()
        with self._translated():
            self._shard.update(UpdateOperation.delete_points_by_filter(_edge_filter(selection) or Filter()))

    def read(self, point_ids: Sequence[str]) -> dict[str, Payload]:
        """As in `PointStore`."""
        with self._translated():
            records = self._shard.retrieve(list(point_ids), True, False)
            return {str(record.id): record.payload or {} for record in records}

    def scan(self, selection: Selection, *, with_payload: bool = True) -> Iterator[tuple[str, Payload]]:
        """As in `PointStore`."""
        condition = _edge_filter(selection)
        offset = None
        while True:
            request = ScrollRequest(offset, BATCH_POINTS, condition, with_payload, False)
            with self._translated():
                records, offset = self._shard.scroll(request)
            for record in records:
                yield str(record.id), record.payload or {}
            if offset is None:
                return

    def count(self, selection: Selection) -> int:
        """As in `PointStore`."""
        with self._translated():
            return int(self._shard.count(CountRequest(exact=True, filter=_edge_filter(selection))))

    def search(
        self, dense: list[float], sparse: SparseWeights | None, selection: Selection, *, limit: int
    ) -> list[Hit]:
        """As in `PointStore`."""
        condition = _edge_filter(Selection(None, selection.within, selection.without))
        prefetches = [Prefetch(limit=limit, query=Query.Nearest(dense, using=DENSE), filter=condition)]
        if sparse is not None:
            nearest = Query.Nearest(SparseVector(*sparse), using=SPARSE)
            prefetches.append(Prefetch(limit=limit, query=nearest, filter=condition))
        request = QueryRequest(
            limit=limit * len(prefetches),
            with_payload=True,
            query=Fusion.Rrf(k=QDRANT_RRF_CONSTANT),  # type: ignore[arg-type]  # the stub doesn't make it a Fusion
            prefetches=prefetches,
        )
        with self._translated():
            points = self._shard.query(request)
            return [(str(point.id), point.payload or {}, point.score) for point in points]

    def flush(self) -> None:
        """As in `PointStore`."""
        with self._translated():
            self._shard.flush()

    def close(self) -> None:
        """As in `PointStore`."""
        if not self._closed:
            self._closed = True
            try:
                with _translated(self._folder, self._collection):
                    self._shard.close()
            finally:
                self._lock.close()

    def _check_room(self, n_points: int = 0) -> None:
        check_room(self._folder, f"collection {self._collection!r}", to_write_bytes=n_points * POINT_BYTES)

    @contextmanager
    def _translated(self, *, loading: bool = False) -> Iterator[None]:
        with _translated(self._folder, self._collection, loading=loading):
            if self._closed:
                raise CollectionError(f"collection {self._collection!r} is closed: open it again")
            yield


@contextmanager
def _translated(folder: Path, collection: str, *, loading: bool = False) -> Iterator[None]:
    """The engine raises plain `Exception`, `ValueError`, and Rust panics (a `BaseException`): told apart by text."""
    try:
        yield
    except Rank37Error:
        raise
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if not panic and not isinstance(error, Exception):
            raise
        if "WouldBlock" in str(error):
            raise _locked(folder, collection) from error
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "No space left" in cause or "Permission denied" in cause or "Read-only file system" in cause:
            raise CollectionError(
                f"collection {collection!r} can't be read and written in {folder} ({cause}): "
                "free disk space, or give the folder to this user, or choose another (RANK37_DATA_DIR)"
            ) from error
        if panic or loading or "Service runtime error" in cause:  # of a file that is not as the engine wrote it
            raise CollectionDamaged(
                f"collection {collection!r} in {folder} can't be read ({cause}): make the index again from the kept "
                "original files (`python -m rag rebuild`), or restore a backup (`python -m rag restore FILE`)"
            ) from error
        raise CollectionError(f"collection {collection!r} in {folder} refused an operation: {cause}") from error


@contextmanager
def held(folder: Path, collection: str) -> Iterator[None]:
    """Keep everyone from opening the collection in `folder`. Raises CollectionLocked, CollectionError."""
    lock = _lock(folder.with_name(f"{folder.name}.lock"), folder, collection)
    try:
        yield
    finally:
        lock.close()


def _lock(file: Path, folder: Path, collection: str) -> BinaryIO:
    """Lock a file of our own until it is closed or the process ends, however it ends.

    The engine has a lock too: a second `EdgeShard.load` fails with `failed to open WAL ... WouldBlock`. Expected: it
    doesn't disturb the first one. Actual (qdrant-edge-py 0.9.0): it has opened the segments by then, and every later
    flush of the first one fails with `tracker_journal.dat is shorter than expected`. So nobody may even try.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("ab")
    except OSError as error:
        raise _no_access(folder, collection, error) from error
    try:
        if sys.platform == "win32":
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise _locked(folder, collection) from error
    return lock


def _create(folder: Path, collection: str, dimension: int) -> None:
    """Make an empty collection beside `folder` and move it there, so that a killed process leaves nothing half made."""
    fresh = folder.with_name(f"{folder.name}.new")
    config = EdgeConfig(
        vectors={DENSE: EdgeVectorParams(size=dimension, distance=Distance.Cosine)},
        sparse_vectors={SPARSE: EdgeSparseVectorParams(modifier=Modifier.Idf)},
        wal_enabled=True,
    )
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        with _translated(folder, collection):
            shard = EdgeShard.create(str(fresh), config)
            for field in INDEXED_FIELDS:
                shard.update(UpdateOperation.create_field_index(field, PayloadSchemaType.Keyword))
            shard.close()
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    except OSError as error:
        raise _no_access(folder, collection, error) from error


def _locked(folder: Path, collection: str) -> CollectionLocked:
    return CollectionLocked(
        f"collection {collection!r} in {folder} is open in another process, or twice in this one: use the running app, "
        "or share a Qdrant server between processes (set QDRANT_URL)"
    )


def _no_access(folder: Path, collection: str, error: OSError) -> CollectionError:
    return CollectionError(
        f"collection {collection!r} can't be read and written in {folder} ({error.strerror}): free disk space, or give "
        "the folder to this user, or choose another (RANK37_DATA_DIR)"
    )


def _edge_point(point: NewPoint) -> Point:
    vector: dict[str, list[float] | SparseVector | list[list[float]]] = {}
    if point.dense is not None:
        vector[DENSE] = point.dense
    if point.sparse is not None:
        vector[SPARSE] = SparseVector(*point.sparse)
    return Point(id=point.id, vector=vector, payload=point.payload)


def _edge_filter(selection: Selection) -> Filter | None:
    must: list[Any] = []
    must_not: list[Any] = []
    if selection.kind is not None:
        must.append(FieldCondition(key="kind", match=MatchValue(selection.kind)))
    if selection.within is not None:
        must.append(FieldCondition(key="document_id", match=MatchAny(sorted(selection.within))))
    if selection.without:
        must_not.append(FieldCondition(key="document_id", match=MatchAny(sorted(selection.without))))
    return Filter(must=must or None, must_not=must_not or None) if must or must_not else None
