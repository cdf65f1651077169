"""`python -m rag noise` at a terminal. It parses, joins the parts and prints, and computes no figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import BadInput
from rag.evaluation.command import (
    IngestPdfs,
    Show,
    engine_names,
    judge_argument,
    opened_set,
    output_arguments,
    positive,
    print_tables,
    settings_for_set,
    shown_progress,
)
from rag.settings import load_settings

if TYPE_CHECKING:
    from rag.evaluation.judges import JudgeName
    from rag.evaluation.sets import LabelledSet
    from rag.evaluation.tables import Table
    from rag.ports import Embedder
    from rag.settings import Settings


def add_noise_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], *, ingest_pdfs: IngestPdfs
) -> None:
    """Add `noise` to the commands of `python -m rag`."""
    noise = commands.add_parser(
        "noise",
        help="what reranking and a floor do to the noise in the context, to answers and to refusals",
        description="Ranks each question of a labelled set once, then answers it from four contexts: the first "
        "passages of recall; those after rerank; of these the ones that reach the floor in use; and a floor tuned on "
        "one half of the questions and measured on the other, both ways.",
    )
    noise.add_argument("set", type=Path, metavar="SET", help="folder of a labelled set, as for `evaluate`")
    noise.add_argument(
        "--only", metavar="PREFIX", default="", help="only questions whose id begins so; all documents stay searchable"
    )
    noise.add_argument("--engines", metavar="NAMES", help="rerankers, separated by commas: `rag rerankers`")
    noise.add_argument("--limit", type=positive, metavar="N", help="at most N questions of each kind, at random")
    noise.add_argument(
        "--min-relevance",
        type=positive,
        default=1,
        metavar="GRADE",
        help="from which grade on a passage is relevant (1)",
    )
    noise.add_argument("--seed", type=int, default=37, help="of the choice that --limit makes, and of the halves")
    judge_argument(noise)
    noise.add_argument("--data-dir", type=Path, help="where indexes are kept and reused (RANK37_DATA_DIR)")
    noise.add_argument("--progress", action="store_true", help="say how far it is, on stderr, also in a log")
    output_arguments(noise, "one JSON object for each reranker, a line each")
    noise.set_defaults(run=partial(_noise, ingest_pdfs=ingest_pdfs))


def _noise(options: argparse.Namespace, *, ingest_pdfs: IngestPdfs) -> int:
    from rag.evaluation.judges import check_judge
    from rag.evaluation.sets import read_set, sampled
    from rag.wiring import open_embedder

    settings = load_settings(data_dir=options.data_dir)
    check_judge(options.judge, settings)
    engines = engine_names(options.engines)
    labelled = read_set(options.set, min_relevance=options.min_relevance)
    questions = tuple(one for one in labelled.questions if one.id.startswith(options.only))
    if not questions:
        raise BadInput(
            f"--only {options.only!r}: none of the {len(labelled.questions)} questions of {labelled.name} has an id "
            f"that begins so, such as {labelled.questions[0].id!r}"
        )
    labelled = sampled(replace(labelled, questions=questions), options.limit, seed=options.seed)
    embedder = open_embedder(settings)
    values = []
    with shown_progress(options.progress) as show:
        for engine in engines:
            chosen = settings_for_set(settings, engine, labelled, embedder)
            value = noise_of_set(
                labelled,
                chosen,
                embedder,
                judge=options.judge,
                seed=options.seed,
                only=options.only,
                ingest_pdfs=ingest_pdfs,
                show=show,
            )
            if options.json:
                print(json.dumps(value, ensure_ascii=False), flush=True)
            values.append(value)
    if not options.json:
        print_tables([noise_table(value) for value in values], options.markdown)
    return 0


def noise_of_set(
    labelled: LabelledSet,
    settings: Settings,
    embedder: Embedder,
    *,
    judge: JudgeName = "relevance",
    seed: int = 37,
    only: str = "",
    ingest_pdfs: IngestPdfs,
    show: Show = lambda name, done, total: None,
) -> dict[str, Any]:
    """Index a set where that is not done yet, rank its questions once, answer them from each arm's context, report."""
    from rag.evaluation.judges import open_judge
    from rag.evaluation.noise import noise_report, rank_all, run_arms, tuned_floors

    depth = settings.recall_limit
    with opened_set(labelled, settings, embedder, depth=depth, ingest_pdfs=ingest_pdfs, show=show) as opened:
        engines, policy, items_of = opened
        chosen = open_judge(judge, settings, engines)
        ranking = partial(show, f"{labelled.name}, ranking by {engines.reranker.info.name}")
        rankings = rank_all(labelled.questions, engines, policy, items_of, progress=ranking)
        floors = tuned_floors(rankings, usual=policy.floor, seed=seed)
        answering = partial(show, f"{labelled.name}, answering")
        rows = run_arms(rankings, floors, engines, policy, items_of, chosen, progress=answering)
    return noise_report(labelled.name, rankings, rows, floors, chosen, policy, seed=seed) | {"only": only}


def noise_table(value: Mapping[str, Any]) -> Table:
    """The four arms, a row each."""
    from rag.evaluation.compare import reranker_name
    from rag.evaluation.noise import ARMS
    from rag.evaluation.tables import INTERVALS, Table, judge_note, with_interval

    rows = []
    for arm, words in ARMS.items():
        figures = value["arms"][arm]
        floors = " / ".join(f"{floor:.2f}" for floor in figures["floors"])
        answered, refused = figures["unanswerable_answered"], figures["answerable_refused"]
        rows.append(
            (
                f"{words} ({floors})" if floors else words,
                with_interval(figures["noise"]),
                with_interval(figures["hallucination_rate"]),
                with_interval(figures["cites_nothing_relevant"]),
                with_interval(figures["f1"]),
                f"{answered['count']} of {answered['of']}, {with_interval(answered['share'])}",
                f"{refused['count']} of {refused['of']}, {with_interval(refused['share'])}",
            )
        )
    only = f" whose id begins with {value['only']}" if value["only"] else ""
    return Table(
        f"{value['set']}: noise and answers, {value['n']} answerable questions and {value['n_unanswerable']} to be "
        f"refused{only}, reranked by {reranker_name(value)}",
        (
            "context",
            "noise in it",
            "unsupported answers",
            "cites nothing relevant",
            "F1 of answer/refuse",
            "unanswerable, answered",
            "answerable, refused",
        ),
        tuple(rows),
        (
            f"context: at most {value['answer_limit']} passages. noise: share of them that are not relevant, at "
            "answerable questions. unsupported answers: of all answers, those with a statement that the judge finds "
            "unsupported by the context. cites nothing relevant: of all answers, those that cite no relevant passage, "
            "by the labels. F1: an answer is right if the question is answerable and a relevant passage is in the "
            "context; all answerable questions are wanted. A tuned floor has the best F1 on one half of the questions "
            "and is measured on the other, both ways.",
            judge_note(value["judge"]),
            INTERVALS,
        ),
    )
