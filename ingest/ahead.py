"""What the reranker can make of passages ahead of questions, made while nobody asks: a first question then waits less.

It loses nothing when it is stopped, and knows no engine: a reranker that gains nothing by it has no `know`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rag.errors import Rank37Error
from rag.ports import Index, KnowsAhead, Reranker
from rag.types import Passage

_log = logging.getLogger(__name__)

BATCH_PASSAGES = 8
"""So many at a time: a question that comes meanwhile waits for a fraction of a second."""
LOOK_S = 0.2
"""How often it looks whether there is still something better to do."""
REST_SHARE = 1.0
"""It rests after each batch for so long, as a share of what the batch took: pages are drawn by the same cores."""


class ReadAhead:
    """A thread that goes through the passages of collections. Safe to use from several threads."""

    def __init__(
        self,
        reranker: Callable[[], Reranker | None],
        indexes: Callable[[], Sequence[Index]],
        is_busy: Callable[[], bool],
    ) -> None:
        """Nothing is done before the first `wake`.

        Args:
            reranker: The one in use; None where it is not loaded yet.
            indexes: Of the collections that are open.
            is_busy: Whether someone asks, or files are brought in.
        """
        self._reranker = reranker
        self._indexes = indexes
        self._is_busy = is_busy
        self._woken = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._read: set[tuple[str, str, str]] = set()
        """Revision of the reranker, collection and document of what was gone through."""

    def wake(self) -> None:
        """Go through what is new, as soon as there is time."""
        self._woken.set()
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
                self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop after the batch in work. Idempotent."""
        self._closed.set()
        self._woken.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _work(self) -> None:
        while not self._closed.is_set():
            self._woken.wait()
            self._woken.clear()
            try:
                self._go_through()
            except Rank37Error as error:  # an index that was closed meanwhile, a model whose files are damaged
                _log.info("reading ahead stopped: %s", error)
            except Exception:
                _log.exception("reading ahead stopped")

    def _go_through(self) -> None:
        reranker = self._reranker()
        if not isinstance(reranker, KnowsAhead):
            return
        revision = reranker.info.revision
        for index in self._indexes():
            for stored in index.documents():
                key = (revision, index.collection, stored.document.id)
                if stored.state != "ready" or key in self._read:
                    continue
                passages = [Passage(chunk.id, chunk.passage) for chunk in index.chunks(stored.document.id)]
                for batch in _batches(passages):
                    if not self._has_time():
                        return
                    started = time.monotonic()
                    if not reranker.know(batch):
                        return
                    self._closed.wait(REST_SHARE * (time.monotonic() - started))
                self._read.add(key)

    def _has_time(self) -> bool:
        """Wait until nothing else is to be done; False once it is closed."""
        while self._is_busy():
            if self._closed.wait(LOOK_S):
                return False
        return not self._closed.is_set()


def _batches(passages: Sequence[Passage]) -> Iterator[Sequence[Passage]]:
    for start in range(0, len(passages), BATCH_PASSAGES):
        yield passages[start : start + BATCH_PASSAGES]
