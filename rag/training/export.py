"""A model with half the bytes, for shipping: weights in float16, checked to score as before and to stay within a size.

It changes the number format and nothing else; loading needs no code of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rag.engines.late_fusion import read_weights
from rag.errors import BadInput, EngineFault
from rag.training.calibrate import logits_of, sigmoids
from rag.training.model_folder import (
    open_cross_encoder,
    read_learnt_questions,
    replacing,
    save_model,
    write_learnt_questions,
)

SIZE_LIMIT_MB = 50.0
LARGEST_DIFFERENCE = 1e-2
"""Of a score: as much as bfloat16 on a CPU costs."""

PROBES = (
    ("How long is the waiting period for critical illness?", "The waiting period for critical illness is 180 days."),
    ("How long is the waiting period for critical illness?", "For basic dental treatment it is 30 days."),
    ("ibuprofen dosage for children", "Adults take 200 to 400 mg of ibuprofen every six hours."),
    ("What does error code E5 mean?", "E5 | Water is not pumped off | clean the filter, straighten the drain hose"),
    ("Who won the football world cup in 1954?", "You can return an item for a refund within seven days."),
)
"""Pairs to compare on where no others are given."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    size_mb: float
    largest_difference: float
    """Of the scores before and after, in [0, 1]."""
    pairs: int


def export(
    model_folder: Path, out: Path, *, pairs: Sequence[tuple[str, str]] = PROBES, limit_mb: float = SIZE_LIMIT_MB
) -> Exported:
    """Write the model to `out` in float16.

    Raises: BadInput if it is larger than `limit_mb`, EngineFault if scores change by more than `LARGEST_DIFFERENCE`;
    nothing is written then.
    """
    if out.resolve() == model_folder.resolve():
        raise BadInput(f"{out} is the model itself: name another folder")
    model = open_cross_encoder(model_folder)
    before = sigmoids(logits_of(model, pairs))
    card = model_folder / "README.md"
    with replacing(out) as unfinished:
        halved = unfinished / out.name
        model.to(torch.float16)
        save_model(model, halved, card=card.read_text(encoding="utf-8") if card.is_file() else "# Reranker\n")
        after = logits_of(open_cross_encoder(halved), pairs)
        difference = float(np.abs(sigmoids(after) - before).max()) if np.isfinite(after).all() else 1.0
        if difference > LARGEST_DIFFERENCE:
            raise EngineFault(
                f"in float16 scores change by up to {difference:.4f}, at most {LARGEST_DIFFERENCE} is allowed: the "
                "model's weights leave the range of float16; ship it as it is"
            )
        size_mb = sum(path.stat().st_size for path in halved.rglob("*") if path.is_file()) / 1e6
        if size_mb > limit_mb:
            raise BadInput(
                f"the model has {size_mb:.1f} MB in float16, at most {limit_mb:g} MB are allowed: train a smaller one, "
                "or raise --limit-mb"
            )
        learnt = read_learnt_questions(model_folder)
        if learnt:
            write_learnt_questions(halved, learnt)
        weights = read_weights(model_folder)
        if weights is not None:
            weights.write(halved)
        for path in sorted(halved.iterdir()):
            path.replace(unfinished / path.name)
        halved.rmdir()
    return Exported(round(size_mb, 2), difference, len(pairs))
