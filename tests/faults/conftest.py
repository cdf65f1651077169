"""Fixtures of the fault tests: one data folder, made once and copied for each test that damages it."""

from pathlib import Path

import pytest

from rag.ports import Embedder
from tests.faults.folders import copy_of, fill


@pytest.fixture(scope="session")
def sound_dir(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    """A data folder that nothing is wrong with: not to be written to."""
    data_dir = tmp_path_factory.mktemp("sound") / "data"
    fill(data_dir, embedder)
    return data_dir


@pytest.fixture
def data_dir(sound_dir: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return copy_of(sound_dir, tmp_path / "data")
