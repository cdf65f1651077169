"""The vectors of one file's chunks, made batch by batch ahead of who writes them.

Which chunks share a batch is the caller's business, so the vectors are the same however far ahead they are made. It
starts no thread and writes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rag.ports import Embedder, Vectors
from rag.types import Chunk

MOST_BATCHES = 8
"""So many batches lie ready at most: memory holds them, and a kill loses them."""
LOOK_S = 0.1
"""How often who waits for vectors tells how far they are, and is asked whether the file is still wanted."""


class _Stopped(Exception):
    """Ends the embedding of a file that is not wanted any more."""


class VectorsAhead:
    """One thread makes the vectors (`make`), another takes them (`in_order`)."""

    def __init__(self, embedder: Embedder, batches: Sequence[Sequence[Chunk]]) -> None:
        """Nothing is made before `make`."""
        self.batches = batches
        self._embedder = embedder
        self._changed = threading.Condition()
        self._ready: dict[int, Vectors | BaseException] = {}
        self._n_taken = 0
        self._n_embedded = [0] * len(batches)
        """Chunks of each batch."""
        self._stopped = False

    def make(self) -> None:
        """Make them, until all are made, one fails, or nobody wants more of them. It raises nothing."""
        for number, batch in enumerate(self.batches):
            if not self._is_wanted(number):
                return
            made: Vectors | BaseException
            try:
                made = self._embedder.embed_passages(
                    [chunk.passage for chunk in batch], progress=partial(self._note, number)
                )
            except BaseException as error:  # a panic of native code is no Exception; who takes them is told in turn
                made = error
            with self._changed:
                self._ready[number] = made
                self._changed.notify_all()
            if isinstance(made, BaseException):
                return

    def in_order(self, report: Callable[[int], None]) -> Iterator[tuple[Sequence[Chunk], Vectors]]:
        """Each batch with its vectors, `(n_chunks, dimension)`, waited for.

        Args:
            report: Called while it waits, and once more, with the number of chunks that were embedded of the batches
                taken so far and of the one waited for; what it raises ends the waiting.

        Raises:
            BaseException: What the embedder raised.
        """
        n_before = 0
        for number, batch in enumerate(self.batches):
            yield batch, self._taken(number, n_before, report)
            n_before += len(batch)

    def _is_wanted(self, number: int) -> bool:
        """Wait until a batch may be made; False where none is wanted any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or number < self._n_taken + MOST_BATCHES)
            return not self._stopped

    def _taken(self, number: int, n_before: int, report: Callable[[int], None]) -> Vectors:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: number in self._ready, LOOK_S)
                made = self._ready.pop(number, None)
                n_embedded = self._n_embedded[number]
                self._n_taken = number + (made is not None)
                self._changed.notify_all()
            if isinstance(made, BaseException):
                raise made
            report(n_before + n_embedded)
            if made is not None:
                return made

    def stop(self) -> None:
        """Want no more of them; what is in work ends within a moment. Idempotent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _note(self, number: int, n_embedded: int, _n_in_all: int) -> None:
        with self._changed:
            if self._stopped:
                raise _Stopped
            self._n_embedded[number] = n_embedded
