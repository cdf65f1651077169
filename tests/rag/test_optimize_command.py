"""`python -m rag optimize`."""

import re
from pathlib import Path

import pytest

from rag.__main__ import main
from rag.engines.edge_folder import serving_folder
from rag.engines.qdrant_edge import EdgeIndex
from rag.ports import Embedder
from tests.contracts.test_index import ingest, unit_vectors

N_CHUNKS = 400
TEXTS = [f"The tariff of service {number} is {number * 7} euros" for number in range(N_CHUNKS)]


@pytest.fixture
def data_dir(tmp_path: Path, embedder: Embedder) -> Path:
    """A folder with the collection `tariffs` of 400 chunks."""
    index = EdgeIndex.open(folder_of(tmp_path), "tariffs", embedder.identity)
    ingest(index, "tariffs", TEXTS, unit_vectors(N_CHUNKS, embedder.identity.dimension))
    index.close()
    return tmp_path


def folder_of(data_dir: Path) -> Path:
    return data_dir / "collections" / "tariffs" / "index"


def optimize(data_dir: Path) -> int:
    return main(["optimize", "--data-dir", str(data_dir), "--collection", "tariffs"])


def test_it_says_what_it_did_and_then_that_nothing_is_left(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK37_OPTIMIZE_FROM", str(N_CHUNKS))
    assert optimize(data_dir) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(
        r"collection 'tariffs': 400 chunks optimized in [\d.]+ s; p50 of 20 searches [\d.]+ ms before, "
        r"[\d.]+ ms after\n",
        printed.out,
    )
    assert printed.err.splitlines() == ["copying", "optimizing", "catching up"]
    assert serving_folder(folder_of(data_dir)) != folder_of(data_dir)
    assert optimize(data_dir) == 0
    assert "every search compares about 0 in full" in capsys.readouterr().out


def test_a_small_collection_is_left_as_it_is(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert optimize(data_dir) == 0
    printed = capsys.readouterr().out
    assert "holds 400 chunks, of which every search compares about 400 in full: below 50,000" in printed
    assert "nothing to do" in printed
    assert serving_folder(folder_of(data_dir)) == folder_of(data_dir)


def test_a_server_needs_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:9")
    assert optimize(tmp_path) == 0
    assert "a Qdrant server, which optimizes by itself: nothing to do" in capsys.readouterr().out


def test_a_collection_that_is_open_elsewhere_is_left_alone(
    data_dir: Path, embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    index = EdgeIndex.open(folder_of(data_dir), "tariffs", embedder.identity)
    try:
        assert optimize(data_dir) == 1
    finally:
        index.close()
    assert "use the running app" in capsys.readouterr().err
