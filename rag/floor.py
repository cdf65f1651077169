"""The gate: which ranked chunks are good enough to answer from. Pure; choosing a floor is `rag.evaluation`'s job."""

from __future__ import annotations

from collections.abc import Sequence

from rag.types import RankedChunk


def keep(ranked: Sequence[RankedChunk], *, floor: float, limit: int) -> tuple[RankedChunk, ...]:
    """The first `limit` ranked chunks whose score reaches the floor (inclusive), in rank order.

    A chunk without a score never passes: no model has said that it is relevant.

    >>> from rag.types import Candidate, Chunk, PageSpan
    >>> chunk = Chunk("c", "d", "t", None, "x", (PageSpan(1, 0, 1),), 0, 3)
    >>> ranked = [RankedChunk(Candidate(chunk, 1, 0.1), 1, 0.4), RankedChunk(Candidate(chunk, 2, 0.1), 2, 0.3999)]
    >>> [kept.score for kept in keep(ranked, floor=0.4, limit=5)]
    [0.4]
    """
    return tuple(chunk for chunk in ranked if chunk.score is not None and chunk.score >= floor)[:limit]
