"""Pages read by OCR are kept beside the original, since reading them again for a highlight would take seconds.

One file a document, one page a line; it holds text and word boxes only, and runs no OCR.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ingest.files import write_durably
from rag.types import Box, Page, Word


def ocr_file(original: Path) -> Path:
    """Where the pages of an original are kept.

    >>> ocr_file(Path("files/86ed.pdf")).as_posix()
    'files/86ed.ocr.jsonl'
    """
    return original.with_suffix(".ocr.jsonl")


def keep_ocr_pages(original: Path, pages: Iterable[Page]) -> None:
    """Keep these pages, in place of earlier ones. Raises OSError."""
    lines = []
    for page in pages:
        words = [[word.start, word.end, *_rounded(word.box)] for word in page.words]
        kept: dict[str, object] = {"document": page.document_id, "text": page.text, "words": words}
        kept |= {"width": page.width, "height": page.height}
        lines.append(f"{page.number}\t{json.dumps(kept)}\n")
    write_durably(ocr_file(original), "".join(lines).encode())


class KeptOcr:
    """The kept pages of one original; none where it has none, or they are another document's."""

    def __init__(self, original: Path, document_id: str) -> None:
        self._document_id = document_id
        self._lines: dict[int, str] = {}
        try:
            text = ocr_file(original).read_text()
        except (OSError, UnicodeError):
            return
        for line in text.splitlines():
            number, _, kept = line.partition("\t")
            if number.isdecimal():
                self._lines[int(number)] = kept

    def page(self, number: int) -> Page | None:
        """A page with its word boxes, or None."""
        try:
            kept = json.loads(self._lines[number])
            if kept["document"] != self._document_id:
                return None
            words = tuple(Word(start, end, Box(*box)) for start, end, *box in kept["words"])
            return Page(self._document_id, number, kept["text"], words, kept["width"], kept["height"])
        except (KeyError, ValueError, TypeError):  # damaged: as good as not kept
            return None


def _rounded(box: Box) -> list[float]:
    return [round(edge, 2) for edge in (box.left, box.top, box.right, box.bottom)]
