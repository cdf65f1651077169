"""Pieces of work side by side: the same results in the same order, and nobody else's threads are touched."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.engines.side_by_side import SideBySide

WAIT_S = 30.0


@pytest.fixture
def two_at_a_time() -> SideBySide:
    side_by_side = SideBySide.of_torch(2)
    if side_by_side is None:
        pytest.skip("PyTorch's threads can't be set one by one here")
    return side_by_side


@pytest.fixture
def passages() -> list[str]:
    """Of many lengths, so that packs differ."""
    return [" ".join(f"Clause {n} of {number} holds." for n in range(1 + 7 * number % 40)) for number in range(70)]


def test_two_pieces_run_at_once_and_results_keep_their_order(two_at_a_time: SideBySide) -> None:
    second_began = threading.Event()

    def work(piece: int) -> int:
        if piece == 0:
            assert second_began.wait(WAIT_S)
        second_began.set()
        return piece * piece

    assert list(two_at_a_time(work, range(20))) == [n * n for n in range(20)]


def test_each_piece_has_one_thread_and_everyone_else_keeps_theirs(two_at_a_time: SideBySide) -> None:
    before = torch.get_num_threads()

    assert set(two_at_a_time(lambda _: torch.get_num_threads(), range(8))) == {1}

    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as fresh:  # a question's thread, say
        assert fresh.submit(torch.get_num_threads).result() == before


def test_an_error_comes_at_its_place_and_ends_the_rest(two_at_a_time: SideBySide) -> None:
    done: list[int] = []

    def work(piece: int) -> int:
        if piece == 1:
            raise ValueError("piece 1 is bad")
        done.append(piece)
        return piece

    results = two_at_a_time(work, range(1000))
    assert next(results) == 0
    with pytest.raises(ValueError, match="piece 1 is bad"):
        next(results)
    # piece 0 and those that were begun ahead of the error: never more than twice two, and one that is being asked for
    assert len(done) <= 1 + 2 * 2 + 1


def test_who_stops_asking_leaves_nothing_in_line(two_at_a_time: SideBySide) -> None:
    results = two_at_a_time(lambda piece: piece, range(1000))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]  # it is a generator

    assert list(two_at_a_time(lambda piece: -piece, [1, 2])) == [-1, -2]


def test_vectors_do_not_depend_on_what_else_is_embedded_meanwhile(
    embedder: SentenceTransformerEmbedder,
    two_at_a_time: SideBySide,
    passages: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedder, "_side_by_side", None)
    one_after_the_other = embedder.embed_passages(passages)

    monkeypatch.setattr(embedder, "_side_by_side", two_at_a_time)
    with ThreadPoolExecutor(3) as callers:
        others = [callers.submit(embedder.embed_passages, passages[start:]) for start in (1, 30)]
        together = callers.submit(embedder.embed_passages, passages).result()
        question = embedder.embed_query("Which clause holds?")
        for other in others:
            other.result()

    np.testing.assert_array_equal(together, one_after_the_other)  # to the bit
    np.testing.assert_array_equal(question, embedder.embed_query("Which clause holds?"))
