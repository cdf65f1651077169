"""`python -m rag evaluate` and `compare` at a terminal. It parses, joins the parts and prints, and computes no figure.

How PDFs are ingested is given to it, since `rag` knows nothing of `ingest`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import BadInput
from rag.settings import Settings, load_settings

if TYPE_CHECKING:
    from rag.evaluation.judges import JudgeName
    from rag.evaluation.rankings import ItemsOf
    from rag.evaluation.sets import LabelledSet
    from rag.evaluation.tables import Table
    from rag.ports import Embedder, Engines, Index
    from rag.types import QueryPolicy

Show = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and of how much."""

IngestPdfs = Callable[[Settings, "Embedder", "Index", Path, Show], None]
"""Brings the PDFs of a folder into the index."""

SECONDS_BETWEEN_LINES = 10.0


def add_evaluate_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], *, ingest_pdfs: IngestPdfs
) -> None:
    """Add `evaluate` to the commands of `python -m rag`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure recall, reranking and refusals on labelled questions",
        description="A set is a folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels.tsv, and optionally "
        "unanswerable*.jsonl), or one with pdfs/ and questions.jsonl; JSONL files can be zipped. Its index is built "
        "once and reused.",
    )
    evaluate.add_argument("sets", type=Path, nargs="+", metavar="SET", help="folder of a labelled set")
    evaluate.add_argument("--pool", action="store_true", help="put the passages of all sets into one index")
    evaluate.add_argument(
        "--engines", metavar="NAMES", help="rerankers to evaluate side by side, separated by commas: `rag rerankers`"
    )
    evaluate.add_argument(
        "--limit", type=positive, metavar="N", help="at most N questions of each kind of each set, at random"
    )
    evaluate.add_argument("--seed", type=int, default=37, help="of the choice that --limit makes")
    evaluate.add_argument(
        "--depth", type=positive, metavar="N", help="how many of the recalled passages are reranked (100)"
    )
    evaluate.add_argument(
        "--min-relevance",
        action="append",
        default=[],
        metavar="[SET=]GRADE",
        help="from which grade on a passage is relevant (1); nDCG takes grades as they are",
    )
    evaluate.add_argument(
        "--answers",
        action=argparse.BooleanOptionalAction,
        help="ask the whole way, or only up to the floor; without it, sets of PDFs are asked the whole way",
    )
    judge_argument(evaluate)
    evaluate.add_argument("--data-dir", type=Path, help="where indexes are kept and reused (RANK37_DATA_DIR)")
    evaluate.add_argument("--progress", action="store_true", help="say how far it is, on stderr, also in a log")
    output_arguments(evaluate, "one JSON object for each set and reranker, a line each")
    evaluate.set_defaults(run=partial(_evaluate, ingest_pdfs=ingest_pdfs))


def add_compare_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `compare` to the commands of `python -m rag`."""
    compare = commands.add_parser(
        "compare",
        help="two evaluations of the same questions: paired differences, and which questions flipped",
        description="Takes what `python -m rag evaluate SET... --json` printed: two files, or one that holds two "
        "reports of each set.",
    )
    compare.add_argument("files", type=Path, nargs="+", metavar="FILE")
    output_arguments(compare, "one JSON object for each set, a line each")
    compare.set_defaults(run=_compare)


def judge_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--judge`: who says whether a passage supports a statement."""
    parser.add_argument(
        "--judge",
        choices=("relevance", "llm"),
        default="relevance",
        help="who says whether passages support what an answer says: a reranker's score against the floor, which "
        "measures relevance and not entailment (the default), or the configured LLM",
    )


def output_arguments(parser: argparse.ArgumentParser, json_help: str) -> None:
    """Add `--json` and `--markdown`."""
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help=json_help)
    output.add_argument("--markdown", action="store_true", help="tables that a page can include as they are")


def positive(text: str) -> int:
    """A whole number of 1 or more, as argparse takes a type."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def _evaluate(options: argparse.Namespace, *, ingest_pdfs: IngestPdfs) -> int:
    from rag.evaluation.judges import check_judge
    from rag.evaluation.sets import pooled, read_set, sampled, set_name
    from rag.evaluation.tables import report_tables, summary_tables
    from rag.wiring import open_embedder

    settings = load_settings(data_dir=options.data_dir)
    check_judge(options.judge, settings)
    engines = engine_names(options.engines)
    relevance = _min_relevance(options.min_relevance, [set_name(folder) for folder in options.sets])
    sets = [read_set(folder, min_relevance=relevance.get(set_name(folder), 1)) for folder in options.sets]
    sets = [pooled(sets)] if options.pool else sets
    sets = [sampled(labelled, options.limit, seed=options.seed) for labelled in sets]
    embedder = open_embedder(settings)
    reports = []
    with shown_progress(options.progress) as show:
        for labelled in sets:
            for engine in engines:
                answers = labelled.pdfs is not None if options.answers is None else options.answers
                chosen = settings_for_set(settings, engine, labelled, embedder)
                value = evaluate_set(
                    labelled,
                    chosen,
                    embedder,
                    depth=options.depth,
                    answers=answers,
                    judge=options.judge,
                    ingest_pdfs=ingest_pdfs,
                    show=show,
                )
                if options.json:
                    print(json.dumps(value, ensure_ascii=False), flush=True)
                reports.append(value)
    if not options.json:
        print_tables(report_tables(reports[0]) if len(reports) == 1 else summary_tables(reports), options.markdown)
    return 0


def evaluate_set(
    labelled: LabelledSet,
    settings: Settings,
    embedder: Embedder,
    *,
    depth: int | None,
    answers: bool,
    judge: JudgeName = "relevance",
    ingest_pdfs: IngestPdfs,
    show: Show = lambda name, done, total: None,
) -> dict[str, Any]:
    """Index a set where that is not done yet, ask its questions of the configured engines, and report.

    100 passages are recalled, and `depth` of them reranked (None: as many as the settings recall); the others stay
    behind in recall order.
    """
    from rag.evaluation.judges import open_judge
    from rag.evaluation.rankings import ask_all
    from rag.evaluation.report import report

    depth = depth or settings.recall_limit
    with opened_set(labelled, settings, embedder, depth=depth, ingest_pdfs=ingest_pdfs, show=show) as opened:
        engines, policy, items_of = opened
        chosen = open_judge(judge, settings, engines) if answers else None
        asked, infos = ask_all(
            labelled.questions,
            engines,
            policy,
            items_of,
            answers=answers,
            judge=chosen,
            progress=partial(show, f"{labelled.name}, {engines.reranker.info.name}"),
        )
    who = chosen.info if chosen else None
    return report(labelled, asked, infos, policy, depth=depth, answers=answers, judge=who)


@contextmanager
def opened_set(
    labelled: LabelledSet,
    settings: Settings,
    embedder: Embedder,
    *,
    depth: int,
    ingest_pdfs: IngestPdfs,
    show: Show = lambda name, done, total: None,
) -> Iterator[tuple[Engines, QueryPolicy, ItemsOf]]:
    """The engines over a set's index, which is made where that is not done yet; the index is closed at the end.

    At least 100 passages are recalled, and the first `depth` of them reranked.
    """
    from rag.evaluation.depth import FirstOnly
    from rag.evaluation.passage_index import write_passages
    from rag.evaluation.rankings import RECALL_AT, items_of_pages, items_of_passages
    from rag.wiring import open_engines, open_index, policy_for

    index = open_index(settings, embedder.identity)
    try:
        if labelled.pdfs:
            ingest_pdfs(settings, embedder, index, labelled.pdfs, show)
            items_of = items_of_pages({one.document.id: one.document.source for one in index.documents()})
        else:
            progress = partial(show, f"indexing {labelled.name}")
            write_passages(labelled.passages, embedder, index, progress=progress)
            items_of = items_of_passages(labelled)
        engines = open_engines(settings, embedder=embedder, index=index)
        policy = replace(policy_for(settings, engines.reranker, embedder), recall_limit=max(RECALL_AT, depth))
        if depth < policy.recall_limit:
            engines = replace(engines, reranker=FirstOnly(engines.reranker, depth))
        yield engines, policy, items_of
    finally:
        index.close()


def settings_for_set(settings: Settings, engine: str | None, labelled: LabelledSet, embedder: Embedder) -> Settings:
    """The settings with the set's own collection and the named reranker, for which nothing may stand in."""
    made_with = [labelled.content, str(embedder.identity)]
    if labelled.pdfs:
        made_with += [str(settings.chunk_tokens), str(settings.chunk_overlap_tokens)]
    digest = hashlib.sha256("\n".join(made_with).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9_-]", "-", labelled.name)[:36]
    changes: dict[str, Any] = {"collection": f"evaluation-{name}-{digest}"}
    if engine is not None:
        changes |= {"reranker": engine, "reranker_revision": None, "reranker_fallback": None}
    return settings.model_copy(update=changes)


def engine_names(text: str | None) -> list[str | None]:
    """The rerankers that `--engines` names; a cascade's own comma belongs to it. None: the configured one.

    >>> engine_names("embedded,cascade:none,embedded,none"), engine_names(None)
    (['embedded', 'cascade:none,embedded', 'none'], [None])
    """
    if text is None:
        return [None]
    names: list[str | None] = []
    pieces = iter(piece.strip() for piece in text.split(","))
    for piece in pieces:
        if not piece:
            raise BadInput(f"--engines {text!r} has an empty name: separate names by single commas")
        names.append(f"{piece},{next(pieces, '')}" if piece.startswith("cascade:") else piece)
    return names


def _min_relevance(texts: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """The least relevant grade of each set."""
    grades: dict[str, int] = {}
    for text in texts:
        name, _, grade = text.rpartition("=")
        if not grade.isdigit() or int(grade) < 1 or (name and name not in names):
            raise BadInput(
                f"--min-relevance {text!r}: give a grade of 1 or more, alone or as SET=GRADE, "
                f"SET being one of {', '.join(names)}"
            )
        grades |= dict.fromkeys([name] if name else names, int(grade))
    return grades


def _compare(options: argparse.Namespace) -> int:
    from rag.evaluation.compare import comparison, pairs_of, pairs_within, read_reports
    from rag.evaluation.tables import comparison_tables

    if len(options.files) > 2:
        raise BadInput(f"{len(options.files)} files were named: compare takes two, or one that holds two reports")
    files = [read_reports(path) for path in options.files]
    pairs = pairs_of(*files) if len(files) == 2 else pairs_within(files[0])
    values = [comparison(first, second) for first, second in pairs]
    if options.json:
        for value in values:
            print(json.dumps(value, ensure_ascii=False))
    else:
        print_tables([table for value in values for table in comparison_tables(value)], options.markdown)
    return 0


def print_tables(tables: Sequence[Table], markdown: bool) -> None:
    """At a terminal, or as Markdown."""
    from rich.console import Console

    from rag.evaluation.tables import as_markdown, print_table

    if markdown:
        print("\n".join(as_markdown(table) for table in tables))
    else:
        console = Console()
        for table in tables:
            print_table(table, console)


@contextmanager
def shown_progress(wanted: bool) -> Iterator[Show]:
    """Bars at a terminal; elsewhere a line every ten seconds where progress is wanted, else nothing."""
    from rag.terminal import progress_bars

    if sys.stderr.isatty():
        with progress_bars() as show:
            yield show
    else:
        yield _lines() if wanted else lambda name, done, total: None


def _lines() -> Show:
    """Progress as lines on stderr, with an estimate of what is left."""
    started: dict[str, tuple[float, int]] = {}
    printed = 0.0

    def show(name: str, done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        began, first = started.setdefault(name, (now, done))
        if done < total and now - printed < SECONDS_BETWEEN_LINES:
            return
        printed = now
        left = f", {(now - began) / (done - first) * (total - done) / 60:.1f} minutes left" if done > first else ""
        print(f"{name}: {done} of {total}{left}", file=sys.stderr, flush=True)

    return show
