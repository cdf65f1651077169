"""The way of one question: rewrite, embed, recall, rerank, floor, answer or refuse.

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

from rag.citations import cite
from rag.errors import BadInput, Rank37Error
from rag.floor import keep
from rag.ports import Engines
from rag.prompt import build_prompt
from rag.quotes import quote_answer
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


def _rank(
    question: str,
    engines: Engines,
    policy: QueryPolicy,
    history: Sequence[Turn],
    document_ids: Sequence[str] | None,
    stages: _Stages,
) -> Trace:
    """Rewrite, embed, recall, rerank, keep."""
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

        with stages.timed("embed"):
            vector = engines.embedder.embed_query(trace.query)
        with stages.timed("recall"):
            candidates = recall(
                trace.query, vector, engines.index, limit=policy.recall_limit, document_ids=document_ids
            )
        trace = replace(trace, candidates=candidates)
        with stages.timed("rerank"):
            ranked = rerank(trace.query, candidates, engines.reranker, progress=stages.rerank_progress)
        trace = replace(trace, ranked=ranked, kept=keep(ranked, floor=policy.floor, limit=policy.answer_limit))
        trace = replace(_naming_reranker(trace, engines), timings_ms=stages.timings_ms())
        stages.ranking_ready(trace)
        return trace
    except Rank37Error as error:
        error.attach(replace(error.trace or trace, timings_ms=stages.timings_ms()))
        raise


def _naming_reranker(trace: Trace, engines: Engines) -> Trace:
    """The trace with the engines as they are after scoring: a service is known by then, and another may stand in."""
    reranker = stand_in(trace.ranked)
    if reranker is None:
        return replace(trace, engines=engines.infos)
    note = f"{reranker.name} stood in for {reranker.stands_in_for} at this question: {reranker.why}"
    infos = tuple(reranker if info.role == "reranker" else info for info in engines.infos)
    return replace(trace, engines=infos, notes=(*trace.notes, note))


def _answer(trace: Trace, engines: Engines, policy: QueryPolicy, listen: Listener) -> tuple[Answer | Refusal, Trace]:
    """Write an answer from the kept passages, or quote them where there is no LLM."""
    if engines.llm is None:
        return quote_answer(trace.query, trace.kept, engines.sentence_scorer), trace
    prompt, shown = build_prompt(
        trace.query, trace.kept, count_tokens=engines.llm.count_tokens, prompt_tokens=policy.prompt_tokens
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
    return (cited if isinstance(cited, Answer) else Refusal(cited, trace.best_score)), trace


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

    def rerank_progress(self, done: int, total: int) -> None:
        self._listen(RerankProgress(done, total))

    def ranking_ready(self, trace: Trace) -> None:
        self._listen(RankingReady(trace))

    def timings_ms(self) -> dict[str, float]:
        return {**self._timings_ms, "total": (time.perf_counter() - self._started) * 1000}
