"""`python -m rag optimize`: make the searches of a large embedded collection quick, and say how quick they are.

How it is done is the index's part. Nobody else may have the collection open; the running app does the same by itself.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from rag.ports import Embedder, Index, Vector
from rag.settings import OPTIMIZE_FROM, Settings, load_settings

SAMPLES = 20
"""So many searches are timed before and after."""
SAMPLE_WORDS = 12

Asked = tuple[str, Vector]
"""A query and its vector."""


def add_optimize_command(commands: Any) -> None:
    """Add `optimize` to the commands."""
    optimize = commands.add_parser(
        "optimize",
        help="make the searches of a large embedded collection quick",
        description=(
            "Gives the index short vectors that a search goes through first. The app does so by itself once "
            "RANK37_OPTIMIZE_FROM chunks have come; a Qdrant server needs none of it. Stopped at any moment, the "
            "index is as it was."
        ),
    )
    optimize.add_argument("--data-dir", type=Path, help="folder of the index and the files (RANK37_DATA_DIR)")
    optimize.add_argument("--collection", help="which collection (RANK37_COLLECTION)")
    optimize.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    if settings.qdrant_url:
        print(f"collection {settings.collection!r} lies on a Qdrant server, which optimizes by itself: nothing to do")
        return 0
    from rag.wiring import open_collection_embedder, open_index

    embedder = open_collection_embedder(settings)
    index = open_index(settings, embedder.identity)
    try:
        print(_optimized(index, embedder, settings))
    finally:
        index.close()
    return 0


def _optimized(index: Index, embedder: Embedder, settings: Settings) -> str:
    """Optimize it if that gains something; what was done, in words."""
    optimizable, least = index.optimizable, settings.optimize_from or OPTIMIZE_FROM
    if optimizable is None or not optimizable.is_due(least):
        held = index.count_chunks()
        compared = min(held, 0 if optimizable is None else optimizable.unoptimized_chunks())
        return (
            f"collection {settings.collection!r} holds {held:,} chunks, of which every search compares about "
            f"{compared:,} in full: below {least:,} (RANK37_OPTIMIZE_FROM), or a tenth of all, that is as quick, so "
            "there is nothing to do"
        )
    asked = _samples(index, embedder)
    before, started = _p50_ms(index, asked), perf_counter()
    with _shown() as told:
        optimizable.optimize(told)
    seconds = perf_counter() - started
    return (
        f"collection {settings.collection!r}: {index.count_chunks():,} chunks optimized in {seconds:.1f} s; p50 of "
        f"{len(asked)} searches {before:.1f} ms before, {_p50_ms(index, asked):.1f} ms after"
    )


def _samples(index: Index, embedder: Embedder) -> list[Asked]:
    """The first words of some chunks, as questions."""
    random = np.random.default_rng(37)
    asked = []
    for _ in range(SAMPLES):
        anywhere = random.standard_normal(index.embedder.dimension).astype(np.float32)
        for found in index.recall("", anywhere / np.linalg.norm(anywhere), limit=1):
            words = " ".join(found.chunk.text.split()[:SAMPLE_WORDS])
            asked.append((words, embedder.embed_query(words)))
    return asked


def _p50_ms(index: Index, asked: Sequence[Asked]) -> float:
    """Median milliseconds of a hybrid recall of 100, once everything was looked at."""
    seconds = []
    for words, vector in [*asked[:2], *asked]:
        started = perf_counter()
        index.recall(words, vector, limit=100)
        seconds.append(perf_counter() - started)
    return statistics.median(seconds[2:]) * 1000 if asked else 0.0


@contextmanager
def _shown() -> Iterator[Callable[[str], None]]:
    """Shows each stage: moving at a terminal, else a line each on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: console.print(stage, highlight=False)
        return
    with console.status("") as status:
        yield status.update
