"""What all sessions of the app share, and which of its collections this session looks at.

It opens nothing itself: collections and engines are `ingest.library`'s. Nothing is drawn here but the spinner.
"""

from __future__ import annotations

import streamlit as st

from ingest.library import Library, Workspace
from rag.errors import BadInput
from rag.settings import load_settings
from rag.types import ChatCard, CollectionCard
from ui.visitor import visitor

__all__ = ["CHAT_PARAMETER", "COLLECTION_PARAMETER", "Workspace", "choose_collection", "open_library", "open_workspace"]

CHAT_PARAMETER = "chat"
"""Names the open chat in the page's address."""

COLLECTION_PARAMETER = "collection"
"""Names the collection in the page's address, where it is not the one that the app starts with."""


@st.cache_resource(show_spinner="Opening the collection …")
def open_library() -> Library:
    """The library of this process; a failure is not remembered, so that a rerun tries again. Raises Rank37Error.

    Its models are loaded later (`ui.models`). Where the settings name a port, the HTTP API serves the same library from
    then on.
    """
    settings = load_settings()
    if settings.api_port is None:
        return Library(settings, models_later=True)
    from ui.api.serve import LibraryWithApi

    return LibraryWithApi(settings, models_later=True)


def open_workspace() -> Workspace:
    """The collection that this session looks at: the address's chat's, else the address's, else the one it chose.

    None of those, or one that was deleted meanwhile or is not open to this person: the settings' own.

    Raises: Rank37Error.
    """
    library = open_library()
    wanted = (
        _collection_of_chat(library, st.query_params.get(CHAT_PARAMETER))
        or st.query_params.get(COLLECTION_PARAMETER)
        or st.session_state.get("collection")
    )
    person = visitor().person
    try:
        workspace = library.open(wanted, person)
    except BadInput:
        theirs = [card.key for card in library.collections(person)]
        if not theirs:
            raise
        first = library.settings.collection
        workspace = library.open(first if first in theirs else theirs[0], person)
    choose_collection(workspace.key)
    return workspace


def may_manage(workspace: Workspace) -> bool:
    """Whether who looks at the page may change the collection, and see what all its people asked."""
    return visitor().person is None or visitor().may_manage(_card_of(workspace))


def check_manages(workspace: Workspace) -> None:
    """Raises NotAllowed unless who looks at the page may change the collection."""
    if visitor().person is not None:
        visitor().check_manages(_card_of(workspace))


def choose_collection(key: str) -> None:
    """Let this session look at a collection from now on, in its address as well."""
    st.session_state["collection"] = key
    if key != open_library().settings.collection:
        st.query_params[COLLECTION_PARAMETER] = key
    elif COLLECTION_PARAMETER in st.query_params:
        del st.query_params[COLLECTION_PARAMETER]


def is_theirs(card: ChatCard) -> bool:
    """Whether the chat is of the person who looks at the page."""
    person = visitor().person
    return person is None or card.owner == person


def _card_of(workspace: Workspace) -> CollectionCard:
    """The collection as the list knows it now. Raises BadInput where it was deleted, or is not shared any more."""
    cards = workspace.library.collections(visitor().person)
    card = next((card for card in cards if card.key == workspace.key), None)
    if card is None:
        raise BadInput("this collection was deleted, or is not open to you any more: choose another")
    return card


def _collection_of_chat(library: Library, chat_id: str | None) -> str | None:
    """The collection that a chat asks, which never changes; None where there is no such chat."""
    known: dict[str, str] = st.session_state.setdefault("collection_of_chat", {})
    if chat_id and chat_id not in known:
        chat = library.chats.chat(chat_id)
        if chat is None or not is_theirs(chat.card):
            return None
        known[chat_id] = chat.card.collection
    return known.get(chat_id or "")
