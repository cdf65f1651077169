"""The Collections page: make, open, rename, share, re-index and delete collections, and see how much each holds.

What a collection is and who may change it is `ingest.library`'s.
"""

from __future__ import annotations

from datetime import datetime

import streamlit as st

from ingest.library import TITLE_CHARACTERS
from ingest.statistics import disk_bytes, statistics_of
from rag.errors import Rank37Error
from rag.types import CollectionCard
from ui.chats import begin_new_chat
from ui.problems import problems_shown, show_problem
from ui.reindexing import open_reindex_dialog, show_reindexing
from ui.visitor import visitor
from ui.words import as_markdown, count
from ui.workspace import Workspace, choose_collection, open_workspace

MEMBERS_CHARACTERS = 20_000


def show() -> None:
    """Draw the page."""
    workspace = open_workspace()
    st.title("Collections", anchor=False)
    st.markdown(
        "A question is asked in one collection: its documents, its chats, its floor. They share the models; only the "
        "embedder can be its own."
    )
    _new_collection(workspace)
    for card in workspace.library.collections(visitor().person):
        with problems_shown():
            _collection(card, workspace)


def _new_collection(workspace: Workspace) -> None:
    with st.form("new_collection", clear_on_submit=True, border=False):
        row = st.container(horizontal=True, vertical_alignment="bottom")
        title = row.text_input("New collection", max_chars=TITLE_CHARACTERS, placeholder="Such as Insurance contracts")
        submitted = row.form_submit_button("Create", icon=":material/create_new_folder:", type="primary")
    if not submitted:
        return
    try:
        card = workspace.library.create(title, visitor().person)
    except Rank37Error as error:
        show_problem(error)
        return
    _open(card.key)
    st.rerun()


def _open(key: str) -> None:
    begin_new_chat()
    choose_collection(key)


def _collection(card: CollectionCard, workspace: Workspace) -> None:
    is_open = card.key == workspace.key
    is_first = card.key == workspace.library.settings.collection
    folder = workspace.settings.model_copy(update={"collection": card.key}).collection_dir
    with st.container(border=True, key=f"r37-collection-{card.key}"):
        head = st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute")
        head.subheader(as_markdown(card.title), anchor=False, width="content")
        buttons = head.container(horizontal=True, vertical_alignment="center", width="content")
        if is_open:
            buttons.badge("In use", icon=":material/check:", color="green")
        else:
            buttons.button("Open", key=f"open {card.key}", on_click=_open, args=(card.key,))
        may_manage = visitor().may_manage(card)
        if _can_be_shared(card) and buttons.button(
            "Share …", key=f"share {card.key}", type="tertiary", icon=":material/group_add:"
        ):
            _share_dialog(card, workspace)
        if may_manage and buttons.button("Rename …", key=f"rename {card.key}", type="tertiary", icon=":material/edit:"):
            _rename_dialog(card, workspace)
        if may_manage and buttons.button(
            "Re-index …",
            key=f"reindex {card.key}",
            type="tertiary",
            icon=":material/sync:",
            disabled=_is_reindexing(card, workspace),
        ):
            open_reindex_dialog(card, workspace)
        if (
            may_manage
            and not is_first
            and buttons.button("Delete …", key=f"delete {card.key}", type="tertiary", icon=":material/delete:")
        ):
            _delete_dialog(card, workspace)
        facts = [f"{_size(disk_bytes(folder))} on disk"]
        if is_open:
            numbers = statistics_of(workspace.index.documents())
            facts = [
                count(numbers.documents, "document"),
                count(numbers.pages, "page"),
                count(numbers.chunks, "chunk"),
                *facts,
            ]
            if numbers.last_added:
                facts.append(f"last added {_day(numbers.last_added)}")
            facts.append(f"embedded with {workspace.embedder_identity.name}")
        if visitor().person is not None:
            facts.append(_whose(card))
        if card.created_at:
            facts.append(f"made {_day(card.created_at)}")
        st.markdown(" · ".join(as_markdown(fact) for fact in facts))
        show_reindexing(card, workspace)
        if is_first:
            st.caption("The app starts with this one, so it can’t be deleted; its documents can.")
        elif not is_open:
            st.caption("Open it to see its documents.")


def _is_reindexing(card: CollectionCard, workspace: Workspace) -> bool:
    return any(one.key == card.key and one.is_reindexing for one in workspace.library.workspaces())


def _can_be_shared(card: CollectionCard) -> bool:
    """Where people sign in, an owner says who else may use a collection."""
    person = visitor().person
    return person is not None and card.owner == person


def _whose(card: CollectionCard) -> str:
    """Who may use it, in words."""
    if not card.owner:
        return "open to everyone"
    if card.owner != visitor().person:
        return f"{card.owner}’s, shared with you"
    return f"yours, shared with {', '.join(card.members)}" if card.members else "yours alone"


def _day(moment: str) -> str:
    day = datetime.fromisoformat(moment)
    return f"{day.day} {day:%b %Y}"


def _size(n_bytes: int) -> str:
    """Bytes as a person reads them.

    >>> _size(900), _size(1_540_000), _size(2_340_000_000)
    ('1 kB', '1.5 MB', '2.3 GB')
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= one:
            return f"{n_bytes / one:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


@st.dialog("Rename the collection")
def _rename_dialog(card: CollectionCard, workspace: Workspace) -> None:
    with st.form("rename_collection", border=False):
        title = st.text_input("Title", value=card.title, max_chars=TITLE_CHARACTERS, key=f"title of {card.key}")
        submitted = st.form_submit_button("Rename", type="primary")
    if submitted:
        try:
            visitor().check_manages(card)
            workspace.library.rename(card.key, title, visitor().person)
        except Rank37Error as error:
            show_problem(error)
            return
        st.rerun()


@st.dialog("Share the collection")
def _share_dialog(card: CollectionCard, workspace: Workspace) -> None:
    st.markdown(f"**{as_markdown(card.title)}**")
    with st.form("share_collection", border=False):
        typed = st.text_area(
            "Who else may use it, one name a line",
            value="\n".join(card.members),
            key=f"members of {card.key}",
            max_chars=MEMBERS_CHARACTERS,
            help="The names with which they sign in.",
        )
        submitted = st.form_submit_button("Share", type="primary", icon=":material/group_add:")
    st.caption(
        "They ask in it, read its pages and add documents, see the labels given in it, and delete nothing. You see the "
        "questions that they ask in it on the Quality page."
    )
    if submitted:
        members = list(dict.fromkeys(name.strip().casefold() for name in typed.splitlines() if name.strip()))
        try:
            workspace.library.share(card.key, members, visitor().person)
        except Rank37Error as error:
            show_problem(error)
            return
        st.rerun()


@st.dialog("Delete the collection?")
def _delete_dialog(card: CollectionCard, workspace: Workspace) -> None:
    st.markdown(f"**{as_markdown(card.title)}**")
    st.caption(
        "Its documents, chats, questions, labels and floors are deleted for good. The files that you uploaded stay "
        "where they are."
    )
    typed = st.text_input("To delete it, type its title", key=f"typed for {card.key}")
    keep, delete = st.columns(2)
    if keep.button("Keep", width="stretch", key="keep_collection"):
        st.rerun()
    if delete.button("Delete", type="primary", icon=":material/delete:", width="stretch", key="delete_collection"):
        if " ".join(typed.split()) != card.title:
            st.error("That is not its title: nothing was deleted.", icon=":material/error:")
            return
        try:
            visitor().check_manages(card)
            workspace.library.delete(card.key, visitor().person)
        except Rank37Error as error:
            show_problem(error)
            return
        if card.key == workspace.key:
            _open(workspace.library.settings.collection)
        st.rerun()
