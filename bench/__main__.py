"""`python -m bench NAME`: one benchmark side by side with its peers, or the page of all that were kept.

Each benchmark is a module with `add_arguments`, `kept_as`, `measure` and `tables`; this file adds what all have in
common. Exit status: 0 done, 1 a part of the program failed, 2 a bad argument.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.peers.opening import stay_offline
from rag.errors import BadInput, Rank37Error

FORMAT = 1
"""Changes whenever kept results of an older version can't be read."""

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "performance"

BENCHMARKS = {
    "rerank": "order 100 passages",
    "ask": "from question to kept passages, without an LLM",
    "ingest": "from PDF to searchable, and stage by stage",
    "index": "hybrid recall and writing as a collection grows",
    "load": "many people at once",
    "api": "the HTTP API under load: sustained, in a spike, and through an hour's questions",
    "start": "from `streamlit run` to a page and to an answer",
    "clicks": "from a click to its effect, alone and while files are ingested",
    "ray": "the same files without Ray and on workers of a local one",
    "scaling": "bytes a chunk, recall of quantized vectors, and what N chunks need",
    "roofline": "how far from what this machine can do",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; returns the exit status."""
    stay_offline()
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(words).parse_args(words)
    try:
        return int(options.run(options, words))
    except BadInput as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except Rank37Error as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Side by side with peers on this machine.")
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, what in BENCHMARKS.items():
        command = commands.add_parser(name, help=what)
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.add_argument(
            "--keep", nargs="?", type=Path, const=KEPT, metavar="FOLDER", help="keep the JSON (docs/performance)"
        )
        if words[:1] == [name]:  # the module of the benchmark that runs is the only one that is imported
            module = import_module(f"bench.{name}")
            module.add_arguments(command)
            command.set_defaults(run=lambda options, given, module=module: _measure(module, options, given))
    report = commands.add_parser("report", help="write docs/performance.md from the kept JSON")
    report.add_argument("--kept", type=Path, default=KEPT, metavar="FOLDER", help="folder of the JSON files")
    report.add_argument("--out", type=Path, default=KEPT.with_suffix(".md"), help="the page (docs/performance.md)")
    report.set_defaults(run=_report)
    return parser


def _measure(module: Any, options: argparse.Namespace, words: Sequence[str]) -> int:
    from rich.console import Console

    from bench.machine import machine
    from rag.evaluation.tables import print_table

    before = machine()
    started = datetime.now(UTC)
    with _quiet():
        measured = module.measure(options, lambda line: print(line, file=sys.stderr, flush=True))
    result = {
        "format": FORMAT,
        "bench": words[0],
        "command": command_of(words, before["threads"]),
        "made_at": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "machine": before,
        **measured,
    }
    if options.keep:
        keep(result, options.keep, module.kept_as(options))
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        for table in module.tables(result):
            print_table(table, Console())
    return 0


def command_of(words: Sequence[str], threads: int) -> str:
    """What a person types to run it again; where the result was kept, and where labelled sets lie, does not matter.

    >>> command_of(["rerank", "--rounds", "5", "--set", "/home/me/sets/nq", "--json", "--keep"], 2)
    'OMP_NUM_THREADS=2 python -m bench rerank --rounds 5 --set SETS/nq'
    """
    told: list[str] = []
    skip = False
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else "-"
        if skip:
            skip = False
        elif word == "--keep":
            skip = not following.startswith("-")
        elif word != "--json":
            told.append(f"SETS/{Path(word).name}" if Path(word).is_absolute() else word)
    return f"OMP_NUM_THREADS={threads} python -m bench {shlex.join(told)}"


def keep(result: dict[str, Any], folder: Path, name: str) -> Path:
    """Write a result so that it is there whole or not at all; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def _report(options: argparse.Namespace, words: Sequence[str]) -> int:
    from bench.report import page, read_kept

    options.out.write_text(page(read_kept(options.kept)), encoding="utf-8")
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Peers warn of much that is their own business; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


if __name__ == "__main__":
    sys.exit(main())
