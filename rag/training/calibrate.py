"""Make a reranker's score mean what it says: the share of passages with that score that answer the question.

The target is P(the passage answers the question), over the passages that recall finds for questions of the held-out
kind, out-of-corpus ones included. One temperature and one bias on the logit are fitted; the order of passages stays as
it is. They go into the scoring layer's weight and bias, so that the model loads as before. No floor is chosen here.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sentence_transformers import CrossEncoder

from rag.engines.late_fusion import FUSION_FILE, FusionWeights, LateInteraction
from rag.errors import BadInput, EngineFault
from rag.ports import Progress, Reranker
from rag.training.groups import TrainingGroup, question_digest
from rag.training.model_folder import (
    open_cross_encoder,
    read_learnt_questions,
    replacing,
    save_model,
    scoring_layer,
    write_learnt_questions,
)
from rag.types import Passage

BINS = 10
LEAST_WEIGHT_COST = 1e-2
"""Cost of a squared weight, beside the likelihood of whole questions: keeps weights finite where all is told apart."""
FOLDS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoredPassages:
    """Logits of passages with what is known of them, one row a passage."""

    logits: Floats
    """`(n_passages,)`."""
    labels: Floats
    """`(n_passages,)`: 1 where the passage answers the question, else 0."""
    questions: tuple[str, ...]
    """The question of each, as a digest."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """`sigmoid(scale * logit + bias)` is the calibrated score; the temperature is 1 / scale."""

    scale: float
    bias: float

    def apply(self, logits: Floats) -> Floats:
        """The calibrated scores."""
        return sigmoids(self.scale * logits + self.bias)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Passages whose score lies in `[low, high)`, the last bin's in `[low, high]`."""

    low: float
    high: float
    n: int
    mean_score: float
    """0 where there are none."""
    share_right: float
    """0 where there are none."""


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """How far scores are from shares, before and after. After: of questions that were not fitted on, by folds."""

    calibration: Calibration
    questions: int
    passages: int
    right: int
    error_before: float
    """Expected calibration error of all passages."""
    error_after: float
    best_error_before: float
    """The same of the best passage of each question, which decides whether it is refused."""
    best_error_after: float
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]


def score_groups(
    groups: Sequence[TrainingGroup], reranker: Reranker, *, progress: Progress | None = None
) -> ScoredPassages:
    """The raw logits of the recalled passages of each group. What recall missed is not scored in the product either.

    Raises: BadInput for groups without labels that can be fitted, or a reranker without logits.
    """
    logits: list[float] = []
    labels: list[float] = []
    questions: list[str] = []
    for done, group in enumerate(groups, start=1):
        rows = recalled_passages(group)
        relevances = reranker.score(group.query, [Passage(str(number), text) for number, (text, _) in enumerate(rows)])
        for (_, right), relevance in zip(rows, relevances, strict=True):
            if relevance.logit is None:
                raise BadInput(f"{reranker.info.name} gives no logits: only cross-encoders can be calibrated")
            logits.append(relevance.logit)
            labels.append(float(right))
            questions.append(question_digest(group.query))
        if progress:
            progress(done, len(groups))
    n_right = int(sum(labels))
    if not 0 < n_right < len(labels):
        raise BadInput(
            f"{n_right} right passages among {len(labels)}: calibration needs right and wrong ones, from "
            "`train candidates` over held-out questions"
        )
    return ScoredPassages(np.array(logits), np.array(labels), tuple(questions))


def score_features(
    groups: Sequence[TrainingGroup], late: LateInteraction, *, progress: Progress | None = None
) -> Floats:
    """MaxSim and cosine of the same passages as `score_groups` gives logits of, `(n_passages, 2)`."""
    features = []
    for done, group in enumerate(groups, start=1):
        # The text is the identity: a passage that many questions recall is encoded once.
        passages = [Passage(text, text) for text, _ in recalled_passages(group)]
        features.append(late.features(group.query, passages))
        if progress:
            progress(done, len(groups))
    return np.concatenate(features)


def fit_order(scored: ScoredPassages, features: Floats) -> Floats:
    """Weights of logit, MaxSim and cosine, `(3,)`, none below 0: those that best tell right from wrong in a question.

    The greatest likelihood of the right passage among those recalled for its question (a conditional logit): what all
    passages of a question share, as that a question is long, plays no part. Questions without a right passage, or with
    nothing but right ones, say nothing.

    Source: McFadden 1974, "Conditional logit analysis of qualitative choice behavior".
    """
    rows = np.column_stack([scored.logits, features])
    spread = rows.std(axis=0)
    rows = rows / np.where(spread > 0, spread, 1.0)
    starts = [0] + [row for row in range(1, len(rows)) if scored.questions[row] != scored.questions[row - 1]]
    questions = [
        (rows[start:end], scored.labels[start:end] / scored.labels[start:end].sum())
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
        if 0 < scored.labels[start:end].sum() < end - start
    ]
    if not questions:
        raise BadInput("no question has both right and wrong passages among those recalled: label more of them")

    def loss(weights: Floats) -> tuple[float, Floats]:
        total, gradient = LEAST_WEIGHT_COST * float(weights @ weights), 2 * LEAST_WEIGHT_COST * weights
        for of_question, wanted in questions:
            values = of_question @ weights
            shares = np.exp(values - np.logaddexp.reduce(values))
            total -= float(wanted @ (values - np.logaddexp.reduce(values)))
            gradient = gradient + of_question.T @ (shares - wanted)
        return total, gradient

    found = minimize(loss, np.ones(3), jac=True, bounds=[(0.0, None)] * 3, method="L-BFGS-B")
    return np.asarray(found.x / np.where(spread > 0, spread, 1.0), dtype=np.float64)


def fuse(model_folder: Path, out: Path, weights: FusionWeights) -> None:
    """Write the model to `out` with the weights of late interaction beside it. `out` may be the same folder."""
    with replacing(out) as unfinished:
        shutil.copytree(model_folder, unfinished, dirs_exist_ok=True)
        weights.write(unfinished)
        card = unfinished / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else "# Reranker\n"
        note = (
            f"\nFitted with `python -m rag train calibrate --late-interaction`: {weights.logit:.4f} * logit + "
            f"{weights.max_sim:.2f} * MaxSim + {weights.cosine:.2f} * cosine {weights.bias:+.3f}, with the token "
            f"vectors of {weights.encoder} ({FUSION_FILE}). The sigmoid of it is the probability that the passage "
            "answers the question, among passages that recall finds. Any other program loads the cross-encoder alone.\n"
        )
        card.write_text(text + note, encoding="utf-8")


def recalled_passages(group: TrainingGroup) -> list[tuple[str, bool]]:
    """The passages that recall found, in recall order, with whether they are right; all where ranks are not known."""
    rows = [(text, number < len(group.positives)) for number, text in enumerate(group.passages)]
    if not group.ranks:
        return rows
    ranked = [(rank, row) for rank, row in zip(group.ranks, rows, strict=True) if rank is not None]
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


def fit(logits: Floats, labels: Floats) -> Calibration:
    """Scale and bias of the greatest likelihood, by Newton's method.

    Targets are drawn in from 0 and 1 by one imagined passage of each kind, so that the fit exists where the scores
    separate right from wrong. Source: Platt 1999, with the Newton iteration of Lin, Lin and Weng 2007
    (https://doi.org/10.1007/s10994-007-5018-6).

    Raises: BadInput where a higher logit does not mean a better passage.
    """
    n_right, n_wrong = float(labels.sum()), float(len(labels) - labels.sum())
    targets = np.where(labels > 0.5, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    # Standardised, so that the two parameters are of one size.
    mean, spread = float(logits.mean()), float(logits.std()) or 1.0
    rows = np.stack([(logits - mean) / spread, np.ones_like(logits)], axis=1)
    parameters = np.array([1.0, np.log((n_right + 1) / (n_wrong + 1))])
    loss = _loss(rows @ parameters, targets)
    for _ in range(100):
        scores = sigmoids(rows @ parameters)
        gradient = rows.T @ (scores - targets)
        if np.abs(gradient).max() < 1e-8 * len(logits):
            break
        hessian = (rows * (scores * (1 - scores))[:, None]).T @ rows + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-10 and _loss(rows @ (parameters - size * step), targets) > loss:
            size /= 2
        parameters = parameters - size * step
        loss = _loss(rows @ parameters, targets)
    scale = float(parameters[0] / spread)
    if scale <= 0:
        raise BadInput("the model scores wrong passages higher than right ones: train it before it is calibrated")
    return Calibration(scale, float(parameters[1] - scale * mean))


def of_questions(scored: ScoredPassages, *, answer_limit: int = 5) -> ScoredPassages:
    """One row a question: its highest logit, and whether any of its first `answer_limit` passages is right.

    Fitted on these, the best passage's score is the probability that the collection answers the question from what an
    answer may rest on: what the floor decides. Fitted on all passages it is the probability that one passage is right,
    which seldom reaches 0.4 where several passages say nearly the same and one of them is labelled.
    """
    logits, labels, questions = [], [], []
    for question in dict.fromkeys(scored.questions):
        rows = [row for row, of in enumerate(scored.questions) if of == question]
        first = sorted(rows, key=lambda row: -scored.logits[row])[:answer_limit]
        logits.append(scored.logits[first[0]])
        labels.append(float(scored.labels[first].any()))
        questions.append(question)
    return ScoredPassages(np.array(logits), np.array(labels), tuple(questions))


def report_on(scored: ScoredPassages, *, seed: int = 37) -> CalibrationReport:
    """Fit on all questions; judge the fit on questions that were left out of it, in folds."""
    questions = list(dict.fromkeys(scored.questions))
    shuffled = np.random.default_rng(seed).permutation(questions).tolist()
    fold_of = {question: number % FOLDS for number, question in enumerate(shuffled)}
    folds = np.array([fold_of[question] for question in scored.questions])
    after = np.empty_like(scored.logits)
    for fold in range(FOLDS):
        inside, outside = folds == fold, folds != fold
        fits = inside.any() and 0 < scored.labels[outside].sum() < outside.sum()
        one = fit(scored.logits[outside], scored.labels[outside]) if fits else None
        after[inside] = one.apply(scored.logits[inside]) if one else sigmoids(scored.logits[inside])
    before = sigmoids(scored.logits)
    best = _best_rows(scored)
    labels = scored.labels
    return CalibrationReport(
        calibration=fit(scored.logits, labels),
        questions=len(questions),
        passages=len(labels),
        right=int(labels.sum()),
        error_before=expected_error(before, labels),
        error_after=expected_error(after, labels),
        best_error_before=expected_error(before[best], labels[best]),
        best_error_after=expected_error(after[best], labels[best]),
        bins_before=reliability(before, labels),
        bins_after=reliability(after, labels),
    )


def reliability(scores: Floats, labels: Floats) -> tuple[ReliabilityBin, ...]:
    """Mean score and share of right passages in ten equal ranges of score."""
    numbers = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = numbers == number
        n = int(inside.sum())
        mean_score, share = (float(scores[inside].mean()), float(labels[inside].mean())) if n else (0.0, 0.0)
        bins.append(ReliabilityBin(number / BINS, (number + 1) / BINS, n, mean_score, share))
    return tuple(bins)


def expected_error(scores: Floats, labels: Floats) -> float:
    """Expected calibration error: the mean distance of score and share over the bins, weighted by passages.

    >>> round(expected_error(np.array([0.25, 0.25, 0.75]), np.array([0.0, 1.0, 1.0])), 4)  # (2 * 0.25 + 0.25) / 3
    0.25

    Source: Naeini, Cooper and Hauskrecht 2015, https://doi.org/10.1609/aaai.v29i1.9602.
    """
    bins = reliability(scores, labels)
    return sum(one.n * abs(one.mean_score - one.share_right) for one in bins) / max(1, len(scores))


def calibrate(model_folder: Path, out: Path, calibration: Calibration) -> None:
    """Write the model to `out` with scale and bias in its scoring layer, in the number format it was stored in.

    Args:
        model_folder: The model as it is.
        out: Folder of the calibrated one; may be the same.
        calibration: What goes in.

    The questions that it was fitted on are not added to those it has learnt from: two numbers that leave the order as
    it is can't learn a question by heart, so that the order may still be measured on them.

    Raises: BadInput, EngineFault if the written model does not give the calibrated logits.
    """
    model = open_cross_encoder(model_folder)
    stored = _stored_dtype(model_folder)
    probes = [("How long is the waiting period?", "The waiting period is 180 days."), ("What is covered?", "Weather.")]
    before = logits_of(model, probes)
    layer = scoring_layer(model)
    with torch.no_grad():
        layer.weight.mul_(calibration.scale)
        layer.bias.mul_(calibration.scale).add_(calibration.bias)
    wanted = calibration.scale * before + calibration.bias
    difference = float(np.abs(logits_of(model, probes) - wanted).max())
    if difference > 1e-3 * max(1.0, float(np.abs(wanted).max())):
        raise EngineFault(
            f"with scale and bias in its last layer the model's logits are off by {difference:.3g}: its score is not "
            "that layer's output, so it can't be calibrated"
        )
    card = model_folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else "# Reranker\n"
    note = (
        f"\nCalibrated with `python -m rag train calibrate`: logit * {calibration.scale:.4f} "
        f"{calibration.bias:+.4f}, in the scoring layer. A score is the probability that the passage answers the "
        "question, among passages that recall finds.\n"
    )
    learnt = read_learnt_questions(model_folder)
    if stored is not torch.float32:
        model.to(stored)
    save_model(model, out, card=text + note)
    if learnt:
        write_learnt_questions(out, learnt)


def logits_of(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> Floats:
    """The raw logits of pairs, `(n_pairs,)`."""
    logits = model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(logits, dtype=np.float64)


def sigmoids(logits: Floats) -> Floats:
    """1 / (1 + e^-logit) of each, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))


def _loss(logits: Floats, targets: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - targets * logits))


def _best_rows(scored: ScoredPassages) -> list[int]:
    """The row of the highest logit of each question."""
    best: dict[str, int] = {}
    for row, question in enumerate(scored.questions):
        if question not in best or scored.logits[row] > scored.logits[best[question]]:
            best[question] = row
    return list(best.values())


def _stored_dtype(folder: Path) -> torch.dtype:
    """Number format of the stored weights."""
    from safetensors import safe_open

    path = folder / "model.safetensors"
    if not path.is_file():
        return torch.float32
    with safe_open(path, framework="pt") as weights:
        dtypes = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118  not a dict
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    return floats.pop() if len(floats) == 1 else torch.float32
