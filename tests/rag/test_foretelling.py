"""What late interaction foretells: who is read, what the others are said to have, and that nothing else changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag.engines.colbert import TokenEncoder
from rag.engines.cross_encoder import CrossEncoderReranker, sigmoid
from rag.engines.late_fusion import (
    FUSION_FILE,
    Foretelling,
    FusionWeights,
    LateFusionReranker,
    LateInteraction,
    embedded_reranker,
    load_reranker,
    read_weights,
)
from rag.engines.score_cache import CachedReranker, ScoreCache
from rag.errors import BadInput, ModelUnavailable
from rag.training.foretell import LEAST_QUESTIONS, FusedScores, collect, figures, fit, write_with
from rag.training.groups import TrainingGroup
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, save_cross_encoder

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]
FORETELLING = Foretelling(max_sim=20.0, cosine=3.0, bias=-12.0, read=3, below=0.999)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("model") / "tiny", "bert")


@pytest.fixture(scope="module")
def late() -> LateInteraction:
    return LateInteraction(TokenEncoder.embedded())


@pytest.fixture(scope="module")
def weights(late: LateInteraction) -> FusionWeights:
    return FusionWeights(*late.name_and_revision, 0.5, 20.0, 3.0, -12.0, FORETELLING)


@pytest.fixture(scope="module")
def fused(folder: Path, late: LateInteraction, weights: FusionWeights) -> LateFusionReranker:
    model = CrossEncoderReranker.load(folder, device="cpu", precision="float32")
    return LateFusionReranker(model, late, weights)


def test_only_what_can_be_among_the_best_is_read() -> None:
    rule = Foretelling(1.0, 0.0, 0.0, read=2, below=sigmoid(-1.0))
    assert rule.unread(np.array([-3.0, 0.0, -2.0, -5.0])).tolist() == [True, False, False, True]
    assert rule.unread(np.array([3.0, 0.0, 2.0, -0.5])).tolist() == [False] * 4, "none is below"
    assert rule.unread(np.array([-3.0, -3.0, -3.0])).tolist() == [False, False, True], "of equals the first are read"
    assert rule.unread(np.array([-3.0])).tolist() == [False]
    assert Foretelling(2.0, 3.0, -1.0, 1, 0.5).logits(np.array([[0.5, 0.2]])).tolist() == pytest.approx([0.6])


def test_what_is_not_read_has_what_was_foretold_and_the_rest_its_score(
    fused: LateFusionReranker, late: LateInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = FORETELLING.logits(late.features(QUERY, PASSAGES))
    best = set(np.argsort(-told)[:3].tolist())
    whole = fused.reading_all().score(QUERY, PASSAGES)
    assert not any(relevance.foretold for relevance in whole)
    read: list[str] = []
    really = fused.cross_encoder.score

    def reading(query: str, passages: list[Passage], **more: object) -> object:
        read.extend(passage.id for passage in passages)
        return really(query, passages, **more)

    monkeypatch.setattr(fused.cross_encoder, "score", reading)
    seen: list[tuple[int, int]] = []
    scored = fused.score(QUERY, PASSAGES, progress=lambda *done: seen.append(done))
    assert {int(passage_id) for passage_id in read} == best
    assert seen[-1] == (len(PASSAGES), len(PASSAGES))
    for number, relevance in enumerate(scored):
        assert relevance.foretold == (number not in best)
        expected = told[number] if relevance.foretold else whole[number].order
        assert relevance.order == relevance.logit == pytest.approx(expected, abs=1e-4)
        assert relevance.score == sigmoid(relevance.order)


def test_a_question_that_can_not_be_read_is_refused_first(fused: LateFusionReranker) -> None:
    with pytest.raises(BadInput, match="the question is empty"):
        fused.score(" ", PASSAGES)
    with pytest.raises(BadInput, match="shorten it"):
        fused.score("word " * 2000, PASSAGES)
    assert fused.score(QUERY, []) == []


def test_passages_known_ahead_are_not_encoded_at_the_question(
    fused: LateFusionReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = fused.with_empty_memory()
    fresh.know(PASSAGES)
    encoder = fresh._late.encoder
    monkeypatch.setattr(encoder, "encode_passages", lambda texts: pytest.fail(f"encoded {texts}"))
    assert [one.order for one in fresh.score(QUERY, PASSAGES)] == pytest.approx(
        [one.order for one in fused.score(QUERY, PASSAGES)], abs=1e-4
    )


def test_what_was_foretold_is_remembered_as_that(fused: LateFusionReranker, tmp_path: Path) -> None:
    cached = CachedReranker(fused, ScoreCache(tmp_path / "scores.sqlite", limit_mb=1))
    first, again = cached.score(QUERY, PASSAGES), cached.score(QUERY, PASSAGES)
    assert [one.foretold for one in again] == [one.foretold for one in first]
    assert sum(one.foretold for one in again) == len(PASSAGES) - 3
    assert all(one.cached for one in again)


def test_a_folder_holds_it(folder: Path, weights: FusionWeights, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="without late interaction"):
        write_with(folder, tmp_path / "quick", FORETELLING)
    fused = save_cross_encoder(tmp_path / "fused", "bert")
    replace(weights, foretelling=None).write(fused)
    write_with(fused, tmp_path / "quick", FORETELLING)
    assert read_weights(tmp_path / "quick") == weights
    slow, quick = load_reranker(fused), load_reranker(tmp_path / "quick")
    assert slow.info.revision != quick.info.revision, "a floor or a kept score of one is never the other's"
    assert any(relevance.foretold for relevance in quick.score(QUERY, PASSAGES))
    told = json.loads((fused / FUSION_FILE).read_text())
    (fused / FUSION_FILE).write_text(json.dumps(told | {"foretelling": {"read": 3}}))
    with pytest.raises(ModelUnavailable, match="calibrate the model again"):
        read_weights(fused)


def test_least_squares_finds_what_the_scores_follow() -> None:
    generator = np.random.default_rng(3)
    scores = []
    for _ in range(80):
        features = generator.uniform(size=(40, 2))
        scores.append(FusedScores(features, features @ [4.0, 2.0] - 6.0))
    found, seen = fit(scores, read=10, below=0.2, floor=0.4)
    assert (found.max_sim, found.cosine, found.bias) == pytest.approx((4.0, 2.0, -6.0), abs=1e-4)
    assert (seen.questions, seen.passages) == (20, 800), "a quarter of the questions is held out"
    assert seen.correlation == pytest.approx(1.0)
    assert (seen.same_top, seen.flipped) == (1.0, 0)
    # Logits reach from -6 to 0 and are read from ln(0.2 / 0.8) = -1.39 on: few but the ten best.
    assert 0.25 <= seen.read < 0.3
    with pytest.raises(BadInput, match=str(LEAST_QUESTIONS)):
        fit(scores[: LEAST_QUESTIONS - 1], read=10, below=0.2, floor=0.4)
    with pytest.raises(BadInput, match="below = 1"):
        fit(scores, read=10, below=1.0, floor=0.4)


def test_figures_count_what_changes() -> None:
    rule = Foretelling(1.0, 0.0, 0.0, read=2, below=0.999)
    logits = [5.0, 4.0, 3.0, 2.0, 1.0, 0.5, -3.0]
    right = FusedScores(np.array([[logit, 0.0] for logit in logits]), np.array(logits))
    wrong = FusedScores(np.array([[5.0, 0.0], [4.0, 0.0], [-3.0, 0.0]]), np.array([5.0, 4.0, 6.0]))
    seen = figures(rule, [right, wrong], floor=0.4)
    assert seen.read == pytest.approx((2 + 2) / 10)
    assert seen.same_top == 0.5, "of the second question the best was foretold to be the worst"
    assert seen.flipped == 1


def test_scores_are_those_of_the_whole_reranker(fused: LateFusionReranker) -> None:
    [one] = collect([TrainingGroup(QUERY, (CORPUS[0],), tuple(CORPUS[1:4]))], fused)
    texts = [Passage(text, text) for text in CORPUS[:4]]
    assert one.logits.tolist() == pytest.approx([each.order for each in fused.reading_all().score(QUERY, texts)])
    np.testing.assert_allclose(one.features, fused.late_features(QUERY, texts))


def test_the_embedded_reranker_reads_a_quarter() -> None:
    reranker = embedded_reranker()
    assert isinstance(reranker, LateFusionReranker)
    weights = read_weights(reranker.cross_encoder.folder)
    assert weights is not None
    assert weights.foretelling is not None
    many = [Passage(str(number), f"{CORPUS[number % len(CORPUS)]} Paragraph {number}.") for number in range(60)]
    scored = reranker.score("Who won the chess world championship in 1972?", many)
    assert sum(not relevance.foretold for relevance in scored) == weights.foretelling.read, "nothing is near"
