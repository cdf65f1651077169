"""`ray`: the same files ingested on this machine's own path and on 1, 2, ... workers of a local Ray.

Each contestant is `python -m ingest` in a process of its own, as a person types it, into a new data folder; they take
turns. What the cluster costs of itself counts: a local Ray is started for each run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench.machine import OWN_LIBRARIES, looking, versions
from bench.material import ROOT, SAMPLES, copies_of, pdfs_of
from bench.rounds import Turns, ratios, ratios_of, spread, take_turns
from bench.served import environment_of
from bench.words import count_of, figure, listed_versions, seconds_of
from rag.errors import BadInput, Rank37Error
from rag.evaluation.tables import Table

OURS = "without Ray"
LOOK_S = 0.2
"""How often processes are looked at: what one computes after the last look is not seen."""
MAIN, READING, CUTTING, EMBEDDING, RAYS_OWN = "the command", "readers", "cutting", "embedding", "Ray's own"
KINDS = {
    MAIN: "the command itself: writing, and without Ray cutting and embedding",
    READING: "processes that open the files",
    CUTTING: "Ray's workers that cut",
    EMBEDDING: "Ray's workers that embed",
    RAYS_OWN: "what else Ray starts",
}
FILE_LINE = re.compile(r"(ingested|replaced|unchanged|refused)\b")


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one run of the command did."""

    files: int
    pages: int
    chunks: int
    first_s: float
    """From the command until the first file was in."""
    rest_s: float
    """From then until the last was."""
    rest_pages: int
    """Of all files but the first."""
    cpu_s: float
    """Seconds of computing of all processes."""
    cpu_by_kind_s: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench ray`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ (data)")
    parser.add_argument("--files", type=int, help="so many PDFs, copies of the set's where it has fewer (all)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers (1 2)")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each (1)")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "ray"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """Files and pages a second, seconds of computing by kind of process, and ratios to the way without Ray."""
    if find_spec("ray") is None:
        raise BadInput('Ray is not installed: pip install "rank37[ray]"')
    if min(options.workers) < 1:
        raise BadInput(f"--workers {min(options.workers)}: at least 1 is needed")
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as name:
        folder = Path(name)
        originals = pdfs_of(options.set)
        copies_of(originals, options.files or len(originals), folder / "files")
        numbers = itertools.count()

        def run(words: Sequence[str], case: Path) -> Ingested:
            return ingested(case, folder / f"data-{next(numbers)}", words)

        turns = take_turns(
            {
                OURS: partial(run, []),
                **{
                    f"Ray, {count} {'worker' if count == 1 else 'workers'}": partial(
                        run, ["--ray", "local", "--ray-workers", str(count)]
                    )
                    for count in options.workers
                },
            },
            [folder / "files"],
            options.rounds,
            show=show,
        )
    cpu = {name: [done.cpu_s for done in turn.outcomes] for name, turn in turns.items()}
    return {
        "set": options.set.name,
        "files": turns[OURS].outcomes[0].files,
        "pages": turns[OURS].outcomes[0].pages,
        "runs": {name: _figures(turn) for name, turn in turns.items()},
        "ratio": ratios_of(turns, OURS),
        "cpu_ratio": ratios(cpu, OURS),
        "versions": versions([*OWN_LIBRARIES, "ray"]),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    runs = result["runs"]
    kinds = [kind for kind in KINDS if any(kind in run["cpu_by_kind_s"] for run in runs.values())]
    return [
        Table(
            "The same files without Ray and on a local one",
            (
                "",
                "all, median",
                "pages a second",
                "until the first file",
                "pages a second from then on",
                "times without Ray",
                "CPU",
                "CPU times without Ray",
            ),
            tuple(
                (
                    name,
                    seconds_of(run["median_s"]),
                    figure(run["pages_a_second"], digits=1),
                    seconds_of(run["first_s"]),
                    figure(run["rest_pages_a_second"], digits=1),
                    figure(result["ratio"].get(name), "x"),
                    seconds_of(run["cpu_s"]),
                    figure(result["cpu_ratio"].get(name), "x"),
                )
                for name, run in runs.items()
            ),
            (
                f"{result['files']} PDFs made of {result['set']}, {count_of(result['pages'])} pages. Each run is a "
                "command of its own with a new data folder; Ray is started for it, and each of its workers loads the "
                "model.",
            ),
        ),
        Table(
            "Which processes computed",
            ("CPU seconds", *runs),
            tuple(
                (KINDS[kind], *(figure(run["cpu_by_kind_s"].get(kind), digits=1) for run in runs.values()))
                for kind in kinds
            ),
            (f"As far as it was seen by looking every {LOOK_S} s.",),
        ),
        listed_versions(result["versions"]),
    ]


def ingested(files: Path, data_dir: Path, words: Sequence[str]) -> Ingested:
    """Run `python -m ingest FILES WORDS...` into a new data folder. Raises Rank37Error where it fails."""
    report, log = data_dir.with_suffix(".json"), data_dir.with_suffix(".log")
    command = [sys.executable, "-m", "ingest", str(files), "--report", str(report), *words]
    moments: list[float] = []
    reaped, started = _reaped_s(), time.perf_counter()
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment_of(data_dir), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with _watched(process.pid) as seen:
            assert process.stdout is not None
            for line in process.stdout:
                if FILE_LINE.match(line):
                    moments.append(time.perf_counter() - started)
            status = process.wait()
    if status != 0:
        raise Rank37Error(f"{' '.join(command[1:])} ended with {status}: {log.read_text(errors='replace')[-500:]}")
    done = json.loads(report.read_text(encoding="utf-8"))
    by_kind = {kind: seconds for kind in KINDS if (seconds := sum(_of_kind(seen, kind))) > 0}
    return Ingested(
        done["totals"]["files"],
        done["totals"]["pages"],
        done["totals"]["chunks"],
        moments[0],
        moments[-1] - moments[0],
        sum(one["pages"] for one in done["documents"][1:]),
        # A process that nobody waited for is only seen, one that came and went between two looks is only waited for.
        max(_reaped_s() - reaped, sum(by_kind.values())),
        by_kind,
    )


@dataclass
class _Process:
    """A process as it was seen last."""

    kind: str
    cpu_s: float


@contextmanager
def _watched(pid: int) -> Iterator[dict[tuple[int, float], _Process]]:
    """Look at a process and all that come of it again and again until the block ends."""
    seen: dict[tuple[int, float], _Process] = {}

    def look() -> None:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    _look(process, pid, seen)

    with looking(look, LOOK_S):
        yield seen


def _look(process: psutil.Process, root: int, seen: dict[tuple[int, float], _Process]) -> None:
    with process.oneshot():
        times, parent = process.cpu_times(), process.ppid()
        words, key = " ".join(process.cmdline()), (process.pid, process.create_time())
    before = seen.get(key)
    kind = MAIN if process.pid == root else kind_of(words)
    if before is not None and (not words or kind == RAYS_OWN):
        kind = before.kind  # it has ended, or a worker rests from its stage
    cpu_s = times.user + times.system
    if kind == READING:
        if any(pid == parent and one.kind == READING for (pid, _), one in seen.items()):
            return  # it reads one file and is gone: the one that it was forked from has its seconds then
        cpu_s += times.children_user + times.children_system
    seen[key] = _Process(kind, cpu_s)


def kind_of(command: str) -> str:
    """What a process of the command is for, by its command line; Ray's workers name their stage in it.

    >>> kind_of("ray::MapWorker(Map(Cutting)).submit"), kind_of("ray::IDLE"), kind_of("python nursery.py")
    ('cutting', "Ray's own", 'readers')
    """
    if "ray::" in command or re.search(r"-packages[/\\]ray[/\\]", command):
        return CUTTING if "Cutting" in command else EMBEDDING if "Embedding" in command else RAYS_OWN
    return READING


def _of_kind(seen: Mapping[tuple[int, float], _Process], kind: str) -> list[float]:
    return [process.cpu_s for process in seen.values() if process.kind == kind]


def _reaped_s() -> float:
    """Seconds of computing of this process's children that were waited for, and theirs."""
    return sum(os.times()[2:4])


def _figures(turn: Turns[Ingested]) -> dict[str, Any]:
    times = spread(turn.seconds)
    last = turn.outcomes[-1]
    rates = [done.rest_pages / done.rest_s for done in turn.outcomes if done.rest_s > 0]
    return times | {
        "pages_a_second": last.pages / times["median_s"],
        "files_a_second": last.files / times["median_s"],
        "chunks": last.chunks,
        "first_s": median(done.first_s for done in turn.outcomes),
        "rest_pages_a_second": median(rates) if rates else None,
        "cpu_s": median(done.cpu_s for done in turn.outcomes),
        "cpu_by_kind_s": last.cpu_by_kind_s,
        "each": [asdict(done) for done in turn.outcomes],
    }
