"""Traces as plain values, for tests of what keeps and shows them: no model runs."""

from __future__ import annotations

from collections.abc import Sequence

from rag.types import (
    Answer,
    Box,
    Candidate,
    Chunk,
    Citation,
    EngineInfo,
    Message,
    PageSpan,
    RankedChunk,
    Refusal,
    Trace,
)

ENGINES = (
    EngineInfo("embedder", "all-MiniLM-L6-v2", "abc", "float32"),
    EngineInfo("index", "Qdrant Edge"),
    EngineInfo("reranker", "small", "def", "float32", "it is here", stands_in_for="large"),
    EngineInfo("llm", "gpt", why="configured", sends_data_to="api.example.com"),
)


def chunk(name: str, document: str = "contract", page: int = 1) -> Chunk:
    """A chunk whose words follow from its name."""
    text = f"The {name} of the {document} — “as agreed” — is {sum(name.encode())} days.\nÄn­dern: 保険 🙂"
    spans = (PageSpan(page, 0, 5), PageSpan(page + 1, 0, len(text) - 6))
    return Chunk(f"{document}-{name}", document, document.title(), "Terms", text, spans, 0, 40)


def trace_of(
    name: str = "t1",
    scores: Sequence[float | None] = (0.9, 0.5, 0.1 + 0.2, None),
    *,
    question: str = "How long is the waiting period?",
    asked_at: str = "2026-03-01T12:00:00+00:00",
    floor: float = 0.4,
    documents: Sequence[str] = ("contract",),
    passages: Sequence[Chunk] | None = None,
) -> Trace:
    """A trace whose n-th passage has the n-th score, and was recalled in the reverse order.

    The passages are of the documents in turn, the first of the first.
    """
    if passages is None:
        passages = [chunk(f"term {n}", documents[n % len(documents)]) for n in range(len(scores))]
    n = len(passages)
    candidates = [Candidate(passages[n - 1 - place], place + 1, 1 / (60 + place)) for place in range(n)]
    ranked = [
        RankedChunk(
            candidates[n - 1 - place],
            place + 1,
            score,
            logit=None if score is None else score * 7 - 3,
            first_score=0.1 if place == 0 else None,
            cached=place == 1,
            scored_by=ENGINES[2] if place == 0 else None,
        )
        for place, score in enumerate(scores)
    ]
    return Trace(
        id=name,
        asked_at=asked_at,
        question=question,
        query=question + " (alone)",
        floor=floor,
        answer_limit=2,
        engines=ENGINES,
        candidates=tuple(candidates),
        ranked=tuple(ranked),
        kept=tuple(one for one in ranked if one.score is not None and one.score >= floor)[:2],
        prompt=(Message("system", "Cite."), Message("user", f"{question}\n[1] {passages[0].text}")) if n else (),
        reply="It is 7 days [1].",
        notes=("A note.",),
        timings_ms={"embed": 1.25, "recall": 2.0, "rerank": 1 / 3, "answer": 20.5, "total": 25.0},
    )


def answer_to(trace: Trace) -> Answer:
    """An answer that cites the first passage."""
    best = trace.ranked[0].chunk
    return Answer("It is 7 days [1].", (Citation(1, best, "“as agreed”", 1, (Box(1.5, 2, 3, 4),)),), "written")


def refusal_of(trace: Trace) -> Refusal:
    """A refusal for want of a passage above the floor."""
    return Refusal("below_floor", trace.best_score)
