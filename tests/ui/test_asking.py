"""A question on its way, in its own thread: what the page can see of it, however it ends."""

from __future__ import annotations

import threading

import pytest

from rag.errors import LLMTimeout, Rank37Error
from rag.pipeline import Listener
from rag.types import RankingReady, Refusal, ReplyText, RerankProgress, Result, StageStarted, Trace
from ui.asking import Asking

TRACE = Trace("t", "", "q", "q", 0.4, 5, ())
WAIT_S = 20.0


def test_progress_gathers_the_events_and_ends_with_the_result() -> None:
    result = Result(Refusal("below_floor", 0.1), TRACE)
    draft_seen = threading.Event()
    go_on = threading.Event()

    def ask(listen: Listener) -> Result:
        listen(StageStarted("rerank"))
        listen(RerankProgress(8, 20))
        listen(RankingReady(TRACE))
        listen(StageStarted("answer"))
        listen(ReplyText("Seven "))
        listen(ReplyText("days [1]."))
        draft_seen.set()
        assert go_on.wait(WAIT_S)
        return result

    asking = Asking("q", ask)
    asking.start()
    asking.start()  # a page that is drawn again does not ask again
    assert draft_seen.wait(WAIT_S)
    underway = asking.progress()
    assert (underway.stages, underway.reranked, underway.to_rerank) == (("rerank", "answer"), 8, 20)
    assert (underway.trace, underway.draft, underway.is_over) == (TRACE, "Seven days [1].", False)

    go_on.set()
    assert asking.wait(WAIT_S).result is result


def test_an_outage_keeps_its_ranking() -> None:
    def ask(listen: Listener) -> Result:
        error = LLMTimeout("no reply within 60 s: ask again")
        error.attach(TRACE)
        raise error

    asking = Asking("q", ask)
    asking.start()
    error = asking.wait(WAIT_S).error
    assert isinstance(error, LLMTimeout)
    assert error.trace is TRACE


def test_a_fault_of_the_program_is_told_without_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    def ask(listen: Listener) -> Result:
        listen(RankingReady(TRACE))
        raise KeyError("secret inside")

    asking = Asking("q", ask)
    asking.start()
    error = asking.wait(WAIT_S).error
    assert isinstance(error, Rank37Error)
    assert "secret inside" not in str(error)
    assert error.trace is TRACE, "the ranking is shown all the same"
    assert "secret inside" in caplog.text, "the log has the details"


def test_stop_ends_it_at_the_next_event() -> None:
    stopped = threading.Event()

    def ask(listen: Listener) -> Result:
        listen(StageStarted("rerank"))
        assert stopped.wait(WAIT_S)
        listen(RerankProgress(1, 100))
        raise AssertionError("not reached")

    asking = Asking("q", ask)
    asking.start()
    asking.stop()
    stopped.set()
    progress = asking.wait(WAIT_S)
    assert progress.stopped
    assert progress.error is None
