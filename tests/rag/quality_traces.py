"""Kept questions with labels, as plain values, for tests of the figures and of the page: no model runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rag.engines.trace_store import SqlTraceStore
from rag.floor import keep
from rag.types import Answer, Candidate, Citation, EngineInfo, RankedChunk, Refusal, Trace
from tests.rag.traces import chunk

FIRST_DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def kept_question(
    name: str,
    scores: Sequence[float],
    *,
    engines: Sequence[EngineInfo],
    recall_ranks: Sequence[int] | None = None,
    floor: float = 0.4,
    day: int = 0,
    question: str = "",
) -> Trace:
    """A question whose n-th ranked passage has the n-th score and, unless said otherwise, was recalled last but n."""
    n = len(scores)
    ranks = list(range(n, 0, -1)) if recall_ranks is None else list(recall_ranks)
    passages = [chunk(f"{name} {place}") for place in range(n)]
    ranked = tuple(
        RankedChunk(Candidate(passages[place], ranks[place], 1 / (60 + ranks[place])), place + 1, score)
        for place, score in enumerate(scores)
    )
    text = question or f"What does {name} say?"
    return Trace(
        id=name,
        asked_at=(FIRST_DAY + timedelta(days=day)).isoformat(),
        question=text,
        query=text,
        floor=floor,
        answer_limit=5,
        engines=tuple(engines),
        candidates=tuple(sorted((one.candidate for one in ranked), key=lambda candidate: candidate.rank)),
        ranked=ranked,
        kept=keep(ranked, floor=floor, limit=5),
        timings_ms={"rerank": 200.0, "total": 300.0},
    )


def outcome_of(trace: Trace) -> Answer | Refusal:
    """An answer where anything was kept, else a refusal."""
    if not trace.kept:
        return Refusal("below_floor", trace.best_score)
    return Answer("So [1].", (Citation(1, trace.kept[0].chunk, "as agreed", 1),), "quoted")


def fill(
    store: SqlTraceStore, traces: Iterable[Trace], *, right: int | None = None, collection: str = "documents"
) -> None:
    """Keep the questions; where `right` is given, the passage at that 1-based rank of each is called right."""
    for trace in traces:
        store.add(trace, outcome_of(trace), collection=collection)
        if right is not None:
            store.label(trace.id, "right", chunk_id=trace.ranked[right - 1].chunk.id)


def other_revision(engines: Sequence[EngineInfo]) -> list[EngineInfo]:
    """The same engines, the reranker in another revision."""
    return [replace(one, revision="older") if one.role == "reranker" else one for one in engines]
