"""Text of a page that is only a picture: rapidocr, with the models that its package carries, finds words and boxes.

It downloads nothing. It is an extra, `pip install "rank37[ocr]"`, and says so where it is missing. It knows no PDF: a
picture goes in, printed lines come out.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.layout import PrintedLine, PrintedWord
from ingest.mend import mend_word
from rag.types import Box

DOTS_AN_INCH = 200
"""Resolution at which pages are drawn for OCR: 11-point letters are 20 pixels high."""
MOST_PIXELS = 9_000_000
"""A larger page is drawn at a lower resolution."""
HOW_TO_INSTALL = 'install the OCR extra (`pip install "rank37[ocr]"`) and add the file again'

_MOST_THREADS = 4
_LEAST_SCORE = 0.5
"""What is recognised with less is not text, or not legible."""
_SIZE_OF_HEIGHT = 0.75
"""Font size by the height of a line's box, which leaves room for ascenders and descenders."""
_SAME_ROW_SHARE = 0.5
_COLUMN_FILL = 0.6
"""Lines of a text column fill about its width; cells of a table don't."""
_LEAST_COLUMN_LINES = 3

Picture = NDArray[np.uint8]
"""`(height, width, 3)`, blue green red, as the page is displayed."""


def is_installed() -> bool:
    """Whether the extra is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("rapidocr", "onnxruntime"))


class Ocr:
    """The engine; its models are loaded at first use, which takes a second or two."""

    @cached_property
    def _engine(self) -> Any:
        from rapidocr import RapidOCR

        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        return RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": _LEAST_SCORE,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, number: int, picture: Picture, points_a_pixel: float) -> list[PrintedLine]:
        """The lines of a page in reading order, boxes in points; empty where no text is found.

        Args:
            number: Of the page.
            picture: The page, upright.
            points_a_pixel: Size of a pixel in points.
        """
        found = self._engine(picture, use_cls=False, return_word_box=True)
        if found.boxes is None or not found.txts:
            return []
        lines = []
        for text, box, words in zip(found.txts, found.boxes, found.word_results, strict=True):
            if line := _line(text, box, words, points_a_pixel):
                lines.append(line)
        return in_reading_order(lines)


def _line(text: str, box: Any, words: Any, points_a_pixel: float) -> PrintedLine | None:
    """A recognised line, its words with boxes of their own as far as the engine gave them."""
    placed = [(word, corners) for word, _score, corners in words if word and corners is not None]
    if "".join(word for word, _ in placed).replace(" ", "") != text.replace(" ", ""):
        placed = [(text, box)]
    whole = _box(box, points_a_pixel)
    size = round((whole.bottom - whole.top) * _SIZE_OF_HEIGHT)
    printed = []
    for word, corners in placed:
        where = _box(corners, points_a_pixel)
        printed += [PrintedWord(mended, where, size, False) for piece in word.split() if (mended := mend_word(piece))]
    return PrintedLine(printed) if printed else None


def _box(corners: Any, points_a_pixel: float) -> Box:
    xs, ys = [float(x) * points_a_pixel for x, _ in corners], [float(y) * points_a_pixel for _, y in corners]
    return Box(min(xs), min(ys), max(xs), max(ys))


def in_reading_order(lines: Sequence[PrintedLine]) -> list[PrintedLine]:
    """Lines as a person reads them: column by column where there are columns of text, else row by row.

    A line that crosses the gutter, such as a title, ends the columns above it. What stands side by side without being
    columns (cells of a table, a date at the margin) becomes one line.
    """
    gutter = _gutter(lines)
    if gutter is None:
        return _rows(lines)
    ordered: list[PrintedLine] = []
    crossing = sorted((line for line in lines if line.left < gutter < line.right), key=lambda line: line.top)
    rest = [line for line in lines if not line.left < gutter < line.right]
    for border in [*crossing, None]:
        above = [line for line in rest if border is None or line.bottom <= border.bottom]
        rest = [line for line in rest if not (border is None or line.bottom <= border.bottom)]
        ordered += in_reading_order([line for line in above if line.right <= gutter])
        ordered += in_reading_order([line for line in above if line.left >= gutter])
        if border is not None:
            ordered.append(border)
    return ordered


def _gutter(lines: Sequence[PrintedLine]) -> float | None:
    """The x of a gap between two columns of running text, or None."""
    if len(lines) < 2 * _LEAST_COLUMN_LINES:
        return None
    for x in sorted({line.left - 1 for line in lines}):
        left, right = [line for line in lines if line.right <= x], [line for line in lines if line.left > x]
        crossing = len(lines) - len(left) - len(right)
        if crossing <= 0.2 * len(lines) and _is_column(left) and _is_column(right):
            return x
    return None


def _is_column(lines: Sequence[PrintedLine]) -> bool:
    if len(lines) < _LEAST_COLUMN_LINES:
        return False
    width = max(line.right for line in lines) - min(line.left for line in lines)
    size = median(line.size for line in lines)
    usual = median(line.right - line.left for line in lines)
    return width >= 12 * size and usual >= _COLUMN_FILL * width


def _rows(lines: Sequence[PrintedLine]) -> list[PrintedLine]:
    """Lines from top to bottom, those of one row joined from left to right."""
    rows: list[list[PrintedLine]] = []
    for line in sorted(lines, key=lambda line: (line.top + line.bottom, line.left)):
        row = rows[-1] if rows else None
        if row is not None and _share_row(row[-1], line):
            row.append(line)
        else:
            rows.append([line])
    return [
        PrintedLine([word for line in sorted(row, key=lambda line: line.left) for word in line.words]) for row in rows
    ]


def _share_row(one: PrintedLine, other: PrintedLine) -> bool:
    shared = min(one.bottom, other.bottom) - max(one.top, other.top)
    apart = one.right <= other.left or other.right <= one.left
    return apart and shared >= _SAME_ROW_SHARE * min(one.bottom - one.top, other.bottom - other.top)
