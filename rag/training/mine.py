"""Hard negatives: what recall ranks high for a question and is not its answer.

Passages come from the collection's own hybrid recall, because those are what the reranker will have to tell apart
(sentence-transformers' `mine_hard_negatives` searches by vectors alone). Left out: the positive and its
near-duplicates, passages that contain a gold answer, and likely false negatives (as near to the question as the
positive is, by the bi-encoder, or by a second reranker where one is given). No label is invented: a passage that may
be right is left out rather than called wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rag.errors import BadInput
from rag.evaluation.passage_index import CorpusPassage
from rag.ports import Progress, Reranker
from rag.training.groups import TrainingGroup
from rag.training.pool import RECALL_LIMIT, Pool
from rag.training.questions import TrainingQuestion, as_passage
from rag.training.words import contains, folded, overlap
from rag.types import Chunk, Passage


@dataclass(frozen=True, slots=True)
class MiningPolicy:
    """What is taken as a negative."""

    per_bucket: tuple[tuple[int, int, int], ...] = ((1, 10, 2), (11, 40, 2), (41, 100, 1))
    """(first recall rank, last recall rank, how many at random from between)."""
    n_random: int = 1
    """Passages at random from the whole pool: the easy kind."""
    duplicate_overlap: float = 0.8
    """From this share of common words on (Jaccard), a passage is a near-duplicate of the positive."""
    relative_margin: float = 0.95
    """A passage whose cosine to the question exceeds this share of the positive's is a likely false negative.

    Source: NV-Retriever, https://arxiv.org/abs/2407.15831, "TopK-PercPos"."""
    judge_margin: float = 0.1
    """A passage that the second reranker scores within this of the positive, or above it, is left out..."""
    judge_surely_wrong: float = 0.1
    """...unless it scores it below this: a judge that does not know the positive either says nothing of the others."""
    soft_label: float = 0.2
    """Relevance given to the negative nearest to the question by cosine; the others get their share of it."""
    titled_share: float = 0.8
    """Share of the groups whose passages carry the title of their document, as they always do in the product."""
    seed: int = 37

    def taking(self, negatives: int) -> MiningPolicy:
        """The same with so many negatives of the buckets in all, shared as now. Raises BadInput below one a bucket.

        >>> MiningPolicy().taking(10).per_bucket
        ((1, 10, 4), (11, 40, 4), (41, 100, 2))
        """
        if negatives < len(self.per_bucket):
            raise BadInput(f"{negatives} negatives a question: take at least {len(self.per_bucket)}, one of each range")
        share = negatives / sum(count for _, _, count in self.per_bucket)
        counts = [max(1, round(share * count)) for _, _, count in self.per_bucket]
        ranges = [(first, last) for first, last, _ in self.per_bucket]
        return replace(
            self, per_bucket=tuple((first, last, count) for (first, last), count in zip(ranges, counts, strict=True))
        )


def mine(
    questions: Sequence[TrainingQuestion],
    pool: Pool,
    policy: MiningPolicy,
    *,
    judge: Reranker | None = None,
    progress: Progress | None = None,
) -> Iterator[TrainingGroup]:
    """One group a question, in order; one without any usable negative is skipped.

    A question that the passages do not answer gets a group without positives: all that recall found is wrong for it. A
    question of which nobody said whether it is answered gets only the negatives that a person named. Seeded: the same
    in, the same out.

    Raises: BadInput for a judge that gives no scores.
    """
    choose = random.Random(policy.seed)
    for done, question in enumerate(questions, start=1):
        group = _group(question, pool, policy, judge, choose)
        if group is not None:
            yield group
        if progress:
            progress(done, len(questions))


def candidates(
    questions: Sequence[TrainingQuestion],
    pool: Pool,
    *,
    limit: int = RECALL_LIMIT,
    duplicate_overlap: float = 0.8,
    progress: Progress | None = None,
) -> Iterator[TrainingGroup]:
    """Everything that recall finds for a question, labelled: what calibration and promotion measure on.

    Nothing is chosen or left out, so that shares and probabilities are those of the product: what is not known to be
    right counts as wrong. Positives that recall missed have the rank None. Questions of which nobody said whether they
    are answered get all their candidates as negatives, for `distil` to label; nothing may be measured on them.
    """
    for done, question in enumerate(questions, start=1):
        recalled = pool.recall(question.query, pool.query_vector(question.query), title=question.group, limit=limit)
        right = _Right(question, duplicate_overlap, with_answers=False)
        ranked = list(enumerate(recalled, start=1))
        found = [(rank, chunk) for rank, chunk in ranked if right.holds(chunk)]
        others = [(rank, chunk) for rank, chunk in ranked if not right.holds(chunk)]
        missed = right.missed([chunk for _, chunk in found])
        if recalled or missed:
            yield TrainingGroup(
                question.query,
                tuple(chunk.passage for _, chunk in found) + tuple(passage.whole for passage in missed),
                tuple(chunk.passage for _, chunk in others),
                positive_ranks=tuple(rank for rank, _ in found) + (None,) * len(missed),
                negative_ranks=tuple(rank for rank, _ in others),
            )
        if progress:
            progress(done, len(questions))


def _group(
    question: TrainingQuestion, pool: Pool, policy: MiningPolicy, judge: Reranker | None, choose: random.Random
) -> TrainingGroup | None:
    vector = pool.query_vector(question.query)
    right = _Right(question, policy.duplicate_overlap, with_answers=True)
    chosen: list[Chunk] = []
    nearest_positive = 0.0
    if question.answerable is not None:
        recalled = pool.recall(question.query, vector, title=question.group)
        cosines = dict(zip((chunk.id for chunk in recalled), pool.cosines(vector, recalled), strict=True))
        nearest_positive = max(
            [cosines[chunk.id] for chunk in recalled if right.is_positive(chunk)]
            or [pool.cosine_to_text(vector, passage.whole) for passage in question.positives]
            or [0.0]
        )
        # Of an unanswerable question nothing can be a false negative, however near.
        most = policy.relative_margin * nearest_positive if question.positives else 1.0
        usable = [
            (rank, chunk)
            for rank, chunk in enumerate(recalled, start=1)
            if not right.holds(chunk) and cosines[chunk.id] <= most
        ]
        chosen = _chosen(question, usable, policy, judge, choose)
        if not question.group:
            chosen += _easy(pool, right, policy, choose, {chunk.id for chunk in chosen})
    negatives = [as_passage(chunk) for chunk in chosen]
    soft = [max(0.0, cosine) for cosine in pool.cosines(vector, chosen)]
    scale = policy.soft_label / max(nearest_positive, *soft, 1e-6) if question.positives and soft else 0.0
    named = [passage for passage in question.negatives if passage not in negatives]
    if not (negatives or named):
        return None
    # Positives and negatives look alike, or a model would learn to tell them by their titles.
    titled = all(passage.title for passage in question.positives) and choose.random() < policy.titled_share
    scores = tuple(round(cosine * scale, 4) for cosine in soft) + (0.0,) * len(named)
    return TrainingGroup(
        question.query,
        tuple(passage.whole if titled else passage.text for passage in question.positives),
        tuple(passage.whole if titled else passage.text for passage in negatives + named),
        (1.0,) * len(question.positives),
        scores if any(scores) else (),
    )


def _chosen(
    question: TrainingQuestion,
    usable: Sequence[tuple[int, Chunk]],
    policy: MiningPolicy,
    judge: Reranker | None,
    choose: random.Random,
) -> list[Chunk]:
    """So many at random of each bucket of ranks; with a judge, of those that it finds clearly less relevant."""
    chosen = []
    for first, last, count in policy.per_bucket:
        bucket = [chunk for rank, chunk in usable if first <= rank <= last]
        # A judge leaves some out, so that it is shown more than are wanted.
        drawn = choose.sample(bucket, min(2 * count if judge else count, len(bucket)))
        if judge and drawn and question.positives:
            drawn = _less_relevant(question, drawn, judge, policy)
        chosen += drawn[:count]
    return chosen


def _easy(pool: Pool, right: _Right, policy: MiningPolicy, choose: random.Random, taken: set[str]) -> list[Chunk]:
    drawn = [pool.random_chunk(choose) for _ in range(policy.n_random)]
    fresh = {chunk.id: chunk for chunk in drawn if chunk is not None and chunk.id not in taken}
    return [chunk for chunk in fresh.values() if not right.holds(chunk)]


class _Right:
    """What counts as right for a question."""

    def __init__(self, question: TrainingQuestion, duplicate_overlap: float, *, with_answers: bool) -> None:
        self._positives = question.positives
        self._positive_ids = {passage.id for passage in question.positives if passage.id}
        self._positive_words = [set(folded(passage.text).split()) for passage in question.positives]
        self._answers = question.answers if with_answers else ()
        self._duplicate_overlap = duplicate_overlap

    def is_positive(self, chunk: Chunk) -> bool:
        """Whether it is a gold passage, contains one, or is nearly the same."""
        if chunk.id in self._positive_ids or any(contains(chunk.text, passage.text) for passage in self._positives):
            return True
        own = set(folded(chunk.text).split())
        return any(overlap(positive, own) >= self._duplicate_overlap for positive in self._positive_words)

    def holds(self, chunk: Chunk) -> bool:
        """Whether it is a gold passage or contains a gold answer."""
        return self.is_positive(chunk) or any(contains(chunk.text, answer) for answer in self._answers)

    def missed(self, found: Sequence[Chunk]) -> list[CorpusPassage]:
        """The gold passages that are none of the found chunks."""
        texts = [folded(chunk.text) for chunk in found]
        found_words = [set(text.split()) for text in texts]
        return [
            passage
            for passage, own in zip(self._positives, self._positive_words, strict=True)
            if not any(folded(passage.text) in text for text in texts)
            and not any(overlap(own, other) >= self._duplicate_overlap for other in found_words)
        ]


def _less_relevant(
    question: TrainingQuestion, drawn: Sequence[Chunk], judge: Reranker, policy: MiningPolicy
) -> list[Chunk]:
    """The chunks that the judge scores clearly below the best positive, both with their titles."""
    positives = [Passage(f"positive {number}", passage.whole) for number, passage in enumerate(question.positives)]
    relevances = judge.score(question.query, positives + [Passage(chunk.id, chunk.passage) for chunk in drawn])
    scores = [relevance.score for relevance in relevances if relevance.score is not None]
    if len(scores) < len(relevances):
        raise BadInput(f"the judge {judge.info.name} gives no scores, only an order: name a cross-encoder")
    bar = max(max(scores[: len(positives)]) - policy.judge_margin, policy.judge_surely_wrong)
    return [chunk for chunk, score in zip(drawn, scores[len(positives) :], strict=True) if score < bar]
