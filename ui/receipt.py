"""One document's receipt: what came in of its file, what did not, and how it was cut. It draws and computes nothing."""

from __future__ import annotations

import streamlit as st

from ingest.kinds import KIND_NAMES
from rag.types import StoredDocument
from ui.chunk_view import open_chunks
from ui.words import as_html, as_markdown, duration, page_list, sentence_html, size, unit
from ui.workspace import Workspace


def show_receipt(stored: StoredDocument, workspace: Workspace) -> None:
    """The receipt, with a way to look at the chunks."""
    with st.container(border=True, key="r37-receipt"):
        st.subheader(as_markdown(stored.document.title), anchor=False)
        st.html(receipt_html(stored))
        if stored.n_chunks:
            label = "Look at its chunks on the page" if stored.kind == "pdf" else "Look at its chunks"
            if st.button(label, icon=":material/view_agenda:", key="look_at_chunks"):
                open_chunks(stored, workspace)


def receipt_html(stored: StoredDocument) -> str:
    """What is known of a document's ingestion, and beneath it what a person should know."""
    facts = [
        ("File", stored.document.source),
        ("Kind", KIND_NAMES[stored.kind]),
        ("Size", size(stored.size_bytes) if stored.size_bytes else "not noted"),
        (f"{unit(stored.kind).capitalize()}s", f"{stored.document.page_count:,}"),
        ("Chunks", f"{stored.n_chunks:,}"),
        ("Added", stored.ingested_at.replace("T", " ")[:16] + " UTC" if stored.ingested_at else "not noted"),
        ("Took", duration(stored.seconds) if stored.seconds else "not noted"),
    ]
    if stored.kind == "pdf":
        facts.append(("Without text", page_list(stored.pages_without_text) or "no page"))
    if stored.ocr_pages:
        facts.append(("Read by OCR", page_list(stored.ocr_pages)))
    listed = "".join(f"<div><dt>{name}</dt><dd>{as_html(value)}</dd></div>" for name, value in facts)
    remarks = [sentence_html(remark) for remark in receipt_remarks(stored)]
    told = f'<ul class="r37-remarks">{"".join(f"<li>{remark}</li>" for remark in remarks)}</ul>' if remarks else ""
    return f'<div data-testid="receipt"><dl class="r37-receipt">{listed}</dl>{told}</div>'


def receipt_remarks(stored: StoredDocument) -> list[str]:
    """What a person should know of a document, one remark each."""
    unfinished = ["it is not finished: add the file again to continue"] if stored.state == "ingesting" else []
    return unfinished + list(stored.warnings)
