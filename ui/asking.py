"""One question on its way through the pipeline, in a thread of its own.

A page reruns whenever a person touches it; the question must survive that. So the page only looks at `progress()`, and
nothing here draws.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, Self

from rag import errors
from rag.errors import FileRefused, Rank37Error
from rag.record import Recorder
from rag.types import (
    ChatQuestion,
    Event,
    Failure,
    RankingReady,
    ReplyText,
    RerankProgress,
    Result,
    Stage,
    StageStarted,
    StoredTrace,
    Trace,
    Waiting,
)

_log = logging.getLogger(__name__)

Ask = Callable[[Callable[[Event], None]], Result]
"""Answers the question, calling the listener with events on the way."""


Ended = Callable[[Trace], None]
"""Is told the trace of a question that is over and recorded."""


class AskStopped(Exception):
    """The person stopped the question."""


class UnexpectedFault(Rank37Error):
    """A fault of the program itself; its details are in the log."""


@dataclass(frozen=True, slots=True)
class AskProgress:
    """How far a question has come."""

    stage: Stage | None = None
    stage_started: float = 0.0
    """`time.monotonic()` at the start of the stage."""
    ahead: int = 0
    """How many questions have to end before this one's turn; 0: it is being answered, or has not begun."""
    reranked: int = 0
    to_rerank: int = 0
    trace: Trace | None = None
    """Set as soon as the ranking is ready."""
    draft: str = ""
    """The LLM's reply so far, its citations not yet checked."""
    result: Result | None = None
    error: Rank37Error | None = None
    stopped: bool = False
    lost: str = ""
    """Why nothing can be shown of a question that was asked earlier; empty for every other one."""
    stages: tuple[Stage, ...] = field(default=())
    """The stages so far, the running one last."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self.error is not None or self.stopped or bool(self.lost)

    @property
    def final_trace(self) -> Trace | None:
        """The trace as it was kept, once the question is over; None where it left none."""
        ended = self.result or self.error
        return None if ended is None else ended.trace


class Asking:
    """A question being answered, and recorded unless it is stopped. Safe to look at from any thread."""

    def __init__(
        self,
        question: str,
        ask: Ask,
        recorder: Recorder | None = None,
        *,
        id: str = "",
        document_ids: Sequence[str] = (),
        ended: Ended = lambda trace: None,
    ) -> None:
        """Describe the question; `start` begins.

        Args:
            question: As the person typed it.
            ask: Answers it.
            recorder: Keeps what came of it; None: nothing does.
            id: Of the chat's question; empty where the chat is not kept.
            document_ids: The documents that are searched; empty: all.
            ended: Called from its thread with the trace, once that is kept.
        """
        self.question = question
        self.id = id
        self.document_ids = tuple(document_ids)
        self._ended = ended
        self._ask = ask
        self._recorder = recorder
        self._progress = AskProgress()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asking", daemon=True)

    @classmethod
    def kept(cls, stored: StoredTrace, *, id: str = "", document_ids: Sequence[str] = ()) -> Self:
        """A question that was over long ago, as it ended."""
        asking = cls(stored.trace.question, _never, id=id, document_ids=document_ids)
        if isinstance(stored.outcome, Failure):
            error = _error(stored.outcome)
            error.attach(stored.trace)
            asking._progress = AskProgress(error=error)
        else:
            asking._progress = AskProgress(result=Result(stored.outcome, stored.trace))
        return asking

    @classmethod
    def lost(cls, question: ChatQuestion, why: str) -> Self:
        """A question of which no outcome is kept."""
        asking = cls(question.text, _never, id=question.id, document_ids=question.document_ids)
        asking._progress = AskProgress(lost=why)
        return asking

    def start(self) -> None:
        """Begin, unless it has begun already."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Give up at the next event; what was done is discarded."""
        self._stop.set()

    def progress(self) -> AskProgress:
        """How far it has come by now."""
        return self._progress

    def wait(self, timeout_s: float) -> AskProgress:
        """Wait for the end, or for the time to pass."""
        self._thread.join(timeout_s)
        return self._progress

    def _run(self) -> None:
        try:
            result = self._ask(self._listen)
            if self._stop.is_set():
                raise AskStopped
            if self._recorder is not None:
                result = self._recorder.answered(result)
                self._tell_end(result.trace)
        except AskStopped:
            self._progress = replace(self._progress, stopped=True)
        except Rank37Error as error:
            _log.warning("question not answered: %s: %s", type(error).__name__, error)
            self._record_failure(error)
            self._progress = replace(self._progress, error=error)
        except Exception as error:
            if self._stop.is_set():  # whatever the engine made of AskStopped
                self._progress = replace(self._progress, stopped=True)
                return
            _log.exception("question not answered")
            fault = UnexpectedFault(
                f"Rank37 met a fault of its own ({type(error).__name__}). The details are in the terminal's log; "
                "asking again may help."
            )
            if self._progress.trace:
                fault.attach(self._progress.trace)
                self._record_failure(fault)
            self._progress = replace(self._progress, error=fault)
        else:
            self._progress = replace(self._progress, result=result)

    def _record_failure(self, error: Rank37Error) -> None:
        if self._recorder is not None:
            self._recorder.failed(error)
            if error.trace is not None:
                self._tell_end(error.trace)

    def _tell_end(self, trace: Trace) -> None:
        try:
            self._ended(trace)
        except Exception:  # an outcome is never lost for the sake of a note on it
            _log.exception("the end of a question was not noted")

    def _listen(self, event: Event) -> None:
        if self._stop.is_set():
            raise AskStopped
        now = self._progress
        match event:
            case Waiting(ahead):
                now = replace(now, ahead=ahead)
            case StageStarted(stage):
                now = replace(now, ahead=0, stage=stage, stage_started=time.monotonic(), stages=(*now.stages, stage))
            case RerankProgress(done, total):
                now = replace(now, reranked=done, to_rerank=total)
            case RankingReady(trace):
                now = replace(now, trace=trace)
            case ReplyText(text):
                now = replace(now, draft=now.draft + text)
        self._progress = now


def _never(listen: Callable[[Event], None]) -> NoReturn:
    raise AssertionError("a question that is over is not asked again")


def _error(failure: Failure) -> Rank37Error:
    """The error that ended a question, of its class where that is known."""
    kind = vars(errors).get(failure.error)
    if isinstance(kind, type) and issubclass(kind, Rank37Error) and kind is not FileRefused:  # which no question meets
        return kind(failure.message)
    return Rank37Error(failure.message)
