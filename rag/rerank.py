"""Second stage: order the candidates by what a reranker says of each.

Ordering, ties and ranks live here, once; engines only score. The floor is not applied here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rag.errors import EngineFault
from rag.ports import Progress, Reranker
from rag.types import Candidate, EngineInfo, Passage, RankedChunk, Relevance


def rerank(
    query: str, candidates: Sequence[Candidate], reranker: Reranker, *, progress: Progress | None = None
) -> tuple[RankedChunk, ...]:
    """Score all candidates and put them in order. An empty list costs no model run.

    Raises: EngineFault, and what the reranker raises.
    """
    if not candidates:
        return ()
    passages = [Passage(candidate.chunk.id, candidate.chunk.passage) for candidate in candidates]
    return order(candidates, reranker.score(query, passages, progress=progress))


def order(candidates: Sequence[Candidate], relevances: Sequence[Relevance]) -> tuple[RankedChunk, ...]:
    """The candidates by relevance, best first; `relevances[i]` belongs to `candidates[i]`.

    Passages that a scoring model read come before all that none read; within each, the higher `order` first; ties keep
    the recall order.

    Raises: EngineFault where the reranker did not give one usable relevance for each candidate.
    """
    if len(relevances) != len(candidates):
        raise EngineFault(f"the reranker gave {len(relevances)} scores for {len(candidates)} passages")
    for relevance in relevances:
        if not math.isfinite(relevance.order) or not (relevance.score is None or 0 <= relevance.score <= 1):
            raise EngineFault(
                f"the reranker gave the score {relevance.score} (order {relevance.order}), which is no number in [0, 1]"
            )
    by_relevance = sorted(
        zip(candidates, relevances, strict=True),
        key=lambda pair: (pair[1].score is None, -pair[1].order, pair[0].rank),
    )
    return tuple(
        RankedChunk(
            candidate,
            rank,
            score=relevance.score,
            logit=relevance.logit,
            first_score=relevance.first_score,
            cached=relevance.cached,
            foretold=relevance.foretold,
            scored_by=relevance.scored_by,
        )
        for rank, (candidate, relevance) in enumerate(by_relevance, start=1)
    )


def stand_in(ranked: Sequence[RankedChunk]) -> EngineInfo | None:
    """The reranker that stood in for the configured one at this question, or None where that one scored."""
    return next((item.scored_by for item in ranked if item.scored_by is not None), None)
