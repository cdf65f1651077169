"""The Documents page: add PDFs, watch them go in, list them, delete them.

It checks how many files come at once and hands them to the queue; everything else about a file is ingestion's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from rag.errors import Rank37Error
from rag.settings import Settings
from rag.types import StoredDocument
from ui.ingestion import show_queue
from ui.problems import show_problem
from ui.words import as_cell, as_markdown, count, page_list, readable
from ui.workspace import Workspace, open_workspace

NAMES_IN_QUESTION = 10
"""How many documents the question before deleting names."""


def show() -> None:
    """Draw the page."""
    workspace = open_workspace()
    st.title("Documents", anchor=False)
    _upload(workspace)
    show_queue(workspace)
    _document_list(workspace)


def _upload(workspace: Workspace) -> None:
    settings = workspace.settings
    with st.form("upload", clear_on_submit=True):
        files = st.file_uploader(
            f"Add PDFs, up to {settings.max_upload_files} at once",
            type="pdf",
            accept_multiple_files=True,
            max_upload_size=math.ceil(settings.max_file_mb),
            key="files",
        )
        submitted = st.form_submit_button("Add to the collection", type="primary", icon=":material/upload:")
    if not submitted:
        return
    if not files:
        st.warning("No file is chosen yet: choose or drop PDFs above, then add them.")
        return
    if problem := too_many(len(files), settings):
        st.error(problem, icon=":material/error:")
        return
    for file in files:
        try:
            workspace.queue.submit(file.name, file.getvalue())
        except Rank37Error as error:
            show_problem(error)


def too_many(n_files: int, settings: Settings) -> str | None:
    """What is wrong with so many files at once, or None."""
    if n_files <= settings.max_upload_files:
        return None
    return (
        f"{count(n_files, 'file')} at once; the limit is {settings.max_upload_files}, and none was added. Add them in "
        "several rounds, raise RANK37_MAX_UPLOAD_FILES, or take `python -m ingest FOLDER` at a terminal."
    )


def _document_list(workspace: Workspace) -> None:
    stored = workspace.engines.index.documents()
    st.subheader("In the collection", anchor=False)
    if not stored:
        st.caption("Nothing yet.")
        return
    round_number = st.session_state.setdefault("document_list_round", 0)
    table = document_table(stored)
    selection = st.dataframe(
        table if table["Remarks"].any() else table.drop(columns="Remarks"),
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key=f"documents {round_number}",
        column_config={
            "Title": st.column_config.TextColumn(width=300),
            "File": st.column_config.TextColumn(width=240),
            "Pages": st.column_config.NumberColumn(width=60, format="localized"),
            "Chunks": st.column_config.NumberColumn(width=60, format="localized"),
            "Added": st.column_config.DatetimeColumn(width=140, format="D MMM YYYY, HH:mm"),
            "Remarks": st.column_config.TextColumn(width="medium"),
        },
        alt="The documents of the collection with their pages, chunks and remarks",
    )
    rows: list[int] = selection["selection"]["rows"]
    chosen = [stored[row] for row in rows if row < len(stored)]
    if chosen:
        if st.button(f"Delete {count(len(chosen), 'document')} …", icon=":material/delete:"):
            _confirm_delete(chosen, workspace)
    else:
        st.caption("Select rows at their left edge to delete documents.")


def document_table(stored: Sequence[StoredDocument]) -> pd.DataFrame:
    """The documents as a table, one row each, in the given order."""
    columns: dict[str, list[Any]] = {
        "Title": [as_cell(item.document.title) for item in stored],
        "File": [as_cell(item.document.source) for item in stored],
        "Pages": [item.document.page_count for item in stored],
        "Chunks": [item.n_chunks for item in stored],
        "Added": pd.to_datetime([item.ingested_at or None for item in stored], utc=True, format="ISO8601").tolist(),
        "Remarks": [_remarks(item) for item in stored],
    }
    return pd.DataFrame(columns)


def _remarks(stored: StoredDocument) -> str:
    remarks = ["not finished: add the file again to continue"] if stored.state == "ingesting" else []
    if stored.pages_without_text:
        remarks.append(f"no text on page {page_list(stored.pages_without_text)}")
    remarks += [readable(warning) for warning in stored.warnings]
    return "; ".join(remarks)


@st.dialog("Delete from the collection?")
def _confirm_delete(chosen: Sequence[StoredDocument], workspace: Workspace) -> None:
    for item in chosen[:NAMES_IN_QUESTION]:
        st.markdown(f"- **{as_markdown(item.document.title)}** ({as_markdown(item.document.source)})")
    if len(chosen) > NAMES_IN_QUESTION:
        st.caption(f"and {len(chosen) - NAMES_IN_QUESTION} more")
    st.caption(
        "The passages and Rank37’s copy of each file are removed, and their words from the questions asked so far. "
        "The files that you uploaded stay where they are."
    )
    keep, delete = st.columns(2)
    if keep.button("Keep", width="stretch"):
        st.rerun()
    if delete.button("Delete", type="primary", icon=":material/delete:", width="stretch"):
        try:
            for item in chosen:
                workspace.delete_document(item.document.id)
        except Rank37Error as error:
            show_problem(error)
            return
        st.session_state["document_list_round"] += 1
        st.rerun()
