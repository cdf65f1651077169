"""Data folders that earlier versions wrote open, answer and are brought to this version's format.

`data_folders/format-<n>.zip` was written by the program of that format, with `tests.faults.folders.fill`, and never
changes: a new format adds one.
"""

from __future__ import annotations

import json
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from ingest.rebuild import find_originals, rebuild
from ingest.write import Ingester
from rag.data_folder import FORMAT, FORMAT_FILE, check_format
from rag.engines.trace_store import SqlTraceStore
from rag.floor_store import FloorStore
from rag.ports import Embedder
from rag.training.registry import RerankerRegistry
from tests.faults.folders import SCOPE, TEXTS, open_collection, searchable, settings_of

KEPT = Path(__file__).parent / "data_folders"
FORMATS = range(1, FORMAT + 1)


@pytest.fixture(params=FORMATS)
def earlier_dir(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Path]:
    with zipfile.ZipFile(KEPT / f"format-{request.param}.zip") as archive:
        archive.extractall(tmp_path / "data")
    return request.param, tmp_path / "data"


def test_there_is_a_small_folder_of_each_format() -> None:
    assert sorted(path.name for path in KEPT.iterdir()) == [f"format-{number}.zip" for number in FORMATS]
    assert all(path.stat().st_size < 200_000 for path in KEPT.iterdir())


def test_a_folder_of_each_format_opens_and_becomes_this_versions(
    earlier_dir: tuple[int, Path], embedder: Embedder
) -> None:
    number, data_dir = earlier_dir
    assert (data_dir / FORMAT_FILE).exists() == (number > 1)
    found = searchable(data_dir, embedder)
    assert {source: " ".join(chunk.text for chunk in chunks) for source, chunks in found.items()} == TEXTS
    assert json.loads((data_dir / FORMAT_FILE).read_text()) == {"format": FORMAT}
    assert check_format(data_dir) == FORMAT

    index = open_collection(data_dir, embedder)
    Ingester.from_settings(settings_of(data_dir), embedder, index)
    index.close()
    originals = find_originals(settings_of(data_dir).collection_dir / "files")
    assert {original.source for original in originals} == set(TEXTS), "names are kept beside the originals by now"
    assert [outcome.status for outcome in rebuild(settings_of(data_dir), embedder)] == ["ingested"] * 3
    assert searchable(data_dir, embedder) == found

    with closing(SqlTraceStore.open_file(data_dir / "traces.sqlite")) as store:  # however old they are
        [trace] = list(store.traces())
        assert trace.trace.id == "t1"
        assert [label.verdict for label in store.labels()] == ["right"]
    floor = FloorStore(data_dir / "floors.json").find(SCOPE)
    assert floor is not None
    assert floor.value == 0.31
    promoted = RerankerRegistry(data_dir / "rerankers").current()
    assert promoted is not None
    assert promoted.floor == 0.3
