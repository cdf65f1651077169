"""Ingesting files into a real index with the real embedder: what ends up in the collection, and what does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest.files import bare_name, find_pdfs
from ingest.reader_process import ReadLimits
from ingest.write import FileOutcome, Ingester, IngestProgress, ingest_files
from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import BadInput, CollectionError, EmbedderMismatch, IndexUnavailable
from rag.ports import Embedder, Index, Progress, Vectors
from rag.types import EmbedderIdentity
from tests.ingest.written_pdfs import long_pdf, sentences, write_pdf

LIMITS = ReadLimits(max_file_bytes=5_000_000, max_pages=200, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)

PARKING = "Parking permits cost forty crowns a month. They are sold at the town hall."
PARKING_DEARER = "Parking permits cost sixty crowns a month. They are sold at the town hall."
LIBRARY = "The library lends a book for three weeks. A reminder is sent by letter."


class CountingEmbedder:
    """The real embedder, and how many passages it was asked for."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.embedded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        self.embedded += len(texts)
        return self._embedder.embed_passages(texts, progress=progress)


class FailingIndex:
    """A real index whose nth `add_chunks` from now fails, as a server that went away does by itself."""

    def __init__(self, index: Index, *, fails_at: int, error: Exception | None = None) -> None:
        self._index = index
        self.calls_left = fails_at
        self._error = error or IndexUnavailable("the index went away")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def add_chunks(self, *arguments: Any) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise self._error
        self._index.add_chunks(*arguments)


@pytest.fixture
def counting(embedder: Embedder) -> CountingEmbedder:
    return CountingEmbedder(embedder)


@pytest.fixture
def index(tmp_path: Path, embedder: Embedder) -> Iterator[EdgeIndex]:
    index = EdgeIndex.open(tmp_path / "collection" / "index", "manuals", embedder.identity)
    yield index
    index.close()


@pytest.fixture
def files_dir(tmp_path: Path) -> Path:
    return tmp_path / "collection" / "files"


BATCH = 8


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of a few pages is enough for several batches."""
    monkeypatch.setattr("ingest.write.BATCH_CHUNKS", BATCH)


Build = Callable[..., Ingester]


@pytest.fixture
def build(counting: CountingEmbedder, index: EdgeIndex, files_dir: Path) -> Build:
    def make(*, with_index: Any = None, limits: ReadLimits = LIMITS, chunk_tokens: int = 40) -> Ingester:
        return Ingester(
            counting, with_index or index, files_dir, limits=limits, chunk_tokens=chunk_tokens, overlap_tokens=0
        )

    return make


@pytest.fixture
def ingester(build: Build) -> Ingester:
    return build()


def found(index: Index, embedder: Embedder, question: str) -> list[str]:
    """The texts that a question recalls, best first."""
    return [candidate.chunk.text for candidate in index.recall(question, embedder.embed_query(question), limit=10)]


def traces(index: Index, files_dir: Path) -> tuple[list[str], int, list[str]]:
    """Everything that a collection holds: document ids, searchable chunks, files."""
    return (
        [stored.document.id for stored in index.documents()],
        index.count_chunks(),
        sorted(path.name for path in files_dir.iterdir()),
    )


NOTHING: tuple[list[str], int, list[str]] = ([], 0, [])


# -- one file ----------------------------------------------------------------------------------------------------------


def test_an_ingested_file_is_found_and_accounted_for(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex, embedder: Embedder, files_dir: Path
) -> None:
    pdf = write_pdf(tmp_path / "parking.pdf", [PARKING, "", LIBRARY])

    outcome = ingester.ingest(pdf)

    assert (outcome.status, outcome.reason, outcome.file) == ("ingested", None, str(pdf))
    assert (outcome.pages, outcome.pages_without_text) == (3, (2,))
    assert any("page 2" in warning for warning in outcome.warnings)
    assert outcome.seconds > 0
    assert outcome.chunks == index.count_chunks() > 0
    assert "forty crowns" in found(index, embedder, "what does a parking permit cost")[0]
    [stored] = index.documents()
    assert (stored.state, stored.document.id, stored.document.source) == ("ready", outcome.document_id, "parking.pdf")
    assert (stored.n_chunks, stored.pages_without_text) == (outcome.chunks, (2,))
    assert stored.ingested_at
    assert ingester.original(stored.document.id).read_bytes() == pdf.read_bytes()
    assert len(list(files_dir.iterdir())) == 1


def test_the_same_file_again_adds_nothing_and_runs_no_model(
    tmp_path: Path, ingester: Ingester, counting: CountingEmbedder, index: EdgeIndex, files_dir: Path
) -> None:
    pdf = write_pdf(tmp_path / "parking.pdf", [PARKING])
    first = ingester.ingest(pdf)
    before, embedded = traces(index, files_dir), counting.embedded

    again = ingester.ingest(pdf)

    assert (again.status, again.document_id, again.chunks) == ("unchanged", first.document_id, first.chunks)
    assert (again.pages, again.pages_without_text) == (first.pages, first.pages_without_text)
    assert traces(index, files_dir) == before
    assert counting.embedded == embedded


def test_the_same_content_under_another_name_is_one_document(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex
) -> None:
    pdf = write_pdf(tmp_path / "parking.pdf", [PARKING])
    twin = tmp_path / "twin.pdf"
    twin.write_bytes(pdf.read_bytes())

    outcomes = list(ingest_files(ingester, [pdf, twin]))

    assert [outcome.status for outcome in outcomes] == ["ingested", "unchanged"]
    assert "parking.pdf" in outcomes[1].message
    assert len(index.documents()) == 1


def test_a_lost_original_comes_back_with_the_file(tmp_path: Path, ingester: Ingester) -> None:
    pdf = write_pdf(tmp_path / "parking.pdf", [PARKING])
    document_id = ingester.ingest(pdf).document_id
    assert document_id
    ingester.original(document_id).unlink()

    assert ingester.ingest(pdf).status == "unchanged"
    assert ingester.original(document_id).read_bytes() == pdf.read_bytes()


def test_progress_goes_through_the_stages_in_order(tmp_path: Path, ingester: Ingester) -> None:
    seen: list[IngestProgress] = []

    outcome = ingester.ingest(long_pdf(tmp_path / "long.pdf", seed=1, pages=3), progress=seen.append)

    stages = [progress.stage for progress in seen]
    assert [stage for number, stage in enumerate(stages) if stages[:number][-1:] != [stage]] == [
        "read",
        "chunk",
        "embed",
        "write",
    ]
    embedding = [progress.done for progress in seen if progress.stage == "embed"]
    assert embedding == sorted(embedding)
    assert (embedding[0], embedding[-1]) == (0, outcome.chunks)
    assert len(set(embedding)) > 2
    assert seen[-1] == IngestProgress("write", outcome.chunks, outcome.chunks)


# -- replacing ---------------------------------------------------------------------------------------------------------


def test_a_changed_file_replaces_the_old_one_once_it_is_in(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex, embedder: Embedder, files_dir: Path
) -> None:
    pdf = write_pdf(tmp_path / "parking.pdf", [PARKING])
    old = ingester.ingest(pdf)
    write_pdf(pdf, [PARKING_DEARER])
    while_embedding: list[list[str]] = []

    def watch(progress: IngestProgress) -> None:
        if progress.stage in ("embed", "write") and not (progress.stage == "write" and progress.done):
            while_embedding.append(found(index, embedder, "parking permit price"))

    new = ingester.ingest(pdf, progress=watch)

    assert new.status == "replaced"
    assert while_embedding
    for texts in while_embedding:
        assert "forty" in texts[0]
        assert not any("sixty" in text for text in texts)
    after = found(index, embedder, "parking permit price")
    assert "sixty" in after[0]
    assert not any("forty" in text for text in after)
    assert old.document_id != new.document_id
    assert traces(index, files_dir) == ([new.document_id], new.chunks, [f"{new.document_id}.pdf"])


def test_a_changed_file_that_is_refused_leaves_the_old_one(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex, embedder: Embedder, files_dir: Path
) -> None:
    pdf = write_pdf(tmp_path / "parking.pdf", [PARKING])
    ingester.ingest(pdf)
    before = traces(index, files_dir)
    pdf.write_bytes(pdf.read_bytes()[:200])

    assert ingester.ingest(pdf).status == "refused"
    assert traces(index, files_dir) == before
    assert "forty crowns" in found(index, embedder, "parking permit price")[0]


def test_a_file_that_takes_on_known_content_ends_its_own_earlier_version(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex, embedder: Embedder
) -> None:
    parking = write_pdf(tmp_path / "parking.pdf", [PARKING])
    rules = write_pdf(tmp_path / "rules.pdf", [LIBRARY])
    for pdf in (parking, rules):
        ingester.ingest(pdf)
    rules.write_bytes(parking.read_bytes())

    outcome = ingester.ingest(rules)

    assert outcome.status == "replaced"
    assert "parking.pdf" in outcome.message
    assert [stored.document.source for stored in index.documents()] == ["parking.pdf"]
    assert not any("library" in text for text in found(index, embedder, "how long is a book lent"))


def test_files_of_one_name_in_different_folders_stay_side_by_side(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex
) -> None:
    for year, text in (("2024", PARKING), ("2025", LIBRARY)):
        (tmp_path / "reports" / year).mkdir(parents=True)
        write_pdf(tmp_path / "reports" / year / "report.pdf", [text])
    files = list(find_pdfs([tmp_path / "reports"]))

    assert [outcome.status for outcome in ingest_files(ingester, files)] == ["ingested", "ingested"]
    assert [outcome.status for outcome in ingest_files(ingester, files)] == ["unchanged", "unchanged"]

    write_pdf(files[0], [PARKING_DEARER])
    assert [outcome.status for outcome in ingest_files(ingester, files)] == ["replaced", "unchanged"]
    assert len(index.documents()) == 2


def test_files_that_swapped_their_names_are_both_still_there(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex
) -> None:
    one, two = write_pdf(tmp_path / "one.pdf", [PARKING]), write_pdf(tmp_path / "two.pdf", [LIBRARY])
    first = {outcome.document_id for outcome in ingest_files(ingester, [one, two])}
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])

    list(ingest_files(ingester, [one, two]))

    assert {stored.document.id for stored in index.documents()} == first


# -- refusals ----------------------------------------------------------------------------------------------------------


def _not_a_pdf(path: Path) -> Path:
    path.write_text("minutes of the meeting")
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _with_password(path: Path) -> Path:
    return write_pdf(path, [PARKING], password="secret")


def _picture_only(path: Path) -> Path:
    return write_pdf(path, [""])


def _too_large(path: Path) -> Path:
    path.write_bytes(b"%PDF-1.7\n" + b"0" * LIMITS.max_file_bytes)
    return path


def _too_many_pages(path: Path) -> Path:
    return write_pdf(path, ["x"] * (LIMITS.max_pages + 1))


def _absent(path: Path) -> Path:
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _broken_link(path: Path) -> Path:
    path.symlink_to(path.with_name("gone.pdf"))
    return path


def _name_too_long(path: Path) -> Path:
    return path.with_name("n" * 300 + ".pdf")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_not_a_pdf, "not_a_pdf"),
        (_empty, "not_a_pdf"),
        (_with_password, "needs_password"),
        (_picture_only, "no_text_layer"),
        (_too_large, "too_large"),
        (_too_many_pages, "too_many_pages"),
        (_absent, "unreadable"),
        (_folder, "unreadable"),
        (_pipe, "unreadable"),
        (_broken_link, "unreadable"),
        (_name_too_long, "unreadable"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason_and_leaves_nothing(
    make: Callable[[Path], Path], reason: str, tmp_path: Path, ingester: Ingester, index: EdgeIndex, files_dir: Path
) -> None:
    outcome = ingester.ingest(make(tmp_path / "bad.pdf"))

    assert (outcome.status, outcome.reason, outcome.document_id) == ("refused", reason, None)
    assert len(outcome.message) > 10
    assert traces(index, files_dir) == NOTHING


def test_an_unforeseen_error_in_reading_ends_only_that_file(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex, monkeypatch: pytest.MonkeyPatch, files_dir: Path
) -> None:
    def chunk_document(document: Any, *arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("surprise")

    with monkeypatch.context() as patch:
        patch.setattr("ingest.write.chunk_document", chunk_document)
        outcome = ingester.ingest(write_pdf(tmp_path / "parking.pdf", [PARKING]))

    assert (outcome.status, outcome.reason) == ("refused", "damaged")
    assert "ZeroDivisionError" in outcome.message
    assert traces(index, files_dir) == NOTHING
    assert ingester.ingest(tmp_path / "parking.pdf").status == "ingested"


@pytest.mark.parametrize("ahead", [False, True])
def test_a_passage_that_can_not_be_embedded_refuses_the_file(
    ahead: bool, tmp_path: Path, build: Build, index: EdgeIndex, files_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed_passages(self: CountingEmbedder, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        raise BadInput("a text of 600 tokens: at most 512")

    monkeypatch.setattr(CountingEmbedder, "embed_passages", embed_passages)
    ingester, path = build(), write_pdf(tmp_path / "parking.pdf", [PARKING])
    if ahead:
        ingester.look_ahead(path)

    outcome = ingester.ingest(path)

    assert (outcome.status, outcome.reason) == ("refused", "damaged")
    assert "can't be embedded: a text of 600 tokens" in outcome.message
    assert traces(index, files_dir) == NOTHING


def test_what_the_index_can_not_take_is_not_laid_to_the_file(tmp_path: Path, build: Build, index: EdgeIndex) -> None:
    failing = FailingIndex(index, fails_at=1, error=BadInput("no such collection"))
    with pytest.raises(BadInput, match="^no such collection$"):
        build(with_index=failing).ingest(write_pdf(tmp_path / "parking.pdf", [PARKING]))


@pytest.mark.parametrize("stage", ["read", "chunk", "embed", "write"])
def test_cancelling_leaves_nothing(
    stage: str, tmp_path: Path, ingester: Ingester, index: EdgeIndex, files_dir: Path
) -> None:
    asked = False

    def watch(progress: IngestProgress) -> None:
        nonlocal asked
        asked = asked or (progress.stage == stage and progress.done < max(progress.total, 1))

    outcome = ingester.ingest(long_pdf(tmp_path / "long.pdf", seed=2, pages=2), progress=watch, cancelled=lambda: asked)

    assert asked
    if stage == "write":  # the last question comes before it: from here on the document is published
        assert outcome.status == "ingested"
        return
    assert (outcome.status, outcome.reason) == ("refused", "cancelled")
    assert traces(index, files_dir) == NOTHING


# -- stopped runs ------------------------------------------------------------------------------------------------------


def test_a_stopped_run_continues_where_it_was(
    tmp_path: Path, build: Build, counting: CountingEmbedder, index: EdgeIndex, embedder: Embedder, files_dir: Path
) -> None:
    pdf = long_pdf(tmp_path / "long.pdf", seed=3, pages=3)
    with pytest.raises(IndexUnavailable):
        build(with_index=FailingIndex(index, fails_at=2)).ingest(pdf)
    assert index.count_chunks() == 0
    assert [stored.state for stored in index.documents()] == ["ingesting"]
    counting.embedded = 0

    outcome = build().ingest(pdf)

    assert outcome.status == "ingested"
    assert outcome.chunks > 2 * BATCH
    assert counting.embedded == outcome.chunks - BATCH
    assert index.count_chunks() == outcome.chunks
    assert len(list(files_dir.iterdir())) == 1

    undisturbed_index = EdgeIndex.open(tmp_path / "undisturbed", "manuals", embedder.identity)
    undisturbed = build(with_index=undisturbed_index).ingest(pdf)
    assert undisturbed.document_id == outcome.document_id
    assert outcome.document_id
    assert undisturbed_index.chunks(outcome.document_id) == index.chunks(outcome.document_id)
    undisturbed_index.close()


def test_chunks_of_a_stopped_run_with_other_chunking_do_not_stay(
    tmp_path: Path, build: Build, index: EdgeIndex
) -> None:
    pdf = long_pdf(tmp_path / "long.pdf", seed=4, pages=3)
    with pytest.raises(IndexUnavailable):
        build(with_index=FailingIndex(index, fails_at=2), chunk_tokens=40).ingest(pdf)
    [stopped] = index.documents()
    assert len(index.chunk_ids(stopped.document.id)) == BATCH

    outcome = build(chunk_tokens=200).ingest(pdf)

    assert outcome.chunks == index.count_chunks() == len(index.chunk_ids(stopped.document.id))
    assert [chunk.position for chunk in index.chunks(stopped.document.id)] == list(range(outcome.chunks))


def test_a_stopped_run_under_another_name_does_not_leave_the_old_title(
    tmp_path: Path, build: Build, index: EdgeIndex
) -> None:
    pdf = long_pdf(tmp_path / "draft.pdf", seed=5, pages=3)
    with pytest.raises(IndexUnavailable):
        build(with_index=FailingIndex(index, fails_at=2)).ingest(pdf, source="draft.pdf")

    outcome = build().ingest(pdf, source="final.pdf")

    assert outcome.document_id
    [stored] = index.documents()
    assert stored.document.source == "final.pdf"
    assert {chunk.title for chunk in index.chunks(outcome.document_id)} == {stored.document.title}


def test_a_stopped_version_goes_when_another_version_of_the_name_is_in(
    tmp_path: Path, build: Build, index: EdgeIndex, files_dir: Path
) -> None:
    pdf = long_pdf(tmp_path / "long.pdf", seed=6, pages=3)
    with pytest.raises(IndexUnavailable):
        build(with_index=FailingIndex(index, fails_at=2)).ingest(pdf)
    write_pdf(pdf, [PARKING])

    outcome = build().ingest(pdf)

    assert outcome.status == "ingested"  # nothing searchable was replaced
    assert traces(index, files_dir) == ([outcome.document_id], outcome.chunks, [f"{outcome.document_id}.pdf"])


def test_a_stopped_file_that_is_then_refused_leaves_nothing(
    tmp_path: Path, build: Build, index: EdgeIndex, files_dir: Path
) -> None:
    pdf = long_pdf(tmp_path / "long.pdf", seed=7, pages=3)
    with pytest.raises(IndexUnavailable):
        build(with_index=FailingIndex(index, fails_at=2)).ingest(pdf)

    outcome = build(limits=replace(LIMITS, max_pages=2)).ingest(pdf)

    assert outcome.reason == "too_many_pages"
    assert traces(index, files_dir) == NOTHING


def test_chunks_deleted_by_someone_else_meanwhile_are_written_again(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex
) -> None:
    deleted = False

    def meddle(progress: IngestProgress) -> None:
        nonlocal deleted
        if progress.stage == "embed" and progress.done == progress.total and not deleted:
            [stored] = index.documents()
            index.delete_chunks(sorted(index.chunk_ids(stored.document.id))[:3])
            deleted = True

    outcome = ingester.ingest(long_pdf(tmp_path / "long.pdf", seed=8, pages=2), progress=meddle)

    assert deleted
    assert outcome.document_id
    assert [chunk.position for chunk in index.chunks(outcome.document_id)] == list(range(outcome.chunks))


def test_a_document_deleted_by_someone_else_meanwhile_ends_that_file_only(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex, files_dir: Path
) -> None:
    def meddle(progress: IngestProgress) -> None:
        if progress.stage == "embed" and progress.done:
            index.delete_document(index.documents()[0].document.id)

    pdf = long_pdf(tmp_path / "long.pdf", seed=10, pages=1)
    outcome = ingester.ingest(pdf, progress=lambda progress: meddle(progress) if index.documents() else None)

    assert (outcome.status, outcome.reason) == ("refused", "cancelled")
    assert "deleted" in outcome.message
    assert traces(index, files_dir) == NOTHING


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_a_deleted_document_is_gone_and_can_come_back(
    tmp_path: Path, ingester: Ingester, index: EdgeIndex, files_dir: Path
) -> None:
    pdf = write_pdf(tmp_path / "parking.pdf", [PARKING])
    outcome = ingester.ingest(pdf)
    assert outcome.document_id

    assert ingester.delete(outcome.document_id) == outcome.chunks
    assert traces(index, files_dir) == NOTHING
    assert ingester.delete(outcome.document_id) == 0
    assert ingester.ingest(pdf).status == "ingested"


def test_a_document_in_work_can_not_be_deleted(tmp_path: Path, ingester: Ingester, index: EdgeIndex) -> None:
    refusals: list[str] = []

    def meddle(progress: IngestProgress) -> None:
        if progress.stage == "embed" and not refusals:
            with pytest.raises(BadInput) as refusal:
                ingester.delete(index.documents()[0].document.id)
            refusals.append(str(refusal.value))

    assert ingester.ingest(write_pdf(tmp_path / "parking.pdf", [PARKING]), progress=meddle).status == "ingested"
    assert "cancel" in refusals[0]


@pytest.mark.parametrize("document_id", ["", "../../secret", "0" * 31, "0" * 33, "Z" * 32])
def test_only_a_document_id_names_a_file(document_id: str, ingester: Ingester) -> None:
    with pytest.raises(BadInput, match="document id"):
        ingester.delete(document_id)


def test_a_removal_that_was_interrupted_is_finished_at_the_next_start(
    tmp_path: Path, build: Build, index: EdgeIndex, files_dir: Path
) -> None:
    ingester = build()
    gone, stays = (
        ingester.ingest(write_pdf(tmp_path / f"{number}.pdf", [text])).document_id
        for number, text in enumerate((PARKING, LIBRARY))
    )
    assert gone
    for document_id in (gone, stays):
        (files_dir / f".{document_id}.leaving").touch()  # what a kill between two steps leaves
    index.delete_document(gone)

    build()

    assert sorted(path.name for path in files_dir.iterdir()) == [f"{stays}.pdf"]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("../../etc/passwd.pdf", "passwd.pdf"),
        ("C:\\papers\\report.pdf", "report.pdf"),
        ("/", "unnamed.pdf"),
        ("..", "unnamed.pdf"),
        ("📄 hélp 日本語.pdf", "📄 hélp 日本語.pdf"),
        ("he\u0301lp.pdf", "hélp.pdf"),
        ("n" * 251 + ".pdf", "n" * 251 + ".pdf"),
        ("n" * 5000 + ".pdf", "n" * 251 + ".pdf"),
        ("a\nb\x00\x1b[31m.pdf", "ab[31m.pdf"),
        ("\udcff.pdf", "\ufffd.pdf"),
        ("x\ud800.pdf", "x\ufffd.pdf"),
    ],
)
def test_a_name_is_a_label_and_never_a_path(
    name: str, source: str, tmp_path: Path, ingester: Ingester, index: EdgeIndex, files_dir: Path
) -> None:
    outcome = ingester.ingest(write_pdf(tmp_path / "upload", [PARKING]), source=name)

    assert (outcome.status, outcome.file) == ("ingested", source)
    assert [stored.document.source for stored in index.documents()] == [source]
    assert [path.name for path in files_dir.iterdir()] == [f"{outcome.document_id}.pdf"]


@pytest.mark.parametrize("name", [b"caf\xe9.pdf", "📄.pdf".encode(), b"n" * 251 + b".pdf", b"line\nbreak.pdf"])
def test_any_name_that_the_disk_allows_is_ingested(name: bytes, tmp_path: Path, ingester: Ingester) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(write_pdf(tmp_path / "plain.pdf", [PARKING]).read_bytes())

    outcome = ingester.ingest(path)

    assert outcome.status == "ingested"
    outcome.file.encode("utf-8")
    assert "\n" not in outcome.file


def test_a_folder_stands_for_its_pdfs_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.PDF", "a.pdf", "notes.txt", "deep/er/c.Pdf", "folder.pdf/d.pdf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    names = [path.relative_to(tmp_path).as_posix() for path in find_pdfs([tmp_path, tmp_path / "notes.txt"])]

    assert names == ["a.pdf", "b.PDF", "deep/er/c.Pdf", "folder.pdf/d.pdf", "notes.txt"]


# -- settings and storage ----------------------------------------------------------------------------------------------


def test_a_collection_of_another_embedder_is_refused_before_any_work(
    tmp_path: Path, embedder: Embedder, files_dir: Path
) -> None:
    other = EmbedderIdentity("bge-m3", "abc", 1024)
    index = EdgeIndex.open(tmp_path / "other", "manuals", other)
    with pytest.raises(EmbedderMismatch, match="bge-m3"):
        Ingester(embedder, index, files_dir, limits=LIMITS)
    assert not files_dir.exists()
    index.close()


def test_chunk_sizes_that_can_not_be_are_refused(index: EdgeIndex, embedder: Embedder, files_dir: Path) -> None:
    with pytest.raises(BadInput, match=f"{embedder.max_tokens + 1}.*RANK37_CHUNK_TOKENS"):
        Ingester(embedder, index, files_dir, limits=LIMITS, chunk_tokens=embedder.max_tokens + 1)
    with pytest.raises(BadInput, match="at most 20"):
        Ingester(embedder, index, files_dir, limits=LIMITS, chunk_tokens=40, overlap_tokens=21)


def test_no_chunk_is_longer_than_asked_and_none_by_default_than_the_embedder_reads(
    tmp_path: Path, build: Build, index: EdgeIndex, embedder: Embedder, files_dir: Path
) -> None:
    pdf = write_pdf(tmp_path / "long.pdf", [sentences(9, 40)])
    outcome = build(chunk_tokens=64).ingest(pdf)
    assert outcome.document_id
    passages = [chunk.passage for chunk in index.chunks(outcome.document_id)]
    assert max(embedder.count_passage_tokens(passages)) <= 64

    index.delete_document(outcome.document_id)
    Ingester(embedder, index, files_dir, limits=LIMITS).ingest(pdf)
    passages = [chunk.passage for chunk in index.chunks(outcome.document_id)]
    assert 64 < max(embedder.count_passage_tokens(passages)) <= embedder.max_tokens


def test_storage_that_can_not_be_written_is_an_error_and_no_refusal(
    tmp_path: Path, index: EdgeIndex, embedder: Embedder
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(CollectionError, match="RANK37_DATA_DIR"):
        Ingester(embedder, index, in_the_way / "files", limits=LIMITS)


def test_outcomes_say_a_reason_only_for_refusals(tmp_path: Path, ingester: Ingester) -> None:
    outcomes: list[FileOutcome] = [
        ingester.ingest(write_pdf(tmp_path / "a.pdf", [PARKING])),
        ingester.ingest(_not_a_pdf(tmp_path / "b.pdf")),
    ]
    assert [(outcome.reason is None) for outcome in outcomes] == [True, False]
    assert bare_name(outcomes[1].file) == "b.pdf"
