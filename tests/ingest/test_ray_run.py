"""Ingesting on a local Ray: the collection ends up as without Ray, whatever is wrong with a file or the cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingest.ray_run import Prepared, PreparedFiles
from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import IngestionStopped
from rag.ports import Embedder
from tests.ingest.written_pdfs import long_pdf, write_pdf

pytest.importorskip("ray", reason='the extra "ray" is not installed')

ROOT = Path(__file__).resolve().parents[2]
PARKING = "Parking permits cost forty crowns a month. They are sold at the town hall."
LIMIT_S = 300


def ingest(data_dir: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RANK37_DATA_DIR": str(data_dir), "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    return subprocess.run(
        [sys.executable, "-m", "ingest", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def contents(data_dir: Path, embedder: Embedder) -> dict[str, Any]:
    """All that a collection holds, but for the moments at which it was brought in."""
    index = EdgeIndex.open(data_dir / "collections" / "documents" / "index", "documents", embedder.identity)
    try:
        stored = index.documents()
        chunks = {one.document.id: [repr(chunk) for chunk in index.chunks(one.document.id)] for one in stored}
        return {
            one.document.id: (one.document, one.state, one.n_chunks, one.warnings, chunks[one.document.id])
            for one in stored
        }
    finally:
        index.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files that can be read, of which two have the same name, and one that can't."""
    folder = tmp_path_factory.mktemp("files")
    write_pdf(folder / "parking.pdf", [PARKING])
    long_pdf(folder / "long.pdf", seed=3, pages=4)
    (folder / "other").mkdir()
    write_pdf(folder / "other" / "parking.pdf", [PARKING.replace("forty", "sixty")])
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing else")
    return folder


def test_the_collection_is_the_same_as_without_ray(files: Path, tmp_path: Path, embedder: Embedder) -> None:
    plain = ingest(tmp_path / "plain", files)
    assert plain.returncode == 3, plain.stderr
    report = tmp_path / "report.json"
    done = ingest(tmp_path / "ray", files, "--ray", "local", "--report", report)
    assert done.returncode == 3, done.stderr

    def without_seconds(text: str) -> list[str]:
        return sorted(re.sub(r" \[[\d.]+ s\]| in [\d.]+ s", "", text).splitlines())

    assert without_seconds(done.stdout) == without_seconds(plain.stdout)
    found = contents(tmp_path / "ray", embedder)
    assert found == contents(tmp_path / "plain", embedder)
    assert len(found) == 3
    statuses = [entry["status"] for entry in json.loads(report.read_text())["documents"]]
    assert sorted(statuses) == ["ingested"] * 3 + ["refused"]

    again = ingest(tmp_path / "ray", files, "--ray", "local")
    assert again.returncode == 3, again.stderr
    assert contents(tmp_path / "ray", embedder) == found


def test_no_cluster_at_the_address_is_said_so(files: Path, tmp_path: Path) -> None:
    done = ingest(tmp_path, files, "--ray", "127.0.0.1:1")
    assert done.returncode == 2
    assert "--ray 127.0.0.1:1: no Ray cluster answers there" in done.stderr
    assert "ray start --head" in done.stderr
    assert "Traceback" not in done.stderr


def test_files_come_back_in_any_order_and_are_handed_over_once() -> None:
    import pickle

    rows = [{"path": name, "prepared": pickle.dumps(Prepared(name))} for name in ("c", "a", "b")]
    files = PreparedFiles(["a", "b", "c"], iter(rows))
    assert files.take("elsewhere") is None
    assert [files.take(name) for name in ("a", "b", "c")] == [Prepared("a"), Prepared("b"), Prepared("c")]
    assert files.take("a") is None


def test_a_lost_cluster_is_an_outage_that_says_how_to_go_on() -> None:
    def rows() -> Any:
        yield from ()
        raise RuntimeError("the head node is gone\nand a long trace")

    with pytest.raises(IngestionStopped, match=r"RuntimeError: the head node is gone\).*which continues"):
        PreparedFiles(["a"], rows()).take("a")
    with pytest.raises(IngestionStopped):
        PreparedFiles(["a"], iter(())).take("a")
