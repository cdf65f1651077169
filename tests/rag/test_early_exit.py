"""Leaving a cross-encoder early: what leaves, what it is then said to have, and that the others keep their scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rag.engines.colbert import TokenEncoder
from rag.engines.cross_encoder import CrossEncoderReranker, sigmoid
from rag.engines.early_exit import EXIT_FILE, EarlyExit, features_of, read_exit
from rag.engines.late_fusion import FusionWeights, LateFusionReranker, LateInteraction, load_reranker
from rag.engines.packed_encoder import Halfway, PackedEncoder, Tokens
from rag.engines.score_cache import CachedReranker, ScoreCache
from rag.errors import BadInput, ModelUnavailable
from rag.training.early_exit import LEAST_QUESTIONS, Pairs, collect, figures, fit, write_with_exit
from rag.training.groups import TrainingGroup
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, save_cross_encoder

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("model") / "tiny", "bert")


@pytest.fixture(scope="module")
def model(folder: Path) -> CrossEncoderReranker:
    return CrossEncoderReranker.load(folder, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def encoder() -> TokenEncoder:
    return TokenEncoder.embedded()


def exit_of(model: CrossEncoderReranker, *, finished: int, below: float = 100.0) -> EarlyExit:
    """After one layer, with weights that mean nothing and estimates that differ."""
    width = model.early_features(QUERY, PASSAGES[:1], 1).shape[1]
    generator = torch.Generator().manual_seed(1)
    inner, outer = torch.randn(4, width, generator=generator), torch.randn(1, 4, generator=generator)
    return EarlyExit(1, finished, below, inner, torch.zeros(4), outer, torch.zeros(1))


def test_going_on_from_halfway_ends_where_going_through_does(model: CrossEncoderReranker) -> None:
    encoder = PackedEncoder.of(model._model.transformers_model.base_model)
    assert encoder is not None
    sequences = [Tokens(list(range(5, 5 + length)), [0] * length) for length in (3, 16, 17, 30, 30, 9)]
    through = {
        number: row
        for numbers, rows in encoder.first_vectors(sequences)
        for number, row in zip(numbers, rows, strict=True)
    }
    halfway: dict[int, Halfway] = {}
    for some in encoder.halfway(sequences, 1):
        halfway |= some
    assert [halfway[number].n_tokens for number in range(6)] == [3, 16, 17, 30, 30, 9]
    features = features_of([halfway[number] for number in range(6)])
    mean = halfway[2].rows[:17].mean(dim=0)
    torch.testing.assert_close(features[2], torch.cat([halfway[2].rows[0], mean]))
    chosen = {number: halfway[number] for number in (5, 0, 3)}
    after = {
        number: row
        for numbers, rows in encoder.first_vectors_from(chosen)
        for number, row in zip(numbers, rows, strict=True)
    }
    assert after.keys() == chosen.keys()
    for number, row in after.items():
        torch.testing.assert_close(row, through[number], atol=1e-5, rtol=1e-4)


def test_the_worst_leave_and_nothing_that_may_be_relevant() -> None:
    nothing = torch.zeros(1, 1)
    rule = EarlyExit(1, 2, -1.0, nothing, nothing[0], nothing, nothing[0])
    assert rule.leaving(np.array([-3.0, 0.0, -2.0, -5.0])).tolist() == [True, False, False, True]
    assert rule.leaving(np.array([3.0, 0.0, 2.0, -0.5])).tolist() == [False] * 4, "none is below"
    assert rule.leaving(np.array([-3.0, -3.0, -3.0])).tolist() == [False, False, True], "of equals the first stay"


def test_who_leaves_has_the_estimate_and_who_stays_the_logit(model: CrossEncoderReranker) -> None:
    early_exit = exit_of(model, finished=3)
    whole = model.score(QUERY, PASSAGES)
    estimates = early_exit.estimates(model.early_features(QUERY, PASSAGES, 1))
    stay = set(np.argsort(-estimates)[:3].tolist())
    seen: list[int] = []
    scored = model.score(QUERY, PASSAGES, early_exit=early_exit, progress=lambda done, total: seen.append(done))
    for number, relevance in enumerate(scored):
        assert relevance.early == (number not in stay)
        expected = estimates[number] if relevance.early else whole[number].order
        assert relevance.order == pytest.approx(expected, abs=1e-4)
        assert relevance.score == pytest.approx(sigmoid(float(expected)), abs=1e-4)
    assert seen == sorted(seen)
    assert seen[-1] == len(PASSAGES)
    assert not any(relevance.early for relevance in model.score(QUERY, PASSAGES[:3], early_exit=early_exit))


def test_a_passage_in_windows_has_the_best_that_was_read_to_the_end(model: CrossEncoderReranker) -> None:
    long = Passage("long", " ".join(CORPUS * 20))
    early_exit = exit_of(model, finished=2)
    [whole] = model.score(QUERY, [long])
    [relevance] = model.score(QUERY, [long], early_exit=early_exit)
    assert not relevance.early, "two of its windows were read to the end"
    assert relevance.order <= whole.order + 1e-4


def test_what_left_is_not_compared_by_late_interaction(
    model: CrossEncoderReranker, encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = FusionWeights(encoder.identity.name, encoder.identity.revision, 0.5, 20.0, 3.0, -12.0)
    fused = LateFusionReranker(model, LateInteraction(encoder), weights, exit_of(model, finished=3))
    whole = fused.without_exit().score(QUERY, PASSAGES)
    fresh = LateFusionReranker(model, LateInteraction(encoder), weights, exit_of(model, finished=3))
    compared: list[str] = []
    really = encoder.encode_passages
    monkeypatch.setattr(encoder, "encode_passages", lambda texts: compared.extend(texts) or really(texts))
    scored = fresh.score(QUERY, PASSAGES)
    assert sum(relevance.early for relevance in scored) == len(PASSAGES) - 3
    for passage, relevance, full in zip(PASSAGES, scored, whole, strict=True):
        assert (passage.text in compared) == (not relevance.early)
        if not relevance.early:
            assert relevance.order == pytest.approx(full.order, abs=1e-3)
    assert fused.info.revision == fused.without_exit().info.revision + "+early-exit"


def test_an_estimate_is_remembered_as_one(model: CrossEncoderReranker, encoder: TokenEncoder, tmp_path: Path) -> None:
    weights = FusionWeights(encoder.identity.name, encoder.identity.revision, 0.5, 20.0, 3.0, -12.0)
    fused = LateFusionReranker(model, LateInteraction(encoder), weights, exit_of(model, finished=3))
    cached = CachedReranker(fused, ScoreCache(tmp_path / "scores.sqlite", limit_mb=1))
    first, again = cached.score(QUERY, PASSAGES), cached.score(QUERY, PASSAGES)
    assert [one.early for one in again] == [one.early for one in first]
    assert sum(one.early for one in again) == len(PASSAGES) - 3
    assert all(one.cached for one in again)


def test_a_folder_holds_its_exit(
    folder: Path, model: CrossEncoderReranker, encoder: TokenEncoder, tmp_path: Path
) -> None:
    assert read_exit(folder) is None
    early_exit = exit_of(model, finished=3, below=-1.5)
    FusionWeights(encoder.identity.name, encoder.identity.revision, 0.5, 20.0, 3.0, -12.0).write(folder)
    write_with_exit(folder, tmp_path / "quick", early_exit)
    read = read_exit(tmp_path / "quick")
    assert read is not None
    assert (read.n_layers, read.finished, read.below) == (1, 3, -1.5)
    torch.testing.assert_close(read.inner, early_exit.inner)
    loaded = load_reranker(tmp_path / "quick")
    assert loaded.info.revision.endswith("+early-exit")
    assert any(relevance.early for relevance in loaded.score(QUERY, PASSAGES))
    with pytest.raises(BadInput, match="is the model itself"):
        write_with_exit(folder, folder, early_exit)
    (tmp_path / "quick" / EXIT_FILE).write_bytes(b"no tensors")
    with pytest.raises(ModelUnavailable, match="fit the exit again"):
        read_exit(tmp_path / "quick")


def test_an_exit_learns_what_the_model_says() -> None:
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for _ in range(80):
        features = torch.randn(40, 6, generator=generator)
        pairs.append(Pairs(features, (2 * features[:, 0] - features[:, 1] - 3).double().numpy()))
    found, seen = fit(pairs, 1, finished=10, below=0.2, floor=0.4)
    assert found.below == pytest.approx(-1.386, abs=0.001), "the logit of 0.2 is -ln 4"
    assert (seen.questions, seen.passages) == (20, 800), "a quarter of the questions is held out"
    assert seen.error < 0.7, "the logits have a spread of 2.2"
    assert 0.5 < seen.left <= 0.75, "at most 30 of 40 can leave"
    assert seen.same_top >= 0.9
    assert seen.flipped <= 2
    with pytest.raises(BadInput, match=str(LEAST_QUESTIONS)):
        fit(pairs[: LEAST_QUESTIONS - 1], 1, finished=10, below=0.2, floor=0.4)


def test_figures_count_what_changes() -> None:
    # The estimate is the feature itself: gelu(x + 10) - 10 is x within a millionth for these.
    one = torch.ones(1, 1)
    rule = EarlyExit(1, 2, 50.0, one, 10 * one[0], one, -10 * one[0])
    right = Pairs(
        torch.tensor([[5.0], [4.0], [3.0], [2.0], [1.0], [0.5], [-3.0]]), np.array([5, 4, 3, 2, 1, 0.5, -3.0])
    )
    wrong = Pairs(torch.tensor([[5.0], [4.0], [-3.0]]), np.array([5.0, 4.0, 6.0]))
    seen = figures(rule, [right, wrong], floor=0.4)
    assert seen.left == pytest.approx((5 + 1) / 10)
    assert seen.same_top == 0.5, "of the second question the best came last"
    assert seen.flipped == 1
    assert seen.error == pytest.approx(9 / 10, abs=1e-4)


def test_pairs_are_those_of_the_whole_model(model: CrossEncoderReranker, encoder: TokenEncoder) -> None:
    weights = FusionWeights(encoder.identity.name, encoder.identity.revision, 0.5, 20.0, 3.0, -12.0)
    fused = LateFusionReranker(model, LateInteraction(encoder), weights)
    [pair] = collect([TrainingGroup(QUERY, (CORPUS[0],), tuple(CORPUS[1:4]))], fused, 1)
    assert pair.logits.tolist() == [relevance.order for relevance in fused.score(QUERY, PASSAGES[:4])]
    torch.testing.assert_close(pair.features, model.early_features(QUERY, PASSAGES[:4], 1))
