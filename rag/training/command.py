"""`python -m rag train ...`: the steps of training at a terminal. It parses and prints; the steps are other files.

split -> mine -> fine-tune -> candidates -> calibrate -> promote (-> rollback)        from labelled questions
split -> generate -> mine -> ...                                                      from few, and an LLM's beside them
distil -> fine-tune                                                                   from a stronger reranker
mine -> teach -> fine-tune                                                            from both
calibrate --late-interaction -> foretell                                              the same order in less time
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import BadInput
from rag.settings import Settings, load_settings
from rag.types import QueryPolicy

if TYPE_CHECKING:
    from rich.console import Console

    from rag.evaluation.passage_index import CorpusPassage
    from rag.training.calibrate import CalibrationReport
    from rag.training.plan import TrainingStep
    from rag.training.pool import Pool
    from rag.training.promote import Verdict
    from rag.training.questions import TrainingQuestion

Show = Callable[[str, int, int], None]

SECONDS_BETWEEN_LINES = 10.0
"""How often a training says where it is where nobody watches a bar."""


def add_train_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` and its steps to the commands of `python -m rag`."""
    train = commands.add_parser(
        "train", help="train a reranker on labelled questions, and let it serve if it is better"
    )
    steps = train.add_subparsers(required=True, metavar="STEP")

    split = steps.add_parser("split", help="labelled questions to learn from, and others to measure on")
    split.add_argument("questions", type=Path, nargs="+", help="JSONL[.gz] of questions or labels")
    split.add_argument("--learn", type=Path, required=True, help="JSONL for those to learn from")
    split.add_argument("--held-out", type=Path, required=True, help="JSONL for those that are kept aside")
    split.add_argument("--share", type=float, default=0.4, help="share of the questions kept aside (0.4)")
    split.add_argument("--seed", type=int, default=37)
    split.set_defaults(run=_split)

    generate = steps.add_parser("generate", help="questions that the LLM writes about passages, in the manner of yours")
    _source_arguments(generate)
    generate.add_argument("--out", type=Path, required=True, help="JSONL[.gz] of labels, for `mine --labels`")
    generate.add_argument("--answered", type=int, default=3, help="most questions that a passage answers (3)")
    generate.add_argument("--unanswered", type=int, default=1, help="most that come near it and it doesn't answer (1)")
    generate.add_argument("--examples", type=int, default=12, help="how many of your questions a prompt shows (12)")
    generate.add_argument(
        "--within", type=int, default=100, help="kept if recall finds the passage among so many (100)"
    )
    generate.add_argument("--passage-limit", type=int, help="write about at most so many passages, chosen at random")
    generate.add_argument("--at-once", type=int, default=4, help="requests to the LLM at a time, at most 64 (4)")
    generate.set_defaults(run=_generate)

    mine = steps.add_parser("mine", help="hard negatives for labelled questions, from recall")
    _source_arguments(mine)
    _out_argument(mine)
    mine.add_argument("--negatives", type=int, default=5, help="how many of a question's candidates are taken (5)")
    mine.add_argument(
        "--relative-margin",
        type=float,
        default=0.95,
        help="leave out what is nearer to the question than this share of the gold passage's cosine (0.95); above 1 "
        "where every right passage is labelled",
    )
    mine.add_argument("--judge", help="a reranker that takes likely false negatives out: embedded, a name or a folder")
    mine.set_defaults(run=_mine)

    candidates = steps.add_parser("candidates", help="all that recall finds for labelled questions, to measure on")
    _source_arguments(candidates)
    _out_argument(candidates)
    candidates.add_argument("--depth", type=int, default=100, help="how many passages are recalled (100)")
    candidates.set_defaults(run=_candidates)

    distil = steps.add_parser("distil", help="a stronger reranker's labels for what recall finds, to learn from")
    _source_arguments(distil)
    _out_argument(distil)
    distil.add_argument("--teacher", required=True, help="any reranker: a name, a folder, cohere, rank-gpt, ...")
    distil.add_argument("--depth", type=int, default=20, help="how many passages of a question it labels (20)")
    distil.set_defaults(run=_distil)

    teach = steps.add_parser("teach", help="add a teacher's order to mined groups: fine-tune then learns both")
    teach.add_argument("groups", type=Path, nargs="+", help="JSONL[.gz] files that `mine` wrote")
    _out_argument(teach)
    teach.add_argument("--teacher", default="colbert", help="any reranker; colbert: MaxSim of the embedder's tokens")
    teach.set_defaults(run=_teach)

    fine_tune = steps.add_parser("fine-tune", help="fine-tune a cross-encoder on groups")
    fine_tune.add_argument("groups", type=Path, nargs="+", help="JSONL[.gz] files that `mine` or `distil` wrote")
    fine_tune.add_argument(
        "--base", required=True, help="the model to start from: embedded, all-MiniLM-L6-v2, a name or a folder"
    )
    fine_tune.add_argument("--out", type=Path, required=True, help="folder for the model and its checkpoints")
    fine_tune.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    _plan_arguments(fine_tune)
    fine_tune.set_defaults(run=_fine_tune)

    average = steps.add_parser("average", help="one model from several of the same base: the mean of their weights")
    average.add_argument("models", type=Path, nargs="+", help="folders of models")
    average.add_argument("--shares", type=float, nargs="+", default=[], help="weight of each (equal)")
    average.add_argument("--out", type=Path, required=True, help="folder for the mean")
    average.set_defaults(run=_average)

    calibrate = steps.add_parser("calibrate", help="make scores mean probabilities, on held-out questions")
    calibrate.add_argument("model", type=Path, help="folder of the model")
    calibrate.add_argument("--groups", type=Path, nargs="+", required=True, help="files that `candidates` wrote")
    calibrate.add_argument("--out", type=Path, required=True, help="folder for the calibrated model")
    calibrate.add_argument(
        "--by",
        choices=("passage", "question"),
        default="passage",
        help="what a score is the probability of: that the passage is right, or, for the best passage of a question, "
        "that the question is answered by the best five (passage)",
    )
    calibrate.add_argument(
        "--late-interaction",
        action="store_true",
        help="add MaxSim of all-MiniLM-L6-v2's token vectors to the model's score, with weights fitted on --groups",
    )
    calibrate.set_defaults(run=_calibrate)

    foretell = steps.add_parser("foretell", help="have late interaction say which passages the cross-encoder must read")
    foretell.add_argument("model", type=Path, help="folder of the model, calibrated with late interaction")
    foretell.add_argument("--groups", type=Path, nargs="+", required=True, help="files that `candidates` wrote")
    foretell.add_argument("--out", type=Path, required=True, help="folder for the quicker model")
    foretell.add_argument("--read", type=int, default=20, help="so many of the best of a question are read (20)")
    foretell.add_argument("--below", type=float, default=0.25, help="and all that may score this or more (0.25)")
    foretell.add_argument(
        "--floor", type=float, default=QueryPolicy().floor, help="floor whose flips are counted (0.4)"
    )
    foretell.set_defaults(run=_foretell)

    promote = steps.add_parser("promote", help="let a trained reranker serve, if it beats the one in use")
    promote.add_argument("model", type=Path, help="folder of the model")
    promote.add_argument("--groups", type=Path, nargs="+", required=True, help="files that `candidates` wrote")
    promote.add_argument("--name", required=True, help="what it is called from now on")
    promote.add_argument("--alpha", type=float, default=0.05, help="most probability that the gain is luck (0.05)")
    promote.add_argument("--data-dir", type=Path, help="folder that it serves in (RANK37_DATA_DIR)")
    promote.set_defaults(run=_promote)

    rollback = steps.add_parser("rollback", help="let the reranker before the promoted one serve again")
    rollback.add_argument("--data-dir", type=Path, help="folder that it served in (RANK37_DATA_DIR)")
    rollback.set_defaults(run=_rollback)

    export = steps.add_parser("export", help="write a model in float16, half the size, checked to score as before")
    export.add_argument("model", type=Path, help="folder of the model")
    export.add_argument("--out", type=Path, required=True, help="folder for the smaller one")
    export.add_argument("--limit-mb", type=float, default=50.0, help="largest size of the folder (50)")
    export.add_argument("--groups", type=Path, help="a file of groups whose pairs are scored for the check")
    export.set_defaults(run=_export)


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=Path, nargs="+", default=[], help="JSONL[.gz] of query, positive, answers?")
    parser.add_argument(
        "--questions", type=Path, nargs="+", default=[], help="JSONL[.gz] of text, evidence (doc, page, quote)"
    )
    parser.add_argument(
        "--labels", type=Path, nargs="+", default=[], help="JSONL[.gz] of question, passage, label, as people gave them"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--passages", type=Path, help="JSONL[.gz] of _id, title?, text: recall searches these")
    where.add_argument("--collection", help="or this collection of the app")
    parser.add_argument("--data-dir", type=Path, help="folder of the collection (RANK37_DATA_DIR)")
    parser.add_argument("--limit", type=int, help="at most so many questions, chosen at random")
    parser.add_argument("--pool-limit", type=int, help="at most so many of --passages, chosen at random")
    parser.add_argument("--seed", type=int, default=37)


def _out_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, help="JSONL[.gz] of query, pos, neg, as FlagEmbedding reads it"
    )


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    from rag.training.plan import TrainingPlan

    kinds: dict[str, Callable[[str], object]] = {"float": float, "int": int}
    for field in fields(TrainingPlan):
        name = "--" + field.name.replace("_", "-")
        if field.type in kinds:
            parser.add_argument(name, type=kinds[field.type], default=field.default)
        else:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)


@dataclass(frozen=True, slots=True)
class _Source:
    """What the steps that recall work on."""

    questions: list[TrainingQuestion]
    pool: Pool
    settings: Settings
    """The person's own, whatever the pool is."""


@contextmanager
def _opened_source(options: argparse.Namespace, show: Show) -> Iterator[_Source]:
    """The questions and the passages that a step's options name; the index is closed at the end."""
    from rag.training.pool import Pool
    from rag.training.questions import Unresolved, read_questions, resolve
    from rag.wiring import open_collection_embedder, open_embedder, open_index

    rows = read_questions([*options.pairs, *options.questions, *options.labels])
    if not rows:
        raise BadInput("no questions: name files with --pairs, --questions or --labels")
    choose = random.Random(options.seed)
    if options.limit and options.limit < len(rows):
        rows = choose.sample(rows, options.limit)
    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    if options.passages:
        if any(row.evidence for row in rows):
            raise BadInput("questions with evidence name documents and pages: use --collection, not --passages")
        questions = [row.question for row in rows]
        with tempfile.TemporaryDirectory(prefix="rank37-pool-") as folder:
            own = {"data_dir": Path(folder), "collection": "pool", "qdrant_url": None, "reranker": None}
            embedder = open_embedder(settings)
            index = open_index(settings.model_copy(update=own), embedder.identity)
            try:
                passages = _limited(options, questions, choose)
                pool = Pool.of_passages(
                    passages, embedder, index, progress=lambda done, total: show("embedding passages", done, total)
                )
                yield _Source(questions, pool, settings)
            finally:
                index.close()
        return
    if not settings.qdrant_url and not settings.collection_dir.is_dir():
        raise BadInput(f"there is no collection {settings.collection!r} in {settings.data_dir}: ingest PDFs first")
    embedder = open_collection_embedder(settings)
    index = open_index(settings, embedder.identity)
    try:
        if index.count_chunks() == 0:
            raise BadInput(f"collection {settings.collection!r} holds no documents: ingest PDFs first")
        unresolved = Unresolved()
        questions = resolve(rows, index, unresolved)
        for reason in unresolved.reasons:
            print(f"left out: {reason}", file=sys.stderr)
        if not questions:
            raise BadInput(f"none of the questions is about the documents of collection {settings.collection!r}")
        yield _Source(questions, Pool(embedder, index), settings)
    finally:
        index.close()


def _limited(
    options: argparse.Namespace, questions: list[TrainingQuestion], choose: random.Random
) -> list[CorpusPassage]:
    from rag.evaluation.passage_index import read_passages

    passages = read_passages(options.passages)
    if not options.pool_limit or options.pool_limit >= len(passages):
        return passages
    wanted = {passage.text for question in questions for passage in question.positives}
    needed = [passage for passage in passages if passage.text in wanted]
    others = [passage for passage in passages if passage.text not in wanted]
    return needed + choose.sample(others, min(len(others), max(0, options.pool_limit - len(needed))))


def _split(options: argparse.Namespace) -> int:
    import json

    from rag.json_lines import open_text, read_rows
    from rag.training.groups import row_query, split_rows

    if not 0 < options.share < 1:
        raise BadInput(f"--share {options.share}: take a share between 0 and 1")
    rows = []
    for path in options.questions:
        for number, row in read_rows(path):
            if not row_query(row).strip():
                raise BadInput(f"{path}, line {number}: no question; give it as query, text or question")
            rows.append(row)
    learn, held_out = split_rows(rows, options.share, options.seed)
    for kind, path in ((learn, options.learn), (held_out, options.held_out)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_text(path, "w") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kind)
    print(f"{len(learn)} rows to learn from in {options.learn}, {len(held_out)} held out in {options.held_out}")
    return 0


def _generate(options: argparse.Namespace) -> int:
    from rag.terminal import progress_bars
    from rag.training.generate import WritingPolicy, generate, left_over_labels, write_labels
    from rag.wiring import open_llm

    if not 1 <= options.at_once <= 64:
        raise BadInput(f"--at-once {options.at_once}: take 1 to 64 requests at a time")
    policy = WritingPolicy(options.answered, options.unanswered, options.examples, options.within, options.seed)
    done = left_over_labels(options.out)
    with progress_bars() as show, _opened_source(options, show) as source:
        llm = open_llm(source.settings)
        if llm is None:
            raise BadInput("no LLM is configured to write questions: set OPENAI_API_KEY, or OPENAI_BASE_URL")
        if llm.info.sends_data_to:
            print(f"questions and passages are sent to {llm.info.sends_data_to}", file=sys.stderr)
        chunks = source.pool.chunks()
        if options.passage_limit and options.passage_limit < len(chunks):
            chunks = random.Random(options.seed).sample(chunks, options.passage_limit)
        written_about = {row["passage"] for row in done}
        missing = [chunk for chunk in chunks if chunk.text not in written_about]
        written = write_labels(
            generate(
                missing,
                [question.query for question in source.questions],
                llm,
                source.pool,
                policy,
                known=[row["question"] for row in done],
                at_once=options.at_once,
                progress=lambda done, total: show(f"questions by {llm.info.name}", done, total),
            ),
            options.out,
            by=llm.info.name,
        )
    count = len(done) + sum(len(one.questions) for one in written)
    kept = f", {len(done)} of them from an earlier run" if done else ""
    print(f"{count} questions about {len(chunks)} passages in {options.out}{kept}")
    print(
        f"left out: {sum(one.unusable for one in written)} lines that are no question as asked for, "
        f"{sum(one.repeated for one in written)} that are there already, "
        f"{sum(one.not_recalled for one in written)} whose passage is not among the first {policy.within} recalled"
    )
    if not count:
        raise BadInput(f"{llm.info.name} wrote no question that can be used: try another model (OPENAI_MODEL)")
    return 0


def _mine(options: argparse.Namespace) -> int:
    from rag.terminal import progress_bars
    from rag.training.groups import write_groups
    from rag.training.mine import MiningPolicy, mine
    from rag.wiring import open_named_reranker

    with progress_bars() as show, _opened_source(options, show) as source:
        # A judge reads each pair once: remembering scores would only push the app's own out.
        uncached = source.settings.model_copy(update={"rerank_cache_mb": 0.0})
        judge = open_named_reranker(options.judge, uncached) if options.judge else None
        policy = MiningPolicy(seed=options.seed, relative_margin=options.relative_margin).taking(options.negatives)
        if options.collection:  # passages of the app always carry their titles
            policy = replace(policy, titled_share=1.0)
        groups = mine(
            source.questions,
            source.pool,
            policy,
            judge=judge,
            progress=lambda done, total: show("mining questions", done, total),
        )
        count = write_groups(groups, options.out)
    print(f"{count} groups of {len(source.questions)} questions in {options.out}")
    return 0


def _candidates(options: argparse.Namespace) -> int:
    from rag.terminal import progress_bars
    from rag.training.groups import write_groups
    from rag.training.mine import candidates

    with progress_bars() as show, _opened_source(options, show) as source:
        labelled = [question for question in source.questions if question.answerable is not None]
        groups = candidates(
            labelled,
            source.pool,
            limit=options.depth,
            progress=lambda done, total: show("recalling", done, total),
        )
        count = write_groups(groups, options.out)
    unlabelled = len(source.questions) - len(labelled)
    note = f"; {unlabelled} without a label that says whether they are answered are left out" if unlabelled else ""
    print(f"{count} questions with all that recall finds in {options.out}{note}")
    return 0


def _distil(options: argparse.Namespace) -> int:
    from rag.terminal import progress_bars
    from rag.training.distil import distil, left_over, without, write_as_they_come
    from rag.training.mine import candidates
    from rag.wiring import open_named_reranker

    done = left_over(options.out)
    with progress_bars() as show, _opened_source(options, show) as source:
        teacher = open_named_reranker(options.teacher, source.settings)
        if teacher.info.sends_data_to:
            print(f"questions and passages are sent to {teacher.info.sends_data_to}", file=sys.stderr)
        recalled = list(
            candidates(
                source.questions,
                source.pool,
                limit=options.depth,
                progress=lambda done, total: show("recalling", done, total),
            )
        )
        groups = distil(
            without(recalled, done),
            teacher,
            progress=lambda done, total: show(f"labelling by {teacher.info.name}", done, total),
        )
        count = write_as_they_come(groups, options.out)
    kept = f", {len(done)} of them from an earlier run" if done else ""
    print(f"{count} groups labelled by {teacher.info.name} in {options.out}{kept}")
    return 0


def _teach(options: argparse.Namespace) -> int:
    from rag.terminal import progress_bars
    from rag.training.distil import left_over, teach, without, write_as_they_come
    from rag.training.groups import read_groups
    from rag.wiring import open_teacher

    groups = [group for path in options.groups for group in read_groups(path)]
    teacher = open_teacher(options.teacher, load_settings())
    missing = without(groups, left_over(options.out))
    with progress_bars() as show:
        taught = teach(missing, teacher, progress=lambda done, total: show("asking the teacher", done, total))
        count = write_as_they_come(taught, options.out)
    print(f"{count} groups with the order of {teacher.info.name} in {options.out}")
    return 0


def _fine_tune(options: argparse.Namespace) -> int:
    from rag.terminal import progress_bars
    from rag.training.groups import read_groups
    from rag.training.plan import TrainingPlan
    from rag.wiring import base_model_folder

    _need_training_packages()
    groups = [group for path in options.groups for group in read_groups(path)]
    plan = TrainingPlan(**{field.name: getattr(options, field.name) for field in fields(TrainingPlan)})
    base = base_model_folder(options.base)

    from transformers.utils import logging

    from rag.training.train import CROSS_ENTROPY_NAME, NDCG_NAME, RR_NAME, train

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it without annotations
    with progress_bars() as show:
        report = train(groups, base, options.out, plan, resume=options.resume, show=_training_display(show))
    for name in (NDCG_NAME, RR_NAME, CROSS_ENTROPY_NAME):
        print(f"{name}: {report['before'][name]:.4f} -> {report['after'][name]:.4f}")
    if report["after"][NDCG_NAME] <= report["before"][NDCG_NAME]:
        print("it orders held-out questions no better than the base: more labels, or a smaller --learning-rate")
    print(f"{report['steps']} steps in {report['seconds']:.0f} s; the model is in {options.out / 'model'}")
    return 0


def _need_training_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("accelerate", "datasets", "peft") if find_spec(name) is None]
    if missing:
        raise BadInput(f"fine-tuning needs {', '.join(missing)}: run `pip install 'rank37[train]'`")


def _training_display(show: Show) -> Callable[[TrainingStep], None]:
    """A bar at a terminal; elsewhere, such as in a log, a line now and then."""
    if sys.stderr.isatty():
        return lambda now: show(_loss_text(now), now.step, now.total)
    import time

    last_s = [time.monotonic()]

    def line(now: TrainingStep) -> None:
        if now.step == now.total or time.monotonic() - last_s[0] >= SECONDS_BETWEEN_LINES:
            last_s[0] = time.monotonic()
            minutes, seconds = divmod(round(now.seconds_left), 60)
            left = f"{minutes}:{seconds:02d} left"
            print(f"step {now.step} of {now.total}, {_loss_text(now)}, {left}", file=sys.stderr, flush=True)

    return line


def _loss_text(now: TrainingStep) -> str:
    loss = "training" if now.loss is None else f"loss {now.loss:.3f}"
    return loss if now.held_out_ndcg_10 is None else f"{loss}, held-out nDCG@10 {now.held_out_ndcg_10:.3f}"


def _average(options: argparse.Namespace) -> int:
    from rag.training.average import average
    from rag.training.model_folder import model_in

    average([model_in(folder) for folder in options.models], options.out, shares=options.shares)
    print(f"the mean of {len(options.models)} models in {options.out}")
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from rich.console import Console

    from rag.engines.cross_encoder import CrossEncoderReranker
    from rag.engines.late_fusion import FusionWeights, embedded_late_interaction
    from rag.terminal import progress_bars
    from rag.training.calibrate import (
        calibrate,
        fit_order,
        fuse,
        of_questions,
        report_on,
        score_features,
        score_groups,
    )
    from rag.training.groups import question_digest, read_groups
    from rag.training.model_folder import model_in, read_learnt_questions

    folder = model_in(options.model)
    groups = [group for path in options.groups for group in read_groups(path)]
    learnt = read_learnt_questions(folder)
    known = sum(question_digest(group.query) in learnt for group in groups)
    if known:
        raise BadInput(
            f"the model has learnt from {known} of these {len(groups)} questions: calibrate on held-out ones "
            "(`train split`), or its scores will say too much"
        )
    reranker = CrossEncoderReranker.load(folder)
    with progress_bars() as show:
        scored = score_groups(groups, reranker, progress=lambda done, total: show("scoring", done, total))
        if options.late_interaction:
            late = embedded_late_interaction()
            features = score_features(groups, late, progress=lambda done, total: show("comparing", done, total))
    if options.late_interaction:
        logit, max_sim, cosine = fit_order(scored, features)
        scored = replace(scored, logits=logit * scored.logits + features @ [max_sim, cosine])
    if options.by == "question":
        scored = of_questions(scored)
    report = report_on(scored)
    found = report.calibration
    if options.late_interaction:
        name, revision = late.name_and_revision
        logit, max_sim, cosine = (round(float(found.scale * weight), 6) for weight in (logit, max_sim, cosine))
        fuse(folder, options.out, FusionWeights(name, revision, logit, max_sim, cosine, round(found.bias, 6)))
    else:
        calibrate(folder, options.out, found)
    _print_calibration(report, Console())
    print(f"the calibrated model is in {options.out}")
    return 0


def _foretell(options: argparse.Namespace) -> int:
    from rag.engines.late_fusion import LateFusionReranker, load_reranker
    from rag.terminal import progress_bars
    from rag.training.foretell import check, collect, fit, write_with
    from rag.training.groups import read_groups
    from rag.training.model_folder import model_in

    folder = model_in(options.model)
    reranker = load_reranker(folder)
    if not isinstance(reranker, LateFusionReranker):
        raise BadInput(f"{folder} was calibrated without late interaction: `train calibrate --late-interaction` first")
    groups = [group for path in options.groups for group in read_groups(path)]
    check(len(groups), read=options.read, below=options.below, floor=options.floor)
    with progress_bars() as show:
        scores = collect(groups, reranker, progress=lambda done, total: show("scoring all", done, total))
    foretelling, figures = fit(scores, read=options.read, below=options.below, floor=options.floor)
    write_with(folder, options.out, foretelling)
    print(
        f"{figures.questions} questions that it was not fitted on: the cross-encoder reads {figures.read:.0%} of "
        f"{figures.passages} passages; {figures.same_top:.1%} of the questions have the same best five in the same "
        f"order; {figures.flipped} passages are on the other side of the floor {options.floor}; correlation "
        f"{figures.correlation:.3f}"
    )
    print(f"the model is in {options.out}")
    return 0


def _promote(options: argparse.Namespace) -> int:
    from rich.console import Console

    from rag.evaluation.floors import USUAL_FLOOR
    from rag.terminal import progress_bars
    from rag.training.groups import read_groups
    from rag.training.model_folder import model_in, read_learnt_questions
    from rag.training.promote import judge
    from rag.training.registry import PromotedReranker, check_name
    from rag.wiring import open_named_reranker, open_rerankers, policy_for, promoted_rerankers

    check_name(options.name)
    if not 0 < options.alpha <= 0.5:
        raise BadInput(f"--alpha {options.alpha}: take a probability above 0, at most 0.5")
    folder = model_in(options.model)
    settings = load_settings(data_dir=options.data_dir)
    groups = [group for path in options.groups for group in read_groups(path)]
    current, new = open_rerankers(settings)[0], open_named_reranker(str(folder), settings)
    with progress_bars() as show:
        verdict = judge(
            groups,
            current,
            new,
            current_floor=policy_for(settings, current).floor,
            usual_floor=USUAL_FLOOR,
            learnt=read_learnt_questions(folder),
            alpha=options.alpha,
            progress=lambda done, total: show("scoring by both rerankers", done, total),
        )
    print_verdict(verdict, options.name, Console())
    if not verdict.promoted:
        print(f"not promoted: {verdict.why}")
        return 0
    measured = {"groups": [path.name for path in options.groups], **verdict.as_json()}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = PromotedReranker(options.name, new.info.revision, verdict.new_floor.floor, now, measured)
    promoted_rerankers(settings).add(record, folder)
    print(f"promoted: {verdict.why}")
    print(
        f"{options.name} serves from the next start on, with floor {record.floor:.2f}, unless RANK37_RERANKER names "
        "another; `python -m rag train rollback` undoes it"
    )
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from rag.wiring import promoted_rerankers

    undone, serving = promoted_rerankers(load_settings(data_dir=options.data_dir)).roll_back()
    now = serving.name if serving else "the default reranker"
    print(f"{undone.name} no longer serves; from the next start on {now} does")
    return 0


def _export(options: argparse.Namespace) -> int:
    from rag.training.export import PROBES, export
    from rag.training.groups import read_groups
    from rag.training.model_folder import model_in

    groups = read_groups(options.groups)[:20] if options.groups else []
    pairs = [(group.query, passage) for group in groups for passage in group.passages[:10]] or list(PROBES)
    done = export(model_in(options.model), options.out, pairs=pairs, limit_mb=options.limit_mb)
    print(
        f"{done.size_mb:.1f} MB in {options.out}; scores of {done.pairs} pairs differ by at most "
        f"{done.largest_difference:.5f}"
    )
    return 0


def _print_calibration(report: CalibrationReport, console: Console) -> None:
    from rich.table import Table

    table = Table(
        title=f"{report.passages} recalled passages of {report.questions} held-out questions, {report.right} right",
        title_justify="left",
    )
    table.add_column("score")
    for name in ("before: n", "mean", "right", "after: n", "mean", "right"):
        table.add_column(name, justify="right")
    for before, after in zip(report.bins_before, report.bins_after, strict=True):
        cells = [
            cell
            for one in (before, after)
            for cell in (str(one.n), *((f"{one.mean_score:.3f}", f"{one.share_right:.3f}") if one.n else ("", "")))
        ]
        table.add_row(f"{before.low:.1f} to {before.high:.1f}", *cells)
    console.print(table)
    calibration = report.calibration
    print("mean: of the scores; right: share of the passages that answer their question")
    print(f"temperature {1 / calibration.scale:.4f}, bias {calibration.bias:+.4f}")
    print(
        f"expected calibration error, of questions not fitted on: all passages {report.error_before:.4f} -> "
        f"{report.error_after:.4f}; best passage of a question {report.best_error_before:.4f} -> "
        f"{report.best_error_after:.4f}"
    )
    if report.error_after >= report.error_before:
        print("scores are no nearer to shares than before: calibrate on more held-out questions")


def print_verdict(verdict: Verdict, name: str, console: Console) -> None:
    """How the two rerankers order and what their floors refuse, whole on 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    # Two narrow tables: one with all of it is wider than the 80 columns of a terminal, or of a log, and would be cut.
    title = f"{verdict.answerable} answerable and {verdict.unanswerable} unanswerable held-out questions"
    order = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    order.add_column("", no_wrap=True)
    for heading in ("recall", "in use", "new", "change", "95% interval", "p", "better, worse"):
        order.add_column(heading, justify="right", no_wrap=True)
    for one in verdict.comparisons:
        difference = one.difference
        order.add_row(
            one.measure,
            f"{one.recalled:.3f}",
            f"{one.current:.3f}",
            f"{one.new:.3f}",
            f"{difference.mean or 0.0:+.3f}",
            f"{difference.low or 0.0:+.3f} to {difference.high or 0.0:+.3f}",
            f"{one.chance:.3f}",
            f"{one.better}, {one.worse}",
        )
    console.print(order)
    console.print()
    gate = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    gate.add_column("")
    for heading in ("in use", "new"):
        gate.add_column(heading, justify="right", no_wrap=True)
    floors = (verdict.current_floor, verdict.new_floor)
    gate.add_row("floor", *(f"{one.floor:.2f}" for one in floors))
    gate.add_row("answerable, refused", *(f"{one.answerable_refused} of {one.answerable}" for one in floors))
    gate.add_row("unanswerable, refused", *(f"{one.unanswerable_refused} of {one.unanswerable}" for one in floors))
    console.print(gate)
    print(f"in use: {verdict.current.name}, new: {name}; p: one-sided; better, worse: number of questions")
