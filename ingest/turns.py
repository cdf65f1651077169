"""Whose turn it is: so many questions of a process are worked on at a time, so many more wait, in order of arrival.

It knows nothing of questions. One model serves everyone, so that more at a time would only make each slower.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rag.errors import TooManyQuestions
from rag.types import Event, Waiting

LOOK_S = 0.2
"""How often who waits is asked whether they still want to."""


class Turns:
    """Places at work and places to wait. Safe to use from several threads."""

    def __init__(self, at_work: int, waiting: int) -> None:
        """Say how many questions are worked on at a time, and how many more may wait."""
        self._at_work = at_work
        self._waiting = waiting
        self._changed = threading.Condition()
        self._line: list[object] = []
        """Everyone in here, in order of arrival: the first `at_work` are at work."""

    @property
    def is_anyone_here(self) -> bool:
        """Whether a question is worked on or waits."""
        with self._changed:
            return bool(self._line)

    @property
    def n_waiting(self) -> int:
        """How many wait for their turn."""
        with self._changed:
            return max(0, len(self._line) - self._at_work)

    @contextmanager
    def taken(self, listen: Callable[[Event], None] = lambda event: None) -> Iterator[None]:
        """Wait for a turn, and keep it for the time of the context.

        Args:
            listen: Told how many are ahead, whenever that changes; what it raises ends the waiting.

        Raises:
            TooManyQuestions: No place to wait is left.
        """
        me = object()
        with self._changed:
            ahead = len(self._line)
            if ahead >= self._at_work + self._waiting:
                raise TooManyQuestions(
                    f"{self._at_work} questions are being answered and {self._waiting} wait; more are not taken "
                    "(RANK37_AT_WORK, RANK37_WAITING): ask again in a moment"
                )
            self._line.append(me)
        try:
            told = -1
            while True:
                with self._changed:
                    ahead = self._line.index(me)
                    if ahead >= self._at_work and ahead == told:
                        self._changed.wait(LOOK_S)
                        ahead = self._line.index(me)
                if ahead < self._at_work:
                    break
                told = ahead
                listen(Waiting(ahead - self._at_work + 1))
            yield
        finally:
            with self._changed:
                self._line.remove(me)
                self._changed.notify_all()
