"""What became of each question: rankings as judged items, and the standard metrics of them by ir-measures.

A question's row holds all that figures are computed from; intervals and means are `rag.evaluation.report`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ir_measures

from rag.evaluation.answer_match import contains
from rag.evaluation.answers import JudgedAnswer, judge_answer, statements_of
from rag.evaluation.judges import Judge
from rag.evaluation.passage_index import beginning, chunk_id
from rag.evaluation.sets import LabelledSet, Question, page_item
from rag.pipeline import answer_question, rank_passages
from rag.ports import Engines, Progress
from rag.types import Answer, Chunk, Citation, EngineInfo, QueryPolicy, Refusal, Trace

ItemsOf = Callable[[Chunk], tuple[str, ...]]
"""The items that a chunk stands for: its passage, or the pages on which it lies."""

METRICS = {
    "nDCG@10": ir_measures.nDCG @ 10,
    "RR@10": ir_measures.RR @ 10,
    "P@5": ir_measures.P @ 5,
    "R@5": ir_measures.R @ 5,
    "R@10": ir_measures.R @ 10,
}
"""Of both rankings; recall's R@100 comes beside them."""
RECALL_AT = 100
RECALL_METRIC = f"R@{RECALL_AT}"
TOP = 5
"""Depth of rescued, buried and page hits: what an answer can rest on."""


@dataclass(frozen=True, slots=True)
class Place:
    """A passage in the ranking after rerank."""

    items: tuple[str, ...]
    score: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one question."""

    question: Question
    before: tuple[tuple[str, ...], ...]
    """The items of each candidate, in recall order."""
    after: tuple[Place, ...]
    """The same passages in rerank order."""
    kept: tuple[Place, ...]
    """Those that passed the floor."""
    best_score: float | None
    reason: str | None
    """Why it was refused; None: it was answered, or would have been where no answer was asked for."""
    answer_in_text: bool | None
    """Whether a gold answer stands in the answer's text; None where there is no answer or no gold answer."""
    n_cached: int
    """How many scores were remembered from earlier."""
    timings_ms: Mapping[str, float]
    answer: JudgedAnswer | None = None
    """What the answer is worth; None where there is none, or nobody judged it."""

    @property
    def refused(self) -> bool:
        """Whether there was no answer."""
        return self.reason is not None

    def is_relevant(self, items: Sequence[str]) -> bool:
        """Whether a passage stands for a relevant item."""
        return any(item in self.question.relevant for item in items)

    def gold_ranks(self) -> dict[str, tuple[int | None, int | None]]:
        """The 1-based ranks of each relevant item before and after rerank, those of its best passage; None: absent."""
        before, after = _first_ranks(self.before), _first_ranks([place.items for place in self.after])
        return {item: (before.get(item), after.get(item)) for item in sorted(self.question.relevant)}


def items_of_passages(labelled: LabelledSet) -> ItemsOf:
    """For a set of passages: each chunk is the one that it was made from."""
    ids = {chunk_id(name, one.id): (one.id,) for name, passages in labelled.passages.items() for one in passages}
    return lambda chunk: ids[chunk.id]


def items_of_pages(sources: Mapping[str, str]) -> ItemsOf:
    """For a set of PDFs: a chunk stands for the pages on which it lies. `sources` has file names by document id."""
    return lambda chunk: tuple(page_item(sources[chunk.document_id], span.page) for span in chunk.spans)


def ask_all(
    questions: Sequence[Question],
    engines: Engines,
    policy: QueryPolicy,
    items_of: ItemsOf,
    *,
    answers: bool = False,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> tuple[list[Asked], tuple[EngineInfo, ...]]:
    """Ask every question, in order: up to the floor, or the whole way where `answers` are wanted.

    Answers are judged where there is a `judge`; its time is in no stage's. A question longer than the embedder reads is
    asked by its beginning.

    Returns:
        The rows, and the engines as the traces name them: a stand-in for some questions is listed as well.
    """
    asked = []
    infos: dict[EngineInfo, None] = {}
    for done, question in enumerate(questions, start=1):
        text = beginning(question.text, engines.embedder)
        if answers:
            result = answer_question(text, engines, policy)
            asked.append(_row(question, result.trace, items_of, result.outcome, judge))
        else:
            trace = rank_passages(text, engines, policy)
            refusal = Refusal("below_floor" if trace.ranked else "no_candidates", trace.best_score)
            asked.append(_row(question, trace, items_of, None if trace.kept else refusal, None))
        infos |= dict.fromkeys((result.trace if answers else trace).engines)
        if progress:
            progress(done, len(questions))
    return asked, tuple(info for info in infos if answers or info.role != "llm")


def cited_items(citations: Sequence[Citation], items_of: ItemsOf) -> tuple[str, ...]:
    """The items that citations quote, each once: of a chunk on several pages the page on which the quote starts."""
    items = []
    for citation in citations:
        pages = [span.page for span in citation.chunk.spans]
        items.append(items_of(citation.chunk)[pages.index(citation.page)])
    return tuple(dict.fromkeys(items))


def _row(
    question: Question, trace: Trace, items_of: ItemsOf, outcome: Answer | Refusal | None, judge: Judge | None
) -> Asked:
    """The row of a question; its outcome is None where the floor let it pass and no answer was asked for."""
    answer, found = None, None
    if isinstance(outcome, Answer):
        if question.answers:
            found = contains(question.answers, "\n".join(statement.text for statement in statements_of(outcome)))
        if judge:
            cited = cited_items(outcome.citations, items_of)
            answer = judge_answer(
                outcome, trace.kept, judge, cited_items=cited, gold=question.answers, question=question.text
            )
    return Asked(
        question=question,
        before=tuple(items_of(candidate.chunk) for candidate in trace.candidates),
        after=tuple(Place(items_of(ranked.chunk), ranked.score) for ranked in trace.ranked),
        kept=tuple(Place(items_of(ranked.chunk), ranked.score) for ranked in trace.kept),
        best_score=trace.best_score,
        reason=outcome.reason if isinstance(outcome, Refusal) else None,
        answer_in_text=found,
        n_cached=trace.n_cached,
        timings_ms=trace.timings_ms,
        answer=answer,
    )


def _first_ranks(ranking: Sequence[Sequence[str]]) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for rank, items in enumerate(ranking, start=1):
        for item in items:
            ranks.setdefault(item, rank)
    return ranks


def measure(questions: Sequence[Question], rankings: Sequence[Sequence[Sequence[str]]]) -> list[dict[str, float]]:
    """R@100 and `METRICS` of each question's ranking, against all that is relevant to it, recalled or not.

    `rankings[i][r]` holds the items of the passage at rank r + 1. Where several passages stand for one item (chunks of
    a page), the best one counts for nDCG, RR and R, so that none exceeds 1; P@5 counts every one.
    """
    metrics = {RECALL_METRIC: ir_measures.R @ RECALL_AT, **METRICS}
    graded, binary, each_passage = _Judged(), _Judged(), _Judged()
    for number, (question, ranking) in enumerate(zip(questions, rankings, strict=True)):
        items = _counted_once(question, ranking)
        relevant = question.relevant
        graded.add(number, items, question.gold)
        binary.add(number, items, dict.fromkeys(relevant, 1))
        hits = {str(rank): 1 for rank, own in enumerate(ranking) if relevant.intersection(own)}
        each_passage.add(number, [str(rank) for rank in range(len(ranking))], hits or {"none": 1})
    rows: list[dict[str, float]] = [{} for _ in questions]
    for judged, names in (
        (graded, ["nDCG@10"]),
        (binary, [name for name in metrics if name not in ("nDCG@10", "P@5")]),
        (each_passage, ["P@5"]),
    ):
        by_measure = {str(metrics[name]): name for name in names}
        for value in ir_measures.iter_calc([metrics[name] for name in names], judged.qrels, judged.run):
            rows[int(value.query_id)][by_measure[str(value.measure)]] = float(value.value)
    return [{name: row[name] for name in metrics} for row in rows]


def _counted_once(question: Question, ranking: Sequence[Sequence[str]]) -> list[str | None]:
    """One item a rank: the highest-graded of the passage's judged items that no better passage stands for, or None."""
    left = dict(question.gold)
    names: list[str | None] = []
    for items in ranking:
        own = max((item for item in items if item in left), key=lambda item: left[item], default=None)
        if own is not None:
            del left[own]
        names.append(own)
    return names


class _Judged:
    """Labels and rankings as ir-measures takes them. Items get names of our own: trec_eval stops at some characters."""

    def __init__(self) -> None:
        self.qrels: list[ir_measures.Qrel] = []
        self.run: list[ir_measures.ScoredDoc] = []

    def add(self, number: int, ranking: Sequence[str | None], gold: Mapping[str, int]) -> None:
        """One question. Scores fall with the rank, so that ties can't reorder."""
        names = {item: f"gold {place}" for place, item in enumerate(gold)}
        self.qrels += [ir_measures.Qrel(str(number), names[item], grade) for item, grade in gold.items()]
        for rank, item in enumerate(ranking):
            name = f"other {rank}" if item is None else names.get(item, f"other {rank}")
            self.run.append(ir_measures.ScoredDoc(str(number), name, -float(rank)))
