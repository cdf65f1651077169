"""Chats without a browser: kept, found again, changed and deleted, as the page shows them. The engines are real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from ingest.library import Workspace
from rag.settings import Settings
from rag.types import Chat
from tests.ui.test_app_states import WAIT_S, app, close_workspace, errors, html, lantern_pdf, run_until, settings
from ui.chats import CHAT_PARAMETER, GONE, INTERRUPTED, SHOWN, TRACE_PARAMETER
from ui.workspace import open_library

__all__ = ["app", "settings"]

LOWEST = "How long does one charge of the lantern last on the lowest setting?"
CUP = "Who won the football world cup in 1954?"
APP = Path(__file__).resolve().parents[2] / "app.py"


@pytest.fixture
def workspace(app: AppTest) -> Workspace:
    """The app's collection, with one document."""
    app.run()
    workspace = open_library().open()
    workspace.queue.submit("lantern.pdf", lantern_pdf())
    assert workspace.queue.wait(WAIT_S)
    app.run()
    return workspace


def ask(app: AppTest, question: str, outcome: str) -> None:
    before = html(app).count(f'data-testid="{outcome}"')
    app.chat_input[0].set_value(question).run()
    run_until(app, lambda: html(app).count(f'data-testid="{outcome}"') > before)
    assert not app.exception


def only_chat(workspace: Workspace) -> Chat:
    [card] = workspace.library.chats.chats()
    chat = workspace.library.chats.chat(card.id)
    assert chat is not None
    return chat


def new_session(**parameters: str) -> AppTest:
    again = AppTest.from_file(str(APP), default_timeout=WAIT_S)
    for name, value in parameters.items():
        again.query_params[name] = value
    return again.run()


def captions(app: AppTest) -> str:
    return "\n".join(element.value for element in app.caption).replace("\\", "")


def questions(app: AppTest) -> int:
    return html(app).count('class="r37-question"')


def test_a_chat_is_kept_and_found_again_after_a_restart(app: AppTest, workspace: Workspace) -> None:
    ask(app, LOWEST, "answer")
    ask(app, CUP, "refusal")
    chat = only_chat(workspace)
    assert chat.card.title == LOWEST
    assert [question.text for question in chat.questions] == [LOWEST, CUP]
    store = workspace.recorder.store()
    assert store is not None
    for question in chat.questions:
        stored = store.trace(question.trace_id)
        assert stored is not None
        assert stored.trace.question == question.text
    assert app.query_params[CHAT_PARAMETER] == chat.card.id

    close_workspace()
    again = new_session(chat=chat.card.id)
    assert "lasts 41 hours." in html(again)
    assert 'data-testid="refusal"' in html(again)
    assert again.button(key=f"chat {chat.card.id}").label.replace("\\", "").startswith("How long does one charge")
    ask(again, "And who won it in 1958?", "refusal")
    [card] = open_library().chats.chats()
    assert card.id == chat.card.id, "a chat that was brought back goes on"


def test_a_new_chat_is_another_one_and_words_find_the_old(app: AppTest, workspace: Workspace) -> None:
    ask(app, LOWEST, "answer")
    first = only_chat(workspace)
    app.button(key="new_chat").click().run()
    assert questions(app) == 0
    assert CHAT_PARAMETER not in app.query_params
    ask(app, CUP, "refusal")
    cards = workspace.library.chats.chats()
    assert [card.title for card in cards] == [CUP, LOWEST], "the newest first"

    app.text_input(key="find_chat").set_value("lantern charge").run()
    listed = [button.key for button in app.sidebar.button if (button.key or "").startswith("chat ")]
    assert listed == [f"chat {first.card.id}"]
    app.text_input(key="find_chat").set_value("zebra").run()
    assert "No chat has these words." in captions(app)


def test_asking_again_replaces_the_latest_and_editing_says_what_it_drops(app: AppTest, workspace: Workspace) -> None:
    ask(app, LOWEST, "answer")
    ask(app, CUP, "refusal")
    before = only_chat(workspace)
    app.button(key="again 1").click().run()
    run_until(app, lambda: only_chat(workspace).questions[-1].trace_id not in ("", before.questions[-1].trace_id))
    after = only_chat(workspace)
    assert [question.text for question in after.questions] == [LOWEST, CUP]
    assert after.questions[0] == before.questions[0]

    app.run()
    app.button(key="edit 0").click().run()
    assert "the question after it and its answer are dropped" in app.warning[0].value
    assert app.text_area[0].value == LOWEST


def test_what_is_no_longer_there_says_so(app: AppTest, workspace: Workspace) -> None:
    ask(app, LOWEST, "answer")
    chat = only_chat(workspace)
    store = workspace.recorder.store()
    assert store is not None
    store.delete(chat.questions[0].trace_id)
    workspace.library.chats.add_question(chat.card.id, "Stopped by a power cut?")
    again = new_session(chat=chat.card.id)
    assert GONE in captions(again)
    assert INTERRUPTED in captions(again)
    again.button(key="again 1").click().run()
    run_until(again, lambda: bool(only_chat(workspace).questions[-1].trace_id))
    assert not again.exception


def test_a_link_to_a_single_question_still_works_and_becomes_a_chat(app: AppTest, workspace: Workspace) -> None:
    trace = workspace.recorder.answered(workspace.ask(LOWEST)).trace
    linked = new_session(trace=trace.id)
    assert "lasts 41 hours." in html(linked)
    assert linked.query_params[TRACE_PARAMETER] == trace.id
    assert workspace.library.chats.chats() == [], "looking is not asking"
    ask(linked, CUP, "refusal")
    chat = only_chat(workspace)
    assert [(question.text, question.trace_id == trace.id) for question in chat.questions] == [
        (LOWEST, True),
        (CUP, False),
    ]
    assert linked.query_params[CHAT_PARAMETER] == chat.card.id
    assert TRACE_PARAMETER not in linked.query_params


def test_questions_are_asked_within_chosen_documents(app: AppTest, workspace: Workspace, tmp_path: Path) -> None:
    other = Path(__file__).resolve().parents[2] / "data" / "pdfs" / "shop-shipping.pdf"
    workspace.queue.submit(other.name, other.read_bytes())
    assert workspace.queue.wait(WAIT_S)
    app.run()
    shipping = next(one.document for one in workspace.engines.index.documents() if one.document.source == other.name)
    app.multiselect[0].set_value([shipping.id]).run()
    ask(app, LOWEST, "refusal")
    question = only_chat(workspace).questions[0]
    assert question.document_ids == (shipping.id,)
    assert f"Searched only in {shipping.title}" in captions(app)
    store = workspace.recorder.store()
    assert store is not None
    stored = store.trace(question.trace_id)
    assert stored is not None
    assert {candidate.chunk.document_id for candidate in stored.trace.candidates} == {shipping.id}


def test_a_long_chat_draws_its_latest_questions_first(app: AppTest, workspace: Workspace) -> None:
    store = workspace.library.chats
    card = store.begin("Question 0", collection=workspace.key)
    for number in range(SHOWN + 3):
        store.add_question(card.id, f"Question {number}")
    long = new_session(chat=card.id)
    assert questions(long) == SHOWN
    assert long.button(key="show_earlier").label == "Show 3 earlier questions"
    long.button(key="show_earlier").click().run()
    assert questions(long) == SHOWN + 3


def test_without_traces_no_question_is_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK37_TRACES", "false")
    app = new_session()
    workspace = open_library().open()
    workspace.queue.submit("lantern.pdf", lantern_pdf())
    assert workspace.queue.wait(WAIT_S)
    app.run()
    ask(app, LOWEST, "answer")
    assert workspace.library.chats.chats() == []
    assert CHAT_PARAMETER not in app.query_params
    assert "Chats are not kept" in captions(app)


@pytest.fixture(autouse=True)
def no_errors(app: AppTest) -> Iterator[None]:
    yield
    assert errors(app) == ""
