"""What all sessions of the app share, and which of its collections this session looks at.

It opens nothing itself: collections and engines are `ingest.library`'s. Nothing is drawn here but the spinner.
"""

from __future__ import annotations

import streamlit as st

from ingest.library import Library, Workspace
from rag.errors import BadInput
from rag.settings import load_settings

__all__ = ["COLLECTION_PARAMETER", "Workspace", "choose_collection", "open_library", "open_workspace"]

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
    """The collection that this session looks at: the address's, else the one it chose, else the settings'.

    One that was deleted meanwhile, or is not open to this person, gives way to the settings' own. Raises Rank37Error.
    """
    library = open_library()
    wanted = st.query_params.get(COLLECTION_PARAMETER) or st.session_state.get("collection")
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
