"""The chunks of a document as they were cut, page by page: on the page itself for a PDF, else as text.

Cutting is `ingest.chunk`'s, drawing `ingest.page_image`'s; this module lays one over the other.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from ingest.locate import locate, on_page
from ingest.page_image import PageImage, draw_page
from rag.errors import Rank37Error
from rag.types import SPAN_SEPARATOR, Chunk, DocumentKind, StoredDocument
from ui.problems import problems_shown, show_problem
from ui.words import as_html, as_markdown, count, pages, readable, snippet, unit
from ui.workspace import Workspace

COLOURS = 4
"""Neighbouring chunks have different ones."""
CACHED_PAGES = 12

_AT = "chunk view at"


def open_chunks(stored: StoredDocument, workspace: Workspace) -> None:
    """Open the chunks in a dialog over the list."""
    st.session_state[_AT] = 1
    title = readable(stored.document.title) or "Chunks"
    st.dialog(as_markdown(snippet(title, 60)), width="large")(_show)(stored, workspace)


def chunks_on(chunks: Sequence[Chunk], number: int) -> list[tuple[int, Chunk]]:
    """The chunks that have text on a page, each with its place in the document."""
    return [(at, chunk) for at, chunk in enumerate(chunks) if any(span.page == number for span in chunk.spans)]


def overlap(before: Chunk | None, chunk: Chunk) -> int:
    """How many characters at the start of a chunk the one before it holds as well.

    Both texts are slices of the same pages, so what they share is where their spans meet.
    """
    ends = {span.page: span.end for span in before.spans} if before is not None else {}
    shared = 0
    for span in chunk.spans:
        end = min(ends.get(span.page, 0), span.end)
        if end <= span.start:
            break
        shared += end - span.start
        if end < span.end:
            break
        shared += len(SPAN_SEPARATOR)
    return min(shared, len(chunk.text))


def _show(stored: StoredDocument, workspace: Workspace) -> None:
    with problems_shown():
        _show_page(stored, workspace)


def _show_page(stored: StoredDocument, workspace: Workspace) -> None:
    chunks = workspace.index.chunks(stored.document.id)
    n_pages, thing = stored.document.page_count, unit(stored.kind).capitalize()
    number = min(max(1, int(st.session_state.get(_AT, 1))), n_pages)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="r37-chunk-steps"):
        _step(f"{thing} before", ":material/chevron_left:", number - 1, n_pages, "Left")
        st.html(
            f'<p class="r37-page-number" data-testid="chunk-page">{thing} {number:,} of {n_pages:,}</p>',
            width="content",
        )
        _step(f"{thing} after", ":material/chevron_right:", number + 1, n_pages, "Right")
    here = chunks_on(chunks, number)
    if stored.kind == "pdf":
        _show_image(stored, workspace, number, here)
    if here:
        st.caption(f"{count(len(here), 'chunk')} here, of {len(chunks):,} in all. Grey text is in the one before, too.")
    else:
        st.caption(f"No chunk here: the {thing.lower()} has no readable text.")
    for at, chunk in here:
        st.html(chunk_html(at, chunk, chunks[at - 1] if at else None, stored.kind))


def _show_image(stored: StoredDocument, workspace: Workspace, number: int, here: Sequence[tuple[int, Chunk]]) -> None:
    path = workspace.ingester.original(stored.document.id)
    try:
        with st.spinner("Drawing the page …"):
            drawn = _drawn(str(path), path.stat().st_mtime_ns if path.is_file() else 0, number, stored.document.source)
    except Rank37Error as error:
        show_problem(error)
        return
    st.html(cut_page_html(drawn, here, stored.document.title))
    if here and not drawn.page.words:
        st.caption("Where its words stand on the page is not known, so no boxes are drawn.")


@st.cache_data(max_entries=CACHED_PAGES, show_spinner=False)
def _drawn(path: str, changed: int, number: int, source: str) -> PageImage:
    return draw_page(Path(path), number, source=source)


def cut_page_html(drawn: PageImage, here: Sequence[tuple[int, Chunk]], title: str) -> str:
    """The page with each chunk's lines in its colour and its number beside the first of them."""
    page = drawn.page
    over = []
    for at, chunk in here:
        piece = on_page(chunk, page.number)
        boxes = locate(piece, page) if piece else ()
        highest = min(boxes, key=lambda box: (box.top, box.left), default=None)  # a foot can be read first
        for box in boxes:
            left, top = 100 * box.left / page.width, 100 * box.top / page.height
            if box is highest:
                over.append(
                    f'<b class="r37-cut-number r37-cut-{at % COLOURS}" aria-hidden="true" '
                    f'style="left:{left:.3f}%;top:{top:.3f}%">{at + 1}</b>'
                )
            width, height = 100 * (box.right - box.left) / page.width, 100 * (box.bottom - box.top) / page.height
            over.append(
                f'<i class="r37-cut r37-cut-{at % COLOURS}" aria-hidden="true" data-chunk="{at + 1}" '
                f'style="left:{left:.3f}%;top:{top:.3f}%;width:{width:.3f}%;height:{height:.3f}%"></i>'
            )
    where = f"Page {page.number} of {as_html(title)} with its chunks"
    picture = base64.b64encode(drawn.image).decode()
    return f"""<div class="r37-page" tabindex="0" role="region" aria-label="{where}" data-testid="cut-page">
<div class="r37-sheet"><img src="data:{drawn.image_type};base64,{picture}" alt="{where}" width="{drawn.width_px}"
height="{drawn.height_px}">{"".join(over)}</div></div>"""


def chunk_html(at: int, chunk: Chunk, before: Chunk | None, kind: DocumentKind = "pdf") -> str:
    """A chunk as text: its number, where it lies, its heading, and what it repeats of the one before in grey."""
    shared = overlap(before, chunk)
    again, fresh = chunk.text[:shared], chunk.text[shared:]
    repeated = f'<span class="r37-again">{_lines_html(again)}</span>' if again else ""
    heading = f" · {as_html(chunk.heading)}" if chunk.heading else ""
    return f"""<div class="r37-chunk r37-cut-{at % COLOURS}" data-testid="chunk"><p><b>{at + 1}</b> <small>{
        pages(chunk.first_page, chunk.last_page, kind)
    } · {count(chunk.n_tokens, "token")}{heading}</small></p>
<p class="r37-chunk-text">{repeated}{_lines_html(fresh)}</p></div>"""


def _lines_html(text: str) -> str:
    return "\n".join(as_html(line) for line in text.split("\n"))


def _step(label: str, icon: str, number: int, n_pages: int, key: str) -> None:
    st.button(
        label,
        key=f"chunks_{key.lower()}",
        icon=icon,
        disabled=not 1 <= number <= n_pages,
        on_click=_go_to,
        args=(number,),
        shortcut=key,
    )


def _go_to(number: int) -> None:
    st.session_state[_AT] = number
