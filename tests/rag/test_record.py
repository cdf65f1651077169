"""Recording: every question is kept, and nothing about keeping it can cost the answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rag.errors import BadInput, LLMTimeout, TracesUnavailable
from rag.pipeline import Listener
from rag.ports import TraceStore
from rag.record import Recorder
from rag.settings import load_settings
from rag.types import Failure, RankingReady, Result, StoredTrace, Trace
from rag.wiring import open_recorder, open_trace_store
from tests.rag.traces import answer_to, refusal_of, trace_of
from ui.asking import Asking, AskStopped

NOW = datetime.now(UTC).isoformat(timespec="seconds")
TRACE = trace_of(asked_at=NOW)
RESULT = Result(answer_to(TRACE), TRACE)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with closing(open_recorder(load_settings(data_dir=tmp_path, collection="manuals"))) as recorder:
        yield recorder


def kept(recorder: Recorder) -> list[StoredTrace]:
    store = recorder.store()
    assert store is not None
    return list(store.traces())


def test_answers_refusals_and_outages_are_kept(recorder: Recorder) -> None:
    refused = trace_of("refused", (0.1,), asked_at=NOW)
    assert recorder.answered(RESULT) == RESULT, "as it was: nothing is to be noted"
    recorder.answered(Result(refusal_of(refused), refused))
    error = LLMTimeout("no reply within 60 s: ask again")
    error.attach(trace_of("down", asked_at=NOW))
    recorder.failed(error)
    failure = Failure("LLMTimeout", "no reply within 60 s: ask again")
    assert {one.trace.id: (one.outcome, one.collection) for one in kept(recorder)} == {
        "t1": (RESULT.outcome, "manuals"),
        "refused": (refusal_of(refused), "manuals"),
        "down": (failure, "manuals"),
    }


def test_a_question_that_was_never_begun_leaves_no_trace(recorder: Recorder) -> None:
    recorder.failed(BadInput("the question is empty: type one"))
    assert kept(recorder) == []


def test_off_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK37_TRACES", "off")
    settings = load_settings(data_dir=tmp_path)
    assert open_trace_store(settings) is None
    with closing(open_recorder(settings)) as recorder:
        assert recorder.answered(RESULT) == RESULT
        recorder.forget_document("any")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_written_costs_no_answer_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with closing(open_recorder(load_settings(data_dir=tmp_path / "data"))) as recorder:
        result = recorder.answered(RESULT)
        assert result.outcome == RESULT.outcome
        assert replace(result.trace, notes=TRACE.notes) == TRACE
        note = result.trace.notes[-1]
        assert "not kept" in note
        assert "RANK37_TRACES_URL" in note
        error = LLMTimeout("late")
        error.attach(TRACE)
        recorder.failed(error)
        assert error.trace is not None
        assert "not kept" in error.trace.notes[-1]


def test_keeping_goes_on_once_the_database_is_there(tmp_path: Path) -> None:
    blocked = tmp_path / "data"
    blocked.write_text("")
    with closing(open_recorder(load_settings(data_dir=blocked))) as recorder:
        assert recorder.answered(RESULT) != RESULT
        blocked.unlink()
        assert recorder.answered(RESULT) == RESULT
        assert len(kept(recorder)) == 1


def test_a_file_locked_by_another_program_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.engines.database.BUSY_LIMIT_S", 0.1)
    with closing(open_recorder(load_settings(data_dir=tmp_path))) as recorder:
        recorder.answered(RESULT)
        with closing(sqlite3.connect(tmp_path / "traces.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            result = recorder.answered(Result(answer_to(TRACE), replace(TRACE, id="t2")))
            assert "another program holds it: try again" in result.trace.notes[-1]
            assert [one.trace.id for one in kept(recorder)] == ["t1"], "reading goes on"


def test_an_unforeseen_fault_of_the_store_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> TraceStore:
        raise RuntimeError("secret inside")

    result = Recorder(broken, collection="manuals").answered(RESULT)
    assert result.outcome == RESULT.outcome
    assert "RuntimeError" in result.trace.notes[-1]
    assert "secret inside" not in result.trace.notes[-1]
    assert "secret inside" in caplog.text


class FaultySink:
    def __init__(self) -> None:
        self.sent: list[StoredTrace] = []

    def send(self, stored: StoredTrace) -> None:
        self.sent.append(stored)
        raise OSError("no collector")

    def close(self) -> None:
        self.sent.clear()


def test_a_sink_is_sent_what_was_kept_and_its_fault_costs_no_answer(recorder: Recorder) -> None:
    sink = FaultySink()
    result = Recorder(recorder.store, collection="manuals", sink=sink).answered(RESULT)
    assert sink.sent == [StoredTrace(TRACE, RESULT.outcome, "manuals")] == kept(recorder)
    assert "not sent as spans" in result.trace.notes[-1]


def test_a_forgotten_document_that_can_not_be_forgotten_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with (
        closing(open_recorder(load_settings(data_dir=tmp_path / "data"))) as recorder,
        pytest.raises(TracesUnavailable, match="can't be opened"),
    ):
        recorder.forget_document("contract")


def test_a_question_asked_in_the_app_is_kept_unless_it_is_stopped(recorder: Recorder) -> None:
    def fail(_listen: Listener) -> Result:
        error = LLMTimeout("late")
        error.attach(replace(TRACE, id="down"))
        raise error

    def stop(_listen: Listener) -> Result:
        raise AskStopped

    def fault(listen: Listener) -> Result:
        listen(RankingReady(Trace("fault", NOW, "q", "q", 0.4, 5, ())))
        raise KeyError("inside")

    for ask in (lambda _listen: RESULT, fail, stop, fault):
        asking = Asking("q", ask, recorder)
        asking.start()
        assert asking.wait(20).is_over
    assert {one.trace.id: type(one.outcome).__name__ for one in kept(recorder)} == {
        "t1": "Answer",
        "down": "Failure",
        "fault": "Failure",
    }
