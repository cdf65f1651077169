"""Collections that have grown are optimized by themselves."""

import threading
import weakref
from collections.abc import Callable

from ingest.optimizing import Optimizing
from rag.errors import CollectionError

LOOK_S = 0.01


class Grown:
    """An index of so many chunks that are not optimized; `begun` is set when it is being optimized."""

    collection = "manuals"

    def __init__(self, chunks: int, *, fails: bool = False) -> None:
        self.chunks = chunks
        self.fails = fails
        self.begun = threading.Event()
        self.n_begun = 0

    @property
    def optimizable(self) -> "Grown":
        return weakref.proxy(self)

    def unoptimized_chunks(self) -> int:
        return self.chunks

    def is_due(self, optimize_from: int) -> bool:
        return 0 < optimize_from <= self.chunks

    def optimize(self, told: Callable[[str], None] = lambda stage: None) -> None:
        self.n_begun += 1
        self.begun.set()
        if self.fails:
            raise CollectionError("there is no room")
        self.chunks = 0


class OnServer:
    optimizable = None


def looked(optimizing: Optimizing) -> None:
    """Wait for several looks."""
    threading.Event().wait(20 * LOOK_S)
    optimizing.close()


def test_what_has_grown_is_optimized_once_and_nothing_else() -> None:
    grown, small = Grown(1000), Grown(999)
    optimizing = Optimizing(lambda: [OnServer(), grown, small], lambda: False, 1000, look_s=LOOK_S)
    assert grown.begun.wait(10)
    looked(optimizing)
    assert (grown.n_begun, small.n_begun) == (1, 0)


def test_nothing_begins_while_someone_asks_or_files_come_in() -> None:
    busy, grown = [True], Grown(1000)
    optimizing = Optimizing(lambda: [grown], lambda: busy[0], 1000, look_s=LOOK_S)
    assert not grown.begun.wait(20 * LOOK_S)
    busy[0] = False
    assert grown.begun.wait(10)
    optimizing.close()


def test_zero_means_never() -> None:
    grown = Grown(10**9)
    looked(Optimizing(lambda: [grown], lambda: False, 0, look_s=LOOK_S))
    assert grown.n_begun == 0


def test_what_failed_is_tried_again_with_twice_as_many() -> None:
    grown = Grown(1000, fails=True)
    optimizing = Optimizing(lambda: [grown], lambda: False, 1000, look_s=LOOK_S)
    assert grown.begun.wait(10)
    assert not threading.Event().wait(20 * LOOK_S)
    assert grown.n_begun == 1
    grown.begun.clear()
    grown.chunks = 2000
    assert grown.begun.wait(10)
    looked(optimizing)
    assert grown.n_begun == 2
