"""A new index for an open collection, with the same embedder or another, while the earlier one goes on answering.

One thread brings every document of the earlier index into a new one beside it, from the kept originals, until both hold
the same documents; then the new one takes over in one step, for good from the moment in which it is declared whole.
What is added or deleted meanwhile is so in the earlier index at once, and the new one follows. It opens no collection,
and how questions come to the new index is the caller's part.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from ingest.ocr_pages import ocr_file
from ingest.queue import JobView
from ingest.rebuild import Original, begin_rebuilt, damage_to, declare_whole, planned_choice
from ingest.write import FileOutcome, Ingester, IngestProgress, storage_errors
from rag.data_folder import begun_folder
from rag.embedder_choice import EmbedderChoice
from rag.errors import CollectionDamaged, CollectionError, Rank37Error
from rag.ports import Embedder, Index
from rag.settings import Settings
from rag.types import EmbedderIdentity, StoredDocument
from rag.wiring import open_index

log = logging.getLogger(__name__)

NAMES_TOLD = 5
"""How many documents an error names."""

ReindexState = Literal["running", "done", "cancelled", "failed", "stopped"]

TakeOver = Callable[[Index, Callable[[], None]], None]
"""Lets questions and files come to a new index; calls what it is given at the very point of no return, or raises before
that."""


@dataclass(frozen=True, slots=True)
class ReindexView:
    """How far a re-indexing is at one moment."""

    state: ReindexState
    """`stopped`: the program ended first; starting again continues."""
    embedder: EmbedderIdentity
    """What the new index is made with."""
    documents: tuple[JobView, ...] = ()
    """The collection's documents as files of a queue."""
    error: Rank37Error | None = None
    """Set if failed."""

    @property
    def n_done(self) -> int:
        """How many documents are in the new index."""
        return sum(1 for document in self.documents if document.state == "done")


class _GivenUp(BaseException):
    """Ends the thread's work: cancelled, or the program stops."""


class Reindexing:
    """One re-indexing of one collection, in a thread of its own. All methods are safe to call from any thread."""

    def __init__(
        self,
        settings: Settings,
        embedder: Embedder,
        choice: EmbedderChoice,
        *,
        ingester: Ingester,
        take_over: TakeOver,
    ) -> None:
        """Describe it; `start` begins.

        Args:
            settings: The collection's, with the chosen embedder in them.
            embedder: What the new index is made with, loaded.
            choice: Noted as the collection's own.
            ingester: Brings files into the earlier index; it moves to the new one.
            take_over: Lets the new index serve.
        """
        self.settings = settings
        self.choice = choice
        self._identity = embedder.identity
        self._ingester = ingester
        self._lock = threading.Lock()
        self._documents: dict[str, JobView] = {}
        self._state: ReindexState = "running"
        self._error: Rank37Error | None = None
        self._wanted: ReindexState | None = None
        """How it is to end early."""
        # The model goes with the thread, which may be all that holds it.
        self._thread = threading.Thread(
            target=self._run, args=(embedder, take_over), name="rank37-reindex", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def view(self) -> ReindexView:
        """How far it is by now."""
        with self._lock:
            return ReindexView(self._state, self._identity, tuple(self._documents.values()), self._error)

    def cancel(self) -> None:
        """Give it up, soon: nothing of the new index stays. Without effect once it has taken over."""
        self._wanted = self._wanted or "cancelled"

    def stop(self) -> None:
        """End soon since the program ends: what is done stays, for the next start to continue."""
        self._wanted = self._wanted or "stopped"

    def wait(self, timeout_s: float | None = None) -> ReindexView:
        """Wait for the end, or for the time to pass."""
        self._thread.join(timeout_s)
        return self.view()

    def _run(self, embedder: Embedder, take_over: TakeOver) -> None:
        try:
            self._reindex(embedder, take_over)
        except _GivenUp:
            if self._wanted == "cancelled":
                discard_begun(self.settings.collection_dir)
            self._end(self._wanted or "stopped")
        except Rank37Error as error:
            log.warning("collection %r was not re-indexed: %s", self.settings.collection, error)
            self._end("failed", error)
        except Exception as error:
            log.exception("collection %r was not re-indexed", self.settings.collection)
            self._end("failed", CollectionError(f"unforeseen {type(error).__name__}: {error}; the log has the details"))
        else:
            log.info("collection %r is re-indexed with %s", self.settings.collection, self._identity.name)
            self._end("done")

    def _end(self, state: ReindexState, error: Rank37Error | None = None) -> None:
        with self._lock:
            self._state, self._error = state, error

    def _reindex(self, embedder: Embedder, take_over: TakeOver) -> None:
        folder = self.settings.collection_dir
        with storage_errors(folder):
            rebuilt = begin_rebuilt(self.settings, embedder, self.choice)
        aside = self.settings.model_copy(update={"data_dir": rebuilt})
        try:
            index = open_index(aside, embedder.identity)
        except CollectionDamaged as error:  # of a run that was stopped: nothing of it is needed
            log.warning("the new index of %r is begun anew: %s", self.settings.collection, error)
            discard_begun(folder)
            with storage_errors(folder):
                rebuilt = begin_rebuilt(self.settings, embedder, self.choice)
            index = open_index(aside, embedder.identity)
        taken_over = False
        try:
            writer = Ingester.from_settings(aside, embedder, index)
            while not taken_over:
                self._follow(index, writer)
                with self._ingester.at_rest():
                    self._check_wanted()
                    taken_over = self._hands_over(index, rebuilt, take_over)
        finally:
            if not taken_over:
                index.close()

    def _follow(self, index: Index, writer: Ingester) -> None:
        """Bring in what the new index lacks of the earlier one, and take out what is not there any more.

        Raises: CollectionError where a document can't be brought in.
        """
        ready = _ready(self._ingester.index)
        for stored in index.documents():
            if stored.document.id not in ready:
                index.delete_document(stored.document.id)
        done = _ready(index)
        self._list(ready, done)
        refused = []
        for document_id, stored in ready.items():
            if document_id in done:
                continue
            outcome = self._take(stored, writer, set(ready))
            if outcome is not None and outcome.document_id is None:
                refused.append(f"{stored.document.source}: {outcome.message}")
        if refused:
            more = f"; and {len(refused) - NAMES_TOLD} more" if len(refused) > NAMES_TOLD else ""
            raise CollectionError(
                f"{len(refused)} of {len(ready)} documents can't be brought into the new index, so the earlier one "
                f"goes on serving ({'; '.join(refused[:NAMES_TOLD])}{more}): delete them or add their files again, "
                "then re-index again, which continues"
            )

    def _take(self, stored: StoredDocument, writer: Ingester, keep: set[str]) -> FileOutcome | None:
        """Bring one document in; None where it was deleted meanwhile."""
        self._check_wanted()
        document_id = stored.document.id
        original = Original(document_id, self._ingester.original(document_id), stored.document.source)
        started = stage_started = perf_counter()
        stage = ""

        def show(progress: IngestProgress) -> None:
            nonlocal stage, stage_started
            now = perf_counter()
            if progress.stage != stage:
                stage, stage_started = progress.stage, now
            self._update(
                document_id,
                state="running",
                stage=progress.stage,
                done=progress.done,
                total=progress.total,
                seconds=now - started,
                stage_seconds=now - stage_started,
            )

        outcome = damage_to(original, max_bytes=writer.max_file_bytes) or writer.ingest(
            original.path,
            source=original.source,
            keep=keep,
            progress=show,
            cancelled=lambda: self._wanted is not None,
        )
        with storage_errors(self.settings.collection_dir):
            _settle_copy(writer.original(document_id), original.path)
        if self._ingester.index.document(document_id) is None:
            self._forget(document_id)
            return None
        if outcome.document_id is None:
            self._check_wanted()
            self._update(document_id, state="failed", outcome=outcome)
            return outcome
        brought = writer.index.document(document_id)
        if brought is not None:  # a document keeps the time at which it was added
            writer.index.publish_document(replace(brought, ingested_at=stored.ingested_at))
        self._update(document_id, state="done", outcome=outcome, seconds=perf_counter() - started)
        return outcome

    def _hands_over(self, index: Index, rebuilt: Path, take_over: TakeOver) -> bool:
        """Let the new index take over if it holds what the earlier one does; False: something came or went."""
        earlier = self._ingester.index
        if _ready(earlier).keys() != {stored.document.id for stored in index.documents()}:
            return False
        for stored in earlier.documents():
            if stored.state == "ingesting":  # what an outage left, told as such until the file is added again
                index.begin_document(stored)
        with storage_errors(self.settings.collection_dir):
            take_over(index, lambda: declare_whole(rebuilt, self.settings))
        return True

    def _list(self, ready: dict[str, StoredDocument], done: dict[str, StoredDocument]) -> None:
        """Tell of all documents as they are at the start of a round."""
        listed = {}
        for document_id, stored in ready.items():
            known = self._documents.get(document_id)
            if known is None or (known.state != "done" and document_id in done):
                outcome = FileOutcome(stored.document.source, "unchanged", document_id=document_id)
                state: Literal["done", "waiting"] = "done" if document_id in done else "waiting"
                known = JobView(
                    document_id,
                    stored.document.source,
                    state,
                    outcome=outcome if state == "done" else None,
                    size_bytes=stored.size_bytes or _size_of(self._ingester.original(document_id)),
                )
            listed[document_id] = known
        with self._lock:
            self._documents = listed

    def _update(self, document_id: str, **changes: Any) -> None:
        with self._lock:
            known = self._documents[document_id]
            cleared: dict[str, Any] = {"stage": None, "done": 0, "total": 0, "stage_seconds": 0.0}
            self._documents[document_id] = replace(known, **{**cleared, **changes})

    def _forget(self, document_id: str) -> None:
        with self._lock:
            self._documents.pop(document_id, None)

    def _check_wanted(self) -> None:
        if self._wanted is not None:
            raise _GivenUp


def stopped_choice(collection_dir: Path) -> EmbedderChoice | None:
    """With which embedder a re-indexing was begun that did not end; None: there is none, or it can't be told."""
    begun = begun_folder(collection_dir)
    return None if begun is None else planned_choice(begun)


def discard_begun(collection_dir: Path) -> None:
    """Remove what a re-indexing has made that did not end. The caller makes sure that none is running."""
    begun = begun_folder(collection_dir)
    if begun is not None:
        shutil.rmtree(begun, ignore_errors=True)


def _ready(index: Index) -> dict[str, StoredDocument]:
    return {stored.document.id: stored for stored in index.documents() if stored.state == "ready"}


def _settle_copy(copy: Path, original: Path) -> None:
    """Remove the copy that ingestion made; pages that were read from their pictures are the original's from now on."""
    if original.exists() and ocr_file(copy).exists():
        ocr_file(copy).replace(ocr_file(original))
    ocr_file(copy).unlink(missing_ok=True)
    copy.unlink(missing_ok=True)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
