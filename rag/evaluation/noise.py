"""The classic experiment: what reranking and a floor do to the noise in the context, and what that does to answers.

Each question is ranked once; four ways to choose the context are then compared on that ranking. Questions are not split
into parts here. Nothing is read, printed or stored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rag.evaluation.answers import JudgedAnswer, judge_answer
from rag.evaluation.floors import ScoredPassage, ScoredQuestion, sweep
from rag.evaluation.intervals import mean_of, share_of
from rag.evaluation.judges import Judge
from rag.evaluation.passage_index import beginning
from rag.evaluation.rankings import ItemsOf, cited_items
from rag.evaluation.sets import Question
from rag.floor import keep
from rag.pipeline import answer_from, rank_passages
from rag.ports import Engines, Progress
from rag.types import Answer, EngineInfo, QueryPolicy, RankedChunk, Trace

FORMAT = 1
"""Changes whenever an older result can't be compared with a newer one."""

ARMS = {
    "recall": "recall only",
    "rerank": "with rerank",
    "floor": "with rerank and the floor in use",
    "tuned_floor": "with rerank and a tuned floor",
}
"""Ways to choose the context: the first passages of recall, or after rerank; those of the latter that reach a floor."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A question with as much of its ranking as any arm can need."""

    question: Question
    trace: Trace
    """Its `candidates` and `ranked` hold only what some arm can put into the context."""
    items: Mapping[str, tuple[str, ...]]
    """The judged items of those chunks, by chunk id."""

    def is_relevant(self, ranked: RankedChunk) -> bool:
        """Whether the chunk stands for a relevant item."""
        return any(item in self.question.relevant for item in self.items[ranked.chunk.id])

    @property
    def scored(self) -> ScoredQuestion:
        """As the choice of a floor takes it."""
        passages = tuple(ScoredPassage(one.score, self.is_relevant(one)) for one in self.trace.ranked)
        return ScoredQuestion(self.question.text, self.question.answerable, passages, self.trace.answer_limit)


@dataclass(frozen=True, slots=True)
class ArmRow:
    """What one arm made of one question."""

    answerable: bool
    relevant: tuple[bool, ...]
    """Of each passage of the context, in order."""
    answer: JudgedAnswer | None
    """None: it was refused."""
    cites_relevant: bool
    """Whether the answer cites a relevant item."""

    @property
    def right(self) -> bool:
        """Rightly answered: the question is answerable, and what answers it was in the context."""
        return self.answerable and self.answer is not None and any(self.relevant)


def rank_all(
    questions: Sequence[Question],
    engines: Engines,
    policy: QueryPolicy,
    items_of: ItemsOf,
    *,
    progress: Progress | None = None,
) -> list[Ranked]:
    """Rank every question once, in order. One longer than the embedder reads is asked by its beginning."""
    rankings = []
    whole = replace(policy, split_questions=False)
    for done, question in enumerate(questions, start=1):
        trace = rank_passages(beginning(question.text, engines.embedder), engines, whole)
        candidates = trace.candidates[: policy.answer_limit]
        ranked = tuple(_usable(trace.ranked, policy.answer_limit))
        chunks = [candidate.chunk for candidate in candidates] + [one.chunk for one in ranked]
        items = {chunk.id: items_of(chunk) for chunk in chunks}
        rankings.append(Ranked(question, replace(trace, candidates=candidates, ranked=ranked, kept=()), items))
        if progress:
            progress(done, len(questions))
    return rankings


def _usable(ranked: Sequence[RankedChunk], limit: int) -> Iterator[RankedChunk]:
    """The first `limit`, and every other that some floor would keep: fewer than `limit` before it score as much."""
    before: list[float] = []
    for one in ranked:
        score = one.score
        if one.rank <= limit or (score is not None and sum(other >= score for other in before) < limit):
            yield one
        if score is not None:
            before.append(score)


def tuned_floors(rankings: Sequence[Ranked], *, usual: float, seed: int) -> list[float]:
    """For each question the floor with the best F1 of answer decisions on the half of the questions that it is not in.

    The halves are drawn at random, answerable questions and others apart. `usual` settles ties.

    Raises: BadInput where a half has no question of which a floor can keep a relevant passage.
    """
    halves = [0] * len(rankings)
    for answerable in (True, False):
        places = [place for place, one in enumerate(rankings) if one.question.answerable is answerable]
        random.Random(f"{seed}/{answerable}").shuffle(places)
        for place in places[: len(places) // 2]:
            halves[place] = 1
    chosen = [
        sweep([one.scored for one, own in zip(rankings, halves, strict=True) if own == half], usual=usual)
        for half in (0, 1)
    ]
    return [chosen[1 - half].best_answer.floor for half in halves]


def run_arms(
    rankings: Sequence[Ranked],
    floors: Sequence[float],
    engines: Engines,
    policy: QueryPolicy,
    items_of: ItemsOf,
    judge: Judge,
    *,
    progress: Progress | None = None,
) -> list[dict[str, ArmRow]]:
    """Answer every question from each arm's context, once for each context; `floors` are the tuned ones."""
    rows = []
    for done, (ranked, tuned) in enumerate(zip(rankings, floors, strict=True), start=1):
        known: dict[tuple[str, ...], ArmRow] = {}
        row = {}
        for arm, context in _contexts(ranked.trace, policy, tuned).items():
            ids = tuple(one.chunk.id for one in context)
            if ids not in known:
                known[ids] = _answered(ranked, context, engines, policy, items_of, judge)
            row[arm] = known[ids]
        rows.append(row)
        if progress:
            progress(done, len(rankings))
    return rows


def _contexts(trace: Trace, policy: QueryPolicy, tuned: float) -> dict[str, tuple[RankedChunk, ...]]:
    limit = policy.answer_limit
    return {
        "recall": tuple(RankedChunk(candidate, candidate.rank, None) for candidate in trace.candidates[:limit]),
        "rerank": trace.ranked[:limit],
        "floor": keep(trace.ranked, floor=policy.floor, limit=limit),
        "tuned_floor": keep(trace.ranked, floor=tuned, limit=limit),
    }


def _answered(
    ranked: Ranked,
    context: tuple[RankedChunk, ...],
    engines: Engines,
    policy: QueryPolicy,
    items_of: ItemsOf,
    judge: Judge,
) -> ArmRow:
    question = ranked.question
    relevant = tuple(ranked.is_relevant(one) for one in context)
    outcome = answer_from(replace(ranked.trace, kept=context), engines, policy)
    if not isinstance(outcome, Answer):
        return ArmRow(question.answerable, relevant, None, False)
    cited = cited_items(outcome.citations, items_of)
    judged = judge_answer(outcome, context, judge, cited_items=cited, gold=question.answers, question=question.text)
    return ArmRow(question.answerable, relevant, judged, any(item in question.relevant for item in cited))


def noise_report(
    name: str,
    rankings: Sequence[Ranked],
    rows: Sequence[Mapping[str, ArmRow]],
    floors: Sequence[float],
    judge: Judge,
    policy: QueryPolicy,
    *,
    seed: int,
) -> dict[str, Any]:
    """The experiment as JSON values: each arm's figures with bootstrap intervals, and a row a question."""
    infos: dict[EngineInfo, None] = {info: None for one in rankings for info in one.trace.engines}
    named: dict[str, list[float]] = {"floor": [policy.floor], "tuned_floor": sorted(set(floors))}
    return {
        "format": FORMAT,
        "experiment": "noise",
        "set": name,
        "n": sum(one.question.answerable for one in rankings),
        "n_unanswerable": sum(not one.question.answerable for one in rankings),
        "engines": [asdict(info) for info in infos],
        "judge": asdict(judge.info),
        "answer_limit": policy.answer_limit,
        "seed": seed,
        "arms": {arm: {"floors": named.get(arm, []), **arm_figures([row[arm] for row in rows])} for arm in ARMS},
        "questions": [
            {
                "id": one.question.id,
                "group": one.question.group or None,
                "text": one.question.text,
                "tuned_floor": floor,
                "arms": {arm: _row(row[arm]) for arm in ARMS},
            }
            for one, row, floor in zip(rankings, rows, floors, strict=True)
        ],
    }


def arm_figures(rows: Sequence[ArmRow]) -> dict[str, Any]:
    """The figures of one arm.

    - noise: share of the context's passages that are not relevant, at answerable questions; every passage weighs the
      same. "passages": how many a question has in its context.
    - hallucination_rate: of the answers, those with a statement that the context does not support, says the judge.
      cites_nothing_relevant: of the answers, those that cite no relevant passage, by the labels.
    - precision: of the answers, those to an answerable question with a relevant passage in the context. recall: of the
      answerable questions, those so answered, whatever recall found. f1: `2 * right / (answers + answerable)`.
    """
    answerable = [row for row in rows if row.answerable]
    answered = [row for row in rows if row.answer]
    right = [float(row.right) for row in rows]
    made, wanted = [float(row.answer is not None) for row in rows], [float(row.answerable) for row in rows]
    return {
        "noise": asdict(
            share_of(
                [len(row.relevant) - sum(row.relevant) for row in answerable], [len(row.relevant) for row in answerable]
            )
        ),
        "passages": asdict(mean_of([float(len(row.relevant)) for row in rows])),
        "n_answers": len(answered),
        "hallucination_rate": asdict(mean_of([float(row.answer.hallucinates) for row in answered if row.answer])),
        "cites_nothing_relevant": asdict(mean_of([float(not row.cites_relevant) for row in answered])),
        "precision": asdict(share_of(right, made)),
        "recall": asdict(share_of(right, wanted)),
        "f1": asdict(share_of([2 * one for one in right], [a + b for a, b in zip(made, wanted, strict=True)])),
        "answerable_refused": _counted([row.answer is None for row in answerable]),
        "unanswerable_answered": _counted([row.answer is not None for row in rows if not row.answerable]),
    }


def _counted(flags: Sequence[bool]) -> dict[str, Any]:
    return {"count": sum(flags), "of": len(flags), "share": asdict(mean_of([float(flag) for flag in flags]))}


def _row(row: ArmRow) -> dict[str, Any]:
    return {
        "relevant": list(row.relevant),
        "answered": row.answer is not None,
        "right": row.right,
        "hallucinates": row.answer.hallucinates if row.answer else None,
        "cites_relevant": row.cites_relevant if row.answer else None,
    }
