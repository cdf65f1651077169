"""The floor chosen from measurements: sweeps, conformal floors and bounds from labels; valleys and replays without any.

It takes plain scores and labels. No model runs, nothing is read, stored or printed here: the command line and the page
both show what these functions return.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.errors import BadInput
from rag.evaluation.intervals import CONFIDENCE, SEED, Estimate, resampled_sums, share_of
from rag.types import QueryPolicy

USUAL_FLOOR = QueryPolicy().floor
"""The default floor: of equally good floors the one nearest to it is taken."""

GRID = tuple(step / 20 for step in range(21))
"""Floors that a sweep reports on: 0 to 1 in steps of 0.05."""
_FINE_GRID = np.arange(101) / 100
"""Floors among which each resample chooses its best."""

BOUND_CONFIDENCE = 0.95
"""Of the one-sided bound on answering what can't be answered."""
COVERAGE_CONFIDENCE = 0.9
"""Of the interval of a conformal floor's true share of survivors."""

HISTOGRAM_BINS = 20

LEAST_SCORES = 30
"""Fewer scores show no valley: a handful always falls into clumps."""
LOGIT_LIMIT = 12.0
"""Scores are taken as at most this far from 0.5 on the logit scale: float32 gives no finer ones near 1."""
VALLEY_CHANCE = 0.05
"""Two humps count where one hump alone would look like them less often than this."""
_DENSITY_POINTS = 512
_DENSITY_RESAMPLES = 200

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# ---- what is known of a question -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    """A ranked passage: what the reranker says of it, and what the labels say."""

    score: float | None
    """In [0, 1]; None where no model scored it: no floor keeps it."""
    relevant: bool


@dataclass(frozen=True, slots=True)
class ScoredQuestion:
    """A labelled question with its ranking after rerank."""

    text: str
    answerable: bool
    passages: tuple[ScoredPassage, ...]
    """In rank order."""
    answer_limit: int = 5

    @property
    def best_score(self) -> float | None:
        """The highest floor at which the question is answered, or None."""
        return max((passage.score for passage in self.passages if passage.score is not None), default=None)

    @property
    def gold_floor(self) -> float | None:
        """The highest floor at which a relevant passage is kept; None where no floor keeps one.

        >>> passages = (ScoredPassage(0.9, False), ScoredPassage(0.7, True), ScoredPassage(0.2, True))
        >>> ScoredQuestion("?", True, passages).gold_floor, ScoredQuestion("?", True, passages, 1).gold_floor
        (0.7, None)
        """
        curve = _kept_curve(self)
        floors = curve.levels[curve.right > 0]
        return float(floors[-1]) if len(floors) else None


# ---- with labels: sweep --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decisions:
    """How good yes-decisions are: of those made, how many were right; of those wanted, how many were made."""

    right: int
    made: int
    wanted: int
    precision: float | None
    """None where none was made."""
    recall: float | None
    """None where none was wanted."""
    f1: float | None
    """Harmonic mean of both; None where none was made or wanted."""

    @classmethod
    def of(cls, right: int, made: int, wanted: int) -> Decisions:
        """From the counts.

        >>> Decisions.of(1, 2, 2).f1
        0.5
        """
        return cls(
            right,
            made,
            wanted,
            right / made if made else None,
            right / wanted if wanted else None,
            2 * right / (made + wanted) if made + wanted else None,
        )


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """What one floor does to the questions."""

    floor: float
    keep: Decisions
    """Of passages. Made: those kept. Right: those kept that are relevant. Wanted: relevant ones that some floor keeps:
    what recall missed, or rerank put beyond the answer limit, is no floor's fault."""
    answer: Decisions
    """Of questions. Made: those with anything kept. Right: answerable ones with a relevant passage kept. Wanted:
    answerable ones with a relevant passage that some floor keeps."""
    answerable_refused: int
    """Of all answerable questions, those without a relevant passage included."""
    unanswerable_answered: int


@dataclass(frozen=True, slots=True)
class BestFloor:
    """The floor with the highest F1. It is the best of the questions it was chosen on: on others it does less well."""

    point: SweepPoint
    above: float
    """Every floor from here (exclusive, unless it is 0) ..."""
    up_to: float
    """... to here (inclusive) decides the same."""
    f1: Estimate
    """At this very floor, with the bootstrap interval over questions."""
    low: float
    """Where the best floor lies in resamples of the questions: the lower end of the 95% interval, in hundredths."""
    high: float

    @property
    def floor(self) -> float:
        """The floor itself: the roundest near the middle of those that decide the same."""
        return self.point.floor


@dataclass(frozen=True, slots=True)
class Sweep:
    """Floors from 0 to 1 over labelled questions."""

    questions: int
    answerable: int
    reachable: int
    """Answerable questions with a relevant passage that some floor keeps."""
    unanswerable: int
    answer_limit: int
    grid: tuple[SweepPoint, ...]
    """At `GRID`."""
    best_keep: BestFloor
    best_answer: BestFloor


def sweep(questions: Sequence[ScoredQuestion], *, usual: float = USUAL_FLOOR) -> Sweep:
    """What each floor does, and the best ones by F1: of keep decisions, and of answer decisions.

    Every distinct score is tried as a floor (between two of them nothing changes). Of equally good floors the one
    nearest to `usual` is taken.

    Raises: BadInput where no question has a relevant passage that some floor keeps.

    >>> passages = (ScoredPassage(0.9, True), ScoredPassage(0.3, False))
    >>> found = sweep([ScoredQuestion("?", True, passages), ScoredQuestion("?", False, (ScoredPassage(0.5, False),))])
    >>> found.best_answer.floor, found.best_answer.above, found.best_answer.up_to, found.best_answer.f1.mean
    (0.7, 0.5, 0.9, 1.0)
    """
    swept = _Swept(questions)
    if not swept.reachable:
        raise BadInput(
            f"none of the {len(questions)} questions has a relevant passage that a floor can keep: check the labels, "
            "and that recall finds what they name"
        )
    return Sweep(
        questions=len(questions),
        answerable=swept.answerable,
        reachable=swept.reachable,
        unanswerable=len(questions) - swept.answerable,
        answer_limit=max(question.answer_limit for question in questions),
        grid=swept.at(GRID),
        best_keep=swept.best("keep", usual),
        best_answer=swept.best("answer", usual),
    )


def sweep_point(questions: Sequence[ScoredQuestion], floor: float) -> SweepPoint:
    """What one floor, such as the one in use, does to the questions."""
    return _Swept(questions).at([floor])[0]


@dataclass(frozen=True, slots=True)
class _Curve:
    """Decisions of one question by floor: a floor in `(levels[i - 1], levels[i]]` makes `made[i]`, `right[i]` of them.

    Above the last level none is made.
    """

    levels: Floats
    made: Ints
    right: Ints
    wanted: int

    def at(self, floors: Floats) -> tuple[Ints, Ints]:
        """Decisions made, and right ones, at each floor."""
        places = np.searchsorted(self.levels, floors, side="left")
        return np.append(self.made, 0)[places], np.append(self.right, 0)[places]


def _kept_curve(question: ScoredQuestion) -> _Curve:
    """Passages kept by floor, exactly as `rag.floor.keep` keeps them: scores need not fall with the rank."""
    scored = [passage for passage in question.passages if passage.score is not None]
    scores = np.array([passage.score for passage in scored], dtype=np.float64)
    relevant = np.array([passage.relevant for passage in scored], dtype=bool)
    levels = np.unique(scores)
    passing = scores[None, :] >= levels[:, None]
    kept = passing & (np.cumsum(passing, axis=1) <= question.answer_limit)
    made, right = kept.sum(axis=1), (kept & relevant).sum(axis=1)
    # Of levels that decide the same, the highest says it all.
    changes = np.append((np.diff(made) != 0) | (np.diff(right) != 0), True)[: len(levels)]
    wanted = int((kept.any(axis=0) & relevant).sum()) if len(levels) else 0
    return _Curve(levels[changes], made[changes], right[changes], wanted)


def _answered_curve(question: ScoredQuestion, kept: _Curve) -> _Curve:
    right = (kept.right > 0).astype(np.int64) if question.answerable else np.zeros_like(kept.right)
    return _Curve(kept.levels, (kept.made > 0).astype(np.int64), right, int(right.any()))


class _Swept:
    """The curves of all questions."""

    def __init__(self, questions: Sequence[ScoredQuestion]) -> None:
        kept = [_kept_curve(question) for question in questions]
        answered = [_answered_curve(question, curve) for question, curve in zip(questions, kept, strict=True)]
        self.curves: dict[str, list[_Curve]] = {"keep": kept, "answer": answered}
        self.answerable = sum(question.answerable for question in questions)
        self.reachable = sum(curve.wanted for curve in answered)
        self._best = [(question.answerable, question.best_score) for question in questions]

    def at(self, floors: Sequence[float]) -> tuple[SweepPoint, ...]:
        """The counts at each floor."""
        keep, answer = (_decisions(self.curves[kind], floors) for kind in ("keep", "answer"))
        return tuple(
            SweepPoint(
                floor,
                keep[place],
                answer[place],
                answerable_refused=self.answerable - self._answered(floor, answerable=True),
                unanswerable_answered=self._answered(floor, answerable=False),
            )
            for place, floor in enumerate(floors)
        )

    def _answered(self, floor: float, *, answerable: bool) -> int:
        return sum(best is not None and best >= floor for kind, best in self._best if kind is answerable)

    def best(self, kind: Literal["keep", "answer"], usual: float) -> BestFloor:
        """The floor with the highest F1."""
        curves = self.curves[kind]
        levels, made, right = _totals(curves)
        wanted = sum(curve.wanted for curve in curves)
        changes = np.append((np.diff(made) != 0) | (np.diff(right) != 0), True)
        levels, made, right = levels[changes], made[changes], right[changes]
        f1 = 2 * right / (made + wanted)
        starts = np.concatenate([[0.0], levels[:-1]])
        plateaus = [(float(starts[i]), float(levels[i])) for i in np.flatnonzero(f1 == f1.max())]
        above, up_to = min(plateaus, key=lambda ends: max(ends[0] - usual, usual - ends[1], 0.0))
        floor = _roundest(above, up_to)
        at_floor = [curve.at(np.array([floor])) for curve in curves]
        estimate = share_of(
            [2.0 * float(own_right[0]) for _, own_right in at_floor],
            [float(own_made[0]) + curve.wanted for (own_made, _), curve in zip(at_floor, curves, strict=True)],
        )
        low, high = _floor_interval(curves, floor, usual)
        return BestFloor(self.at([floor])[0], above, up_to, estimate, low, high)


def _decisions(curves: Sequence[_Curve], floors: Sequence[float]) -> list[Decisions]:
    """The decisions of all questions at each floor."""
    tables = [curve.at(np.asarray(floors, dtype=np.float64)) for curve in curves]
    made, right = (np.sum([own[side] for own in tables], axis=0) for side in (0, 1))
    wanted = sum(curve.wanted for curve in curves)
    return [Decisions.of(int(right[place]), int(made[place]), wanted) for place in range(len(floors))]


def _totals(curves: Sequence[_Curve]) -> tuple[Floats, Ints, Ints]:
    """The distinct levels of all questions, ascending, with the decisions made and the right ones at each floor."""
    levels, places = np.unique(np.concatenate([curve.levels for curve in curves]), return_inverse=True)

    def total(values: Sequence[Ints]) -> Ints:
        # A question's count changes just above each of its levels: the changes of all, summed from below.
        drops = np.concatenate([-np.diff(np.append(own, 0)) for own in values])
        dropped = np.bincount(places, weights=drops, minlength=len(levels))
        start = sum(int(own[0]) for own in values if len(own))
        return np.asarray(np.rint(start - np.concatenate([[0.0], np.cumsum(dropped)[:-1]])), dtype=np.int64)

    return levels, total([curve.made for curve in curves]), total([curve.right for curve in curves])


def _roundest(above: float, up_to: float) -> float:
    """The number with the fewest decimals, at least two, near the middle of what lies above one end up to the other.

    >>> _roundest(0.3116, 0.3342), _roundest(0.31162, 0.31164), _roundest(0.0, 0.0)
    (0.32, 0.31163, 0.0)
    """
    middle = (above + up_to) / 2
    candidates = (round(middle, decimals) for decimals in range(2, 16))
    return next((value for value in candidates if above < value <= up_to), up_to)


def _floor_interval(curves: Sequence[_Curve], floor: float, usual: float) -> tuple[float, float]:
    """The ends of the interval in which the best floor of resampled questions lies."""
    tables = [curve.at(_FINE_GRID) for curve in curves]
    right = resampled_sums(np.array([own for _, own in tables]))
    wholes = resampled_sums(np.array([made + curve.wanted for (made, _), curve in zip(tables, curves, strict=True)]))
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(wholes > 0, 2 * right / wholes, 0.0)
    # The small term settles ties as `best` does.
    best = _FINE_GRID[np.argmax(f1 - 1e-6 * np.abs(_FINE_GRID - usual), axis=1)]
    low, high = np.quantile(best, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return min(float(low), floor), max(float(high), floor)


# ---- with labels: a floor with a promise ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConformalFloor:
    """A floor at which the right passage of a further question survives with a probability of at least 1 - risk."""

    floor: float
    risk: float
    n: int
    """Labelled questions that it rests on."""
    needed: int
    """Fewest labelled questions for this risk."""
    k: int
    """It is the k-th smallest of their gold scores."""
    coverage_low: float
    """The probability is over the choice of these questions too. With them as they are, the share of further questions
    whose passage survives lies between these ends, with 90% confidence (more survive where scores tie)."""
    coverage_high: float


def questions_needed(risk: float) -> int:
    """Fewest labelled questions for a conformal floor: ceil(1 / risk) - 1. Raises BadInput.

    >>> questions_needed(0.05), questions_needed(0.1), questions_needed(0.3)
    (19, 9, 3)
    """
    return math.ceil(1 / _exact(risk)) - 1


def conformal_floor(gold_floors: Sequence[float], risk: float) -> ConformalFloor:
    """The split-conformal floor: the k-th smallest gold score, where k = floor(risk * (n + 1)).

    A further question's gold score falls at each place among the n known ones with the same chance, so it is below the
    k-th smallest with a probability of at most k / (n + 1) <= risk. That holds if the further question is of the same
    kind as the known ones (exchangeable), and if these were not used to train the reranker.

    Source: Vovk, Gammerman, Shafer 2005, "Algorithmic Learning in a Random World"; Angelopoulos, Bates 2021, "A Gentle
    Introduction to Conformal Prediction", sections 1 and 3.2, https://arxiv.org/abs/2107.07511 (whose scores grow with
    disagreement, where ours fall).

    Args:
        gold_floors: Of each labelled question the highest floor that keeps a right passage:
            `ScoredQuestion.gold_floor`.
        risk: Greatest probability that the right passage falls below the floor.

    Raises:
        BadInput: A risk outside (0, 1), or fewer questions than it needs.

    >>> conformal_floor([0.9, 0.2, 0.5, 0.7], 0.4).floor  # k = floor(0.4 * 5) = 2
    0.5
    """
    n, needed = len(gold_floors), questions_needed(risk)
    if n < needed:
        least = f", or take a risk of {math.ceil(100 / (n + 1)) / 100:g} or more" if n else ""
        raise BadInput(
            f"a risk of {risk:g} needs at least {needed} labelled questions whose right passage can be kept, and there "
            f"are {n}: label {needed - n} more{least}"
        )
    k = math.floor(_exact(risk) * (n + 1))
    low, high = _beta_interval(n + 1 - k, k, COVERAGE_CONFIDENCE)
    return ConformalFloor(sorted(gold_floors)[k - 1], risk, n, needed, k, low, high)


def _exact(risk: float) -> Fraction:
    """The risk as it was written: 0.29 * 100 is 29, not 28.999999999999996. Raises BadInput."""
    if not 0 < risk < 1:
        raise BadInput(f"a risk of {risk:g} can't be met: take one above 0 and below 1, such as 0.05")
    return Fraction(repr(float(risk)))


def _beta_interval(a: float, b: float, confidence: float) -> tuple[float, float]:
    from scipy.special import betaincinv

    low, high = betaincinv(a, b, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Bound:
    """A share with what it is at most, with 95% confidence."""

    count: int
    of: int
    share: float | None
    """None where there is nothing to count."""
    at_most: float
    """1 where nothing is known."""


def upper_bound(count: int, of: int, confidence: float = BOUND_CONFIDENCE) -> Bound:
    """The one-sided Clopper-Pearson bound on a share: a greater one would give so low a count too rarely.

    Of no case in n it is 1 - (1 - confidence)^(1 / n), about 3 / n. Source: Clopper, Pearson 1934, "The use of
    confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26(4).

    >>> round(upper_bound(0, 20).at_most, 4), round(1 - 0.05 ** (1 / 20), 4), upper_bound(0, 0).at_most
    (0.1391, 0.1391, 1.0)
    """
    if not 0 <= count <= of:
        raise BadInput(f"{count} of {of} is no share: take a count from 0 to {of}")
    if count == of:
        return Bound(count, of, 1.0 if of else None, 1.0)
    from scipy.special import betaincinv

    return Bound(count, of, count / of, float(betaincinv(count + 1, of - count, confidence)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """A conformal floor, and what it does to the questions that it was made from."""

    conformal: ConformalFloor
    answerable: int
    out_of_reach: int
    """Answerable questions of whose right passages no floor keeps one, since recall missed them or rerank put them
    beyond the answer limit: the promise is not about these."""
    point: SweepPoint
    unanswerable_answered: Bound
    """The floor was chosen without looking at unanswerable questions, so the bound holds for others of their kind."""


def calibration(questions: Sequence[ScoredQuestion], risk: float) -> Calibration:
    """The conformal floor of labelled questions. Raises BadInput as `conformal_floor` does."""
    answerable = [question for question in questions if question.answerable]
    reached = [floor for question in answerable if (floor := question.gold_floor) is not None]
    conformal = conformal_floor(reached, risk)
    point = sweep_point(questions, conformal.floor)
    return Calibration(
        conformal,
        len(answerable),
        len(answerable) - len(reached),
        point,
        upper_bound(point.unanswerable_answered, len(questions) - len(answerable)),
    )


# ---- without labels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many scores lie in each of equally wide bins."""

    edges: tuple[float, ...]
    """One more than there are bins; a bin holds its lower edge, the last bin both."""
    counts: tuple[int, ...]


def histogram(scores: Sequence[float | None], bins: int = HISTOGRAM_BINS) -> Histogram:
    """Scores in [0, 1] by bins; None (nothing was scored) is left out.

    >>> histogram([0.1, 0.5, 1.0, None], 2)
    Histogram(edges=(0.0, 0.5, 1.0), counts=(1, 2))
    """
    found = [score for score in scores if score is not None]
    counts, edges = np.histogram(found, bins=bins, range=(0.0, 1.0))
    return Histogram(tuple(float(edge) for edge in edges), tuple(int(count) for count in counts))


@dataclass(frozen=True, slots=True)
class Valley:
    """Where scores part into padding below and evidence above, if they do."""

    n: int
    floor: float | None
    """The score at which they are rarest between the two humps; None where there is no valley."""
    padding: float | None
    """The score at the lower hump's top."""
    evidence: float | None
    """The score at the upper hump's top."""
    chance: float | None
    """How often scores with a single hump look as much like two; None where there were too few to ask."""
    why: str
    """One sentence."""


def valley(scores: Sequence[float | None]) -> Valley:
    """The least dense score between two humps of the scores' density on the logit scale, where there are two.

    Scores crowd at 0 and 1, so the density (a Gaussian kernel's) is taken of their logits. Whether there are two humps
    is Silverman's test: the narrowest kernel that leaves a single hump is compared with what it takes in resamples from
    that very single-humped density. The valley is then the minimum between the humps under a kernel halfway (in ratio)
    between the widest that shows two and the widest that shows three. Seeded: the same scores give the same valley.

    Source: Silverman 1981, "Using Kernel Density Estimates to Investigate Multimodality", Journal of the Royal
    Statistical Society B 43(1), https://doi.org/10.1111/j.2517-6161.1981.tb01155.x.

    Args:
        scores: Such as the best score of each past question: padding where nothing answers it, evidence where
            something does. None is left out.
    """
    found = np.array([score for score in scores if score is not None], dtype=np.float64)
    n = len(found)
    if n < LEAST_SCORES:
        return Valley(n, None, None, None, None, f"{n} scores are too few to show a valley: {LEAST_SCORES} are needed")
    edge = 1 / (1 + math.exp(LOGIT_LIMIT))
    clipped = np.clip(found, edge, 1 - edge)
    logits = np.log(clipped / (1 - clipped))
    spread = float(logits.std())
    if spread < 1e-6:
        return Valley(n, None, None, None, None, "all scores are the same: there is no valley")
    density = _Density(float(logits.min()) - 3 * spread, float(logits.max()) + 3 * spread)
    counts = density.binned(logits)
    single = density.narrowest(counts, 1, spread)
    choose = np.random.default_rng([SEED, n])
    drawn = logits[choose.integers(0, n, size=(_DENSITY_RESAMPLES, n))]
    noisy = drawn + single * choose.standard_normal(drawn.shape)
    shrunk = logits.mean() + (noisy - logits.mean()) / math.sqrt(1 + (single / spread) ** 2)
    kernel = density.kernel(single)
    as_much = sum(_humps(kernel @ density.binned(sample)) > 1 for sample in shrunk)
    chance = as_much / _DENSITY_RESAMPLES
    if chance >= VALLEY_CHANCE:
        why = f"no valley: scores with a single hump look as much like two in {chance:.0%} of cases"
        return Valley(n, None, None, None, chance, why)
    width = math.sqrt(single * density.narrowest(counts, 2, single))
    curve = density.kernel(width) @ counts
    highest = sorted(_tops(curve), key=lambda place: -curve[place])[:2]
    if len(highest) < 2:  # the two kernels are too near to each other to have one between them
        return Valley(n, None, None, None, chance, "no valley: two humps show only just before they become three")
    lower, upper = sorted(highest)
    bottom = lower + int(np.argmin(curve[lower : upper + 1]))
    floor, padding, evidence = (1 / (1 + math.exp(-density.points[place])) for place in (bottom, lower, upper))
    why = f"scores gather around {padding:.2f} and {evidence:.2f}, and are rarest at {floor:.2f}"
    return Valley(n, floor, padding, evidence, chance, why)


class _Density:
    """Kernel densities on a grid of equally spaced points."""

    def __init__(self, low: float, high: float) -> None:
        self.points: Floats = np.linspace(low, high, _DENSITY_POINTS)
        self._step = float(self.points[1] - self.points[0])

    def binned(self, values: Floats) -> Floats:
        """How much of the values lies at each point, each shared between its two neighbours."""
        places = np.clip((values - self.points[0]) / self._step, 0, _DENSITY_POINTS - 1.001)
        left = places.astype(np.int64)
        share = places - left
        return np.asarray(np.bincount(left, 1 - share, _DENSITY_POINTS) + np.bincount(left + 1, share, _DENSITY_POINTS))

    def kernel(self, width: float) -> Floats:
        """The matrix that smooths counts with a Gaussian of that width."""
        distances = (self.points[:, None] - self.points[None, :]) / width
        return np.asarray(np.exp(-0.5 * distances**2))

    def narrowest(self, counts: Floats, humps: int, wide: float) -> float:
        """The narrowest kernel under which there are at most so many humps; wider ones never show more."""
        narrow = 2 * self._step
        while _humps(self.kernel(wide) @ counts) > humps:
            wide *= 2
        if _humps(self.kernel(narrow) @ counts) <= humps:
            return narrow
        while wide / narrow > 1.01:
            middle = math.sqrt(narrow * wide)
            if _humps(self.kernel(middle) @ counts) > humps:
                narrow = middle
            else:
                wide = middle
        return wide


def _humps(curve: Floats) -> int:
    return len(_tops(curve))


def _tops(curve: Floats) -> list[int]:
    """The places of the local maxima, from left to right; unevenness of a billionth of the height is none."""
    slopes = np.diff(curve)
    places = np.flatnonzero(np.abs(slopes) > 1e-9 * curve.max())
    rising = slopes[places] > 0
    return [int(places[i]) + 1 for i in range(len(places) - 1) if rising[i] and not rising[i + 1]]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a floor would have done to past questions. It is about the gate alone: no model runs again.

    A question that passes the gate now may still be refused by an LLM, or for want of a citation.
    """

    floor: float
    passed: int
    """Questions with a passage at or above the floor."""
    stopped: int
    now_passed: tuple[int, ...]
    """Places, in the order given, of questions that their own floor stopped and this one lets through."""
    now_stopped: tuple[int, ...]
    """Places of questions that their own floor let through and this one stops."""


def replay(best_scores: Sequence[float | None], floors: Sequence[float], floor: float) -> Replay:
    """Another floor over past questions.

    Args:
        best_scores: Highest score of each question, `Trace.best_score`; None where nothing was scored.
        floors: The floor that was in use for each.
        floor: The one to try.

    >>> replay([0.9, 0.5, 0.3, None], [0.4, 0.4, 0.4, 0.4], 0.6)
    Replay(floor=0.6, passed=1, stopped=3, now_passed=(), now_stopped=(1,))
    """
    before = [best is not None and best >= own for best, own in zip(best_scores, floors, strict=True)]
    after = [best is not None and best >= floor for best in best_scores]
    return Replay(
        floor,
        sum(after),
        len(after) - sum(after),
        tuple(place for place, (old, new) in enumerate(zip(before, after, strict=True)) if new and not old),
        tuple(place for place, (old, new) in enumerate(zip(before, after, strict=True)) if old and not new),
    )


def replays(
    best_scores: Sequence[float | None], floors: Sequence[float], tried: Sequence[float] = GRID
) -> tuple[Replay, ...]:
    """`replay` at each of several floors."""
    return tuple(replay(best_scores, floors, floor) for floor in tried)
