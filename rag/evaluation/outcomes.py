"""Right, wrong, rightly refused, wrongly refused: what an answer or a refusal was, by two yardsticks. Pure.

`by_page` asks only where an answer quotes from; `strict` also whether it says the gold answer, as far as words and
numbers tell. Neither reads the answer as a person would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from rag.evaluation.intervals import mean_of
from rag.evaluation.rankings import Asked

OutcomeName = Literal["right", "unjudged", "wrong", "wrongly_refused", "rightly_refused", "wrongly_answered"]
OUTCOMES: dict[OutcomeName, bool] = {
    "right": True,
    "unjudged": True,
    "wrong": True,
    "wrongly_refused": True,
    "rightly_refused": False,
    "wrongly_answered": False,
}
"""Whether it is an outcome of answerable questions, or of those to be refused."""


def by_page(row: Asked) -> OutcomeName:
    """Right: one of the cited pages (passages, in a set of passages) is a gold one. Nothing is left unjudged."""
    if not row.question.answerable:
        return "rightly_refused" if row.refused else "wrongly_answered"
    if row.refused:
        return "wrongly_refused"
    return "right" if row.answer and row.is_relevant(row.answer.cited_items) else "wrong"


def strict(row: Asked) -> OutcomeName:
    """Right: a gold page is cited *and* the answer agrees with a gold answer (`rag.evaluation.answer_match.agrees`).

    Unjudged: a gold page is cited, and whether the answer agrees can't be told, or the question has no gold answer.
    """
    outcome = by_page(row)
    if outcome != "right" or row.answer is None:
        return outcome
    agrees = row.answer.match.agrees if row.answer.match else None
    return "unjudged" if agrees is None else "right" if agrees else "wrong"


def outcome_figures(asked: Sequence[Asked]) -> dict[str, Any]:
    """Counts of each outcome by both yardsticks, with shares of the answerable questions, or of those to be refused."""
    value: dict[str, Any] = {}
    for name, outcome_of in (("strict", strict), ("by_page", by_page)):
        outcomes = [(row.question.answerable, outcome_of(row)) for row in asked]
        value[name] = {
            outcome: _counted([one == outcome for kind, one in outcomes if kind is answerable])
            for outcome, answerable in OUTCOMES.items()
        }
    return value


def _counted(flags: Sequence[bool]) -> dict[str, Any]:
    return {"count": sum(flags), "of": len(flags), "share": asdict(mean_of([float(flag) for flag in flags]))}
