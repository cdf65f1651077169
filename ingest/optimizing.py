"""Optimizes open collections that have grown, by themselves: one at a time, once no file is in work and nobody asks.

The work is done by a process of its own, which steps back behind questions; what that is, and what becomes of writes
meanwhile, is the index's part.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from time import perf_counter

from rag.errors import Rank37Error
from rag.ports import Index

_log = logging.getLogger(__name__)

LOOK_S = 10.0
"""How often it looks whether a collection has grown."""


class Optimizing:
    """A thread that looks after the indexes of a process. Safe to use from several threads."""

    def __init__(
        self,
        indexes: Callable[[], Sequence[Index]],
        is_busy: Callable[[], bool],
        optimize_from: int,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """Begin to look.

        Args:
            indexes: Of the collections that are open.
            is_busy: Whether someone asks, or files are brought in: nothing is begun then.
            optimize_from: As RANK37_OPTIMIZE_FROM. 0: nothing is ever done.
            look_s: How often it looks, in seconds.
        """
        self._indexes = indexes
        self._is_busy = is_busy
        self._optimize_from = optimize_from
        self._look_s = look_s
        self._closed = threading.Event()
        self._failed_at: weakref.WeakKeyDictionary[Index, int] = weakref.WeakKeyDictionary()
        """With how many unoptimized chunks it failed: it is tried again with twice as many."""
        if optimize_from:
            threading.Thread(target=self._work, name="optimizing", daemon=True).start()

    def close(self) -> None:
        """Begin nothing any more; what is under way ends with its index. Idempotent."""
        self._closed.set()

    def _work(self) -> None:
        while not self._closed.wait(self._look_s):
            try:
                self._look()
            except Exception:
                _log.exception("the indexes were not looked after")

    def _look(self) -> None:
        """Apart from the loop, so that between two looks nothing refers to an index: one may wait to be closed."""
        for index in self._indexes():
            self._look_after(index)

    def _look_after(self, index: Index) -> None:
        part = index.optimizable
        if part is None or self._closed.is_set():
            return
        chunks = 0
        try:
            chunks = part.unoptimized_chunks()
            if chunks < 2 * self._failed_at.get(index, 0) or not part.is_due(self._optimize_from) or self._is_busy():
                return
            _log.info("collection %r has grown by %d chunks: optimizing it", part.collection, chunks)
            started = perf_counter()
            part.optimize()
            self._failed_at.pop(index, None)
            _log.info("collection %r is optimized [%.1f s]", part.collection, perf_counter() - started)
        except Rank37Error as error:
            if self._closed.is_set():
                return
            self._failed_at[index] = max(1, chunks)
            _log.warning("collection %r was not optimized: %s", part.collection, error)
