"""Fine-tune a cross-encoder on groups, with sentence-transformers' own trainer.

Seeded, resumable, stopped early on held-out questions. Mining and calibration are other steps; nothing is put into
service here.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from rag.engines.late_fusion import FusionWeights, read_weights
from rag.engines.local_models import bf16_is_quick
from rag.errors import BadInput
from rag.training.groups import TrainingGroup, as_row, question_digest, split_by_question
from rag.training.loss import GradedGroupLoss
from rag.training.measure import ndcg_at
from rag.training.model_folder import (
    open_cross_encoder,
    read_learnt_questions,
    save_model,
    write_learnt_questions,
)
from rag.training.plan import TrainingPlan, TrainingStep

HELD_OUT_NAME = "held-out"
NDCG_NAME = f"{HELD_OUT_NAME}_ndcg@10"
RR_NAME = f"{HELD_OUT_NAME}_rr@10"
CROSS_ENTROPY_NAME = f"{HELD_OUT_NAME}_cross_entropy"
CHOICE_NAME = f"{HELD_OUT_NAME}_choice"
SPREAD_NAME = f"{HELD_OUT_NAME}_spread"
LEVEL_NAME = f"{HELD_OUT_NAME}_level"
CHOICE_BY_CROSS_ENTROPY = 1e-3
"""Weight of the cross-entropy beside nDCG@10 where checkpoints are compared: it decides between equal orders."""
CPU_PAIRS, GPU_PAIRS = 8, 128
"""Pairs in one forward pass: few of like length waste little on padding, many keep a GPU busy."""
WEIGHTS_FILE = "weights.safetensors"

Show = Callable[[TrainingStep], None]


def train(
    groups: Sequence[TrainingGroup],
    base: Path,
    folder: Path,
    plan: TrainingPlan,
    *,
    resume: bool = False,
    show: Show = lambda step: None,
) -> dict[str, Any]:
    """Train the model in the folder `base`; the result lands in `folder/model`, checkpoints beside it.

    The same groups, base, plan and kind of machine give the same weights. `resume` goes on from the last checkpoint in
    `folder` (from the start where there is none yet), to the same weights as without the interruption.

    Returns the figures on the held-out questions, before and after, as written to `folder/training.json`.

    Raises:
        BadInput: Too few groups, a plan that the model can't follow, a `folder` that holds another training, or too
            little memory.
        ModelUnavailable: `base` holds no model.
    """
    learnt, held_out = _split(groups, plan)
    identity = _identity(groups, base, plan)
    checkpoints = folder / "checkpoints"
    _claim(folder, identity, resume=resume)

    torch.manual_seed(plan.seed)  # a new scoring head is random
    model = open_cross_encoder(base, dropout=plan.dropout)
    readable_tokens = model.tokenizer.model_max_length
    model.tokenizer.model_max_length = min(plan.max_tokens, readable_tokens)
    _set_trainable(model, plan)
    evaluator = HeldOutEvaluator(held_out)
    trainer = _Trainer(
        model=model,
        args=_arguments(checkpoints, plan, n_groups=len(learnt)),
        train_dataset=_dataset(learnt),
        loss=GradedGroupLoss(
            model,
            pointwise_weight=plan.pointwise_weight,
            temperature=plan.temperature,
            teacher_weight=plan.teacher_weight,
            mini_batch_size=GPU_PAIRS if torch.cuda.is_available() else CPU_PAIRS,
        ),
        evaluator=evaluator,
        callbacks=[EarlyStoppingCallback(plan.patience), _Report(show)],
    )
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    try:
        before = evaluator(model)
        trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints) if resume else None)
        # Without what the trainer wrapped it in: autocast would measure another number format than is saved.
        model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        after = evaluator(model)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_little_memory(plan) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise _too_little_memory(plan) from error
    if plan.lora_rank:
        _merge_adapters(model)
    model.tokenizer.model_max_length = readable_tokens
    report = {
        "base": base.name,
        "plan": asdict(plan),
        "groups": len(learnt),
        "held_out": len(held_out),
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - started, 1),
        "before": before,
        "after": after,
    }
    save_model(model, folder / "model", card=_card(report))
    weights = read_weights(base)
    if weights is not None:
        # Fitted to the base's logit: much training asks for a new fit. What foretold its sum does not foretell this.
        in_proportion(replace(weights, foretelling=None), before, after).write(folder / "model")
    seen = {question_digest(group.query) for group in groups}
    write_learnt_questions(folder / "model", seen | read_learnt_questions(base))
    (folder / "training.json").write_text(json.dumps(report | {"identity": identity}, indent=2), encoding="utf-8")
    return report


def in_proportion(weights: FusionWeights, before: dict[str, float], after: dict[str, float]) -> FusionWeights:
    """Weights with which a trained logit counts as much in the sum as the base's did, and is as high on the whole.

    Training pulls logits apart, more so where the questions are few: with the base's own weights the cross-encoder
    would outvote late interaction, though it orders little better than before.

    Args:
        weights: The base's.
        before: What `HeldOutEvaluator` says of the base.
        after: What it says of the trained model, on the same questions.

    >>> base = FusionWeights("tokens", "1", logit=0.2, max_sim=6.0, cosine=1.0, bias=-4.0)
    >>> trained = in_proportion(base, {SPREAD_NAME: 0.5, LEVEL_NAME: -1.0}, {SPREAD_NAME: 2.0, LEVEL_NAME: -6.0})
    >>> round(trained.logit, 6), round(trained.bias, 6)  # 0.2 * 0.5 / 2 and -4 + 0.2 * -1 - 0.05 * -6
    (0.05, -3.9)
    """
    if not after[SPREAD_NAME]:
        return weights
    logit = weights.logit * before[SPREAD_NAME] / after[SPREAD_NAME]
    bias = weights.bias + weights.logit * before[LEVEL_NAME] - logit * after[LEVEL_NAME]
    return replace(weights, logit=round(logit, 6), bias=round(bias, 6))


class HeldOutEvaluator(BaseEvaluator):
    """nDCG@10 and RR@10 over the passages of each group, the mean binary cross-entropy of their scores, and the choice.

    The choice is what checkpoints are compared by: nDCG@10, and the cross-entropy where orders are equally good. Spread
    and level are the standard deviation of the logits within a group, and their mean.

    A passage's gain is its label where that is 0.5 or more and else 0: the soft labels of mined negatives are no
    relevance. Groups that only order gain by their labels as they are. Groups without any gain have no order to get
    right and count in the cross-entropy alone.
    """

    def __init__(self, groups: Sequence[TrainingGroup]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # sentence-transformers leaves it without annotations
        self.primary_metric = CHOICE_NAME
        self._groups = groups

    def __call__(  # type: ignore[override]  # the evaluator of a cross-encoder is for cross-encoders
        self, model: CrossEncoder, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """The figures; nDCG and RR are 0 where no group has an order, the cross-entropy where all only order."""
        pairs = [(group.query, passage) for group in self._groups for passage in group.passages]
        model.eval()
        logits = model.predict(
            pairs, activation_fn=nn.Identity(), batch_size=32, show_progress_bar=False, convert_to_tensor=True
        )
        ndcgs, reciprocal_ranks, entropies = [], [], []
        of_groups = torch.split(logits.float().cpu(), [len(group.passages) for group in self._groups])
        for group, scores in zip(self._groups, of_groups, strict=True):
            gains = [label if group.order_only or label >= 0.5 else 0.0 for label in group.labels]
            if any(gains):
                ordered = [gains[number] for number in torch.argsort(scores, descending=True, stable=True).tolist()]
                ndcgs.append(ndcg_at(ordered, gains, 10))
                first = next(rank for rank, gain in enumerate(ordered, start=1) if gain >= min(0.5, max(gains)))
                reciprocal_ranks.append(1 / first if first <= 10 else 0.0)
            if not group.order_only:
                targets = torch.tensor(group.labels)
                entropies.append(float(nn.functional.binary_cross_entropy_with_logits(scores, targets)))
        cross_entropy = _mean(entropies)
        variances = [float(scores.var(correction=0)) for scores in of_groups]
        return {
            NDCG_NAME: _mean(ndcgs),
            RR_NAME: _mean(reciprocal_ranks),
            CROSS_ENTROPY_NAME: cross_entropy,
            CHOICE_NAME: _mean(ndcgs) - CHOICE_BY_CROSS_ENTROPY * cross_entropy,
            SPREAD_NAME: math.sqrt(_mean(variances)),
            LEVEL_NAME: float(logits.float().mean()),
        }


class _Trainer(CrossEncoderTrainer):
    """Checkpoints are weights only, so that a model with adapters is taken up again like any other.

    And a best checkpoint that can't be read is an error: the base class goes on with the last weights.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        save_file(_without_shared(weights), folder / WEIGHTS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        tied = set(self.model.state_dict()) - set(_without_shared(self.model.state_dict()))
        if set(missing) - tied or unexpected:
            raise BadInput(f"{resume_from_checkpoint} is a checkpoint of another model: train into another folder")

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


class _Report(TrainerCallback):
    """Says after each step where the training is."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._started_s = 0.0
        self._first_step = 0
        self._loss: float | None = None
        self._ndcg: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._started_s, self._first_step = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any) -> None:
        self._loss = (logs or {}).get("loss", self._loss)

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._ndcg = more["metrics"].get(f"eval_{NDCG_NAME}", self._ndcg)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        done = state.global_step - self._first_step
        seconds_left = (time.perf_counter() - self._started_s) / done * (state.max_steps - state.global_step)
        self._show(TrainingStep(state.global_step, state.max_steps, self._loss, self._ndcg, seconds_left))


def _split(groups: Sequence[TrainingGroup], plan: TrainingPlan) -> tuple[list[TrainingGroup], list[TrainingGroup]]:
    n_questions = len({question_digest(group.query) for group in groups})
    answerable = {question_digest(group.query) for group in groups if any(label > 0 for label in group.labels)}
    if len(answerable) < 2:
        raise BadInput(
            f"{len(groups)} training groups of {n_questions} questions, {len(answerable)} with a right passage: "
            "at least 2 of those are needed, one to learn from and one to hold out; label more questions"
        )
    return split_by_question(groups, max(1, min(plan.held_out, n_questions // 5)), plan.seed)


def _identity(groups: Sequence[TrainingGroup], base: Path, plan: TrainingPlan) -> str:
    """What a checkpoint belongs to: other groups, another base or plan are another training."""
    digest = hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode())
    for group in groups:
        digest.update(as_row(group).encode())
    for path in sorted([*base.glob("config.json"), *base.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _claim(folder: Path, identity: str, *, resume: bool) -> None:
    """Make the folder this training's, or raise BadInput where it is another one's."""
    path = folder / "training.json"
    held = json.loads(path.read_text(encoding="utf-8")).get("identity", "") if path.is_file() else ""
    has_checkpoints = _last_checkpoint(folder / "checkpoints") is not None
    if has_checkpoints and not resume:
        raise BadInput(f"{folder} holds checkpoints of an earlier training: add --resume, or name another folder")
    if has_checkpoints and held != identity:
        raise BadInput(
            f"{folder} holds checkpoints of a training with other groups, another base or another plan: repeat its "
            "options, or name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"identity": identity, "state": "begun"}), encoding="utf-8")


def _last_checkpoint(checkpoints: Path) -> str | None:
    """The newest complete checkpoint; its note of where the best one lies is mended if the folder was moved."""
    if not checkpoints.is_dir():
        return None
    for broken in checkpoints.glob("checkpoint-*"):
        if not (broken / "trainer_state.json").is_file():  # written last: a kill left it incomplete
            broken.replace(broken.with_name(f"incomplete-{broken.name}"))
    last = get_last_checkpoint(str(checkpoints))  # type: ignore[no-untyped-call]  # transformers has no types
    if last is None:
        return None
    path = Path(last) / "trainer_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = str(checkpoints / Path(state["best_model_checkpoint"]).name)
        path.write_text(json.dumps(state), encoding="utf-8")
    return str(last)


def _arguments(checkpoints: Path, plan: TrainingPlan, *, n_groups: int) -> CrossEncoderTrainingArguments:
    steps_per_epoch = -(-n_groups // plan.groups_per_step)
    every = max(1, min(plan.evaluate_every, steps_per_epoch))
    return CrossEncoderTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.groups_per_step,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_share,
        lr_scheduler_type="linear",
        bf16=bf16_is_quick() if plan.bf16 is None else plan.bf16,
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{CHOICE_NAME}",
        greater_is_better=True,
        logging_steps=min(50, every),
        seed=plan.seed,
        use_cpu=not torch.cuda.is_available(),  # or bfloat16 is refused on a CPU
        dataloader_drop_last=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def _dataset(groups: Sequence[TrainingGroup]) -> Dataset:
    return Dataset.from_dict(
        {
            "query": [group.query for group in groups],
            "passages": [list(group.passages) for group in groups],
            "scored": [not group.order_only for group in groups],
            "teacher": [list(group.teacher) for group in groups],
            "labels": [list(group.labels) for group in groups],
        }
    )


def _set_trainable(model: CrossEncoder, plan: TrainingPlan) -> None:
    """Freeze what the plan says, or put adapters in."""
    transformer: Any = model[0]
    encoder = transformer.model
    if plan.lora_rank:
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(
            task_type=TaskType.SEQ_CLS, r=plan.lora_rank, lora_alpha=2 * plan.lora_rank, target_modules="all-linear"
        )
        with warnings.catch_warnings():
            # peft still asks for what transformers has renamed: https://github.com/huggingface/peft
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            transformer.model = get_peft_model(encoder, config)
        return
    body = encoder.base_model
    frozen: list[nn.Module] = []
    if plan.freeze_embeddings:
        frozen.append(getattr(body, "embeddings", None) or body.get_input_embeddings())
    if plan.freeze_layers:
        layers = _layers(body, encoder.config.num_hidden_layers)
        if plan.freeze_layers > len(layers):
            raise BadInput(f"freeze_layers = {plan.freeze_layers}: the model has {len(layers)} layers; take fewer")
        frozen += layers[: plan.freeze_layers]
    for module in frozen:
        for parameter in module.parameters():
            parameter.requires_grad = False


def _layers(body: nn.Module, count: int) -> list[nn.Module]:
    """The encoder's layers, lowest first, whatever their architecture calls them."""
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise BadInput("the model's layers were not found: train it with freeze_layers = 0")


def _merge_adapters(model: CrossEncoder) -> None:
    """Put the adapters' product into the weights, so that the model loads without peft."""
    transformer: Any = model[0]
    transformer.model = transformer.model.merge_and_unload()


def _without_shared(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each stored tensor once: safetensors refuses two names of one."""
    kept: dict[str, torch.Tensor] = {}
    places: set[tuple[int, int]] = set()
    for name, value in weights.items():
        place = (value.data_ptr(), value.numel())
        if value.numel() == 0 or place not in places:
            kept[name] = value
            places.add(place)
    return kept


def _too_little_memory(plan: TrainingPlan) -> BadInput:
    return BadInput(
        f"too little memory for {plan.groups_per_step} groups of pairs of up to {plan.max_tokens} tokens a step: "
        f"take --groups-per-step {max(1, plan.groups_per_step // 2)}, fewer --max-tokens, or "
        "--lora-rank 8, into another --out"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _card(report: dict[str, Any]) -> str:
    """The model card: what it was made from, how, and its figures on the held-out questions."""
    plan = report["plan"]
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: text-ranking",
        "tags: [cross-encoder, reranker]",
        "---",
        "",
        "# Reranker fine-tuned with `python -m rag train fine-tune`",
        "",
        f"A cross-encoder with one logit, from {report['base']}: {report['groups']} groups, {report['steps']} steps of "
        f"{plan['groups_per_step']} groups, {report['seconds']:.0f} s. Load it with sentence-transformers' "
        "`CrossEncoder`, or name its folder as `RANK37_RERANKER`.",
        "",
        f"On {report['held_out']} groups of held-out questions (they chose the checkpoint):",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(f"| {name} | {report['before'][name]:.4f} | {value:.4f} |" for name, value in report["after"].items()),
        "",
        "Plan: " + ", ".join(f"{name} {value}" for name, value in plan.items()) + ".",
        "",
    ]
    return "\n".join(lines)
