"""Fit an exit to a reranker: what its final logit would be, from the vectors of its lower layers.

A student of the reranker itself: no labels are needed, only questions with what recall finds for them. It learns on
some of the questions and is measured on the others. The model stays as it is.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rag.engines.cross_encoder import sigmoid
from rag.engines.early_exit import EarlyExit
from rag.engines.late_fusion import LateFusionReranker
from rag.errors import BadInput
from rag.ports import Progress
from rag.training.groups import TrainingGroup
from rag.training.model_folder import replacing
from rag.types import Passage

LEAST_QUESTIONS = 20
HELD_OUT_SHARE = 0.25
TOP = 5
"""Which of the best must stay as they are."""

_HIDDEN = 64
_EPOCHS = 40
_BATCH = 256
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 0.05
_DROPOUT = 0.1


@dataclass(frozen=True, slots=True)
class Pairs:
    """What an exit sees of one question's passages, and what the whole model says of them."""

    features: Tensor
    """`(n_passages, 2 * width)`."""
    logits: NDArray[np.float64]
    """`(n_passages,)`, of the score that a person sees."""


@dataclass(frozen=True, slots=True)
class ExitFigures:
    """An exit on questions that it has not learnt from."""

    questions: int
    passages: int
    left: float
    """Share of the passages that left."""
    same_top: float
    """Share of the questions whose best `TOP` are the same, in the same order, as without the exit."""
    flipped: int
    """Passages on the other side of the floor than without it."""
    error: float
    """Mean absolute error of the estimates, as logits."""


def collect(
    groups: Sequence[TrainingGroup], reranker: LateFusionReranker, n_layers: int, *, progress: Progress | None = None
) -> list[Pairs]:
    """Score every group by the whole model, and look at what its lower layers give.

    Args:
        groups: As `candidates` made them.
        reranker: Without an exit.
        n_layers: After how many layers to look.
        progress: Called after each question.
    """
    pairs = []
    for done, group in enumerate(groups, start=1):
        passages = [Passage(text, text) for text in dict.fromkeys(group.passages)]
        logits = [relevance.order for relevance in reranker.score(group.query, passages)]
        features = reranker.cross_encoder.early_features(group.query, passages, n_layers)
        pairs.append(Pairs(features, np.array(logits)))
        if progress:
            progress(done, len(groups))
    return pairs


def fit(
    pairs: Sequence[Pairs], n_layers: int, *, finished: int, below: float, floor: float, seed: int = 37
) -> tuple[EarlyExit, ExitFigures]:
    """Fit an exit on three quarters of the questions; its figures are those on the others.

    Args:
        pairs: As `collect` gives them.
        n_layers: What they were collected with.
        finished: So many of the best of a question always go on.
        below: Only a passage that is estimated to have less than this score leaves.
        floor: Score whose flips are counted.
        seed: Of everything that is random.

    Raises: BadInput for fewer than `LEAST_QUESTIONS` questions.
    """
    if len(pairs) < LEAST_QUESTIONS:
        raise BadInput(f"{len(pairs)} questions: an exit needs {LEAST_QUESTIONS} at least, and some hundred to be good")
    numbers = list(range(len(pairs)))
    random.Random(seed).shuffle(numbers)
    n_held_out = round(len(pairs) * HELD_OUT_SHARE)
    held_out, learn = ([pairs[number] for number in some] for some in (numbers[:n_held_out], numbers[n_held_out:]))
    tensors = _fitted(
        torch.cat([one.features for one in learn]),
        torch.from_numpy(np.concatenate([one.logits for one in learn])).float(),
        seed,
    )
    exit_ = EarlyExit(n_layers, finished, float(np.log(below / (1 - below))), *tensors)
    return exit_, figures(exit_, held_out, floor)


def figures(exit_: EarlyExit, pairs: Sequence[Pairs], floor: float) -> ExitFigures:
    """What an exit changes on some questions."""
    same = flipped = left = 0
    errors = []
    for one in pairs:
        estimates = exit_.estimates(one.features)
        leaving = exit_.leaving(estimates) if len(estimates) > exit_.finished else np.zeros(len(estimates), bool)
        logits = np.where(leaving, estimates, one.logits)
        same += bool((np.argsort(-logits)[:TOP] == np.argsort(-one.logits)[:TOP]).all())
        flipped += sum((sigmoid(a) >= floor) != (sigmoid(b) >= floor) for a, b in zip(logits, one.logits, strict=True))
        left += int(leaving.sum())
        errors.append(np.abs(estimates - one.logits))
    n_passages = sum(len(one.logits) for one in pairs)
    return ExitFigures(
        len(pairs), n_passages, left / n_passages, same / len(pairs), flipped, float(np.concatenate(errors).mean())
    )


def write_with_exit(model_folder: Path, out: Path, exit_: EarlyExit) -> None:
    """A copy of a model's folder with the exit in it."""
    if out.resolve() == model_folder.resolve():
        raise BadInput(f"{out} is the model itself: name another folder")
    with replacing(out) as unfinished:
        shutil.copytree(model_folder, unfinished, dirs_exist_ok=True)
        exit_.write(unfinished)


def _fitted(features: Tensor, logits: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the small network; features are standardised within, logits not."""
    torch.manual_seed(seed)
    mean, spread = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    rows = (features - mean) / spread
    network = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(rows.shape[1], _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    n_steps = _EPOCHS * -(-len(rows) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    network.train()
    for _ in range(_EPOCHS):
        for some in torch.randperm(len(rows)).split(_BATCH):
            optimizer.zero_grad()
            loss = functional.smooth_l1_loss(network(rows[some])[:, 0], logits[some])
            loss.backward()
            optimizer.step()
            schedule.step()
    inner, outer = network[1], network[3]
    with torch.no_grad():
        weight = inner.weight / spread
        bias = inner.bias - weight @ mean
    return weight.detach(), bias.detach(), outer.weight.detach().clone(), outer.bias.detach().clone()
