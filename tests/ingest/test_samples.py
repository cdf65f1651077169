"""The samples are offered at the first start of an empty collection, and never against a person's wish."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest import samples
from ingest.queue import IngestQueue
from ingest.reader_process import ReadLimits
from ingest.samples import SAMPLES_DIR, mark_samples_done, queue_samples, samples_to_ingest
from ingest.write import Ingester
from rag.engines.qdrant_edge import EdgeIndex
from rag.ports import Embedder
from tests.ingest.written_pdfs import sentences, write_pdf

LIMITS = ReadLimits(max_file_bytes=300_000, max_pages=20, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)


@pytest.fixture
def collection_dir(tmp_path: Path) -> Path:
    return tmp_path / "collection"


@pytest.fixture
def index(collection_dir: Path, embedder: Embedder) -> Iterator[EdgeIndex]:
    index = EdgeIndex.open(collection_dir / "index", "manuals", embedder.identity)
    yield index
    index.close()


@pytest.fixture
def ingester(index: EdgeIndex, collection_dir: Path, embedder: Embedder) -> Ingester:
    return Ingester(embedder, index, collection_dir / "files", limits=LIMITS, chunk_tokens=40, overlap_tokens=0)


@pytest.fixture
def two_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    folder = tmp_path / "samples"
    folder.mkdir()
    monkeypatch.setattr(samples, "SAMPLES_DIR", folder)
    return [write_pdf(folder / f"{name}.pdf", [sentences(seed, 3)]) for seed, name in enumerate(["one", "two"])]


def test_the_samples_of_the_checkout_are_there() -> None:
    assert len(list(SAMPLES_DIR.glob("*.pdf"))) >= 8


def test_the_first_start_takes_the_samples_and_no_later_one_does(
    two_samples: list[Path], index: EdgeIndex, ingester: Ingester, collection_dir: Path
) -> None:
    queue = IngestQueue(ingester, collection_dir / "uploads")
    assert queue_samples(queue, index, collection_dir) == 2
    assert queue.wait(60)
    queue.close()

    assert sorted(stored.document.source for stored in index.documents()) == ["one.pdf", "two.pdf"]
    assert samples_to_ingest(index, collection_dir) == []
    for stored in index.documents():
        ingester.delete(stored.document.id)
    assert samples_to_ingest(index, collection_dir) == []


def test_a_first_start_that_was_stopped_half_way_continues(
    two_samples: list[Path], index: EdgeIndex, ingester: Ingester, collection_dir: Path
) -> None:
    assert samples_to_ingest(index, collection_dir) == two_samples
    ingester.ingest(two_samples[0])

    assert samples_to_ingest(index, collection_dir) == two_samples
    mark_samples_done(collection_dir)
    assert samples_to_ingest(index, collection_dir) == []


def test_who_began_with_own_files_never_gets_the_samples(
    two_samples: list[Path], index: EdgeIndex, ingester: Ingester, collection_dir: Path, tmp_path: Path
) -> None:
    own = ingester.ingest(write_pdf(tmp_path / "own.pdf", [sentences(9, 2)])).document_id
    assert own
    assert samples_to_ingest(index, collection_dir) == []
    ingester.delete(own)
    assert samples_to_ingest(index, collection_dir) == []


def test_an_outage_leaves_the_samples_for_the_next_start(
    two_samples: list[Path], index: EdgeIndex, ingester: Ingester, collection_dir: Path
) -> None:
    queue = IngestQueue(ingester, collection_dir / "uploads")
    files = collection_dir / "files"
    files.rmdir()
    files.touch()  # storage that can't be written
    queue_samples(queue, index, collection_dir)
    assert queue.wait(60)
    assert [job.state for job in queue.jobs()] == ["failed", "failed"]
    queue.close()

    assert samples_to_ingest(index, collection_dir) == two_samples


def test_an_installation_without_samples_offers_none(
    index: EdgeIndex, collection_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "SAMPLES_DIR", tmp_path / "absent")
    assert samples_to_ingest(index, collection_dir) == []
