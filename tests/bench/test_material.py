"""Passages to measure with: of the promised lengths, whole, and the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.large_model import save_large
from bench.material import LEAST_TOKENS, MOST_TOKENS, SAMPLES, long_passages, questions_of, recalled_cases
from rag.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rag.engines.sentence_transformer import SentenceTransformerEmbedder


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


TEXTS = [" ".join([f"w{number}"] * (20 + number % 50)) for number in range(300)]


def test_passages_are_whole_texts_in_order_and_of_the_promised_lengths() -> None:
    passages = long_passages(TEXTS, words, count=40)
    assert len({passage.id for passage in passages}) == 40
    for passage in passages:
        assert LEAST_TOKENS <= len(passage.text.split()) <= MOST_TOKENS
        parts = passage.text.split("\n")
        start = TEXTS.index(parts[0])
        assert parts == TEXTS[start : start + len(parts)]
    assert max(words([passage.text for passage in passages])) > 250
    assert passages == long_passages(TEXTS, words, count=40)


def test_too_few_texts_are_refused_with_the_remedy() -> None:
    with pytest.raises(BadInput, match=r"only \d+ passages of 65 to 305 tokens .* name a larger set"):
        long_passages(TEXTS[:20], words, count=40)


def test_questions_are_the_same_every_time_and_fewer_are_the_first_of_more() -> None:
    assert questions_of(SAMPLES, 5) == questions_of(SAMPLES, 50)[:5]
    assert len(set(questions_of(SAMPLES, 50))) == 50


def test_recalled_cases_hold_the_nearest_first(embedder: SentenceTransformerEmbedder) -> None:
    texts = ["Ibuprofen lowers fever.", "The waiting period is 180 days.", "Parcels arrive within two days."]
    [case] = recalled_cases(texts, ["How long is the waiting period?"], embedder, count=2)
    assert case.texts[0] == "The waiting period is 180 days."
    assert len(case.passages) == 2


def test_the_large_model_loads_as_a_cross_encoder_that_reads_long_pairs(tmp_path: Path) -> None:
    from rag.engines.cross_encoder import CrossEncoderReranker
    from rag.types import Passage

    folder = save_large(tmp_path / "large", TEXTS, layers=1)
    reranker = CrossEncoderReranker.load(folder, precision="float32")
    assert reranker.max_tokens == 1024
    scores = [one.score for one in reranker.score("w1", [Passage("a", TEXTS[1]), Passage("b", TEXTS[2])])]
    assert all(score is not None and 0 <= score <= 1 for score in scores)
