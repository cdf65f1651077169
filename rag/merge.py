"""The rankings of a question's parts made one: the better score of each chunk, and passages kept for every part. Pure.

What it gets for a question that asks one thing comes back as it was. Nothing is scored here.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from rag.floor import keep
from rag.types import Candidate, Part, RankedChunk


def merge_candidates(recalled: Sequence[Sequence[Candidate]]) -> tuple[Candidate, ...]:
    """What was recalled for each part, in turn by rank, each chunk once; ranks 1-based and without gaps."""
    in_turn = [candidate for row in zip_longest(*recalled) for candidate in row if candidate is not None]
    once = {candidate.chunk.id: candidate for candidate in reversed(in_turn)}
    return tuple(
        replace(candidate, rank=rank)
        for rank, candidate in enumerate(
            (candidate for candidate in in_turn if once[candidate.chunk.id] is candidate), start=1
        )
    )


def merge_rankings(
    rankings: Sequence[Sequence[RankedChunk]], candidates: Sequence[Candidate]
) -> tuple[RankedChunk, ...]:
    """One ranking of all chunks, each with its best score over the parts and the 1-based number of that part.

    Within a part its own order stays; between parts the higher score goes first, then the higher logit, then the better
    rank. `rankings[i]` is part i's; `candidates` are merged, and each chunk is one of them.
    """
    if len(rankings) == 1:
        return tuple(rankings[0])
    merged = {candidate.chunk.id: candidate for candidate in candidates}
    best: dict[str, RankedChunk] = {}
    for part, ranking in enumerate(rankings, start=1):
        for ranked in ranking:
            other = best.get(ranked.chunk.id)
            if other is None or _order(ranked) < _order(other):
                best[ranked.chunk.id] = replace(ranked, part=part)
    own = [
        [best[ranked.chunk.id] for ranked in ranking if best[ranked.chunk.id].part == part]
        for part, ranking in enumerate(rankings, start=1)
    ]
    return tuple(
        replace(ranked, candidate=merged[ranked.chunk.id], rank=rank)
        for rank, ranked in enumerate(heapq.merge(*own, key=_order), start=1)
    )


def keep_for_parts(
    texts: Sequence[str],
    rankings: Sequence[Sequence[RankedChunk]],
    ranked: Sequence[RankedChunk],
    *,
    floor: float,
    limit: int,
) -> tuple[tuple[RankedChunk, ...], tuple[Part, ...]]:
    """The kept passages, at most `limit`, and the parts; no parts where there is but one text.

    Each part in turn keeps the next best passage of its own that reaches the floor, so that the first ones of `kept`
    hold the best of every covered part. `limit` is at least the number of parts.

    Args:
        texts: The parts.
        rankings: `rankings[i]` is the one of `texts[i]`.
        ranked: The merged ranking, of which the kept ones are taken.
        floor: Minimum reranker score, inclusive.
        limit: Most passages that are kept.
    """
    if len(texts) == 1:
        return keep(ranked, floor=floor, limit=limit), ()
    passing = [[item.chunk.id for item in keep(ranking, floor=floor, limit=len(ranking))] for ranking in rankings]
    in_turn = dict.fromkeys(chunk_id for row in zip_longest(*passing) for chunk_id in row if chunk_id is not None)
    kept_ids = list(in_turn)[:limit]
    by_id = {item.chunk.id: item for item in ranked}
    parts = tuple(
        Part(
            text,
            best_score=max((item.score for item in ranking if item.score is not None), default=None),
            covered=bool(own),
            candidate_ids=tuple(item.chunk.id for item in sorted(ranking, key=lambda item: item.candidate.rank)),
            kept_ids=tuple(chunk_id for chunk_id in own if chunk_id in kept_ids),
        )
        for text, ranking, own in zip(texts, rankings, passing, strict=True)
    )
    return tuple(by_id[chunk_id] for chunk_id in kept_ids), parts


def _order(ranked: RankedChunk) -> tuple[bool, float, float, int]:
    """Sort key, the better the smaller; a chunk that no scoring model read comes last."""
    return ranked.score is None, -(ranked.score or 0.0), -(ranked.logit or 0.0), ranked.rank
