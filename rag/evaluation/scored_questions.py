"""Labelled questions asked of real engines, as scores and labels that floors are chosen from.

The questions come from a labelled set, or from labels that people gave in the app. What follows from the scores is
`rag.evaluation.floors`' job. A question of several parts has each passage's best score over the parts, as in the app.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rag.errors import BadInput
from rag.evaluation.floors import ScoredPassage, ScoredQuestion
from rag.evaluation.rankings import RECALL_AT, Asked, ask_all
from rag.evaluation.sets import UNANSWERABLE, LabelledSet, Question
from rag.floor_store import FloorScope
from rag.ports import Embedder, Engines
from rag.settings import Settings
from rag.types import EngineInfo, QueryPolicy
from rag.wiring import floor_in_use, open_engines, policy_for, scorer_of

if TYPE_CHECKING:
    from rag.evaluation.command import IngestPdfs, Show


@dataclass(frozen=True, slots=True)
class ScoredQuestions:
    """Questions with their scores, and whose scores those are."""

    name: str
    """Of the set, or of the files of labels."""
    questions: tuple[ScoredQuestion, ...]
    reranker: EngineInfo
    """The one in use."""
    scorer: EngineInfo
    """The one whose scores meet the floor: of a cascade the second, of a gated order the gate."""
    scope: FloorScope
    """What a floor that is chosen from them is for."""
    floor: float
    """The floor in use for that."""
    notes: tuple[str, ...] = ()
    """Which labelled questions were left out and why, one sentence each."""


def scored_question(row: Asked, answer_limit: int) -> ScoredQuestion:
    """A question with the scores and labels of its ranked passages."""
    passages = tuple(ScoredPassage(place.score, row.is_relevant(place.items)) for place in row.after)
    return ScoredQuestion(row.question.text, row.question.answerable, passages, answer_limit)


def score_set(
    labelled: LabelledSet,
    settings: Settings,
    embedder: Embedder,
    *,
    collection: str,
    ingest_pdfs: IngestPdfs,
    show: Show = lambda name, done, total: None,
) -> ScoredQuestions:
    """Index a set where that is not done yet, and rank the passages of every question up to the floor.

    Args:
        labelled: The set.
        settings: They name the set's own collection, as `rag.evaluation.command.settings_for_set` makes them.
        embedder: For the set and its questions.
        collection: The one that a floor is chosen for.
        ingest_pdfs: Brings the PDFs of a folder into the index.
        show: Called with what is being done, how much of it is done, and of how much.
    """
    from rag.evaluation.command import opened_set

    depth = settings.recall_limit
    with opened_set(labelled, settings, embedder, depth=depth, ingest_pdfs=ingest_pdfs, show=show) as opened:
        engines, policy, items_of = opened
        progress = partial(show, f"{labelled.name}, {engines.reranker.info.name}")
        asked, _ = ask_all(labelled.questions, engines, policy, items_of, progress=progress)
    left_out = (
        (f"{labelled.left_out} queries were left out: no relevant passage, or answered by another set",)
        if labelled.left_out
        else ()
    )
    settings = settings.model_copy(update={"collection": collection})
    return _scored(labelled.name, asked, settings, engines, policy, left_out)


def score_labels(
    paths: Sequence[Path],
    settings: Settings,
    embedder: Embedder,
    *,
    show: Show = lambda name, done, total: None,
) -> ScoredQuestions:
    """Ask the labelled questions of files of the settings' collection, as `rag.training.questions` reads them.

    A passage that nobody called right counts as not relevant. Left out are questions of which nobody has said whether
    the collection answers them (such as a wrong passage alone, or a wrong refusal without the right passage), and those
    whose right passage is not in the collection.

    Raises: BadInput where no question is left, or the collection is empty.
    """
    from rag.training.questions import Unresolved, read_questions, resolve
    from rag.wiring import open_index

    rows = read_questions(paths)
    index = open_index(settings, embedder.identity)
    try:
        if index.count_chunks() == 0:
            raise BadInput(
                f"collection {settings.collection!r} in {settings.data_dir} holds no documents: "
                "add some with `python -m ingest PATH...`, or name another with --collection"
            )
        unresolved = Unresolved()
        labelled = resolve(rows, index, unresolved)
        questions, unknown, missing = [], 0, len(unresolved.reasons)
        for number, one in enumerate(labelled, start=1):
            gold = {passage.id: 1 for passage in one.positives if passage.id}
            if one.answerable is None:
                unknown += 1
            elif one.answerable and not gold:
                missing += 1
            else:
                group = "" if one.answerable else UNANSWERABLE
                questions.append(Question(str(number), one.query, gold, group=group))
        if not questions:
            raise BadInput(
                f"none of the {len(rows)} labelled questions can be used: {unknown} without a right passage, {missing} "
                f"whose right passage is not in collection {settings.collection!r}"
            )
        engines = open_engines(settings, embedder=embedder, index=index)
        policy = policy_for(settings, engines.reranker, embedder)
        policy = replace(policy, recall_limit=max(RECALL_AT, policy.recall_limit))
        name = ", ".join(path.name for path in paths)
        asked, _ = ask_all(
            questions,
            engines,
            policy,
            lambda chunk: (chunk.id,),
            progress=partial(show, f"{name}, {engines.reranker.info.name}"),
        )
    finally:
        index.close()
    notes = []
    if unknown:
        notes.append(
            f"{unknown} questions were left out: nobody has said which passage answers them, or that none does"
        )
    if missing:
        notes.append(f"{missing} questions were left out: their right passage is not in {settings.collection!r}")
    return _scored(name, asked, settings, engines, policy, notes)


def _scored(
    name: str,
    asked: Sequence[Asked],
    settings: Settings,
    engines: Engines,
    policy: QueryPolicy,
    notes: Iterable[str],
) -> ScoredQuestions:
    in_use = floor_in_use(settings, engines.reranker, engines.embedder)
    return ScoredQuestions(
        name,
        tuple(scored_question(row, policy.answer_limit) for row in asked),
        engines.reranker.info,
        scorer_of(engines.reranker).info,
        in_use.scope,
        in_use.value,
        tuple(notes),
    )
