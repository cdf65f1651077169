"""Cross-encoders as folders: opened for training, changed, and saved so that any program loads them.

What is saved needs no code of this project: plain transformers weights with the sigmoid named as the activation. Which
questions a model has learnt from lies beside it, so that nobody measures it on them.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from rag.errors import BadInput, ModelUnavailable

LEARNT_QUESTIONS = "learnt-questions.digests"
"""File of a model's folder: `question_digest` of each question that it has seen in training, one a line."""


def model_in(folder: Path) -> Path:
    """The model's own folder: `folder`, or `folder/model` as `fine-tune` leaves it. Raises ModelUnavailable."""
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    raise ModelUnavailable(f"{folder} holds no model (config.json is missing): name a folder that `fine-tune` wrote")


def open_cross_encoder(folder: Path, *, dropout: float | None = None) -> CrossEncoder:
    """A model with one logit in float32, without activation; a bare encoder gets a new head.

    Args:
        folder: Where it lies.
        dropout: Its dropout from now on, in [0, 1), and an attention that a CPU trains quickly; None: as it comes.

    Raises: ModelUnavailable, and BadInput for a model that has another number of labels.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it without annotations
    to_train: dict[str, Any] = {}
    try:
        if dropout is not None:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True).to_dict()
            shares = [name for name, value in config.items() if "dropout" in name and isinstance(value, float)]
            to_train["config_kwargs"] = dict.fromkeys(shares, dropout)
        plain = dropout is not None and not torch.cuda.is_available()
        attention = {"attn_implementation": "eager"} if plain else {}  # half the time of the fused one's backward pass
        model: CrossEncoder = CrossEncoder(
            str(folder),
            num_labels=1,
            activation_fn=nn.Identity(),
            local_files_only=True,
            model_kwargs={"dtype": torch.float32} | attention,
            **to_train,
        )
    except Exception as error:  # the libraries raise anything from OSError to SafetensorError for a damaged folder
        raise ModelUnavailable(
            f"{folder} can't be opened as a cross-encoder with one label ({type(error).__name__}: {error}): name "
            "another model"
        ) from error
    return model


def save_model(model: CrossEncoder, folder: Path, *, card: str) -> None:
    """Save a model with the sigmoid as its activation and a model card, whole or not at all."""
    activation = model.activation_fn
    model.activation_fn = nn.Sigmoid()
    try:
        with replacing(folder) as unfinished:
            model.save_pretrained(str(unfinished), create_model_card=False)
            (unfinished / "README.md").write_text(card, encoding="utf-8")
    finally:
        model.activation_fn = activation


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".unfinished-{folder.name}-{uuid.uuid4().hex[:8]}")
    unfinished.mkdir()
    try:
        yield unfinished
        if folder.exists():
            outdated = folder.with_name(f".outdated-{folder.name}-{uuid.uuid4().hex[:8]}")
            folder.replace(outdated)
            unfinished.replace(folder)
            shutil.rmtree(outdated)
        else:
            unfinished.replace(folder)
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)


def scoring_layer(model: CrossEncoder) -> nn.Linear:
    """The last linear layer with one output, which gives the logit. Raises BadInput for a model that has none."""
    encoder: Any = model.transformers_model
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)] if encoder is not None else []
    layers = [layer for layer in layers if layer.out_features == 1]
    if not layers or len(list(model)) > 1:
        raise BadInput("the model's score is not the output of a linear layer of its own: it can't be calibrated")
    if layers[-1].bias is None:
        raise BadInput("the model's scoring layer has no bias: it can't be calibrated")
    return layers[-1]


def read_learnt_questions(folder: Path) -> set[str]:
    """Digests of the questions that a model has learnt from; empty where it says nothing of them."""
    path = folder / LEARNT_QUESTIONS
    return set(path.read_text(encoding="ascii").split()) if path.is_file() else set()


def write_learnt_questions(folder: Path, digests: Iterable[str]) -> None:
    """Leave the digests beside the model."""
    (folder / LEARNT_QUESTIONS).write_text("".join(f"{digest}\n" for digest in sorted(digests)), encoding="ascii")
