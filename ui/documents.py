"""The Documents page: add files, watch them go in, list and search them, see how each was read, delete them.

It checks how many files come at once and hands them to the queue; everything else about a file is ingestion's.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from ingest.files import SUFFIXES
from ingest.kinds import KIND_NAMES
from rag.errors import Rank37Error
from rag.settings import Settings
from rag.types import DocumentKind, StoredDocument
from ui.ingestion import show_queue
from ui.problems import show_problem
from ui.receipt import show_receipt
from ui.reindexing import show_reindexing_strip
from ui.visitor import visitor
from ui.words import as_cell, as_markdown, count, page_list, readable
from ui.workspace import Workspace, check_manages, may_manage, open_workspace

CSS = Path(__file__).parent / "documents.css"

FILES, FOLDER = "Files", "A folder"

SEARCHED_FROM = 10
"""With fewer documents there is no search box."""

_SHORT_KINDS: dict[DocumentKind, str] = {
    "pdf": "PDF",
    "docx": "Word",
    "html": "Web page",
    "markdown": "Markdown",
    "text": "Text",
}

NAMES_IN_QUESTION = 10
"""How many documents the question before deleting names."""


def show() -> None:
    """Draw the page."""
    workspace = open_workspace()
    st.html(CSS)
    st.title("Documents", anchor=False)
    show_upload(workspace)
    show_reindexing_strip(workspace)
    show_queue(workspace)
    _document_list(workspace)


def show_upload(workspace: Workspace) -> bool:
    """Draw what files are added with; gives whether some were, in this run."""
    settings = workspace.settings
    folder = st.segmented_control("What to add", [FILES, FOLDER], default=FILES, required=True, key="add") == FOLDER
    with st.form("upload", clear_on_submit=True):
        files = st.file_uploader(
            f"PDF, Word (.docx), web page, Markdown or plain text, up to {settings.max_upload_files} files at once",
            type=list(SUFFIXES),
            accept_multiple_files="directory" if folder else True,
            max_upload_size=math.ceil(settings.max_file_mb),
            key="folder" if folder else "files",
        )
        submitted = st.form_submit_button("Add to the collection", type="primary", icon=":material/upload:")
    if not submitted:
        return False
    if not files:
        st.warning("No file is chosen yet: choose or drop some above, then add them.")
        return False
    if problem := too_many(len(files), settings):
        st.error(problem, icon=":material/error:")
        return False
    n_added = 0
    for file, name in zip(files, distinct_names([file.name for file in files]), strict=True):
        try:
            workspace.submit(name, file.getvalue(), visitor().person)
            n_added += 1
        except Rank37Error as error:
            show_problem(error)
    return n_added == len(files)


def distinct_names(names: Sequence[str]) -> list[str]:
    """What files are called that come together: those of one name keep their folders in it, so that both stay.

    >>> distinct_names(["2023/report.pdf", "2024/report.pdf", "2024/terms.md"])
    ['2023 – report.pdf', '2024 – report.pdf', 'terms.md']
    """
    parts = [[part for part in re.split(r"[/\\\\]", name) if part] or [name] for name in names]
    counts = Counter(path[-1] for path in parts)
    return [" – ".join(path) if counts[path[-1]] > 1 else path[-1] for path in parts]


def too_many(n_files: int, settings: Settings) -> str | None:
    """What is wrong with so many files at once, or None."""
    if n_files <= settings.max_upload_files:
        return None
    return (
        f"{count(n_files, 'file')} at once; the limit is {settings.max_upload_files}, and none was added. Add them in "
        "several rounds, raise RANK37_MAX_UPLOAD_FILES, or take `python -m ingest FOLDER` at a terminal."
    )


def _document_list(workspace: Workspace) -> None:
    everything = workspace.index.documents()
    st.subheader("In the collection", anchor=False)
    if not everything:
        st.caption("Nothing yet: add files above, and ask about them as soon as the first one is in.")
        return
    wanted = ""
    if len(everything) >= SEARCHED_FROM:
        wanted = (
            st.text_input(
                "Search",
                type="search",
                placeholder=f"Search {len(everything):,} documents by title, file or remark",
                label_visibility="collapsed",
                live=True,
                key="document_search",
            )
            or ""
        )
    stored = found(everything, wanted)
    if wanted.strip():
        st.caption(f"{len(stored):,} of {count(len(everything), 'document')}")
    if not stored:
        return
    round_number = st.session_state.setdefault("document_list_round", 0)
    table = document_table(stored)
    selection = st.dataframe(
        table if table["Remarks"].any() else table.drop(columns="Remarks"),
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key=f"documents {round_number} {wanted}",
        column_config={
            "Title": st.column_config.TextColumn(width=270),
            "File": st.column_config.TextColumn(width=190),
            "Kind": st.column_config.TextColumn(width=75),
            "Pages": st.column_config.NumberColumn(
                width=60, format="localized", help="Sections, where a kind has none"
            ),
            "Chunks": st.column_config.NumberColumn(width=60, format="localized"),
            "Size": st.column_config.NumberColumn(width=75, format="bytes"),
            "Added": st.column_config.DatetimeColumn(width=135, format="D MMM YYYY, HH:mm"),
            "Remarks": st.column_config.TextColumn(width="medium"),
        },
        alt="The documents of the collection with their pages, chunks and remarks",
    )
    rows: list[int] = selection["selection"]["rows"]
    chosen = [stored[row] for row in rows if row < len(stored)]
    if len(chosen) == 1:
        show_receipt(chosen[0], workspace)
    if not may_manage(workspace):
        st.caption("Select a row at its left edge for its receipt and its chunks. Only the owner deletes documents.")
    elif chosen:
        if st.button(f"Delete {count(len(chosen), 'document')} …", icon=":material/delete:"):
            _confirm_delete(chosen, workspace)
    else:
        st.caption("Select a row at its left edge for its receipt and its chunks, or several to delete them.")


def found(stored: Sequence[StoredDocument], wanted: str) -> list[StoredDocument]:
    """The documents in whose title, file name or remarks every word stands, in the given order."""
    words = wanted.casefold().split()

    def text(item: StoredDocument) -> str:
        return f"{item.document.title} {item.document.source} {KIND_NAMES[item.kind]} {_remarks(item)}".casefold()

    return [item for item in stored if all(word in text(item) for word in words)] if words else list(stored)


def document_table(stored: Sequence[StoredDocument]) -> pd.DataFrame:
    """The documents as a table, one row each, in the given order."""
    columns: dict[str, list[Any]] = {
        "Title": [as_cell(item.document.title) for item in stored],
        "File": [as_cell(item.document.source) for item in stored],
        "Kind": [_SHORT_KINDS[item.kind] for item in stored],
        "Pages": [item.document.page_count for item in stored],
        "Chunks": [item.n_chunks for item in stored],
        "Size": [item.size_bytes or None for item in stored],
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
            check_manages(workspace)
            for item in chosen:
                workspace.delete_document(item.document.id)
        except Rank37Error as error:
            show_problem(error)
            return
        st.session_state["document_list_round"] += 1
        st.rerun()
