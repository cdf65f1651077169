"""Reranker of two: a quick one reads everything, a better and slower one the quick one's best.

It mixes no scores: only what the second reranker read has a score that the floor may meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rag.errors import BadInput
from rag.ports import KnowsAhead, Progress, Reranker
from rag.types import EngineInfo, Passage, Relevance


class CascadeReranker:
    """Scores the best `depth` of the first reranker's order with the second. Safe to use from several threads.

    A passage within the depth has the second's order, score and logit, and the first's score as `first_score`. One
    beyond it has score None, for the first's number means nothing to the second's floor, and the first's order.
    """

    def __init__(self, first: Reranker, second: Reranker, depth: int | None) -> None:
        """Join two rerankers.

        Args:
            first: Reads all passages.
            second: Reads the first's best.
            depth: How many the second reads; None is all.

        Raises:
            BadInput: The depth is below 1.
        """
        if depth is not None and depth < 1:
            raise BadInput(f"rerank_depth = {depth}: take at least 1, or none for all passages (RANK37_RERANK_DEPTH)")
        self._first = first
        self._second = second
        self._depth = depth

    @property
    def info(self) -> EngineInfo:
        """The second reranker's, whose scores count, with a name and a reason that speak of both."""
        first, second = self._first.info, self._second.info
        read = "all" if self._depth is None else f"the best {self._depth}"
        return EngineInfo(
            "reranker",
            f"{second.name} after {first.name}",
            second.revision,
            precision=second.precision,
            why=second.why or f"{first.name} reads all passages, {second.name} {read} of its order",
            stands_in_for=second.stands_in_for,
            sends_data_to=second.sends_data_to or first.sends_data_to,
        )

    @property
    def scorer(self) -> Reranker:
        """The reranker whose scores meet the floor."""
        return self._second

    @property
    def depth(self) -> int | None:
        """How many passages the second reranker reads; None: all."""
        return self._depth

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order; progress counts the readings of both."""
        depth = self._depth_of(len(passages))
        total = len(passages) + depth
        first = self._first.score(query, passages, progress=_shifted(progress, 0, total))
        best_first = sorted(range(len(passages)), key=lambda number: -first[number].order)
        within = best_first[:depth]
        second = self._second.score(
            query, [passages[number] for number in within], progress=_shifted(progress, len(passages), total)
        )
        relevances = [Relevance(one.order, None, first_score=one.score, cached=one.cached) for one in first]
        for number, one in zip(within, second, strict=True):
            cached = one.cached and first[number].cached
            relevances[number] = replace(one, first_score=first[number].score, cached=cached)
        return relevances

    def know(self, passages: Sequence[Passage]) -> bool:
        """As in `KnowsAhead`, by the first reranker."""
        return isinstance(self._first, KnowsAhead) and self._first.know(passages)

    def estimate_seconds(self, n_passages: int) -> float | None:
        """The sum of both; None where one of them knows nothing yet."""
        first = self._first.estimate_seconds(n_passages)
        second = self._second.estimate_seconds(self._depth_of(n_passages))
        return None if first is None or second is None else first + second

    def _depth_of(self, n_passages: int) -> int:
        return n_passages if self._depth is None else min(self._depth, n_passages)


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of a part as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)
