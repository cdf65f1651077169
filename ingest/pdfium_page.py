"""One page of a PDF by pdfium: its words with their boxes, in lines, without those that a reader doesn't see.

pdfium is asked for whole arrays where it can give them, and of a word, a text object or a distinct character otherwise:
a call for each character takes longer than reading the page. What a file is, and what to do where pdfium reads nothing,
says `ingest.read_pdf`.
"""

from __future__ import annotations

import ctypes
import re
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pypdfium2
import pypdfium2.raw as pdfium

from ingest.hidden_text import Reason, Visibility
from ingest.layout import PageLayout, PrintedLine, PrintedWord, lay_out
from ingest.mend import CJK_RANGES, mend_word
from ingest.pdfium_calls import (
    get_font_info,
    get_font_size,
    get_font_weight,
    get_loose_box,
    get_matrix,
    get_text,
    get_text_object,
    get_unicode,
    handle_of,
)
from ingest.read_document import PAGE_CHARACTERS
from rag.errors import FileRefused
from rag.types import Box

_LINE_HYPHEN = "\x02"
_SPACES = "\x00-\x20\xa0\u2000-\u200a\u3000"
_TOKEN = re.compile(f"[\n\r]|{_LINE_HYPHEN}|[{CJK_RANGES}]|[^{_SPACES}{CJK_RANGES}]+")
_NOT_IN_TEXT = 0xFFFE
"""What the text of a page has in place of hyphens at line ends and of characters without a code."""
_REPLACEMENT = 0xFFFD
_BOLD_NAME = re.compile(rb"bold|black|heavy|semibold|demi", re.IGNORECASE)
_BOLD_WEIGHT = 700

_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PdfiumPage:
    """What pdfium reads of a page."""

    layout: PageLayout
    width: float
    height: float
    raw_text: str
    is_blank: bool
    """Nothing is drawn on it at all."""
    unseen: Counter[Reason]
    """Words left out because a reader doesn't see them."""


def read_page(document: Any, index: int, source: str, *, words: bool) -> PdfiumPage:
    """Read one page of an open pypdfium2 document. Hold `ingest.read_pdf.PDFIUM_LOCK`.

    Args:
        document: A `pypdfium2.PdfDocument`.
        index: 0-based.
        source: The file's name for an error.
        words: Whether the layout tells the box of each word.

    Raises:
        PdfiumError: It can't be read.
        FileRefused: too_large.
    """
    page = document[index]
    if pdfium.FPDFPage_GetAnnotCount(page) > 0:
        # what was typed into form fields and text boxes is no page content until it is merged with it, in memory
        merged = pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY) == pdfium.FLATTEN_SUCCESS
        if merged:
            page.close()
            page = document[index]
    try:
        is_blank = pdfium.FPDFPage_CountObjects(page) == 0
        width, height = page.get_size()
        text_page = page.get_textpage()
        try:
            if (count := text_page.count_chars()) > PAGE_CHARACTERS:
                raise FileRefused(
                    "too_large",
                    f"{source}: page {index + 1} holds {count:,} characters, the limit is {PAGE_CHARACTERS:,}: remove "
                    "that page",
                )
            visibility = Visibility(page, text_page)
            raw = _raw_text(text_page, count)
            lines = _printed_lines(page, text_page, raw, visibility)
        finally:
            text_page.close()
    finally:
        page.close()
    return PdfiumPage(lay_out(lines, places=words), width, height, raw, is_blank, visibility.unseen)


def _raw_text(text_page: Any, count: int) -> str:
    """One character for each that pdfium counts, so that indices are those of the boxes.

    The text that pdfium gives as a whole can leave some out, and it cuts codes that are too large for it: it is taken
    where it has the right length and says of each distinct character the same as pdfium says of it alone.
    """
    handle = handle_of(text_page)
    units = array("H", bytes(2 * 2 * (count + 1)))  # twice, should it ever write a character as two units
    if count and get_text(handle, 0, count, units.buffer_info()[0]) == count + 1:
        del units[count:]
        text = units.tobytes().decode("utf-16-le" if sys.byteorder == "little" else "utf-16-be", "surrogatepass")
        if len(text) == count:
            distinct = set(text)
            distinct.discard(chr(_NOT_IN_TEXT))
            if all(get_unicode(handle, text.index(character)) == ord(character) for character in distinct):
                return _with_left_out(handle, text)
    # a broken map can say anything
    codes = map(get_unicode, repeat(handle, count), range(count))
    return "".join([chr(code if code <= sys.maxunicode else _REPLACEMENT) for code in codes])


def _with_left_out(handle: int, text: str) -> str:
    """The text with what each character is of which the text as a whole does not tell."""
    characters = list(text)
    at = -1
    while (at := text.find(chr(_NOT_IN_TEXT), at + 1)) >= 0:
        code = get_unicode(handle, at)
        characters[at] = chr(code if code <= sys.maxunicode else _REPLACEMENT)
    return "".join(characters)


def _printed_lines(page: Any, text_page: Any, raw: str, visibility: Visibility) -> list[PrintedLine]:
    """The lines in pdfium's order, without words that a reader doesn't see."""
    texts: list[str] = []
    firsts: list[int] = []
    lasts: list[int] = []
    ends: list[tuple[int, bool]] = []  # of lines: how many words come before, and whether the last one is broken
    for token in _TOKEN.finditer(raw):
        text = token[0]
        if text in "\n\r":
            ends.append((len(texts), False))
        elif text == _LINE_HYPHEN:
            if pdfium.FPDFText_IsHyphen(text_page, token.start()) == 1:
                ends.append((len(texts), True))
        elif text := mend_word(text):
            texts.append(text)
            firsts.append(token.start())
            lasts.append(token.end() - 1)
    ends.append((len(texts), False))
    if not texts:
        return []
    left, top, right, bottom = _displayed(page, *_boxes(text_page, firsts, lasts))
    objects = list(map(get_text_object, repeat(handle_of(text_page), len(firsts)), firsts))
    styles = _styles(text_page, firsts, objects)
    boxes = list(map(Box, left.tolist(), top.tolist(), right.tolist(), bottom.tolist()))
    sizes = np.array([size for size, _ in styles])
    doubtful = visibility.doubtful((left, top, right, bottom), sizes, objects)

    lines: list[PrintedLine] = []
    start = 0
    for end, is_broken in ends:
        words: list[PrintedWord] = []
        for at in range(start, end):
            text = texts[at]
            if text == "..." and words and words[-1].text == text:
                continue  # a leader of spaced dots
            size, bold = styles[at]
            if not (doubtful[at] and visibility.hides(firsts[at], boxes[at], size)):
                words.append(PrintedWord(text, boxes[at], size, bold))
        if words:
            lines.append(PrintedLine(words, is_broken))
        start = end
    return lines


def _boxes(
    text_page: Any, firsts: Sequence[int], lasts: Sequence[int]
) -> tuple[_Numbers, _Numbers, _Numbers, _Numbers]:
    """Left, bottom, right, top of words on the page, of all in one array each, in points.

    A box is that of the word's first and last character by the font's ascent and descent; by the glyph where the font
    has none.
    """
    handle = handle_of(text_page)
    indices = [*firsts, *lasts]
    rectangles = np.zeros((len(indices), 4), dtype=np.float32)  # left, top, right, bottom: FS_RECTF
    addresses = range(rectangles.ctypes.data, rectangles.ctypes.data + rectangles.nbytes, rectangles.strides[0])
    found = np.fromiter(map(get_loose_box, repeat(handle, len(indices)), indices, addresses), bool, len(indices))
    left, top, right, bottom = rectangles.T.astype(np.float64)
    for at in np.flatnonzero(~(found & (top > bottom))).tolist():
        try:
            left[at], bottom[at], right[at], top[at] = text_page.get_charbox(indices[at])
        except pypdfium2.PdfiumError:
            left[at] = bottom[at] = right[at] = top[at] = 0.0
    n = len(firsts)
    return (
        np.minimum(left[:n], left[n:]),
        np.minimum(bottom[:n], bottom[n:]),
        np.maximum(right[:n], right[n:]),
        np.maximum(top[:n], top[n:]),
    )


def _displayed(
    page: Any, x0: _Numbers, y0: _Numbers, x1: _Numbers, y1: _Numbers
) -> tuple[_Numbers, _Numbers, _Numbers, _Numbers]:
    """Left, top, right, bottom on the page as displayed, of boxes by page coordinates (y upwards)."""
    left, bottom, right, top = page.get_bbox()
    match page.get_rotation():
        case 90:
            return y0 - bottom, x0 - left, y1 - bottom, x1 - left
        case 180:
            return right - x1, y0 - bottom, right - x0, y1 - bottom
        case 270:
            return top - y1, right - x1, top - y0, right - x0
        case _:
            return x0 - left, top - y1, x1 - left, top - y0


def _styles(text_page: Any, firsts: Sequence[int], objects: Sequence[int | None]) -> list[tuple[float, bool]]:
    """Size in points and boldness of words: the same for all of a text object, which is asked for once."""
    handle = handle_of(text_page)
    matrix = pdfium.FS_MATRIX()
    matrix_address = ctypes.addressof(matrix)
    name = ctypes.create_string_buffer(128)
    name_address = ctypes.addressof(name)
    flags = ctypes.c_int()
    flags_address = ctypes.addressof(flags)
    bold_names: dict[bytes, bool] = {}
    known: dict[int, tuple[float, bool]] = {}
    styles = []
    for index, key in zip(firsts, objects, strict=True):
        if key is not None and key in known:
            styles.append(known[key])
            continue
        size = get_font_size(handle, index)
        if get_matrix(handle, index, matrix_address):
            size *= abs(matrix.a * matrix.d - matrix.b * matrix.c) ** 0.5
        get_font_info(handle, index, name_address, len(name), flags_address)
        if (called := name.value) not in bold_names:
            bold_names[called] = _BOLD_NAME.search(called) is not None
        style = (size, get_font_weight(handle, index) >= _BOLD_WEIGHT or bold_names[called])
        styles.append(style)
        if key is not None:
            known[key] = style
    return styles
