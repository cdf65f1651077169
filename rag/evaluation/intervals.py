"""How sure a mean is: bootstrap intervals over questions, and paired differences with a randomization test.

Everything is seeded: the same figures give the same intervals. Questions are taken as independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
FLIPS = 10_000
CONFIDENCE = 0.95
SEED = 37


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, with the ends of its 95% interval. None where there was nothing to take it of."""

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference with its 95% interval, and how often chance alone does as much."""

    mean: float | None
    low: float | None
    high: float | None
    p: float | None


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean over questions.

    >>> mean_of([1.0, 1.0]), mean_of([])
    (Estimate(mean=1.0, low=1.0, high=1.0), Estimate(mean=None, low=None, high=None))
    """
    return share_of(values, [1.0] * len(values))


def share_of(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """Sum of the parts by sum of the wholes, one of each a question: every whole weighs the same, not every question.

    The percentile bootstrap: questions are drawn with replacement as often as there are. Source: Efron, Tibshirani
    1993, "An Introduction to the Bootstrap", chapter 13.

    >>> share_of([1, 0], [3, 1]).mean
    0.25
    """
    part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if whole.sum() == 0:
        return Estimate(None, None, None)
    drawn = _drawn(len(part))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (drawn @ part) / (drawn @ whole)
    mean = float(part.sum() / whole.sum())
    low, high = _ends(shares[np.isfinite(shares)])
    return Estimate(mean, min(low, mean), max(high, mean))


def difference_of(before: Sequence[float], after: Sequence[float]) -> Difference:
    """Mean of after minus before, question by question.

    p is two-sided, by flipping the sign of each question's difference at random. Source: Smucker, Allan, Carterette
    2007, "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation",
    https://doi.org/10.1145/1321440.1321528.

    >>> difference_of([0.0, 0.5], [0.0, 0.5])
    Difference(mean=0.0, low=0.0, high=0.0, p=1.0)
    """
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    estimate = mean_of(differences.tolist())
    if estimate.mean is None:
        return Difference(None, None, None, None)
    # A question without a difference stays without one, whatever its sign: only the others are flipped.
    changed = differences[differences != 0]
    bar = abs(changed.sum()) * (1 - 1e-12)
    as_far = sum(int((np.abs(signs @ changed) >= bar).sum()) for signs in _signs(len(changed)))
    return Difference(estimate.mean, estimate.low, estimate.high, (1 + as_far) / (1 + FLIPS))


def resampled_sums(values: NDArray[Any]) -> NDArray[np.float64]:
    """Column sums of `(n_questions, m)` values over each resample of the questions, `(RESAMPLES, m)`."""
    return np.asarray(_drawn(len(values)) @ values.astype(np.float32), dtype=np.float64)


@lru_cache(maxsize=4)
def _drawn(n: int) -> NDArray[np.float32]:
    """How often each of n questions is in each resample, `(RESAMPLES, n)`."""
    choose = np.random.default_rng([SEED, n])
    counts = np.empty((RESAMPLES, n), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(choose.integers(0, n, size=n), minlength=n)
    return counts


def _signs(n: int) -> Iterator[NDArray[np.float64]]:
    """`FLIPS` rows of n signs, in slices."""
    choose = np.random.default_rng([SEED, n, 1])
    for start in range(0, FLIPS, 1000):
        yield choose.choice(np.array([-1.0, 1.0]), size=(min(1000, FLIPS - start), n))


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
