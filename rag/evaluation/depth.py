"""A reranker that reads only the first of what recall found: to measure which depth pays.

It is for evaluation; in the product the depth is a cascade's (`rerank_depth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rag.ports import Progress, Reranker
from rag.types import EngineInfo, Passage, Relevance


class FirstOnly:
    """Another reranker over the first `depth` passages; the others stay behind them in their order, without score."""

    def __init__(self, reranker: Reranker, depth: int) -> None:
        self._reranker = reranker
        self._depth = depth

    @property
    def info(self) -> EngineInfo:
        """The other reranker's, with the depth in its reason."""
        info = self._reranker.info
        return replace(info, why=f"{info.why}; it reads the first {self._depth} passages of recall".lstrip("; "))

    @property
    def scorer(self) -> Reranker:
        """The reranker whose scores meet the floor."""
        return self._reranker

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order."""
        read = self._reranker.score(query, passages[: self._depth], progress=progress)
        lowest = min((relevance.order for relevance in read), default=0.0)
        return [*read, *(Relevance(lowest - place, None) for place in range(1, len(passages) - len(read) + 1))]

    def estimate_seconds(self, n_passages: int) -> float | None:
        """The other reranker's for as many as it reads."""
        return self._reranker.estimate_seconds(min(n_passages, self._depth))
