"""From printed lines with their boxes to the text of a page: paragraphs, list items, table rows and headings. Pure.

Reading order is the order of the lines handed in: it doesn't sort, and doesn't rebuild the cells of a table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from ingest.chunk import Heading
from ingest.mend import FIRST_CJK, ends_sentence, is_bullet, is_cjk, joins_with_hyphen
from rag.types import Box, Word

_ITEM_NUMBER = re.compile(r"(?:\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|\(?[ivxIVX]{1,5}[.)]|\d{1,2}(?:\.\d{1,2})+\.?)$")
_OPENS_ITEM = ("and", "or")
_FIGURE = re.compile(r"[($€£¥]*[-+−–]?[$€£¥]?\d[\d.,]*\)?%?[)*]*$|[-—–]$|[$€£¥%]$")
_LEADER_END = re.compile(r"(?:\.{3}|…|_{3})\s?\S{1,6}$")


@dataclass(frozen=True, slots=True)
class PrintedWord:
    """A word as it stands on the page, mended."""

    text: str
    box: Box
    size: float
    """Font size in points, as displayed."""
    bold: bool


@dataclass(slots=True)
class PrintedLine:
    """Words on one line, in reading order; at least one."""

    words: list[PrintedWord]
    broken_word: bool = False
    """Whether the last word goes on in the next line: its line-end hyphen has been taken off."""

    def __post_init__(self) -> None:
        boxes = [word.box for word in self.words]
        bottoms = [box.bottom for box in boxes]
        self.left, self.top = min([box.left for box in boxes]), min([box.top for box in boxes])
        self.right, self.bottom = max([box.right for box in boxes]), max(bottoms)
        self.size = max(1.0, _median([word.size for word in self.words]))
        self.bold = all([word.bold for word in self.words])
        self.text = " ".join([word.text for word in self.words])
        self.baseline = _median(bottoms)
        self.is_row = self._looks_like_row()

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    size: float = 1.0
    bold: bool = False
    text: str = ""
    is_row: bool = False
    baseline: float = 0.0
    """The lower edge of the largest number of words, which a few raised or larger ones don't move."""

    @property
    def is_item(self) -> bool:
        """Whether it starts with a bullet or an item number."""
        first = self.words[0].text
        return is_bullet(first) or (len(self.words) > 1 and _ITEM_NUMBER.match(first) is not None)

    def _looks_like_row(self) -> bool:
        """A row of a table: cells far apart, or mostly figures; or a line of a table of contents."""
        boxes, least = [word.box for word in self.words], 1.5 * self.size
        gaps = [after.left - before.right for before, after in pairwise(boxes)]
        wide = [gap for gap in gaps if gap > least]
        if len(wide) >= 2 or (len(wide) == 1 and wide[0] > 3 * self.size and not is_bullet(self.words[0].text)):
            return True
        # no figure begins with a letter
        figures = sum(not word.text[0].isalpha() and _FIGURE.match(word.text) is not None for word in self.words)
        return figures >= 2 and figures >= 0.4 * len(self.words) or _LEADER_END.search(self.text) is not None


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, heading, list item or table row: one line of `Page.text`."""

    start: int
    end: int
    top: float
    size: float
    bold: bool
    n_lines: int
    is_row: bool
    is_item: bool


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The text of a page with what is known of its parts."""

    text: str
    words: tuple[Word, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class OutlineEntry:
    """A bookmark of the document."""

    page: int
    """1-based."""
    title: str
    top: float | None
    """Distance from the page's upper edge in points, as displayed; None where it points to the page as a whole."""


def lay_out(lines: Sequence[PrintedLine], *, places: bool = True) -> PageLayout:
    """Join lines to paragraphs and give every word its place in the text, unless `places` are not asked for."""
    text: list[str] = []
    length = 0
    words: list[Word] = []
    blocks: list[Block] = []
    vocabulary: set[str] = set()
    if any(line.broken_word for line in lines):
        vocabulary = {word.text.lower().strip(".,;:()") for line in lines for word in line.words}

    def write(piece: str) -> None:
        nonlocal length
        text.append(piece)
        length += len(piece)

    for group in _paragraphs(lines):
        if length:
            write("\n")
        start = length
        before: PrintedLine | None = None
        for line in group:
            if before is not None:
                first, second = before.words[-1].text, line.words[0].text
                if before.broken_word:
                    write("-" if joins_with_hyphen(first, second, vocabulary) else "")
                elif first.endswith("-") and first[-2:-1].isalnum() and second[0].isalnum():
                    write("")  # the reader took the hyphen for a real one
                elif not (is_cjk(first[-1]) and is_cjk(second[0])):
                    write(" ")
            before = line
            may_touch = max(line.text) >= FIRST_CJK
            if not may_touch and not places:
                write(line.text)
                continue
            for place, word in enumerate(line.words):
                if place and not (may_touch and _touch(line.words[place - 1], word)):
                    write(" ")
                if places:
                    words.append(Word(length, length + len(word.text), word.box))
                write(word.text)
        blocks.append(
            Block(
                start,
                length,
                group[0].top,
                _median([line.size for line in group]),
                all(line.bold for line in group),
                len(group),
                any(line.is_row for line in group),
                is_bullet(group[0].words[0].text),
            )
        )
    return PageLayout("".join(text), tuple(words), tuple(blocks))


def _median(values: list[float]) -> float:
    """Of at least one value. The one of `statistics` takes ten times as long for the words of a line."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _touch(before: PrintedWord, word: PrintedWord) -> bool:
    return is_cjk(before.text[-1]) and is_cjk(word.text[0]) and word.box.left - before.box.right < 0.5 * word.size


def _paragraphs(lines: Sequence[PrintedLine]) -> list[list[PrintedLine]]:
    pitch = _usual_pitch(lines)
    groups: list[list[PrintedLine]] = []
    for at, line in enumerate(lines):
        if groups and not _starts_paragraph(groups[-1], line, partial(_reach, lines, at - 1), pitch):
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


def _usual_pitch(lines: Sequence[PrintedLine]) -> float:
    """Distance of two lines of one paragraph, in font sizes: the lower quartile of the page."""
    pitches = sorted(
        (after.baseline - before.baseline) / after.size
        for before, after in zip(lines, lines[1:], strict=False)
        if 0.9 < before.size / after.size < 1.1 and 0.8 < (after.baseline - before.baseline) / after.size < 3.5
    )
    return min(2.6, pitches[len(pitches) // 4]) if pitches else 1.2


def _reach(lines: Sequence[PrintedLine], at: int) -> float:
    """How far to the right the lines around this one go that begin at about the same place."""
    left, size = lines[at].left, lines[at].size
    return max(
        [
            near.right
            for near in lines[max(0, at - 8) : at + 9]
            if abs(near.left - left) < 4 * size and 0.8 < near.size / size < 1.25
        ]
    )


def _starts_paragraph(group: list[PrintedLine], line: PrintedLine, reach: Callable[[], float], pitch: float) -> bool:
    """Whether a line begins a new paragraph after those of the group. Distances are in font sizes (em)."""
    before = group[-1]
    em = min(before.size, line.size)
    overlap = min(before.bottom, line.bottom) - max(before.top, line.top)
    if overlap > 0.6 * min(before.bottom - before.top, line.bottom - line.top):
        return not (before.broken_word or 0 <= line.left - before.right < 15 * em)  # side by side: one row
    if before.broken_word and not line.is_row:
        return False  # half a word never ends a paragraph, not even at the foot of a column
    if not 0.88 < line.size / before.size < 1.14:
        return True
    goes_on = not ends_sentence(before.text) and line.text[0].islower()
    drop = (line.baseline - before.baseline) / em
    if drop < 0:
        return not goes_on or before.is_row or line.is_row
    if before.is_row or line.is_row or line.right < before.left or line.left > before.right:
        return True
    would_fit = line.words[0].box.right - line.words[0].box.left + 0.4 * em < reach() - before.right
    if drop > (2.2 if goes_on and not would_fit else 1.3) * pitch:
        return True
    if before.bold != line.bold and not (goes_on and any(word.bold for word in before.words)):
        return True
    if is_bullet(line.words[0].text):
        return True
    if line.is_item and (would_fit or ends_sentence(before.text) or before.text.endswith((",", *_OPENS_ITEM))):
        return True
    shift = (line.left - before.left) / em
    centred = abs((line.left + line.right) - (before.left + before.right)) < em and abs(shift) > 0.5
    if centred and not ends_sentence(before.text):
        return False
    if shift > 0.8 and not before.is_item and (would_fit or ends_sentence(before.text)):
        return True
    if shift < -0.8 and len(group) > 1 and not goes_on:
        return True
    return would_fit and not (goes_on and len(before.words) > 3)


def find_headings(layouts: Sequence[tuple[int, PageLayout]], outline: Sequence[OutlineEntry]) -> list[Heading]:
    """Section headings, in order.

    The document's outline is believed where it is fine enough (three entries, and one for every four pages); each
    entry is looked up in the text of its page. Otherwise short lines that are larger than the body of the text, or
    bold, are taken as well.

    Args:
        layouts: `(page number, layout)`, in page order.
        outline: In any order.
    """
    layout_of = dict(layouts)
    letters_of: dict[int, list[str]] = {}
    found: dict[tuple[int, int], Heading] = {}
    for entry in outline:
        if entry.page in layout_of and entry.title:
            layout = layout_of[entry.page]
            if entry.page not in letters_of:
                letters_of[entry.page] = [_letters(layout.text[block.start : block.end]) for block in layout.blocks]
            start = _locate(layout, letters_of[entry.page], entry)
            found.setdefault((entry.page, start), Heading(entry.page, start, entry.title))
    if len(found) < 3 or len(found) < len(layouts) / 4:
        for heading in _printed_headings(layouts):
            found.setdefault((heading.page, heading.start), heading)
    return sorted(found.values())


def _locate(layout: PageLayout, letters: Sequence[str], entry: OutlineEntry) -> int:
    """Where on the page the entry's section begins: at its title, else at its height, else at the page's start.

    `letters` are those of the page's blocks.
    """
    title = _letters(entry.title)
    for block, text in zip(layout.blocks, letters, strict=True):
        if title and len(text) <= len(title) + 12 and (text.endswith(title) or text.startswith(title)):
            return block.start
    for block, text in zip(layout.blocks, letters, strict=True):
        if title and (text.startswith(title) or (len(text) >= 8 and title.endswith(text))):
            return block.start
    if entry.top is not None:
        for block in layout.blocks:
            if block.top >= entry.top - 6:
                return block.start
    return 0


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _printed_headings(layouts: Sequence[tuple[int, PageLayout]]) -> Iterable[Heading]:
    weights: Counter[float] = Counter()
    n_bold = 0
    for _, layout in layouts:
        for block in layout.blocks:
            weights[round(2 * block.size) / 2] += block.end - block.start
            n_bold += (block.end - block.start) * block.bold
    if not weights:
        return
    body = weights.most_common(1)[0][0]
    bold_means_heading = n_bold < 0.3 * weights.total()
    for number, layout in layouts:
        large, bold = [], []
        for at, block in enumerate(layout.blocks):
            text = layout.text[block.start : block.end]
            if not _can_be_heading(block, text):
                continue
            if block.size >= max(1.12 * body, body + 1):
                large.append(block)
            elif bold_means_heading and block.bold and block.size >= 0.95 * body:
                following = layout.blocks[at + 1] if at + 1 < len(layout.blocks) else None
                if following is None or not following.is_row:
                    bold.append(block)
        for blocks in (large, bold):
            if len(blocks) <= max(3, len(layout.blocks) // 3):
                for block in blocks:
                    yield Heading(number, block.start, layout.text[block.start : block.end])


def _can_be_heading(block: Block, text: str) -> bool:
    return (
        not block.is_row
        and not block.is_item
        and block.n_lines <= 3
        and 3 <= len(text) <= 120
        and sum(map(str.isalpha, text)) >= 0.6 * len(text.replace(" ", ""))
        and (text[0].isupper() or text[0].isdigit() or is_cjk(text[0]))
        and not text.endswith((".", ",", ";", ":"))
    )
