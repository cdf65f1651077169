"""Chunks to the index: one file in, one `FileOutcome` out; ingesting again adds nothing, a stopped run continues.

It neither reads files (`ingest.reader_process`) nor cuts chunks (`ingest.chunk`), and keeps no state of its own: what
was done is what the index holds.

The order of the steps is what makes `kill -9` harmless. The record comes first (state `ingesting`), then the copy of
the original with its name, then chunks in batches, then `publish_document`, which alone makes the document searchable
and, last, removes the versions that it replaces. Whatever a kill leaves belongs to a record that the next run finds and
completes. Originals and names are what `ingest.rebuild` makes a damaged index of again.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from time import perf_counter, time
from typing import Literal, Self
from uuid import uuid4

from ingest.chunk import chunk_document
from ingest.files import (
    DOCUMENT_ID,
    KEPT_SUFFIXES,
    bare_name,
    content_id,
    copy_with_id,
    move_durably,
    original_in,
    printable,
    write_durably,
)
from ingest.next_file import Cut, NextFile
from ingest.ocr_pages import keep_ocr_pages, ocr_file
from ingest.read_document import ReadDocument
from ingest.reader_process import ReadLimits, read_document
from ingest.vectors_ahead import VectorsAhead
from rag.errors import BadInput, CollectionError, EmbedderMismatch, FileRefused, Rank37Error, RefusedReason
from rag.ports import Embedder, Index, Progress, Vectors
from rag.settings import Settings
from rag.types import Chunk, DocumentKind, StoredDocument

log = logging.getLogger(__name__)

Embedded = tuple[Sequence[Chunk], Vectors]
"""A batch with its vectors, `(n_chunks, dimension)`."""

BATCH_CHUNKS = 32
"""Chunks embedded and written at a time: a kill loses at most this much work of a file, 3 s of two CPU cores, and what
was embedded ahead (`ingest.vectors_ahead.MOST_BATCHES`)."""

LONGEST_DEFAULT_CHUNK_TOKENS = 384
"""Budget of a chunk where none is set and the embedder reads more: a reranker of 512 takes it with a question."""

WRITE_ROUNDS = 3
"""How often chunks that turn out to be missing are written again before giving up."""

LEFTOVER_AGE_S = 6 * 3600
"""Unfinished copies older than this belong to no running process."""

FileStatus = Literal["ingested", "unchanged", "replaced", "refused"]
IngestStage = Literal["read", "chunk", "embed", "write"]


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far one file is."""

    stage: IngestStage
    done: int
    """Pages in `read`, chunks in the other stages."""
    total: int


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """How ingesting one file ended."""

    file: str
    """As the person named it; printable."""
    status: FileStatus
    reason: RefusedReason | None = None
    """Set if and only if the file was refused."""
    message: str = ""
    """One sentence for a person."""
    warnings: tuple[str, ...] = ()
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    """1-based numbers."""
    chunks: int = 0
    seconds: float = 0.0
    document_id: str | None = None
    """The document in the collection that holds this file's content; None if it was refused."""


def names_folder(files_dir: Path) -> Path:
    """Where the names of the originals in `files_dir` are kept: one `<document id>.json` each, `{"source": name}`."""
    return files_dir.with_name("names")


def limits_of(settings: Settings) -> ReadLimits:
    """What one file may cost, by the settings."""
    return ReadLimits(
        max_file_bytes=int(settings.max_file_mb * 2**20),
        max_pages=settings.max_pages,
        time_limit_s=settings.file_time_limit_s,
        memory_limit_bytes=settings.file_memory_limit_mb * 2**20,
        ocr_page_limit_s=settings.ocr_page_limit_s,
    )


class Cutter:
    """Reads a file and cuts it into chunks. It needs no index, so that it can work anywhere."""

    def __init__(
        self, embedder: Embedder, *, limits: ReadLimits, chunk_tokens: int | None = None, overlap_tokens: int = 32
    ) -> None:
        """Raises BadInput if the chunk sizes can't be."""
        self.limits = limits
        self._embedder = embedder
        self._max_tokens = _chunk_budget(chunk_tokens, overlap_tokens, embedder)
        self._overlap_tokens = overlap_tokens

    @classmethod
    def from_settings(cls, settings: Settings, embedder: Embedder) -> Self:
        """With the configured limits and chunk sizes."""
        return cls(
            embedder,
            limits=limits_of(settings),
            chunk_tokens=settings.chunk_tokens,
            overlap_tokens=settings.chunk_overlap_tokens,
        )

    def __call__(
        self, path: Path, name: str, report: Reporter, *, ahead: bool = False
    ) -> tuple[ReadDocument, list[Chunk]]:
        """Read and cut a file that people know by `name`; `ahead` of its turn, it leaves the processor to others.

        Raises FileRefused; an error that nobody foresaw ends this file only, and is logged with its traceback.
        """
        try:
            read = read_document(
                path,
                source=name,
                limits=self.limits,
                steps_back=ahead,
                progress=lambda done, total: report("read", done, total),
                cancelled=report.is_cancelled,
            )
            report("chunk", 0, 0)
            chunks = chunk_document(
                read.document,
                read.pages,
                read.headings,
                count_tokens=self._embedder.count_tokens,
                count_passage_tokens=self._embedder.count_passage_tokens,
                max_tokens=self._max_tokens,
                overlap_tokens=self._overlap_tokens,
            )
        except (Rank37Error, MemoryError):
            raise
        except Exception as error:
            log.exception("unforeseen error while reading %s", name)
            raise FileRefused(
                "damaged", f"{name} can't be read: unforeseen {type(error).__name__} ({error}), the log has the details"
            ) from error
        if not chunks:
            reason: RefusedReason = "no_text_layer" if read.kind == "pdf" else "no_text"
            raise FileRefused(reason, f"{name} has no readable text")
        report("chunk", len(chunks), len(chunks))
        return read, chunks


class Ingester:
    """Brings files into one collection, one at a time. Safe to call from several threads.

    Raises EmbedderMismatch if the collection was made with another embedder, BadInput if the chunk sizes can't be.
    """

    def __init__(
        self,
        embedder: Embedder,
        index: Index,
        files_dir: Path,
        *,
        limits: ReadLimits,
        chunk_tokens: int | None = None,
        overlap_tokens: int = 32,
        cutter: Cutter | None = None,
    ) -> None:
        """Open the folder of originals; `cutter` reads and cuts in place of the usual one."""
        if index.embedder != embedder.identity:
            made_with, runs = index.embedder, embedder.identity
            raise EmbedderMismatch(
                f"collection {index.collection!r} was made with {made_with.name} {made_with.revision} "
                f"({made_with.dimension}); this run embeds with {runs.name} {runs.revision} ({runs.dimension}): "
                "set RANK37_EMBEDDER to the first, or ingest into another collection"
            )
        self._embedder = embedder
        self._index = index
        self._files_dir = files_dir
        self._names_dir = names_folder(files_dir)
        self._limits = limits
        self._looks_ahead = cutter is None
        self._cutter = cutter or Cutter(
            embedder, limits=limits, chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens
        )
        self._ahead: list[tuple[Path, str, Cutter, NextFile]] = []
        self._ahead_lock = Lock()
        self._one_at_a_time = Lock()
        self._held_lock = Lock()
        self._held: set[str] = set()
        with storage_errors(files_dir):
            files_dir.mkdir(parents=True, exist_ok=True)
            self._names_dir.mkdir(exist_ok=True)
            self._finish_interrupted_removals()
            self._note_missing_names()

    @classmethod
    def from_settings(
        cls, settings: Settings, embedder: Embedder, index: Index, *, cutter: Cutter | None = None
    ) -> Self:
        """The ingester of the configured collection, with the configured limits."""
        return cls(
            embedder,
            index,
            settings.collection_dir / "files",
            limits=limits_of(settings),
            chunk_tokens=settings.chunk_tokens,
            overlap_tokens=settings.chunk_overlap_tokens,
            cutter=cutter,
        )

    @property
    def max_file_bytes(self) -> int:
        """The largest file that is taken."""
        return self._limits.max_file_bytes

    @property
    def index(self) -> Index:
        """The collection that is written to."""
        return self._index

    def original(self, document_id: str) -> Path:
        """Where the copy of a document's file is kept; its extension tells the kind.

        Raises BadInput for what is no document id.
        """
        if not DOCUMENT_ID.fullmatch(document_id):
            raise BadInput(f"{document_id!r} is no document id: 32 hexadecimal digits are expected")
        return original_in(self._files_dir, document_id) or self._new_original(document_id, "pdf")

    def _new_original(self, document_id: str, kind: DocumentKind) -> Path:
        return self._files_dir / f"{document_id}{KEPT_SUFFIXES[kind]}"

    def ingest(
        self,
        path: Path,
        *,
        source: str | None = None,
        keep: Collection[str] = (),
        progress: Callable[[IngestProgress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> FileOutcome:
        """Bring one file in. What is wrong with the file is an outcome; what would hit every file is raised.

        Args:
            path: The file. It is copied first, so it may change or vanish meanwhile.
            source: The file's name as the person knows it; the path's own name if None. Folders in it are cut off.
            keep: Ids of documents that this file does not replace, though they have its name.
            progress: Called from this thread.
            cancelled: Asked often; once it says True, what was written of the file is removed and the outcome is
                `refused` with reason `cancelled`. A document that is already published stays.

        Raises:
            IndexUnavailable, CollectionError, ModelUnavailable: The file may be unfinished then; ingesting it again
                continues where this run stopped.
        """
        started = perf_counter()
        file = printable(path) if source is None else bare_name(source)
        report = Reporter(file, progress, cancelled)
        with self._one_at_a_time:
            try:
                outcome = self._ingest(path, bare_name(path.name if source is None else source), keep, report)
            except FileRefused as refusal:
                outcome = FileOutcome(file, "refused", refusal.reason, str(refusal))
        return replace(outcome, file=file, seconds=perf_counter() - started)

    def look_ahead(self, path: Path, *, source: str | None = None) -> None:
        """Begin to read, cut and embed a file whose turn comes soon; `ingest` with the same arguments takes that up.

        It returns at once. What is wrong with the file, its turn says. What two later ones follow and was not taken
        up is given up.
        """
        if not self._looks_ahead:
            return
        name = bare_name(path.name if source is None else source)
        cutter, embedder = self._cutter, self._embedder
        file = NextFile(
            path,
            self._new_part(),
            max_bytes=self._limits.max_file_bytes,
            is_in=self._needs_no_work,
            cut=lambda part, note, is_stopped: cutter(
                part, name, Reporter(name, _pages_to(note), is_stopped), ahead=True
            ),
            vectors_of=lambda chunks: VectorsAhead(embedder, _batches(chunks)),
        )
        with self._ahead_lock:
            self._ahead.append((path, name, cutter, file))
            # two: the one before it may not have been taken up yet
            dropped, self._ahead = self._ahead[:-2], self._ahead[-2:]
        for *_, unwanted in dropped:
            unwanted.give_up()

    def forget_ahead(self) -> None:
        """Give up all that was begun ahead."""
        with self._ahead_lock:
            dropped, self._ahead = self._ahead, []
        for *_, unwanted in dropped:
            unwanted.give_up()

    def delete(self, document_id: str) -> int:
        """Remove a document, its chunks and its original; returns the number of chunks removed (unknown id: 0).

        Raises BadInput if the document is being ingested right now.
        """
        with self._held_lock:
            if document_id in self._held:
                raise BadInput("this document is being ingested right now: cancel that first, then delete it")
            return self._remove(document_id)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """While the block runs, no file comes in and none is deleted; waits for the one in work."""
        with self._one_at_a_time, self._held_lock:
            yield

    def move_to(self, other: Ingester) -> None:
        """Write to another ingester's index from now on, with its embedder: only within `at_rest`.

        Whoever waits to bring a file in or to delete one does so there.
        """
        self._embedder, self._index, self._cutter = other._embedder, other._index, other._cutter

    def _ingest(self, path: Path, name: str, keep: Collection[str], report: Reporter) -> FileOutcome:
        max_bytes = self._limits.max_file_bytes
        report("read", 0, 0)
        document_id = content_id(path, max_bytes=max_bytes)
        existing = self._index.document(document_id)
        if existing is not None and existing.state == "ready":
            return self._already_in(existing, path, name, keep)

        with self._hold(document_id), self._copy(path, name, document_id) as (part, ahead):
            begun = False
            try:
                started = perf_counter()
                cut = None if ahead is None else _taken_up(ahead, report)
                read, chunks = cut or self._cutter(part, name, report)
                stored = StoredDocument(
                    read.document,
                    "ingesting",
                    pages_without_text=tuple(read.pages_without_text),
                    warnings=tuple(read.warnings),
                    ingested_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    kind=read.kind,
                    size_bytes=part.stat().st_size,
                    ocr_pages=read.ocr_pages,
                )
                self._index.begin_document(stored)
                begun = True
                with storage_errors(self._files_dir):
                    original = self._new_original(document_id, read.kind)
                    if read.ocr_pages:
                        keep_ocr_pages(original, [read.pages[number - 1] for number in read.ocr_pages])
                    move_durably(part, original)
                    self._note_name(document_id, name)
                self._write(document_id, chunks, report, None if cut is None or ahead is None else ahead.vectors)
                report("write", 0, len(chunks))
                ready = replace(stored, state="ready", n_chunks=len(chunks), seconds=perf_counter() - started)
                replaced = self._publish(ready, keep)
            except FileRefused:
                self._discard_unfinished(document_id)
                raise
            except CollectionError as error:
                if not begun or self._index.document(document_id) is not None:
                    raise
                self._discard_unfinished(document_id)
                raise FileRefused("cancelled", f"{name} was deleted while it was being ingested") from error
        report.published(len(chunks))
        return _outcome(ready, "replaced" if replaced else "ingested", _message(ready, replaced))

    def _already_in(self, existing: StoredDocument, path: Path, name: str, keep: Collection[str]) -> FileOutcome:
        """The content is in the collection: no model runs. A new name for it still ends the name's earlier version."""
        document = existing.document
        if not self.original(document.id).exists():
            with self._part() as part, storage_errors(self._files_dir):
                if copy_with_id(path, part, max_bytes=self._limits.max_file_bytes) == document.id:
                    move_durably(part, self._new_original(document.id, existing.kind))
        if name == document.source:
            return _outcome(existing, "unchanged", "already in the collection, nothing to do")
        message = f"the same content is already in the collection as {document.source!r}"
        earlier = self._versions_named(name, excluding={document.id, *keep})
        for version in earlier:
            self._remove(version.document.id)
        if not any(version.state == "ready" for version in earlier):
            return _outcome(existing, "unchanged", message)
        return _outcome(existing, "replaced", f"{message}; the earlier version of {name!r} was removed")

    def _write(
        self, document_id: str, chunks: Sequence[Chunk], report: Reporter, ahead: VectorsAhead | None = None
    ) -> None:
        """Embed and write what the index does not hold yet, until it holds exactly these chunks of the document.

        What is embedded `ahead` is taken from there, where it is of the same batches.

        Asking again after writing is what a document's wholeness rests on: another program that deletes from the same
        collection meanwhile can't leave a published document with holes.
        """
        wanted = {chunk.id for chunk in chunks}
        for _round in range(WRITE_ROUNDS):
            written = self._index.chunk_ids(document_id)
            if stale := written - wanted:
                self._index.delete_chunks(sorted(stale))
            missing = [chunk for chunk in chunks if chunk.id not in written]
            if not missing:
                return
            done = len(chunks) - len(missing)
            report("embed", done, len(chunks))
            batches = _batches(missing)
            begun, ahead = ahead, None
            if begun is not None and begun.batches == batches:
                embedded = begun.in_order(lambda n: report("embed", n, len(chunks)))
            else:
                embedded = self._embedded(batches, done, len(chunks), report)
            for batch, vectors in _refusing_bad_input(embedded):
                self._index.add_chunks(batch, vectors)
                done += len(batch)
                report("embed", done, len(chunks))
        raise CollectionError(
            f"collection {self._index.collection!r} lost chunks of a document {WRITE_ROUNDS} times while it was being "
            "written: make sure that no other program deletes from it, then ingest again"
        )

    def _embedded(
        self, batches: Sequence[Sequence[Chunk]], done: int, total: int, report: Reporter
    ) -> Iterator[Embedded]:
        """Each batch with its vectors, made when it is asked for; `done` of the file's chunks are written already."""
        for batch in batches:
            passages = [chunk.passage for chunk in batch]
            yield batch, self._embedder.embed_passages(passages, progress=report.embedding(done, total))
            done += len(batch)

    def _publish(self, ready: StoredDocument, keep: Collection[str]) -> list[StoredDocument]:
        """Make a document searchable in place of its earlier versions; returns those that were searchable."""
        earlier = self._versions_named(ready.document.source, excluding={ready.document.id, *keep})
        ids = [version.document.id for version in earlier]
        with storage_errors(self._files_dir):
            for document_id in ids:
                self._leaving(document_id).touch()
        self._index.publish_document(ready, replaces=ids)
        with storage_errors(self._files_dir):
            for document_id in ids:
                self._forget_original(document_id)
        return [version for version in earlier if version.state == "ready"]

    def _versions_named(self, name: str, *, excluding: Collection[str]) -> list[StoredDocument]:
        return [
            stored
            for stored in self._index.documents()
            if stored.document.source == name and stored.document.id not in excluding
        ]

    def _remove(self, document_id: str) -> int:
        original = self.original(document_id)
        with storage_errors(self._files_dir):
            if original.exists():
                self._leaving(document_id).touch()
        n_chunks = self._index.delete_document(document_id)
        with storage_errors(self._files_dir):
            self._forget_original(document_id)
        return n_chunks

    def _discard_unfinished(self, document_id: str) -> None:
        stored = self._index.document(document_id)
        if stored is None or stored.state == "ingesting":
            self._remove(document_id)

    def _leaving(self, document_id: str) -> Path:
        """An empty file that says: once this document's record is gone, its original goes too."""
        return self._files_dir / f".{document_id}.leaving"

    def _forget_original(self, document_id: str) -> None:
        original = self.original(document_id)
        ocr_file(original).unlink(missing_ok=True)
        original.unlink(missing_ok=True)
        self._name_file(document_id).unlink(missing_ok=True)
        self._leaving(document_id).unlink(missing_ok=True)

    def _finish_interrupted_removals(self) -> None:
        """Remove what a kill left behind: originals of deleted documents, and copies that were never finished."""
        for marker in self._files_dir.glob(".*.leaving"):
            document_id = marker.name.split(".")[1]
            if not DOCUMENT_ID.fullmatch(document_id):
                continue
            if self._index.document(document_id) is None:
                self._forget_original(document_id)
            else:
                marker.unlink(missing_ok=True)
        for part in self._files_dir.glob(".*.part"):
            if time() - part.stat().st_mtime > LEFTOVER_AGE_S:
                part.unlink(missing_ok=True)

    def _name_file(self, document_id: str) -> Path:
        return self._names_dir / f"{document_id}.json"

    def _note_name(self, document_id: str, source: str) -> None:
        """Keep beside the original what the index alone would know of it otherwise."""
        write_durably(self._name_file(document_id), json.dumps({"source": source}).encode())

    def _note_missing_names(self) -> None:
        """Collections of data format 1 have no names outside the index."""
        for stored in self._index.documents():
            document = stored.document
            if self.original(document.id).exists() and not self._name_file(document.id).exists():
                self._note_name(document.id, document.source)

    def _needs_no_work(self, document_id: str) -> bool:
        """Whether it is in the collection, or comes in right now as another file of the same content."""
        with self._held_lock:
            if document_id in self._held:
                return True
        stored = self._index.document(document_id)
        return stored is not None and stored.state == "ready"

    @contextmanager
    def _copy(self, path: Path, name: str, document_id: str) -> Iterator[tuple[Path, NextFile | None]]:
        """A copy of a file of this content, and what was begun of it ahead."""
        ahead = self._begun_ahead(path, name)
        try:
            if ahead is not None and ahead.copied_id() == document_id:
                yield ahead.part, ahead
                return
        finally:
            if ahead is not None:
                ahead.give_up()
        with self._part() as part:
            with storage_errors(self._files_dir):
                if copy_with_id(path, part, max_bytes=self._limits.max_file_bytes) != document_id:
                    raise FileRefused("unreadable", f"{name} changed while it was being read: ingest it again")
            yield part, None

    def _begun_ahead(self, path: Path, name: str) -> NextFile | None:
        with self._ahead_lock:
            for entry in self._ahead:
                if entry[:2] == (path, name) and entry[2] is self._cutter:  # no other chunk sizes than it has now
                    self._ahead.remove(entry)
                    return entry[3]
        return None

    def _new_part(self) -> Path:
        return self._files_dir / f".{uuid4().hex}.part"

    @contextmanager
    def _part(self) -> Iterator[Path]:
        """A path for an unfinished copy, beside the originals so that renaming it is atomic."""
        part = self._new_part()
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _hold(self, document_id: str) -> Iterator[None]:
        """Keep `delete` away from a document while it is being written."""
        with self._held_lock:
            self._held.add(document_id)
        try:
            yield
        finally:
            with self._held_lock:
                self._held.discard(document_id)


def ingest_files(
    ingester: Ingester,
    files: Sequence[Path],
    begin: Callable[[Path], Callable[[IngestProgress], None]] = lambda path: lambda progress: None,
) -> Iterator[FileOutcome]:
    """Ingest files in order, yielding each outcome; `begin` gives what takes a file's progress.

    A file replaces earlier versions of its name, but never what another file of the same run has brought in: two
    folders may both hold a `report.pdf`.
    """
    names = Counter(path.name for path in files)
    siblings: dict[str, set[str]] = {name: set() for name, count in names.items() if count > 1}
    for path in files:
        if path.name in siblings:
            with suppress(FileRefused):  # its own turn says why
                siblings[path.name].add(content_id(path, max_bytes=ingester.max_file_bytes))
    brought_in: set[str] = set()
    try:
        for path, following in zip_longest(files, files[1:]):
            if following is not None:
                ingester.look_ahead(following)
            keep = brought_in | siblings.get(path.name, set())
            outcome = ingester.ingest(path, keep=keep, progress=begin(path))
            if outcome.document_id is not None:
                brought_in.add(outcome.document_id)
            yield outcome
    finally:
        ingester.forget_ahead()


def _refusing_bad_input(embedded: Iterator[Embedded]) -> Iterator[Embedded]:
    """The same; what the embedder can't take refuses the file. What is done with a batch raises as it does."""
    try:
        yield from embedded
    except BadInput as error:
        raise FileRefused("damaged", f"a passage of it can't be embedded: {error}") from error


def _batches(chunks: Sequence[Chunk]) -> list[Sequence[Chunk]]:
    return [chunks[start : start + BATCH_CHUNKS] for start in range(0, len(chunks), BATCH_CHUNKS)]


def _pages_to(note: Callable[[int, int], None]) -> Callable[[IngestProgress], None]:
    """Passes on how many pages have been read."""
    return lambda progress: note(progress.done, progress.total) if progress.stage == "read" else None


def _taken_up(ahead: NextFile, report: Reporter) -> Cut | None:
    """What was begun of a file ahead, told as if it were read now."""
    cut = ahead.outcome(lambda done, total: report("read", done, total))
    if cut is not None:
        read, chunks = cut
        report("read", read.document.page_count, read.document.page_count)
        report("chunk", 0, 0)
        report("chunk", len(chunks), len(chunks))
    return cut


class Reporter:
    """Passes progress on, and turns a cancellation into the refusal that ends the file."""

    def __init__(
        self,
        file: str,
        progress: Callable[[IngestProgress], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._file = file
        self._progress = progress
        self._cancelled = cancelled

    def __call__(self, stage: IngestStage, done: int, total: int) -> None:
        """Tell how far it is; a file that was cancelled ends here, as FileRefused."""
        if self.is_cancelled():
            raise FileRefused("cancelled", f"{self._file} was cancelled: nothing of it was kept")
        if self._progress is not None:
            self._progress(IngestProgress(stage, done, total))

    def is_cancelled(self) -> bool:
        """Whether the person gave the file up."""
        return self._cancelled is not None and self._cancelled()

    def embedding(self, before: int, total: int) -> Progress:
        """Progress of one batch, told as progress of the file."""
        return lambda done, _total: self("embed", before + done, total)

    def published(self, n_chunks: int) -> None:
        """The last report: too late to cancel."""
        if self._progress is not None:
            self._progress(IngestProgress("write", n_chunks, n_chunks))


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """A disk that is full or read-only hits every file: say so once, as an error of the collection."""
    try:
        yield
    except OSError as error:
        raise CollectionError(
            f"{folder} can't be written: {error.strerror or error}; free some space, change its rights or set "
            "RANK37_DATA_DIR"
        ) from error


def _chunk_budget(chunk_tokens: int | None, overlap_tokens: int, embedder: Embedder) -> int:
    """Most tokens of a chunk. Raises BadInput where the embedder would truncate it or the overlap fills it."""
    if chunk_tokens is None:
        chunk_tokens = min(embedder.max_tokens, LONGEST_DEFAULT_CHUNK_TOKENS)
    elif chunk_tokens > embedder.max_tokens:
        raise BadInput(
            f"chunks of {chunk_tokens} tokens can't be embedded whole: {embedder.identity.name} reads "
            f"{embedder.max_tokens}; set RANK37_CHUNK_TOKENS to at most that"
        )
    if overlap_tokens > chunk_tokens // 2:
        raise BadInput(
            f"an overlap of {overlap_tokens} tokens is more than half of a chunk ({chunk_tokens}): "
            f"set RANK37_CHUNK_OVERLAP_TOKENS to at most {chunk_tokens // 2}"
        )
    return chunk_tokens


def _outcome(stored: StoredDocument, status: FileStatus, message: str) -> FileOutcome:
    return FileOutcome(
        "",
        status,
        None,
        message,
        stored.warnings,
        stored.document.page_count,
        stored.pages_without_text,
        stored.n_chunks,
        0.0,
        stored.document.id,
    )


def counted(number: int, thing: str) -> str:
    """A number with its noun.

    >>> counted(1, "page"), counted(2, "page")
    ('1 page', '2 pages')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _message(ready: StoredDocument, replaced: Sequence[StoredDocument]) -> str:
    unit = "page" if ready.kind == "pdf" else "section"
    size = f"{counted(ready.document.page_count, unit)}, {counted(ready.n_chunks, 'chunk')}"
    return f"{size}, in place of the earlier version" if replaced else size
