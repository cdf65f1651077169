"""The sentence that decided a passage's score, as far as a sentence did: the one that scores best by itself.

A cross-encoder reads a passage as a whole: the sentence is the best explanation that scoring again can give, not a
reading of the model's mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag.ports import Reranker
from rag.sentences import split_sentences
from rag.types import Passage, RankedChunk, Trace

MOST_SENTENCES = 24
"""Most sentences of one passage that are scored, to bound the time."""


@dataclass(frozen=True, slots=True)
class Deciding:
    """The best sentence of a passage."""

    chunk_id: str
    text: str
    """Verbatim, white space folded."""
    page: int
    """1-based page on which it begins."""
    score: float | None
    """Of the sentence with its document and heading, in [0, 1]; None where the scorer only orders."""


def deciding_sentences(trace: Trace, scorer: Reranker) -> tuple[Deciding, ...]:
    """The best sentence of each kept passage, in the order of the kept ones; one without sentences is left out.

    Each is scored for what its passage was scored for: the question, or the part of it.
    """
    found: dict[str, Deciding] = {}
    by_query: dict[str, list[RankedChunk]] = {}
    for ranked in trace.kept:
        query = trace.parts[ranked.part - 1].text if ranked.part and trace.parts else trace.query
        by_query.setdefault(query, []).append(ranked)
    for query, ranking in by_query.items():
        found |= {deciding.chunk_id: deciding for deciding in _best(query, ranking, scorer)}
    return tuple(found[ranked.chunk.id] for ranked in trace.kept if ranked.chunk.id in found)


def _best(query: str, ranking: Sequence[RankedChunk], scorer: Reranker) -> list[Deciding]:
    spans = [
        (ranked.chunk, start, end)
        for ranked in ranking
        for start, end in split_sentences(ranked.chunk.text)[:MOST_SENTENCES]
    ]
    passages = []
    for chunk, start, end in spans:
        lines = (chunk.title, chunk.heading, chunk.text[start:end])
        passages.append(Passage(f"{chunk.id}:{start}", "\n".join(line for line in lines if line)))
    best: dict[str, tuple[float, Deciding]] = {}
    for (chunk, start, end), relevance in zip(spans, scorer.score(query, passages), strict=True):
        if chunk.id not in best or relevance.order > best[chunk.id][0]:
            text = " ".join(chunk.text[start:end].split())
            best[chunk.id] = relevance.order, Deciding(chunk.id, text, chunk.page_at(start), relevance.score)
    return [deciding for _, deciding in best.values()]
