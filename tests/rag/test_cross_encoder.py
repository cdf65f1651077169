"""What is particular to cross-encoders: the stories, the sigmoid, long passages, which checkpoints are accepted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rag.engines import cross_encoder
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker, sigmoid
from rag.errors import BadInput, EngineFault, ModelUnavailable
from rag.types import Passage
from tests.contracts.tiny_models import (
    CORPUS,
    FAMILIES,
    POSITIONS,
    Family,
    change_config,
    save_cross_encoder,
    save_embedder,
    save_language_model_reranker,
)

CHILDREN = (
    "Ibuprofen for children\nDosage\nThe usual dosage of ibuprofen for children is 5 to 10 mg per kilogram of body "
    "weight every 6 to 8 hours. Do not give more than 40 mg per kilogram in a day."
)
ADULTS = (
    "Ibuprofen for adults\nDosage\nAdults take 200 to 400 mg of ibuprofen every 4 to 6 hours as needed. Do not take "
    "more than 1,200 mg in a day unless a doctor says so."
)
MECHANISM = (
    "Ibuprofen: how it works\nMechanism\nIbuprofen blocks the enzymes COX-1 and COX-2, so that the body makes less "
    "prostaglandin, which causes pain, fever and inflammation."
)
ACETAMINOPHEN = (
    "Acetaminophen for children\nDosage\nGive acetaminophen at 10 to 15 mg per kilogram of body weight every 4 to 6 "
    "hours, at most five doses in 24 hours."
)
CRITICAL = (
    "Health contract\nWaiting periods\nFor the critical illnesses listed in annex B a waiting period of 180 days "
    "applies from the start of the contract."
)
DENTAL = (
    "Health contract\nWaiting periods\nFor dental treatment and dentures a waiting period of eight months applies from "
    "the start of the contract."
)
GENERAL = (
    "Health contract\nDefinitions\nThe waiting period is the time after the start of the contract in which no benefits "
    "are paid. It does not apply after an accident."
)
PREMIUM = "Health contract\nPremium\nThe premium is due on the first day of each month and is paid by direct debit."


def passages(*texts: str) -> list[Passage]:
    return [Passage(str(number), text) for number, text in enumerate(texts)]


def best_first(reranker: CrossEncoderReranker, query: str, texts: list[str]) -> list[str]:
    relevances = reranker.score(query, passages(*texts))
    return [texts[number] for number in sorted(range(len(texts)), key=lambda number: -relevances[number].order)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoderReranker:
    folder = save_cross_encoder(tmp_path_factory.mktemp("model") / "tiny", "bert")
    return CrossEncoderReranker.load(folder, device="cpu", precision="float32")


class TestStories:
    def test_the_childrens_dosage_rises_from_the_end_of_a_reversed_list(
        self, embedded_reranker: CrossEncoderReranker
    ) -> None:
        texts = [PREMIUM, MECHANISM, ACETAMINOPHEN, ADULTS, CHILDREN]
        ranked = best_first(embedded_reranker, "ibuprofen dosage for children", texts)
        assert ranked[:2] == [CHILDREN, ADULTS]
        assert ranked[-1] == PREMIUM
        assert set(ranked) == set(texts)

    def test_the_waiting_period_for_critical_illness_stands_above_the_other_waiting_periods(
        self, embedded_reranker: CrossEncoderReranker
    ) -> None:
        ranked = best_first(
            embedded_reranker, "waiting period for critical illness", [PREMIUM, GENERAL, DENTAL, CRITICAL]
        )
        assert ranked[0] == CRITICAL
        assert ranked.index(DENTAL) < ranked.index(PREMIUM)

    def test_the_default_floor_lies_between_the_answer_and_the_unrelated(
        self, embedded_reranker: CrossEncoderReranker
    ) -> None:
        answer, unrelated = embedded_reranker.score("ibuprofen dosage for children", passages(CHILDREN, PREMIUM))
        assert answer.score is not None
        assert unrelated.score is not None
        assert unrelated.score < 0.4 <= answer.score


class TestScores:
    @pytest.mark.parametrize(
        "activation", ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh", None]
    )
    def test_the_sigmoid_is_taken_whatever_activation_the_checkpoint_names(
        self, tmp_path: Path, activation: str | None
    ) -> None:
        folder = save_cross_encoder(tmp_path / "tiny", "bert")
        plain = CrossEncoderReranker.load(folder, device="cpu", precision="float32").score("refund?", passages(*CORPUS))
        change_config(folder, lambda config: config.update(sentence_transformers={"activation_fn": activation}))
        named = CrossEncoderReranker.load(folder, device="cpu", precision="float32").score("refund?", passages(*CORPUS))
        assert named == plain
        assert all(relevance.score == sigmoid(relevance.order) for relevance in named)

    def test_logits_that_tie_as_half_precision_scores_still_have_an_order(self) -> None:
        near, nearer = 9.0, 9.5
        assert torch.sigmoid(torch.tensor(near)).bfloat16() == torch.sigmoid(torch.tensor(nearer)).bfloat16() == 1
        assert sigmoid(near) < sigmoid(nearer) < 1

    def test_two_labels_score_as_their_softmax_does(self, tmp_path: Path) -> None:
        from sentence_transformers import CrossEncoder

        folder = save_cross_encoder(tmp_path / "tiny", "bert", labels=2)
        pairs = [("refund?", text) for text in CORPUS]
        softmax = CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(pairs, apply_softmax=True)
        scores = [
            r.score
            for r in CrossEncoderReranker.load(folder, device="cpu", precision="float32").score(
                "refund?", passages(*CORPUS)
            )
        ]
        assert scores == pytest.approx(softmax[:, 1].tolist(), abs=1e-5)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_scores_are_those_of_the_library(self, tmp_path: Path, family: Family) -> None:
        from sentence_transformers import CrossEncoder

        folder = save_cross_encoder(tmp_path / "tiny", family)
        expected = CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(
            [("refund?", text) for text in CORPUS]
        )
        scores = [
            r.score
            for r in CrossEncoderReranker.load(folder, device="cpu", precision="float32").score(
                "refund?", passages(*CORPUS)
            )
        ]
        assert scores == pytest.approx(expected.tolist(), abs=1e-5)

    def test_bfloat16_scores_of_the_embedded_reranker_stay_close_to_float32(self) -> None:
        texts = passages(CHILDREN, ADULTS, MECHANISM, ACETAMINOPHEN, PREMIUM)
        low = CrossEncoderReranker.embedded(precision="bfloat16", device="cpu")
        high = CrossEncoderReranker.embedded(precision="float32", device="cpu")
        assert low.info.precision == "bfloat16"
        query = "ibuprofen for children"
        for one, other in zip(low.score(query, texts), high.score(query, texts), strict=True):
            assert one.score == pytest.approx(other.score, abs=0.03)

    def test_a_logit_that_is_not_a_number_is_an_error(self, tmp_path: Path) -> None:
        folder = save_cross_encoder(tmp_path / "tiny", "bert")
        weights = load_file(folder / "model.safetensors")
        weights["classifier.bias"] = torch.full_like(weights["classifier.bias"], torch.nan)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EngineFault, match="not a number in float32"):
            CrossEncoderReranker.load(folder, device="cpu", precision="float32").score("refund?", passages(*CORPUS))


class TestLongPassages:
    def test_an_answer_at_the_end_of_a_very_long_passage_counts(self, embedded_reranker: CrossEncoderReranker) -> None:
        filler = " ".join([PREMIUM, GENERAL] * 12)
        with_answer, without = embedded_reranker.score(
            "ibuprofen dosage for children", passages(filler + " " + CHILDREN, filler)
        )
        assert with_answer.score is not None
        assert without.score is not None
        assert with_answer.score > 0.4
        assert with_answer.order > without.order + 2

    @pytest.mark.parametrize("family", FAMILIES)
    def test_windows_fit_overlap_and_together_hold_every_word(
        self, tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reranker = CrossEncoderReranker.load(
            save_cross_encoder(tmp_path / "tiny", family), device="cpu", precision="float32"
        )
        read: list[str] = []
        rows = reranker._batches.rows
        monkeypatch.setattr(
            reranker._batches,
            "rows",
            lambda pairs: (read.extend(pair.text for pair in pairs), rows(pairs))[1],
        )
        words = [
            f"{word}{number}" for number, word in enumerate(("refund illness waiting 等待期为 délai " * 20).split())
        ]
        [relevance] = reranker.score("refund?", passages(" ".join(words)))
        assert len(read) > 1
        assert all(any(word in window.split() for window in read) for word in words)
        # One by one they fit, and the passage's logit is their highest.
        alone = [reranker.score("refund?", passages(window))[0].order for window in list(read)]
        assert len(alone) == len(read) / 2, "a window was cut up again: it did not fit"
        assert relevance.order == pytest.approx(max(alone), abs=1e-4)

    def test_max_tokens_narrows_what_is_read_at_once(self, tmp_path: Path) -> None:
        folder = save_cross_encoder(tmp_path / "tiny", "xlm-roberta")
        assert CrossEncoderReranker.load(folder, device="cpu", precision="float32").max_tokens == POSITIONS
        narrow = CrossEncoderReranker.load(folder, device="cpu", max_tokens=40)
        assert narrow.max_tokens == 40
        [relevance] = narrow.score("refund?", passages(" ".join(CORPUS)))
        assert relevance.score is not None
        with pytest.raises(BadInput, match=f"max_tokens = 5000: tiny reads 1 to {POSITIONS} tokens"):
            CrossEncoderReranker.load(folder, device="cpu", max_tokens=5000)


class TestLoading:
    def test_a_bi_encoder_is_refused_because_its_scores_would_be_random(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="no cross-encoder"):
            CrossEncoderReranker.load(save_embedder(tmp_path / "tiny", "bert"), device="cpu", precision="float32")

    def test_a_language_model_is_refused_unless_it_was_made_to_score(self, tmp_path: Path) -> None:
        folder = save_language_model_reranker(tmp_path / "tiny")
        assert CrossEncoderReranker.load(folder, device="cpu", precision="float32").max_tokens == POSITIONS
        with pytest.raises(BadInput, match="Qwen2ForCausalLM has no scoring head"):
            CrossEncoderReranker.load(tmp_path / "tiny-language-model", device="cpu", precision="float32")

    def test_the_prompt_that_a_model_names_is_given_to_it(self, tmp_path: Path) -> None:
        from sentence_transformers import CrossEncoder

        folder = save_language_model_reranker(tmp_path / "tiny", prompt="Judge the passage. ")
        library = CrossEncoder(str(folder), device="cpu", local_files_only=True)
        expected = library.predict([("refund?", text[:40]) for text in CORPUS])
        texts = passages(*(text[:40] for text in CORPUS))
        scores = [
            r.score
            for r in CrossEncoderReranker.load(folder, device="cpu", precision="float32").score("refund?", texts)
        ]
        assert scores == pytest.approx(expected.tolist(), abs=1e-5)

    def test_three_labels_are_refused(self, tmp_path: Path) -> None:
        folder = save_cross_encoder(tmp_path / "tiny", "bert", labels=3)
        with pytest.raises(BadInput, match="has 3 labels"):
            CrossEncoderReranker.load(folder, device="cpu", precision="float32")

    def test_damaged_weights_are_said_to_be_so(self, tmp_path: Path) -> None:
        folder = save_cross_encoder(tmp_path / "tiny", "bert")
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelUnavailable, match=r"can't be loaded .*fetch it again"):
            CrossEncoderReranker.load(folder, device="cpu", precision="float32")

    def test_an_installation_without_the_embedded_reranker_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cross_encoder, "EMBEDDED_RERANKER_FOLDER", tmp_path / "gone")
        with pytest.raises(ModelUnavailable, match="reinstall"):
            CrossEncoderReranker.embedded()

    def test_the_embedded_reranker_loads_by_folder_too(
        self, embedded_reranker: CrossEncoderReranker, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(EMBEDDED_RERANKER_FOLDER, tmp_path / "copy")
        by_folder = CrossEncoderReranker.load(folder)
        assert by_folder.score("ibuprofen", passages(ADULTS)) == embedded_reranker.score("ibuprofen", passages(ADULTS))
        assert by_folder.info.revision == embedded_reranker.info.revision
        assert by_folder.info.name == "copy"

    def test_standing_in_changes_only_what_is_said(self, tiny: CrossEncoderReranker) -> None:
        stand_in = tiny.standing_in("BAAI/bge-reranker-v2-m3", why="it is not here")
        assert (stand_in.info.stands_in_for, stand_in.info.why) == ("BAAI/bge-reranker-v2-m3", "it is not here")
        assert (stand_in.info.name, stand_in.info.revision) == (tiny.info.name, tiny.info.revision)
        assert tiny.info.stands_in_for == ""
        assert stand_in.score("refund?", passages(*CORPUS)) == tiny.score("refund?", passages(*CORPUS))

    @pytest.mark.parametrize(("quick", "precision"), [(True, "bfloat16"), (False, "float32")])
    def test_weights_on_disk_are_float16_and_a_cpu_computes_in_what_it_is_quick_in(
        self, monkeypatch: pytest.MonkeyPatch, quick: bool, precision: str
    ) -> None:
        monkeypatch.setattr(cross_encoder, "bf16_is_quick", lambda: quick)
        config = json.loads((EMBEDDED_RERANKER_FOLDER / "config.json").read_text())
        assert config["dtype"] == "float16"
        assert CrossEncoderReranker.embedded(device="cpu").info.precision == precision

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_half_precision_on_a_gpu_gives_the_scores_of_a_cpu(self, embedded_reranker: CrossEncoderReranker) -> None:
        on_gpu = CrossEncoderReranker.embedded(device="cuda")
        assert on_gpu.on_gpu
        assert on_gpu.info.precision == "float16"
        texts = passages(CHILDREN, ADULTS, MECHANISM, ACETAMINOPHEN, PREMIUM)
        on_cpu = CrossEncoderReranker.embedded(device="cpu", precision="float32")
        for one, other in zip(on_gpu.score("ibuprofen", texts), on_cpu.score("ibuprofen", texts), strict=True):
            assert one.score == pytest.approx(other.score, abs=0.01)


def test_the_estimate_before_any_scoring_is_of_the_right_size(tmp_path: Path) -> None:
    import time

    fresh = CrossEncoderReranker.embedded()
    guessed = fresh.estimate_seconds(16)
    assert guessed is not None
    # About 200 tokens a pair, as the guess assumes.
    texts = passages(*(f"{number} " + " ".join([CHILDREN, ADULTS, MECHANISM, CRITICAL]) for number in range(16)))
    started = time.perf_counter()
    fresh.score("ibuprofen dosage for children", texts)
    took = time.perf_counter() - started
    # The guess is the speed of an idle machine; this one may be busy.
    assert guessed / 10 < took < guessed * 40
    measured = fresh.estimate_seconds(16)
    assert measured is not None
    assert measured / 3 < took < measured * 3
