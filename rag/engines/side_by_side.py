"""Pieces of a model's work side by side, each on few threads, instead of one after the other on all of them.

Threads that share one matrix product wait for the slowest of them at its end, thousands of times a second; two pieces
on a thread each don't. What a piece is, and that its result does not depend on how many threads make it, is the
caller's business.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import torch

MOST_PIECES = 4
"""So many at a time at most: texts of one file make few pieces, and more processors than that share one."""

_Piece = TypeVar("_Piece")
_Done = TypeVar("_Done")


class Run(Protocol):
    """How a function is called for each of some pieces; `map` is the plainest."""

    def __call__(self, work: Callable[[_Piece], _Done], pieces: Iterable[_Piece], /) -> Iterator[_Done]:
        """What it gives, in the order of the pieces."""
        ...


class SideBySide:
    """Threads that work on pieces. Safe to use from several threads: their pieces wait in one line."""

    def __init__(self, n_threads: int, set_openmp_threads: Callable[[int], Any]) -> None:
        """Share `n_threads` among the pieces; `of_torch` is the way to get one."""
        self._n_at_once = min(n_threads, MOST_PIECES)

        def begin() -> None:
            torch.get_num_threads()  # else PyTorch would set what it is set below at the thread's first operation
            set_openmp_threads(n_threads // self._n_at_once)

        # Threads start when they are needed, and end with the program.
        self._threads = ThreadPoolExecutor(self._n_at_once, thread_name_prefix="side-by-side", initializer=begin)

    @classmethod
    def of_torch(cls, n_threads: int | None = None) -> SideBySide | None:
        """Share so many threads, or as many as PyTorch uses; None for one, or where threads can't be told it singly."""
        n_threads = n_threads or torch.get_num_threads()
        if n_threads < 2:
            return None
        try:
            # `torch.set_num_threads` would also set it for every thread that starts later; OpenMP's own, for this one.
            set_openmp_threads = ctypes.CDLL(torch._C.__file__).omp_set_num_threads
        except (AttributeError, OSError):
            return None
        return cls(n_threads, set_openmp_threads)

    def __call__(self, work: Callable[[_Piece], _Done], pieces: Iterable[_Piece]) -> Iterator[_Done]:
        """What `work` gives for each piece, in their order. Some pieces are taken ahead of what has been asked for."""
        begun: deque[Future[_Done]] = deque()
        try:
            for piece in pieces:
                begun.append(self._threads.submit(work, piece))
                if len(begun) > 2 * self._n_at_once:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
