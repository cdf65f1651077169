"""A web page to a document: the text that a reader of it sees, in headings, paragraphs, list items and table rows.

Scripts, styles, forms, navigation and what is hidden are left out. It runs no script, loads nothing and follows no
link. Sections are those of `ingest.sections`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from ingest.read_document import ReadDocument
from ingest.read_text import read_decoded
from ingest.sections import TextBlock, as_document
from rag.errors import FileRefused

CELL_SEPARATOR = " | "

_DECLARED = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)
_XML_DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9_:.-]{2,40})""")
_DECLARED_WITHIN = 4096
_WINDOWS = {"iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252"}
"""What browsers take these labels for. Source: https://encoding.spec.whatwg.org/#names-and-labels"""

_LEFT_OUT = frozenset(
    ["script", "style", "template", "noscript", "noframes", "iframe", "object", "embed", "applet", "svg", "math"]
    + ["canvas", "audio", "video", "nav", "select", "option", "datalist", "button", "input", "textarea", "dialog"]
)
_BLOCKS = frozenset(
    ["address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt"]
    + ["fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "legend", "li", "main", "menu"]
    + ["ol", "p", "pre", "search", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul"]
)
_HEADINGS = frozenset(["h1", "h2", "h3", "h4", "h5", "h6"])
_CELLS = frozenset(["td", "th"])
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


def read_html(path: Path, *, source: str, max_pages: int | None = None) -> ReadDocument:
    """Read a web page in this process. Raises FileRefused."""
    with path.open("rb") as file:
        head = file.read(_DECLARED_WITHIN)
    text, warnings = read_decoded(path, source, declared=_declared(head))
    try:
        tree = LexborHTMLParser(text)
    except SelectolaxError:  # it takes any text; what makes it fail is that it gets no memory
        raise FileRefused(
            "memory_limit", f"{source} needs too much memory: split it, or raise RANK37_FILE_MEMORY_LIMIT_MB"
        ) from None
    title = tree.css_first("head > title")
    blocks = tree_blocks(tree)
    titles = [title.text() if title is not None else None]
    return as_document(path, source, "html", blocks, titles=titles, max_pages=max_pages, warnings=warnings)


def html_blocks(html: str) -> Iterator[TextBlock]:
    r"""The blocks of a page or of a part of one.

    >>> [block.text for block in html_blocks("<h1>Fees</h1><p>One<br>two<table><tr><th>Day<th>Fee<tr><td>1<td>2 EUR")]
    ['Fees', 'One', 'two', 'Day | Fee', '1 | 2 EUR']
    """
    return tree_blocks(LexborHTMLParser(html))


def tree_blocks(tree: LexborHTMLParser) -> Iterator[TextBlock]:
    """The blocks of a parsed page."""
    if tree.body is not None:
        yield from _Walk().blocks(tree.body)


def _declared(head: bytes) -> str | None:
    found = _DECLARED.search(head) or _XML_DECLARED.search(head)
    if found is None:
        return None
    label = found[1].decode("ascii").lower()
    if label.startswith("utf-16"):  # a page that can be read so far in ASCII is not UTF-16
        return None
    return _WINDOWS.get(label, label)


def _is_left_out(node: LexborNode) -> bool:
    """Whether an element holds nothing that a reader of the page sees as its text."""
    if node.tag in _LEFT_OUT:
        return True
    attributes = node.attributes
    if not attributes:
        return False
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or attributes.get("role") == "navigation"
        or _HIDDEN_STYLE.search(attributes.get("style") or "") is not None
    )


def _lays_out(row: LexborNode) -> bool:
    """Whether a table row is there for the looks: its cells hold tables, headings, lists or several paragraphs."""
    return row.css_first("table, h1, h2, h3, h4, h5, h6, ul, ol, p + p") is not None


@dataclass(slots=True)
class _Row:
    """A table row that is being read."""

    node_id: int
    cells: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Walk:
    """Walks a tree without recursion: a page may nest its elements as deep as it likes."""

    line: list[str] = field(default_factory=list)
    """Pieces of the block that is being read."""
    item_number: str = ""
    """Stands before the first text of a numbered list item."""
    heading: bool = False
    row: _Row | None = None
    """The open table row. What a cell holds is one line, tables in it included."""
    preformatted: int = 0
    numbers: list[int | None] = field(default_factory=list)
    """Of the open lists: the next number, or None where they have bullets."""

    def blocks(self, root: LexborNode) -> Iterator[TextBlock]:
        """What a person reads below `root`, in order."""
        node: LexborNode | None = root.child
        while node is not None:
            inner = None
            if node.is_text_node:
                yield from self._text(node.text_content or "")
            elif node.is_element_node and not _is_left_out(node):
                yield from self._open(node)
                inner = node.child
                if inner is None:
                    yield from self._close(node)
            if inner is not None:
                node = inner
                continue
            while node is not None and node.next is None:
                node = node.parent
                if node is None or node.mem_id == root.mem_id:
                    yield from self._flush()
                    return
                yield from self._close(node)
            node = node.next if node is not None else None

    def _text(self, text: str) -> Iterator[TextBlock]:
        if self.preformatted and "\n" in text and self.row is None:
            first, *others = text.split("\n")
            self.line.append(first)
            for line in others:
                yield from self._flush()
                self.line.append(line)
        else:
            self.line.append(text)

    def _open(self, node: LexborNode) -> Iterator[TextBlock]:
        tag = node.tag or ""
        if tag in ("img", "wbr"):
            self.line.append(" " if tag == "img" else "")
        elif self.row is not None:
            if _is_block(tag) or tag == "br":
                self.line.append(" ")
        elif tag == "br":
            yield from self._flush()
        elif _is_block(tag):
            yield from self._flush()
            self._enter(tag, node)

    def _enter(self, tag: str, node: LexborNode) -> None:
        if tag == "tr" and not _lays_out(node):
            self.row = _Row(node.mem_id)
        elif tag in _HEADINGS:
            self.heading = True
        elif tag == "pre":
            self.preformatted += 1
        elif tag in ("ul", "menu"):
            self.numbers.append(None)
        elif tag == "ol":
            start = node.attributes.get("start") or ""
            self.numbers.append(int(start) if start.isdecimal() and len(start) < 7 else 1)
        elif tag == "li" and self.numbers and (number := self.numbers[-1]) is not None:
            self.item_number = f"{number}. "
            self.numbers[-1] = number + 1

    def _close(self, node: LexborNode) -> Iterator[TextBlock]:
        tag = node.tag or ""
        if self.row is not None:
            if tag in _CELLS and node.parent is not None and node.parent.mem_id == self.row.node_id:
                self.row.cells.append(" ".join("".join(self.line).split()))
                self.line.clear()
            elif tag == "tr" and node.mem_id == self.row.node_id:
                cells, self.row = self.row.cells, None
                self.line.clear()
                if any(cells):
                    yield TextBlock(CELL_SEPARATOR.join(cells))
            elif _is_block(tag):
                self.line.append(" ")
        elif _is_block(tag):
            yield from self._flush()
            if tag in _HEADINGS:
                self.heading = False
            elif tag == "pre":
                self.preformatted -= 1
            elif tag in ("ul", "ol", "menu") and self.numbers:
                self.numbers.pop()

    def _flush(self) -> Iterator[TextBlock]:
        text = " ".join("".join(self.line).split())
        self.line.clear()
        if text:
            yield TextBlock(self.item_number + text, is_heading=self.heading)
            self.item_number = ""


def _is_block(tag: str) -> bool:
    return tag in _BLOCKS or tag in _HEADINGS
