"""The next file of a run is read while the one before it is embedded, and nobody sees a difference but the time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from ingest import write
from ingest.read_document import ReadDocument
from ingest.reader_process import ReadLimits, read_document
from ingest.write import Ingester, IngestProgress, ingest_files
from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import FileRefused
from rag.ports import Embedder, Progress, Vectors
from tests.ingest.written_pdfs import long_pdf, sentences, write_pdf

LIMITS = ReadLimits(max_file_bytes=5_000_000, max_pages=200, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)
WAIT_S = 60.0

Opened = tuple[Ingester, EdgeIndex, Path]


@pytest.fixture
def open_collection(tmp_path: Path, embedder: Embedder) -> Iterator[Callable[..., Opened]]:
    opened = []

    def make(name: str, *, chunk_tokens: int = 40) -> Opened:
        index = EdgeIndex.open(tmp_path / name / "index", "manuals", embedder.identity)
        opened.append(index)
        files_dir = tmp_path / name / "files"
        ingester = Ingester(embedder, index, files_dir, limits=LIMITS, chunk_tokens=chunk_tokens, overlap_tokens=0)
        return ingester, index, files_dir

    yield make
    for index in opened:
        index.close()


class Readers:
    """The real reader, which tells which files have been read, and can be told how the first try of one ends."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: dict[str, threading.Event] = {}
        self.refused_first: dict[str, FileRefused] = {}

    def __call__(self, path: Path, *, source: str, **options: Any) -> ReadDocument:
        self.begun.append(source)
        try:
            if refusal := self.refused_first.pop(source, None):
                raise refusal
            return read_document(path, source=source, **options)
        finally:
            self.ended.setdefault(source, threading.Event()).set()

    def wait_for(self, source: str) -> None:
        assert self.ended.setdefault(source, threading.Event()).wait(WAIT_S), f"{source} was not read ahead"


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Readers:
    readers = Readers()
    monkeypatch.setattr(write, "read_document", readers)
    return readers


@pytest.fixture
def two_pdfs(tmp_path: Path) -> list[Path]:
    return [
        long_pdf(tmp_path / "first.pdf", seed=1, pages=2),
        long_pdf(tmp_path / "second.pdf", seed=2, pages=3),
    ]


def at_embedding(do: Callable[[], object]) -> Callable[[Path], Callable[[IngestProgress], None]]:
    """Do something once, while the first file is embedded."""
    is_done = False

    def begin(path: Path) -> Callable[[IngestProgress], None]:
        def watch(progress: IngestProgress) -> None:
            nonlocal is_done
            if path.name == "first.pdf" and progress.stage == "embed" and not is_done:
                is_done = True
                do()

        return watch

    return begin


def held(index: EdgeIndex) -> list[object]:
    """All that a collection holds of its documents but the times."""
    return [
        (stored.document, stored.state, stored.n_chunks, stored.warnings, index.chunks(stored.document.id))
        for stored in sorted(index.documents(), key=lambda stored: stored.document.source)
    ]


def leftovers(files_dir: Path) -> list[str]:
    return [path.name for path in files_dir.iterdir() if path.suffix == ".part"]


def test_the_next_file_is_read_while_one_is_embedded_and_the_collection_is_the_same(
    open_collection: Callable[..., Opened], readers: Readers, two_pdfs: list[Path]
) -> None:
    ingester, index, files_dir = open_collection("together")

    outcomes = list(ingest_files(ingester, two_pdfs, at_embedding(lambda: readers.wait_for("second.pdf"))))

    assert [outcome.status for outcome in outcomes] == ["ingested", "ingested"]
    assert sorted(readers.begun) == ["first.pdf", "second.pdf"]  # each once
    assert leftovers(files_dir) == []
    alone, index_of_alone, _ = open_collection("one-by-one")
    for path in two_pdfs:
        alone.ingest(path)
    assert held(index) == held(index_of_alone)


class Embeddings:
    """The real embedder, and the passages it was asked for, call by call."""

    def __init__(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.vectors: dict[str, Any] = {}
        self._embed = embedder.embed_passages
        monkeypatch.setattr(embedder, "embed_passages", self)

    def __call__(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        self.calls.append(tuple(texts))
        found = self._embed(texts, progress=progress)
        self.vectors |= {text: vector.tobytes() for text, vector in zip(texts, found, strict=True)}
        return found


def test_the_next_file_is_embedded_ahead_once_and_its_vectors_are_the_same_to_the_bit(
    open_collection: Callable[..., Opened], two_pdfs: list[Path], embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _, _ = open_collection("one-by-one")
    with monkeypatch.context() as patched:
        one_by_one = Embeddings(embedder, patched)
        alone.ingest(two_pdfs[0])
        of_first = set(one_by_one.calls)
        alone.ingest(two_pdfs[1])
    together = Embeddings(embedder, monkeypatch)
    ingester, _, _ = open_collection("together")

    def wait_for_second() -> None:
        deadline = monotonic() + WAIT_S
        while not set(together.calls) - of_first:
            assert monotonic() < deadline, "nothing was embedded ahead"
            sleep(0.01)

    list(ingest_files(ingester, two_pdfs, at_embedding(wait_for_second)))

    assert sorted(together.calls) == sorted(one_by_one.calls)  # the same batches, each once
    assert together.vectors == one_by_one.vectors


def test_a_file_that_was_begun_earlier_is_continued_though_it_was_embedded_ahead(
    open_collection: Callable[..., Opened], two_pdfs: list[Path], readers: Readers
) -> None:
    ingester, index, _ = open_collection("begun")
    whole, of_whole, _ = open_collection("whole")
    whole.ingest(two_pdfs[1])
    [stored] = of_whole.documents()
    written = of_whole.chunks(stored.document.id)[:3]
    index.begin_document(stored)
    index.add_chunks(written, np.zeros((len(written), index.embedder.dimension), dtype=np.float32))
    told: list[IngestProgress] = []

    def begin(path: Path) -> Callable[[IngestProgress], None]:
        watch = at_embedding(lambda: readers.wait_for("second.pdf"))(path)

        def tell(progress: IngestProgress) -> None:
            if path == two_pdfs[1]:
                told.append(progress)
            watch(progress)

        return tell

    outcomes = list(ingest_files(ingester, two_pdfs, begin))

    assert next(progress for progress in told if progress.stage == "embed").done == len(written)
    assert outcomes[1].chunks == stored.n_chunks == len(index.chunks(stored.document.id))


def test_a_file_that_changes_after_it_was_read_ahead_goes_in_as_it_is_at_its_turn(
    tmp_path: Path, open_collection: Callable[..., Opened], readers: Readers, two_pdfs: list[Path]
) -> None:
    ingester, index, files_dir = open_collection("changed")

    def change() -> None:
        readers.wait_for("second.pdf")
        write_pdf(two_pdfs[1], ["Parking permits cost sixty crowns a month."])

    outcomes = list(ingest_files(ingester, two_pdfs, at_embedding(change)))

    assert [outcome.status for outcome in outcomes] == ["ingested", "ingested"]
    document_id = outcomes[1].document_id
    assert document_id is not None
    assert [chunk.text for chunk in index.chunks(document_id)] == ["Parking permits cost sixty crowns a month."]
    assert ingester.original(document_id).read_bytes() == two_pdfs[1].read_bytes()
    assert leftovers(files_dir) == []


@pytest.mark.parametrize("reason", ["time_limit", "memory_limit"])
def test_what_a_busy_machine_can_bring_about_is_tried_again_at_its_turn(
    open_collection: Callable[..., Opened], readers: Readers, two_pdfs: list[Path], reason: Any
) -> None:
    ingester, _, files_dir = open_collection("busy")
    readers.refused_first["second.pdf"] = FileRefused(reason, "second.pdf took too much")

    outcomes = list(ingest_files(ingester, two_pdfs, at_embedding(lambda: readers.wait_for("second.pdf"))))

    assert [outcome.status for outcome in outcomes] == ["ingested", "ingested"]
    assert readers.begun.count("second.pdf") == 2
    assert leftovers(files_dir) == []


def test_a_bad_file_read_ahead_is_refused_at_its_turn_in_the_same_words(
    tmp_path: Path, open_collection: Callable[..., Opened], readers: Readers, two_pdfs: list[Path]
) -> None:
    ingester, index, files_dir = open_collection("bad")
    bad = tmp_path / "second.pdf"
    bad.write_bytes(b"%PDF-1.7\nnothing that a reader could open\n")

    first, refused = ingest_files(ingester, two_pdfs, at_embedding(lambda: readers.wait_for("second.pdf")))

    alone = open_collection("alone")[0].ingest(bad)
    assert (first.status, refused.status, refused.reason) == ("ingested", "refused", "damaged")
    assert (refused.reason, refused.message) == (alone.reason, alone.message)
    assert len(index.documents()) == 1
    assert leftovers(files_dir) == []


def test_a_run_that_is_left_keeps_nothing_of_the_next_file(
    open_collection: Callable[..., Opened], readers: Readers, two_pdfs: list[Path]
) -> None:
    ingester, index, files_dir = open_collection("left")

    run = ingest_files(ingester, two_pdfs, at_embedding(lambda: readers.wait_for("second.pdf")))
    first = next(run)
    run.close()

    assert [stored.document.id for stored in index.documents()] == [first.document_id]
    assert sorted(path.name for path in files_dir.iterdir()) == [f"{first.document_id}.pdf"]


def test_progress_of_a_file_read_ahead_is_told_at_its_turn_in_the_usual_order(
    open_collection: Callable[..., Opened], readers: Readers, two_pdfs: list[Path]
) -> None:
    ingester, _, _ = open_collection("told")
    told: list[tuple[str, IngestProgress]] = []
    threads = set()

    def begin(path: Path) -> Callable[[IngestProgress], None]:
        def watch(progress: IngestProgress) -> None:
            told.append((path.name, progress))
            threads.add(threading.current_thread())
            if path.name == "first.pdf" and progress.stage == "embed":
                readers.wait_for("second.pdf")

        return watch

    outcomes = list(ingest_files(ingester, two_pdfs, begin))

    assert threads == {threading.current_thread()}
    assert [name for name, _ in told] == sorted(name for name, _ in told)  # one file after the other
    of_second = [progress for name, progress in told if name == "second.pdf"]
    assert list(dict.fromkeys(progress.stage for progress in of_second)) == ["read", "chunk", "embed", "write"]
    assert IngestProgress("read", 3, 3) in of_second
    assert of_second[-1] == IngestProgress("write", outcomes[1].chunks, outcomes[1].chunks)


def test_what_was_cut_for_another_index_is_cut_again(
    tmp_path: Path, open_collection: Callable[..., Opened], readers: Readers
) -> None:
    pdf = write_pdf(tmp_path / "second.pdf", [sentences(3, 12)])
    ingester, _, files_dir = open_collection("small-chunks", chunk_tokens=40)
    other, index, _ = open_collection("large-chunks", chunk_tokens=120)
    alone = open_collection("alone", chunk_tokens=120)[0].ingest(pdf)

    ingester.look_ahead(pdf)
    readers.wait_for("second.pdf")
    with ingester.at_rest():
        ingester.move_to(other)
    outcome = ingester.ingest(pdf)
    ingester.forget_ahead()

    assert outcome.chunks == alone.chunks == index.count_chunks()
    assert leftovers(files_dir) == []
