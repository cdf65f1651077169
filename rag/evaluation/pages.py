"""Ask labelled questions and count where their gold pages end up: recalled, before rerank, after rerank, kept.

Every question goes the whole way of `rag.pipeline`; no figure is computed from anything but the traces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from rag.evaluation.questions import LabelledQuestion
from rag.pipeline import answer_question
from rag.ports import Engines, Progress
from rag.types import Answer, Chunk, QueryPolicy, Result

TOP = 5
"""Depth of the page-hit figures."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one labelled question. Ranks are 1-based; None: the gold page is not there."""

    id: str
    text: str
    answerable: bool
    answered: bool
    reason: str | None
    """Why it was refused, or None."""
    best_score: float | None
    rank_before: int | None
    """Best recall rank of a chunk on a gold page."""
    rank_after: int | None
    """Best rank after reranking of a chunk on a gold page."""
    kept_gold: bool
    """Whether a chunk on a gold page passed the floor into the top."""
    answer_in_text: bool | None
    """Whether one of the gold answers stands in the answer's text; None where there is no answer or no gold answer."""
    timings_ms: Mapping[str, float]


def ask_all(
    questions: Sequence[LabelledQuestion], engines: Engines, policy: QueryPolicy, *, progress: Progress | None = None
) -> list[Asked]:
    """Ask every question, in order."""
    sources = {stored.document.id: Path(stored.document.source).stem for stored in engines.index.documents()}
    asked = []
    for done, question in enumerate(questions, start=1):
        asked.append(_outcome(question, answer_question(question.text, engines, policy), sources))
        if progress:
            progress(done, len(questions))
    return asked


def _outcome(question: LabelledQuestion, result: Result, sources: Mapping[str, str]) -> Asked:
    gold = {(page.source, page.number) for page in question.gold}

    def on_gold_page(chunk: Chunk) -> bool:
        return any((sources.get(chunk.document_id, ""), span.page) in gold for span in chunk.spans)

    trace, outcome = result.trace, result.outcome
    answered = isinstance(outcome, Answer)
    return Asked(
        id=question.id,
        text=question.text,
        answerable=question.answerable,
        answered=answered,
        reason=None if isinstance(outcome, Answer) else outcome.reason,
        best_score=trace.best_score,
        rank_before=_first(item.rank for item in trace.candidates if on_gold_page(item.chunk)),
        rank_after=_first(item.rank for item in trace.ranked if on_gold_page(item.chunk)),
        kept_gold=any(on_gold_page(item.chunk) for item in trace.kept),
        answer_in_text=(
            any(_folded(answer) in _folded(outcome.text) for answer in question.answers)
            if isinstance(outcome, Answer) and question.answers
            else None
        ),
        timings_ms=trace.timings_ms,
    )


def _first(ranks: Iterable[int]) -> int | None:
    return min(ranks, default=None)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def summary(name: str, asked: Sequence[Asked], engines: Engines, policy: QueryPolicy) -> dict[str, Any]:
    """The counts over all questions, and each question's own row, as JSON values."""
    answerable = [row for row in asked if row.answerable]
    unanswerable = [row for row in asked if not row.answerable]

    def count(rows: Sequence[Asked], holds: Callable[[Asked], bool]) -> int:
        return sum(1 for row in rows if holds(row))

    return {
        "set": name,
        "n": len(asked),
        "engines": [asdict(info) for info in engines.infos],
        "floor": policy.floor,
        "answerable": {
            "n": len(answerable),
            "gold_recalled": count(answerable, lambda row: row.rank_before is not None),
            "gold_in_top_5_before": count(answerable, lambda row: (row.rank_before or TOP + 1) <= TOP),
            "gold_in_top_5_after": count(answerable, lambda row: (row.rank_after or TOP + 1) <= TOP),
            "gold_first_before": count(answerable, lambda row: row.rank_before == 1),
            "gold_first_after": count(answerable, lambda row: row.rank_after == 1),
            "gold_kept": count(answerable, lambda row: row.kept_gold),
            "answered": count(answerable, lambda row: row.answered),
            "refused": count(answerable, lambda row: not row.answered),
            "answer_in_text": count(answerable, lambda row: row.answer_in_text is True),
        },
        "unanswerable": {
            "n": len(unanswerable),
            "answered": count(unanswerable, lambda row: row.answered),
            "refused": count(unanswerable, lambda row: not row.answered),
        },
        "refusals_by_reason": dict(Counter(row.reason for row in asked if row.reason)),
        "median_ms": {
            stage: round(median(row.timings_ms.get(stage, 0.0) for row in asked), 1)
            for stage in ("embed", "recall", "rerank", "answer", "total")
            if asked
        },
        "questions": [asdict(row) for row in asked],
    }


def print_summary(report: Mapping[str, Any], console: Console) -> None:
    """The counts as a table."""
    answerable, unanswerable = report["answerable"], report["unanswerable"]
    table = Table(title=f"{report['set']}: {report['n']} questions, floor {report['floor']:.2f}", title_justify="left")
    table.add_column("")
    table.add_column("count", justify="right")
    table.add_column("of", justify="right")
    for label, key in (
        ("gold page among the recalled", "gold_recalled"),
        ("gold page in the top 5 before rerank", "gold_in_top_5_before"),
        ("gold page in the top 5 after rerank", "gold_in_top_5_after"),
        ("gold page first before rerank", "gold_first_before"),
        ("gold page first after rerank", "gold_first_after"),
        ("gold page kept for the answer", "gold_kept"),
        ("gold answer stands in the answer", "answer_in_text"),
        ("answerable, refused", "refused"),
    ):
        table.add_row(label, str(answerable[key]), str(answerable["n"]))
    table.add_row("unanswerable, answered", str(unanswerable["answered"]), str(unanswerable["n"]))
    console.print(table)
    milliseconds = ", ".join(f"{stage} {value:.0f}" for stage, value in report["median_ms"].items())
    console.print(f"median milliseconds: {milliseconds}")
    for info in report["engines"]:
        console.print(f"{info['role']}: {info['name']} {info['revision'][:12]} {info['precision']}".rstrip())
