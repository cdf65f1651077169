"""Half the bytes, the same scores."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.errors import BadInput, EngineFault
from rag.training.export import LARGEST_DIFFERENCE, export
from rag.training.model_folder import read_learnt_questions, write_learnt_questions
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS, FAMILIES, Family, save_cross_encoder

QUERY = "How long is the waiting period?"


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_stay_and_bytes_halve(tmp_path: Path, family: Family) -> None:
    base = save_cross_encoder(tmp_path / "base", family)
    write_learnt_questions(base, ["0123456789abcdef"])
    done = export(base, tmp_path / "small", pairs=[(QUERY, text) for text in CORPUS])
    assert done.pairs == len(CORPUS)
    assert done.largest_difference <= LARGEST_DIFFERENCE
    files = [folder / "model.safetensors" for folder in (base, tmp_path / "small")]
    large, small = (sum(value.nbytes for value in load_file(file).values()) for file in files)
    assert small * 2 == large
    passages = [Passage(text, text) for text in CORPUS]
    before = CrossEncoderReranker.load(base, device="cpu", precision="float32").score(QUERY, passages)
    after = CrossEncoderReranker.load(tmp_path / "small", device="cpu", precision="float32").score(QUERY, passages)
    assert [one.score for one in after] == pytest.approx([one.score for one in before], abs=LARGEST_DIFFERENCE)
    assert read_learnt_questions(tmp_path / "small") == {"0123456789abcdef"}


def test_a_model_above_the_limit_is_not_written(tmp_path: Path) -> None:
    base = save_cross_encoder(tmp_path / "base", "bert")
    with pytest.raises(BadInput, match="at most 0.01 MB"):
        export(base, tmp_path / "small", limit_mb=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_weights_beyond_float16_are_noticed(tmp_path: Path) -> None:
    base = save_cross_encoder(tmp_path / "base", "bert")
    path = base / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"] = torch.full_like(weights["classifier.weight"], 1e6)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(EngineFault, match="float16"):
        export(base, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_model_is_not_exported_over_itself(tmp_path: Path) -> None:
    base = save_cross_encoder(tmp_path / "base", "bert")
    with pytest.raises(BadInput, match="another folder"):
        export(base, base)


def test_exporting_again_replaces_what_was_there(tmp_path: Path) -> None:
    first, second = (save_cross_encoder(tmp_path / name, "bert", seed=seed) for seed, name in enumerate(("a", "b")))
    export(first, tmp_path / "small")
    export(second, tmp_path / "small")
    exported = load_file(tmp_path / "small" / "model.safetensors")["classifier.weight"]
    assert torch.allclose(exported.float(), load_file(second / "model.safetensors")["classifier.weight"], rtol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "small"]
