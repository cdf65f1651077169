"""What all sessions of the app share, and which of its collections this session looks at.

It opens nothing itself: collections and engines are `ingest.library`'s. Nothing is drawn here but the spinner.
"""

from __future__ import annotations

import streamlit as st

from ingest.library import Library, Workspace
from rag.errors import BadInput
from rag.settings import load_settings

__all__ = ["CHAT_PARAMETER", "COLLECTION_PARAMETER", "Workspace", "choose_collection", "open_library", "open_workspace"]

CHAT_PARAMETER = "chat"
"""Names the open chat in the page's address."""

COLLECTION_PARAMETER = "collection"
"""Names the collection in the page's address, where it is not the one that the app starts with."""


@st.cache_resource(show_spinner="Loading the models and opening the collection …")
def open_library() -> Library:
    """The library of this process; a failure is not remembered, so that a rerun tries again. Raises Rank37Error.

    Where the settings name a port, the HTTP API serves the same library from then on.
    """
    settings = load_settings()
    if settings.api_port is None:
        return Library(settings)
    from ui.api.serve import LibraryWithApi

    return LibraryWithApi(settings)


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
    try:
        workspace = library.open(wanted)
    except BadInput:
        if wanted is None:
            raise
        workspace = library.open()
    choose_collection(workspace.key)
    return workspace


def choose_collection(key: str) -> None:
    """Let this session look at a collection from now on, in its address as well."""
    st.session_state["collection"] = key
    if key != open_library().settings.collection:
        st.query_params[COLLECTION_PARAMETER] = key
    elif COLLECTION_PARAMETER in st.query_params:
        del st.query_params[COLLECTION_PARAMETER]


def _collection_of_chat(library: Library, chat_id: str | None) -> str | None:
    """The collection that a chat asks, which never changes; None where there is no such chat."""
    known: dict[str, str] = st.session_state.setdefault("collection_of_chat", {})
    if chat_id and chat_id not in known:
        chat = library.chats.chat(chat_id)
        if chat is None:
            return None
        known[chat_id] = chat.card.collection
    return known.get(chat_id or "")
