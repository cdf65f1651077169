"""The file whose turn comes next, copied, read, cut and embedded while the one before it is written.

It writes nothing but a copy that nobody knows yet, and decides nothing that depends on how busy the machine is: what
took too long or too much memory is read again at its turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ingest.files import content_id, copy_with_id
from ingest.read_document import ReadDocument
from ingest.vectors_ahead import VectorsAhead
from rag.errors import FileRefused, Rank37Error, RefusedReason
from rag.types import Chunk

_log = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often who waits for it tells how far it is, and is asked whether the file is still wanted."""
END_LIMIT_S = 5.0
"""Longest wait for the end of one that is not wanted any more."""

_NOT_THE_FILES_OWN: frozenset[RefusedReason] = frozenset({"cancelled", "time_limit", "memory_limit"})
"""Reasons that others' work on the same machine can bring about."""

Cut = tuple[ReadDocument, list[Chunk]]


class NextFile:
    """One file in work ahead of its turn, in a thread of its own."""

    def __init__(
        self,
        path: Path,
        part: Path,
        *,
        max_bytes: int,
        is_in: Callable[[str], bool],
        cut: Callable[[Path, Callable[[int, int], None], Callable[[], bool]], Cut],
        vectors_of: Callable[[Sequence[Chunk]], VectorsAhead],
    ) -> None:
        """Begin.

        Args:
            path: The file.
            part: Where its copy goes, which is removed unless somebody has moved it.
            max_bytes: Nothing is done ahead of a larger file.
            is_in: Whether the document of an id needs no work.
            cut: Reads and cuts the copy; takes what is told (pages done, pages in all), and what says whether to stop.
            vectors_of: What embeds its chunks.
        """
        self.part = part
        self.vectors: VectorsAhead | None = None
        """Set once `outcome` gives chunks."""
        self._path = path
        self._max_bytes = max_bytes
        self._is_in = is_in
        self._cut = cut
        self._vectors_of = vectors_of
        self._stopped = threading.Event()
        self._copied = threading.Event()
        self._done = threading.Event()
        self._document_id = ""
        self._pages = (0, 0)
        self._outcome: Cut | FileRefused | None = None
        self._thread = threading.Thread(target=self._work, name="next-file", daemon=True)
        self._thread.start()

    def copied_id(self) -> str:
        """Which document the copy is, once it is made; empty where there is none."""
        self._copied.wait()
        return self._document_id

    def outcome(self, report: Callable[[int, int], None]) -> Cut | None:
        """What was read and cut, waited for; None where the file has to be read again.

        Args:
            report: Called with (pages done, pages in all) while it waits; what it raises ends the waiting.

        Raises:
            FileRefused: What is wrong with the file.
        """
        while not self._done.wait(LOOK_S):
            report(*self._pages)
        if isinstance(self._outcome, FileRefused):
            raise self._outcome
        return self._outcome

    def give_up(self) -> None:
        """Stop, and remove the copy if it is still there. Idempotent."""
        self._stopped.set()
        if self.vectors is not None:
            self.vectors.stop()
        self._thread.join(END_LIMIT_S)
        self._remove_copy()

    def _work(self) -> None:
        try:
            self._copy_read_and_cut()
            if self.vectors is not None and not self._stopped.is_set():
                self.vectors.make()
        finally:
            if self._stopped.is_set():
                self._remove_copy()

    def _copy_read_and_cut(self) -> None:
        try:
            document_id = content_id(self._path, max_bytes=self._max_bytes)
            if self._is_in(document_id):
                return
            self._document_id = copy_with_id(self._path, self.part, max_bytes=self._max_bytes)
            self._copied.set()
            self._read_and_cut()
        except (FileRefused, Rank37Error, OSError, MemoryError) as error:
            _log.debug("nothing is done ahead for %s: %s", self._path, error)  # its own turn says what is wrong
        finally:
            self._copied.set()
            self._done.set()

    def _read_and_cut(self) -> None:
        try:
            cut = self._cut(self.part, self._note, self._stopped.is_set)
            self.vectors = self._vectors_of(cut[1])
            self._outcome = cut
        except FileRefused as refused:
            if refused.reason not in _NOT_THE_FILES_OWN:
                self._outcome = refused

    def _note(self, done: int, total: int) -> None:
        self._pages = (done, total)

    def _remove_copy(self) -> None:
        with suppress(OSError):
            self.part.unlink(missing_ok=True)
