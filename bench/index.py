"""`index`: hybrid recall of 100 and writing, as a collection grows, as it is written and optimized.

And qdrant-client's local mode, while that is bearable.

Vectors and texts are made up: vectors lie around 2,000 topics, words follow Zipf's law. Real texts are not needed for
times, and a million of them would have to be embedded first.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import OWN_LIBRARIES, looking, memory_mb, versions
from bench.rounds import percentile
from bench.words import count_of, figure, listed_versions, seconds_of, share_of, table_of_reasons
from rag.errors import BadInput
from rag.evaluation.tables import Table
from rag.ports import Index, Vectors
from rag.types import Chunk, Document, EmbedderIdentity, PageSpan, StoredDocument

OURS = "rank37"
PEER = "qdrant-client local mode"
DIMENSION = 384
TOPICS = 2000
VOCABULARY = 50_000
ZIPF = 1.07
WORDS_A_CHUNK = 60
DOCUMENT_CHUNKS = 1000
LIMIT = 100

DISK_BYTES_A_CHUNK = 16_000
MEMORY_BYTES_A_CHUNK = 5000
"""Room that is asked for before a size is begun, about twice what was seen; optimizing a copy makes another one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One search: words for BM25, and a vector."""

    words: str
    vector: Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench index`."""
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="chunks (10000 100000)")
    parser.add_argument("--queries", type=int, default=100, help="searches at each size (100)")
    parser.add_argument("--peer-size", type=int, default=10_000, help="largest size for the peer (10000)")
    parser.add_argument("--peer-queries", type=int, default=20, help="searches of the peer (20)")
    parser.add_argument("--folder", type=Path, help="where collections are made and removed again")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "index"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """One collection that grows from size to size; the peer's beside it up to its largest."""
    from rag.engines.qdrant_edge import EdgeIndex

    sizes = sorted(options.sizes)
    identity = EmbedderIdentity("made up", "", DIMENSION)
    asked = _questions(options.queries)
    ours: list[dict[str, Any]] = []
    optimized: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rank37-bench-", dir=options.folder) as name:
        folder = Path(name)
        _check_room(folder, sizes[-1])
        started_mb = memory_mb()
        index = EdgeIndex.open(folder / "index", "bench", identity)
        peer: Index | None = None
        best = _Nearest(asked)
        written = 0
        not_run: dict[str, str] = {}
        try:
            for size in sizes:
                with_peer = size <= options.peer_size
                if with_peer and peer is None:
                    peer = _open_peer(folder / "peer", identity, not_run)
                seconds, peer_seconds = 0.0, 0.0
                for chunks, vectors in _made_up(written, size):
                    best.see(written, vectors)
                    seconds += _write(index, chunks, vectors)
                    if with_peer and peer is not None:
                        peer_seconds += _write(peer, chunks, vectors)
                    written += len(chunks)
                    if written % 100_000 == 0:
                        show(f"{written:,} chunks written")
                grown = size - (ours[-1]["chunks"] if ours else 0)
                found = _searched(index, peer if with_peer else None, asked, options.peer_queries)
                ours.append(
                    {
                        "chunks": size,
                        "written_a_second": grown / seconds,
                        "recall_at_100": best.share_found(index, asked),
                        "disk_mb": _disk_mb(folder / "index"),
                        "memory_mb": memory_mb() - started_mb,
                        **_latency(found[OURS]),
                    }
                )
                show(f"{size:,} chunks: p50 {ours[-1]['p50_s'] * 1000:.1f} ms")
                index.close()  # so that memory is counted apart
                optimized.append({"chunks": size, **_optimized(folder, identity, asked, best)})
                show(
                    f"{size:,} chunks optimized in {optimized[-1]['seconds']:.1f} s: "
                    f"p50 {optimized[-1]['p50_s'] * 1000:.1f} ms"
                )
                index = EdgeIndex.open(folder / "index", "bench", identity)
                if with_peer and peer is not None:
                    theirs.append({"chunks": size, "written_a_second": grown / peer_seconds, **_latency(found[PEER])})
                if peer is not None and size >= options.peer_size:
                    peer.close()
                    peer = None
                    gc.collect()
        finally:
            index.close()
            if peer is not None:
                peer.close()
    return {
        "sizes": sizes,
        "queries": len(asked),
        "words_a_chunk": WORDS_A_CHUNK,
        "ours": ours,
        "optimized": optimized,
        "peer": theirs,
        "ratio": {
            str(their["chunks"]): their["p50_s"] / own["p50_s"]
            for their in theirs
            for own in ours
            if own["chunks"] == their["chunks"]
        },
        "growth": _growth(ours),
        "growth_optimized": _growth(optimized),
        "not_run": not_run,
        "versions": versions(OWN_LIBRARIES),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    rows = []
    for name, sizes, growth in (
        (OURS, result["ours"], result["growth"]),
        (f"{OURS}, optimized", result.get("optimized", []), result.get("growth_optimized", [])),
    ):
        for own, grown in zip(sizes, [None, *growth], strict=False):
            rows.append(
                (
                    f"{name}, {own['chunks']:,}",
                    seconds_of(own["p50_s"]),
                    seconds_of(own["p95_s"]),
                    f"{grown['p50']:.1f}x for {grown['data']:.0f}x" if grown else "",
                    share_of(own["recall_at_100"]),
                    count_of(own["written_a_second"]) if "written_a_second" in own else "",
                    count_of(own["disk_mb"]),
                    count_of(own["memory_mb"]),
                    seconds_of(own["seconds"]) if "seconds" in own else "",
                    count_of(own["process_mb"]) if "process_mb" in own else "",
                    "",
                )
            )
    for their in result["peer"]:
        ratio = result["ratio"].get(str(their["chunks"]))
        rows.append(
            (
                f"{PEER}, {their['chunks']:,}",
                seconds_of(their["p50_s"]),
                seconds_of(their["p95_s"]),
                "",
                "",
                count_of(their["written_a_second"]),
                "",
                "",
                "",
                "",
                figure(ratio, "x", digits=0),
            )
        )
    notes = (
        f"Dense ({DIMENSION} numbers) and BM25 search, fused, best {LIMIT}; {result['queries']} searches at each size. "
        f"Vectors and texts are made up ({TOPICS:,} topics, {VOCABULARY:,} words by Zipf's law, "
        f"{result['words_a_chunk']} words a chunk). R@{LIMIT}: share of the nearest {LIMIT} by exact cosine that the "
        "dense search finds. Writing counts BM25 weights and making each thousand durable. MB on disk and in memory. "
        "Optimized: short vectors first, rescored by the full ones; made in a process of its own, which takes so long "
        "and holds so much memory at most, files that it maps included.",
    )
    columns = (
        "",
        "p50",
        "p95",
        "growth",
        f"R@{LIMIT}",
        "written a second",
        "disk",
        "memory",
        "optimizing",
        "its process",
        "times ours",
    )
    return [
        Table("Hybrid recall of 100", columns, tuple(rows), notes),
        *table_of_reasons(result["not_run"]),
        listed_versions(result["versions"]),
    ]


class _Nearest:
    """The exact nearest of each query among all vectors seen, without keeping them."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._queries = np.stack([one.vector for one in asked])
        self._scores = np.empty((len(asked), 0), dtype=np.float32)
        self._numbers = np.empty((len(asked), 0), dtype=np.int64)

    def see(self, first: int, vectors: Vectors) -> None:
        """Take in the vectors of the chunks `first`, `first + 1`, ..."""
        scores = np.concatenate([self._scores, self._queries @ vectors.T], axis=1)
        numbers = np.arange(first, first + len(vectors))
        all_numbers = np.concatenate([self._numbers, np.broadcast_to(numbers, (len(scores), len(vectors)))], axis=1)
        best = np.argpartition(-scores, min(LIMIT, scores.shape[1] - 1), axis=1)[:, :LIMIT]
        self._scores = np.take_along_axis(scores, best, axis=1)
        self._numbers = np.take_along_axis(all_numbers, best, axis=1)

    def share_found(self, index: Index, asked: Sequence[Asked]) -> float:
        """Mean share of the exact nearest among what the index recalls without any word, by vectors alone."""
        shares = []
        for one, numbers in zip(asked, self._numbers.tolist(), strict=True):
            found = {candidate.chunk.id for candidate in index.recall("", one.vector, limit=LIMIT)}
            shares.append(len(found & {_id(number) for number in numbers}) / len(numbers))
        return float(np.mean(shares))


def _made_up(first: int, end: int) -> Iterator[tuple[list[Chunk], Vectors]]:
    """Chunks `first` to `end`, a document at a time; the same numbers give the same chunks."""
    words = np.array([f"w{number}" for number in range(VOCABULARY)])
    shares = _zipf()
    for start in range(first, end, DOCUMENT_CHUNKS):
        count = min(DOCUMENT_CHUNKS, end - start)
        random = np.random.default_rng(start + 1)
        vectors = _vectors(random, count)
        numbers = np.searchsorted(shares, random.random((count, WORDS_A_CHUNK)))
        document = uuid.UUID(int=start).hex
        chunks = []
        for place, row in enumerate(words[numbers]):
            text = " ".join(row)
            spans = (PageSpan(1, 0, len(text)),)
            chunks.append(Chunk(_id(start + place), document, "", None, text, spans, place, WORDS_A_CHUNK))
        yield chunks, vectors


def _questions(count: int) -> list[Asked]:
    """Queries from the same topics and words, with eight words each."""
    random = np.random.default_rng(37)
    vectors = _vectors(random, count)
    numbers = np.searchsorted(_zipf(), random.random((count, 8)))
    return [
        Asked(" ".join(f"w{number}" for number in row), vector) for row, vector in zip(numbers, vectors, strict=True)
    ]


def _vectors(random: Any, count: int) -> Vectors:
    """Unit vectors around topics, with as much noise as topic."""
    topics = np.random.default_rng(0).standard_normal((TOPICS, DIMENSION)).astype(np.float32)
    noise = random.standard_normal((count, DIMENSION)).astype(np.float32)
    vectors: Vectors = topics[random.integers(0, TOPICS, count)] + noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _zipf() -> Any:
    weights = 1.0 / np.arange(1, VOCABULARY + 1) ** ZIPF
    return np.cumsum(weights / weights.sum())


def _id(number: int) -> str:
    return str(uuid.UUID(int=(1 << 64) + number))


def _write(index: Index, chunks: Sequence[Chunk], vectors: Vectors) -> float:
    """Seconds until the chunks, one document, are searchable and durable."""
    identity = chunks[0].document_id
    stored = StoredDocument(Document(identity, identity, identity, 1), "ready", n_chunks=len(chunks))
    started = time.perf_counter()
    index.begin_document(stored)
    index.add_chunks(chunks, vectors)
    index.publish_document(stored)
    return time.perf_counter() - started


def _searched(index: Index, peer: Index | None, asked: Sequence[Asked], peer_queries: int) -> dict[str, list[float]]:
    """Seconds of each search, ours and the peer's in turn."""
    for one in asked[:5]:
        index.recall(one.words, one.vector, limit=LIMIT)
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    for number, one in enumerate(asked):
        for name, engine in ((OURS, index), (PEER, peer if number < peer_queries else None)):
            if engine is not None:
                started = time.perf_counter()
                engine.recall(one.words, one.vector, limit=LIMIT)
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _optimized(folder: Path, identity: EmbedderIdentity, asked: Sequence[Asked], best: _Nearest) -> dict[str, float]:
    """What a copy of the index, which nobody has open, does once it is optimized; nothing of it stays."""
    from rag.engines.qdrant_edge import EdgeIndex

    copy = folder / "optimized"
    shutil.copytree(folder / "index", copy)
    started_mb = memory_mb()
    index = EdgeIndex.open(copy, "bench", identity)
    try:
        with _watched_children() as peak:
            started = time.perf_counter()
            index.optimize()
            seconds = time.perf_counter() - started
        index.close()  # what optimizing left in memory is not the index's
        index = EdgeIndex.open(copy, "bench", identity)
        latency = _latency(_searched(index, None, asked, 0)[OURS])
        return {
            **latency,
            "recall_at_100": best.share_found(index, asked),
            "seconds": seconds,
            "process_mb": max(peak),
            "disk_mb": _disk_mb(copy),
            "memory_mb": memory_mb() - started_mb,
        }
    finally:
        index.close()
        shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def _watched_children() -> Iterator[list[float]]:
    """The memory of this process's children in MB, looked at again and again until the block ends."""
    import psutil

    seen = [0.0]

    def look() -> None:
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                seen.append(child.memory_info().rss / 1e6)

    with looking(look, 0.1):
        yield seen


def _growth(sizes: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [
        {"data": later["chunks"] / earlier["chunks"], "p50": later["p50_s"] / earlier["p50_s"]}
        for earlier, later in zip(sizes, sizes[1:], strict=False)
    ]


def _latency(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50_s": percentile(seconds, 0.5), "p95_s": percentile(seconds, 0.95)}


def _open_peer(folder: Path, identity: EmbedderIdentity, not_run: dict[str, str]) -> Index | None:
    from qdrant_client import QdrantClient

    from bench.peers.opening import reason
    from rag.engines.qdrant_server import ServerIndex

    try:
        return ServerIndex.open(QdrantClient(path=str(folder)), "bench", identity)
    except Exception as error:  # a library can fail in any way
        not_run[PEER] = reason(error)
        return None


def _check_room(folder: Path, chunks: int) -> None:
    """Raise BadInput where disk or memory would not do."""
    import psutil

    for what, free, needed in (
        ("disk space", shutil.disk_usage(folder).free, chunks * DISK_BYTES_A_CHUNK),
        ("memory", psutil.virtual_memory().available, chunks * MEMORY_BYTES_A_CHUNK),
    ):
        if free < needed:
            raise BadInput(
                f"{chunks:,} chunks need about {needed / 1e9:.1f} GB of {what}, {free / 1e9:.1f} GB are free: take "
                "smaller --sizes, or another --folder"
            )


def _disk_mb(folder: Path) -> float:
    """What the files take on disk, not their nominal length."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) / 1e6
