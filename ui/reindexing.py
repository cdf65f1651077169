"""Re-indexing a collection: choose the embedder, see how far it is, cancel it, read how it ended.

The work is `ingest.reindex`'s, in a thread of its own, so that asking goes on meanwhile.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ingest.library import Workspace
from ingest.reindex import ReindexView, stopped_choice
from ingest.time_left import time_left_s
from rag.embedder_choice import EmbedderChoice
from rag.errors import Rank37Error
from rag.settings import EMBEDDED
from rag.types import CollectionCard
from rag.wiring import embedder_choice, floor_in_use, named_embedder
from ui.ingestion import job_html
from ui.problems import problems_shown, show_problem
from ui.visitor import visitor
from ui.words import as_markdown, count, floor_value, sentence, time_left

REFRESH_S = 1.0
NAME_CHARACTERS = 500

_SAME, _CONFIGURED, _OTHER = "same", "configured", "other"


@st.dialog("Re-index the collection")
def open_reindex_dialog(card: CollectionCard, workspace: Workspace) -> None:
    """Choose the embedder and begin. `workspace` is any collection of the library."""
    with problems_shown():
        _dialog(card, workspace.library.open(card.key, visitor().person))


def _dialog(card: CollectionCard, workspace: Workspace) -> None:
    st.markdown(f"**{as_markdown(card.title)}**")
    ready = sum(1 for stored in workspace.index.documents() if stored.state == "ready")
    st.markdown(
        f"Its {count(ready, 'document')} {'is' if ready == 1 else 'are'} read, cut and embedded again, from the files "
        "that Rank37 keeps. You can go on asking and adding files: the present index answers until the new one is "
        "whole, which then takes its place in one step."
    )
    in_use = embedder_choice(workspace.settings)
    options = {_SAME: f"{workspace.embedder_identity.name}, as now"}
    configured = embedder_choice(workspace.library.settings)
    if configured.embedder != in_use.embedder:
        options[_CONFIGURED] = f"{shown_name(configured)}, as the settings say"
    if visitor().is_admin:
        options[_OTHER] = "another"
    chosen = st.radio("Embedder", list(options), format_func=lambda key: options[key], key=f"embedder of {card.key}")
    name = ""
    if chosen == _OTHER:
        name = st.text_input(
            "Its name or folder",
            max_chars=NAME_CHARACTERS,
            placeholder="Such as intfloat/multilingual-e5-small",
            help="What RANK37_EMBEDDER takes: `embedded`, the name of a sentence-transformers model that was fetched "
            "to this machine (`python -m rag models fetch NAME`), or the path of a folder that holds one.",
            key=f"embedder named for {card.key}",
        )
    elif not visitor().is_admin:
        st.caption("An administrator can choose another one.")
    if chosen != _SAME:
        st.caption(
            "A floor belongs to the embedder as well: one that was chosen for this collection does not count with "
            "another, and the default is in use until you choose one again."
        )
    if st.button("Re-index", type="primary", icon=":material/sync:", width="stretch", key="begin_reindexing"):
        with st.spinner("Loading the embedder …"):
            begun = _begin(card, workspace, chosen, name)
        if begun:
            st.rerun()


def _begin(card: CollectionCard, workspace: Workspace, chosen: str, name: str) -> bool:
    try:
        visitor().check_manages(card)
        choice: EmbedderChoice | None = None
        if chosen == _OTHER:
            visitor().check_admin("which models are loaded")
            choice = named_embedder(name, workspace.library.settings)
        elif chosen == _CONFIGURED:
            choice = embedder_choice(workspace.library.settings)
        workspace.library.reindex(card.key, choice, visitor().person)
    except Rank37Error as error:
        show_problem(error)
        return False
    return True


def show_reindexing(card: CollectionCard, workspace: Workspace) -> None:
    """How a collection's re-indexing stands, if there is one; `workspace` is any collection of the library."""
    opened = next((one for one in workspace.library.workspaces() if one.key == card.key), None)
    reindexing = opened.reindexing if opened else None
    if opened is not None and reindexing is not None:
        view = reindexing.view()
        if view.state == "running":
            _progress(opened, card)
        elif view.state != "stopped":
            _ended(view, reindexing.choice, card, opened)
        return
    stopped = stopped_choice(workspace.settings.model_copy(update={"collection": card.key}).collection_dir)
    if stopped is not None:
        st.warning(
            f"Re-indexing with **{as_markdown(shown_name(stopped))}** was stopped before its end. The earlier index "
            "answers, and what was done is kept.",
            icon=":material/pause_circle:",
        )
        _go_on_or_not(stopped, card, workspace)


def show_reindexing_strip(workspace: Workspace) -> None:
    """One line with a bar while the collection is re-indexed; nothing otherwise."""
    if workspace.is_reindexing:
        _progress(workspace, None)


@st.fragment(run_every=REFRESH_S)
def _progress(workspace: Workspace, card: CollectionCard | None) -> None:
    """How far it is; for the card of a collection with a button that cancels."""
    reindexing = workspace.reindexing
    view = reindexing.view() if reindexing else None
    if reindexing is None or view is None or view.state != "running":
        st.rerun()
    with problems_shown():
        n_all = len(view.documents)
        text = f"Re-indexing with {as_markdown(view.embedder.name)}"
        if n_all:
            text += f": {view.n_done:,} of {count(n_all, 'document')}"
        if n_all and (left := time_left_s(view.documents)) is not None:
            text += f" · {time_left(left)}"
        st.progress(view.n_done / n_all if n_all else 0.0, text)
        running = next((one for one in view.documents if one.state == "running"), None)
        if running is not None:
            st.html(job_html(running))
        st.caption(
            "The earlier index answers meanwhile. Files that are added now can be found at once, and are in the new "
            "index too when it takes over."
        )
        if card is not None and visitor().may_manage(card):
            st.button("Cancel re-indexing", key=f"cancel reindexing {card.key}", on_click=reindexing.cancel)


def _ended(view: ReindexView, choice: EmbedderChoice, card: CollectionCard, workspace: Workspace) -> None:
    if view.state == "failed":
        if view.error is not None:
            show_problem(view.error)
        _go_on_or_not(choice, card, workspace)
        return
    if view.state == "cancelled":
        st.info("Re-indexing was cancelled: the earlier index answers, as before.", icon=":material/undo:")
    else:
        floor = floor_in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
        said = f"Re-indexed with **{as_markdown(view.embedder.name)}**: {count(view.n_done, 'document')}."
        if floor.stale is not None:
            said += f" The floor is {floor_value(floor.value)} now. {as_markdown(sentence(floor.why))}"
        st.success(said, icon=":material/check:")
    if visitor().may_manage(card):
        st.button("OK", key=f"dismiss reindexing {card.key}", on_click=workspace.discard_reindexing)


def _go_on_or_not(choice: EmbedderChoice, card: CollectionCard, workspace: Workspace) -> None:
    """Continue with the same embedder, or forget what was done; `workspace` is any collection of the library."""
    if not visitor().may_manage(card):
        return
    row = st.container(horizontal=True)
    if row.button("Continue", key=f"continue reindexing {card.key}", icon=":material/sync:"):
        try:
            with st.spinner("Loading the embedder …"):
                workspace.library.reindex(card.key, choice, visitor().person)
        except Rank37Error as error:
            show_problem(error)
            return
        st.rerun()
    if row.button("Discard", key=f"discard reindexing {card.key}", type="tertiary"):
        try:
            workspace.library.open(card.key, visitor().person).discard_reindexing()
        except Rank37Error as error:
            show_problem(error)
            return
        st.rerun()


def shown_name(choice: EmbedderChoice) -> str:
    """An embedder by the name that a person knows; a folder's by its last part.

    >>> shown_name(EmbedderChoice("embedded")), shown_name(EmbedderChoice("/models/e5-small"))
    ('the embedded one', 'e5-small')
    >>> shown_name(EmbedderChoice("intfloat/e5-small"))
    'intfloat/e5-small'
    """
    if choice.embedder == EMBEDDED:
        return "the embedded one"
    return Path(choice.embedder).name if Path(choice.embedder).is_absolute() else choice.embedder
