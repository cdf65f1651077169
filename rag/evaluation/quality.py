"""How well a collection is served, from the questions that were asked of it and what people said of them.

It takes the numbers of kept traces and makes one report, which `python -m rag quality` prints and the page draws. No
model runs, no text of a passage is read, and nothing is stored here.

A question is labelled where a person called one of its passages right; what nobody called right counts as not right.
Scores of another reranker (name, revision, precision) or embedder say nothing about this one: they are left out and
counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import fmean, median
from typing import Any

import ir_measures

from rag.errors import BadInput
from rag.evaluation.floor_report import (
    calibration_report,
    floor_by_hand,
    floor_of_calibration,
    floor_of_sweep,
    sweep_report,
)
from rag.evaluation.floors import (
    GRID,
    USUAL_FLOOR,
    Replay,
    ScoredPassage,
    ScoredQuestion,
    histogram,
    questions_needed,
    replay,
    valley,
)
from rag.evaluation.intervals import difference_of, mean_of
from rag.evaluation.scored_questions import ScoredQuestions
from rag.floor_store import FloorInUse, StoredFloor
from rag.ports import Embedder, Reranker
from rag.settings import Settings
from rag.training.groups import question_digest
from rag.types import EngineInfo, TraceSummary
from rag.wiring import floor_in_use, scorer_of

QUESTIONS_READ = 5000
"""The newest so many questions are looked at: a page should not wait for older ones."""
RISK = 0.05
DEPTHS = (20, 50, 100)
"""How many of recall's passages the reranker reads: the depths that are compared."""
METRICS = {"R@10": ir_measures.R @ 10, "nDCG@5": ir_measures.nDCG @ 5}
_READ_RANKS = 10
"""No metric looks further down."""
LEAST_LIFT = 0.02
"""A lift below this does not pay for the wait."""
DEPTH_MARGIN = 0.01
"""Of depths whose nDCG@5 is within this of the best one's, the smallest pays best."""
MOST_PERIODS = 45
"""A trend is by day if so many hold it, else by week."""


# ---- which questions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InUse:
    """What a question asked now would meet."""

    reranker: EngineInfo
    scorer: EngineInfo
    """The one whose scores meet the floor: see `rag.wiring.scorer_of`."""
    embedder: EngineInfo
    floor: FloorInUse


def in_use(settings: Settings, reranker: Reranker, embedder: Embedder) -> InUse:
    """The engines and the floor of the settings' collection. Raises CollectionError where floors can't be read."""
    floor = floor_in_use(settings, reranker, embedder)
    return InUse(reranker.info, scorer_of(reranker).info, embedder.info, floor)


@dataclass(frozen=True, slots=True)
class Past:
    """The questions that can be compared with each other, newest first, and how many can't."""

    questions: tuple[TraceSummary, ...]
    best_scores: tuple[float | None, ...]
    """Highest score of each question."""
    left_out: tuple[tuple[str, int], ...] = ()
    """Why, in words, with their number; the most frequent first."""

    def replayed(self, floor: float) -> Replay:
        """What another floor would have done to them, by places in `questions`. Raises BadInput outside [0, 1]."""
        if not 0 <= floor <= 1:
            raise BadInput(f"a floor of {floor:g} can't be tried: scores lie in 0 to 1, and so must a floor")
        return replay(self.best_scores, [one.floor for one in self.questions], floor)


def past_questions(summaries: Sequence[TraceSummary], now: InUse) -> Past:
    """Those scored by the reranker in use, from what the embedder in use recalled."""
    reasons = [_why_not(one, now) for one in summaries]
    kept = tuple(one for one, reason in zip(summaries, reasons, strict=True) if reason is None)
    left_out = Counter(reason for reason in reasons if reason is not None).most_common()
    return Past(kept, tuple(one.best_score for one in kept), tuple(left_out))


def _why_not(summary: TraceSummary, now: InUse) -> str | None:
    """Why a question can't be compared with those asked now, or None."""
    if summary.outcome == "failure" and not summary.scores:
        return "ended by an outage before there was a ranking"
    engines = {info.role: info for info in summary.engines}
    reranker, embedder = engines.get("reranker"), engines.get("embedder")
    if reranker is None or embedder is None:
        return "its engines are not known"
    if reranker.name != now.reranker.name:
        return f"reranked by {reranker.name}"
    if reranker.revision != now.reranker.revision:
        return f"reranked by another revision of {reranker.name}"
    if reranker.precision != now.reranker.precision:
        return f"reranked in {reranker.precision or 'another precision'}, not {now.reranker.precision}"
    if (embedder.name, embedder.revision) != (now.embedder.name, now.embedder.revision):
        return f"recalled by another embedder ({embedder.name})"
    return None


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question of which people named a right passage."""

    summary: TraceSummary
    right_ranks: tuple[int, ...]
    """1-based ranks of its right passages after rerank, ascending, never empty."""

    def scored(self) -> ScoredQuestion:
        """As floors are chosen from it."""
        right = set(self.right_ranks)
        passages = tuple(ScoredPassage(score, rank in right) for rank, score in enumerate(self.summary.scores, start=1))
        return ScoredQuestion(self.summary.question, True, passages, self.summary.answer_limit)


def labelled_questions(questions: Sequence[TraceSummary]) -> tuple[list[LabelledQuestion], tuple[str, ...]]:
    """The labelled ones, newest first, each question once; and which labels could not be used, a sentence each.

    Labels of a question that was asked several times are joined where both rankings are the same; else its newest
    ranking with a right passage counts. A passage called both right and wrong is neither.
    """
    by_question: dict[str, list[TraceSummary]] = {}
    for one in questions:
        passages = [label for label in one.labels if label.chunk_id is not None]
        if passages:
            by_question.setdefault(question_digest(passages[0].question), []).append(one)
    found, without, repeated = [], 0, 0
    for asked in by_question.values():
        labels = [label for one in asked for label in one.labels if label.chunk_id is not None]
        right = {label.chunk_id for label in labels if label.verdict in ("right", "wrongly_refused")}
        right -= {label.chunk_id for label in labels if label.verdict == "wrong"}
        ranks = [
            {label.rank for label in one.labels if label.chunk_id in right and label.rank is not None} for one in asked
        ]
        place = next((place for place, own in enumerate(ranks) if own), None)
        if place is None:
            without += 1
            continue
        chosen = asked[place]
        same = [
            own
            for one, own in zip(asked, ranks, strict=True)
            if (one.scores, one.recall_ranks) == (chosen.scores, chosen.recall_ranks)
        ]
        joined = {rank for own in same for rank in own}
        found.append(LabelledQuestion(chosen, tuple(sorted(joined))))
        repeated += len(asked) > 1
    notes = []
    if without:
        notes.append(
            f"{without} labelled questions were left out: none of their passages was called right and not wrong"
        )
    if repeated:
        notes.append(f"{repeated} questions were labelled more than once: each counts once")
    return found, tuple(notes)


def state_key(summaries: Sequence[TraceSummary]) -> str:
    """A digest that changes with the questions and with their labels: a report of the same is the same."""
    digest = hashlib.sha256()
    for one in summaries:
        labels = [(label.chunk_id, label.verdict, label.given_at) for label in one.labels]
        digest.update(repr((one.id, one.asked_at, labels)).encode())
    return digest.hexdigest()


# ---- the report -----------------------------------------------------------------------------------------------------


def quality_report(past: Past, now: InUse, *, collection: str, risk: float = RISK) -> dict[str, Any]:
    """Everything that the page shows, as JSON values.

    "sweep" and "calibration" are those of `rag.evaluation.floor_report` over the labelled questions, None where there
    are too few; "needs" says how many a conformal floor takes. "marks" are the floors worth trying. "replays" are those
    of `GRID` and of the marks, as counts. "verdict" is about the reranker; "trend" runs from old to new.

    Raises: BadInput for a risk that can't be met.
    """
    labelled, notes = labelled_questions(past.questions)
    scored = ScoredQuestions(
        f"{len(labelled)} labelled questions of {collection}",
        tuple(one.scored() for one in labelled),
        now.reranker,
        now.scorer,
        now.floor.scope,
        now.floor.value,
        notes,
    )
    gold_floors = sorted(floor for question in scored.questions if (floor := question.gold_floor) is not None)
    reachable = len(gold_floors)
    needed = questions_needed(risk)
    report: dict[str, Any] = {
        "collection": collection,
        "n": len(past.questions),
        "left_out": [{"why": why, "n": n} for why, n in past.left_out],
        "first_asked_at": past.questions[-1].asked_at if past.questions else None,
        "last_asked_at": past.questions[0].asked_at if past.questions else None,
        "reranker": asdict(now.reranker),
        "scorer": asdict(now.scorer),
        "floor": asdict(now.floor),
        "labelled": len(labelled),
        "notes": list(notes),
        "gold_floors": gold_floors,
        "needs": {"risk": risk, "n": reachable, "needed": needed, "missing": max(0, needed - reachable)},
        "sweep": sweep_report(scored) if reachable else None,
        "calibration": calibration_report(scored, risk) if reachable >= needed else None,
    }
    report["marks"] = _marks(report)
    tried = sorted({*GRID, *(mark["floor"] for mark in report["marks"])})
    report["replays"] = [counted(past.replayed(floor)) for floor in tried]
    report["valley"] = asdict(valley(past.best_scores))
    report["histograms"] = _histograms(past, labelled)
    report["verdict"] = rerank_verdict(past.questions, labelled, now.reranker)
    report["trend"] = _trend(past.questions, labelled)
    return report


def counted(replayed: Replay) -> dict[str, Any]:
    """A replay with numbers of questions instead of their places."""
    return {
        **asdict(replayed),
        "now_passed": len(replayed.now_passed),
        "now_stopped": len(replayed.now_stopped),
    }


def flips(past: Past, report: Mapping[str, Any], floor: float) -> dict[str, Any]:
    """A replay with the questions that flip, newest first, as JSON values. Raises BadInput outside [0, 1].

    "right_survives" is the number of labelled questions whose right passage stays at or above the floor, of those
    where a floor can keep one.
    """
    replayed = past.replayed(floor)

    def rows(places: Sequence[int]) -> list[dict[str, Any]]:
        names = ("id", "asked_at", "question", "best_score", "floor", "outcome", "reason")
        return [{name: getattr(past.questions[place], name) for name in names} for place in places]

    survive = sum(gold_floor >= floor for gold_floor in report["gold_floors"])
    return {
        **asdict(replayed),
        "now_passed": rows(replayed.now_passed),
        "now_stopped": rows(replayed.now_stopped),
        "right_survives": {"count": survive, "of": len(report["gold_floors"])},
    }


def _marks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The floors worth trying, each with the kinds of it, lowest first."""
    kinds: dict[float, list[str]] = {}
    kinds.setdefault(report["floor"]["value"], []).append("in_use")
    if report["sweep"]:
        # Where nothing is to be refused, no answer is wrong, and the best floor of answers says nothing.
        for by in ("answer", "keep") if report["sweep"]["unanswerable"] else ("keep",):
            kinds.setdefault(report["sweep"][f"best_{by}"]["point"]["floor"], []).append(f"best_{by}")
    if report["calibration"]:
        kinds.setdefault(report["calibration"]["floor"], []).append("conformal")
    kinds.setdefault(USUAL_FLOOR, []).append("default")
    return [{"floor": floor, "kinds": kinds[floor]} for floor in sorted(kinds)]


def floor_to_store(value: float, report: Mapping[str, Any], now: InUse) -> StoredFloor:
    """A floor of the page with what it was measured for; one that no measurement gave is by hand."""
    kinds: list[str] = next((mark["kinds"] for mark in report["marks"] if mark["floor"] == value), [])
    if "conformal" in kinds:
        return floor_of_calibration(report["calibration"], now.floor.scope)
    if "best_answer" in kinds:
        return floor_of_sweep(report["sweep"], now.floor.scope, "answer")
    if "best_keep" in kinds:
        return floor_of_sweep(report["sweep"], now.floor.scope, "keep")
    return floor_by_hand(value, now.floor.scope)


def _histograms(past: Past, labelled: Iterable[LabelledQuestion]) -> dict[str, Any]:
    """Best scores of questions; scores of passages that were kept, that were dropped, and that people called right."""
    kept: list[float] = []
    dropped: list[float] = []
    for one in past.questions:
        left = one.answer_limit
        for score in one.scores:
            if score is None:
                continue
            if score >= one.floor and left:
                kept.append(score)
                left -= 1
            else:
                dropped.append(score)
    right = [one.summary.scores[rank - 1] for one in labelled for rank in one.right_ranks]
    groups = {"best": past.best_scores, "kept": kept, "dropped": dropped, "right": right}
    return {name: asdict(histogram(scores)) for name, scores in groups.items()}


# ---- the reranker ---------------------------------------------------------------------------------------------------


def reranked_to(recall_ranks: Sequence[int], depth: int) -> list[int]:
    """The order had the reranker read only the first `depth` of recall: 0-based places in the full rerank order.

    Those beyond the depth follow in recall order, as `rag.evaluation.depth.FirstOnly` leaves them. Depth 0 is recall.

    >>> reranked_to([3, 1, 2], 3), reranked_to([3, 1, 2], 2), reranked_to([3, 1, 2], 0)
    ([0, 1, 2], [1, 2, 0], [1, 2, 0])
    """
    read = [place for place, rank in enumerate(recall_ranks) if rank <= depth]
    unread = sorted((rank, place) for place, rank in enumerate(recall_ranks) if rank > depth)
    return [*read, *(place for _, place in unread)]


def measured_to(labelled: Sequence[LabelledQuestion], depth: int | None) -> dict[str, list[float]]:
    """`METRICS` of each question had the reranker read `depth` passages (0: none, None: as it did), in order.

    What recall missed is not known from labels of passages that it found: these figures are about the order alone.
    """
    qrels, run = [], []
    for number, one in enumerate(labelled):
        ranks = one.summary.recall_ranks
        order = list(range(len(ranks))) if depth is None else reranked_to(ranks, depth)
        qrels += [ir_measures.Qrel(str(number), str(rank - 1), 1) for rank in one.right_ranks]
        run += [
            ir_measures.ScoredDoc(str(number), str(place), -float(rank))
            for rank, place in enumerate(order[:_READ_RANKS])
        ]
    values: dict[str, list[float]] = {name: [0.0] * len(labelled) for name in METRICS}
    if not labelled:
        return values
    names = {str(metric): name for name, metric in METRICS.items()}
    for value in ir_measures.iter_calc(list(METRICS.values()), qrels, run):
        values[names[str(value.measure)]][int(value.query_id)] = float(value.value)
    return values


def rerank_verdict(
    questions: Sequence[TraceSummary], labelled: Sequence[LabelledQuestion], reranker: EngineInfo
) -> dict[str, Any]:
    """Whether reranking pays here, by labelled questions; "decision" is on, off, unsure, unknown or none.

    on: nDCG@5 or R@10 rises by `LEAST_LIFT` or more, and the interval of that lift is above 0. unsure: it rises by as
    much, and chance alone could do that. off: neither rises by as much. unknown: nothing is labelled. none: there is no
    reranker in use. The milliseconds of a depth are in proportion to the passages read.
    """
    timed = [
        (one.timings_ms["rerank"], len(one.scores)) for one in questions if one.scores and "rerank" in one.timings_ms
    ]
    result: dict[str, Any] = {
        "n": len(labelled),
        "rerank_ms": median(ms for ms, _ in timed) if timed else None,
        "n_timed": len(timed),
    }
    if reranker.name == "none":
        return {**result, "decision": "none"}
    if not labelled:
        return {**result, "decision": "unknown"}
    before, after = measured_to(labelled, 0), measured_to(labelled, None)
    lift = {name: asdict(difference_of(before[name], after[name])) for name in METRICS}
    most = max(len(one.summary.scores) for one in labelled)
    depths: list[dict[str, Any]] = []
    for place, depth in enumerate(DEPTHS):
        if place and DEPTHS[place - 1] >= most:
            break  # no question had that many passages
        values = measured_to(labelled, depth)
        milliseconds = median(ms * min(depth, n) / n for ms, n in timed) if timed else None
        depths.append({"depth": depth, **{name: asdict(mean_of(values[name])) for name in METRICS}, "ms": milliseconds})
    best = max(row["nDCG@5"]["mean"] for row in depths)
    return {
        **result,
        "before": {name: asdict(mean_of(before[name])) for name in METRICS},
        "after": {name: asdict(mean_of(after[name])) for name in METRICS},
        "lift": lift,
        "depths": depths,
        "best_depth": next(row["depth"] for row in depths if row["nDCG@5"]["mean"] >= best - DEPTH_MARGIN),
        "decision": _decision(lift),
    }


def _decision(lift: Mapping[str, Mapping[str, float]]) -> str:
    enough = [one for one in lift.values() if one["mean"] >= LEAST_LIFT]
    if not enough:
        return "off"
    return "on" if any(one["low"] > 0 for one in enough) else "unsure"


# ---- over time ------------------------------------------------------------------------------------------------------


def _trend(questions: Sequence[TraceSummary], labelled: Sequence[LabelledQuestion]) -> dict[str, Any]:
    """By day, or by week: questions, refusals, lift and time, oldest first; periods without questions are left out.

    "refused" counts refusals among "ended": questions that no outage ended. Times are medians.
    """
    days = {one.id: _day(one.asked_at) for one in questions}
    span = (max(days.values()) - min(days.values())).days + 1 if days else 0
    by_week = span > MOST_PERIODS
    before, after = (measured_to(labelled, depth)["nDCG@5"] for depth in (0, None))
    lift = {one.summary.id: new - old for one, old, new in zip(labelled, before, after, strict=True)}
    periods: dict[date, list[TraceSummary]] = {}
    for one in questions:
        day = days[one.id]
        periods.setdefault(day - timedelta(days=day.weekday()) if by_week else day, []).append(one)
    points = []
    for start in sorted(periods):
        asked = periods[start]
        ended = [one for one in asked if one.outcome != "failure"]
        refused = sum(one.outcome == "refusal" for one in ended)
        lifts = [lift[one.id] for one in asked if one.id in lift]
        points.append(
            {
                "start": start.isoformat(),
                "n": len(asked),
                "ended": len(ended),
                "refused": refused,
                "refused_share": refused / len(ended) if ended else None,
                "labelled": len(lifts),
                "lift": fmean(lifts) if lifts else None,
                "total_ms": _median_ms(asked, "total"),
                "rerank_ms": _median_ms(asked, "rerank"),
            }
        )
    return {"period": "week" if by_week else "day", "points": points}


def _day(asked_at: str) -> date:
    """The day of a time in ISO 8601, in UTC."""
    moment = datetime.fromisoformat(asked_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()


def _median_ms(questions: Iterable[TraceSummary], stage: str) -> float | None:
    found = [one.timings_ms[stage] for one in questions if stage in one.timings_ms]
    return median(found) if found else None
