"""One model from several: the mean of the weights of models that were fine-tuned from the same one.

Trainings on different data can then run side by side, and what each learnt adds up without a slower model. Models of
different bases have nothing in common that could be averaged; only their shapes are checked here.

Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", https://arxiv.org/abs/2203.05482.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rag.errors import BadInput
from rag.training.model_folder import open_cross_encoder, read_learnt_questions, save_model, write_learnt_questions


def average(folders: Sequence[Path], out: Path, *, shares: Sequence[float] = ()) -> None:
    """Write the weighted mean of the models' weights to `out`.

    Args:
        folders: The models, at least two.
        out: A folder that is none of them.
        shares: Weight of each, above 0, in any unit; empty: equal.

    Raises:
        BadInput: Too few models, shares that don't fit, or models of different shapes.
        ModelUnavailable: A folder holds no model.
    """
    if len(folders) < 2:
        raise BadInput(f"{len(folders)} model: name at least 2 to average")
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise BadInput(f"{out} is one of the models: name another folder")
    shares = shares or [1.0] * len(folders)
    if len(shares) != len(folders) or min(shares) <= 0:
        raise BadInput(f"shares {list(shares)} for {len(folders)} models: give one number above 0 for each")
    model = open_cross_encoder(folders[0])
    mean = {name: shares[0] * value.double() for name, value in model.state_dict().items()}
    for folder, share in zip(folders[1:], shares[1:], strict=True):
        weights = open_cross_encoder(folder).state_dict()
        if {name: value.shape for name, value in weights.items()} != {
            name: value.shape for name, value in mean.items()
        }:
            raise BadInput(
                f"{folder.name} has other weights than {folders[0].name}: average models of the same base only"
            )
        for name, value in weights.items():
            mean[name] += share * value.double()
    before = model.state_dict()
    model.load_state_dict({name: (value / sum(shares)).to(before[name].dtype) for name, value in mean.items()})
    parts = ", ".join(f"{folder.name} ({share:g})" for folder, share in zip(folders, shares, strict=True))
    save_model(model, out, card=f"# Reranker averaged with `python -m rag train average`\n\nThe mean of {parts}.\n")
    learnt = set[str]().union(*(read_learnt_questions(folder) for folder in folders))
    if learnt:
        write_learnt_questions(out, learnt)
