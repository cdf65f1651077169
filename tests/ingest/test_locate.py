"""Quotes in their places: the boxes cover exactly the ink of the quoted words, however the page is turned or cut."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pypdf
import pytest
from PIL import Image
from pypdf.generic import RectangleObject
from reportlab.lib.colors import black, red
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from ingest.locate import Piece, locate, on_page, pieces
from ingest.page_image import PageImage, draw_page
from ingest.read_pdf import read_pdf
from rag.types import Box, Chunk, Page, PageSpan, Word
from tests.ingest.pdfs import changed, cropped, drawn, rotated

ROOT = Path(__file__).resolve().parents[2]
INK_PT = 1.5
"""How far ink may stand out of its box: slanted and round glyphs do."""


def chunk_of(*slices: tuple[int, int, str]) -> Chunk:
    """A chunk of (page, start, text) slices."""
    spans = tuple(PageSpan(page, start, start + len(text)) for page, start, text in slices)
    return Chunk("c", "d", "t", None, "\n".join(text for _, _, text in slices), spans, 0, 9)


def page_of(text: str) -> Page:
    """A page of one line on which every character is one point wide and each word ten high."""
    words, at = [], 0
    for word in text.split(" "):
        words.append(Word(at, at + len(word), Box(at, 0, at + len(word), 10)))
        at += len(word) + 1
    return Page("d", 1, text, tuple(words), 600, 800)


# The words


def test_a_quote_over_a_page_border_has_a_piece_on_each_page() -> None:
    chunk = chunk_of((2, 50, "The period starts"), (3, 0, "with the contract. It ends."))
    assert pieces(chunk, "starts with the contract.") == (Piece(2, "starts", 61), Piece(3, "with the contract.", 0))
    assert on_page(chunk, 3) == Piece(3, "with the contract. It ends.", 0)
    assert on_page(chunk, 4) is None


def test_the_page_that_a_citation_names_decides_between_two_places() -> None:
    chunk = chunk_of((2, 9, "It ends. So."), (3, 4, "It ends. Yes."))
    assert pieces(chunk, "It ends.", page=3) == (Piece(3, "It ends.", 4),)
    assert pieces(chunk, "It ends.", page=2) == (Piece(2, "It ends.", 9),)
    assert pieces(chunk, "It ends.") == (Piece(2, "It ends.", 9),)


def test_words_that_are_not_there_are_not_placed() -> None:
    assert pieces(chunk_of((1, 0, "Seven days.")), "Eight days.") == ()
    assert locate(Piece(1, "Eight days.", 0), page_of("Seven days from receipt.")) == ()
    assert locate(Piece(1, " ", 0), page_of("Seven days from receipt.")) == ()


def test_white_space_hyphens_and_ligatures_do_not_matter() -> None:
    page = page_of("the bene\ufb01t of inter- national cover")
    (box,) = locate(Piece(1, "benefit of\ninternational", 4), page)
    assert (box.left, box.right) == (len("the "), len("the bene\ufb01t of inter- national"))


def test_the_occurrence_next_to_where_the_quote_stood_is_meant() -> None:
    page = page_of("It ends. Then it starts. It ends. So.")
    assert [box.left for box in locate(Piece(1, "It ends.", 23), page)] == [25]
    assert [box.left for box in locate(Piece(1, "It ends.", 3), page)] == [0]


def test_words_of_a_line_are_one_box_and_words_of_two_lines_are_two() -> None:
    words = (
        Word(0, 3, Box(10, 100, 25, 112)),
        Word(4, 7, Box(29, 101, 45, 112)),
        Word(8, 11, Box(10, 114, 25, 126)),
    )
    page = Page("d", 1, "one two six", words, 600, 800)
    assert locate(Piece(1, "one two six", 0), page) == (Box(10, 100, 45, 112), Box(10, 114, 25, 126))


def test_columns_side_by_side_are_not_painted_over() -> None:
    words = (Word(0, 3, Box(10, 100, 25, 112)), Word(4, 7, Box(300, 100, 320, 112)))
    assert len(locate(Piece(1, "one two", 0), Page("d", 1, "one two", words, 600, 800))) == 2


# The ink: quoted words are drawn in red, all others in black

QUOTE = "The waiting period for critical illness is one hundred and eighty days from the start of the contract."
BEFORE = "The insurer pays the agreed benefit once the waiting period has ended and not before that."
AFTER = "It does not apply to accidents, which are covered from the first day of the contract on."


def wrapped(canvas: Canvas, runs: list[tuple[str, bool]], *, left: float, top: float, width: float) -> None:
    """Words in lines of that width, the marked ones in red."""
    x, y = left, top
    for text, marked in runs:
        canvas.setFillColor(red if marked else black)
        for word in text.split():
            advance = canvas.stringWidth(word + " ", "Helvetica", 11)
            if x + advance > left + width:
                x, y = left, y - 14
            canvas.drawString(x, y, word)
            x += advance


def one_column(canvas: Canvas) -> None:
    wrapped(canvas, [(BEFORE, False), (QUOTE, True), (AFTER, False)], left=72, top=700, width=300)


def two_columns(canvas: Canvas) -> None:
    """The quote begins at the foot of the left column and ends at the head of the right one."""
    first, second = QUOTE[: len(QUOTE) // 2].rsplit(" ", 1)[0], QUOTE[len(QUOTE) // 2 :]
    second = QUOTE[len(first) :]
    wrapped(canvas, [(f"{BEFORE} {AFTER} {BEFORE}", False), (first, True)], left=60, top=700, width=200)
    wrapped(canvas, [(second, True), (f"{AFTER} {BEFORE} {AFTER}", False)], left=320, top=700, width=200)


def sideways(degrees: int) -> Callable[[Canvas], None]:
    """Drawn so that a page turned clockwise by that much shows it upright, as scanners and landscape tables have it."""

    def draw(canvas: Canvas) -> None:
        width, height = A4
        shift = {90: (0.0, -width), 180: (-width, -height), 270: (-height, 0.0)}[degrees]
        canvas.rotate(degrees)
        canvas.translate(*shift)
        wrapped(canvas, [(BEFORE, False), (QUOTE, True), (AFTER, False)], left=72, top=500, width=300)

    return draw


def one_line(canvas: Canvas) -> None:
    """So long that it is all on one line, which can be read whichever way the page is turned."""
    wrapped(canvas, [(QUOTE, True)], left=40, top=700, width=540)
    wrapped(canvas, [(AFTER, False)], left=40, top=650, width=540)


def plain(data: bytes) -> bytes:
    return data


PAGES: dict[str, tuple[Callable[[Canvas], None], Callable[[bytes], bytes]]] = {
    "upright": (one_column, plain),
    "upright when turned by 90": (sideways(90), lambda data: rotated(data, 90)),
    "upright when turned by 180": (sideways(180), lambda data: rotated(data, 180)),
    "upright when turned by 270": (sideways(270), lambda data: rotated(data, 270)),
    "a line turned by 90": (one_line, lambda data: rotated(data, 90)),
    "a line turned by 270": (one_line, lambda data: rotated(data, 270)),
    "sideways on an upright page": (sideways(90), plain),
    "cropped": (one_column, lambda data: cropped(data, 40, 560, 500, 760)),
    "cropped, upright when turned by 90": (
        sideways(90),
        lambda data: rotated(cropped(data, 60, 40, 400, 480), 90),
    ),
    "two columns": (two_columns, plain),
    "two columns, cropped": (two_columns, lambda data: cropped(data, 50, 300, 560, 720)),
}


def painted(image: PageImage, boxes: tuple[Box, ...], colour: str) -> tuple[int, int]:
    """How many pixels of a colour lie within the boxes, and how many outside."""
    picture = np.asarray(Image.open(io.BytesIO(image.image)).convert("RGB")).astype(int)
    height, width, _ = picture.shape
    scale_x, scale_y = width / image.page.width, height / image.page.height
    within = np.zeros((height, width), dtype=bool)
    for box in boxes:
        left, top = max(0, round((box.left - INK_PT) * scale_x)), max(0, round((box.top - INK_PT) * scale_y))
        right, bottom = round((box.right + INK_PT) * scale_x), round((box.bottom + INK_PT) * scale_y)
        within[top:bottom, left:right] = True
    r, g, b = picture[..., 0], picture[..., 1], picture[..., 2]
    ink = (r > 200) & (g < 60) & (b < 60) if colour == "red" else (r < 60) & (g < 60) & (b < 60)
    return int((ink & within).sum()), int((ink & ~within).sum())


@pytest.mark.parametrize("name", PAGES)
def test_boxes_cover_all_ink_of_the_quote_and_none_of_the_rest(name: str, tmp_path: Path) -> None:
    draw, change = PAGES[name]
    path = tmp_path / "page.pdf"
    path.write_bytes(change(drawn(draw)))
    image = draw_page(path, 1, source=path.name)
    assert QUOTE in " ".join(image.page.text.split()), "the page is read in the order in which a person reads it"
    boxes = locate(Piece(1, QUOTE, len(BEFORE) + 1), image.page)
    in_red, out_red = painted(image, boxes, "red")
    in_black, out_black = painted(image, boxes, "black")
    assert in_red > 1000
    assert out_red == 0
    assert out_black > 1000
    assert in_black <= out_black * 0.03, "a neighbour's descender at most"


def turned_content(data: bytes, degrees: int) -> bytes:
    """A PDF that looks the same: what is drawn is turned, and the pages are turned back."""

    def turn(writer: pypdf.PdfWriter) -> None:
        for page in writer.pages:
            width, height = float(page.mediabox.width), float(page.mediabox.height)
            shift = {90: (height, 0.0), 180: (width, height), 270: (0.0, width)}[degrees]
            page.add_transformation(pypdf.Transformation().rotate(degrees).translate(*shift))
            size = (width, height) if degrees == 180 else (height, width)
            page.mediabox = page.cropbox = RectangleObject((0, 0, *size))
            page.rotate(degrees)

    return changed(data, turn)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("source", ["insurance-critical-illness.pdf", "medicine-ibuprofen-children.pdf"])
def test_every_paragraph_of_a_real_document_is_placed_and_as_well_on_turned_pages(
    source: str, degrees: int, tmp_path: Path
) -> None:
    path = ROOT / "data" / "pdfs" / source
    page = next(page for page in read_pdf(path, words=True).pages if len(page.words) > 150)
    turned = tmp_path / "turned.pdf"
    turned.write_bytes(turned_content(path.read_bytes(), degrees))
    other = draw_page(turned, page.number, source=source).page
    assert (other.width, other.height) == pytest.approx((page.width, page.height), abs=0.1)
    paragraphs = [line for line in page.text.split("\n") if len(line) > 60]
    assert len(paragraphs) >= 3
    for paragraph in paragraphs:
        piece = Piece(page.number, paragraph, page.text.index(paragraph))
        boxes = locate(piece, page)
        for word in page.words:
            if piece.start <= word.start < piece.start + len(paragraph):
                assert any(holds(box, word.box) for box in boxes), "each of its words lies in a box"
        middles = [((word.box.left + word.box.right) / 2, (word.box.top + word.box.bottom) / 2) for word in page.words]
        n_within = sum(any(box.left < x < box.right and box.top < y < box.bottom for box in boxes) for x, y in middles)
        n_words = sum(piece.start <= word.start < piece.start + len(paragraph) for word in page.words)
        assert n_within == n_words, "and no other word does"
        turned_boxes = locate(piece, other)
        assert len(turned_boxes) == len(boxes)
        for box, same in zip(boxes, turned_boxes, strict=True):
            assert holds(box, same, 1.0)
            assert holds(same, box, 1.0)


def holds(box: Box, inner: Box, slack: float = 0.01) -> bool:
    return (
        box.left - slack <= inner.left
        and box.top - slack <= inner.top
        and box.right + slack >= inner.right
        and box.bottom + slack >= inner.bottom
    )
