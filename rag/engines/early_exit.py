"""Leaving a cross-encoder early: what a passage's logit would be, told from the vectors of its lower layers.

Most of what is recalled is not relevant, and a few layers see that: only the best by this estimate go on through the
layers that are left. Nothing is fitted here (`python -m rag train early-exit` does that), and no model runs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rag.engines.packed_encoder import Halfway
from rag.errors import ModelUnavailable

EXIT_FILE = "early-exit.safetensors"
"""File of a model's folder that holds an exit."""

_NUMBERS = {"n_layers": int, "finished": int, "below": float}


@dataclass(frozen=True, slots=True, eq=False)
class EarlyExit:
    """A small network over a pair's vectors after some layers, and the rule by which pairs leave there.

    A pair leaves if `finished` others have a higher estimate and its own is below `below`. What it is estimated to have
    is the logit of the score that a person sees, whatever is added to the cross-encoder's own.
    """

    n_layers: int
    """After how many layers."""
    finished: int
    """So many of the best go on in any case."""
    below: float
    """Logit; whoever is estimated to have more goes on in any case."""
    inner: Tensor
    """`(n_hidden, 2 * width)`: of the first token's vector and the mean of all."""
    inner_bias: Tensor
    """`(n_hidden,)`."""
    outer: Tensor
    """`(1, n_hidden)`."""
    outer_bias: Tensor
    """`(1,)`."""

    @torch.inference_mode()
    def estimates(self, features: Tensor) -> NDArray[np.float64]:
        """The logit that each pair would have, `(n_pairs,)`, from what `features_of` gives."""
        hidden = functional.gelu(functional.linear(features, self.inner, self.inner_bias))
        return functional.linear(hidden, self.outer, self.outer_bias)[:, 0].double().numpy()

    def leaving(self, estimates: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which pairs leave, `(n_pairs,)`."""
        leaves = estimates < self.below
        leaves[np.argsort(-estimates, kind="stable")[: self.finished]] = False
        return leaves

    def write(self, folder: Path) -> None:
        """Leave it in a model's folder."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name) for name in ("inner", "inner_bias", "outer", "outer_bias")}
        save_file(tensors, folder / EXIT_FILE, metadata={name: str(getattr(self, name)) for name in _NUMBERS})


@torch.inference_mode()
def features_of(halfway: Sequence[Halfway]) -> Tensor:
    """What an exit sees of pairs, `(n_pairs, 2 * width)`, float32: the first token's vector, and the mean of all."""
    first = torch.stack([one.rows[0] for one in halfway]).float()
    means = torch.stack([one.rows[: one.n_tokens].mean(dim=0, dtype=torch.float32) for one in halfway])
    return torch.cat([first, means], dim=1)


def read_exit(folder: Path) -> EarlyExit | None:
    """The exit in a model's folder; None where there is none. Raises ModelUnavailable for a damaged file."""
    from safetensors import SafetensorError, safe_open

    path = folder / EXIT_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return EarlyExit(**{name: kind(told[name]) for name, kind in _NUMBERS.items()}, **tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelUnavailable(f"{path} can't be read ({error}): fit the exit again, or remove the file") from error
