"""Chats: the one that a session has open, the list of all of them, and the page's address, which names the open one.

Questions are kept in the chat store, what came of them in the trace store; nothing is answered here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import streamlit as st

from rag.errors import Rank37Error
from rag.export import refusal_text
from rag.pipeline import Listener
from rag.ports import TraceStore
from rag.record import was_kept
from rag.types import Answer, Chat, ChatCard, ChatQuestion, Result, StoredTrace, Trace, Turn
from ui.asking import Asking
from ui.problems import show_problem
from ui.visitor import visitor
from ui.words import as_markdown, readable, snippet
from ui.workspace import CHAT_PARAMETER, Workspace, is_theirs

TRACE_PARAMETER = "trace"
"""Names single questions in the address: those of a chat that is not kept, or a link to one question."""
KEPT_IN_ADDRESS = 10
"""How many of them, the latest."""
SHOWN = 10
"""How many questions of a chat are drawn at first, the latest."""
LISTED = 20
"""How many chats the sidebar lists at first, the latest."""
TITLE_SHOWN = 60
TITLE_CHARACTERS = 120
"""Longest title that can be typed."""
HISTORY_TURNS = 6
"""How many earlier turns help to understand a follow-up."""

INTERRUPTED = "This question was stopped or interrupted: there is no answer to it."
GONE = "What came of this question is no longer kept."

_log = logging.getLogger(__name__)


@dataclass
class OpenChat:
    """A chat as a session has it open."""

    collection: str
    id: str = ""
    """Empty: it is not kept (yet)."""
    title: str = ""
    askings: list[Asking] = field(default_factory=list)
    """In order; of a long chat the latest, until `show_earlier`."""
    earlier: tuple[ChatQuestion, ...] = ()
    """The questions before those, not yet looked up."""
    notice: str = ""
    """What the person should know about how it was opened."""

    def turns(self) -> tuple[Turn, ...]:
        """What was asked and said so far: the latest, for understanding a follow-up."""
        return turns_of(self.askings)


@st.cache_resource
def _under_way() -> dict[str, Asking]:
    """The questions that are being answered, by id: a reload of the page finds them again."""
    return {}


def open_chat(workspace: Workspace) -> OpenChat:
    """The chat that the address names, else the one that the session has open, else a new one."""
    wanted = st.query_params.get(CHAT_PARAMETER, "")
    chat: OpenChat | None = st.session_state.get("chat")
    if chat is None or chat.collection != workspace.key or (wanted and wanted != chat.id):
        chat = _open(wanted, workspace) if wanted else _of_traces(workspace)
    elif not wanted and chat.id and not _came_from_another_page():
        chat = _of_traces(workspace)  # the browser's back button, to before the chat began
    st.session_state["chat"] = chat
    return chat


def _came_from_another_page() -> bool:
    return bool(st.session_state.get("page_before") != st.session_state.get("page"))


def _open(chat_id: str, workspace: Workspace) -> OpenChat:
    st.session_state.pop("scrolled_to", None)
    chat = workspace.library.chats.chat(chat_id)
    if chat is None or chat.card.collection != workspace.key or not is_theirs(chat.card):
        return OpenChat(workspace.key, notice="The chat that the address names is gone: it was deleted.")
    opened = OpenChat(workspace.key, chat.card.id, chat.card.title)
    opened.earlier, latest = chat.questions[:-SHOWN], chat.questions[-SHOWN:]
    opened.askings = _looked_up(latest, workspace)
    return opened


def show_earlier(chat: OpenChat, workspace: Workspace) -> None:
    """Look up all questions of a long chat."""
    chat.askings[:0] = _looked_up(chat.earlier, workspace)
    chat.earlier = ()
    st.session_state["scrolled_to"] = len(chat.askings) - 1  # the person reads upwards


def _looked_up(questions: Sequence[ChatQuestion], workspace: Workspace) -> list[Asking]:
    try:
        store = workspace.recorder.store()
        return [_underway_or_kept(question, store) for question in questions]
    except Rank37Error as error:
        _log.warning("the outcomes of a chat are not brought back: %s", error)
        why = f"What came of it can’t be read: {error}"
        return [_under_way().get(question.id) or Asking.lost(question, why) for question in questions]


def _underway_or_kept(question: ChatQuestion, store: TraceStore | None) -> Asking:
    asking = _under_way().get(question.id)
    if asking is not None and not (asking.progress().is_over and question.trace_id):
        return asking
    if not question.trace_id:
        return Asking.lost(question, INTERRUPTED)
    stored = store.trace(question.trace_id) if store else None
    if stored is None:
        return Asking.lost(question, GONE)
    return Asking.kept(stored, id=question.id, document_ids=question.document_ids)


def _of_traces(workspace: Workspace) -> OpenChat:
    """The kept questions that the address names by their traces; those that are gone meanwhile are left out."""
    st.session_state.pop("scrolled_to", None)
    chat = OpenChat(workspace.key)
    ids = st.query_params.get_all(TRACE_PARAMETER)[-KEPT_IN_ADDRESS:]
    try:
        store = workspace.recorder.store() if ids else None
        found = [store.trace(trace_id) for trace_id in ids] if store else []
    except Rank37Error as error:
        _log.warning("the questions of the address are not brought back: %s", error)
        return chat
    chat.askings = [Asking.kept(one) for one in found if one is not None and _may_see(one, workspace)]
    if len(chat.askings) < len(ids):
        chat.notice = "A question that the address names is no longer kept."
    return chat


def _may_see(stored: StoredTrace, workspace: Workspace) -> bool:
    """Whether an address can bring a question back: one of this collection that stands in no other person's chat."""
    if stored.collection != workspace.key:
        return False
    person = visitor().person
    return person is None or workspace.library.chats.owner_of_trace(stored.trace.id) in (None, person)


def write_address(chat: OpenChat) -> None:
    """Let the address name the chat, so that a reload, a restart of the app or a shared link brings it back."""
    traces = [trace for asking in chat.askings if (trace := asking.progress().final_trace) and was_kept(trace)]
    ids = [] if chat.id else [trace.id for trace in traces[-KEPT_IN_ADDRESS:]]
    _set_parameter(CHAT_PARAMETER, [chat.id] if chat.id else [])
    _set_parameter(TRACE_PARAMETER, ids)


def _set_parameter(name: str, values: list[str]) -> None:
    if values == st.query_params.get_all(name):
        return
    if values:
        st.query_params[name] = values
    else:
        del st.query_params[name]


def begin_new_chat() -> None:
    """Leave the open chat for an empty one. A question on its way goes on where its chat is kept."""
    chat: OpenChat | None = st.session_state.pop("chat", None)
    st.session_state.pop("scrolled_to", None)
    if chat is not None and not chat.id:
        for asking in chat.askings:
            asking.stop()
    _set_parameter(CHAT_PARAMETER, [])
    _set_parameter(TRACE_PARAMETER, [])


def ask(chat: OpenChat, question: str, workspace: Workspace, *, document_ids: Sequence[str] = ()) -> None:
    """Put a question at the end of the chat, to be started once those before it are over."""
    question_id = _kept_question(chat, question, workspace, document_ids)
    before = tuple(chat.askings)
    person = visitor().person

    def answer(listen: Listener) -> Result:
        workspace.library.begin_loading()  # where that failed before, once more
        return workspace.ask(
            question,
            history=turns_of(before),
            document_ids=tuple(document_ids) or None,
            listen=listen,
            person=person,
        )

    def ended(trace: Trace) -> None:
        if question_id and was_kept(trace):
            workspace.library.chats.set_trace(question_id, trace.id)

    asking = Asking(question, answer, workspace.recorder, id=question_id, document_ids=document_ids, ended=ended)
    chat.askings.append(asking)
    if question_id:
        for known in [key for key, one in _under_way().items() if one.progress().is_over]:
            _under_way().pop(known, None)
        _under_way()[question_id] = asking


def _kept_question(chat: OpenChat, question: str, workspace: Workspace, document_ids: Sequence[str]) -> str:
    """The id under which the chat store keeps it, or nothing: no question is lost for the sake of keeping it."""
    if not workspace.settings.traces:
        return ""
    store = workspace.library.chats
    try:
        if not chat.id:
            earlier = [(asking, asking.progress().final_trace) for asking in chat.askings]
            first = chat.askings[0].question if chat.askings else question
            card = store.begin(first, collection=chat.collection, owner=visitor().owner)
            for asking, trace in earlier:
                asking.id = store.add_question(card.id, asking.question, document_ids=asking.document_ids).id
                if trace is not None and was_kept(trace):
                    store.set_trace(asking.id, trace.id)
            chat.id, chat.title = card.id, card.title
        return store.add_question(chat.id, question, document_ids=document_ids).id
    except Rank37Error as error:
        _log.warning("a question is not kept in its chat: %s", error)
        chat.notice = f"This question is not kept in the chat: {error}"
        return ""


def ask_from(
    chat: OpenChat, asking: Asking, question: str, workspace: Workspace, *, document_ids: Sequence[str] = ()
) -> None:
    """Ask in place of an earlier question: it and the later ones are dropped."""
    number = chat.askings.index(asking)
    if chat.id and asking.id:
        workspace.library.chats.drop_from(chat.id, asking.id)
    for dropped in chat.askings[number:]:
        dropped.stop()
    del chat.askings[number:]
    st.session_state.pop("scrolled_to", None)
    ask(chat, question, workspace, document_ids=document_ids)


def turns_of(askings: Sequence[Asking]) -> tuple[Turn, ...]:
    """What was asked and said, the latest; what had no outcome is left out."""
    turns = []
    for asking in askings:
        result = asking.progress().result
        if result is not None:
            outcome = result.outcome
            reply = outcome.text if isinstance(outcome, Answer) else refusal_text(outcome, result.trace)
            turns.append(Turn(asking.question, reply))
    return tuple(turns[-HISTORY_TURNS:])


# ---- the list in the sidebar ---------------------------------------------------------------------------------------


def show_chats(workspace: Workspace) -> str | None:
    """Draw the list of the collection's chats; gives the id of the one that was chosen in this run."""
    chosen: str | None = None
    if not workspace.settings.traces:
        st.caption("Chats are not kept (RANK37_TRACES).")
        return None
    words = st.text_input(
        "Find a chat",
        key="find_chat",
        placeholder="Find a chat",
        label_visibility="collapsed",
        icon=":material/search:",
    )
    store = workspace.library.chats
    everything = bool(st.session_state.get("all_chats"))
    person = visitor().person
    cards = store.chats(owner=person, collection=workspace.key, words=words, limit=None if everything else LISTED + 1)
    open_id = _open_id()
    with st.container(key="r37-chats", gap=None):
        for card in cards if everything else cards[:LISTED]:
            if _chat_button(card, is_open=card.id == open_id):
                chosen = card.id
    if not cards:
        st.caption("No chat has these words." if words.strip() else "Your chats will be listed here.")
    elif len(cards) > LISTED and not everything:
        st.button("Show all chats", key="all_chats_button", type="tertiary", on_click=_show_all_chats)
    return chosen


def _open_id() -> str:
    chat: OpenChat | None = st.session_state.get("chat")
    return st.query_params.get(CHAT_PARAMETER, "") or (chat.id if chat else "")


def _chat_button(card: ChatCard, *, is_open: bool) -> bool:
    return st.button(
        as_markdown(snippet(readable(card.title), TITLE_SHOWN)),
        key=f"chat {card.id}",
        type="secondary" if is_open else "tertiary",
        width="stretch",
    )


def _show_all_chats() -> None:
    st.session_state["all_chats"] = True


# ---- what can be done with the open one ------------------------------------------------------------------------------


@st.dialog("This chat")
def chat_dialog(chat: OpenChat, workspace: Workspace) -> None:
    """Rename it, or delete it after a word."""
    with st.form("rename_chat", border=False):
        title = st.text_input("Title", value=chat.title, key=f"title of {chat.id}", max_chars=TITLE_CHARACTERS)
        renamed = st.form_submit_button("Rename", type="primary", icon=":material/edit:")
    st.divider()
    st.caption(
        "Deleting it removes its questions and what came of them: rankings, answers and labels. The documents stay."
    )
    sure = st.checkbox("Yes, delete this chat", key=f"sure {chat.id}")
    deleted = st.button("Delete", icon=":material/delete:", key="delete_chat", disabled=not sure)
    if not (renamed or deleted):
        return
    try:
        if renamed:
            workspace.library.chats.rename(chat.id, title)
            chat.title = " ".join(title.split())
        else:
            _delete(workspace.library.chats.chat(chat.id), workspace)
            begin_new_chat()
    except Rank37Error as error:
        show_problem(error)
        return
    st.rerun()


def _delete(chat: Chat | None, workspace: Workspace) -> None:
    if chat is None:
        return
    for question in chat.questions:
        asking = _under_way().pop(question.id, None)
        if asking is not None:
            asking.stop()
    traces = workspace.recorder.store()
    if traces is not None:
        for question in chat.questions:
            if question.trace_id:
                traces.delete(question.trace_id)
    workspace.library.chats.delete(chat.card.id)
