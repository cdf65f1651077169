"""Fit what late interaction alone says of a fused score: the cross-encoder then reads only what can be among the best.

A student of the reranker itself: no labels are needed, only questions with what recall finds for them. It is fitted on
some of the questions and measured on the others. The scores of what is read stay as they are.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.engines.cross_encoder import sigmoid
from rag.engines.late_fusion import Features, Foretelling, LateFusionReranker, read_weights
from rag.errors import BadInput
from rag.ports import Progress
from rag.training.groups import TrainingGroup
from rag.training.model_folder import replacing
from rag.types import Passage

LEAST_QUESTIONS = 20
HELD_OUT_SHARE = 0.25
TOP = 5
"""Which of the best must stay as they are."""


@dataclass(frozen=True, slots=True)
class FusedScores:
    """One question's passages, every one of them read."""

    features: Features
    """`(n_passages, 2)`: MaxSim and cosine."""
    logits: NDArray[np.float64]
    """`(n_passages,)`, of the fused score."""


@dataclass(frozen=True, slots=True)
class ForetellingFigures:
    """What reading less changes, on questions that were not fitted on."""

    questions: int
    passages: int
    read: float
    """Share of the passages that the cross-encoder reads."""
    same_top: float
    """Share of the questions whose best `TOP` are the same, in the same order, as when all are read."""
    flipped: int
    """Passages on the other side of the floor than when all are read."""
    correlation: float
    """Of what is foretold with the fused logit, over all passages."""


def collect(
    groups: Sequence[TrainingGroup], reranker: LateFusionReranker, *, progress: Progress | None = None
) -> list[FusedScores]:
    """Score every group, all of its passages read.

    Args:
        groups: As `candidates` made them.
        reranker: Whose fusion is foretold.
        progress: Called after each question.
    """
    scores = []
    whole = reranker.reading_all()
    for done, group in enumerate(groups, start=1):
        # The text is the identity: a passage that many questions recall is encoded once.
        passages = [Passage(text, text) for text in dict.fromkeys(group.passages)]
        logits = [relevance.order for relevance in whole.score(group.query, passages)]
        scores.append(FusedScores(reranker.late_features(group.query, passages), np.array(logits)))
        if progress:
            progress(done, len(groups))
    return scores


def check(n_questions: int, *, read: int, below: float, floor: float) -> None:
    """Raise BadInput for what nothing can be fitted with: it takes long to find out by scoring."""
    if n_questions < LEAST_QUESTIONS:
        raise BadInput(f"{n_questions} questions: at least {LEAST_QUESTIONS} are needed")
    if read < 1:
        raise BadInput(f"read = {read}: at least 1 passage has to be read, and 20 or more to find the best five")
    if not 0 < below < 1:
        raise BadInput(f"below = {below}: take a score between 0 and 1")
    if not 0 <= floor <= 1:
        raise BadInput(f"floor = {floor}: take a score from 0 to 1")


def fit(
    scores: Sequence[FusedScores], *, read: int, below: float, floor: float, seed: int = 37
) -> tuple[Foretelling, ForetellingFigures]:
    """Least squares on three quarters of the questions; the figures are those of the others.

    Args:
        scores: As `collect` gives them.
        read: So many of the best of a question are always read.
        below: Whatever is foretold this score or more is read as well, in (0, 1).
        floor: Score whose flips are counted.
        seed: By which questions are held out.

    Raises: BadInput as `check` does.
    """
    check(len(scores), read=read, below=below, floor=floor)
    numbers = list(range(len(scores)))
    random.Random(seed).shuffle(numbers)
    n_held_out = round(len(scores) * HELD_OUT_SHARE)
    held_out, learn = ([scores[number] for number in some] for some in (numbers[:n_held_out], numbers[n_held_out:]))
    features = np.concatenate([one.features for one in learn])
    rows = np.column_stack([features, np.ones(len(features))])
    found, *_ = np.linalg.lstsq(rows, np.concatenate([one.logits for one in learn]), rcond=None)
    max_sim, cosine, bias = (round(float(weight), 6) for weight in found)
    foretelling = Foretelling(max_sim, cosine, bias, read, below)
    return foretelling, figures(foretelling, held_out, floor)


def figures(foretelling: Foretelling, scores: Sequence[FusedScores], floor: float) -> ForetellingFigures:
    """What reading less changes on some questions."""
    same = flipped = unread = 0
    every = []
    for one in scores:
        told = foretelling.logits(one.features)
        left = foretelling.unread(told)
        now = np.where(left, told, one.logits)
        same += bool((_best(now) == _best(one.logits)).all())
        flipped += sum((sigmoid(a) >= floor) != (sigmoid(b) >= floor) for a, b in zip(now, one.logits, strict=True))
        unread += int(left.sum())
        every.append(told)
    logits = np.concatenate([one.logits for one in scores])
    correlation = float(np.corrcoef(np.concatenate(every), logits)[0, 1])
    return ForetellingFigures(
        len(scores), len(logits), 1 - unread / len(logits), same / len(scores), flipped, correlation
    )


def write_with(model_folder: Path, out: Path, foretelling: Foretelling) -> None:
    """A copy of a model's folder whose weights hold it. `out` may be the same folder.

    Raises BadInput for a model without late interaction.
    """
    weights = read_weights(model_folder)
    if weights is None:
        raise BadInput(f"{model_folder} was calibrated without late interaction: `train calibrate --late-interaction`")
    with replacing(out) as unfinished:
        shutil.copytree(model_folder, unfinished, dirs_exist_ok=True)
        replace(weights, foretelling=foretelling).write(unfinished)


def _best(logits: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.argsort(-logits, kind="stable")[:TOP]
