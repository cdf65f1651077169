"""What every embedder owes the program, whatever model is behind it."""

from __future__ import annotations

import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rag.engines.embedded_embedder import EmbeddedEmbedder
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput
from rag.ports import Embedder
from tests.contracts.tiny_models import CORPUS, FAMILIES, save_embedder

TEXTS = [text[:70] for text in CORPUS] + ["refund", "", "等待期", "👩‍⚕️💊", "lone \ud83d surrogate", "e\u0301"]


@pytest.fixture(scope="module", params=["embedded", "loaded later", *FAMILIES, "with prompts"])
def any_embedder(
    request: pytest.FixtureRequest, embedder: SentenceTransformerEmbedder, tmp_path_factory: pytest.TempPathFactory
) -> Embedder:
    if request.param == "embedded":
        return embedder
    if request.param == "loaded later":
        return EmbeddedEmbedder(lambda: embedder)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    if request.param == "with prompts":
        save_embedder(folder, "xlm-roberta", prompts={"query": "ask: ", "passage": "read: "})
    else:
        save_embedder(folder, request.param)
    return SentenceTransformerEmbedder.load(folder, device="cpu")


def test_vectors_are_float32_of_unit_length_and_the_identity_names_their_dimension(any_embedder: Embedder) -> None:
    vectors = any_embedder.embed_passages(TEXTS)
    assert vectors.shape == (len(TEXTS), any_embedder.identity.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    query = any_embedder.embed_query("refund?")
    assert query.shape == (any_embedder.identity.dimension,)
    assert query.dtype == np.float32
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)


def test_no_texts_give_no_vectors(any_embedder: Embedder) -> None:
    assert any_embedder.embed_passages([]).shape == (0, any_embedder.identity.dimension)
    assert any_embedder.count_tokens([]) == []
    assert any_embedder.count_passage_tokens([]) == []


def test_a_vector_follows_its_text_whatever_the_order_and_company(any_embedder: Embedder) -> None:
    straight = any_embedder.embed_passages(TEXTS)
    order = list(range(len(TEXTS)))
    random.Random(7).shuffle(order)
    shuffled = any_embedder.embed_passages([TEXTS[number] for number in order])
    rounding = 1e-3 if any_embedder.info.precision == "bfloat16" else 1e-5
    np.testing.assert_allclose(shuffled, straight[order], atol=rounding)
    np.testing.assert_allclose(any_embedder.embed_passages(TEXTS[:1])[0], straight[0], atol=rounding)


def test_different_texts_have_different_vectors(any_embedder: Embedder) -> None:
    one, other = any_embedder.embed_passages([CORPUS[0][:70], CORPUS[4][:70]])
    assert float(one @ other) < 0.999


def test_a_text_is_read_whole_up_to_the_limit_and_refused_beyond_it(any_embedder: Embedder) -> None:
    text = "refund"
    while any_embedder.count_passage_tokens([text + " a"])[0] <= any_embedder.max_tokens:
        text += " a"
    others = [text[:-1] + letter for letter in "bcdefghi"]
    as_long = [other for other in others if any_embedder.count_passage_tokens([other])[0] <= any_embedder.max_tokens]
    whole, changed_at_the_end = any_embedder.embed_passages([text, as_long[0]])
    assert not np.array_equal(whole, changed_at_the_end), "the last token was cut off"
    with pytest.raises(BadInput, match=rf"passage 1 has \d+ tokens.*at most {any_embedder.max_tokens}"):
        any_embedder.embed_passages(["refund", text + " a"])


def test_a_question_that_is_too_long_is_refused_with_tokens_and_limit(any_embedder: Embedder) -> None:
    with pytest.raises(BadInput, match=rf"has \d+ tokens.*at most {any_embedder.max_tokens}: shorten"):
        any_embedder.embed_query("how long " * 2000)


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_question_is_refused(any_embedder: Embedder, query: str) -> None:
    with pytest.raises(BadInput, match="empty"):
        any_embedder.embed_query(query)


def test_counting_a_whole_book_warns_of_nothing(any_embedder: Embedder, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [tokens] = any_embedder.count_tokens(["refund " * 20_000])
    assert tokens >= 20_000
    assert not caplog.records


def test_a_passage_has_the_tokens_of_its_text_and_a_fixed_number_more(any_embedder: Embedder) -> None:
    texts = CORPUS[:3]
    more = {
        whole - bare
        for whole, bare in zip(any_embedder.count_passage_tokens(texts), any_embedder.count_tokens(texts), strict=True)
    }
    assert len(more) == 1
    assert more.pop() >= 2, "the special tokens at start and end"


def test_progress_rises_to_the_total(any_embedder: Embedder) -> None:
    seen: list[tuple[int, int]] = []
    texts = [f"refund {number}" for number in range(20)]
    any_embedder.embed_passages(texts, progress=lambda done, total: seen.append((done, total)))
    done = [one for one, _ in seen]
    assert done == sorted(done)
    assert len(seen) >= 2
    assert seen[-1] == (20, 20)


def test_several_threads_get_what_one_gets(any_embedder: Embedder) -> None:
    alone = any_embedder.embed_passages(TEXTS)
    counts = any_embedder.count_passage_tokens(TEXTS)
    query = any_embedder.embed_query("refund?")

    def everything(_: int) -> None:
        np.testing.assert_allclose(any_embedder.embed_passages(TEXTS), alone, atol=1e-5)
        np.testing.assert_allclose(any_embedder.embed_query("refund?"), query, atol=1e-5)
        assert any_embedder.count_passage_tokens(TEXTS) == counts

    with ThreadPoolExecutor(6) as pool:
        assert len(list(pool.map(everything, range(12)))) == 12


def test_identity_and_info_agree(any_embedder: Embedder) -> None:
    assert any_embedder.info.role == "embedder"
    assert any_embedder.info.name == any_embedder.identity.name
    assert any_embedder.info.revision == any_embedder.identity.revision != ""
    assert any_embedder.info.sends_data_to == ""
