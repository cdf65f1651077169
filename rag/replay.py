"""A ranking seen again: what another floor would keep, and what became of each passage and why. Pure, no model runs.

It doesn't answer anew: `rag.pipeline.answer_from` answers from a trace that was replayed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

from rag.floor import keep
from rag.types import Part, RankedChunk, Trace

StateName = Literal["kept", "cut", "duplicate", "below", "unscored"]
"""kept: the answer can rest on it; cut: it reaches the floor, but others took all places; duplicate: the same, and a
better ranked passage says the same; below: it doesn't reach the floor; unscored: no scoring model read it."""

SAME_WORDS_SHARE = 0.9
"""From this share of common words on (Jaccard), two passages say the same."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class State:
    """What became of a ranked passage."""

    name: StateName
    marker: int | None = None
    """The n of [n], for a kept one."""
    same_as: int | None = None
    """1-based rank of the best ranked passage with (nearly) the same words, if that is another one."""


def at_floor(trace: Trace, floor: float) -> Trace:
    """The trace as another floor would have left it, without any answer.

    At its own floor a trace comes back as it is. A chunk of a question with parts counts for the part it scored best
    for, the only one of which the trace knows its score: at another floor, what serves two parts may be kept for one.

    >>> from rag.types import Candidate, Chunk, PageSpan
    >>> chunk = Chunk("c", "d", "t", None, "x", (PageSpan(1, 0, 1),), 0, 3)
    >>> trace = Trace("1", "", "q", "q", 0.4, 5, (), ranked=(RankedChunk(Candidate(chunk, 1, 0.1), 1, 0.3),))
    >>> [len(at_floor(trace, floor).kept) for floor in (0.4, 0.3)]
    [0, 1]
    """
    if floor == trace.floor:
        return trace
    seen = replace(trace, floor=floor, prompt=(), reply="")
    if not trace.parts:
        return replace(seen, kept=keep(trace.ranked, floor=floor, limit=trace.answer_limit))
    passing = [
        [ranked for ranked in trace.ranked if ranked.part == number and _passes(ranked, floor)]
        for number in range(1, len(trace.parts) + 1)
    ]
    in_turn = [ranked for row in zip_longest(*passing) for ranked in row if ranked is not None]
    kept = tuple(in_turn[: trace.answer_limit])
    ids = {ranked.chunk.id for ranked in kept}
    parts = tuple(
        _part_at(part, floor, [ranked.chunk.id for ranked in own if ranked.chunk.id in ids])
        for part, own in zip(trace.parts, passing, strict=True)
    )
    return replace(seen, kept=kept, parts=parts)


def best_anyway(trace: Trace) -> Trace:
    """The trace with its best few passages kept whatever their scores: to answer from what the floor held back.

    It still names the floor that they are below. Passages without a score stay out: no model has said that they are
    relevant.

    >>> from rag.types import Candidate, Chunk, PageSpan
    >>> chunk = Chunk("c", "d", "t", None, "x", (PageSpan(1, 0, 1),), 0, 3)
    >>> trace = Trace("1", "", "q", "q", 0.4, 5, (), ranked=(RankedChunk(Candidate(chunk, 1, 0.1), 1, 0.1),))
    >>> [(ranked.score, best_anyway(trace).floor) for ranked in best_anyway(trace).kept]
    [(0.1, 0.4)]
    """
    return replace(at_floor(trace, -1.0), floor=trace.floor)


def states(trace: Trace) -> dict[str, State]:
    """What became of each ranked passage, by chunk id."""
    markers = {ranked.chunk.id: marker for marker, ranked in enumerate(trace.kept, start=1)}
    same = _same_words(trace.ranked)
    found: dict[str, State] = {}
    for ranked in trace.ranked:
        chunk_id = ranked.chunk.id
        name: StateName
        if chunk_id in markers:
            name = "kept"
        elif ranked.score is None:
            name = "unscored"
        elif ranked.score < trace.floor:
            name = "below"
        else:
            name = "duplicate" if chunk_id in same else "cut"
        found[chunk_id] = State(name, markers.get(chunk_id), same.get(chunk_id))
    return found


def _same_words(ranking: Sequence[RankedChunk]) -> dict[str, int]:
    """The rank of the first passage with the same words, by the id of each later one."""
    first: list[tuple[int, frozenset[str]]] = []
    found: dict[str, int] = {}
    for ranked in ranking:
        words = frozenset(_WORD.findall(ranked.chunk.text.casefold()))
        if not words:
            continue  # of a deleted document
        rank = next((rank for rank, others in first if _say_the_same(words, others)), None)
        if rank is None:
            first.append((ranked.rank, words))
        else:
            found[ranked.chunk.id] = rank
    return found


def _say_the_same(one: frozenset[str], other: frozenset[str]) -> bool:
    if min(len(one), len(other)) < SAME_WORDS_SHARE * max(len(one), len(other)):
        return False
    return len(one & other) >= SAME_WORDS_SHARE * len(one | other)


def _part_at(part: Part, floor: float, kept_ids: Sequence[str]) -> Part:
    covered = part.best_score is not None and part.best_score >= floor
    return replace(part, covered=covered, kept_ids=tuple(kept_ids))


def _passes(ranked: RankedChunk, floor: float) -> bool:
    return ranked.score is not None and ranked.score >= floor
