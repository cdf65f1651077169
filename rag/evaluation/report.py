"""The figures of an evaluation as JSON values: means with intervals, counts, and one row a question.

It asks and prints nothing. Every figure follows from the rows that `rag.evaluation.rankings` gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rag.evaluation.intervals import difference_of, mean_of, share_of
from rag.evaluation.rankings import RECALL_AT, RECALL_METRIC, TOP, Asked, measure
from rag.evaluation.sets import LabelledSet
from rag.types import EngineInfo, QueryPolicy

PAGE_HIT = f"page_hit@{TOP}"
STAGES = ("embed", "recall", "rerank", "answer", "total")
FORMAT = 1
"""Changes whenever an older report can't be compared with a newer one."""


def report(
    labelled: LabelledSet,
    asked: Sequence[Asked],
    engines: Sequence[EngineInfo],
    policy: QueryPolicy,
    *,
    depth: int,
    answers: bool,
) -> dict[str, Any]:
    """Everything about one evaluation: what was asked of which engines, the figures, and the rows.

    `n` counts the answerable questions; means and counts are of them, except what "refusals" says of the others.
    """
    questions = question_rows(asked, pages=labelled.pdfs is not None)
    value: dict[str, Any] = {
        "format": FORMAT,
        "set": labelled.name,
        "n": sum(row.question.answerable for row in asked),
        "engines": [asdict(info) for info in engines],
        "floor": policy.floor,
        "depth": depth,
        "answers": answers,
        "n_passages": sum(map(len, labelled.passages.values())) or None,
        "left_out": labelled.left_out,
        "missing_gold": labelled.missing_gold,
        **figures(asked, questions, policy),
    }
    names = list(dict.fromkeys(row.question.set_name for row in asked))
    if len(names) > 1:
        value["by_set"] = {
            name: _of_set(name, asked, questions, policy)
            for name in names
            if any(row.question.set_name == name and row.question.answerable for row in asked)
        }
    return {**value, "questions": questions}


def _of_set(
    name: str, asked: Sequence[Asked], questions: Sequence[dict[str, Any]], policy: QueryPolicy
) -> dict[str, Any]:
    places = [place for place, row in enumerate(asked) if row.question.set_name == name]
    own = [asked[place] for place in places]
    n = sum(row.question.answerable for row in own)
    return {"n": n, **figures(own, [questions[place] for place in places], policy)}


def question_rows(asked: Sequence[Asked], *, pages: bool) -> list[dict[str, Any]]:
    """One row a question, in order: metrics, ranks of the relevant items, what was kept, times.

    `pages` adds page hits. "before" and "after" are None for a question to be refused.
    """
    answerable = [row for row in asked if row.question.answerable]
    questions = [row.question for row in answerable]
    before = iter(measure(questions, [row.before for row in answerable]))
    after = iter(measure(questions, [[place.items for place in row.after] for row in answerable]))
    rows = []
    for row in asked:
        ranks = row.gold_ranks()
        metrics: dict[str, dict[str, float] | None] = {"before": None, "after": None}
        if row.question.answerable:
            metrics = {"before": next(before), "after": next(after)}
            if pages:
                for side, values in enumerate(metrics.values()):
                    assert values is not None
                    values[PAGE_HIT] = float(any((both[side] or TOP + 1) <= TOP for both in ranks.values()))
        rows.append(
            {
                "id": row.question.id,
                "set": row.question.set_name,
                "text": row.question.text,
                "group": row.question.group or None,
                **metrics,
                "gold": {item: {"before": old, "after": new} for item, (old, new) in ranks.items()},
                "best_score": row.best_score,
                "top": [
                    {"items": list(place.items), "score": place.score, "relevant": row.is_relevant(place.items)}
                    for place in row.after[:TOP]
                ],
                "n_kept": len(row.kept),
                "n_kept_relevant": sum(row.is_relevant(place.items) for place in row.kept),
                "refused": row.refused,
                "reason": row.reason,
                "answer_in_text": row.answer_in_text,
                "n_cached": row.n_cached,
                "timings_ms": {stage: round(value, 2) for stage, value in row.timings_ms.items()},
            }
        )
    return rows


def figures(asked: Sequence[Asked], questions: Sequence[Mapping[str, Any]], policy: QueryPolicy) -> dict[str, Any]:
    """Means and counts over some questions; `questions` are their rows."""
    answerable = [row for row in asked if row.question.answerable]
    measured = [row for row in questions if row["group"] is None]
    names = list(measured[0]["before"]) if measured else []
    columns = {side: {name: [row[side][name] for row in measured] for name in names} for side in ("before", "after")}
    means: dict[str, Any] = {
        side: {name: asdict(mean_of(values)) for name, values in column.items()} for side, column in columns.items()
    }
    lift = {
        name: asdict(difference_of(columns["before"][name], columns["after"][name]))
        for name in names
        if name != RECALL_METRIC
    }
    value = {**means, "lift": lift, **_moves(answerable), "noise": _noise(answerable, policy.answer_limit)}
    value["kept_gold"] = asdict(mean_of([float(row["n_kept_relevant"] > 0) for row in measured]))
    value["refusals"] = _refusals(asked)
    found = [row.answer_in_text for row in answerable if row.answer_in_text is not None]
    value["answer_in_text"] = _count(found, len(found)) if found else None
    value[PAGE_HIT] = means["after"].get(PAGE_HIT)
    value["timings_ms"] = _timings(asked)
    return value


def _moves(answerable: Sequence[Asked]) -> dict[str, Any]:
    """How many relevant passages reranking brought into the top, of those that it could; and out of it.

    A share's interval is over questions.
    """

    def moved(from_: Callable[[int], bool], to: Callable[[int], bool]) -> dict[str, Any]:
        counts, of = [], []
        for row in answerable:
            ranks = [(before, after) for before, after in row.gold_ranks().values() if before and after]
            starting = [after for before, after in ranks if from_(before)]
            of.append(len(starting))
            counts.append(sum(map(to, starting)))
        return {"count": sum(counts), "of": sum(of), "share": asdict(share_of(counts, of))}

    return {
        "rescued": moved(lambda before: TOP < before <= RECALL_AT, lambda after: after <= TOP),
        "buried": moved(lambda before: before <= TOP, lambda after: after > TOP),
    }


def _noise(answerable: Sequence[Asked], limit: int) -> dict[str, Any]:
    """Share of passages that are not relevant, among what an answer would rest on.

    "recalled" is without rerank, "reranked" without floor, "kept" with both. Every passage weighs the same.
    """
    stages: dict[str, Callable[[Asked], Iterable[tuple[str, ...]]]] = {
        "recalled": lambda row: row.before[:limit],
        "reranked": lambda row: (place.items for place in row.after[:limit]),
        "kept": lambda row: (place.items for place in row.kept),
    }
    value = {}
    for name, passages_of in stages.items():
        relevant = [[row.is_relevant(items) for items in passages_of(row)] for row in answerable]
        noise = [len(flags) - sum(flags) for flags in relevant]
        value[name] = asdict(share_of(noise, [len(flags) for flags in relevant]))
    return value


def _refusals(asked: Sequence[Asked]) -> dict[str, Any]:
    answerable = [row for row in asked if row.question.answerable]
    recalled = [row for row in answerable if any(before for before, _ in row.gold_ranks().values())]
    others = [row for row in asked if not row.question.answerable]
    groups = dict.fromkeys(row.question.group for row in others)
    return {
        "answerable": _refused(answerable),
        "answerable_gold_recalled": _refused(recalled),
        "unanswerable": _refused(others),
        "unanswerable_by_file": {
            group: _refused([row for row in others if row.question.group == group]) for group in groups
        },
        "by_reason": dict(Counter(row.reason for row in asked if row.reason)),
    }


def _refused(rows: Sequence[Asked]) -> dict[str, Any]:
    return _count([row.refused for row in rows], len(rows))


def _count(flags: Sequence[bool], n: int) -> dict[str, Any]:
    return {"count": sum(flags), "of": n, "share": asdict(mean_of([float(flag) for flag in flags]))}


def _timings(asked: Sequence[Asked]) -> dict[str, Any]:
    """Median and 95th percentile by stage. Where scores were remembered, rerank and total say nothing of the model."""
    value = {}
    for stage in STAGES:
        times = [
            row.timings_ms[stage]
            for row in asked
            if stage in row.timings_ms and not (stage in ("rerank", "total") and row.n_cached)
        ]
        if times:
            median, late = np.quantile(times, [0.5, 0.95])
            value[stage] = {"median": round(float(median), 2), "p95": round(float(late), 2), "n": len(times)}
    return value
