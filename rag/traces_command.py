"""`python -m rag traces`: look at the questions kept, take them out as JSONL, and delete them.

It reads and deletes whether or not RANK37_TRACES is on now; what is kept, and how long, is the settings' choice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rag.errors import BadInput
from rag.json_lines import open_text, read_rows
from rag.settings import load_settings
from rag.terminal import escape
from rag.trace_json import stored_as_json, stored_from_json
from rag.types import Failure, Label, Result, StoredTrace, TraceSummary

if TYPE_CHECKING:
    from rag.ports import TraceStore

LISTED = 20
"""How many traces `list` shows unless it is told otherwise."""
ID_SHOWN = 8
"""Digits of a trace's id in a list; `show` and `delete` take any beginning that only one trace has."""
TRAINING_VERDICTS = ("right", "wrong", "wrongly_refused")
"""What `python -m rag train` learns from; a judgement of a whole answer names no passage."""


def add_traces_command(commands: Any) -> None:
    """Add `traces` and its actions to the parser's commands."""
    traces = commands.add_parser("traces", help="the questions kept: list, show, export, labels, delete, stats")
    actions = traces.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the latest questions, one a line")
    listing.add_argument("--limit", type=int, default=LISTED, help=f"how many at most ({LISTED}; 0: all)")
    listing.add_argument("--json", action="store_true", help="print them as JSON, with all scores")
    _narrowing(listing)
    listing.set_defaults(run=_list)

    show = actions.add_parser("show", help="one question: outcome, citations, ranking, labels")
    show.add_argument("id", help="its id, or a beginning that no other trace has")
    show.add_argument("--json", action="store_true", help="print everything that was kept, as in an export")
    _where(show)
    show.set_defaults(run=_show)

    export = actions.add_parser("export", help="everything that was kept, as JSONL that can be read back")
    export.add_argument("--out", type=Path, help="file to write, plain or .gz; without it: standard output")
    _narrowing(export)
    export.set_defaults(run=_export)

    labels = actions.add_parser("labels", help="the labels as JSONL for `python -m rag train mine --labels`")
    labels.add_argument("--out", type=Path, help="file to write, plain or .gz; without it: standard output")
    _collection(labels)
    _where(labels)
    labels.set_defaults(run=_labels)

    delete = actions.add_parser("delete", help="delete traces and their labels, for good")
    which = delete.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", help="one trace: its id, or a beginning that no other has")
    which.add_argument("--older-than", type=float, metavar="DAYS", help="those asked longer ago, and older labels")
    which.add_argument("--all", action="store_true", help="all of them")
    which.add_argument("--document", metavar="ID", help="a document's words, from all traces of --collection")
    _collection(delete)
    _where(delete)
    delete.set_defaults(run=_delete)

    stats = actions.add_parser("stats", help="how many traces and labels there are, and how questions ended")
    stats.add_argument("--json", action="store_true", help="print the figures as JSON")
    _narrowing(stats)
    stats.set_defaults(run=_stats)


def training_rows(labels: Iterable[Label]) -> Iterator[dict[str, str]]:
    """The labels as `rag.training.questions` reads them; those of whole answers are left out.

    >>> list(training_rows([Label("t", "Why?", "right", "", "c", "Because."), Label("t", "Why?", "good_answer", "")]))
    [{'question': 'Why?', 'passage': 'Because.', 'label': 'right'}]
    >>> list(training_rows([Label("t", "Why?", "wrongly_refused", "")]))
    [{'question': 'Why?', 'label': 'wrongly_refused'}]
    """
    for label in labels:
        if label.verdict in TRAINING_VERDICTS:
            passage = {"passage": label.passage} if label.passage else {}
            yield {"question": label.question, **passage, "label": label.verdict}


def read_export(path: Path) -> Iterator[StoredTrace]:
    """The traces of an export, in its order, equal to those that were kept. Raises BadInput naming file and line."""
    for number, row in read_rows(path):
        try:
            yield stored_from_json(row)
        except BadInput as error:
            raise BadInput(f"{path}, line {number}: {error}") from None


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="folder that holds the traces (RANK37_DATA_DIR)")


def _collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--collection", help="those of one collection; without it: of all")


def _narrowing(parser: argparse.ArgumentParser) -> None:
    _collection(parser)
    parser.add_argument("--since", help="those asked since then, such as 2026-01-31 (UTC) or 2026-01-31T12:00+01:00")
    _where(parser)


def _open(options: argparse.Namespace) -> closing[TraceStore]:
    from rag.wiring import open_trace_store

    settings = load_settings(data_dir=options.data_dir)
    store = open_trace_store(settings.model_copy(update={"traces": True}))
    assert store is not None
    return closing(store)


def _list(options: argparse.Namespace) -> int:
    if options.limit < 0:
        raise BadInput(f"--limit {options.limit}: take 0 (all) or more")
    with _open(options) as store:
        summaries = store.summaries(collection=options.collection, since=options.since, limit=options.limit or None)
        n_kept = store.count(collection=options.collection)
    if options.json:
        print(json.dumps([_summary_as_json(summary) for summary in summaries], ensure_ascii=False))
        return 0
    table = Table(expand=True)
    for name in ("id", "asked (UTC)", "collection", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("best", justify="right", no_wrap=True)
    table.add_column("labels", justify="right", no_wrap=True)
    table.add_column("question", ratio=1, no_wrap=True, overflow="ellipsis")
    for one in summaries:
        table.add_row(
            one.id[:ID_SHOWN],
            one.asked_at[:16].replace("T", " "),
            escape(one.collection),
            f"{one.outcome}: {one.reason}",
            "–" if one.best_score is None else f"{one.best_score:.2f}",
            str(len(one.labels) or ""),
            escape(one.question),
        )
    console = Console()
    console.print(table)
    console.print(f"[dim]{len(summaries)} of {n_kept} kept in {escape(store.where)}[/dim]", highlight=False)
    return 0


def _show(options: argparse.Namespace) -> int:
    from rag.terminal import print_ranking, print_result

    with _open(options) as store:
        stored = store.trace(_whole_id(store, options.id))
    assert stored is not None
    if options.json:
        print(json.dumps(stored_as_json(stored), ensure_ascii=False))
        return 0
    console = Console()
    trace = stored.trace
    console.print(f"[bold]{escape(trace.question)}[/bold]", highlight=False)
    if trace.query != trace.question:
        console.print(f"[dim]searched as: {escape(trace.query)}[/dim]", highlight=False)
    console.print(f"[dim]{trace.id}, asked at {trace.asked_at} in {escape(stored.collection)}[/dim]\n", highlight=False)
    if isinstance(stored.outcome, Failure):
        console.print(f"[bold]{stored.outcome.error}.[/bold] {escape(stored.outcome.message)}\n", highlight=False)
        print_ranking(trace, console)
        for note in trace.notes:
            console.print(f"[dim]{escape(note)}[/dim]", highlight=False)
    else:
        print_result(Result(stored.outcome, trace), console)
    for label in stored.labels:
        what = f"passage at rank {label.rank}" if label.chunk_id else "outcome"
        console.print(f"label: {label.verdict.replace('_', ' ')} ({what}, {label.given_at})", highlight=False)
    if stored.feedback:
        console.print(f"feedback: {escape(stored.feedback)}", highlight=False)
    return 0


def _export(options: argparse.Namespace) -> int:
    with _open(options) as store:
        traces = store.traces(collection=options.collection, since=options.since)
        n_rows = _write(options.out, (stored_as_json(stored) for stored in traces))
    print(f"{n_rows} traces{_to(options.out)}", file=sys.stderr)
    return 0


def _labels(options: argparse.Namespace) -> int:
    with _open(options) as store:
        labels = store.labels(collection=options.collection)
    n_rows = _write(options.out, training_rows(labels))
    left_out = f"; {len(labels) - n_rows} of whole answers are left out" if len(labels) > n_rows else ""
    print(f"{n_rows} labels{_to(options.out)}{left_out}", file=sys.stderr)
    return 0


def _delete(options: argparse.Namespace) -> int:
    with _open(options) as store:
        if options.id:
            n_deleted = int(store.delete(_whole_id(store, options.id)))
        elif options.document:
            if not options.collection:
                raise BadInput("--document needs --collection: the same file can be in several")
            n_touched = store.forget_document(options.document, collection=options.collection)
            print(f"{n_touched} traces lost the words of document {options.document}")
            return 0
        elif options.all:
            n_deleted = store.delete_all(collection=options.collection)
        else:
            if not 0 <= options.older_than <= 100_000:
                raise BadInput(f"--older-than {options.older_than:g}: take 0 to 100000 days")
            moment = datetime.now(UTC) - timedelta(days=options.older_than)
            n_deleted = store.delete_before(moment.isoformat(), collection=options.collection)
        print(f"{n_deleted} traces deleted, {store.count()} kept in {store.where}")
    return 0


def _stats(options: argparse.Namespace) -> int:
    with _open(options) as store:
        summaries = store.summaries(collection=options.collection, since=options.since)
        labels = store.labels(collection=options.collection)
        where = store.where
    figures = _figures(summaries, labels, where)
    if options.json:
        print(json.dumps(figures, ensure_ascii=False))
        return 0
    console = Console()
    console.print(f"{figures['n']} traces in {escape(where)}", highlight=False)
    if summaries:
        console.print(f"asked from {figures['first_asked_at']} to {figures['last_asked_at']}", highlight=False)
        console.print(f"median time: {figures['median_total_ms']:.0f} ms", highlight=False)
    for title, name in (("outcomes", "outcomes"), ("collections", "collections"), ("labels", "labels")):
        for what, count in figures[name].items():
            console.print(f"{title}: {escape(what)}: {count}", highlight=False)
    return 0


def _figures(summaries: list[TraceSummary], labels: list[Label], where: str) -> dict[str, Any]:
    totals = [one.timings_ms["total"] for one in summaries if "total" in one.timings_ms]
    return {
        "n": len(summaries),
        "where": where,
        "first_asked_at": summaries[-1].asked_at if summaries else None,
        "last_asked_at": summaries[0].asked_at if summaries else None,
        "outcomes": dict(Counter(f"{one.outcome}: {one.reason}" for one in summaries).most_common()),
        "collections": dict(Counter(one.collection for one in summaries).most_common()),
        "labels": dict(Counter(label.verdict for label in labels).most_common()),
        "median_total_ms": statistics.median(totals) if totals else None,
    }


def _summary_as_json(summary: TraceSummary) -> dict[str, Any]:
    return {
        "id": summary.id,
        "asked_at": summary.asked_at,
        "collection": summary.collection,
        "question": summary.question,
        "floor": summary.floor,
        "outcome": summary.outcome,
        "reason": summary.reason,
        "best_score": summary.best_score,
        "scores": list(summary.scores),
        "recall_ranks": list(summary.recall_ranks),
        "timings_ms": dict(summary.timings_ms),
        "labels": len(summary.labels),
    }


def _whole_id(store: TraceStore, beginning: str) -> str:
    """The one id that begins so. Raises BadInput where there is none, or more than one."""
    if store.trace(beginning) is not None:
        return beginning
    found = [one.id for one in store.summaries() if one.id.startswith(beginning)]
    if len(found) != 1:
        how_many = f"{len(found)} traces begin" if found else "no trace begins"
        raise BadInput(f"{how_many} with {beginning!r}: `python -m rag traces list` names those there are")
    return found[0]


def _write(path: Path | None, rows: Iterable[dict[str, Any]]) -> int:
    """One row a line; returns their number. A file is written whole or not at all."""
    if path is None:
        return _write_rows(sys.stdout, rows)
    part = path.with_name(f".part-{path.name}")
    try:
        with open_text(part, "w") as out:
            n_rows = _write_rows(out, rows)
        part.replace(path)
    except OSError as error:
        raise BadInput(f"--out {path}: can't be written ({error.strerror}): name another file") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return n_rows


def _write_rows(out: IO[str], rows: Iterable[dict[str, Any]]) -> int:
    n_rows = 0
    for row in rows:
        # ASCII, so that no terminal's encoding stands in the way.
        out.write(json.dumps(row) + "\n")
        n_rows += 1
    return n_rows


def _to(path: Path | None) -> str:
    return f" written to {path}" if path else ""
