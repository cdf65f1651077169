"""How a model is trained: plain values, so that a command line can offer them without loading a library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How a model is trained."""

    epochs: float = 1.0
    groups_per_step: int = 8
    learning_rate: float = 5e-5
    warmup_share: float = 0.05
    max_tokens: int = 256
    """Pairs are cut to this length in training; at use the model reads what its positions allow."""
    pointwise_weight: float = 0.5
    temperature: float = 0.15
    teacher_weight: float = 0.5
    """Share of a teacher's order in what groups that `teach` wrote are to learn; the rest is their labels."""
    held_out: int = 200
    """Questions kept aside, on which training stops early; at most a fifth of all."""
    evaluate_every: int = 500
    """Steps between two looks at the held-out questions, at most an epoch; also between two checkpoints."""
    patience: int = 3
    """Looks without improvement after which training stops."""
    dropout: float = 0.0
    """Share of the activations that is dropped in training. A CPU trains 3.5 times as many pairs a second without: its
    attention has a quick way back only then (6 layers, 200 tokens, bf16, 2 cores: 12 pairs a second against 42)."""
    freeze_embeddings: bool = True
    freeze_layers: int = 0
    """How many of the lowest encoder layers stay as they are."""
    lora_rank: int = 0
    """0: all weights are trained; else LoRA adapters of this rank, merged when saved."""
    bf16: bool | None = None
    """None: where the processor has it."""
    seed: int = 37


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """Where a training is."""

    step: int
    """1-based."""
    total: int
    loss: float | None
    """Mean since the last report; None before the first."""
    held_out_ndcg_10: float | None
    """At the last look at the held-out questions; None before the first."""
    seconds_left: float
    """At the speed so far; early stopping can end it sooner."""
