"""`report`: docs/performance.md from the JSON of kept runs. It measures nothing and words what the benchmarks word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.__main__ import BENCHMARKS, FORMAT
from rag.errors import BadInput
from rag.evaluation.tables import Table, as_markdown

INTRODUCTION = (
    "# Performance",
    "Written by `python -m bench report` from the JSON files in [performance/](performance/): nothing on this page was "
    "typed. Each section names the command that measured it, the machine and the versions; "
    "[bench/README.md](../bench/README.md) says how to install the peers and what is compared.",
    "Contestants take turns on the same work in one process (A B A B), on the same weights and passages. A ratio is "
    "how many times as long a peer takes as ours in the same round: the median over rounds. Absolute times are of a "
    "machine that others used meanwhile; its load before each run is named. CPU is seconds of computing over all "
    "cores, which others disturb less than the time on the wall.",
)

HEADINGS = {
    "rerank": "Reranking",
    "rerank-large": "Reranking at bge-reranker-v2-m3's size",
    "ask": "Asking",
    "ingest": "Ingesting",
    "index": "The index as it grows",
    "load": "Many people at once",
    "api": "The HTTP API under load",
    "start": "Starting",
    "clicks": "Clicking while files are ingested",
    "ray": "Ingesting on Ray",
    "scaling": "What many chunks need",
    "roofline": "How far from the machine's limit",
}


def read_kept(folder: Path) -> dict[str, dict[str, Any]]:
    """The kept results by file name, in the order of the page. Raises BadInput for one that can't be read."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{path} is no JSON ({error}): measure again with --keep") from error
        if not isinstance(result, dict) or result.get("format") != FORMAT or result.get("bench") not in BENCHMARKS:
            raise BadInput(f"{path} is no kept result of format {FORMAT}: measure again with --keep, or delete it")
        found[path.stem] = result
    if not found:
        raise BadInput(f"{folder} holds no results: measure with `python -m bench NAME --keep`")
    order = list(HEADINGS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page as Markdown."""
    parts = list(INTRODUCTION)
    for name, result in results.items():
        tables: Sequence[Table] = import_module(f"bench.{result['bench']}").tables(result)
        parts += [f"## {HEADINGS.get(name, name)}", f"```\n{result['command']}\n```", machine_line(result)]
        parts += [as_markdown(table).rstrip() for table in tables if table.title != "Versions"]
        parts.append(f"Versions: {', '.join(f'{one} {number}' for one, number in result['versions'].items())}.")
    return "\n\n".join(parts) + "\n"


def machine_line(result: Mapping[str, Any]) -> str:
    """When and on what it was measured."""
    machine = result["machine"]
    instructions = f" ({', '.join(machine['instructions'])})" if machine["instructions"] else ""
    load = "" if machine["load_before"] is None else f"; load before the run {machine['load_before']}"
    return (
        f"{result['made_at'][:10]}, {result['seconds']:.0f} s: {machine['processor']}{instructions}, "
        f"{machine['cores']} cores, {machine['threads']} threads, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}{load}."
    )
