"""Which words of a PDF's page a reader doesn't see: what the page looks like decides, not what the file says of itself.

It leaves out nothing by itself and reads no text: `ingest.read_pdf` asks it of each word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from ctypes import addressof, byref, c_float, c_uint, sizeof
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pypdfium2.raw as pdfium

from ingest.pdfium_calls import get_fill_color, get_render_mode, get_text_object, handle_of
from rag.types import Box

Reason = Literal["off the page", "drawn invisibly", "too small to read", "no contrast"]

SMALLEST_SIZE = 1.5
"""Points, as displayed. Footnotes have 6, the small print of a medicine's leaflet 4, microprint on a banknote 0.7."""

LEAST_CONTRAST = 10
"""Of 255, in the strongest of the three colours: what is fainter than this on the screen is taken for unseen.

Light grey (#ddd) of 6 points reaches 18 at 72 dots an inch; white on white 0, #fafafa on white 5."""

LEAST_SCAN_CONTRAST = 40
"""Of 255: dark and light around a recognised word of a scan; empty paper has up to 25 from noise."""

NEARLY_WHITE = 240
"""Of 255, in each colour."""

LEAST_WHITE_SHARE = 0.1
"""Of the ground that nearly white words stand on, beyond which they are unseen."""

MOST_PIXELS = 1_500_000
"""A page is looked at with 72 dots an inch, larger ones more coarsely."""

MOST_IMAGE_PIXELS = 100_000_000
"""A page whose images hold more is not drawn: 100 million are 300 MB once they are unpacked."""

WORDS_TO_WARN = 3
"""Fewer unseen words on a page are left out without a word: printers' marks, a white section mark."""

LAST_LATIN = 0x24F
"""pdfium brings fonts of its own for characters up to this one."""

_MOST_OBJECTS = 50_000
_MOST_PIXELS_AT_ONCE = 4_000_000
"""Under the middles of all words together; a full page has 50,000."""
_FILLING_MODES = (0, 4)
_INVISIBLE_MODES = (3, 7)

_Pixels = npt.NDArray[np.uint8]
_Numbers = npt.NDArray[np.float64]

_KEPT_BYTES = 4 * MOST_PIXELS
_sheets: list[_Pixels] = [np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)]
"""Of the page as it is and of its ground. One page at a time is looked at: pdfium's lock is held."""


class Visibility:
    """What of one open page a reader sees. Hold `PDFIUM_LOCK` while using it."""

    def __init__(self, page: Any, text_page: Any) -> None:
        """Take the page as it is displayed; it is drawn at the first word that asks for it.

        Args:
            page: An open pypdfium2 page.
            text_page: Its text page.
        """
        self._page = page
        self._text_page = text_page
        self._text_handle = handle_of(text_page)
        self._width, self._height = page.get_size()
        self._scale = min(1.0, (MOST_PIXELS / max(1.0, self._width * self._height)) ** 0.5)
        self._pixels: _Pixels | None = None
        self._ground: _Pixels | None = None
        self._drawn = False
        self._pictures: list[tuple[float, float, float, float]] | None = None
        self._manners: dict[int, tuple[int, tuple[int, int, int, int] | None]] = {}
        self.unseen: Counter[Reason] = Counter()
        """How many words were unseen, by reason."""

    def doubtful(
        self,
        boxes: tuple[_Numbers, _Numbers, _Numbers, _Numbers],
        sizes: _Numbers,
        objects: Sequence[int | None],
    ) -> list[bool]:
        """Which words have to be looked at one by one; the others, most of them, are surely seen: `hides` says False.

        They lie on the page, are drawn in a colour that is not nearly white, and the one row of pixels through their
        middle shows contrast enough.

        Args:
            boxes: Left, top, right, bottom of the words, as displayed, in points.
            sizes: Of their fonts, in points as displayed.
            objects: Handles of their text objects; None: unknown.
        """
        left, top, right, bottom = boxes
        plain = {key: self._is_plain(key) for key in set(objects)}
        seen = np.array([plain[key] for key in objects], dtype=bool)
        seen &= (left >= 0) & (top >= 0) & (right <= self._width) & (bottom <= self._height)
        seen &= (right > left) & (bottom > top) & (np.minimum(sizes, bottom - top) >= SMALLEST_SIZE)
        pixels = self._drawing() if seen.any() else None
        if pixels is None:
            return [True] * len(objects)
        rows, columns = pixels.shape[:2]
        row = ((top + bottom) / 2 * self._scale)[seen].astype(np.int64)
        first = (left[seen] * self._scale).astype(np.int64)
        count = np.minimum((right[seen] * self._scale).astype(np.int64) + 1, columns) - first
        inside = (row < rows) & (count > 0)
        seen[seen] = inside
        if count[inside].sum() > _MOST_PIXELS_AT_ONCE:
            return [True] * len(objects)
        if inside.any():
            row, first, count = row[inside], first[inside], count[inside]
            starts = np.cumsum(count) - count
            places = np.repeat(row * columns + first - starts, count) + np.arange(int(count.sum()))
            across = pixels.reshape(-1, 3)[places, 1]
            lightest, darkest = np.maximum.reduceat(across, starts), np.minimum.reduceat(across, starts)
            seen[seen] = lightest - darkest >= LEAST_CONTRAST
        doubtful: list[bool] = (~seen).tolist()
        return doubtful

    def hides(self, index: int, box: Box, size: float) -> bool:
        """Whether a reader does not see a word, which is counted then.

        Args:
            index: Its first character on the text page.
            box: As displayed, in points.
            size: Of its font, in points as displayed.
        """
        reason = self._reason(index, box, size)
        if reason is not None:
            self.unseen[reason] += 1
        return reason is not None

    def _reason(self, index: int, box: Box, size: float) -> Reason | None:
        if box.right <= box.left or box.bottom <= box.top:
            return None  # its place is unknown
        if self._share_on_page(box) < 0.25:
            return "off the page"
        mode, colour = self._manner(index)
        if mode in _INVISIBLE_MODES:
            return None if self._is_recognised(box) else "drawn invisibly"
        if min(size, box.bottom - box.top) < SMALLEST_SIZE:
            return "too small to read"
        if colour is not None and colour[3] < LEAST_CONTRAST and mode in (0, 4):
            return "no contrast"
        if not self._stands_out(box):
            area = self._area(box, margin=0.0)
            if area is None:
                return None
            if _contrast(area) < LEAST_CONTRAST:
                return None if self._lacks_its_font(index, colour, area) else "no contrast"
        if colour is not None and mode in _FILLING_MODES and min(colour[:3]) >= NEARLY_WHITE:
            return "no contrast" if self._is_on_white(box) else None
        return None

    def _stands_out(self, box: Box) -> bool:
        """Whether the one row of pixels through the middle of a box shows contrast enough, as it does for most words.

        It is quick to look at; where it shows none, the whole box has to be looked at.
        """
        pixels = self._drawing()
        if pixels is None:
            return False
        rows, columns = pixels.shape[:2]
        row = int((box.top + box.bottom) / 2 * self._scale)
        if not 0 <= row < rows:
            return False
        left, right = max(0, int(box.left * self._scale)), min(columns, int(box.right * self._scale) + 1)
        across = pixels[row, left:right, 1].tobytes() if left < right else b""
        return bool(across) and max(across) - min(across) >= LEAST_CONTRAST

    def _is_on_white(self, box: Box) -> bool:
        """Whether nearly white words would stand on white but for other words in their place.

        The middle half of the box is looked at on the page without nearly white text: a dark ground leaves none of it
        white, a dense line of print 13 to 25 parts of 100.
        """
        quarter = (box.bottom - box.top) / 4
        middle = Box(box.left, box.top + quarter, box.right, box.bottom - quarter)
        area = self._area(middle, margin=0.0, of=self._without_white_text())
        return area is not None and float((area.min(axis=2) >= NEARLY_WHITE).mean()) > LEAST_WHITE_SHARE

    def _lacks_its_font(self, index: int, colour: tuple[int, int, int, int] | None, area: _Pixels) -> bool:
        """Whether a word can be undrawn because its font is neither in the file nor on this machine.

        Files name Chinese, Japanese, Korean, Arabic or Cyrillic fonts that readers have and this machine may lack.
        """
        found = pdfium.FPDFText_GetTextObject(self._text_page, index)
        font = pdfium.FPDFTextObj_GetFont(found) if found else None
        if not font or pdfium.FPDFFont_GetIsEmbedded(font) != 0:
            return False
        if pdfium.FPDFText_GetUnicode(self._text_page, index) <= LAST_LATIN or colour is None:
            return False
        ground = np.median(area.reshape(-1, 3), axis=0)
        return float(np.abs(ground - np.array(colour[:3])).max()) >= LEAST_CONTRAST

    def _share_on_page(self, box: Box) -> float:
        """How much of a box lies on the page as displayed, in [0, 1]."""
        across = min(box.right, self._width) - max(box.left, 0.0)
        down = min(box.bottom, self._height) - max(box.top, 0.0)
        if across <= 0 or down <= 0:
            return 0.0
        return float(across * down / ((box.right - box.left) * (box.bottom - box.top)))

    def _manner(self, index: int) -> tuple[int, tuple[int, int, int, int] | None]:
        """Render mode and fill colour (red, green, blue, opacity) of a character's text object, asked for once."""
        key = get_text_object(self._text_handle, index)
        return (0, None) if key is None else self._manner_of(key)

    def _manner_of(self, key: int) -> tuple[int, tuple[int, int, int, int] | None]:
        if key not in self._manners:
            self._manners[key] = (get_render_mode(key), _fill_colour(key))
        return self._manners[key]

    def _is_plain(self, key: int | None) -> bool:
        """Whether a text object is drawn in a colour that is neither nearly white nor nearly transparent."""
        if key is None:
            return False
        mode, colour = self._manner_of(key)
        if mode in _INVISIBLE_MODES:
            return False
        return colour is None or colour[3] >= LEAST_CONTRAST and min(colour[:3]) < NEARLY_WHITE

    def _is_recognised(self, box: Box) -> bool:
        """Whether invisible text names what a picture shows there: the text layer of a scan."""
        if not any(
            left < box.right and box.left < right and top < box.bottom and box.top < bottom
            for left, top, right, bottom in self._picture_places()
        ):
            return False
        area = self._area(box, margin=box.bottom - box.top)  # recognised words can lie a little beside the printed ones
        return area is None or _contrast(area) >= LEAST_SCAN_CONTRAST

    def _picture_places(self) -> list[tuple[float, float, float, float]]:
        """Left, top, right, bottom of the page's images as displayed, in points."""
        if self._pictures is None:
            self._pictures = []
            for position, item in enumerate(self._page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=6)):
                if position > _MOST_OBJECTS:
                    break
                left, bottom, right, top = (c_float() for _ in range(4))
                if item.container is not None:
                    # Bounds inside a form are in the form's own units.
                    self._pictures = [(0.0, 0.0, self._width, self._height)]
                    break
                if pdfium.FPDFPageObj_GetBounds(item.raw, left, bottom, right, top):
                    self._pictures.append(self._displayed(left.value, bottom.value, right.value, top.value))
        return self._pictures

    def _displayed(self, left: float, bottom: float, right: float, top: float) -> tuple[float, float, float, float]:
        corners = [self._point(x, y) for x in (left, right) for y in (bottom, top)]
        across, down = [x for x, _ in corners], [y for _, y in corners]
        return min(across), min(down), max(across), max(down)

    def _point(self, x: float, y: float) -> tuple[float, float]:
        """A point of the page's own coordinates on the page as displayed."""
        x0, y0, x1, y1 = self._page.get_bbox()
        match self._page.get_rotation():
            case 90:
                return y - y0, x - x0
            case 180:
                return x1 - x, y - y0
            case 270:
                return y1 - y, x1 - x
            case _:
                return x - x0, y1 - y

    def _area(self, box: Box, *, margin: float, of: _Pixels | None = None) -> _Pixels | None:
        """The pixels of a box, shape (rows, columns, 3), of the page or another drawing of it; None: not drawn."""
        pixels = self._drawing() if of is None else of
        if pixels is None:
            return None
        rows, columns = pixels.shape[:2]
        left = max(0, int((box.left - margin) * self._scale))
        top = max(0, int((box.top - margin) * self._scale))
        right = min(columns, int((box.right + margin) * self._scale) + 1)
        bottom = min(rows, int((box.bottom + margin) * self._scale) + 1)
        area = pixels[top:bottom, left:right]
        return area if area.size else None

    def _drawing(self) -> _Pixels | None:
        """The page as a reader sees it; None where it can't be drawn or would take too much memory."""
        if not self._drawn:
            self._drawn = True
            if self._width >= 1 and self._height >= 1 and self._image_pixels() <= MOST_IMAGE_PIXELS:
                self._pixels = self._draw(0)
        return self._pixels

    def _without_white_text(self) -> _Pixels | None:
        if self._ground is None and self._drawing() is not None:
            changed = []
            for item in self._page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_TEXT], max_depth=6):
                colour = _fill_colour(handle_of(item))
                if colour is not None and min(colour[:3]) >= NEARLY_WHITE:
                    changed.append((item, colour))
                    pdfium.FPDFPageObj_SetFillColor(item.raw, *colour[:3], 0)
            self._ground = self._draw(1)
            for item, colour in changed:
                pdfium.FPDFPageObj_SetFillColor(item.raw, *colour)
        return self._ground

    def _draw(self, sheet: int) -> _Pixels | None:
        rows, columns = ceil(self._height * self._scale), ceil(self._width * self._scale)
        try:
            pixels = _blank(sheet, rows * columns * 3).reshape(rows, columns, 3)
        except (ValueError, MemoryError):
            return None
        # pdfium draws into this very memory: copying a page out of a bitmap of its own takes as long as drawing it
        bitmap = pdfium.FPDFBitmap_CreateEx(columns, rows, pdfium.FPDFBitmap_BGR, pixels.ctypes.data, pixels.strides[0])
        if not bitmap:
            return None
        flags = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER
        pdfium.FPDF_RenderPageBitmap(bitmap, self._page, 0, 0, columns, rows, 0, flags)
        pdfium.FPDFBitmap_Destroy(bitmap)
        return pixels

    def _image_pixels(self) -> int:
        total = 0
        width, height = c_uint(), c_uint()
        for position, item in enumerate(self._page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=6)):
            if position > _MOST_OBJECTS:
                return MOST_IMAGE_PIXELS + 1
            if pdfium.FPDFImageObj_GetImagePixelSize(item.raw, byref(width), byref(height)):
                total += width.value * height.value
        return total


def tell_unseen(pages: Mapping[int, Counter[Reason]], name_pages: Callable[[list[int]], str]) -> str | None:
    """The warning about unseen words, or None where there are too few to speak of.

    >>> tell_unseen({3: Counter({"no contrast": 9}), 4: Counter({"off the page": 1})}, lambda pages: f"page {pages[0]}")
    "page 3 has text that a reader doesn't see (no contrast): it is left out"
    """
    counted = {number: reasons for number, reasons in pages.items() if reasons.total() >= WORDS_TO_WARN}
    if not counted:
        return None
    reasons = ", ".join(sorted({reason for found in counted.values() for reason in found}))
    has = "has" if len(counted) == 1 else "have"
    return f"{name_pages(sorted(counted))} {has} text that a reader doesn't see ({reasons}): it is left out"


def _fill_colour(handle: int) -> tuple[int, int, int, int] | None:
    """Red, green, blue and opacity of an object, each of 255; None where the file gives none that can be told."""
    channels = (c_uint * 4)()
    start, step = addressof(channels), sizeof(c_uint)
    if not get_fill_color(handle, start, start + step, start + 2 * step, start + 3 * step):
        return None
    red, green, blue, opacity = channels
    return red, green, blue, opacity


def _blank(sheet: int, n_bytes: int) -> _Pixels:
    """White memory for a drawing, the same one for all pages: getting it anew takes half as long as drawing.

    Raises MemoryError.
    """
    if n_bytes > _KEPT_BYTES:
        return np.full(n_bytes, 255, dtype=np.uint8)
    if len(_sheets[sheet]) < n_bytes:
        _sheets[sheet] = np.empty(n_bytes, dtype=np.uint8)
    blank = _sheets[sheet][:n_bytes]
    blank.fill(255)
    return blank


def _contrast(area: _Pixels) -> int:
    """Largest difference within one of the three colours, of 255."""
    flat = area.reshape(-1, 3)
    return int((flat.max(axis=0).astype(int) - flat.min(axis=0)).max())
