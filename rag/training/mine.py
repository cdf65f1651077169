"""Hard negatives: what recall ranks high for a question and is not its answer.

Passages come from the collection's own hybrid recall, because those are what the reranker will have to tell apart.
Left out: the positive and its near-duplicates, passages that contain a gold answer, and likely false negatives (as
near to the question as the positive is, by the bi-encoder, or by a second reranker where one is given). No label is
invented: a passage that may be right is left out rather than called wrong.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rag.evaluation.passage_index import CorpusPassage, beginning, document_id, write_passages
from rag.ports import Embedder, Index, Progress, Reranker, Vector
from rag.training.groups import LabelledPair, TrainingGroup
from rag.types import Chunk, Passage


@dataclass(frozen=True, slots=True)
class MiningPolicy:
    """What is taken as a negative."""

    per_bucket: tuple[tuple[int, int, int], ...] = ((1, 10, 2), (11, 40, 2), (41, 100, 1))
    """(first recall rank, last recall rank, how many at random from between)."""
    n_random: int = 1
    """Passages of the pool that recall did not find: the easy kind."""
    duplicate_overlap: float = 0.8
    """From this share of common words on (Jaccard), a passage is a near-duplicate of the positive."""
    relative_margin: float = 0.95
    """A passage whose cosine to the question exceeds this share of the positive's is a likely false negative.

    Source: NV-Retriever, https://arxiv.org/abs/2407.15831, "TopK-PercPos"."""
    judge_margin: float = 0.1
    """A passage that the second reranker scores within this of the positive, or above it, is left out."""
    soft_label: float = 0.2
    """Relevance given to the negative nearest to the question by cosine; the others get their share of it."""
    titled_share: float = 0.8
    """Share of the groups whose passages carry the title of their document, as they do in the product."""
    seed: int = 37


class Pool:
    """Passages in an index of their own, with their vectors at hand."""

    def __init__(self, passages: Sequence[CorpusPassage], embedder: Embedder, index: Index) -> None:
        self._embedder = embedder
        self._index = index
        self._chunks: list[Chunk] = []
        self._vectors: dict[str, Vector] = {}
        self._by_title: dict[str, list[CorpusPassage]] = defaultdict(list)
        for passage in passages:
            self._by_title[passage.title].append(passage)

    def fill(self, *, progress: Progress | None = None) -> None:
        """Embed and write all passages into the index, a new one; those of one title are one document."""
        written = write_passages(self._by_title, self._embedder, self._index, progress=progress)
        self._chunks = [chunk for chunk, _ in written]
        self._vectors = {chunk.id: vector for chunk, vector in written}

    def recall(self, query: str, vector: Vector, *, title: str, limit: int = 100) -> list[Chunk]:
        """The best chunks for a question: of those of one title if the pool has it, else of all passages."""
        within = [document_id(title)] if title in self._by_title else None
        return [candidate.chunk for candidate in self._index.recall(query, vector, limit=limit, document_ids=within)]

    @property
    def chunks(self) -> Sequence[Chunk]:
        """All chunks, in the order they were written."""
        return self._chunks

    def cosine(self, vector: Vector, chunk: Chunk) -> float:
        """Cosine of a question's vector to a chunk's."""
        return float(np.dot(vector, self._vectors[chunk.id]))


def mine(
    pairs: Sequence[LabelledPair],
    pool: Pool,
    embedder: Embedder,
    policy: MiningPolicy,
    *,
    judge: Reranker | None = None,
    progress: Progress | None = None,
) -> Iterator[TrainingGroup]:
    """One group a pair, in order; a pair without any usable negative is skipped. Seeded: the same in, the same out."""
    choose = random.Random(policy.seed)
    for done, pair in enumerate(pairs, start=1):
        vector = embedder.embed_query(beginning(pair.query, embedder))
        recalled = pool.recall(pair.query, vector, title=pair.group)
        ranks = {chunk.id: rank for rank, chunk in enumerate(recalled, start=1)}
        positive = set(_words(pair.positive))
        own = [chunk for chunk in recalled if _overlap(positive, chunk) >= policy.duplicate_overlap]
        nearest_positive = max((pool.cosine(vector, chunk) for chunk in own), default=1.0)
        usable = [
            chunk
            for chunk in recalled
            if not _is_positive(pair, positive, chunk, policy)
            and pool.cosine(vector, chunk) <= policy.relative_margin * nearest_positive
        ]
        chosen: list[Chunk] = []
        for first, last, count in policy.per_bucket:
            bucket = [chunk for chunk in usable if first <= ranks[chunk.id] <= last]
            chosen += choose.sample(bucket, min(count, len(bucket)))
        if judge and chosen:
            chosen = _less_relevant(pair, chosen, judge, policy)
        if pool.chunks and not pair.group:
            easy = [choose.choice(pool.chunks) for _ in range(policy.n_random)]
            chosen += [chunk for chunk in easy if not _is_positive(pair, positive, chunk, policy)]
        if chosen:
            # Positive and negatives look alike, or a model would learn to tell them by their titles.
            titled = bool(pair.title) and choose.random() < policy.titled_share
            cosines = [max(0.0, pool.cosine(vector, chunk)) for chunk in chosen]
            scale = policy.soft_label / max(nearest_positive, *cosines, 1e-6)
            yield TrainingGroup(
                pair.query,
                (f"{pair.title}\n{pair.positive}" if titled else pair.positive,),
                tuple(chunk.passage if titled else chunk.text for chunk in chosen),
                (1.0,),
                tuple(round(cosine * scale, 4) for cosine in cosines),
            )
        if progress:
            progress(done, len(pairs))


def _is_positive(pair: LabelledPair, positive: set[str], chunk: Chunk, policy: MiningPolicy) -> bool:
    """Whether a passage is the positive, nearly the same, or contains a gold answer."""
    text = " ".join(_words(chunk.text))
    contains = any(f" {' '.join(_words(answer))} " in f" {text} " for answer in pair.answers if _words(answer))
    return contains or _overlap(positive, chunk) >= policy.duplicate_overlap


def _overlap(positive: set[str], chunk: Chunk) -> float:
    """Share of the words that two texts have in common (Jaccard)."""
    words = set(_words(chunk.text))
    return len(words & positive) / max(1, len(words | positive))


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()


def _less_relevant(pair: LabelledPair, chosen: Sequence[Chunk], judge: Reranker, policy: MiningPolicy) -> list[Chunk]:
    """The chunks that the judge scores clearly below the positive."""
    passages = [Passage("positive", pair.positive), *(Passage(chunk.id, chunk.passage) for chunk in chosen)]
    scores = [relevance.score or 0.0 for relevance in judge.score(pair.query, passages)]
    bar = scores[0] - policy.judge_margin
    return [chunk for chunk, score in zip(chosen, scores[1:], strict=True) if score < bar]
