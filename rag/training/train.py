"""Fine-tune a cross-encoder on groups, with sentence-transformers' own trainer.

Seeded, resumable, stopped early on held-out questions. Mining and calibration are other steps; nothing is put into
service here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from transformers import EarlyStoppingCallback

from rag.errors import BadInput
from rag.training.groups import TrainingGroup
from rag.training.loss import GradedGroupLoss
from rag.training.plan import TrainingPlan

HELD_OUT_NAME = "held-out"


def train(
    groups: Sequence[TrainingGroup], base: str, folder: Path, plan: TrainingPlan, *, resume: bool = False
) -> dict[str, Any]:
    """Train `base` (name or folder) on `groups`; the model lands in `folder/model`, checkpoints beside it.

    Returns the figures on the held-out groups, before and after. Raises BadInput for too few groups.
    """
    if len(groups) < 2:
        raise BadInput(f"{len(groups)} training groups: at least 2 are needed, one to learn from and one to hold out")
    shuffled = list(groups)
    random.Random(plan.seed).shuffle(shuffled)
    n_held_out = max(1, min(plan.held_out, len(shuffled) // 5))
    held_out, learnt = shuffled[:n_held_out], shuffled[n_held_out:]

    torch.manual_seed(plan.seed)
    model = _open(base, plan)
    evaluator = _evaluator(held_out)
    before = evaluator(model)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.groups_per_step,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_share,
        lr_scheduler_type="linear",
        bf16=has_bf16() if plan.bf16 is None else plan.bf16,
        eval_strategy="steps",
        eval_steps=plan.evaluate_every,
        save_steps=plan.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{HELD_OUT_NAME}_ndcg@10",
        logging_steps=50,
        seed=plan.seed,
        dataloader_drop_last=False,
        report_to="none",
    )
    trainer = CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=_dataset(learnt),
        loss=GradedGroupLoss(model, pointwise_weight=plan.pointwise_weight, temperature=plan.temperature),
        evaluator=evaluator,
        callbacks=[EarlyStoppingCallback(plan.patience)],
    )
    trainer.train(resume_from_checkpoint=resume and any((folder / "checkpoints").glob("checkpoint-*")))
    after = evaluator(model)
    if plan.lora_rank:
        encoder: Any = model[0]
        encoder.auto_model = encoder.auto_model.merge_and_unload()
    model.save_pretrained(str(folder / "model"))
    report = {
        "base": base,
        "plan": asdict(plan),
        "groups": len(learnt),
        "held_out": len(held_out),
        "before": before,
        "after": after,
    }
    (folder / "training.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    return report


def has_bf16() -> bool:
    """Whether bfloat16 is quick here: a GPU that has it, or a CPU with avx512_bf16 or amx."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _open(base: str, plan: TrainingPlan) -> CrossEncoder:
    model: CrossEncoder = CrossEncoder(
        base, num_labels=1, max_length=plan.max_tokens, activation_fn=torch.nn.Identity()
    )
    model.float()
    first: Any = model[0]
    encoder = first.auto_model
    if plan.lora_rank:
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(
            task_type=TaskType.SEQ_CLS, r=plan.lora_rank, lora_alpha=2 * plan.lora_rank, target_modules="all-linear"
        )
        first.auto_model = get_peft_model(encoder, config)
        return model
    frozen = []
    if plan.freeze_embeddings:
        frozen.append(encoder.base_model.embeddings)
    frozen += list(encoder.base_model.encoder.layer[: plan.freeze_layers]) if plan.freeze_layers else []
    for module in frozen:
        for parameter in module.parameters():
            parameter.requires_grad = False
    return model


def _dataset(groups: Sequence[TrainingGroup]) -> Dataset:
    return Dataset.from_dict(
        {
            "query": [group.query for group in groups],
            "passages": [list(group.passages) for group in groups],
            "labels": [list(group.labels) for group in groups],
        }
    )


def _evaluator(groups: Sequence[TrainingGroup]) -> CrossEncoderRerankingEvaluator:
    samples: list[dict[str, str | list[str]]] = [
        {"query": group.query, "positive": list(group.positives), "negative": list(group.negatives)} for group in groups
    ]
    return CrossEncoderRerankingEvaluator(samples, at_k=10, name=HELD_OUT_NAME, show_progress_bar=False)
