"""The figures of an evaluation as JSON values: means with intervals, counts, and one row a question.

It asks and prints nothing. Every figure follows from the rows that `rag.evaluation.rankings` gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rag.evaluation.answers import JudgedAnswer, context_precision
from rag.evaluation.intervals import difference_of, mean_of, share_of
from rag.evaluation.judges import JudgeInfo
from rag.evaluation.outcomes import by_page, outcome_figures, strict
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
    judge: JudgeInfo | None = None,
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
        "judge": asdict(judge) if judge else None,
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
        judged = row.answer is not None or row.refused
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
                "context_precision": context_precision([row.is_relevant(place.items) for place in row.kept]),
                "refused": row.refused,
                "reason": row.reason,
                "answer_in_text": row.answer_in_text,
                "answer": _answer(row.answer) if row.answer else None,
                "outcome": {"strict": strict(row), "by_page": by_page(row)} if judged else None,
                "n_cached": row.n_cached,
                "timings_ms": {stage: round(value, 2) for stage, value in row.timings_ms.items()},
            }
        )
    return rows


def _answer(judged: JudgedAnswer) -> dict[str, Any]:
    """An answer's row; a statement's "precise" has one flag for each passage that it cites."""
    match = judged.match
    return {
        "text": judged.text,
        "kind": judged.kind,
        "cited_items": list(judged.cited_items),
        "statements": [
            {
                "text": one.statement.text,
                "cited": list(one.statement.cited),
                "recalled": one.recalled,
                "precise": list(one.precise),
                "faithful": one.faithful,
                "unclear": one.unclear,
            }
            for one in judged.statements
        ],
        "citation_recall": judged.citation_recall,
        "citation_precision": judged.citation_precision,
        "faithfulness": judged.faithfulness,
        "hallucinates": judged.hallucinates,
        "exact_match": match.exact if match else None,
        "token_f1": match.f1 if match else None,
        "contains_gold": match.contained if match else None,
        "agrees": match.agrees if match else None,
    }


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
    precisions = [row["context_precision"] for row in measured if row["context_precision"] is not None]
    value["context_precision"] = asdict(mean_of(precisions))
    value["answered"] = answer_figures(asked)
    settled = all(row.refused or row.answer for row in asked)
    value["outcomes"] = outcome_figures(asked) if asked and settled else None
    value[PAGE_HIT] = means["after"].get(PAGE_HIT)
    value["timings_ms"] = _timings(asked)
    value["n_with_remembered_scores"] = sum(row.n_cached > 0 for row in asked)
    return value


ANSWER_METRICS: dict[str, Callable[[JudgedAnswer], float]] = {
    "citation_recall": lambda answer: answer.citation_recall,
    "citation_precision": lambda answer: answer.citation_precision,
    "faithfulness": lambda answer: answer.faithfulness,
    "hallucination_rate": lambda answer: float(answer.hallucinates),
}
"""Of each answer that was given, to answerable questions and to others."""


def answer_figures(asked: Sequence[Asked]) -> dict[str, Any] | None:
    """Means over the answers that were given and judged; None where none was.

    The matches with gold answers are of answered answerable questions that have one; "agrees" leaves out those that
    words and numbers can't judge, and "n_unjudged" counts them.
    """
    answers = [row.answer for row in asked if row.answer]
    if not answers:
        return None
    matches = [row.answer.match for row in asked if row.question.answerable and row.answer and row.answer.match]
    agree = [match.agrees for match in matches if match.agrees is not None]
    value: dict[str, Any] = {"n": len(answers)}
    value |= {name: asdict(mean_of([metric(one) for one in answers])) for name, metric in ANSWER_METRICS.items()}
    value["n_statements"] = sum(len(one.statements) for one in answers)
    value["n_unclear"] = sum(statement.unclear for one in answers for statement in one.statements)
    return value | {
        "n_gold": len(matches),
        "exact_match": asdict(mean_of([float(match.exact) for match in matches])),
        "token_f1": asdict(mean_of([match.f1 for match in matches])),
        "contains_gold": asdict(mean_of([float(match.contained) for match in matches])),
        "agrees": asdict(mean_of([float(one) for one in agree])),
        "n_unjudged": len(matches) - len(agree),
    }


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
