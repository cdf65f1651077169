"""`load`: many people ask at once, in threads that share one set of engines, as the app's sessions do.

No peer takes part: what counts is how a person's wait grows with the number of others.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.engines import filled_engines
from bench.machine import OWN_LIBRARIES, versions, watched_memory
from bench.material import SAMPLES, pdfs_of, questions_of
from bench.rounds import percentile
from bench.words import count_of, figure, listed_versions, seconds_of
from rag.errors import Rank37Error
from rag.evaluation.tables import Table
from rag.ports import Engines
from rag.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench load`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ and questions.jsonl (data)")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 4, 16, 64], help="numbers of people (1 4 16 64)")
    parser.add_argument("--each", type=int, default=2, help="questions that each asks, one after the other (2)")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "load"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """Throughput, waits and memory at each number of people."""
    questions = questions_of(options.set, 10_000)
    with (
        tempfile.TemporaryDirectory(prefix="rank37-bench-") as folder,
        filled_engines(Path(folder), pdfs_of(options.set)) as (engines, chunks),
    ):
        _ask(engines, questions[0])
        runs = []
        for people in options.people:
            runs.append(_at_once(engines, questions, people, options.each))
            show(f"{people} people: p50 {runs[-1]['p50_s']:.2f} s, p95 {runs[-1]['p95_s']:.2f} s")
    alone = next((run for run in runs if run["people"] == 1), None)
    return {
        "set": options.set.name,
        "chunks": len(chunks),
        "each": options.each,
        "ours": [asdict(info) for info in engines.infos],
        "runs": runs,
        "p95_times_alone": {str(run["people"]): run["p95_s"] / alone["p95_s"] for run in runs} if alone else {},
        "versions": versions(OWN_LIBRARIES),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    rows = tuple(
        (
            str(run["people"]),
            figure(run["questions_a_second"]),
            seconds_of(run["p50_s"]),
            seconds_of(run["p95_s"]),
            figure(result["p95_times_alone"].get(str(run["people"])), "x"),
            count_of(run["peak_memory_mb"]),
            str(len(run["errors"])),
        )
        for run in result["runs"]
    )
    notes = [
        f"Each asks {result['each']} different questions, one after the other, of {result['chunks']} chunks of "
        f"{result['set']}: embed, recall, rerank, floor."
    ]
    errors = sorted({error for run in result["runs"] for error in run["errors"]})
    notes += [f"Errors: {'; '.join(errors)}."] if errors else []
    columns = ("people", "questions a second", "p50", "p95", "p95 times that of one", "peak memory, MB", "errors")
    return [Table("Many people at once", columns, rows, tuple(notes)), listed_versions(result["versions"])]


def _at_once(engines: Engines, questions: Sequence[str], people: int, each: int) -> dict[str, Any]:
    """All begin at the same moment; nobody waits for the others between questions."""
    seconds: list[float] = []
    errors: list[str] = []
    together = threading.Barrier(people + 1)

    def person(number: int) -> None:
        together.wait()
        for turn in range(each):
            started = time.perf_counter()
            try:
                _ask(engines, questions[(number * each + turn) % len(questions)])
            except Rank37Error as error:
                errors.append(f"{type(error).__name__}: {error}")
            else:
                seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=person, args=(number,)) for number in range(people)]
    with watched_memory() as memory:
        for thread in threads:
            thread.start()
        together.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - started
    return {
        "people": people,
        "questions": people * each,
        "questions_a_second": len(seconds) / taken,
        "p50_s": percentile(seconds, 0.5) if seconds else None,
        "p95_s": percentile(seconds, 0.95) if seconds else None,
        "most_s": max(seconds, default=None),
        "memory_before_mb": memory.before_mb,
        "peak_memory_mb": memory.peak_mb,
        "errors": errors,
    }


def _ask(engines: Engines, question: str) -> None:
    from rag.pipeline import rank_passages

    rank_passages(question, engines, Settings().policy)
