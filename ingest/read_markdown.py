"""A Markdown file to a document: CommonMark with tables, as it reads when rendered, without its marks.

Markdown is rendered to HTML and read as `ingest.read_html` reads a page, so that HTML within it is cleared the same
way. Sections are those of `ingest.sections`.
"""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt

from ingest.read_document import ReadDocument
from ingest.read_html import html_blocks
from ingest.read_text import read_decoded
from ingest.sections import as_document

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.{0,20000}?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"""^title:[ \t]*["']?(.{1,300}?)["']?[ \t]*$""", re.MULTILINE | re.IGNORECASE)


def read_markdown(path: Path, *, source: str, max_pages: int | None = None) -> ReadDocument:
    """Read a Markdown file in this process. Raises FileRefused."""
    text, warnings = read_decoded(path, source)
    title = None
    if front := _FRONT_MATTER.match(text):
        found = _FRONT_TITLE.search(front[1])
        title = found[1] if found else None
        text = text[front.end() :]
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    blocks = html_blocks(html)
    return as_document(path, source, "markdown", blocks, titles=[title], max_pages=max_pages, warnings=warnings)
