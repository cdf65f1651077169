r"""Where the words of a quote stand: on which pages, and in which boxes of a page. Pure.

It compares characters only, so that white space, line-end hyphens and ligatures don't matter; it doesn't look for words
that merely mean the same, and a quote that it can't place has no boxes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rag.types import SPAN_SEPARATOR, Box, Chunk, Page, Word

_HYPHENS = "-\u00ad\u2010\u2011\u2012\u2013\u2014\u2212"
_SAME_LINE_SHARE = 0.5
"""Neighbouring words are on one line if they share at least this much of the lower one's height."""
_WORD_GAP = 1.5
"""Widest gap between two words that is painted over, in heights of the line."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a quote that stands on one page."""

    page: int
    """1-based."""
    text: str
    start: int
    """Where it begins in `Page.text`, as the page was read when the document was added."""


def pieces(chunk: Chunk, quote: str, *, page: int | None = None) -> tuple[Piece, ...]:
    r"""The pages on which a quote of a chunk stands, in page order; empty where the chunk doesn't hold its words.

    `page` is where it is said to start: it decides between several places that hold the same words.

    >>> from rag.types import PageSpan
    >>> chunk = Chunk("c", "d", "t", None, "ab cd\nef gh", (PageSpan(4, 7, 12), PageSpan(5, 0, 5)), 0, 3)
    >>> [(piece.page, piece.text, piece.start) for piece in pieces(chunk, "cd ef")]
    [(4, 'cd', 10), (5, 'ef', 0)]
    >>> pieces(chunk, "xy")
    ()
    """
    found = _find(quote, chunk.text, near=_begin_of(chunk, page))
    if found is None:
        return ()
    first, last = found
    placed: list[Piece] = []
    begin = 0  # of the span's slice in the chunk's text
    for span in chunk.spans:
        end = begin + span.end - span.start
        start, stop = max(first, begin), min(last, end)
        if text := chunk.text[start:stop].strip():
            start += len(chunk.text[start:stop]) - len(chunk.text[start:stop].lstrip())
            placed.append(Piece(span.page, text, span.start + start - begin))
        begin = end + len(SPAN_SEPARATOR)
    return tuple(placed)


def _begin_of(chunk: Chunk, page: int | None) -> int:
    """Where the slice of a page begins in a chunk's text; 0 for a page that it isn't on."""
    begin = 0
    for span in chunk.spans:
        if span.page == page:
            return begin
        begin += span.end - span.start + len(SPAN_SEPARATOR)
    return 0


def on_page(chunk: Chunk, number: int) -> Piece | None:
    """All of a chunk that stands on a page, or None."""
    begin = 0
    for span in chunk.spans:
        end = begin + span.end - span.start
        if span.page == number:
            return Piece(number, chunk.text[begin:end], span.start)
        begin = end + len(SPAN_SEPARATOR)
    return None


def locate(piece: Piece, page: Page) -> tuple[Box, ...]:
    """The boxes of a quote's words on its page, one a line, in reading order; empty where it can't be placed.

    Of several places that hold the same words, the one nearest to where the quote stood when the document was added.

    Args:
        piece: What to look for.
        page: Read with word boxes.
    """
    span = _find(piece.text, page.text, near=piece.start)
    if span is None:
        return ()
    return _lines([word for word in page.words if word.start < span[1] and word.end > span[0]])


def _find(needle: str, text: str, *, near: int) -> tuple[int, int] | None:
    """`[start, end)` of a needle in a text, first by its very characters, then with all that mending may change."""
    for change in (_solid, _plain):
        found = _find_changed(change(needle)[0], *change(text), near)
        if found is not None:
            return found
    return None


def _find_changed(needle: str, text: str, origins: Sequence[int], near: int) -> tuple[int, int] | None:
    if not needle:
        return None
    best: tuple[int, int] | None = None
    at = text.find(needle)
    while at >= 0:
        span = origins[at], origins[at + len(needle) - 1] + 1
        if best is None or abs(span[0] - near) < abs(best[0] - near):
            best = span
        at = text.find(needle, at + 1)
    return best


def _solid(text: str) -> tuple[str, list[int]]:
    """The text without white space, and where each of its characters came from."""
    origins = [at for at, character in enumerate(text) if not character.isspace()]
    return "".join(text[at] for at in origins), origins


def _plain(text: str) -> tuple[str, list[int]]:
    r"""Letters, digits and marks in their plain forms, without white space and hyphens, and where each came from.

    >>> _plain("Bene\ufb01t co-pay")[0]
    'benefitcopay'
    """
    changed: list[str] = []
    origins: list[int] = []
    for at, character in enumerate(text):
        if character.isspace() or character in _HYPHENS or unicodedata.category(character) in ("Cc", "Cf"):
            continue
        for plain in unicodedata.normalize("NFKC", character).casefold():
            if not plain.isspace():
                changed.append(plain)
                origins.append(at)
    return "".join(changed), origins


def _lines(words: Sequence[Word]) -> tuple[Box, ...]:
    """One box for neighbouring words of a line; words of turned lines keep their own."""
    boxes: list[Box] = []
    for word in words:
        box = word.box
        if box.right <= box.left or box.bottom <= box.top:
            continue  # a glyph without extent, as some fonts have
        if boxes and _follows(boxes[-1], box):
            last = boxes[-1]
            box = Box(last.left, min(last.top, box.top), box.right, max(last.bottom, box.bottom))
            boxes[-1] = box
        else:
            boxes.append(box)
    return tuple(boxes)


def _follows(before: Box, box: Box) -> bool:
    """Whether a box continues the line of the one before, to its right."""
    shared = min(before.bottom, box.bottom) - max(before.top, box.top)
    height = min(before.bottom - before.top, box.bottom - box.top)
    gap = box.left - before.right
    return shared >= _SAME_LINE_SHARE * height and -height <= gap <= _WORD_GAP * height and box.right > before.right
