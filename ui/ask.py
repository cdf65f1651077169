"""The Ask page: a chat whose answers cite pages, refusals included, each with its ranking.

It starts questions and draws what came of them; the answering is `rag.pipeline`'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from rag.errors import Rank37Error
from rag.export import refusal_text
from rag.pipeline import Listener, answer_question
from rag.record import was_kept
from rag.types import Answer, Result, Trace, Turn
from rag.wiring import policy_for
from ui.answer import show_draft, show_notes, show_result
from ui.asking import Asking, AskProgress
from ui.ingestion import n_unfinished, show_ingestion_strip
from ui.labelling import Labelling, open_labelling
from ui.problems import problems_shown, show_problem
from ui.rank_panel import show_rank_panel, summary
from ui.words import as_html, as_markdown, count, duration
from ui.workspace import Workspace, open_workspace

QUESTION_CHARACTERS = 2000
HISTORY_TURNS = 6
"""How many earlier turns help to understand a follow-up."""
CHAT_PARAMETER = "trace"
"""Names the chat's questions in the address, so that a reload, or a restart of the app, brings them back."""
KEPT_IN_ADDRESS = 10
"""How many of them, the latest."""
FOLLOW_S = 0.25
"""Seconds between two looks at a question on its way."""
SLOW_S = 4.0
"""A rerank expected to take longer than this is announced with its duration."""

SUGGESTIONS = (
    ("insurance-critical-illness.pdf", "How long is the waiting period for critical illness?"),
    ("medicine-ibuprofen-children.pdf", "What is the ibuprofen dosage for children?"),
    ("shop-returns-and-refunds.pdf", "How many days after receipt can I return an item for a refund?"),
    ("shop-privacy.pdf", "What was the shop’s revenue last year?"),
)
"""Questions of the sample documents, each with the file that makes it worth asking; the last is refused."""

_log = logging.getLogger(__name__)

_SHOW_LATEST = Path(__file__).parent / "show_latest.html"
"""Scrolls to the latest question; the file says why."""


def show() -> None:
    """Draw the page."""
    workspace = open_workspace()
    if "chat" not in st.session_state:
        st.session_state["chat"] = _chat_of_address(workspace)
    chat: list[Asking] = st.session_state["chat"]
    _header(chat)
    ready: list[str] | None = None
    with problems_shown(retry_key="look_again"):
        ready = [stored.document.source for stored in workspace.engines.index.documents() if stored.state == "ready"]

    typed = st.chat_input(
        _placeholder(ready, workspace),
        max_chars=QUESTION_CHARACTERS,
        disabled=ready == [],
        key="question",
    )
    if typed and typed.strip():
        chat.append(_asking(typed.strip(), chat, workspace))

    if ready is not None:
        show_ingestion_strip(workspace, n_ready=len(ready))
    if not chat and ready is not None:
        _empty_state(ready, workspace, chat)
    labelling: Labelling | None = None
    if chat:
        with problems_shown():
            labelling = open_labelling(workspace.recorder, workspace.settings.collection)
    for number, asking in enumerate(chat):
        _show_exchange(asking, workspace, labelling, number=number, is_latest=asking is chat[-1])
    _write_address(chat, workspace)


def _chat_of_address(workspace: Workspace) -> list[Asking]:
    """The kept questions that the page's address names; those that are gone meanwhile are left out."""
    ids = st.query_params.get_all(CHAT_PARAMETER)[-KEPT_IN_ADDRESS:]
    try:
        store = workspace.recorder.store() if ids else None
        found = [store.trace(trace_id) for trace_id in ids] if store else []
    except Rank37Error as error:
        _log.warning("the chat is not brought back: %s", error)
        return []
    collection = workspace.settings.collection
    return [Asking.kept(stored) for stored in found if stored is not None and stored.collection == collection]


def _write_address(chat: Sequence[Asking], workspace: Workspace) -> None:
    traces = [trace for asking in chat if (trace := asking.progress().final_trace) and was_kept(trace)]
    ids = [trace.id for trace in traces[-KEPT_IN_ADDRESS:]] if workspace.settings.traces else []
    if ids == st.query_params.get_all(CHAT_PARAMETER):
        return
    if ids:
        st.query_params[CHAT_PARAMETER] = ids
    else:
        del st.query_params[CHAT_PARAMETER]


def _placeholder(ready: Sequence[str] | None, workspace: Workspace) -> str:
    if ready is None or ready:
        return "Ask your documents"
    if n_unfinished(workspace):
        return "The first document is being read: you can ask in a moment"
    return "Add a document first: then there is something to ask"


def _header(chat: list[Asking]) -> None:
    title, button = st.columns([4, 1], vertical_alignment="center")
    title.title("Ask your documents", anchor=False)
    if chat:
        button.button(
            "New chat", icon=":material/add_comment:", width="stretch", key="new_chat", on_click=_new_chat, args=(chat,)
        )


def _new_chat(chat: list[Asking]) -> None:
    for asking in chat:
        asking.stop()
    chat.clear()
    st.session_state.pop("scrolled_to", None)


def _empty_state(ready: Sequence[str], workspace: Workspace, chat: list[Asking]) -> None:
    st.markdown(
        "Every answer quotes the pages that it rests on. Where the documents don’t answer, Rank37 says so, and "
        "shows what came nearest."
    )
    if not ready:
        if not n_unfinished(workspace):
            st.info("The collection is empty. Add PDFs on the **Documents** page.", icon=":material/description:")
        return
    suggestions = [question for source, question in SUGGESTIONS if source in ready]
    if suggestions:
        st.caption("For a start, from the sample documents:")
        for question in suggestions:
            st.button(question, key=f"suggest {question}", on_click=_ask_suggestion, args=(question, chat, workspace))


def _ask_suggestion(question: str, chat: list[Asking], workspace: Workspace) -> None:
    chat.append(_asking(question, chat, workspace))


def _asking(question: str, earlier: Sequence[Asking], workspace: Workspace) -> Asking:
    """The question, to be started when the earlier ones are over: what they were told is its history then."""
    before = tuple(earlier)

    def ask(listen: Listener) -> Result:
        return answer_question(
            question,
            workspace.engines,
            policy_for(workspace.settings, workspace.engines.reranker, workspace.engines.embedder),
            history=_turns(before),
            listen=listen,
        )

    return Asking(question, ask, workspace.recorder)


def _turns(chat: Sequence[Asking]) -> tuple[Turn, ...]:
    turns = []
    for asking in chat:
        result = asking.progress().result
        if result is not None:
            outcome = result.outcome
            reply = outcome.text if isinstance(outcome, Answer) else refusal_text(outcome, result.trace)
            turns.append(Turn(asking.question, reply))
    return tuple(turns[-HISTORY_TURNS:])


def _show_exchange(
    asking: Asking, workspace: Workspace, labelling: Labelling | None, *, number: int, is_latest: bool
) -> None:
    trace: Trace | None = None
    with st.chat_message("user", avatar=":material/person:"):
        st.html(f'<p class="r37-question">{as_html(asking.question)}</p>')
    with st.chat_message("assistant", avatar=":material/manage_search:"):
        progress = asking.progress()
        if not progress.is_over:
            _follow(asking, workspace)
            return
        if progress.stopped:
            st.caption("Stopped before there was an answer.")
        elif progress.error is not None:
            trace = progress.error.trace
            show_problem(progress.error)
            if trace is not None:
                show_notes(trace)
        elif progress.result is not None:
            trace = progress.result.trace
            show_result(progress.result, labelling, workspace)
    if trace is not None:
        show_rank_panel(trace, expanded=is_latest, labelling=labelling)
    if is_latest and st.session_state.get("scrolled_to") != number:
        st.session_state["scrolled_to"] = number
        st.html(_SHOW_LATEST, unsafe_allow_javascript=True)


@st.fragment(run_every=FOLLOW_S)
def _follow(asking: Asking, workspace: Workspace) -> None:
    """Show how far the question is, until it is over; then the whole page is drawn anew, with the outcome."""
    asking.start()
    progress = asking.wait(FOLLOW_S / 2)
    if progress.is_over:
        st.rerun()
    with problems_shown():
        lines = _done_lines(progress)
        with st.status(_stage_label(progress), expanded=bool(lines)):
            for line in lines:
                st.caption(f":material/check: {line}")
            if progress.stage == "rerank":
                _rerank_progress(progress, workspace)
        if progress.draft:
            show_draft(progress.draft)
        st.button("Stop", icon=":material/stop_circle:", key="stop", type="tertiary", on_click=asking.stop)


def _stage_label(progress: AskProgress) -> str:
    match progress.stage:
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
