"""Scores that mean what they say: the fit recovers what made the data, and sits in the model's own weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.errors import BadInput
from rag.training.calibrate import (
    Calibration,
    ScoredPassages,
    calibrate,
    expected_error,
    fit,
    fit_order,
    of_questions,
    recalled_passages,
    reliability,
    report_on,
    score_groups,
    sigmoids,
)
from rag.training.groups import TrainingGroup
from rag.training.model_folder import read_learnt_questions, write_learnt_questions
from rag.types import EngineInfo, Passage, Relevance
from tests.contracts.tiny_models import CORPUS, FAMILIES, Family, save_cross_encoder

PAIRS = [(query, text) for query in ("How long is the waiting period?", "ibuprofen?") for text in CORPUS]


def drawn(scale: float, bias: float, n: int = 40_000, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are right with probability sigmoid(scale * logit + bias)."""
    choose = np.random.default_rng(seed)
    logits = choose.normal(-1.0, 3.0, n)
    return logits, (choose.random(n) < sigmoids(scale * logits + bias)).astype(float)


def test_the_fit_recovers_what_made_the_labels() -> None:
    found = fit(*drawn(0.6, -1.2))
    assert found.scale == pytest.approx(0.6, abs=0.03)
    assert found.bias == pytest.approx(-1.2, abs=0.06)


def test_the_fit_is_the_greatest_likelihood() -> None:
    logits, labels = drawn(1.7, 0.4, n=3000)
    found = fit(logits, labels)

    def likelihood(scale: float, bias: float) -> float:
        scores = sigmoids(scale * logits + bias)
        return float(np.sum(labels * np.log(scores) + (1 - labels) * np.log(1 - scores)))

    best = likelihood(found.scale, found.bias)
    for scale_step, bias_step in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1)):
        assert likelihood(found.scale + scale_step, found.bias + bias_step) < best


def test_scores_that_separate_perfectly_still_have_a_fit() -> None:
    logits = np.array([-4.0, -3.0, -2.0, 2.0, 3.0])
    found = fit(logits, np.array([0.0, 0.0, 0.0, 1.0, 1.0]))
    assert 0 < found.scale < 100
    assert math.isfinite(found.bias)


def test_a_model_that_ranks_upside_down_is_refused() -> None:
    logits, labels = drawn(1.0, 0.0, n=500)
    with pytest.raises(BadInput, match="higher than right"):
        fit(-logits, labels)


def test_overconfident_scores_are_nearer_to_the_shares_afterwards() -> None:
    logits, labels = drawn(0.5, -1.0, n=4000)
    questions = tuple(f"question {number // 20}" for number in range(len(logits)))
    report = report_on(ScoredPassages(logits, labels, questions))
    assert report.error_before > 0.1
    assert report.error_after < 0.03
    assert report.best_error_after < report.best_error_before
    assert (report.questions, report.passages, report.right) == (200, 4000, int(labels.sum()))
    assert sum(one.n for one in report.bins_before) == sum(one.n for one in report.bins_after) == 4000


def test_the_error_after_is_of_questions_that_were_not_fitted_on() -> None:
    # One question has all the right passages, at logits that are wrong elsewhere. A fit that has seen it thinks better
    # of such logits than one that has not; the report is of the latter.
    logits = np.array([2.0] * 20 + [-2.0] * 80)
    labels = np.array([1.0] * 20 + [0.0] * 79 + [1.0])
    questions = tuple(["telling"] * 20 + [f"other {number}" for number in range(80)])
    report = report_on(ScoredPassages(logits, labels, questions))
    assert report.error_after > expected_error(report.calibration.apply(logits), labels) + 0.05


def test_bins_hold_each_score_once_and_one_belongs_to_the_last() -> None:
    bins = reliability(np.array([0.0, 0.1, 0.95, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert [one.n for one in bins] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[9].mean_score, bins[9].share_right) == (0.975, 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scale_and_bias_go_into_the_weights_of_every_architecture(tmp_path: Path, family: Family) -> None:
    base = save_cross_encoder(tmp_path / "base", family)
    write_learnt_questions(base, ["0123456789abcdef"])
    calibrate(base, tmp_path / "calibrated", Calibration(0.5, -1.25))
    reranker = CrossEncoderReranker.load(base, device="cpu", precision="float32")
    calibrated = CrossEncoderReranker.load(tmp_path / "calibrated", device="cpu", precision="float32")
    plain = CrossEncoder(str(tmp_path / "calibrated"), local_files_only=True, device="cpu").predict(PAIRS)
    for (query, text), score in zip(PAIRS, plain, strict=True):
        [before] = reranker.score(query, [Passage("p", text)])
        [after] = calibrated.score(query, [Passage("p", text)])
        assert before.logit is not None
        assert after.logit == pytest.approx(0.5 * before.logit - 1.25, abs=1e-3)
        assert float(score) == pytest.approx(after.score, abs=1e-5)
    assert read_learnt_questions(tmp_path / "calibrated") == {"0123456789abcdef"}
    assert reranker.info.revision != calibrated.info.revision


def test_a_model_is_calibrated_in_the_number_format_it_is_stored_in(tmp_path: Path) -> None:
    base = save_cross_encoder(tmp_path / "base", "bert")
    path = base / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    calibrate(base, base, Calibration(2.0, 0.5))  # in place
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}


def test_passages_that_recall_missed_are_not_scored() -> None:
    group = TrainingGroup("q", ("gold", "missed"), ("a", "b"), positive_ranks=(2, None), negative_ranks=(3, 1))
    assert recalled_passages(group) == [("b", False), ("gold", True), ("a", False)]
    assert recalled_passages(TrainingGroup("q", ("gold",), ("a",))) == [("gold", True), ("a", False)]


def test_groups_of_one_kind_only_can_not_be_fitted(embedded_reranker: CrossEncoderReranker) -> None:
    with pytest.raises(BadInput, match="0 right passages among 2"):
        score_groups([TrainingGroup("How long?", (), tuple(CORPUS[:2]))], embedded_reranker)


def test_a_reranker_without_logits_is_refused() -> None:
    class Service:
        info = EngineInfo("reranker", "service")

        def score(self, query, passages, *, progress=None):
            return [Relevance(order=0.5, score=0.5) for _ in passages]

    with pytest.raises(BadInput, match="service gives no logits"):
        score_groups([TrainingGroup("q", ("p",), ("n",))], Service())


def test_real_scores_are_calibrated_with_out_of_corpus_questions(embedded_reranker: CrossEncoderReranker) -> None:
    groups = [
        TrainingGroup("How long is the waiting period for critical illness?", (CORPUS[0],), tuple(CORPUS[1:])),
        TrainingGroup("What is the waiting period for dental treatment?", (CORPUS[1],), (CORPUS[0], *CORPUS[2:])),
        TrainingGroup("How many days do I have to return an item?", (CORPUS[4],), tuple(CORPUS[:4])),
        TrainingGroup("Who won the football world cup in 1954?", (), tuple(CORPUS)),
        TrainingGroup("How tall is the tower?", (), tuple(CORPUS)),
    ]
    scored = score_groups(groups, embedded_reranker)
    assert (len(scored.labels), int(scored.labels.sum())) == (sum(len(group.passages) for group in groups), 3)
    assert report_on(scored).calibration.scale > 0


def test_the_weights_are_those_that_tell_right_from_wrong() -> None:
    random = np.random.default_rng(37)
    n_questions, n_passages = 200, 10
    features = random.normal(size=(n_questions * n_passages, 3))
    true = np.array([1.0, 2.0, 0.0])
    labels, questions = [], []
    for number in range(n_questions):
        values = features[number * n_passages : (number + 1) * n_passages] @ true
        shares = np.exp(values) / np.exp(values).sum()
        right = random.choice(n_passages, p=shares)
        labels += [float(place == right) for place in range(n_passages)]
        questions += [str(number)] * n_passages
    # What a question adds to all of its passages changes nothing.
    shifted = features + np.repeat(random.normal(scale=5, size=n_questions), n_passages)[:, None]
    for rows in (features, shifted):
        scored = ScoredPassages(rows[:, 0].copy(), np.array(labels), tuple(questions))
        found = fit_order(scored, rows[:, 1:])
        assert found[0] == pytest.approx(1.0, abs=0.3)
        assert found[1] == pytest.approx(2.0, abs=0.4)
        assert 0 <= found[2] < 0.25
    unlabelled = ScoredPassages(features[:10, 0].copy(), np.zeros(10), ("one",) * 10)
    with pytest.raises(BadInput, match="both right and wrong"):
        fit_order(unlabelled, features[:10, 1:])


def test_a_question_is_its_best_passage_and_whether_the_best_five_answer_it() -> None:
    logits = np.array([3.0, 2.5, 2.0, 1.0, 0.5, 0.0, 1.5, 9.0])
    labels = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    found = of_questions(ScoredPassages(logits, labels, ("a",) * 6 + ("b",) * 2))
    assert found.questions == ("a", "b")
    assert found.logits.tolist() == [3.0, 9.0]
    assert found.labels.tolist() == [1.0, 0.0]
    # At four passages the right one, the fifth, is too late.
    assert of_questions(ScoredPassages(logits, labels, found.questions[:1] * 8), answer_limit=4).labels.tolist() == [
        0.0
    ]
