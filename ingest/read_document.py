"""What reading a file gives, whatever kind of file it is. It reads none itself: that is `ingest.read_<kind>`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.chunk import Heading
from ingest.mend import mend_word
from rag.types import Document, DocumentKind, Page

PAGE_CHARACTERS = 500_000
"""Most characters of one page; a dense page has about 8,000."""

_LONGEST_TITLE = 300
_JUNK_TITLE = re.compile(
    r"(?:microsoft \w+ - .*|untitled.*|(?:no )?title|document\s?\d*|slide \d+|powerpoint presentation|presentation\d*"
    r"|.*\.(?:docx?|rtf|odt|pages|tex|dvi|indd|qxd|pptx?|xlsx?|html?|md|pdf|tmp|txt|fm|p65|eps|ps|cdr|ai)"
    r"|[\W\d_]*|.)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """All that was read of a file."""

    document: Document
    pages: tuple[Page, ...]
    """Every page, in order; those without readable text are empty. Sections where the format has no pages."""
    headings: tuple[Heading, ...]
    """In reading order."""
    pages_without_text: tuple[int, ...]
    """1-based numbers."""
    warnings: tuple[str, ...]
    """What a person should know, one sentence each."""
    kind: DocumentKind = "pdf"
    ocr_pages: tuple[int, ...] = ()
    """1-based numbers of the pages whose text was read from their picture; they always carry word boxes."""


def title_of(titles: Sequence[object], source: str) -> str:
    """The first usable title, else the name of the file without its extension.

    >>> title_of(["Microsoft Word - x.docx", None, "Terms of  Sale"], "agb.docx"), title_of(["Untitled 1"], "agb.docx")
    ('Terms of Sale', 'agb')
    """
    for title in titles:
        if isinstance(title, str) and (mended := mend_line(title)) and not _JUNK_TITLE.fullmatch(mended):
            return mended[:_LONGEST_TITLE]
    stem = Path(source).stem
    return mend_line(stem) or stem or "unnamed"


def mend_line(text: str) -> str:
    """A text on one line, mended word by word."""
    return " ".join(word for word in map(mend_word, text.split()) if word)
