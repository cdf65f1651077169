"""Reranker of two: one that only orders, and a scoring one that reads the top of that order, for the floor.

It never lets a number through the floor that means nothing: what the scoring reranker did not read has no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rag.errors import BadInput
from rag.ports import Progress, Reranker
from rag.types import EngineInfo, Passage, Relevance

GATED_PASSAGES = 5
"""How many of the best are scored: as many as an answer rests on."""


class GatedReranker:
    """The first reranker's order; the second's score and logit on its best few. Safe to use from several threads.

    Unlike in a cascade, the second does not change the order: it only says which of the best may be answered from.
    """

    def __init__(self, orderer: Reranker, gate: Reranker, depth: int = GATED_PASSAGES) -> None:
        """Join them.

        Args:
            orderer: Gives the order; its scores, if any, are not used.
            gate: Gives the scores that meet the floor.
            depth: How many of the order's best the gate reads.

        Raises:
            BadInput: The depth is below 1.
        """
        if depth < 1:
            raise BadInput(f"{depth} passages to be scored for the floor: take at least 1")
        self._orderer = orderer
        self._gate = gate
        self._depth = depth

    @property
    def info(self) -> EngineInfo:
        """The orderer's, with a reason that names the gate too."""
        orderer, gate = self._orderer.info, self._gate.info
        why = f"its numbers are no probabilities: {gate.name} scores its best {self._depth} for the floor"
        return replace(
            orderer,
            why=f"{orderer.why}; {why}" if orderer.why else why,
            sends_data_to=", ".join(sorted({host for host in (orderer.sends_data_to, gate.sends_data_to) if host})),
        )

    @property
    def scorer(self) -> Reranker:
        """The reranker whose scores meet the floor."""
        return self._gate

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order; progress counts the readings of both."""
        depth = min(self._depth, len(passages))
        total = len(passages) + depth

        def shifted(before: int) -> Progress | None:
            return (lambda done, _total: progress(before + done, total)) if progress else None

        ordered = self._orderer.score(query, passages, progress=shifted(0))
        best = sorted(range(len(passages)), key=lambda number: -ordered[number].order)[:depth]
        gated = self._gate.score(query, [passages[number] for number in best], progress=shifted(len(passages)))
        relevances = [Relevance(one.order, None, cached=one.cached) for one in ordered]
        for number, one in zip(best, gated, strict=True):
            cached = one.cached and ordered[number].cached
            relevances[number] = Relevance(ordered[number].order, one.score, one.logit, cached=cached)
        return relevances

    def estimate_seconds(self, n_passages: int) -> float | None:
        """The sum of both; None where one of them knows nothing yet."""
        ordering = self._orderer.estimate_seconds(n_passages)
        gating = self._gate.estimate_seconds(min(self._depth, n_passages))
        return None if ordering is None or gating is None else ordering + gating
