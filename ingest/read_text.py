"""A plain text file to a document: its encoding found, hard-wrapped lines joined to paragraphs.

An underlined line is a heading, a form feed begins a section; nothing else is made of the text's looks. Sections are
those of `ingest.sections`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from charset_normalizer import from_bytes

from ingest.mend import is_bullet, joins_with_hyphen
from ingest.read_document import ReadDocument
from ingest.sections import TextBlock, as_document
from rag.errors import FileRefused

SAMPLE_BYTES = 128 * 2**10
"""As much of a file decides its encoding, where neither a mark nor UTF-8 does."""

_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_CHARSETS = frozenset(["idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7", "utf7", "undefined"])
"""Codecs of Python that give text, but are no encoding that a file is kept in."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL_SHARE = 0.01
_LONGEST_WRAPPED = 120
"""A line longer than this was not wrapped by hand or by a mail program: each line is a paragraph then."""
_SHORTEST_WRAPPED = 40
_UNDERLINE = re.compile(r"([=\-~^*])\1{2,}$")
_ITEM = re.compile(r"(?:\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|\(?[ivxIVX]{1,5}[.)]|\d{1,2}(?:\.\d{1,2})+\.?)$")


@dataclass(frozen=True, slots=True)
class DecodedText:
    """The text of bytes."""

    text: str
    encoding: str
    guessed: bool
    """Whether the bytes themselves left room for another encoding."""


def decode(data: bytes, *, partial: bool = False, declared: str | None = None) -> DecodedText | None:
    r"""Text of bytes in whatever encoding, with line feeds as line ends; None if they are no text.

    The order: a byte order mark, what is declared (if it fits), UTF-8, UTF-16 without a mark, and then what
    charset-normalizer thinks most likely.

    Args:
        data: The bytes of a file.
        partial: Whether they are only its start, so that the last character may be broken off.
        declared: The encoding that the file itself names.

    >>> decode("Grüße".encode("utf-16-le")).text, decode(b"\x00\x01\x02\x03")
    ('Grüße', None)
    """
    found = _decoded(data, partial, declared)
    if found is None:
        return None
    text = found.text.replace("\r\n", "\n").replace("\r", "\n")
    if len(_CONTROL.findall(text)) > _MOST_CONTROL_SHARE * len(text):
        return None
    return DecodedText(text, found.encoding, found.guessed)


def _decoded(data: bytes, partial: bool, declared: str | None) -> DecodedText | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return DecodedText(data[len(mark) :].decode(encoding, "replace"), encoding, guessed=False)
    candidates = (declared, "utf-8", _wide_without_mark(data))
    for candidate in candidates:
        if candidate is None or candidate.lower().replace("_", "-") in _NO_CHARSETS:
            continue
        if candidate == "utf-8" and b"\x00" in data:
            continue  # legal there, but a text that holds it is wide characters or no text
        with suppress(UnicodeError, LookupError):
            b"".decode(candidate)  # raises for codecs of Python that give no text
            decoder = codecs.getincrementaldecoder(candidate)()
            return DecodedText(decoder.decode(data, final=not partial), candidate, guessed=False)
    if b"\x00" in data:
        return None
    best = from_bytes(data[:SAMPLE_BYTES]).best()
    encoding = best.encoding if best is not None else "cp1252"
    if encoding in ("ascii", "utf_8"):  # of the sample; further on it is not
        encoding = "cp1252"
    return DecodedText(data.decode(encoding, "replace"), encoding.replace("_", "-"), guessed=True)


def _wide_without_mark(data: bytes) -> str | None:
    """UTF-16 whose every other byte is mostly zero, as in Latin script."""
    sample = data[:4096]
    if len(sample) < 4 or len(data) % 2 and len(data) == len(sample):
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) / 2
    if odd > 0.7 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.7 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def read_decoded(path: Path, source: str, *, declared: str | None = None) -> tuple[str, list[str]]:
    """The text of a file, and the warnings about its encoding. Raises FileRefused (unsupported_type)."""
    found = decode(path.read_bytes(), declared=declared)
    if found is None:
        raise FileRefused("unsupported_type", f"{source} is no text: its bytes are not characters of any encoding")
    warnings = []
    if found.guessed:
        warnings.append(f"its encoding was guessed to be {found.encoding}: save it as UTF-8 if letters look wrong")
    if "\ufffd" in found.text:
        warnings.append(f"some characters are not valid {found.encoding} and are left out")
    return found.text.replace("\ufffd", ""), warnings


def read_text(path: Path, *, source: str, max_pages: int | None = None) -> ReadDocument:
    """Read a plain text in this process. Raises FileRefused."""
    text, warnings = read_decoded(path, source)
    return as_document(path, source, "text", text_blocks(text), max_pages=max_pages, warnings=warnings)


def text_blocks(text: str) -> Iterator[TextBlock]:
    r"""The paragraphs of a text, in order.

    A line goes on in the next one where the next one's first word would not have fitted, by the longest line of the
    paragraph.

    >>> [block.text for block in text_blocks("- one\n- two\n\nThe end.")]
    ['- one', '- two', 'The end.']
    """
    for number, page in enumerate(text.split("\f")):
        begins_page = number > 0
        for lines in _groups(page):
            for block in _paragraphs(lines):
                yield TextBlock(block.text, block.is_heading, begins_page)
                begins_page = False


def _groups(page: str) -> Iterator[list[str]]:
    """Runs of lines without a blank one between them."""
    lines: list[str] = []
    for line in page.split("\n"):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _paragraphs(lines: list[str]) -> Iterator[TextBlock]:
    if len(lines) >= 2 and _is_underline(lines[1], lines[0]):
        yield TextBlock(lines[0].strip(), is_heading=True)
        lines = lines[2:]
        if not lines:
            return
    width = max(map(len, lines))
    wraps = _SHORTEST_WRAPPED <= width <= _LONGEST_WRAPPED
    paragraph = lines[0].strip()
    for before, line in pairwise(lines):
        words = line.split()
        fits = len(before) + 1 + len(words[0]) <= width
        breaks_word = paragraph.endswith("-") and paragraph[-2:-1].isalpha() and words[0][0].islower()
        if not wraps or (fits and not breaks_word) or _opens_item(words) or "|" in line or "\t" in line.strip():
            yield TextBlock(paragraph)
            paragraph = line.strip()
        elif breaks_word:
            first = paragraph[:-1].rsplit(" ", 1)[-1]
            paragraph = (paragraph if joins_with_hyphen(first, words[0]) else paragraph[:-1]) + line.strip()
        else:
            paragraph = f"{paragraph} {line.strip()}"
    yield TextBlock(paragraph)


def _is_underline(line: str, title: str) -> bool:
    return _UNDERLINE.match(line.strip()) is not None and abs(len(line.strip()) - len(title.strip())) <= 3


def _opens_item(words: list[str]) -> bool:
    return is_bullet(words[0]) or (len(words) > 1 and _ITEM.match(words[0]) is not None)
