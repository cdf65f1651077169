"""Vectors made ahead are those that would be made at a file's turn, a bounded number of batches, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest

from ingest.vectors_ahead import MOST_BATCHES, VectorsAhead
from rag.errors import EngineFault
from rag.ports import Embedder, Progress, Vectors
from rag.types import Chunk, PageSpan

BATCH = 2
WAIT_S = 30.0


class LengthEmbedder:
    """A vector is a passage's length; what it does before can be told it."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.asked: list[list[str]] = []
        self._before = before

    def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        self.asked.append(list(texts))
        self._before(len(self.asked))
        for done in range(1, len(texts) + 1):
            if progress:
                progress(done, len(texts))
        return np.array([[len(text)] for text in texts], dtype=np.float32)


def batches_of(n_batches: int) -> list[Sequence[Chunk]]:
    """Chunks whose passages are of 3, 4, 5, ... characters: title, line feed, text."""
    chunks = [
        Chunk(str(number), "d", "t", None, "x" * (number + 1), (PageSpan(1, 0, number + 1),), number, 1)
        for number in range(n_batches * BATCH)
    ]
    return [chunks[start : start + BATCH] for start in range(0, len(chunks), BATCH)]


def begun(embedder: LengthEmbedder, n_batches: int) -> tuple[VectorsAhead, threading.Thread]:
    ahead = VectorsAhead(cast(Embedder, embedder), batches_of(n_batches))
    thread = threading.Thread(target=ahead.make, daemon=True)
    thread.start()
    return ahead, thread


def test_batches_come_in_order_with_their_vectors_and_reports_grow() -> None:
    embedder = LengthEmbedder()
    ahead, thread = begun(embedder, 3)
    reports: list[int] = []

    taken = list(ahead.in_order(reports.append))

    thread.join(WAIT_S)
    assert [[chunk.id for chunk in batch] for batch, _ in taken] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert [vectors[:, 0].tolist() for _, vectors in taken] == [[3, 4], [5, 6], [7, 8]]
    assert [len(texts) for texts in embedder.asked] == [BATCH] * 3
    assert reports == sorted(reports)
    assert reports[-1] == 3 * BATCH


def test_only_so_many_batches_lie_ready() -> None:
    reached, too_far = threading.Event(), threading.Event()

    def watch(n_asked: int) -> None:
        if n_asked == MOST_BATCHES:
            reached.set()
        if n_asked > MOST_BATCHES:
            too_far.set()

    ahead, thread = begun(LengthEmbedder(watch), MOST_BATCHES + 2)
    assert reached.wait(WAIT_S)
    assert not too_far.wait(0.2)

    assert len(list(ahead.in_order(lambda n: None))) == MOST_BATCHES + 2
    assert too_far.is_set()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_what_the_embedder_raises_comes_at_its_batch() -> None:
    def fail(n_asked: int) -> None:
        if n_asked == 2:
            raise EngineFault("no number")

    embedder = LengthEmbedder(fail)
    ahead, _ = begun(embedder, 3)
    taken = ahead.in_order(lambda n: None)

    assert next(taken)[1][:, 0].tolist() == [3, 4]
    with pytest.raises(EngineFault, match="no number"):
        next(taken)
    assert len(embedder.asked) == 2


def test_what_is_not_wanted_any_more_ends_within_a_batch() -> None:
    began, go_on = threading.Event(), threading.Event()

    def wait(n_asked: int) -> None:
        began.set()
        assert go_on.wait(WAIT_S)

    embedder = LengthEmbedder(wait)
    ahead, thread = begun(embedder, 3)
    assert began.wait(WAIT_S)
    ahead.stop()
    go_on.set()
    thread.join(WAIT_S)

    assert not thread.is_alive()
    assert len(embedder.asked) == 1


def test_who_waits_can_be_told_to_stop() -> None:
    class GivenUp(Exception):
        pass

    def give_up(n_embedded: int) -> None:
        raise GivenUp

    go_on = threading.Event()
    ahead, thread = begun(LengthEmbedder(lambda n_asked: bool(go_on.wait(WAIT_S)) or None), 2)
    with pytest.raises(GivenUp):
        next(ahead.in_order(give_up))
    ahead.stop()
    go_on.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()
