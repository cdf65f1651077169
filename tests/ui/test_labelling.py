"""Labels given on the page: kept at once, taken back by a second click, there again after a reload.

The store is the real one; the page is drawn from traces, so that no model runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rag.errors import LLMTimeout
from rag.evaluation.floors import questions_needed
from rag.ports import TraceStore
from rag.record import NOT_KEPT, Recorder
from rag.settings import load_settings
from rag.types import Document, Label, Result, StoredDocument, Trace
from rag.wiring import open_recorder
from tests.rag.traces import answer_to, chunk, refusal_of, trace_of
from ui.asking import Asking
from ui.labelling import ENOUGH_QUESTIONS, N_FIRST, Labelling, count_line

NOW = datetime.now(UTC).isoformat(timespec="seconds")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with closing(open_recorder(load_settings(data_dir=tmp_path))) as recorder:
        yield recorder


def store_of(recorder: Recorder) -> TraceStore:
    store = recorder.store()
    assert store is not None
    return store


def answered(recorder: Recorder, name: str = "t1", n_passages: int = 4) -> Result:
    trace = trace_of(name, [0.9 / place for place in range(1, n_passages + 1)], asked_at=NOW)
    return recorder.answered(Result(answer_to(trace), trace))


def refused(recorder: Recorder, name: str = "refused") -> Result:
    trace = trace_of(name, (0.2, 0.1), question="Is theft covered?", asked_at=NOW)
    return recorder.answered(Result(refusal_of(trace), trace))


def drawn(recorder: Recorder, *results: Result) -> AppTest:
    """A new session that shows these questions, as the Ask page does."""

    def page(recorder, results):  # type: ignore[no-untyped-def]  # its source is run without these imports
        from ui.answer import show_result
        from ui.labelling import open_labelling
        from ui.rank_panel import show_rank_panel

        labelling = open_labelling(recorder, "documents")
        for result in results:
            show_result(result, labelling)
            show_rank_panel(result.trace, expanded=True, labelling=labelling)

    app = AppTest.from_function(page, kwargs={"recorder": recorder, "results": results}, default_timeout=60).run()
    assert not app.exception
    return app


def say(app: AppTest, key: str, verdict: str | None) -> None:
    """Click on a verdict, or once more on the one that is given (None)."""
    next(control for control in app.button_group if control.key == key).set_value(verdict).run()
    assert not app.exception


def said(app: AppTest, key: str) -> str | None:
    return next(control.value for control in app.button_group if control.key == key)  # type: ignore[no-any-return]


def controls(app: AppTest) -> list[str]:
    """Keys of the controls for judging; what narrows the ranking is another matter."""
    return [str(control.key) for control in app.button_group if not str(control.key).startswith("only ")]


def passage(trace: Trace, rank: int) -> str:
    """Key of the control of the passage at this rank after reranking."""
    return f"passage {trace.id} {trace.ranked[rank - 1].chunk.id}"


def kept(recorder: Recorder) -> list[tuple[str, str, int | None]]:
    return [(label.trace_id, label.verdict, label.rank) for label in store_of(recorder).labels()]


def html(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


def test_a_passage_is_called_right_then_wrong_then_nothing_and_a_reload_shows_it(recorder: Recorder) -> None:
    result = answered(recorder)
    app = drawn(recorder, result)
    first, second = passage(result.trace, 1), passage(result.trace, 2)
    say(app, first, "right")
    say(app, second, "wrong")
    assert kept(recorder) == [("t1", "right", 1), ("t1", "wrong", 2)]
    assert (said(app, first), said(app, second)) == ("right", "wrong")
    assert "2 labels; 1 question has a right passage" in html(app)

    reloaded = drawn(recorder, result)
    assert (said(reloaded, first), said(reloaded, second)) == ("right", "wrong")
    say(reloaded, first, "wrong")
    assert kept(recorder) == [("t1", "wrong", 2), ("t1", "wrong", 1)], "a passage has one label"
    say(reloaded, first, None)
    assert kept(recorder) == [("t1", "wrong", 2)]
    assert said(reloaded, first) is None


def test_a_question_that_is_asked_again_has_the_same_labels(recorder: Recorder) -> None:
    earlier, later = answered(recorder, "t1"), answered(recorder, "t2")
    say(drawn(recorder, earlier), passage(earlier.trace, 1), "right")
    app = drawn(recorder, later)
    assert said(app, passage(later.trace, 1)) == "right"
    say(app, passage(later.trace, 1), "wrong")
    assert kept(recorder) == [("t2", "wrong", 1)], "in place of the earlier one, or training would see both"


def test_a_refusal_is_called_wrong_and_the_page_asks_for_the_right_passage(recorder: Recorder) -> None:
    result = refused(recorder)
    app = drawn(recorder, result)
    assert not app.caption or "Which passage answers it" not in app.caption[-1].value
    say(app, "outcome refused", "wrongly_refused")
    assert kept(recorder) == [("refused", "wrongly_refused", None)]
    assert any("Which passage answers it" in caption.value for caption in app.caption)
    assert said(drawn(recorder, result), "outcome refused") == "wrongly_refused"
    say(app, "outcome refused", None)
    assert kept(recorder) == []


def test_thumbs_are_of_one_answer_alone(recorder: Recorder) -> None:
    earlier, later = answered(recorder, "t1"), answered(recorder, "t2")
    app = drawn(recorder, earlier, later)
    say(app, "outcome t1", "bad_answer")
    say(app, "outcome t2", "good_answer")
    assert (said(app, "outcome t1"), said(app, "outcome t2")) == ("bad_answer", "good_answer")
    say(app, "outcome t2", None)
    assert kept(recorder) == [("t1", "bad_answer", None)]


def test_a_hundred_passages_have_few_controls_and_any_can_be_looked_for(recorder: Recorder) -> None:
    trace = trace_of(scores=[0.9, *[0.3] * 99], asked_at=NOW)
    app = drawn(recorder, recorder.answered(Result(answer_to(trace), trace)))
    assert len(controls(app)) == N_FIRST + 1, "and one of the answer"
    app.selectbox[0].set_value(trace.ranked[70].chunk.id).run()
    assert len(controls(app)) == N_FIRST + 2
    say(app, passage(trace, 71), "right")
    assert kept(recorder) == [("t1", "right", 71)]
    assert said(app, passage(trace, 71)) == "right", "it stays in sight"
    assert app.selectbox[0].value is None, "for the next one"
    say(app, passage(trace, 71), None)
    assert said(app, passage(trace, 71)) is None, "taken back by mistake: it is still there"


def test_passages_of_a_deleted_document_are_not_offered(recorder: Recorder) -> None:
    result = answered(recorder)
    recorder.forget_document("contract")
    stored = store_of(recorder).trace("t1")
    assert stored is not None
    app = drawn(recorder, replace(result, trace=stored.trace))
    assert controls(app) == ["outcome t1"]


def test_nothing_is_offered_where_questions_are_not_kept(tmp_path: Path, recorder: Recorder) -> None:
    result = answered(recorder)
    with closing(open_recorder(load_settings(data_dir=tmp_path, traces=False))) as off:
        app = drawn(off, result)
    assert not controls(app)
    unkept = replace(result, trace=replace(result.trace, notes=(f"{NOT_KEPT}: the disk is full.",)))
    app = drawn(recorder, unkept)
    assert not controls(app)
    assert any("can’t be labelled" in caption.value for caption in app.caption)


def test_a_click_that_can_not_be_kept_says_so_and_shows_what_is_kept(recorder: Recorder) -> None:
    result = answered(recorder)
    app = drawn(recorder, result)
    store_of(recorder).delete("t1")
    say(app, passage(result.trace, 1), "right")
    assert "There is no trace" in app.error[0].value.replace("\\", "")
    assert said(app, passage(result.trace, 1)) is None
    app.run()
    assert not app.error, "told once"


def test_enough_questions_are_enough_for_a_floor() -> None:
    assert questions_needed(0.05) <= ENOUGH_QUESTIONS
    right = [Label(f"t{n}", f"Question {n}?", "right", NOW, "c") for n in range(ENOUGH_QUESTIONS)]
    assert count_line(right).endswith("20 questions have a right passage, enough to measure")
    assert count_line(right[:-1]).endswith("enough to measure from 20 on")


def test_labels_of_another_collection_stay_there(recorder: Recorder) -> None:
    result = answered(recorder)
    store_of(recorder).label("t1", "right", chunk_id=result.trace.ranked[0].chunk.id)
    assert Labelling(store_of(recorder), "documents").of_passage(result.trace, chunk("term 0").id) == "right"
    assert Labelling(store_of(recorder), "manuals").labels == []


def test_a_kept_question_is_over_and_as_it_ended(recorder: Recorder) -> None:
    result = answered(recorder)
    error = LLMTimeout("no reply within 60 s: ask again")
    error.attach(trace_of("down", asked_at=NOW))
    recorder.failed(error)
    stored = {one.trace.id: one for one in store_of(recorder).traces()}
    assert Asking.kept(stored["t1"]).progress().result == result
    ended = Asking.kept(stored["down"]).progress()
    assert ended.is_over
    assert isinstance(ended.error, LLMTimeout)
    assert str(ended.error) == str(error)
    assert ended.final_trace == error.trace


def drawn_refusal(recorder: Recorder, result: Result, *documents: StoredDocument) -> AppTest:
    """A refusal with the documents of the collection, of which the one with the answer can be chosen."""

    def page(recorder, result, documents):  # type: ignore[no-untyped-def]  # its source is run without these imports
        from ui.labelling import open_labelling, show_outcome_label

        labelling = open_labelling(recorder, "documents")
        show_outcome_label(result.trace, result.outcome, labelling, lambda: documents)

    app = AppTest.from_function(
        page, kwargs={"recorder": recorder, "result": result, "documents": documents}, default_timeout=60
    ).run()
    assert not app.exception
    return app


CONTRACT = StoredDocument(Document("contract", "Contract", "contract.pdf", 12), "ready")
MANUAL = StoredDocument(Document("manual", "Manual", "manual.pdf", 3), "ready")


def test_the_page_with_the_answer_makes_its_passage_right(recorder: Recorder) -> None:
    result = refused(recorder)
    app = drawn_refusal(recorder, result, CONTRACT, MANUAL)
    assert not app.number_input, "first the refusal is called wrong"
    say(app, "outcome refused", "wrongly_refused")
    assert app.selectbox[0].value == "contract", "the nearest passage's document is proposed"
    assert app.number_input[0].value == result.trace.ranked[0].chunk.first_page
    assert len(app.selectbox[1].options) == 2, "both passages are on that page"
    app.button[0].click().run()
    assert kept(recorder) == [("refused", "wrongly_refused", None), ("refused", "right", 1)]
    assert "the passage at rank 1, on page 1 of Contract, is right" in html(app)


def test_a_page_of_which_nothing_was_recalled_is_kept_as_a_remark(recorder: Recorder) -> None:
    app = drawn_refusal(recorder, refused(recorder), CONTRACT, MANUAL)
    say(app, "outcome refused", "wrongly_refused")
    app.selectbox[0].set_value("manual").run()
    app.number_input[0].set_value(3).run()
    assert any("No passage of that page was recalled" in caption.value for caption in app.caption)
    app.button[0].click().run()
    assert kept(recorder) == [("refused", "wrongly_refused", None)]
    stored = store_of(recorder).trace("refused")
    assert stored is not None
    assert stored.feedback == (
        "The answer is on page 3 of Manual (manual.pdf, manual); no passage of that page was recalled."
    )
