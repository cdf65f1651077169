"""The mean of models is a model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.errors import BadInput
from rag.training.average import average
from rag.training.model_folder import read_learnt_questions, write_learnt_questions
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, save_cross_encoder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and one whose weights are all larger by 0.5."""
    first = save_cross_encoder(tmp_path / "first", "bert")
    second = save_cross_encoder(tmp_path / "second", "bert")
    weights = {name: value + 0.5 for name, value in load_file(first / "model.safetensors").items()}
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})
    return first, second


@pytest.mark.parametrize(("shares", "part"), [((), 0.5), ((3.0, 1.0), 0.25)])
def test_each_weight_is_the_mean(
    pair: tuple[Path, Path], tmp_path: Path, shares: tuple[float, ...], part: float
) -> None:
    write_learnt_questions(pair[0], ["0123456789abcdef"])
    write_learnt_questions(pair[1], ["fedcba9876543210"])
    average(pair, tmp_path / "mean", shares=shares)
    first, mean = (load_file(folder / "model.safetensors") for folder in (pair[0], tmp_path / "mean"))
    assert first.keys() == mean.keys()
    for name, value in first.items():
        torch.testing.assert_close(mean[name], value + part * 0.5)
    assert read_learnt_questions(tmp_path / "mean") == {"0123456789abcdef", "fedcba9876543210"}
    scored = CrossEncoderReranker.load(tmp_path / "mean").score("refund?", [Passage("1", CORPUS[0])])
    assert scored[0].score is not None


def test_other_shapes_and_wrong_shares_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = save_cross_encoder(tmp_path / "other", "xlm-roberta")
    with pytest.raises(BadInput, match="other weights than first"):
        average([pair[0], other], tmp_path / "mean")
    with pytest.raises(BadInput, match="at least 2"):
        average([pair[0]], tmp_path / "mean")
    with pytest.raises(BadInput, match="one number above 0 for each"):
        average(pair, tmp_path / "mean", shares=[1.0])
    with pytest.raises(BadInput, match="name another folder"):
        average(pair, pair[0])
    assert not (tmp_path / "mean").exists()
