"""The embedded index: Qdrant Edge, Qdrant's own engine inside this process, in a folder.

Optimizing holds Python's lock for as long as it takes, so it is done to a copy and in another process
(`rag.engines.edge_optimizer`); what was written meanwhile is brought into the copy, which then serves. One process at a
time can have a folder open. What a document goes through is in `rag.engines.qdrant_points`.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from rag.engines.edge_folder import (
    copy_serving,
    drop_others,
    new_copy,
    scanned_points,
    serve_from,
    serving_folder,
    size_bytes,
)
from rag.engines.edge_optimizer import optimize_copy, quick_search
from rag.engines.huge_pages import in_huge_pages
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
OPTIMIZE_ROOM = 2.5
"""Room asked for optimizing, in sizes of the index: the copy, and what the engine makes of it beside it."""
GROWN_SHARE = 0.1
"""By how much an optimized index must have grown before it is done again, so that the copying stays in proportion."""
FEW_CHANGES = 4
"""So many changes are brought into a copy while nobody can write; more are brought before."""
STOP_LIMIT_S = 60.0
"""Longest wait for an optimizing that was told to end."""


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

    @property
    def optimizable(self) -> Self:
        """This index."""
        return self

    def optimize(self, told: Callable[[str], None] = lambda stage: None) -> None:
        """Make searches quick again, in another process and on a copy, while this index answers and takes writes.

        Args:
            told: Called as each stage begins: `copying`, `optimizing`, `catching up`.

        Writers wait while files are copied, and readers for as long as the copy takes to open. Whatever is killed at
        whatever moment, the earlier index or the new one is there, whole.

        Raises:
            CollectionError: It is being optimized already, was closed meanwhile, or there is no room; it serves as
                before.
        """
        self._edge.optimize(told)

    def unoptimized_chunks(self) -> int:
        """About how many chunks every search compares in full. It costs nothing to ask."""
        return self._edge.scanned_points()

    def is_due(self, optimize_from: int) -> bool:
        """Whether there are so many of them that optimizing is worth its cost. 0: never."""
        scanned = self.unoptimized_chunks()
        if not optimize_from or scanned < optimize_from:
            return False
        return not self._edge.is_optimized or scanned >= GROWN_SHARE * self._store.count(Selection("chunk"))

    @property
    def _edge(self) -> EdgeStore:
        assert isinstance(self._store, EdgeStore)
        return self._store

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
        self._dimension = dimension
        self._closed = False
        self._closing = False
        self._writes = threading.RLock()
        """Taken by who writes, and by who needs that nobody does."""
        self._optimizing = threading.Lock()
        self._changes: list[Sequence[str] | Selection] | None = None
        """What was written since a copy was made: points by id, and what was deleted by filter. None: there is none."""
        self._lock = _lock(folder.with_name(f"{folder.name}.lock"), folder, collection)
        try:
            drop_others(folder)
            self._check_room()  # opening finishes what a kill left in the log
            if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
                _create(folder, collection, dimension)
            serving = serving_folder(folder)
            with self._translated(loading=True), in_huge_pages():
                self._shard = EdgeShard.load(str(serving))
            self.is_optimized = serving != folder
            """Whether an optimized copy serves."""
        except BaseException:
            self._lock.close()
            raise

    def write(self, points: Sequence[NewPoint], *, only_new: bool = False) -> None:
        """As in `PointStore`."""
        mode = UpdateMode.InsertOnly if only_new else UpdateMode.Upsert
        self._check_room(len(points))
        with self._changed([point.id for point in points]), self._translated():
            self._shard.update(UpdateOperation.upsert_points([_edge_point(point) for point in points], None, mode))

    def delete(self, point_ids: Sequence[str]) -> None:
        """As in `PointStore`."""
        self._check_room()
        with self._changed(list(point_ids)), self._translated():
            self._shard.update(UpdateOperation.delete_points(list(point_ids)))

    def delete_selected(self, selection: Selection) -> None:
        """As in `PointStore`."""
        self._check_room()
        with self._changed(selection), self._translated():
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
        quickly = quick_search() if self.is_optimized else None
        prefetches = [Prefetch(limit=limit, query=Query.Nearest(dense, using=DENSE), filter=condition, params=quickly)]
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
        """As in `PointStore`. An optimizing under way is given up."""
        self._closing = True
        ended = self._optimizing.acquire(timeout=STOP_LIMIT_S)
        try:
            with self._writes:
                if not self._closed:
                    self._closed = True
                    try:
                        with _translated(self._folder, self._collection):
                            self._shard.close()
                    finally:
                        self._lock.close()
        finally:
            if ended:
                self._optimizing.release()

    def scanned_points(self) -> int:
        """About how many points every search compares in full."""
        return scanned_points(self._folder)

    def optimize(self, told: Callable[[str], None]) -> None:
        """As in `EdgeIndex`."""
        if not self._optimizing.acquire(blocking=False):
            raise CollectionError(f"collection {self._collection!r} is being optimized already: wait for its end")
        copy = new_copy(self._folder)
        try:
            told("copying")
            self._copy(copy)
            told("optimizing")
            optimize_copy(copy, self._dimension, stop=self._check_wanted)
            told("catching up")
            self._change_to(copy)
        except OSError as error:
            raise _no_access(self._folder, self._collection, error) from error
        finally:
            with self._writes:
                self._changes = None
            try:
                drop_others(self._folder)  # nobody else can have it open: `close` waits for this
            finally:
                self._optimizing.release()

    def _copy(self, copy: Path) -> None:
        with self._writes, self._translated():
            self._check_wanted()
            self._shard.flush()
            room = int(OPTIMIZE_ROOM * size_bytes(self._folder))
            check_room(self._folder, f"an optimized copy of collection {self._collection!r}", to_write_bytes=room)
            copy_serving(self._folder, copy, stop=self._check_wanted)
            self._changes = []

    def _change_to(self, copy: Path) -> None:
        """Bring into the copy what was written meanwhile, and serve from it.

        Whoever is reading does so to the end: the earlier shard goes with the last one that refers to it.
        """
        with self._translated(), in_huge_pages():
            shard = EdgeShard.load(str(copy))
        assert self._changes is not None
        while len(self._changes) > FEW_CHANGES:  # first without keeping others from writing
            self._check_wanted()
            self._bring(self._changes.pop(0), shard)
        with self._writes:
            self._check_wanted()
            for change in self._changes:
                self._bring(change, shard)
            with self._translated():
                shard.flush()
            serve_from(self._folder, copy)
            self._shard, self.is_optimized = shard, True

    def _bring(self, change: Sequence[str] | Selection, shard: EdgeShard) -> None:
        """Make a shard hold of the changed points what this one holds. Later changes of them may come twice."""
        with self._translated():
            if isinstance(change, Selection):
                shard.update(UpdateOperation.delete_points_by_filter(_edge_filter(change) or Filter()))
                return
            self._check_room(len(change))
            records = self._shard.retrieve(list(change), True, True)
            found = [Point(id=record.id, vector=record.vector or {}, payload=record.payload) for record in records]
            gone = sorted(set(change) - {str(point.id) for point in found})
            if found:
                shard.update(UpdateOperation.upsert_points(found))
            if gone:
                shard.update(UpdateOperation.delete_points(list(gone)))

    @contextmanager
    def _changed(self, change: Sequence[str] | Selection) -> Iterator[None]:
        """Around a write: it is noted before it happens, so that one that fails halfway is looked at as well."""
        with self._writes:
            if self._changes is not None:
                self._changes.append(change)
            yield

    def _check_wanted(self) -> None:
        if self._closing:
            raise CollectionError(f"collection {self._collection!r} was closed while it was being optimized")

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
        with suppress(CollectionDamaged):  # who holds it may be about to make it again
            drop_others(folder)
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
