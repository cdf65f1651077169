"""The sidebar: which collection is asked, its chats, which engines are in use and why, and the floor.

It shows what the engines say of themselves; it chooses no engine.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from rag.types import EngineInfo
from rag.wiring import floor_in_use
from ui.chats import begin_new_chat, show_chats
from ui.models import LOADING, LOOK_S, is_failed, is_loaded
from ui.problems import problems_shown, show_problem
from ui.sign_in import show_sign_out
from ui.visitor import visitor
from ui.words import as_html, as_markdown, count, floor_value, sentence_html
from ui.workspace import CHAT_PARAMETER, Workspace, choose_collection

_ROLES = {"embedder": "Embedder", "index": "Index", "reranker": "Reranker", "llm": "LLM"}

DEFAULT_RERANKER_SIZE = "2.3 GB"
NO_FLOOR_YET = "The floor is shown here once the models are loaded"


def show_sidebar(workspace: Workspace, ask_page: st.Page) -> None:
    """Draw it into the current container; a chat that is chosen opens on the given page."""
    show_sign_out()
    with problems_shown():
        _choose_collection(workspace)
        counted = _counted(workspace)  # here, so that it is not counted again and again
        _once_loaded(
            workspace,
            lambda: st.html(_facts(counted, _floor(workspace))),
            meanwhile=lambda: st.html(_facts(counted, NO_FLOOR_YET)),
        )
    chosen: str | None = None
    with problems_shown():
        chosen = show_chats(workspace)
    if chosen:
        st.switch_page(ask_page, query_params={CHAT_PARAMETER: chosen})
    with problems_shown():
        _once_loaded(workspace, lambda: _show_engines(workspace), meanwhile=lambda: _show_loading(workspace))


def _once_loaded(workspace: Workspace, draw: Callable[[], object], *, meanwhile: Callable[[], object]) -> None:
    """Draw what is only known once the models are loaded; until then something else, looking again and again."""
    if is_loaded(workspace):
        draw()
    elif is_failed(workspace):
        meanwhile()
    else:
        _await(workspace, draw, meanwhile)


@st.fragment(run_every=LOOK_S)
def _await(workspace: Workspace, draw: Callable[[], object], meanwhile: Callable[[], object]) -> None:
    """By itself, so that an open dialog and what is typed stay; of a failure the whole page tells."""
    if is_failed(workspace):
        st.rerun()
    with problems_shown():
        if is_loaded(workspace):
            draw()
        else:
            meanwhile()


def _show_loading(workspace: Workspace) -> None:
    if not is_failed(workspace):
        st.caption(f":material/hourglass_top: {LOADING}")  # what turns takes a core from loading them


def _show_engines(workspace: Workspace) -> None:
    """Which engines are in use and why, and where texts go."""
    infos = workspace.engines.infos
    stands_in = any(info.stands_in_for for info in infos)
    with st.expander("What is in use", icon=":material/tune:", expanded=stands_in, key="engines_in_use"):
        st.html("".join(_engine(info) for info in infos if info.role != "llm"))
        if workspace.engines.reranker.info.stands_in_for:
            _fetch_notice(workspace)
        st.html("".join(_engine(info) for info in infos if info.role == "llm"))
    for info in infos:
        if info.sends_data_to:
            st.warning(
                f"Questions and passages are sent to **{as_markdown(info.sends_data_to)}** "
                f"({as_markdown(_ROLES[info.role])}).",
                icon=":material/cloud_upload:",
            )


def _choose_collection(workspace: Workspace) -> None:
    titles = {card.key: card.title for card in workspace.library.collections(visitor().person)}
    if len(titles) < 2:
        return
    keys = list(titles)
    if st.session_state.get("collection_choice") != workspace.key:
        st.session_state["collection_choice"] = workspace.key  # the address may have named another one meanwhile
    st.selectbox(
        "Collection",
        keys,
        format_func=lambda key: titles.get(key, key),
        key="collection_choice",
        on_change=_collection_chosen,
    )


def _collection_chosen() -> None:
    begin_new_chat()
    choose_collection(st.session_state["collection_choice"])


def _counted(workspace: Workspace) -> str:
    index = workspace.index
    ready = sum(1 for stored in index.documents() if stored.state == "ready")
    return f"<b>{count(ready, 'document')}</b>, {count(index.count_chunks(), 'chunk')}"


def _floor(workspace: Workspace) -> str:
    floor = floor_in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
    return f"""Floor <b>{floor_value(floor.value)}</b>: passages that score less are never used
<small>{sentence_html(floor.why)}</small>"""


def _facts(counted: str, floor: str) -> str:
    return f"""<div class="r37-facts"><p>{counted}</p>
<p>{floor}</p></div>"""


def _engine(info: EngineInfo) -> str:
    details = " · ".join(as_html(detail) for detail in (info.precision, info.revision[:8]) if detail)
    why = f"<small>{sentence_html(info.why)}</small>" if info.why else ""
    if info.stands_in_for:
        whom = "A stand-in" if info.stands_in_for in info.why else f"A stand-in for {as_html(info.stands_in_for)}"
        why = f"""<div class="r37-standin" data-testid="stands-in"><small><b>{whom}.</b>
{sentence_html(info.why)}</small></div>"""
    return f"""<div class="r37-engine" data-testid="engine-{info.role}"><span>{_ROLES[info.role]}</span>
<p><b>{as_html(info.name)}</b>{f" <small>{details}</small>" if details else ""}</p>{why}</div>"""


def _fetch_notice(workspace: Workspace) -> None:
    fetch = workspace.library.fetch
    if fetch is not None and fetch.error is None:
        _fetch_progress(workspace)
        return
    if fetch is not None and fetch.error is not None:
        show_problem(fetch.error)
    if not visitor().is_admin:
        st.caption("An administrator can fetch it.")
        return
    st.button(
        f"Fetch it now ({DEFAULT_RERANKER_SIZE})",
        icon=":material/download:",
        width="stretch",
        on_click=workspace.library.fetch_default_reranker,
    )


@st.fragment(run_every=1.0)
def _fetch_progress(workspace: Workspace) -> None:
    fetch = workspace.library.fetch
    if fetch is None or fetch.error is not None:
        st.rerun()
    if fetch.is_loading:
        st.progress(1.0, "Fetched; loading it …")
    elif fetch.total_bytes:
        share = min(fetch.done_bytes / fetch.total_bytes, 1.0)
        st.progress(share, f"Fetching: {fetch.done_bytes / 1e9:.2f} of {fetch.total_bytes / 1e9:.2f} GB")
    else:
        st.progress(0.0, "Fetching: asking the hub …")
