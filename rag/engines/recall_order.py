"""Reranker "none": the order in which recall found the passages, so that lift can be seen against it.

It reads nothing and scores nothing; `rag.engines.gated` has its best scored for the floor.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag.errors import BadInput
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance


class RecallOrder:
    """Keeps the order of the list that it is given. Safe to use from several threads."""

    @property
    def info(self) -> EngineInfo:
        """A name and a reason; there is no model."""
        return EngineInfo("reranker", "none", why="named in the settings: passages stay in recall order")

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """No scores; `order` falls with the 1-based place in the list, from -1.

        Raises:
            BadInput: The query is empty.
        """
        if not query.strip():
            raise BadInput("the question is empty: type one")
        if progress and passages:
            progress(len(passages), len(passages))
        return [Relevance(order=float(-place), score=None) for place in range(1, len(passages) + 1)]

    def estimate_seconds(self, n_passages: int) -> float | None:
        """No time."""
        return 0.0
