"""First stage: the candidates, cheaply, by dense and BM25 search fused by rank.

The search itself is the index engine's; this file names what engines must agree on.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag.ports import Index, Vector
from rag.types import Candidate

RRF_CONSTANT = 60
"""k of reciprocal rank fusion, score = sum over searches of 1 / (k + rank), rank 1-based.

Source: Cormack, Clarke, Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods", https://plg.uwaterloo.ca/~gvcormac/cormacksigir09-rrf.pdf. Qdrant's own default is another one, so every
index engine passes this one explicitly."""


def recall(
    query: str, vector: Vector, index: Index, *, limit: int, document_ids: Sequence[str] | None = None
) -> tuple[Candidate, ...]:
    """The best `limit` candidates, best first, ranks 1-based and without gaps."""
    return tuple(index.recall(query, vector, limit=limit, document_ids=document_ids))
