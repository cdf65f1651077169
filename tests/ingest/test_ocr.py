"""Scanned pages: read by OCR where the extra is installed, and a clear word where it is not."""

from __future__ import annotations

import io
from pathlib import Path

import pypdfium2
import pytest
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from ingest import ocr
from ingest.layout import PrintedLine, PrintedWord
from ingest.ocr import Ocr, in_reading_order
from ingest.ocr_pages import keep_ocr_pages, ocr_file
from ingest.read_pdf import open_pdf, read_pdf
from ingest.reader_process import ReadLimits, read_document
from rag.errors import FileRefused
from rag.types import Box
from tests.ingest.pdfs import image_pdf
from tests.ui.running_app import ROOT

SAMPLE = ROOT / "data" / "pdfs" / "insurance-claims-handbook.pdf"

with_ocr = pytest.mark.skipif(not ocr.is_installed(), reason="the extra `ocr` is not installed")


def scanned(source: Path, number: int, *, crop_points: float) -> bytes:
    """The upper part of a real page as a picture in a PDF, without any text."""
    page = pypdfium2.PdfDocument(source)[number - 1]
    width, height = page.get_size()
    picture = page.render(scale=2).to_pil().crop((0, 0, int(width * 2), int(crop_points * 2)))
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(width, crop_points))
    canvas.drawImage(ImageReader(picture), 0, 0, width, crop_points)
    canvas.save()
    return buffer.getvalue()


@with_ocr
def test_a_scanned_page_is_read_with_boxes_where_the_words_stand(tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(scanned(SAMPLE, 1, crop_points=300))
    limits = ReadLimits(ocr_page_limit_s=120)

    read = read_document(path, source="scan.pdf", limits=limits)

    page = read.pages[0]
    assert (read.ocr_pages, read.pages_without_text) == ((1,), ())
    assert "read from a picture by OCR" in read.warnings[0]
    assert "Have your policy number ready, the date of what happened" in page.text
    assert "Making a claim" in [heading.text for heading in read.headings]
    printed = read_pdf(SAMPLE, words=True).pages[0]
    for word in ("policy", "distress", "Making"):
        boxes = [[one.box for one in of.words if of.text[one.start : one.end] == word] for of in (page, printed)]
        if not boxes[1] or boxes[1][0].bottom > 300:
            continue
        read_box, true_box = boxes[0][0], boxes[1][0]
        assert read_box.left == pytest.approx(true_box.left, abs=6)
        assert (read_box.top + read_box.bottom) / 2 == pytest.approx((true_box.top + true_box.bottom) / 2, abs=4)

    keep_ocr_pages(path, [page])
    with open_pdf(path) as pdf:
        again = pdf.page(1, words=True)
    assert again == page, "highlights come from what was kept, without OCR"
    other = tmp_path / "other.pdf"
    other.write_bytes(image_pdf())
    ocr_file(path).rename(ocr_file(other))
    with open_pdf(other) as pdf:
        assert pdf.page(1).text == "", "kept pages of another document are not used"


@with_ocr
def test_ocr_that_takes_too_long_gives_the_page_up_and_not_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(scanned(SAMPLE, 1, crop_points=300))
    with pytest.raises(FileRefused, match="RANK37_OCR_PAGE_LIMIT_S") as caught:
        read_document(path, source="scan.pdf", limits=ReadLimits(ocr_page_limit_s=2.5))
    assert caught.value.reason in {"no_text_layer", "time_limit"}


@with_ocr
def test_a_picture_without_words_stays_without_text(tmp_path: Path) -> None:
    path = tmp_path / "photo.pdf"
    path.write_bytes(image_pdf())

    class Reader:
        def read(self, number: int, picture: ocr.Picture, points_a_pixel: float) -> list[PrintedLine]:
            assert picture.shape[2] == 3
            return Ocr().read(number, picture, points_a_pixel)

    with pytest.raises(FileRefused, match="OCR found no text there"):
        read_pdf(path, ocr=Reader())


def test_without_the_extra_the_page_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.read_pdf.ocr_is_installed", lambda: False)
    path = tmp_path / "scan.pdf"
    path.write_bytes(image_pdf())
    with pytest.raises(FileRefused) as caught:
        read_pdf(path, source="scan.pdf")
    assert caught.value.reason == "no_text_layer"
    assert 'page 1 has no text layer: install the OCR extra (`pip install "rank37[ocr]"`)' in str(caught.value)


# Reading order, by made-up lines


def line(text: str, left: float, top: float, right: float) -> PrintedLine:
    return PrintedLine([PrintedWord(text, Box(left, top, right, top + 10), 10, False)])


def test_columns_are_read_one_after_the_other_between_what_crosses_them() -> None:
    lines = [line("title", 50, 20, 500), line("foot", 50, 400, 500)]
    lines += [line(f"left{row}", 50, 50 + 14 * row, 260) for row in range(5)]
    lines += [line(f"right{row}", 290, 50 + 14 * row, 500) for row in range(5)]
    ordered = [found.text for found in in_reading_order(sorted(lines, key=lambda one: one.top))]
    assert ordered == ["title", *(f"left{row}" for row in range(5)), *(f"right{row}" for row in range(5)), "foot"]


def test_cells_of_a_table_are_read_row_by_row() -> None:
    lines = [line(f"day{row}", 50, 50 + 14 * row, 90) for row in range(6)]
    lines += [line(f"fee{row}", 400, 52 + 14 * row, 440) for row in range(6)]
    assert [found.text for found in in_reading_order(lines)] == [f"day{row} fee{row}" for row in range(6)]
    assert all(found.is_row for found in in_reading_order(lines))
