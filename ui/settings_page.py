"""The Settings page: what is in use and why, whether it answers, and what can be changed without a restart.

It saves what is changed and lets the library use it; which engines follow is `rag.wiring`'s choice. A key is typed
masked and is never drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from pydantic import ValidationError

from rag.connections import Connection, try_chats, try_embedder, try_index, try_llm, try_reranker, try_traces
from rag.errors import BadInput, Rank37Error
from rag.evaluation.floor_report import floor_by_hand
from rag.saved_settings import CHANGEABLE, Value, read_saved, save
from rag.settings import DEFAULT_RERANKER, Settings, set_in_environment
from rag.wiring import FloorInUse, floor_in_use, floor_store, list_rerankers
from ui.models import await_models
from ui.problems import problems_shown, show_problem
from ui.visitor import visitor
from ui.words import as_html, as_markdown, floor_value, sentence, sentence_html
from ui.workspace import Workspace, check_manages, may_manage, open_workspace

AUTOMATIC = ""
"""The choice of naming no reranker."""
_ROLES = {"embedder": "Embedder", "index": "Index", "reranker": "Reranker", "llm": "LLM"}
_VARIABLES = {
    "reranker": "RANK37_RERANKER",
    "rerank_depth": "RANK37_RERANK_DEPTH",
    "recall_limit": "RANK37_RECALL_LIMIT",
    "answer_limit": "RANK37_ANSWER_LIMIT",
    "openai_base_url": "OPENAI_BASE_URL",
    "openai_model": "OPENAI_MODEL",
    "openai_api_key": "OPENAI_API_KEY",
}
_SAVED = "settings saved"
"""Where the session keeps what to say of a save until the page is drawn again."""


def show() -> None:
    """Draw the page."""
    workspace = open_workspace()
    st.title("Settings", anchor=False)
    await_models(workspace)
    _banners(workspace)
    if said := st.session_state.pop(_SAVED, None):
        st.success(said, icon=":material/check:")
    with problems_shown():
        _in_use(workspace)
    with problems_shown():
        _connections(workspace)
    with problems_shown():
        _floor(workspace)
    with problems_shown():
        _changes(workspace)


def _banners(workspace: Workspace) -> None:
    """One for each engine that stands in for another, and for each host that texts go to."""
    for info in workspace.engines.infos:
        if info.stands_in_for:
            st.warning(
                f"**{_ROLES[info.role]}: {as_markdown(info.name)} stands in for {as_markdown(info.stands_in_for)}.** "
                f"{as_markdown(sentence(info.why))}",
                icon=":material/swap_horiz:",
            )
        if info.sends_data_to:
            st.warning(
                f"**{_ROLES[info.role]}:** questions and passages are sent to {as_markdown(info.sends_data_to)}.",
                icon=":material/cloud_upload:",
            )


def _in_use(workspace: Workspace) -> None:
    st.subheader("In use", anchor=False)
    floor = floor_in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
    rows = [
        (
            _ROLES[info.role],
            info.name,
            " · ".join(part for part in (info.precision, info.revision[:8]) if part),
            info.why,
        )
        for info in workspace.engines.infos
    ]
    rows.append(("Floor", floor_value(floor.value), "", floor.why))
    body = "".join(
        f"""<tr data-testid="in-use"><th scope="row">{role}</th><td><b>{as_html(name)}</b>
<small>{as_html(details)}</small></td><td>{sentence_html(why)}</td></tr>"""
        for role, name, details, why in rows
    )
    st.html(
        f"""<div class="r37-settings" tabindex="0" role="region" aria-label="What is in use"><table>
<tbody>{body}</tbody></table></div>"""
    )


def _connections(workspace: Workspace) -> None:
    st.subheader("Does everything answer?", anchor=False)
    if st.button("Test all connections", icon=":material/network_check:", key="try_connections"):
        with st.spinner("Asking each service …"):
            st.session_state["connections"] = _tried(workspace)
    tried: list[Connection] = st.session_state.get("connections", [])
    for connection in tried:
        show = st.success if connection.works else st.error
        show(
            f"**{as_markdown(connection.name)}.** {as_markdown(connection.said)}",
            icon=":material/check:" if connection.works else ":material/error:",
        )


def _tried(workspace: Workspace) -> list[Connection]:
    engines = workspace.engines
    return [
        try_embedder(engines.embedder),
        try_index(engines.index, engines.embedder),
        try_reranker(engines.reranker),
        try_llm(engines.llm),
        try_traces(workspace.recorder.store),
        try_chats(workspace.library.chats),
    ]


# ---- the floor, which belongs to the collection and the reranker -----------------------------------------------------


def _floor(workspace: Workspace) -> None:
    st.subheader("Floor", anchor=False)
    now = floor_in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
    st.caption(
        "The lowest score with which a passage can be used. It belongs to this collection and this reranker; the "
        "Quality page chooses it by your own questions."
    )
    if now.source == "setting":
        st.info("RANK37_FLOOR in the environment sets it: it can’t be changed here.", icon=":material/lock:")
    row = st.container(horizontal=True, vertical_alignment="bottom")
    value = row.number_input(
        "Lowest score",
        0.0,
        1.0,
        value=now.value,
        step=0.05,
        format="%.3f",
        disabled=now.source == "setting",
        key=f"floor {workspace.key} {now.value} {now.scope.reranker}",
        width=160,
    )
    if not may_manage(workspace):
        st.caption("Only the collection’s owner changes it; where it has none, an administrator.")
        return
    if row.button("Set", key="set_floor", disabled=now.source == "setting" or value == now.value):
        _set_floor(value, now, workspace)
    if row.button("Back to the default", type="tertiary", key="reset_floor", disabled=now.source != "stored"):
        check_manages(workspace)
        floor_store(workspace.settings).remove(now.scope)
        st.session_state[_SAVED] = "The floor is the default again."
        st.rerun()


def _set_floor(value: float, now: FloorInUse, workspace: Workspace) -> None:
    check_manages(workspace)
    floor_store(workspace.settings).put(floor_by_hand(round(value, 4), now.scope))
    st.session_state[_SAVED] = f"The floor is {floor_value(round(value, 4))} now, for this collection and reranker."
    st.rerun()


# ---- what is kept in settings.json -----------------------------------------------------------------------------------


def _changes(workspace: Workspace) -> None:
    st.subheader("Change", anchor=False)
    if not visitor().is_admin:
        st.caption("These settings hold for all: an administrator changes them.")
        return
    settings = workspace.library.settings
    fixed = set_in_environment()
    locked = [variable for name, variable in _VARIABLES.items() if name in fixed]
    if locked:
        st.info(
            f"Set in the environment, so they can’t be changed here: {', '.join(f'`{name}`' for name in locked)}.",
            icon=":material/lock:",
        )
    with st.form("settings", border=True):
        values = _ranking(settings, fixed) | _llm(settings, fixed)
        submitted = st.form_submit_button("Save and use from now on", type="primary", icon=":material/save:")
    if submitted:
        try:
            said = apply(values, workspace)
        except Rank37Error as error:
            show_problem(error)
            return
        st.session_state.pop("connections", None)
        st.session_state[_SAVED] = said
        st.rerun()
    if any(name in read_saved(settings.data_dir) for name in CHANGEABLE):
        st.caption("What is saved here lies in `settings.json` in the data folder; only its owner can read it.")


def _ranking(settings: Settings, fixed: frozenset[str]) -> dict[str, Value]:
    kinds = {AUTOMATIC: f"automatic: the promoted one, else {DEFAULT_RERANKER}, else the embedded one"}
    for state in list_rerankers(settings):
        # Token vectors are made while documents are added, and a cascade has two names: those are the environment's.
        if state.state == "ready" and not state.setting.startswith(("colbert", "cascade:")):
            name = state.setting.removesuffix("[:model]")
            kinds[name] = f"{name}: {state.what}; {state.data}"
    chosen = settings.reranker or AUTOMATIC
    kinds.setdefault(chosen, chosen)
    reranker = st.selectbox(
        "Reranker",
        list(kinds),
        index=list(kinds).index(chosen),
        format_func=lambda name: kinds.get(name, name),
        disabled="reranker" in fixed,
        key=f"reranker, now {chosen}",
    )
    row = st.container(horizontal=True)
    recall_limit = row.number_input(
        "Passages recalled", 1, 1000, value=settings.recall_limit, disabled="recall_limit" in fixed, width=180
    )
    depth = row.number_input(
        "Passages that a large reranker reads",
        1,
        1000,
        value=settings.rerank_depth,
        placeholder="automatic",
        disabled="rerank_depth" in fixed,
        width=260,
        help="The large default reranker and the second of a cascade; automatic: 20 on a CPU, all on a GPU.",
    )
    answer_limit = row.number_input(
        "Passages for an answer", 1, 20, value=settings.answer_limit, disabled="answer_limit" in fixed, width=180
    )
    return {
        "reranker": reranker or None,
        "recall_limit": int(recall_limit),
        "rerank_depth": None if depth is None else int(depth),
        "answer_limit": int(answer_limit),
    }


def _llm(settings: Settings, fixed: frozenset[str]) -> dict[str, Value]:
    st.markdown("**LLM**: any server that speaks the OpenAI protocol. Without one, answers are quotes.")
    # A key of the environment goes to no address that is typed here.
    address_fixed = bool(fixed & {"openai_base_url", "openai_api_key"})
    base_url = st.text_input(
        "Address",
        value=settings.openai_base_url or "",
        placeholder="https://api.openai.com/v1, or http://localhost:11434/v1",
        disabled=address_fixed,
        max_chars=500,
    )
    model = st.text_input(
        "Model", value=settings.openai_model, disabled="openai_model" in fixed, max_chars=200, key="llm_model"
    )
    has_key = settings.openai_api_key is not None
    key = st.text_input(
        "Key",
        type="password",
        placeholder="a key is in use; type another to replace it" if has_key else "none",
        disabled=address_fixed,
        max_chars=1000,
        autocomplete="off",
        # Another widget after each save: what was typed goes nowhere back to the page.
        key=f"llm_key {st.session_state.get('llm_key_round', 0)}",
    )
    forget = st.checkbox("Forget the key", disabled=address_fixed or not has_key, key="forget_llm_key")
    return {
        "openai_base_url": base_url.strip() or None,
        "openai_model": model.strip() or None,
        "openai_api_key": "" if forget else key.strip() or None,
    }


def apply(values: Mapping[str, Value], workspace: Workspace) -> str:
    """Use these values from now on and keep them; what to say of it.

    A key that is not given stays, unless the LLM's address changes: a key goes to no other host than it was typed for.
    An empty one is forgotten.

    Raises: Rank37Error where a value can't be used, or the visitor is no administrator; everything stays as it was.
    """
    visitor().check_admin("what this page saves")
    library = workspace.library
    before, fixed = library.settings, set_in_environment()
    saved = read_saved(before.data_dir)
    defaults = {name: Settings.model_fields[name].default for name in CHANGEABLE}
    wanted: dict[str, Value] = {name: value for name, value in values.items() if name not in fixed}
    moved = wanted.get("openai_base_url", before.openai_base_url) != before.openai_base_url
    if wanted.get("openai_api_key") is None and not moved and "openai_api_key" in saved:
        wanted["openai_api_key"] = saved["openai_api_key"]
    kept = {name: value for name, value in {**saved, **wanted}.items() if name not in fixed and value not in ("", None)}
    kept = {name: value for name, value in kept.items() if value != defaults[name]}
    try:
        fresh = Settings(
            data_dir=before.data_dir, collection=before.collection, **{**_as_they_are(before, fixed), **kept}
        )
    except ValidationError as error:
        names = ", ".join(str(issue["loc"][0]) for issue in error.errors())
        raise BadInput(f"{names} can't be used: {error.errors()[0]['msg']}") from None
    _check_address(fresh.openai_base_url)
    llm = any(
        getattr(fresh, name) != getattr(before, name) for name in ("openai_base_url", "openai_model", "openai_api_key")
    )
    rerankers = any(getattr(fresh, name) != getattr(before, name) for name in ("reranker", "rerank_depth"))
    rerankers = rerankers or (llm and "rank-gpt" in (fresh.reranker or ""))
    library.swap(fresh, llm=llm, rerankers=rerankers)
    try:
        save(before.data_dir, kept)
    except Rank37Error:
        library.swap(before, llm=llm, rerankers=rerankers)
        raise
    st.session_state["llm_key_round"] = st.session_state.get("llm_key_round", 0) + 1
    dropped = moved and before.openai_api_key is not None and not kept.get("openai_api_key")
    return "Saved, and in use from now on." + (
        " The key was forgotten, since the LLM’s address changed: type it again if it is meant for the new one."
        if dropped
        else ""
    )


def _as_they_are(settings: Settings, fixed: frozenset[str]) -> dict[str, object]:
    """What the process was started with and the page does not change."""
    names = (settings.model_fields_set - set(CHANGEABLE)) | (settings.model_fields_set & fixed)
    return {name: getattr(settings, name) for name in names if name not in ("data_dir", "collection")}


def _check_address(url: str | None) -> None:
    if url is not None and not url.startswith(("http://", "https://")):
        raise BadInput(f"the LLM's address {url!r} can't be used: it begins with http:// or https://")
