"""What is counted when one reranker is compared with another, and the floor that suits one. Pure.

The floor's measure is a refusal; the order's are nDCG@5, P@5 and R@5. No model runs here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TOP = 5
"""Depth of the measures: an answer rests on at most five passages."""


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """How good an order of passages is for one question."""

    ndcg: float
    precision: float
    recall: float


def order_figures(relevant: Sequence[bool], n_relevant: int, limit: int = TOP) -> OrderFigures:
    """nDCG, precision and recall of the first `limit`.

    Args:
        relevant: For each passage, best first, whether it is right.
        n_relevant: Right passages in all, those that were not recalled included; at least 1.
        limit: Depth.

    >>> order_figures([False, True], 1, 5) == OrderFigures(1 / math.log2(3), 1 / 5, 1.0)
    True
    """
    top = relevant[:limit]
    return OrderFigures(
        ndcg_at(top, [True] * n_relevant, limit),
        sum(top) / limit,
        sum(top) / n_relevant,
    )


def ndcg_at(gains: Sequence[float], all_gains: Sequence[float], limit: int) -> float:
    """Discounted gain of the first `limit`, best first, as a share of the best that `all_gains` allow; 0 without any.

    Source: Järvelin and Kekäläinen 2002, with the discount log2(rank + 1).
    """
    ideal = _discounted(sorted(all_gains, reverse=True)[:limit])
    return _discounted(gains[:limit]) / ideal if ideal else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


@dataclass(frozen=True, slots=True)
class FloorFigures:
    """What a floor does to questions."""

    floor: float
    answerable: int
    """Questions with a right passage among the recalled ones."""
    answerable_refused: int
    unanswerable: int
    unanswerable_refused: int


def floor_figures(
    floor: float, best_of_answerable: Sequence[float], best_of_unanswerable: Sequence[float]
) -> FloorFigures:
    """Count the questions whose best score is below the floor."""
    return FloorFigures(
        floor,
        len(best_of_answerable),
        sum(best < floor for best in best_of_answerable),
        len(best_of_unanswerable),
        sum(best < floor for best in best_of_unanswerable),
    )


def choose_floor(
    best_of_answerable: Sequence[float], best_of_unanswerable: Sequence[float], *, usual: float
) -> FloorFigures:
    """The floor, in hundredths, whose two shares of mistakes are least in sum: answerable refused, unanswerable not.

    Of equally good ones the one nearest to `usual`; `usual` itself where one kind of question is missing.

    Args:
        best_of_answerable: Highest score of each question that has a right passage among the recalled ones.
        best_of_unanswerable: Highest score of each question that no passage answers.
        usual: The floor to stay near to.

    >>> choose_floor([0.3, 0.9], [0.2, 0.25], usual=0.4).floor
    0.3

    Source: Youden 1950, "Index for rating diagnostic tests", Cancer 3(1).
    """
    if not (best_of_answerable and best_of_unanswerable):
        return floor_figures(usual, best_of_answerable, best_of_unanswerable)
    floors = [hundredth / 100 for hundredth in range(1, 100)]
    figures = [floor_figures(floor, best_of_answerable, best_of_unanswerable) for floor in floors]
    return max(figures, key=lambda one: (_youden(one), -abs(one.floor - usual)))


def _youden(figures: FloorFigures) -> float:
    right = figures.unanswerable_refused / figures.unanswerable - figures.answerable_refused / figures.answerable
    return round(right, 9)
