"""`scaling`: bytes a chunk takes, what quantization costs in recall, and from both how much N chunks need.

Passages and questions are real ones of labelled sets, embedded by the embedded embedder and kept in Qdrant Edge, which
is the engine of a Qdrant server in this process. There is no peer: these are numbers to plan with.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import OWN_LIBRARIES, versions
from bench.rounds import percentile
from bench.words import count_of, listed_versions, seconds_of, share_of
from rag.errors import BadInput
from rag.evaluation.tables import Table
from rag.ports import Vectors
from rag.types import Chunk, Document, PageSpan, StoredDocument

LIMIT = 100
OVERSAMPLING = 3.0
HNSW_EF = 256
"""Both as `rag.engines.qdrant_server` asks of a server."""
LOG = "write-ahead log"
"""It is emptied as it is worked off: its size does not grow with the collection."""
BATCH_POINTS = 256
RAM_FACTOR = 1.5
"""Qdrant's rule: RAM = numbers * 4 bytes * 1.5. Source: https://qdrant.tech/documentation/guides/capacity-planning/"""
FULL_VECTOR_BYTES = 4
QUANTIZED_BYTES = {"none": 4.0, "scalar": 1.0, "binary": 1 / 8}
"""Bytes of one number of a vector in RAM."""
GRAPH_BYTES = 16 * 2 * 4 * 1.1
"""HNSW links of a point with m = 16: 2m numbers of 4 bytes on the lowest level, and a tenth more above it."""
REPLICAS = 2
NODE_RAM_GB = 64
NODE_RAM_SHARE = 0.75
"""How much of a node's RAM is planned with: the rest is the system's and its page cache."""
SIZES = (1_000_000, 100_000_000, 1_000_000_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench scaling`."""
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="labelled sets in BEIR's layout")
    parser.add_argument("--questions", type=int, default=300, help="searches, at random (300)")
    parser.add_argument("--passages", type=int, help="at most so many passages of each set")
    parser.add_argument("--vectors", type=Path, help="file that keeps the vectors for the next run (.npz)")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "scaling"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """Bytes a chunk on disk, recall of quantized vectors against exact search, and the plan that follows."""
    texts, questions = _texts(options.sets, options.questions, options.passages)
    passages, asked = _vectors(texts, questions, options.vectors, show)
    exact = _exact(passages, asked)
    show(f"{len(texts):,} passages and {len(questions):,} questions embedded")
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as name:
        disk = _disk(Path(name) / "chunks", texts, passages)
        recall = []
        for kind in QUANTIZED_BYTES:
            recall.append({"quantization": kind, **_searched(Path(name) / kind, kind, passages, asked, exact)})
            show(f"{kind}: R@{LIMIT} {recall[-1]['recall_at_100']:.4f}")
    dimension = passages.shape[1]
    return {
        "sets": [path.name for path in options.sets],
        "chunks": len(texts),
        "questions": len(questions),
        "dimension": dimension,
        "characters_a_chunk": float(np.mean([len(text) for text in texts])),
        "disk_bytes_a_chunk": disk,
        "recall": recall,
        "plan": [
            planned(size, kind, dimension, disk["all"] - disk.get(LOG, 0.0))
            for size in SIZES
            for kind in QUANTIZED_BYTES
        ],
        "versions": versions(OWN_LIBRARIES),
    }


def planned(chunks: int, quantization: str, dimension: int, disk_bytes: float) -> dict[str, Any]:
    """RAM, disk and nodes for so many chunks.

    Args:
        chunks: How many.
        quantization: A key of `QUANTIZED_BYTES`. Quantized, only the short vectors and the graph are in RAM.
        dimension: Of the vectors.
        disk_bytes: On disk, a chunk, without quantization.

    >>> planned(1_000_000, "none", 384, 4000)["ram_gb"]  # 1e6 * (384 * 4 * 1.5 + 140.8) bytes
    2.4448
    """
    ram = chunks * (dimension * QUANTIZED_BYTES[quantization] * RAM_FACTOR + GRAPH_BYTES) / 1e9
    short = 0.0 if quantization == "none" else dimension * QUANTIZED_BYTES[quantization]
    disk = chunks * (disk_bytes + short) / 1e9
    by_ram = REPLICAS * ram / (NODE_RAM_GB * NODE_RAM_SHARE)
    return {
        "chunks": chunks,
        "quantization": quantization,
        "ram_gb": round(ram, 4),
        "disk_gb": round(disk, 4),
        "nodes": 1 if chunks <= SIZES[0] else max(3, math.ceil(by_ram)),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    disk = result["disk_bytes_a_chunk"]
    parts = tuple((name, count_of(value)) for name, value in disk.items() if name != "all")
    basis = (
        f"{result['chunks']:,} passages of {', '.join(result['sets'])}, {result['characters_a_chunk']:.0f} characters "
        f"on average, vectors of {result['dimension']} numbers."
    )
    recall = tuple(
        (one["quantization"], share_of(one["recall_at_100"]), seconds_of(one["p50_s"])) for one in result["recall"]
    )
    plan = tuple(
        (
            f"{one['chunks']:,}",
            one["quantization"],
            f"{one['ram_gb']:,.1f} GB",
            f"{one['disk_gb']:,.1f} GB",
            str(one["nodes"]),
        )
        for one in result["plan"]
    )
    return [
        Table("Bytes on disk, a chunk", ("part", "bytes"), (*parts, ("all", count_of(disk["all"]))), (basis,)),
        Table(
            f"Recall of quantized vectors (R@{LIMIT} against exact search, {result['questions']} questions)",
            ("quantization", f"R@{LIMIT}", "p50"),
            recall,
            (
                f"HNSW, {HNSW_EF} points in view; quantized search takes {OVERSAMPLING:g} times as many, rescored by "
                "the full vectors.",
            ),
        ),
        Table(
            "What so many chunks need",
            ("chunks", "quantization", "RAM, one copy", "disk, one copy", "nodes"),
            plan,
            (
                f"RAM by Qdrant's rule (numbers * bytes * {RAM_FACTOR}) and the graph; disk as measured, without the "
                f"log. Nodes of "
                f"{NODE_RAM_GB} GB, of which {NODE_RAM_SHARE:.0%} is planned with, and {REPLICAS} copies; three at "
                "least beyond a million. Reckoned, not measured.",
            ),
        ),
        listed_versions(result["versions"]),
    ]


def _texts(sets: Sequence[Path], n_questions: int, n_passages: int | None) -> tuple[list[str], list[str]]:
    from rag.evaluation.sets import read_set

    texts: list[str] = []
    questions: list[str] = []
    for folder in sets:
        labelled = read_set(folder)
        [corpus] = labelled.passages.values()
        passages = [passage.text for passage in corpus]
        texts += passages[:n_passages]
        questions += [question.text for question in labelled.questions if question.answerable]
    if len(texts) < 2 * LIMIT or not questions:
        raise BadInput(f"{len(texts)} passages and {len(questions)} questions: at least {2 * LIMIT} and 1 are needed")
    chosen = np.random.default_rng(37).permutation(len(questions))[:n_questions]
    return texts, [questions[number] for number in sorted(chosen)]


def _vectors(
    texts: Sequence[str], questions: Sequence[str], path: Path | None, show: Callable[[str], None]
) -> tuple[Vectors, Vectors]:
    if path is not None and path.is_file():
        kept = np.load(path)
        if kept["passages"].shape[0] == len(texts) and kept["questions"].shape[0] == len(questions):
            return kept["passages"], kept["questions"]
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    embedder = SentenceTransformerEmbedder.embedded()
    fitting = [_fitting(text, embedder) for text in texts]
    show(f"embedding {len(texts):,} passages")
    passages = embedder.embed_passages(fitting)
    asked = np.stack([embedder.embed_query(question) for question in questions])
    if path is not None:
        np.savez(path, passages=passages, questions=asked)
    return passages, asked


def _fitting(text: str, embedder: Any) -> str:
    """As much of a text as the embedder reads."""
    while embedder.count_passage_tokens([text])[0] > embedder.max_tokens:
        text = text[: int(len(text) * 0.9)]
    return text


def _exact(passages: Vectors, asked: Vectors) -> list[set[int]]:
    scores = asked @ passages.T
    return [set(row.tolist()) for row in np.argpartition(-scores, LIMIT, axis=1)[:, :LIMIT]]


def _disk(folder: Path, texts: Sequence[str], vectors: Vectors) -> dict[str, float]:
    """Bytes a chunk of a collection as the program writes it, by what they are for."""
    from rag.engines.qdrant_edge import EdgeIndex
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    identity = SentenceTransformerEmbedder.embedded().identity
    index = EdgeIndex.open(folder / "index", "scaling", identity)
    document = uuid.UUID(int=1).hex
    stored = StoredDocument(Document(document, "passages", "passages.txt", 1), "ready", n_chunks=len(texts))
    index.begin_document(stored)
    for start in range(0, len(texts), BATCH_POINTS):
        chunks = [
            Chunk(_id(number), document, "passages", None, text, (PageSpan(1, 0, len(text)),), number, 200)
            for number, text in enumerate(texts[start : start + BATCH_POINTS], start)
        ]
        index.add_chunks(chunks, vectors[start : start + BATCH_POINTS])
    index.publish_document(stored)
    index.close()
    parts: dict[str, float] = {}
    for file in (folder / "index").rglob("*"):
        if file.is_file():
            named = "/".join(file.relative_to(folder / "index").parts).lower()
            part = next((part for part in PARTS if part in named), "else")
            parts[PARTS.get(part, part)] = parts.get(PARTS.get(part, part), 0.0) + file.stat().st_blocks * 512
    shares = {name: size / len(texts) for name, size in sorted(parts.items())}
    return {**shares, "all": sum(shares.values())}


PARTS = {
    "wal": LOG,
    "sparse": "sparse vectors",
    "dense": "dense vectors",
    "payload": "payload (text, spans)",
}
"""What a part of a file's path says of its content."""


def _searched(
    folder: Path, quantization: str, passages: Vectors, asked: Vectors, exact: Sequence[set[int]]
) -> dict[str, float]:
    """R@100 against exact search, and seconds of a search, with an HNSW graph."""
    from qdrant_edge import (
        BinaryQuantizationConfig,
        Distance,
        EdgeConfig,
        EdgeOptimizersConfig,
        EdgeShard,
        EdgeVectorParams,
        HnswIndexConfig,
        Point,
        QuantizationSearchParams,
        Query,
        QueryRequest,
        ScalarQuantizationConfig,
        ScalarType,
        SearchParams,
        UpdateOperation,
    )

    quantized: Any = None
    if quantization == "scalar":
        quantized = ScalarQuantizationConfig(ScalarType.Int8, quantile=0.99, always_ram=True)
    elif quantization == "binary":
        quantized = BinaryQuantizationConfig(always_ram=True)
    params = EdgeVectorParams(
        size=passages.shape[1],
        distance=Distance.Cosine,
        quantization_config=quantized,
        hnsw_config=HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10),
    )
    folder.mkdir()
    config = EdgeConfig(vectors={"dense": params}, optimizers=EdgeOptimizersConfig(indexing_threshold=100))
    shard = EdgeShard.create(str(folder), config)
    try:
        for start in range(0, len(passages), BATCH_POINTS):
            batch = passages[start : start + BATCH_POINTS]
            points = [Point(number, {"dense": row.tolist()}, {}) for number, row in enumerate(batch, start)]
            shard.update(UpdateOperation.upsert_points(points))
        shard.optimize()
        rescoring = QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING) if quantized else None
        found, seconds = [], []
        for vector, nearest in zip(asked, exact, strict=True):
            request = QueryRequest(
                limit=LIMIT,
                query=Query.Nearest(vector.tolist(), using="dense"),
                params=SearchParams(hnsw_ef=HNSW_EF, quantization=rescoring),
            )
            started = time.perf_counter()
            points = shard.query(request)
            seconds.append(time.perf_counter() - started)
            found.append(len(nearest & {int(point.id) for point in points}) / LIMIT)
    finally:
        shard.close()
    return {"recall_at_100": float(np.mean(found)), "p50_s": percentile(seconds, 0.5)}


def _id(number: int) -> str:
    return str(uuid.UUID(int=(1 << 64) + number))
