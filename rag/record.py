"""Keeps what came of a question: in the store of traces, and as spans where those are asked for.

Nothing here can cost a question its answer: what goes wrong becomes a note on its trace.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from rag.errors import Rank37Error
from rag.ports import TraceSink, TraceStore
from rag.types import Answer, Failure, Refusal, Result, StoredTrace, Trace

log = logging.getLogger(__name__)

NOT_KEPT = "This question was not kept"
"""How the note begins on a trace that the store failed to keep."""


def was_kept(trace: Trace) -> bool:
    """Whether the store has it, where questions are kept at all: only such a question can be labelled."""
    return not any(note.startswith(NOT_KEPT) for note in trace.notes)


class Recorder:
    """Records the questions of one collection. Safe to use from several threads."""

    def __init__(
        self,
        open_store: Callable[[], TraceStore | None],
        *,
        collection: str,
        sink: TraceSink | None = None,
        watch: Callable[[StoredTrace], None] = lambda stored: None,
    ) -> None:
        """Name what records; nothing is opened yet.

        Args:
            open_store: Opens the store at the first use, and again after a failure. None: nothing is kept.
            collection: Where the questions are asked.
            sink: Is sent every question as well.
            watch: Is shown every question in this process, kept or not: for counting.
        """
        self._open_store = open_store
        self._collection = collection
        self._sink = sink
        self._watch = watch
        self._lock = threading.Lock()
        self._store: TraceStore | None = None

    def store(self) -> TraceStore | None:
        """The store, or None where nothing is kept. Raises BadInput or TracesUnavailable with the remedy."""
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def answered(self, result: Result) -> Result:
        """Record a question that was answered or refused; the result, with a note if it could not be kept."""
        return replace(result, trace=self._kept(result.trace, result.outcome))

    def failed(self, error: Rank37Error) -> None:
        """Record a question that an outage ended, as far as it came; one that was never begun leaves no trace."""
        if error.trace is not None:
            failure = Failure(type(error).__name__, str(error))
            error.attach(self._kept(error.trace, failure))

    def forget_document(self, document_id: str) -> None:
        """Remove a deleted document's words from the traces. Raises BadInput or TracesUnavailable with the remedy."""
        store = self.store()
        if store is not None:
            store.forget_document(document_id, collection=self._collection)

    def close(self) -> None:
        """Release the store and send what is left to be sent. Idempotent."""
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()
        if self._sink is not None:
            self._sink.close()

    def _kept(self, trace: Trace, outcome: Answer | Refusal | Failure) -> Trace:
        try:
            store = self.store()
            if store is not None:
                store.add(trace, outcome, collection=self._collection)
        except Rank37Error as error:
            log.warning("question not kept: %s", error)
            trace = _with_note(trace, f"{NOT_KEPT}: {error}.")
        except Exception as error:
            log.exception("question not kept")
            trace = _with_note(trace, f"{NOT_KEPT} ({type(error).__name__}): the log has the details.")
        try:
            self._watch(StoredTrace(trace, outcome, self._collection))
        except Exception:
            log.exception("question not counted")
        if self._sink is not None:
            try:
                self._sink.send(StoredTrace(trace, outcome, self._collection))
            except Exception:
                log.exception("question not sent as spans")
                trace = _with_note(trace, "This question was not sent as spans: the log has the details.")
        return trace


def _with_note(trace: Trace, note: str) -> Trace:
    return replace(trace, notes=(*trace.notes, note))
