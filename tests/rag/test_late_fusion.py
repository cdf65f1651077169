"""A cross-encoder's logit and late interaction, added."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag.engines.colbert import MemoryTokenStore, TokenEncoder
from rag.engines.cross_encoder import CrossEncoderReranker, sigmoid
from rag.engines.late_fusion import (
    FUSION_FILE,
    FusionWeights,
    LateFusionReranker,
    LateInteraction,
    cross_encoder_of,
    load_reranker,
    read_weights,
)
from rag.errors import BadInput, ModelUnavailable
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, save_cross_encoder

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]


@pytest.fixture(scope="module")
def encoder() -> TokenEncoder:
    return TokenEncoder.embedded()


@pytest.fixture(scope="module")
def weights(encoder: TokenEncoder) -> FusionWeights:
    return FusionWeights(encoder.identity.name, encoder.identity.revision, 0.5, 20.0, 3.0, -12.0)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoderReranker:
    folder = save_cross_encoder(tmp_path_factory.mktemp("model") / "tiny", "bert")
    return CrossEncoderReranker.load(folder, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def fused(cross_encoder: CrossEncoderReranker, encoder: TokenEncoder, weights: FusionWeights) -> LateFusionReranker:
    return LateFusionReranker(cross_encoder, LateInteraction(encoder), weights)


def test_the_logit_is_the_weighted_sum(
    fused: LateFusionReranker, cross_encoder: CrossEncoderReranker, encoder: TokenEncoder
) -> None:
    of_query = encoder.encode_query(QUERY)
    matrices = encoder.encode_passages([passage.text for passage in PASSAGES])
    for relevance, alone, matrix in zip(
        fused.score(QUERY, PASSAGES), cross_encoder.score(QUERY, PASSAGES), matrices, strict=True
    ):
        assert alone.logit is not None
        max_sim = np.mean([max(float(token @ other) for other in matrix) for token in of_query])
        means = of_query.mean(axis=0), matrix.mean(axis=0)
        cosine = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
        expected = 0.5 * alone.logit + 20.0 * max_sim + 3.0 * cosine - 12.0
        assert relevance.logit == pytest.approx(expected, abs=1e-3)
        assert relevance.order == relevance.logit
        assert relevance.score == sigmoid(relevance.logit or 0.0)


def test_a_passage_that_was_seen_before_is_not_encoded_again(
    encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = LateInteraction(encoder)
    first = late.features(QUERY, PASSAGES)
    encoded: list[str] = []
    really = encoder.encode_passages

    def counting(texts: list[str], **more: object) -> object:
        encoded.extend(texts)
        return really(texts)

    monkeypatch.setattr(encoder, "encode_passages", counting)
    again = late.features(QUERY, [*PASSAGES, Passage("new", "Something else.")])
    assert encoded == ["Something else."]
    np.testing.assert_allclose(again[:-1], first)


def test_a_store_too_small_for_a_question_changes_no_score(encoder: TokenEncoder) -> None:
    small, large = LateInteraction(encoder, MemoryTokenStore(20_000)), LateInteraction(encoder)
    np.testing.assert_allclose(small.features(QUERY, PASSAGES), large.features(QUERY, PASSAGES))
    np.testing.assert_allclose(small.features(QUERY, PASSAGES), large.features(QUERY, PASSAGES))


def test_what_has_no_words_has_no_likeness(encoder: TokenEncoder) -> None:
    late = LateInteraction(encoder)
    assert late.features("?!", PASSAGES[:1]).tolist() == [[0.0, 0.0]]
    assert late.features(QUERY, [Passage("dots", "...")]).tolist() == [[0.0, 0.0]]
    assert late.features(QUERY, []).shape == (0, 2)


def test_a_folder_says_whether_it_is_fused(tmp_path: Path, weights: FusionWeights) -> None:
    folder = save_cross_encoder(tmp_path / "tiny", "bert")
    plain = load_reranker(folder)
    assert isinstance(plain, CrossEncoderReranker)
    weights.write(folder)
    assert read_weights(folder) == weights
    fused = load_reranker(folder)
    assert isinstance(fused, LateFusionReranker)
    assert fused.info.name == "tiny"
    # A floor or a remembered score of one is never taken for the other's, nor for that of other weights.
    assert fused.info.revision.startswith(cross_encoder_of(fused).info.revision + "+late-")
    replace(weights, bias=0.0).write(folder)
    assert load_reranker(folder).info.revision != fused.info.revision
    assert cross_encoder_of(plain) is plain


def test_weights_of_another_encoder_or_a_damaged_file_are_refused(
    tmp_path: Path, cross_encoder: CrossEncoderReranker, encoder: TokenEncoder, weights: FusionWeights
) -> None:
    with pytest.raises(ModelUnavailable, match="calibrate it again"):
        LateFusionReranker(cross_encoder, LateInteraction(encoder), replace(weights, encoder_revision="other"))
    folder = save_cross_encoder(tmp_path / "tiny", "bert")
    (folder / FUSION_FILE).write_text(json.dumps({"logit": 1.0}))
    with pytest.raises(ModelUnavailable, match="calibrate the model again"):
        load_reranker(folder)


def test_an_empty_question_is_refused(fused: LateFusionReranker) -> None:
    with pytest.raises(BadInput, match="empty"):
        fused.score(" ", PASSAGES)


def test_standing_in_changes_only_what_is_said(fused: LateFusionReranker) -> None:
    stand_in = fused.standing_in("a larger one", why="it is not here")
    assert (stand_in.info.stands_in_for, stand_in.info.why) == ("a larger one", "it is not here")
    assert stand_in.info.revision == fused.info.revision
    assert fused.info.stands_in_for == ""
    assert stand_in.score(QUERY, PASSAGES[:2]) == fused.score(QUERY, PASSAGES[:2])


def test_the_estimate_counts_both(fused: LateFusionReranker) -> None:
    fused.score(QUERY, PASSAGES)
    alone = fused.cross_encoder.estimate_seconds(100)
    both = fused.estimate_seconds(100)
    assert alone is not None
    assert both is not None
    assert both > alone
