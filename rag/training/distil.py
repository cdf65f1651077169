"""Labels by a stronger reranker: its scores, or its order, on the passages that recall finds for given questions.

The teacher is any reranker of the settings; a small cross-encoder learns from the groups with `fine-tune`. Gold labels
play no part here: a student is taught what its teacher says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rag.errors import EngineFault
from rag.ports import Progress, Reranker
from rag.training import resumable
from rag.training.groups import TrainingGroup, as_row, question_digest, read_groups
from rag.types import Passage, Relevance

ORDERED_DEPTH = 10
"""How many of the best of an order get a label above 0: what comes first of the rest is mostly luck."""

RIGHT_FROM = 0.5
"""From this label on, a passage is written as a positive."""


def distil(
    groups: Sequence[TrainingGroup], teacher: Reranker, *, progress: Progress | None = None
) -> Iterator[TrainingGroup]:
    """The groups with the teacher's labels, in order.

    Raises: EngineFault where the teacher gives no label, and what the teacher raises.
    """
    for done, group in enumerate(groups, start=1):
        texts = list(dict.fromkeys(group.passages))
        passages = [Passage(str(number), text) for number, text in enumerate(texts)]
        relevances = teacher.score(group.query, passages)
        if len(relevances) != len(passages):
            raise EngineFault(f"{teacher.info.name} gave {len(relevances)} labels for {len(passages)} passages")
        scored = all(relevance.score is not None for relevance in relevances)
        labels = [relevance.score or 0.0 for relevance in relevances] if scored else labels_of_order(relevances)
        yield labelled(group.query, texts, labels, order_only=not scored)
        if progress:
            progress(done, len(groups))


def teach(
    groups: Sequence[TrainingGroup], teacher: Reranker, *, progress: Progress | None = None
) -> Iterator[TrainingGroup]:
    """The groups, labels and all, with the order values that the teacher gives their passages, in order.

    A student learns both: what people labelled, and how the teacher would order. Mean and spread within a group carry
    nothing, so that a teacher that only orders will do.

    Raises: EngineFault where the teacher leaves a passage out, and what the teacher raises.
    """
    for done, group in enumerate(groups, start=1):
        # The text is the identity: of a passage that is in many groups a teacher may remember what it computed.
        passages = [Passage(text, text) for text in group.passages]
        relevances = teacher.score(group.query, passages)
        if len(relevances) != len(passages):
            raise EngineFault(f"{teacher.info.name} gave {len(relevances)} values for {len(passages)} passages")
        yield replace(group, teacher=tuple(round(relevance.order, 4) for relevance in relevances))
        if progress:
            progress(done, len(groups))


def labels_of_order(relevances: Sequence[Relevance]) -> list[float]:
    """1 for the first, falling evenly to 0 behind the first `ORDERED_DEPTH`; passages with a score come before others.

    >>> labels_of_order([Relevance(-2.0, None), Relevance(-1.0, None), Relevance(-12.0, None)])
    [0.9, 1.0, 0.8]
    """
    order = sorted(
        range(len(relevances)), key=lambda number: (relevances[number].score is None, -relevances[number].order)
    )
    labels = [0.0] * len(relevances)
    for rank, number in enumerate(order, start=1):
        labels[number] = max(0.0, round(1 - (rank - 1) / ORDERED_DEPTH, 4))
    return labels


def labelled(query: str, texts: Sequence[str], labels: Sequence[float], *, order_only: bool) -> TrainingGroup:
    """A group of passages with labels, best first; those from `RIGHT_FROM` on are its positives."""
    rows = sorted(zip(texts, labels, strict=True), key=lambda row: -row[1])
    positives = [row for row in rows if row[1] >= RIGHT_FROM]
    negatives = [row for row in rows if row[1] < RIGHT_FROM]
    return TrainingGroup(
        query,
        tuple(text for text, _ in positives),
        tuple(text for text, _ in negatives),
        tuple(round(label, 4) for _, label in positives),
        tuple(round(label, 4) for _, label in negatives),
        order_only=order_only,
    )


def write_as_they_come(groups: Iterable[TrainingGroup], path: Path) -> int:
    """Write groups behind those that an interrupted run left, each durable at once; returns how many there are in all.

    A teacher's labels cost money or hours: what was paid for stays.
    """
    count = len(left_over(path))
    with resumable.lines_behind(path) as write:
        for group in groups:
            write([as_row(group)])
            count += 1
    return count


def left_over(path: Path) -> list[TrainingGroup]:
    """The groups that an interrupted run left for `path`; a line that it broke off in is dropped."""
    unfinished = resumable.left_over(path)
    return read_groups(unfinished) if unfinished else []


def without(groups: Sequence[TrainingGroup], done: Sequence[TrainingGroup]) -> list[TrainingGroup]:
    """The groups whose question is none of those that are done."""
    digests = {question_digest(group.query) for group in done}
    return [group for group in groups if question_digest(group.query) not in digests]
