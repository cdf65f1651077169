"""Fine-tuning tiny models of every architecture for real: seeded, resumed after a kill, stopped early, loadable."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.late_fusion import Foretelling, FusionWeights, read_weights
from rag.engines.local_models import bf16_is_quick
from rag.errors import BadInput, ModelUnavailable
from rag.training.groups import TrainingGroup, question_digest, split_by_question, write_groups
from rag.training.loss import TEACHER_TEMPERATURE, GradedGroupLoss
from rag.training.model_folder import open_cross_encoder, read_learnt_questions
from rag.training.plan import TrainingPlan, TrainingStep
from rag.training.train import (
    CHOICE_NAME,
    LEVEL_NAME,
    NDCG_NAME,
    SPREAD_NAME,
    HeldOutEvaluator,
    in_proportion,
    train,
)
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, FAMILIES, Family, save_cross_encoder, save_embedder
from tests.rag.training.training_data import tiny_groups

QUERY = "How long is the waiting period?"
PLAN = TrainingPlan(epochs=2, groups_per_step=4, learning_rate=1e-3, held_out=2)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("base") / "tiny-bert", "bert")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def changed(base: Path, out: Path) -> set[str]:
    before, after = load_file(base / "model.safetensors"), weights(out)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name].float(), after[name])}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"freeze_layers": 1}, {"lora_rank": 2}], ids=["whole", "frozen", "lora"])
def test_every_architecture_learns_and_loads_anywhere(tmp_path: Path, family: Family, more: dict[str, int]) -> None:
    base = save_cross_encoder(tmp_path / "base", family)
    steps: list[TrainingStep] = []
    report = train(tiny_groups(), base, tmp_path / "out", replace(PLAN, **more), show=steps.append)
    touched = changed(base, tmp_path / "out")
    assert touched
    assert not any("embeddings" in name or "embed_tokens" in name for name in touched)
    if "freeze_layers" in more:
        lowest = {name for name in load_file(base / "model.safetensors") if "layer.0." in name or "layers.0." in name}
        assert lowest
        assert not lowest & touched
    # 12 groups less 2 held-out questions: 10 in steps of 4, two epochs.
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].seconds_left == 0
    assert all(step.seconds_left > 0 for step in steps[:-1])
    # The saved file is the model that was measured, in the product and in plain sentence-transformers.
    folder = tmp_path / "out" / "model"
    held_out = HeldOutEvaluator(held_out_of(report))(open_cross_encoder(folder))
    assert held_out[CHOICE_NAME] == pytest.approx(report["after"][CHOICE_NAME], abs=1e-5)
    pairs = [(QUERY, text) for text in CORPUS[:3]]
    plain = CrossEncoder(str(folder), local_files_only=True, device="cpu").predict(pairs)
    product = CrossEncoderReranker.load(folder, device="cpu", precision="float32").score(
        QUERY, [Passage(text, text) for _, text in pairs]
    )
    assert [one.score for one in product] == pytest.approx([float(score) for score in plain], abs=1e-5)
    assert not any("lora" in name for name in weights(tmp_path / "out"))
    assert CrossEncoderReranker.load(folder, device="cpu").max_tokens == CrossEncoderReranker.load(base).max_tokens


def held_out_of(report: dict[str, object]) -> list[TrainingGroup]:
    """The groups that `train` held out."""
    plan = report["plan"]
    assert isinstance(plan, dict)
    held_out = split_by_question(tiny_groups(), plan["held_out"], plan["seed"])[1]
    assert len(held_out) == report["held_out"]
    return held_out


def test_it_learns_what_it_is_taught(tmp_path: Path, tiny_bert: Path) -> None:
    plan = replace(PLAN, epochs=25, learning_rate=2e-3, held_out=1, patience=100, bf16=False)
    train(tiny_groups(4), tiny_bert, tmp_path / "out", plan)

    def right_first(folder: Path) -> int:
        reranker = CrossEncoderReranker.load(folder, device="cpu", precision="float32")
        orders = [
            [one.order for one in reranker.score(group.query, [Passage(text, text) for text in group.passages])]
            for group in tiny_groups(1)
        ]
        return sum(order[0] == max(order) for order in orders)

    assert right_first(tiny_bert) < 4 <= right_first(tmp_path / "out" / "model")


def test_an_encoder_without_a_head_gets_one_that_the_seed_decides(tmp_path: Path) -> None:
    base = save_embedder(tmp_path / "encoder", "bert")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny_groups(), base, tmp_path / name, replace(PLAN, epochs=1, seed=seed))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, tiny_bert: Path) -> None:
    plan = replace(PLAN, epochs=4, evaluate_every=2, patience=100, held_out=1)
    write_groups(tiny_groups(), tmp_path / "groups.jsonl")
    program = (
        "import time, torch; from pathlib import Path; from rag.training.train import train;"
        "from rag.training.plan import TrainingPlan; from rag.training.groups import read_groups;"
        f"torch.set_num_threads(1); folder = Path({str(tmp_path)!r});"
        f"train(read_groups(folder / 'groups.jsonl'), Path({str(tiny_bert)!r}), folder / 'killed',"
        f" TrainingPlan(**{asdict(plan)!r}), show=lambda now: now.step == 7 and time.sleep(600))"
    )
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 240
    while not (checkpoints / "checkpoint-6" / "trainer_state.json").exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(0.5)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    moved = tmp_path / "moved"  # a checkpoint is taken up wherever its folder lies
    (tmp_path / "killed").rename(moved)

    with pytest.raises(BadInput, match="--resume"):
        train(tiny_groups(), tiny_bert, moved, plan)
    with pytest.raises(BadInput, match="another plan"):
        train(tiny_groups(), tiny_bert, moved, replace(plan, learning_rate=1e-4), resume=True)
    steps: list[TrainingStep] = []
    resumed = train(tiny_groups(), tiny_bert, moved, plan, resume=True, show=steps.append)
    assert steps[0].step == 7

    whole = train(tiny_groups(), tiny_bert, tmp_path / "whole", plan)
    assert same(weights(moved), weights(tmp_path / "whole"))
    assert resumed["after"] == whole["after"]


def test_resume_without_a_checkpoint_begins(tmp_path: Path, tiny_bert: Path) -> None:
    assert train(tiny_groups(), tiny_bert, tmp_path / "out", replace(PLAN, epochs=1), resume=True)["steps"] == 3


def test_it_stops_when_held_out_questions_no_longer_improve(tmp_path: Path, tiny_bert: Path) -> None:
    plan = replace(PLAN, epochs=10, learning_rate=0.0, evaluate_every=1, patience=2)
    # Nothing is learnt: the first look is the best, the second and third are in vain.
    assert train(tiny_groups(), tiny_bert, tmp_path / "out", plan)["steps"] == 3


def test_the_best_checkpoint_is_kept_not_the_last(tmp_path: Path, tiny_bert: Path) -> None:
    plan = replace(PLAN, epochs=6, learning_rate=2e-2, evaluate_every=1, patience=100, bf16=False)
    report = train(tiny_groups(), tiny_bert, tmp_path / "out", plan)
    [last] = [path for path in (tmp_path / "out" / "checkpoints").glob("checkpoint-18")]
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    choices = [entry[f"eval_{CHOICE_NAME}"] for entry in log if f"eval_{CHOICE_NAME}" in entry]
    assert len(choices) == 18
    assert report["after"][CHOICE_NAME] == pytest.approx(max(choices), abs=1e-6)


def test_questions_it_has_learnt_from_lie_beside_it(tmp_path: Path, tiny_bert: Path) -> None:
    train(tiny_groups(), tiny_bert, tmp_path / "first", replace(PLAN, epochs=1))
    second = [replace(group, query=f"{group.query} again") for group in tiny_groups(1)]
    train(second, tmp_path / "first" / "model", tmp_path / "second", replace(PLAN, epochs=1))
    known = read_learnt_questions(tmp_path / "second" / "model")
    assert known == {question_digest(group.query) for group in tiny_groups() + second}


def test_bf16_is_decided_by_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for capabilities, expected in (({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert bf16_is_quick() is expected


@pytest.mark.parametrize("bf16", [True, False])
def test_both_number_formats_train_on_a_cpu(tmp_path: Path, tiny_bert: Path, bf16: bool) -> None:
    train(tiny_groups(), tiny_bert, tmp_path / "out", replace(PLAN, epochs=1, bf16=bf16))
    assert {value.dtype for value in weights(tmp_path / "out").values()} == {torch.float32}


def test_groups_that_only_order_and_groups_without_a_right_passage_are_learnt_from(
    tmp_path: Path, tiny_bert: Path
) -> None:
    ordered = [
        TrainingGroup(
            f"{group.query} o", group.positives, group.negatives, (1.0,), (0.9, 0.8, 0.0, 0.0, 0.0), order_only=True
        )
        for group in tiny_groups(1)
    ]
    refused = [TrainingGroup(f"unknown {number}", (), tuple(CORPUS)) for number in range(4)]
    report = train(tiny_groups() + ordered + refused, tiny_bert, tmp_path / "out", PLAN)
    assert changed(tiny_bert, tmp_path / "out")
    assert 0 <= report["after"][NDCG_NAME] <= 1


def test_too_few_groups_are_refused(tmp_path: Path, tiny_bert: Path) -> None:
    for groups in ([], tiny_groups(1)[:1], [TrainingGroup("a", (), ("n",)), TrainingGroup("b", (), ("n",))]):
        with pytest.raises(BadInput, match="at least 2"):
            train(groups, tiny_bert, tmp_path / "out", PLAN)
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelUnavailable, match="empty"):
        train(tiny_groups(), tmp_path / "empty", tmp_path / "out", PLAN)


def test_a_base_with_two_labels_is_refused(tmp_path: Path) -> None:
    base = save_cross_encoder(tmp_path / "two-labels", "bert", labels=2)
    with pytest.raises(ModelUnavailable, match="two-labels can't be opened as a cross-encoder with one label"):
        train(tiny_groups(), base, tmp_path / "out", PLAN)


def test_more_frozen_layers_than_there_are_are_refused(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(BadInput, match="has 2 layers"):
        train(tiny_groups(), tiny_bert, tmp_path / "out", replace(PLAN, freeze_layers=3))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
    ids=["gpu", "cpu"],
)
def test_too_little_memory_names_what_to_make_smaller(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(GradedGroupLoss, "forward", fails)
    with pytest.raises(BadInput, match="--groups-per-step 2"):
        train(tiny_groups(), tiny_bert, tmp_path / "out", PLAN)


def test_the_loss_is_what_its_parts_say(tiny_bert: Path) -> None:
    model = open_cross_encoder(tiny_bert).eval()
    texts = [[CORPUS[0], CORPUS[1]], [CORPUS[2], CORPUS[3], CORPUS[4]]]
    labels = [torch.tensor([1.0, 0.2]), torch.tensor([0.0, 0.0, 0.0])]
    loss = GradedGroupLoss(model, pointwise_weight=0.5, temperature=0.15, mini_batch_size=2)
    logits = [
        torch.tensor(model.predict([(QUERY, text) for text in group], activation_fn=torch.nn.Identity()))
        for group in texts
    ]
    target = torch.softmax(labels[0] / 0.15, dim=0)
    listwise = -(target * torch.log_softmax(logits[0], dim=0)).sum() / 2  # the second group has no order
    every = torch.sigmoid(torch.cat(logits))
    wanted = torch.cat(labels)
    pointwise = -(wanted * every.log() + (1 - wanted) * (1 - every).log()).mean()
    with torch.no_grad():
        assert float(loss([[QUERY, QUERY], texts], labels)) == pytest.approx(
            float(listwise + 0.5 * pointwise), rel=1e-3
        )
        only_order = loss([[QUERY, QUERY], texts, [False, False]], labels)
    assert float(only_order) == pytest.approx(float(listwise), rel=1e-3)


def test_a_teachers_order_is_mixed_into_the_target(tiny_bert: Path) -> None:
    model = open_cross_encoder(tiny_bert).eval()
    texts = [[CORPUS[0], CORPUS[1], CORPUS[2]]]
    labels = [torch.tensor([1.0, 0.0, 0.0])]
    loss = GradedGroupLoss(model, pointwise_weight=0.0, temperature=0.2, teacher_weight=0.25)
    logits = torch.tensor(model.predict([(QUERY, text) for text in texts[0]], activation_fn=torch.nn.Identity()))
    root = 1.5**0.5  # 7, 8, 9 have the mean 8 and the spread (2 / 3) ** 0.5
    of_teacher = torch.softmax(torch.tensor([-root, 0.0, root]) / TEACHER_TEMPERATURE, dim=0)
    target = 0.75 * torch.softmax(labels[0] / 0.2, dim=0) + 0.25 * of_teacher
    expected = float(-(target * torch.log_softmax(logits, dim=0)).sum())
    with torch.no_grad():
        mixed = float(loss([[QUERY], texts, [True], [[7.0, 8.0, 9.0]]], labels))
        without = float(loss([[QUERY], texts, [True], [[]]], labels))
    assert mixed == pytest.approx(expected, rel=1e-3)
    of_labels = torch.softmax(labels[0] / 0.2, dim=0)
    assert without == pytest.approx(float(-(of_labels * torch.log_softmax(logits, dim=0)).sum()), rel=1e-3)


def test_spread_is_within_groups_and_level_over_all() -> None:
    # Three passages a group; the model gives each the number that its text is.
    class Reads:
        def eval(self) -> None: ...

        def predict(self, pairs: list[tuple[str, str]], **_: object) -> torch.Tensor:
            return torch.tensor([float(text) for _, text in pairs])

    groups = [TrainingGroup("a", ("1",), ("3", "5")), TrainingGroup("b", ("101",), ("103", "105"))]
    figures = HeldOutEvaluator(groups)(Reads())
    assert figures[SPREAD_NAME] == pytest.approx(math.sqrt((4 + 0 + 4) / 3))
    assert figures[LEVEL_NAME] == pytest.approx((1 + 3 + 5 + 101 + 103 + 105) / 6)


def test_a_model_that_tells_nothing_apart_keeps_the_weights() -> None:
    weights = FusionWeights("an encoder", "1", 0.5, 20.0, 3.0, -12.0)
    before, after = {SPREAD_NAME: 2.0, LEVEL_NAME: 1.0}, {SPREAD_NAME: 0.0, LEVEL_NAME: 1.0}
    assert in_proportion(weights, before, after) == weights


def test_dropout_is_the_plans(tiny_bert: Path) -> None:
    shares = {
        name: module.p
        for name, module in open_cross_encoder(tiny_bert, dropout=0.3).named_modules()
        if isinstance(module, torch.nn.Dropout)
    }
    assert shares
    assert set(shares.values()) == {0.3}


def test_late_interaction_of_the_base_keeps_its_share_beside_the_trained_model(tmp_path: Path, tiny_bert: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    weights = FusionWeights("an encoder", "1", 0.5, 20.0, 3.0, -12.0)
    replace(weights, foretelling=Foretelling(20.0, 3.0, -12.0, read=20, below=0.25)).write(base)
    report = train(tiny_groups(), base, tmp_path / "out", PLAN)
    trained = read_weights(tmp_path / "out" / "model")
    assert trained is not None
    before, after = report["before"], report["after"]
    # The same share of the sum: weight * spread; the same height of the sum: weight * level + bias.
    assert trained.logit * after[SPREAD_NAME] == pytest.approx(0.5 * before[SPREAD_NAME], rel=1e-3)
    heights = [trained.logit * after[LEVEL_NAME] + trained.bias, 0.5 * before[LEVEL_NAME] - 12.0]
    assert heights[0] == pytest.approx(heights[1], abs=1e-4)
    others = replace(trained, logit=weights.logit, bias=weights.bias)
    assert others == weights, "the rest stays, and what foretold the base's scores is left behind"
    train(tiny_groups(), tiny_bert, tmp_path / "plain", replace(PLAN, epochs=1))
    assert read_weights(tmp_path / "plain" / "model") is None
