"""Whether a trained reranker may serve: it must beat the one in use on held-out labelled questions.

It measures and decides; keeping the model is the registry's part. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rag.errors import BadInput
from rag.evaluation.intervals import Difference, difference_of
from rag.ports import Progress, Reranker
from rag.training.calibrate import recalled_passages
from rag.training.groups import TrainingGroup, question_digest
from rag.training.measure import FloorFigures, OrderFigures, choose_floor, floor_figures, order_figures
from rag.types import EngineInfo, Passage

MEASURES = ("nDCG@5", "P@5", "R@5")

LEAST_QUESTIONS = 5
"""Fewer answerable questions can't show anything: of five, luck alone makes all five better once in 32 times."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A reranker on the held-out questions, one entry a question."""

    info: EngineInfo
    figures: tuple[OrderFigures, ...]
    """Of the answerable questions."""
    best_of_answerable: tuple[float, ...]
    """Highest score of each answerable question with a right passage among the recalled ones."""
    best_of_unanswerable: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure's means, and the difference that the new reranker makes to the current one."""

    measure: str
    recalled: float
    """In recall order, without any reranker."""
    current: float
    new: float
    difference: Difference
    better: int
    """Questions on which the new one is better."""
    worse: int

    @property
    def chance(self) -> float:
        """How often luck alone moves the mean this far *in this direction*: half of the two-sided p; 1 for no move."""
        p = self.difference.p
        return 1.0 if p is None or self.new == self.current else p / 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the new reranker may serve, and all that the decision rests on."""

    promoted: bool
    why: str
    current: EngineInfo
    new: EngineInfo
    answerable: int
    unanswerable: int
    comparisons: tuple[Comparison, ...]
    current_floor: FloorFigures
    new_floor: FloorFigures

    def as_json(self) -> dict[str, Any]:
        """For the registry."""
        return asdict(self)


def judge(
    groups: Sequence[TrainingGroup],
    current: Reranker,
    new: Reranker,
    *,
    current_floor: float,
    usual_floor: float,
    learnt: set[str],
    alpha: float = 0.05,
    progress: Progress | None = None,
) -> Verdict:
    """Measure both rerankers on the same recalled passages and decide.

    The new one is promoted if its nDCG@5 is higher and luck alone would make it so with a probability below `alpha`, by
    a paired randomisation test, and if neither P@5 nor R@5 is lower in the same sense. Its floor is chosen on the same
    questions.

    Args:
        groups: As `candidates` made them of held-out questions, the out-of-corpus ones included.
        current: The reranker in use.
        new: The trained one.
        current_floor: The floor in use.
        usual_floor: The floor to stay near to where questions do not decide.
        learnt: Digests of the questions that the new one has learnt from.
        alpha: Largest probability that luck alone explains the difference.
        progress: Called after each question.

    Raises:
        BadInput: Too few questions, or some that the new one has learnt from.
    """
    known = [group.query for group in groups if question_digest(group.query) in learnt]
    if known:
        raise BadInput(
            f"{new.info.name} has learnt from {len(known)} of these {len(groups)} questions, such as {known[0]!r}: "
            "measure on questions that were held out (`train split`)"
        )
    answerable = [group for group in groups if group.positives]
    if len(answerable) < LEAST_QUESTIONS:
        raise BadInput(
            f"{len(answerable)} answerable held-out questions: at least {LEAST_QUESTIONS} are needed, and 50 or more "
            "to see a small gain"
        )
    total = 2 * len(groups)
    before = measure(groups, current, progress=(lambda done, _: progress(done, total)) if progress else None)
    after = measure(groups, new, progress=(lambda done, _: progress(len(groups) + done, total)) if progress else None)
    recalled = [_figures(recalled_passages(group), len(group.positives)) for group in answerable]
    comparisons = tuple(
        _comparison(
            name,
            [_values(one)[number] for one in recalled],
            [_values(one)[number] for one in before.figures],
            [_values(one)[number] for one in after.figures],
        )
        for number, name in enumerate(MEASURES)
    )
    promoted, why = _decide(comparisons, alpha)
    return Verdict(
        promoted,
        why,
        before.info,
        after.info,
        len(answerable),
        len(groups) - len(answerable),
        comparisons,
        floor_figures(current_floor, before.best_of_answerable, before.best_of_unanswerable),
        choose_floor(after.best_of_answerable, after.best_of_unanswerable, usual=usual_floor),
    )


def measure(groups: Sequence[TrainingGroup], reranker: Reranker, *, progress: Progress | None = None) -> Measured:
    """Rerank the recalled passages of every group and count."""
    figures, answerable, unanswerable = [], [], []
    for done, group in enumerate(groups, start=1):
        rows = recalled_passages(group)
        relevances = reranker.score(group.query, [Passage(str(number), text) for number, (text, _) in enumerate(rows)])
        order = sorted(
            range(len(rows)),
            key=lambda number: (relevances[number].score is None, -relevances[number].order, number),
        )
        best = max((one.score for one in relevances if one.score is not None), default=0.0)
        if group.positives:
            figures.append(_figures([rows[number] for number in order], len(group.positives)))
            if any(right for _, right in rows):
                answerable.append(best)
        else:
            unanswerable.append(best)
        if progress:
            progress(done, len(groups))
    return Measured(reranker.info, tuple(figures), tuple(answerable), tuple(unanswerable))


def _figures(rows: Sequence[tuple[str, bool]], n_right: int) -> OrderFigures:
    return order_figures([right for _, right in rows], n_right)


def _values(figures: OrderFigures) -> tuple[float, float, float]:
    """In the order of `MEASURES`."""
    return figures.ndcg, figures.precision, figures.recall


def _comparison(name: str, recalled: list[float], current: list[float], new: list[float]) -> Comparison:
    return Comparison(
        name,
        _mean(recalled),
        _mean(current),
        _mean(new),
        difference_of(current, new),
        sum(after > before for before, after in zip(current, new, strict=True)),
        sum(after < before for before, after in zip(current, new, strict=True)),
    )


def _decide(comparisons: Sequence[Comparison], alpha: float) -> tuple[bool, str]:
    for one in comparisons[1:]:
        if one.new < one.current and one.chance < alpha:
            return False, f"{_moved(one)} is lower"
    first = comparisons[0]
    if first.new <= first.current:
        return False, f"it is no better: {_moved(first)}"
    if first.chance >= alpha:
        return False, f"the gain may be luck: {_moved(first)}, p below {alpha:g} is needed; label more questions"
    return True, f"it is better: {_moved(first)}"


def _moved(one: Comparison) -> str:
    return f"{one.measure} {one.current:.3f} -> {one.new:.3f} (p = {one.chance:.3f})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
