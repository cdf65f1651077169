"""Ours and sentence-transformers say the same of the same passages; a peer that can't run is named with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.material import RerankCase
from bench.peers.opening import NotRunnable, open_all
from bench.peers.rerankers import Ranked, flashrank, reranker_openers, save_in_float32, sentence_transformers
from bench.rerank import _ours
from bench.scores import agreement
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
from rag.types import Passage

QUESTIONS = ["How long is the waiting period?", "What is the dose for a child?"]
TEXTS = [
    "The waiting period for dental treatment is 90 days from the start of the contract.",
    "Ibuprofen for children: 5 to 10 mg for each kilogram of body weight, every six to eight hours.",
    "You can return an item for a refund within seven days from receipt.",
    "Clean the filter every two weeks under running water. " * 12,
    "There is no waiting period for accidents.",
    "Parcels are delivered on working days between 8 and 18 o'clock.",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_in_float32(EMBEDDED_RERANKER_FOLDER, tmp_path_factory.mktemp("weights") / "reranker")


@pytest.fixture(scope="module")
def reference(weights: Path) -> list[Ranked]:
    rerank = sentence_transformers(weights)
    return [rerank(question, TEXTS) for question in QUESTIONS]


def results(reranker: CrossEncoderReranker) -> list[Ranked]:
    passages = tuple(Passage(str(number), text) for number, text in enumerate(TEXTS))
    return [_ours(reranker)(RerankCase(question, passages)) for question in QUESTIONS]


def test_in_float32_scores_and_order_are_those_of_sentence_transformers(reference: list[Ranked]) -> None:
    own = results(CrossEncoderReranker.embedded(precision="float32"))
    found = agreement(reference, own, floor=0.4)
    assert [one.order for one in own] == [one.order for one in reference]
    assert found.largest_difference is not None
    assert found.largest_difference < 1e-4
    assert found.flipped == 0


def test_in_the_number_format_that_is_quick_here_decisions_and_top_5_stay(
    reference: list[Ranked], embedded_reranker: CrossEncoderReranker
) -> None:
    found = agreement(reference, results(embedded_reranker), floor=0.4)
    assert (found.same_top_5, found.flipped) == (len(QUESTIONS), 0)
    assert found.largest_difference is not None
    assert found.largest_difference < 0.03


def test_peers_that_cannot_run_are_named_and_the_others_run(weights: Path) -> None:
    def fails() -> Ranked:
        raise ValueError("no such\nthing")

    opened, not_run = open_all({"one": lambda: Ranked((0,), (0.5,)), "other": fails})
    assert opened == {"one": Ranked((0,), (0.5,))}
    assert not_run == {"other": "ValueError: no such thing"}

    opened, not_run = open_all(reranker_openers(weights, lambda: weights))
    assert "sentence-transformers" in opened
    assert not_run.keys() | opened.keys() == reranker_openers(weights, lambda: weights).keys()
    assert all(not_run.values())


def test_flashrank_takes_no_folder(weights: Path) -> None:
    pytest.importorskip("flashrank", reason="FlashRank is no dependency: bench/README.md says how to install it")
    with pytest.raises(NotRunnable, match="of its own list"):
        flashrank(weights)
