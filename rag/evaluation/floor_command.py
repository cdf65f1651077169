"""`python -m rag sweep`, `calibrate` and `floor` at a terminal. It parses, stores and prints, and computes nothing.

How PDFs are ingested is given to it, since `rag` knows nothing of `ingest`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import BadInput
from rag.evaluation.command import IngestPdfs, engine_names, positive, settings_for_set, shown_progress
from rag.settings import Settings, check_collection_name, load_settings

if TYPE_CHECKING:
    from rag.evaluation.scored_questions import ScoredQuestions
    from rag.evaluation.tables import Table
    from rag.floor_store import FloorInUse, FloorScope, StoredFloor

MakeFloor = Callable[[Mapping[str, Any], "FloorScope"], "StoredFloor"]


def add_floor_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], *, ingest_pdfs: IngestPdfs
) -> None:
    """Add `sweep`, `calibrate` and `floor` to the commands of `python -m rag`."""
    sweep = commands.add_parser(
        "sweep",
        help="what every floor does to labelled questions, and the best one by F1",
        description="Takes a labelled set as `evaluate` reads it, whose index is built once and reused, or labels of "
        "the collection's own questions.",
    )
    _question_arguments(sweep)
    sweep.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves into a .svg, .png or .html file")
    sweep.add_argument(
        "--by",
        choices=("answer", "keep"),
        default="answer",
        help="with --use or --apply: the best floor to answer or refuse (the default), or to keep or drop a passage",
    )
    sweep.set_defaults(run=partial(_sweep, ingest_pdfs=ingest_pdfs))

    calibrate = commands.add_parser(
        "calibrate",
        help="the floor at which the right passage survives with a probability of at least 1 - risk",
        description="The split-conformal floor of a labelled set as `evaluate` reads it, or of labels of the "
        "collection's own questions; and a bound on answering what can't be answered.",
    )
    _question_arguments(calibrate)
    calibrate.add_argument(
        "--risk", type=float, default=0.05, metavar="R", help="most often that the right passage is lost (0.05)"
    )
    calibrate.set_defaults(run=partial(_calibrate, ingest_pdfs=ingest_pdfs))

    floor = commands.add_parser("floor", help="which floor is in use and why; set one by hand, or forget it")
    actions = floor.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="the floor in use, why, and what it was measured for")
    show.add_argument("--json", action="store_true", help="print it as JSON")
    show.set_defaults(run=_show)
    put = actions.add_parser("set", help="use this floor for the collection, the reranker and the chunking as they are")
    put.add_argument("value", type=float, metavar="VALUE", help="0 to 1")
    put.set_defaults(run=_set)
    reset = actions.add_parser("reset", help="forget the floor that was chosen for what is in use")
    reset.set_defaults(run=_reset)
    for action in (show, put, reset):
        _place_arguments(action)


def _place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="folder of indexes, files and floors (RANK37_DATA_DIR)")
    parser.add_argument("--collection", help="which collection (RANK37_COLLECTION)")


def _question_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", type=Path, nargs="?", metavar="SET", help="folder of a labelled set")
    parser.add_argument(
        "--labels",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="instead of SET: labelled questions of the collection, as `train` and the app's labels have them",
    )
    parser.add_argument(
        "--engines", metavar="NAMES", help="rerankers side by side, separated by commas: `rag rerankers`"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="at most N questions of each kind, at random")
    parser.add_argument("--seed", type=int, default=37, help="of the choice that --limit makes")
    parser.add_argument(
        "--min-relevance",
        type=positive,
        default=1,
        metavar="GRADE",
        help="from which grade on a passage is relevant (1)",
    )
    _place_arguments(parser)
    use = parser.add_mutually_exclusive_group()
    use.add_argument("--use", metavar="NAME", help="use the floor that is found for this collection from now on")
    use.add_argument("--apply", action="store_true", help="the same for the collection in the settings")
    parser.add_argument("--json", action="store_true", help="one JSON object for each reranker, a line each")
    parser.add_argument("--progress", action="store_true", help="say how far it is, on stderr, also in a log")


def _sweep(options: argparse.Namespace, *, ingest_pdfs: IngestPdfs) -> int:
    from rag.evaluation.floor_plot import check_plot_path, save_chart
    from rag.evaluation.floor_report import floor_of_sweep, sweep_report, sweep_tables

    if options.plot:
        check_plot_path(options.plot)
    reports = []
    for scored, settings in _asked(options, ingest_pdfs):
        report = sweep_report(scored)
        reports.append(report)
        _print(report, sweep_tables(report), options.json)
        _use(options, settings, scored, report, partial(floor_of_sweep, by=options.by))
    if options.plot:
        save_chart(reports, options.plot)
        print(f"the curves are in {options.plot}", file=sys.stderr)
    return 0


def _calibrate(options: argparse.Namespace, *, ingest_pdfs: IngestPdfs) -> int:
    from rag.evaluation.floor_report import calibration_report, calibration_tables, floor_of_calibration
    from rag.evaluation.floors import questions_needed

    questions_needed(options.risk)  # refuses a risk that can't be met, before hours of scoring
    for scored, settings in _asked(options, ingest_pdfs):
        report = calibration_report(scored, options.risk)
        _print(report, calibration_tables(report), options.json)
        _use(options, settings, scored, report, floor_of_calibration)
    return 0


def _asked(options: argparse.Namespace, ingest_pdfs: IngestPdfs) -> Iterator[tuple[ScoredQuestions, Settings]]:
    """The questions as each reranker scores them, with the settings of the collection that a floor is for."""
    from rag.evaluation.scored_questions import score_labels, score_set
    from rag.evaluation.sets import read_set, sampled
    from rag.wiring import open_collection_embedder

    engines = engine_names(options.engines)
    if (options.set is None) == (not options.labels):
        raise BadInput("name either a SET or --labels FILE: a floor is chosen from labelled questions of one kind")
    if options.labels and options.limit:
        raise BadInput("--limit is for a SET: leave it out with --labels")
    if (options.use or options.apply) and len(engines) > 1:
        raise BadInput(f"{len(engines)} rerankers have {len(engines)} floors: name one, or leave out --use and --apply")
    if options.use:
        check_collection_name(options.use)
    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    labelled = None
    if options.set is not None:
        labelled = sampled(read_set(options.set, min_relevance=options.min_relevance), options.limit, seed=options.seed)
    embedder = open_collection_embedder(settings.model_copy(update={"collection": options.use or settings.collection}))
    with shown_progress(options.progress) as show:
        for engine in engines:
            if labelled is not None:
                chosen = settings_for_set(settings, engine, labelled, embedder)
                scored = score_set(
                    labelled,
                    chosen,
                    embedder,
                    collection=options.use or settings.collection,
                    ingest_pdfs=ingest_pdfs,
                    show=show,
                )
            else:
                chosen = settings if engine is None else _with_reranker(settings, engine)
                scored = score_labels(options.labels, chosen, embedder, show=show)
            yield scored, settings


def _with_reranker(settings: Settings, engine: str) -> Settings:
    """The settings with that reranker, for which nothing may stand in."""
    return settings.model_copy(update={"reranker": engine, "reranker_revision": None, "reranker_fallback": None})


def _use(
    options: argparse.Namespace,
    settings: Settings,
    scored: ScoredQuestions,
    report: Mapping[str, Any],
    make: MakeFloor,
) -> None:
    """Store what was found, where that was asked for, and say for what."""
    from rag.floor_store import floor_text
    from rag.wiring import floor_store

    if not (options.use or options.apply):
        return
    collection = options.use or settings.collection
    chosen = make(report, replace(scored.scope, collection=collection))
    floor_store(settings).put(chosen)
    print(f"floor {floor_text(chosen.value)} is stored for {_scope_text(chosen.scope)}", file=sys.stderr)
    if options.set is not None:
        print(
            f"it was measured on {scored.name}: it holds for {collection!r} as far as its questions and passages are "
            "of that kind",
            file=sys.stderr,
        )
    _warn_of_setting(settings)


def _show(options: argparse.Namespace) -> int:
    from rag.floor_store import floor_text
    from rag.wiring import floor_store

    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    found = _in_use(settings)
    others = [one for one in floor_store(settings).of_collection(settings.collection) if one.scope != found.scope]
    if options.json:
        print(json.dumps({**asdict(found), "others": [asdict(one) for one in others]}, ensure_ascii=False))
        return 0
    print(f"floor {floor_text(found.value)} ({found.source}): {found.why}")
    print(f"in use: {_scope_text(found.scope)}")
    for one in others:
        differences = ", ".join(found.scope.differences(one.scope))
        print(f"not used: {floor_text(one.value)}, {one.how}, {one.chosen_at[:10]}, for {differences}")
    if found.stale:
        print(f"choose one for what is in use: python -m rag calibrate SET --use {settings.collection}")
    return 0


def _set(options: argparse.Namespace) -> int:
    from rag.evaluation.floor_report import floor_by_hand
    from rag.floor_store import floor_text
    from rag.wiring import floor_store

    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    if not 0 <= options.value <= 1:
        raise BadInput(f"a floor of {options.value:g} can't be used: scores lie in 0 to 1, and so must a floor")
    chosen = floor_by_hand(options.value, _in_use(settings).scope)
    floor_store(settings).put(chosen)
    print(f"floor {floor_text(chosen.value)} is stored for {_scope_text(chosen.scope)}")
    _warn_of_setting(settings)
    return 0


def _reset(options: argparse.Namespace) -> int:
    from rag.floor_store import floor_text
    from rag.wiring import floor_store

    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    removed = floor_store(settings).remove(_in_use(settings).scope)
    found = _in_use(settings)
    before = (
        f"the floor of {floor_text(removed.value)} is forgotten"
        if removed
        else "no floor was chosen for what is in use"
    )
    print(f"{before}; it is {floor_text(found.value)} ({found.source}): {found.why}")
    return 0


def _in_use(settings: Settings) -> FloorInUse:
    """The floor in use; the collection is not opened, so that the app may run meanwhile."""
    from rag.wiring import floor_in_use, open_collection_embedder, open_rerankers

    return floor_in_use(settings, open_rerankers(settings)[0], open_collection_embedder(settings))


def _scope_text(scope: FloorScope) -> str:
    chunks = scope.chunk_tokens or "as many tokens as the embedder reads"
    details = ", ".join(part for part in (scope.revision[:12], scope.precision) if part)
    return (
        f"collection {scope.collection}, {scope.reranker}{f' ({details})' if details else ''}, chunks of {chunks} "
        f"(overlap {scope.chunk_overlap_tokens}) by {scope.embedder}"
    )


def _warn_of_setting(settings: Settings) -> None:
    from rag.floor_store import floor_text

    if "floor" in settings.model_fields_set:
        print(f"RANK37_FLOOR = {floor_text(settings.floor)} overrides it: unset that to use it", file=sys.stderr)


def _print(report: Mapping[str, Any], tables: list[Table], as_json: bool) -> None:
    from rich.console import Console

    from rag.evaluation.tables import print_table

    if as_json:
        print(json.dumps(report, ensure_ascii=False), flush=True)
        return
    for table in tables:
        print_table(table, Console())
