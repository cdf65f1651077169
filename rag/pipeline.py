"""The way of one question: rewrite, split, embed, recall, rerank, floor, answer or refuse.

The whole story on one screen. What each stage does is in the stage's own file; which engines do it is `rag.wiring`'s
choice; nothing is shown or stored here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from rag.citations import cite
from rag.errors import BadInput, LLMError, Rank37Error
from rag.language import language_note
from rag.merge import keep_for_parts, merge_candidates, merge_rankings
from rag.parts import may_have_parts, split_by_llm, split_question
from rag.ports import Engines, Progress
from rag.prompt import build_prompt
from rag.quotes import quote_answer, quote_parts
from rag.recall import recall
from rag.rerank import rerank, stand_in
from rag.rewrite import standalone_question
from rag.types import (
    Answer,
    Event,
    QueryPolicy,
    RankingReady,
    Refusal,
    ReplyText,
    RerankProgress,
    Result,
    Stage,
    StageStarted,
    Trace,
    Turn,
)
from rag.verify import verify

Listener = Callable[[Event], None]


def answer_question(
    question: str,
    engines: Engines,
    policy: QueryPolicy,
    *,
    history: Sequence[Turn] = (),
    document_ids: Sequence[str] | None = None,
    listen: Listener = lambda event: None,
) -> Result:
    """Answer from the collection with citations, or refuse; the trace says how it came about.

    `history` helps to understand a follow-up and never becomes evidence. `document_ids` restricts recall. `listen` is
    called with events as they happen.

    Raises: BadInput for an empty or over-long question; any other Rank37Error for an outage, with `.trace` holding
    what was done until then.
    """
    stages = _Stages(listen)
    trace = _rank(question, engines, policy, history, document_ids, stages)
    if not trace.kept:
        refusal = Refusal("below_floor" if trace.ranked else "no_candidates", trace.best_score)
        return Result(refusal, replace(trace, timings_ms=stages.timings_ms()))
    try:
        with stages.timed("answer"):
            outcome, trace = _answer(trace, engines, policy, listen)
    except Rank37Error as error:
        error.attach(replace(error.trace or trace, timings_ms=stages.timings_ms()))
        raise
    return Result(outcome, replace(trace, timings_ms=stages.timings_ms()))


def rank_passages(
    question: str,
    engines: Engines,
    policy: QueryPolicy,
    *,
    history: Sequence[Turn] = (),
    document_ids: Sequence[str] | None = None,
    listen: Listener = lambda event: None,
) -> Trace:
    """All of `answer_question` but the answer: both rankings, and what the floor keeps. Raises the same errors."""
    return _rank(question, engines, policy, history, document_ids, _Stages(listen))


def answer_from(trace: Trace, engines: Engines, policy: QueryPolicy) -> Answer | Refusal:
    """The answer from what a trace keeps, without ranking again: to see what another floor would have led to."""
    if not trace.kept:
        return Refusal("below_floor" if trace.ranked else "no_candidates", trace.best_score)
    return _answer(trace, engines, policy, lambda event: None)[0]


def _rank(
    question: str,
    engines: Engines,
    policy: QueryPolicy,
    history: Sequence[Turn],
    document_ids: Sequence[str] | None,
    stages: _Stages,
) -> Trace:
    """Rewrite, split, embed, recall, rerank, keep. What asks one thing is its own only part."""
    question = question.strip()
    if not question:
        raise BadInput("the question is empty: type one")
    trace = Trace(
        id=uuid.uuid4().hex,
        asked_at=datetime.now(UTC).isoformat(timespec="seconds"),
        question=question,
        query=question,
        floor=policy.floor,
        answer_limit=policy.answer_limit,
        engines=engines.infos,
    )
    try:
        if history and engines.llm:
            with stages.timed("rewrite"):
                trace = replace(trace, query=standalone_question(question, history, engines.llm))
        elif history:
            note = "No LLM is configured, so this question was searched as typed, without regard to the earlier ones."
            trace = replace(trace, notes=(note,))

        if unread := language_note(trace.query, engines.infos):
            trace = replace(trace, notes=(*trace.notes, unread))
        queries, trace = _split(trace, engines, policy, stages)
        with stages.timed("embed"):
            vectors = [engines.embedder.embed_query(query) for query in queries]
        with stages.timed("recall"):
            recalled = [
                recall(query, vector, engines.index, limit=policy.recall_limit, document_ids=document_ids)
                for query, vector in zip(queries, vectors, strict=True)
            ]
        trace = replace(trace, candidates=merge_candidates(recalled))
        with stages.timed("rerank"):
            progress = stages.rerank_progress([len(candidates) for candidates in recalled])
            rankings = [
                rerank(query, candidates, engines.reranker, progress=next(progress))
                for query, candidates in zip(queries, recalled, strict=True)
            ]
        ranked = merge_rankings(rankings, trace.candidates)
        kept, parts = keep_for_parts(queries, rankings, ranked, floor=policy.floor, limit=policy.answer_limit)
        trace = replace(trace, ranked=ranked, kept=kept, parts=parts)
        trace = replace(_naming_reranker(trace, engines), timings_ms=stages.timings_ms())
        stages.ranking_ready(trace)
        return trace
    except Rank37Error as error:
        error.attach(replace(error.trace or trace, timings_ms=stages.timings_ms()))
        raise


def _split(trace: Trace, engines: Engines, policy: QueryPolicy, stages: _Stages) -> tuple[tuple[str, ...], Trace]:
    """What the question asks: itself, or its parts, by the LLM where there is one and a sign of several, else by rule.

    An LLM that is down does not keep the ranking from a person: the rule splits then, and a note says so.
    """
    queries: tuple[str, ...] = (trace.query,)
    if policy.split_questions and engines.llm and may_have_parts(trace.query):
        try:
            with stages.timed("split"):
                queries = split_by_llm(trace.query, engines.llm)
        except LLMError as error:
            queries = split_question(trace.query)
            note = f"The LLM was asked for the parts of the question and failed ({error}), so a rule looked for them."
            trace = replace(trace, notes=(*trace.notes, note))
    elif policy.split_questions:
        queries = split_question(trace.query)
    # Each part needs a place among the kept passages.
    return (queries if len(queries) <= policy.answer_limit else (trace.query,)), trace


def _naming_reranker(trace: Trace, engines: Engines) -> Trace:
    """The trace with the engines as they are after scoring: a service is known by then, and another may stand in."""
    reranker = stand_in(trace.ranked)
    if reranker is None:
        return replace(trace, engines=engines.infos)
    note = f"{reranker.name} stood in for {reranker.stands_in_for} at this question: {reranker.why}"
    infos = tuple(reranker if info.role == "reranker" else info for info in engines.infos)
    return replace(trace, engines=infos, notes=(*trace.notes, note))


def _answer(trace: Trace, engines: Engines, policy: QueryPolicy, listen: Listener) -> tuple[Answer | Refusal, Trace]:
    """Write an answer from the kept passages, or quote them where there is no LLM; parts not covered are refused."""
    refused = tuple(part.text for part in trace.parts if not part.covered)
    if engines.llm is None:
        if not trace.parts:
            return quote_answer(trace.query, trace.kept, engines.sentence_scorer), trace
        quoted = quote_parts(trace.parts, trace.kept, engines.sentence_scorer)
        return replace(quoted, refused_parts=refused), trace
    prompt, shown = build_prompt(
        trace.query,
        trace.kept,
        count_tokens=engines.llm.count_tokens,
        prompt_tokens=policy.prompt_tokens,
        parts=[part.text for part in trace.parts if part.covered],
    )
    trace = replace(trace, prompt=prompt)
    if len(shown) < len(trace.kept):
        held = f"the best {len(shown)} of {len(trace.kept)} kept passages"
        note = f"The prompt's limit of {policy.prompt_tokens} tokens held {held}."
        trace = replace(trace, notes=(*trace.notes, note))
    reply = ""
    try:
        for piece in engines.llm.stream(prompt, max_tokens=policy.answer_tokens):
            reply += piece
            listen(ReplyText(piece))
    except Rank37Error as error:
        error.attach(replace(trace, reply=reply))
        raise
    trace = replace(trace, reply=reply)
    cited = cite(trace.reply, shown)
    if isinstance(cited, Answer):
        checked = verify(cited, shown, engines.sentence_scorer, floor=policy.floor)
        return replace(checked, refused_parts=refused), trace
    return Refusal(cited, trace.best_score), trace


class _Stages:
    """Announces stages and measures them, in milliseconds."""

    def __init__(self, listen: Listener) -> None:
        self._listen = listen
        self._started = time.perf_counter()
        self._timings_ms: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        self._listen(StageStarted(stage))
        started = time.perf_counter()
        try:
            yield
        finally:
            self._timings_ms[stage] = (time.perf_counter() - started) * 1000

    def rerank_progress(self, sizes: Sequence[int]) -> Iterator[Progress]:
        """For each of several rerankings of so many passages, what announces its progress as that of all of them."""
        for number in range(len(sizes)):
            yield partial(self._reranked, sum(sizes[:number]), sum(sizes))

    def _reranked(self, before: int, total: int, done: int, _: int) -> None:
        self._listen(RerankProgress(before + done, total))

    def ranking_ready(self, trace: Trace) -> None:
        self._listen(RankingReady(trace))

    def timings_ms(self) -> dict[str, float]:
        return {**self._timings_ms, "total": (time.perf_counter() - self._started) * 1000}
