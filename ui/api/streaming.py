"""Work as it goes on, for a reply that is sent piece by piece: its events, its pauses, its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse

from rag.types import Event
from ui.api.line import Line, Listener, Work

Value = TypeVar("Value")

LOOK_EVERY_S = 1.0
"""How often it is looked whether the caller is still there."""
PAUSE_S = 10.0
"""After how long without an event a sign of life is sent."""
ALIVE = b": still at work\n\n"
"""A comment of an event stream, which clients pass over."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing has happened for a while."""


class Streamed(Generic[Value]):
    """Work in line whose events are handed over to one reader."""

    def __init__(self, line: Line, do: Callable[[Listener], Value]) -> None:
        """Enter the line. Raises LineFull."""
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        self.work: Work[Value] = line.enter(do, hand_over)
        self.work.task.add_done_callback(lambda task: self._events.put_nowait(None))

    async def events(self, request: Request) -> AsyncIterator[Event | Pause]:
        """What happens until the work has ended or the caller has left; leaving gives the work up."""
        idle_s = 0.0
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self._events.get(), LOOK_EVERY_S)
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    idle_s += LOOK_EVERY_S
                    if idle_s >= PAUSE_S:
                        idle_s = 0.0
                        yield Pause()
                    continue
                if event is None:
                    return
                idle_s = 0.0
                yield event
        finally:
            if not self.work.task.done():
                self.work.give_up()

    def result(self) -> Value | None:
        """The result after the last event; None where the caller left before. Raises what the work raised."""
        return self.work.task.result() if self.work.task.done() and not self.work.task.cancelled() else None


def sse(data: Any, event: str = "") -> bytes:
    r"""One server-sent event.

    >>> sse({"stage": "recall"}, "stage")
    b'event: stage\ndata: {"stage": "recall"}\n\n'
    """
    named = f"event: {event}\n" if event else ""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"{named}data: {text}\n\n".encode()


def event_stream(pieces: AsyncIterator[bytes]) -> StreamingResponse:
    """A reply of server-sent events that nothing on the way holds back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(pieces, media_type="text/event-stream", headers=headers)
