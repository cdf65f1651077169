"""The page with the quoted words highlighted, its neighbours a step away: a PDF's as printed, else a section as text.

It draws what `ingest.page_image` and `ingest.locate` give; where words can't be placed it says so.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from streamlit import config, runtime

from ingest.locate import Piece, locate, on_page, pieces
from ingest.page_image import PageImage, draw_page
from rag.errors import Rank37Error
from rag.types import Box, Chunk, Citation, DocumentKind, StoredDocument
from ui.api.page_text import page_text
from ui.problems import problems_shown, show_problem
from ui.words import as_html, as_html_lines, as_markdown, count, readable, sentence, snippet, unit
from ui.workspace import Workspace

LINKED_BYTES = 48 * 2**20
"""A larger file is offered for download only: a link needs all of it in memory."""
CACHED_PAGES = 24

_AT = "page view at"
"""Where the session keeps the number of the page that is open."""
_SCROLL_TO_MARK = Path(__file__).parent / "page_view.html"

_FILES: dict[DocumentKind, tuple[str, str]] = {
    "pdf": ("PDF", "application/pdf"),
    "docx": ("Word document", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    # Of no kind that a browser opens: a page from outside never runs as a page of the app.
    "html": ("web page", "application/octet-stream"),
    "markdown": ("Markdown file", "text/markdown"),
    "text": ("text file", "text/plain"),
}
"""What a person calls the file, and what it is to a browser."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is looked at: a quote, or a whole passage, on the page where it begins."""

    chunk: Chunk
    page: int
    """1-based."""
    quote: str | None = None
    """Verbatim from the chunk; None: the passage as a whole."""
    marker: int | None = None
    """The n of [n]; None where it is not cited."""

    @classmethod
    def of(cls, citation: Citation) -> Sight:
        """A citation's quote."""
        return cls(citation.chunk, citation.page, citation.quote, citation.marker)


@dataclass(frozen=True, slots=True)
class Marks:
    """What is highlighted on a page."""

    quoted: tuple[Box, ...] = ()
    read: tuple[Box, ...] = ()
    """The passage that the quote is from."""
    expected: bool = False
    """Whether the quote, or the passage, is said to stand on this page."""
    pages: tuple[int, ...] = ()
    """All pages on which it stands."""


def open_page(sight: Sight, workspace: Workspace) -> None:
    """Open the page in a dialog over the chat."""
    st.session_state[_AT] = sight.page
    title = readable(sight.chunk.title) or "Page"
    st.dialog(as_markdown(snippet(title, 60)), width="large")(_show)(sight, workspace)


def marks_of(sight: Sight, drawn: PageImage) -> Marks:
    """The boxes of the quote, and of the passage around it, on a page that was drawn."""
    number = drawn.page.number
    whole = on_page(sight.chunk, number)
    read = locate(whole, drawn.page) if whole else ()
    if sight.quote is None:
        pages = tuple(span.page for span in sight.chunk.spans)
        return Marks((), read, whole is not None, pages)
    parts = pieces(sight.chunk, sight.quote, page=sight.page)
    here = next((piece for piece in parts if piece.page == number), None)
    pages = tuple(piece.page for piece in parts) or (sight.page,)
    return Marks(locate(here, drawn.page) if here else (), read, number in pages, pages)


def page_html(drawn: PageImage, marks: Marks, title: str, *, larger: bool = False) -> str:
    """The picture with its highlights laid over it, in a frame that scrolls."""
    page = drawn.page
    picture = base64.b64encode(drawn.image).decode()
    over = "".join(_mark(box, page.width, page.height, "r37-read") for box in marks.read)
    over += "".join(_mark(box, page.width, page.height, "r37-quoted") for box in marks.quoted)
    where = f"Page {page.number} of {as_html(title)}"
    return f"""<div class="r37-page{" larger" if larger else ""}" tabindex="0" role="region" aria-label="{where}"
data-testid="page-{page.number}"><div class="r37-sheet"><img src="data:{drawn.image_type};base64,{picture}"
alt="{where}, as printed" width="{drawn.width_px}" height="{drawn.height_px}">{over}</div></div>"""


def placing_note(sight: Sight, marks: Marks, drawn: PageImage) -> str:
    """What a person must know where a highlight that could be expected isn't there; else empty."""
    number = drawn.page.number
    if not marks.expected:
        return ""
    thing = "quoted words" if sight.quote is not None else "passage"
    if marks.quoted or (sight.quote is None and marks.read):
        if len(marks.pages) > 1:
            others = " and ".join(str(page) for page in marks.pages if page != number)
            return f"The {thing} {'are' if sight.quote else 'is'} partly on page {others}."
        return ""
    if not drawn.page.words:
        why = "the page has no text whose places are known: it may be a picture, or its text may be unreadable"
    else:
        why = "the page’s text is read differently now than when the document was added"
    return f"The {thing} can’t be placed on this page, so nothing is highlighted: {why}."


def section_html(text: str, sight: Sight, number: int) -> str:
    """A section as text, in a frame that scrolls: the quoted words marked, the passage around them more faintly."""
    read = _spans(text, [piece] if (piece := on_page(sight.chunk, number)) else [])
    quoted = _spans(text, _pieces_on(sight, number))
    borders = sorted({0, len(text), *(at for span in (*read, *quoted) for at in span)})
    shown = []
    for start, end in zip(borders, borders[1:], strict=False):
        words = as_html_lines(text[start:end])
        if any(first <= start < last for first, last in quoted):
            words = f'<mark class="r37-quoted">{words}</mark>'
        elif any(first <= start < last for first, last in read):
            words = f'<span class="r37-read">{words}</span>'
        shown.append(words)
    return f"""<div class="r37-page r37-section" tabindex="0" role="region"
aria-label="Section {number} of {as_html(sight.chunk.title)}" data-testid="page-{number}">{"".join(shown)}</div>"""


def _pieces_on(sight: Sight, number: int) -> list[Piece]:
    if sight.quote is None:
        return []
    return [piece for piece in pieces(sight.chunk, sight.quote, page=sight.page) if piece.page == number]


def _spans(text: str, wanted: Sequence[Piece]) -> list[tuple[int, int]]:
    """Where pieces stand in a section's text: of several places with the same words, nearest to where each was read."""
    found = []
    for piece in wanted:
        places = []
        at = text.find(piece.text)
        while at >= 0:
            places.append(at)
            at = text.find(piece.text, at + 1)
        if places:
            start = min(places, key=lambda place: abs(place - piece.start))
            found.append((start, start + len(piece.text)))
    return found


def _show(sight: Sight, workspace: Workspace) -> None:
    st.html(_quote_html(sight))
    with problems_shown():
        stored = workspace.index.document(sight.chunk.document_id)
        if stored is not None and stored.kind != "pdf":
            _show_section(sight, stored, workspace)
        else:
            _show_page(sight, workspace, stored.document.source if stored else readable(sight.chunk.title))


def _show_section(sight: Sight, stored: StoredDocument, workspace: Workspace) -> None:
    n_sections = stored.document.page_count
    number = min(max(1, int(st.session_state.get(_AT, sight.page))), n_sections)
    text = page_text(workspace.index.chunks(stored.document.id), number)
    _steps(number, n_sections, sight, tuple(span.page for span in sight.chunk.spans), stored.kind)
    if _pieces_on(sight, number) and not _spans(text, _pieces_on(sight, number)):
        note = "The quoted words can’t be found in this section: it is read differently now than when it was asked."
        st.html(f'<p class="r37-page-note missing" data-testid="page-note">{note}</p>')
    if text:
        st.html(section_html(text, sight, number))
        st.html(_SCROLL_TO_MARK, unsafe_allow_javascript=True)
    else:
        st.caption("This section has no readable text.")
    path = workspace.ingester.original(stored.document.id)
    if path.is_file():
        _show_file(path, number, stored.document.source, stored.kind)


def _show_page(sight: Sight, workspace: Workspace, source: str) -> None:
    number: int = st.session_state.get(_AT, sight.page)
    try:
        path = workspace.ingester.original(sight.chunk.document_id)
        with st.spinner("Drawing the page …"):
            drawn = _drawn(str(path), path.stat().st_mtime_ns if path.is_file() else 0, number, source)
    except Rank37Error as error:
        show_problem(error)
        if number != sight.page:
            st.button("Back", key="page_back", on_click=_go_to, args=(sight.page,))
        else:
            st.html(_passage_html(sight))
        return
    marks = marks_of(sight, drawn)
    larger = _steps(number, drawn.page_count, sight, marks.pages, "pdf")
    if note := placing_note(sight, marks, drawn):
        placed = bool(marks.quoted or marks.read)
        st.html(f'<p class="r37-page-note{"" if placed else " missing"}" data-testid="page-note">{as_html(note)}</p>')
    st.html(page_html(drawn, marks, sight.chunk.title, larger=larger))
    st.html(_SCROLL_TO_MARK, unsafe_allow_javascript=True)
    _show_file(path, number, source, "pdf")


def _steps(number: int, n_pages: int, sight: Sight, pages: Sequence[int], kind: DocumentKind) -> bool:
    """What leads to the neighbours, and back to one of `pages`; gives whether a page is wanted larger."""
    thing = unit(kind)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="r37-page-steps"):
        _step(f"{thing.capitalize()} before", ":material/chevron_left:", number - 1, n_pages, "Left")
        st.html(
            f'<p class="r37-page-number" data-testid="page-number">{thing.capitalize()} {number} of {n_pages}</p>',
            width="content",
        )
        _step(f"{thing.capitalize()} after", ":material/chevron_right:", number + 1, n_pages, "Right")
        if number not in pages:
            st.button(f"To {thing} {sight.page}", key="page_back", type="tertiary", on_click=_go_to, args=(sight.page,))
        return kind == "pdf" and st.toggle("Larger", key="page_larger")


def _step(label: str, icon: str, number: int, n_pages: int, key: str) -> None:
    st.button(
        label,
        key=f"page_{key.lower()}",
        icon=icon,
        disabled=not 1 <= number <= n_pages,
        on_click=_go_to,
        args=(number,),
        shortcut=key,
    )


def _go_to(number: int) -> None:
    st.session_state[_AT] = number


def _show_file(path: Path, number: int, source: str, kind: DocumentKind) -> None:
    """The file itself: a PDF opened by the browser at the page, or any kind kept."""
    name = source if kind != "pdf" or source.lower().endswith(".pdf") else f"{source}.pdf"
    called, mime = _FILES[kind]
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        if kind == "pdf" and path.stat().st_size <= LINKED_BYTES and (address := _address(path)):
            st.html(
                f'<a class="r37-pdf-link" href="{html.escape(address)}#page={number}" target="_blank" rel="noopener">'
                f"Open the PDF at page {number}</a>",
                width="content",
            )
        st.download_button(
            f"Download the {called}",
            path.read_bytes,
            file_name=readable(name),
            mime=mime,
            key="page_download",
            type="tertiary",
            icon=":material/download:",
            on_click="ignore",
        )


def _address(path: Path) -> str | None:
    """Where the browser gets the file, as long as this page is open."""
    if not runtime.exists():
        return None
    files = runtime.get_instance().media_file_mgr
    return _below_base(files.add(str(path), "application/pdf", f"original {path.name}"))


def _below_base(address: str) -> str:
    base = str(config.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{base}{address}" if base else address


@st.cache_data(max_entries=CACHED_PAGES, show_spinner=False)
def _drawn(path: str, changed: int, number: int, source: str) -> PageImage:
    return draw_page(Path(path), number, source=source)


def _mark(box: Box, width: float, height: float, kind: str) -> str:
    style = (
        f"left:{100 * box.left / width:.3f}%;top:{100 * box.top / height:.3f}%;"
        f"width:{100 * (box.right - box.left) / width:.3f}%;height:{100 * (box.bottom - box.top) / height:.3f}%"
    )
    return f'<i class="{kind}" aria-hidden="true" style="{style}"></i>'


def _quote_html(sight: Sight) -> str:
    """What is looked for, in words: also for those who don't see the page."""
    marker = f'<b class="r37-marker">[{sight.marker}]</b> ' if sight.marker else ""
    if sight.quote is None:
        text = as_html(snippet(sight.chunk.text, 300))
        return f'<p class="r37-looked" tabindex="0">{marker}The passage that begins: {text}</p>'
    return f'<p class="r37-looked" tabindex="0">{marker}“{as_html(sight.quote)}”</p>'


def _passage_html(sight: Sight) -> str:
    """The passage as text, where its page can't be drawn."""
    text = as_html(sight.chunk.text)
    if sight.quote is not None and as_html(sight.quote) in text:
        text = text.replace(as_html(sight.quote), f"<mark>{as_html(sight.quote)}</mark>", 1)
    n = count(len(sight.chunk.spans), "page")
    return f'<p class="r37-looked">{sentence(f"the passage as it was read, on {n}")}</p><blockquote>{text}</blockquote>'
