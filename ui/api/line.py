"""The line in which questions wait: so many are worked on at a time, so many more wait, the rest are sent away.

It runs work in threads and knows nothing of questions but how long they took. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from rag.errors import Rank37Error
from rag.types import Event
from ui.api.errors import Fault, LineFull

_log = logging.getLogger(__name__)

LONGEST_RETRY_S = 60
"""Most seconds that a caller is told to stay away."""
REMEMBERED = 20
"""By how many of the last pieces of work the wait is told."""

Value = TypeVar("Value")
Listener = Callable[[Event], None]


class GivenUp(Exception):
    """Nobody waits for this work any more."""


class Work(Generic[Value]):
    """A piece of work that stands in line or is being done."""

    def __init__(self, do: Callable[[Listener], Value], on_event: Listener) -> None:
        self._do = do
        self._on_event = on_event
        self._is_given_up = threading.Event()
        self.has_begun = False
        self.task: asyncio.Task[Value]
        """Its end. Await it shielded: cancelling it would let another in before this work's thread has ended."""

    def give_up(self) -> None:
        """Leave the line, or stop at the next event."""
        self._is_given_up.set()
        if not self.has_begun:
            self.task.cancel()

    def run(self) -> Value:
        """Do it, in this thread."""
        try:
            return self._do(self._listen)
        except (Rank37Error, GivenUp):
            raise
        except Exception as error:
            if self._is_given_up.is_set():  # whatever an engine made of it
                raise GivenUp from error
            _log.exception("a request met a fault")
            raise Fault(
                f"Rank37 met a fault of its own ({type(error).__name__}): the server's log has the details"
            ) from None

    def _listen(self, event: Event) -> None:
        if self._is_given_up.is_set():
            raise GivenUp
        self._on_event(event)


class Line:
    """So many places at work, so many to wait."""

    def __init__(self, at_work: int, waiting: int) -> None:
        self._at_work = at_work
        self._limit = at_work + waiting
        self._turns = asyncio.Semaphore(at_work)
        self._took_s: deque[float] = deque(maxlen=REMEMBERED)
        self._tasks: set[asyncio.Task[object]] = set()
        self.n_at_work = 0

    @property
    def n_waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._tasks) - self.n_at_work

    def enter(self, do: Callable[[Listener], Value], on_event: Listener = lambda event: None) -> Work[Value]:
        """Take a place. `do` is called in a thread at its turn; `on_event` from that thread. Raises LineFull."""
        if len(self._tasks) >= self._limit:
            seconds = self._wait_s()
            raise LineFull(
                f"{self.n_at_work} questions are at work and {self.n_waiting} wait, more are not taken "
                f"(RANK37_AT_WORK, RANK37_WAITING): try again in {seconds} s",
                seconds,
            )
        work = Work(do, on_event)
        work.task = asyncio.create_task(self._run(work))
        self._tasks.add(work.task)
        work.task.add_done_callback(self._ended)
        return work

    async def _run(self, work: Work[Value]) -> Value:
        async with self._turns:
            work.has_begun = True
            self.n_at_work += 1
            started = time.monotonic()
            try:
                return await _in_thread(work.run)
            finally:
                self.n_at_work -= 1
                self._took_s.append(time.monotonic() - started)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: where nobody waits any more, that is no news

    def _wait_s(self) -> int:
        usual = sum(self._took_s) / len(self._took_s) if self._took_s else 1.0
        return min(LONGEST_RETRY_S, max(1, math.ceil(usual * (self.n_waiting + 1) / self._at_work)))


def _in_thread(do: Callable[[], Value]) -> asyncio.Future[Value]:
    """The value in a thread that does not keep the program from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Value] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        def settle_unless_done() -> None:
            if not future.done():
                settle()

        try:
            loop.call_soon_threadsafe(settle_unless_done)
        except RuntimeError:
            _log.info("the server stopped before a request was done")

    def run() -> None:
        try:
            value = do()
        except BaseException as error:
            failure = error
            tell(lambda: future.set_exception(failure))
        else:
            tell(lambda: future.set_result(value))

    threading.Thread(target=run, name="rank37-api", daemon=True).start()
    return future
