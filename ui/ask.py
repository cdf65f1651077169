"""The Ask page: a chat whose answers cite pages, refusals included, each with its ranking.

It starts questions and draws what came of them; the answering is `rag.pipeline`'s.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from rag.errors import Rank37Error
from rag.export import Kinds
from rag.types import Document, Trace
from ui.answer import show_draft, show_notes, show_result
from ui.asking import Asking, AskProgress
from ui.chat_export import show_chat_export
from ui.chats import (
    OpenChat,
    ask,
    ask_from,
    begin_new_chat,
    chat_dialog,
    open_chat,
    show_earlier,
    write_address,
)
from ui.ingestion import n_unfinished, show_ingestion_strip
from ui.labelling import Labelling, open_labelling
from ui.models import LOADING, is_loaded
from ui.problems import problems_shown, show_problem
from ui.rank_panel import show_rank_panel, summary
from ui.welcome import show_welcome
from ui.words import ALL_PDF, as_html, as_markdown, count, duration, readable
from ui.workspace import Workspace, open_workspace

QUESTION_CHARACTERS = 2000
FOLLOW_S = 0.25
"""Seconds between two looks at a question on its way."""
LOADING_FOLLOW_S = 0.75
"""The same while the models load, from which each look takes time."""
SLOW_S = 4.0
"""A rerank expected to take longer than this is announced with its duration."""
NAMES_SHOWN = 3
"""How many of the searched documents are named beneath a question."""
HEADING = -1
"""Stands for the page's heading where there is no question to scroll to."""

_SHOW_LATEST = Path(__file__).parent / "show_latest.html"
"""Scrolls to the latest question; the file says why."""


def show() -> None:
    """Draw the page."""
    workspace = open_workspace()
    chat = open_chat(workspace)
    ready: list[Document] | None = None
    kinds: Kinds = ALL_PDF
    with problems_shown(retry_key="look_again"):
        stored = [one for one in workspace.index.documents() if one.state == "ready"]
        ready = [one.document for one in stored]
        kinds = {one.document.id: one.kind for one in stored}
    searched = _header(chat, ready or [], workspace)

    typed = st.chat_input(
        _placeholder(ready, workspace),
        max_chars=QUESTION_CHARACTERS,
        disabled=ready == [],
        key="question",
    )
    if typed and typed.strip():
        ask(chat, typed.strip(), workspace, document_ids=searched)

    write_address(chat)  # now: what is drawn below may begin a new run
    if ready is not None:
        show_ingestion_strip(workspace, n_ready=len(ready))
    if chat.notice:
        st.warning(as_markdown(chat.notice), icon=":material/info:")
    if not chat.askings and ready is not None:
        chosen = show_welcome(ready, workspace)
        _scroll_to(HEADING)
        if chosen:
            ask(chat, chosen, workspace, document_ids=searched)
            write_address(chat)
            st.rerun()
    if chat.earlier:
        label = f"Show {count(len(chat.earlier), 'earlier question')}"
        st.button(label, key="show_earlier", icon=":material/history:", on_click=show_earlier, args=(chat, workspace))
    labelling: Labelling | None = None
    if chat.askings:
        with problems_shown():
            labelling = open_labelling(workspace.recorder, workspace.settings.collection)
    titles = {document.id: document.title for document in ready or []}
    for number, asking in enumerate(list(chat.askings)):
        _show_exchange(asking, chat, workspace, labelling, number=number, titles=titles, kinds=kinds)
    show_chat_export([asking.progress().result for asking in chat.askings], kinds=kinds)


def _placeholder(ready: Sequence[Document] | None, workspace: Workspace) -> str:
    if ready is None or ready:
        return "Ask your documents"
    if n_unfinished(workspace):
        return "The first document is being read: you can ask in a moment"
    return "Add a document first: then there is something to ask"


def _header(chat: OpenChat, ready: Sequence[Document], workspace: Workspace) -> tuple[str, ...]:
    """The title, and what can be done with the chat; gives the ids of the documents to search, none: all of them."""
    row = st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="r37-head")
    row.title("Ask your documents", anchor=False, width="content")
    buttons = row.container(horizontal=True, width="content")
    searched = _documents_to_search(buttons, ready, workspace)
    if chat.askings:
        buttons.button("New chat", icon=":material/add_comment:", key="new_chat", on_click=begin_new_chat)
    if chat.id and buttons.button(
        "This chat …", icon=":material/edit_note:", key="chat_menu", help="Rename or delete it"
    ):
        chat_dialog(chat, workspace)
    return searched


def _documents_to_search(
    place: st.delta_generator.DeltaGenerator, ready: Sequence[Document], workspace: Workspace
) -> tuple[str, ...]:
    if len(ready) < 2:
        return ()
    titles = {document.id: readable(document.title) for document in ready}
    name = f"searched in {workspace.key}"  # outlives the widget, which is gone while another page is drawn
    before = [one for one in st.session_state.get(name, ()) if one in titles]
    label = f"In {count(len(before), 'document')}" if before else "In all documents"
    with place.popover(label, icon=":material/filter_list:", key="search_in"):
        chosen = st.multiselect(
            "Search only in",
            list(titles),
            default=before,
            format_func=lambda one: titles.get(one, ""),
            placeholder="All documents",
            key=f"{name}, choosing",
        )
        st.caption("Questions asked from now on are answered from these documents alone.")
    if chosen != before:
        st.session_state[name] = chosen
        st.rerun()
    return tuple(chosen)


def _show_exchange(
    asking: Asking,
    chat: OpenChat,
    workspace: Workspace,
    labelling: Labelling | None,
    *,
    number: int,
    titles: dict[str, str],
    kinds: Kinds,
) -> None:
    is_latest = asking is chat.askings[-1]
    trace: Trace | None = None
    with st.chat_message("user", avatar=":material/person:"):
        st.html(f'<p class="r37-question">{as_html(asking.question)}</p>')
        if asking.document_ids:
            st.caption(_searched_in(asking.document_ids, titles))
    with st.chat_message("assistant", avatar=":material/manage_search:"):
        progress = asking.progress()
        if not progress.is_over:
            _follow(asking, workspace)
            return
        if progress.stopped:
            st.caption("Stopped before there was an answer.")
        elif progress.lost:
            st.caption(as_markdown(progress.lost))
        elif progress.error is not None:
            trace = progress.error.trace
            show_problem(progress.error)
            if trace is not None:
                show_notes(trace)
        elif progress.result is not None:
            trace = progress.result.trace
            show_result(progress.result, labelling, workspace, kinds)
        _question_buttons(asking, chat, workspace, number=number, is_latest=is_latest)
    if trace is not None:
        show_rank_panel(trace, expanded=is_latest, labelling=labelling, workspace=workspace, kinds=kinds)
    if is_latest:
        _scroll_to(number)


def _scroll_to(number: int) -> None:
    """Show the question of that number, the latest, or the heading: once, so that the person can scroll on."""
    if st.session_state.get("scrolled_to") != number:
        st.session_state["scrolled_to"] = number
        st.html(_SHOW_LATEST, unsafe_allow_javascript=True)


def _searched_in(document_ids: Sequence[str], titles: dict[str, str]) -> str:
    """The documents that a question was restricted to, in words."""
    names = [as_markdown(titles.get(one, "a document that was deleted since")) for one in document_ids[:NAMES_SHOWN]]
    more = len(document_ids) - len(names)
    return f"Searched only in {', '.join(names)}" + (f" and {count(more, 'more document')}" if more else "")


def _question_buttons(asking: Asking, chat: OpenChat, workspace: Workspace, *, number: int, is_latest: bool) -> None:
    with st.container(horizontal=True, key=f"r37-question-buttons-{number}"):
        if is_latest:
            again = st.button("Ask again", icon=":material/refresh:", type="tertiary", key=f"again {number}")
            if again:
                with problems_shown():
                    ask_from(chat, asking, asking.question, workspace, document_ids=asking.document_ids)
                st.rerun()
        if st.button("Edit the question", icon=":material/edit:", type="tertiary", key=f"edit {number}"):
            _edit_dialog(asking, chat, workspace)


@st.dialog("Edit the question")
def _edit_dialog(asking: Asking, chat: OpenChat, workspace: Workspace) -> None:
    later = len(chat.askings) - chat.askings.index(asking) - 1 if asking in chat.askings else 0
    with st.form("edit_question", border=False):
        text = st.text_area(
            "Question", value=asking.question, max_chars=QUESTION_CHARACTERS, key=f"edited {asking.id or id(asking)}"
        )
        if later:
            whom = "the question after it and its answer are" if later == 1 else f"the {later} questions after it are"
            st.warning(f"It is asked anew in its place: {whom} dropped from this chat.", icon=":material/warning:")
        submitted = st.form_submit_button("Ask", type="primary")
    if submitted and text.strip() and asking in chat.askings:
        try:
            ask_from(chat, asking, text.strip(), workspace, document_ids=asking.document_ids)
        except Rank37Error as error:
            show_problem(error)
            return
        st.rerun()


@st.fragment(run_every=FOLLOW_S)
def _follow(asking: Asking, workspace: Workspace) -> None:
    """Show how far the question is, until it is over; then the whole page is drawn anew, with the outcome."""
    asking.start()
    progress = asking.wait(FOLLOW_S / 2 if is_loaded(workspace) else LOADING_FOLLOW_S)
    if progress.is_over:
        st.rerun()
    with problems_shown():
        lines = _done_lines(progress)
        with st.status(_stage_label(progress, workspace), expanded=bool(lines)):
            for line in lines:
                st.caption(f":material/check: {line}")
            if progress.stage == "rerank":
                _rerank_progress(progress, workspace)
        if progress.draft:
            show_draft(progress.draft)
        st.button("Stop", icon=":material/stop_circle:", key="stop", type="tertiary", on_click=asking.stop)


def _stage_label(progress: AskProgress, workspace: Workspace) -> str:
    match progress.stage:
        case None if progress.ahead:
            return f"Waiting: {count(progress.ahead, 'question')} of others first …"
        case None if not is_loaded(workspace):
            return LOADING
        case None:
            return "Starting …"
        case "rewrite":
            return "Understanding the follow-up …"
        case "split":
            return "Looking for the parts of the question …"
        case "embed" | "recall":
            return "Searching all documents …"
        case "rerank":
            return "Comparing each passage with the question …"
        case "answer" if progress.trace and progress.trace.prompt:
            return "Writing the answer …"
        case "answer":
            return "Writing the answer …" if progress.draft else "Making the answer …"


def _done_lines(progress: AskProgress) -> list[str]:
    lines = []
    if "rerank" in progress.stages:
        found = progress.to_rerank or (len(progress.trace.candidates) if progress.trace else 0)
        lines.append(f"Found {count(found, 'passage')}" if found else "Searched all documents")
    if progress.trace is not None:
        lines.append(as_markdown(summary(progress.trace)))
    return lines


def _rerank_progress(progress: AskProgress, workspace: Workspace) -> None:
    elapsed_s = time.monotonic() - progress.stage_started
    if progress.reranked and progress.to_rerank:
        left_s = elapsed_s / progress.reranked * (progress.to_rerank - progress.reranked)
        text = f"{progress.reranked} of {progress.to_rerank}"
        if elapsed_s + left_s > SLOW_S:
            text += f", about {duration(max(left_s, 1))} left"
        st.progress(progress.reranked / progress.to_rerank, text)
        return
    estimate_s = workspace.engines.reranker.estimate_seconds(workspace.settings.recall_limit)
    if estimate_s is not None and estimate_s > SLOW_S:
        st.progress(0.0, f"About {duration(estimate_s)} in all")
