"""A page drawn: as it is displayed, with its words, and never for longer or with more than it may."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from reportlab.pdfgen.canvas import Canvas

from ingest.page_image import IMAGE_PIXELS, SCALE, DrawLimits, draw_page
from rag.errors import BadInput, FileRefused
from tests.ingest.pdfs import bomb, cropped, drawn, encrypted, form_pdf, image_pdf, rotated, text_pdf

PAGE = ["The waiting period for critical illness is 180 days.", "It begins with the contract."]
posix = pytest.mark.skipif(sys.platform == "win32", reason="memory limits are those of POSIX")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "file with spaces é.pdf"
        path.write_bytes(data)
        return path

    return write


def test_a_page_is_drawn_as_it_is_displayed_with_its_words(file: Callable[[bytes], Path]) -> None:
    path = file(rotated(cropped(text_pdf(PAGE, PAGE[:1]), 50, 700, 450, 800), 90))
    image = draw_page(path, 1, source="manual.pdf")
    assert (image.page.width, image.page.height) == pytest.approx((100, 400))
    assert (image.width_px, image.height_px) == (100 * SCALE, 400 * SCALE)
    with Image.open(io.BytesIO(image.image)) as picture:
        assert picture.size == (image.width_px, image.height_px)
        assert Image.MIME[picture.format or ""] == image.image_type
    assert image.page_count == 2
    assert all(line in image.page.text for line in PAGE)
    assert draw_page(path, 2, source="manual.pdf").page.text == PAGE[0]


def test_what_was_typed_into_a_form_is_drawn_and_read(file: Callable[[bytes], Path]) -> None:
    image = draw_page(file(form_pdf()), 1, source="form.pdf")
    assert "Ada Lovelace" in image.page.text
    word = next(word for word in image.page.words if image.page.text[word.start : word.end] == "Lovelace")
    with Image.open(io.BytesIO(image.image)) as picture:
        box = (word.box.left, word.box.top, word.box.right, word.box.bottom)
        darkest, _ = picture.crop(tuple(edge * SCALE for edge in box)).convert("L").getextrema()  # type: ignore[misc]
    assert darkest < 100, "there is ink where the word is said to be"  # type: ignore[operator]  # one band


def test_a_scan_has_a_picture_and_no_words(file: Callable[[bytes], Path]) -> None:
    image = draw_page(file(image_pdf()), 1, source="scan.pdf")
    assert image.page.words == ()
    assert image.page.text == ""


def test_a_huge_page_is_drawn_smaller(file: Callable[[bytes], Path]) -> None:
    def huge(canvas: Canvas) -> None:
        canvas.setPageSize((14_000, 7_000))
        canvas.drawString(100, 6_900, "A plan of the whole town")

    image = draw_page(file(drawn(huge)), 1, source="plan.pdf")
    assert image.width_px * image.height_px == pytest.approx(IMAGE_PIXELS, rel=0.01)
    assert image.page.width == pytest.approx(14_000)


@pytest.mark.parametrize("number", [0, 3])
def test_a_page_that_is_not_there_is_named(file: Callable[[bytes], Path], number: int) -> None:
    with pytest.raises(BadInput, match=f"no page {number}"):
        draw_page(file(text_pdf(PAGE, PAGE)), number, source="manual.pdf")


def test_files_that_can_not_be_drawn_say_why(file: Callable[[bytes], Path]) -> None:
    for data, reason in ((b"no PDF", "not_a_pdf"), (encrypted(text_pdf(PAGE), "secret"), "needs_password")):
        with pytest.raises(FileRefused) as caught:
            draw_page(file(data), 1, source="manual.pdf")
        assert caught.value.reason == reason
        assert "manual.pdf" in str(caught.value)
    with pytest.raises(FileRefused, match="is gone"):
        draw_page(Path("nowhere.pdf"), 1, source="manual.pdf")


def test_a_page_that_takes_too_long_is_given_up(file: Callable[[bytes], Path]) -> None:
    path = file(bomb(1_000_000_000))
    started = time.monotonic()
    with pytest.raises(FileRefused) as caught:
        draw_page(path, 1, source="bomb.pdf", limits=DrawLimits(time_limit_s=1.5))
    assert caught.value.reason in ("time_limit", "too_large", "memory_limit")
    assert time.monotonic() - started < 15


@posix
def test_a_page_that_needs_too_much_memory_ends_with_that_reason(file: Callable[[bytes], Path]) -> None:
    with pytest.raises(FileRefused) as caught:
        draw_page(file(text_pdf(PAGE)), 1, source="manual.pdf", limits=DrawLimits(memory_limit_bytes=60 * 2**20))
    assert caught.value.reason in ("memory_limit", "unreadable"), "it ended, and this process goes on"
