"""A value that takes seconds to make, such as a loaded model: made once, and all who want it meanwhile wait for it.

It begins nothing by itself: whoever wants the value first makes it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, Literal, TypeVar

from rag.errors import Rank37Error

Value = TypeVar("Value")
LoadState = Literal["not begun", "loading", "loaded", "failed"]

LOOK_S = 0.2
"""How often who waits is asked whether they still want to."""


class Loading(Generic[Value]):
    """A value and how far it is. Safe to use from several threads.

    A failure is not kept for those who come later: the next one who wants the value makes it anew.
    """

    def __init__(self, load: Callable[[], Value]) -> None:
        """`load` makes the value; it runs in the thread of the first who wants it, and never twice at a time."""
        self._load = load
        self._lock = threading.Lock()
        self._attempt: Future[Value] | None = None

    @classmethod
    def done(cls, value: Value) -> Loading[Value]:
        """One that is loaded already."""
        loading = cls(lambda: value)
        loading.get()
        return loading

    @property
    def state(self) -> LoadState:
        """How far it is."""
        attempt = self._attempt
        if attempt is None:
            return "not begun"
        if not attempt.done():
            return "loading"
        return "loaded" if attempt.exception() is None else "failed"

    @property
    def error(self) -> BaseException | None:
        """What ended the latest attempt; None: nothing did."""
        attempt = self._attempt
        return attempt.exception() if attempt is not None and attempt.done() else None

    def get(self, look: Callable[[], object] | None = None) -> Value:
        """The value, made if there is none yet.

        Args:
            look: Called every `LOOK_S` seconds while another thread makes it; what it raises ends the waiting.

        Raises:
            Rank37Error, Exception: What making it raises, to everyone who waited for it.
        """
        with self._lock:
            attempt, is_mine = self._attempt, False
            if attempt is None or (attempt.done() and attempt.exception() is not None):
                attempt, is_mine = Future(), True
                self._attempt = attempt
        if is_mine:
            try:
                attempt.set_result(self._load())
            except BaseException as error:  # raised below
                attempt.set_exception(error)
        return _waited(attempt, look)


def _waited(attempt: Future[Value], look: Callable[[], object] | None) -> Value:
    while look is not None and not attempt.done():
        look()
        with suppress(TimeoutError):
            attempt.exception(LOOK_S)
    error = attempt.exception()
    if isinstance(error, Rank37Error):
        raise copy.copy(error) from error  # what a question attaches to its error is of no concern to the others
    return attempt.result()
