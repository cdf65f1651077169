"""Reranker that asks another one where the first is unavailable, and says so on every score that it passes on.

It never falls back in silence, nor from a question that can't be used: only from an outage, for one question.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from rag.errors import ModelUnavailable, RerankerUnavailable
from rag.ports import Progress, Reranker
from rag.types import EngineInfo, Passage, Relevance

log = logging.getLogger(__name__)


class FallbackReranker:
    """The first reranker, or for one question the second. Safe to use from several threads.

    A relevance of the second carries `scored_by`: its engine, what it stands in for, and the error as the reason.
    """

    def __init__(self, first: Reranker, second: Reranker) -> None:
        """Join them.

        Args:
            first: The configured one.
            second: What stands in for it; its own outage is an outage.
        """
        self._first = first
        self._second = second

    @property
    def info(self) -> EngineInfo:
        """The first's: it is asked anew at every question."""
        return self._first.info

    @property
    def scorer(self) -> Reranker:
        """The reranker whose scores meet the floor, unless it is unavailable."""
        return self._first

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order.

        Raises:
            Rank37Error: Of the first, where it is no outage; else of the second.
        """
        try:
            return self._first.score(query, passages, progress=progress)
        except (RerankerUnavailable, ModelUnavailable) as error:
            log.warning("%s stands in for %s: %s", self._second.info.name, self._first.info.name, error)
            stand_in = replace(self._second.info, stands_in_for=self._first.info.name, why=str(error))
        relevances = self._second.score(query, passages, progress=progress)
        return [replace(relevance, scored_by=stand_in) for relevance in relevances]

    def estimate_seconds(self, n_passages: int) -> float | None:
        """The first's, or the second's where the first knows nothing yet."""
        first = self._first.estimate_seconds(n_passages)
        return self._second.estimate_seconds(n_passages) if first is None else first
