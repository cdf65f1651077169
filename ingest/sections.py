"""Blocks of a document without pages to the pages that the rest of the program counts in. Pure.

A Word file, a web page and a text have no pages of their own: a "page" of theirs is a section of bounded size. One
begins at a form feed, at a heading once the section before has `LEAST_CHARACTERS`, and otherwise before the block that
would take it beyond `MOST_CHARACTERS`. The same file always gives the same sections, so their numbers can be cited. It
doesn't read any format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.chunk import Heading
from ingest.read_document import ReadDocument, mend_line, title_of
from rag.errors import FileRefused
from rag.types import Document, DocumentKind, Page

MOST_CHARACTERS = 3000
"""Most characters of a section: about what a printed page holds."""
LEAST_CHARACTERS = 1000
"""A heading does not end a section that is shorter than this."""


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A heading, a paragraph, a list item, a table row or a line of code: one line of `Page.text`."""

    text: str
    is_heading: bool = False
    begins_page: bool = False
    """Whether the file itself starts a new page here."""


def as_document(
    path: Path,
    source: str,
    kind: DocumentKind,
    blocks: Iterable[TextBlock],
    *,
    titles: Sequence[str | None] = (),
    max_pages: int | None = None,
    warnings: Sequence[str] = (),
) -> ReadDocument:
    """The blocks as a document in sections.

    Args:
        path: The file, whose bytes give the document's id.
        source: Its name as the person gave it.
        kind: What it is.
        blocks: In reading order; white space is folded here, and blocks without text are left out.
        titles: The first of these that can be a title is it; else the first heading on the first section, else the
            file's name without its extension.
        max_pages: Refuse what has more sections.
        warnings: What a person should know.

    Raises:
        FileRefused: no_text or too_many_pages.
    """
    with path.open("rb") as file:
        identity = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    texts, headings = _sections(blocks)
    if not any(character.isalnum() for text in texts for character in text):
        raise FileRefused("no_text", f"{source} holds no text: nothing of it could be found")
    if max_pages is not None and len(texts) > max_pages:
        raise FileRefused(
            "too_many_pages",
            f"{source} makes {len(texts):,} sections of {MOST_CHARACTERS:,} characters, the limit is {max_pages:,}: "
            "split it, or raise RANK37_MAX_PAGES",
        )
    first = [heading.text for heading in headings if heading.page == 1]
    title = title_of([*titles, *first[:1]], source)
    pages = tuple(Page(identity, number, text) for number, text in enumerate(texts, 1))
    document = Document(identity, title, source, len(pages))
    return ReadDocument(document, pages, tuple(headings), (), tuple(warnings), kind=kind)


def _sections(blocks: Iterable[TextBlock]) -> tuple[list[str], list[Heading]]:
    """Texts of the sections, and the headings in them."""
    texts: list[str] = []
    headings: list[Heading] = []
    lines: list[str] = []
    length = 0  # of the section that is being filled, with its line feeds
    break_due = False

    def close() -> None:
        nonlocal length
        if lines:
            texts.append("\n".join(lines))
            lines.clear()
            length = 0

    for block in blocks:
        break_due = break_due or block.begins_page
        text = mend_line(block.text)
        if not text:
            continue
        for number, line in enumerate(_cut(text)):
            opens = number == 0 and (break_due or (block.is_heading and length >= LEAST_CHARACTERS))
            if opens or length + len(line) > MOST_CHARACTERS:
                close()
            if block.is_heading and number == 0:
                headings.append(Heading(len(texts) + 1, length, line))
            lines.append(line)
            length += len(line) + 1
        break_due = False
    close()
    return texts, headings


def _cut(text: str) -> list[str]:
    """A block in parts of at most `MOST_CHARACTERS`, cut at a sentence's end or else between words where one is near.

    >>> [len(part) for part in _cut("x" * 7000)]
    [3000, 3000, 1000]
    """
    parts = []
    while len(text) > MOST_CHARACTERS:
        window = text[: MOST_CHARACTERS + 1]
        at = max(window.rfind(end) for end in (". ", "! ", "? ", "。")) + 1
        if at <= MOST_CHARACTERS // 2:
            at = window.rfind(" ")
        if at <= MOST_CHARACTERS // 2:
            at = MOST_CHARACTERS
        parts.append(text[:at].rstrip())
        text = text[at:].lstrip()
    return [*parts, text] if text else parts
