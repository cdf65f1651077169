"""The models, which are loaded while the person already reads and types: what pages show meanwhile, and of a failure.

Which models there are and how they are loaded is `ingest.library`'s.
"""

from __future__ import annotations

import streamlit as st

from ui.problems import show_problem
from ui.workspace import Workspace

LOADING = "Loading the models …"
LOOK_S = 1.0
"""Seconds between two looks whether they are there: each look takes time from loading them."""


def is_loaded(workspace: Workspace) -> bool:
    """Whether the models of the library are loaded."""
    return workspace.library.models.state == "loaded"


def is_failed(workspace: Workspace) -> bool:
    """Whether loading them has failed, and has not been tried again."""
    return workspace.library.models.state == "failed"


def begin_loading(workspace: Workspace) -> None:
    """Load the models in the background, unless that was begun; where it failed, only a person tries again."""
    if not is_failed(workspace):
        workspace.library.begin_loading()


def await_models(workspace: Workspace) -> None:
    """Wait for the models, for a page that shows what they are. Raises what loading them raises.

    Where that has failed before, nothing more is drawn: `show_failure` has said so.
    """
    if is_failed(workspace):
        st.stop()
    if not is_loaded(workspace):
        with st.spinner(LOADING):
            workspace.library.begin_loading()
            workspace.library.models.get()


def show_failure(workspace: Workspace) -> None:
    """Why the models are not loaded, with what tries again; nothing where that did not fail."""
    error = workspace.library.models.error
    if error is None:
        return
    show_problem(error)
    st.button("Try again", icon=":material/refresh:", key="load_again", on_click=workspace.library.begin_loading)
