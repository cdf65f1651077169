"""Reading: text as a person would read it, boxes where a person would see them, refusals that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pypdfium2
import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from ingest import ocr
from ingest.read_pdf import ReadDocument, document_id, open_pdf, read_pdf
from rag.errors import FileRefused
from rag.types import Box, Page
from tests.ingest.pdfs import (
    cropped,
    drawn,
    encrypted,
    form_pdf,
    garbled_pdf,
    image_pdf,
    lines,
    nested_page_tree,
    rotated,
    text_pdf,
)

WIDTH, HEIGHT = A4
PARAGRAPH = [
    "The insurer pays the agreed benefit once the waiting period has ended,",
    "unless the illness was already known when the contract was concluded or",
    "the insured person had been advised to seek treatment for it.",
]

Reader = Callable[..., ReadDocument]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    def read_bytes(data: bytes, *, source: str = "manual.pdf", max_pages: int | None = None) -> ReadDocument:
        path = tmp_path / "stored-file"
        path.write_bytes(data)
        return read_pdf(path, source=source, words=True, max_pages=max_pages)

    return read_bytes


def refusal(read: Reader, data: bytes, **options: object) -> FileRefused:
    with pytest.raises(FileRefused) as caught:
        read(data, **options)
    return caught.value


def how_to_ocr() -> str:
    """What a person is told, with the extra `ocr` and without it."""
    if ocr.is_installed():
        return "run OCR (such as ocrmypdf) and add the file again"
    return f"{ocr.HOW_TO_INSTALL}, or run OCR (such as ocrmypdf)"


def words_of(page: Page) -> list[tuple[str, Box]]:
    return [(page.text[word.start : word.end], word.box) for word in page.words]


# Text


def test_the_document_is_known_by_its_bytes_and_its_name(read: Reader) -> None:
    data = text_pdf(PARAGRAPH, title="General Conditions")
    document = read(data, source="AVB 2024.pdf").document
    assert (document.id, document.title, document.source, document.page_count) == (
        document_id(data),
        "General Conditions",
        "AVB 2024.pdf",
        1,
    )


@pytest.mark.parametrize(
    "junk",
    ["", "untitled", "Microsoft Word - x.docx", "scan.pdf", "\x00\x01", "123", "Document1", "PowerPoint Presentation"],
)
def test_a_junk_title_gives_way_to_the_file_name(read: Reader, junk: str) -> None:
    assert read(text_pdf(PARAGRAPH, title=junk), source="AVB 2024.pdf").document.title == "AVB 2024"


def test_lines_of_a_paragraph_are_joined_and_paragraphs_separated(read: Reader) -> None:
    def draw(canvas: Canvas) -> None:
        canvas.setFont("Helvetica-Bold", 16)
        canvas.drawString(72, 790, "Waiting period")
        lines(canvas, PARAGRAPH, top=760)
        lines(canvas, PARAGRAPH[:2], top=700)
        lines(canvas, ["• Keep the policy.", "• Report a claim in writing."], top=660)

    paragraph = " ".join(PARAGRAPH)
    result = read(drawn(draw))
    assert result.pages[0].text.split("\n") == [
        "Waiting period",
        paragraph,
        " ".join(PARAGRAPH[:2]),
        "• Keep the policy.",
        "• Report a claim in writing.",
    ]
    assert [(heading.page, heading.start, heading.text) for heading in result.headings] == [(1, 0, "Waiting period")]


def test_rows_of_a_table_are_lines_of_their_own(read: Reader) -> None:
    def draw(canvas: Canvas) -> None:
        for at, (name, first, second) in enumerate(
            [("Benefit", "2023", "2024"), ("Daily allowance", "1,200", "1,350"), ("Hospital", "980", "1,010")]
        ):
            for left, cell in ((72, name), (300, first), (400, second)):
                canvas.drawString(left, 700 - 14 * at, cell)

    assert read(drawn(draw)).pages[0].text == "Benefit 2023 2024\nDaily allowance 1,200 1,350\nHospital 980 1,010"


def test_a_word_broken_at_the_line_end_is_whole_again_with_two_boxes(read: Reader) -> None:
    page = read(
        text_pdf(["The contract is governed by the rules on inter-", "national insurance of long-", "term care."])
    ).pages[0]
    assert page.text == "The contract is governed by the rules on international insurance of long-term care."
    halves = [(word, page.text[word.start : word.end]) for word in page.words]
    (first, inter), (second, national) = next(
        pair for pair in zip(halves, halves[1:], strict=False) if pair[0][1] == "inter"
    )
    assert (inter, national) == ("inter", "national")
    assert first.end == second.start
    assert second.box.top > first.box.top


def test_words_index_into_the_text_and_stand_in_order(read: Reader) -> None:
    page = read(text_pdf(PARAGRAPH)).pages[0]
    assert [text for text, _ in words_of(page)] == page.text.split()
    assert all(box.left < box.right and box.top < box.bottom for _, box in words_of(page))


def test_columns_are_read_one_after_the_other(read: Reader) -> None:
    def draw(canvas: Canvas) -> None:
        lines(canvas, ["Left column says that the", "waiting period is long and"], left=60)
        lines(canvas, ["that it is 180 days. The", "right column ends it."], left=320)

    page = read(drawn(draw)).pages[0]
    assert page.text == (
        "Left column says that the waiting period is long and that it is 180 days. The right column ends it."
    )
    boxes = dict(words_of(page))
    assert boxes["Left"].left == pytest.approx(60, abs=1)
    assert boxes["180"].left > 320
    assert boxes["180"].top == pytest.approx(boxes["Left"].top, abs=1)


def test_what_was_typed_into_a_form_is_read(read: Reader) -> None:
    assert read(form_pdf()).pages[0].text == "Name of the insured: Ada Lovelace"


def test_the_outline_names_sections_and_they_are_found_in_the_text(read: Reader) -> None:
    def draw(canvas: Canvas) -> None:
        for number, section in enumerate(["Cover", "Exclusions", "Claims"], 1):
            lines(canvas, [*PARAGRAPH, "", f"{number}. {section}", "", *PARAGRAPH])
            canvas.bookmarkPage(section)
            canvas.addOutlineEntry(section, section, level=0)
            canvas.showPage()

    result = read(drawn(draw))
    start = len(" ".join(PARAGRAPH)) + 1
    assert [(heading.page, heading.start, heading.text) for heading in result.headings] == [
        (1, start, "Cover"),
        (2, start, "Exclusions"),
        (3, start, "Claims"),
    ]


# Boxes


def ink(data: bytes, box: Box) -> tuple[float, float]:
    """Share of dark pixels within the box and just outside of it, on the page as pdfium shows it."""
    document = pypdfium2.PdfDocument(data)
    bitmap = document[0].render(scale=4).to_pil().convert("L").point(lambda value: 255 if value < 128 else 0)
    document.close()
    inside = [round(4 * edge) for edge in (box.left, box.top, box.right, box.bottom)]
    margin = 3
    around = [inside[0] - margin, inside[1] - margin, inside[2] + margin, inside[3] + margin]

    def dark(area: list[int]) -> int:
        return sum(bitmap.crop(tuple(area)).tobytes()) // 255  # type: ignore[arg-type]  # four integers

    n_inside = dark(inside)
    return n_inside / max(1, (inside[2] - inside[0]) * (inside[3] - inside[1])), dark(around) - n_inside


def lone_word(canvas: Canvas) -> None:
    lines(canvas, ["Deductible"], left=100, top=600)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (50, 300, 400, 700)])
def test_a_box_holds_exactly_the_ink_of_its_word(
    read: Reader, degrees: int, crop: tuple[float, float, float, float] | None
) -> None:
    data = drawn(lone_word)
    if crop:
        data = cropped(data, *crop)
    data = rotated(data, degrees)
    page = read(data).pages[0]
    ((text, box),) = words_of(page)
    assert text == "Deductible"
    inside, just_outside = ink(data, box)
    assert inside > 0.05
    assert just_outside == 0
    shown = (crop[2] - crop[0], crop[3] - crop[1]) if crop else (WIDTH, HEIGHT)
    if degrees in (90, 270):
        shown = shown[::-1]
    assert (page.width, page.height) == pytest.approx(shown, abs=0.01)


def test_a_box_is_measured_from_the_upper_left_corner(read: Reader) -> None:
    ((_, box),) = words_of(read(drawn(lone_word)).pages[0])
    assert box.left == pytest.approx(100, abs=1)
    assert box.top < HEIGHT - 600 < box.bottom  # the baseline
    ((_, box),) = words_of(read(cropped(drawn(lone_word), 50, 300, 400, 700)).pages[0])
    assert box.left == pytest.approx(100 - 50, abs=1)
    assert box.top < 700 - 600 < box.bottom


def test_one_page_can_be_read_alone_with_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "two.pdf"
    path.write_bytes(text_pdf(PARAGRAPH, PARAGRAPH[:1]))
    with open_pdf(path) as pdf:
        assert pdf.page(2, words=True).text == PARAGRAPH[0] == pdf.page(2).text
        assert pdf.page(2).words == ()


# Pages without text


def test_pages_without_text_are_named(read: Reader) -> None:
    def draw(canvas: Canvas) -> None:
        lines(canvas, PARAGRAPH)
        canvas.showPage()
        canvas.rect(100, 100, 50, 50, fill=1)
        canvas.showPage()
        canvas.rect(100, 100, 50, 50, fill=1)
        canvas.showPage()
        canvas.showPage()
        lines(canvas, PARAGRAPH)

    result = read(drawn(draw))
    assert result.pages_without_text == (2, 3, 4)
    assert [bool(page.text) for page in result.pages] == [True, False, False, False, True]
    assert result.warnings == (f"pages 2-3 have no text layer: {how_to_ocr()}; page 4 is blank",)


def test_a_picture_of_text_is_refused_with_the_remedy(read: Reader) -> None:
    refused = refusal(read, image_pdf(), source="scan.pdf")
    assert refused.reason == "no_text_layer"
    assert str(refused) == f"scan.pdf: page 1 has no text layer: {how_to_ocr()}"


def test_garbled_text_counts_as_none(read: Reader) -> None:
    refused = refusal(read, garbled_pdf(PARAGRAPH))
    assert refused.reason == "no_text_layer"
    assert "garbled" in str(refused)
    assert "--force-ocr" in str(refused)


# Refusals


def test_an_empty_password_is_no_obstacle(read: Reader) -> None:
    assert read(encrypted(text_pdf(PARAGRAPH), "")).pages[0].text == " ".join(PARAGRAPH)


def test_a_password_is_named_as_the_reason(read: Reader) -> None:
    refused = refusal(read, encrypted(text_pdf(PARAGRAPH), "secret"))
    assert refused.reason == "needs_password"
    assert "save a copy without one" in str(refused)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>The waiting period</body></html>", "web page"),
        (b"PK\x03\x04rest of a document", "Office document"),
        (b"\x00" * 5000, "no %PDF header"),
    ],
)
def test_another_kind_of_file_is_told_by_its_content_not_its_name(read: Reader, data: bytes, told: str) -> None:
    refused = refusal(read, data, source="renamed.pdf")
    assert refused.reason == "not_a_pdf"
    assert told in str(refused)


def test_the_header_may_stand_a_little_deeper(read: Reader) -> None:
    assert read(b"\n" * 500 + text_pdf(PARAGRAPH)).pages[0].text == " ".join(PARAGRAPH)


def test_a_file_cut_off_is_read_as_far_as_possible_or_refused(read: Reader) -> None:
    data = text_pdf(*[PARAGRAPH] * 5)
    reasons = set()
    for share in (0.02, 0.3, 0.6, 0.9, 0.98):
        try:
            result = read(data[: int(share * len(data))])
        except FileRefused as refused:
            reasons.add(refused.reason)
        else:
            assert " ".join(PARAGRAPH) in [page.text for page in result.pages]
    assert "damaged" in reasons
    assert reasons <= {"damaged", "no_text_layer"}


def test_a_header_alone_is_a_damaged_pdf(read: Reader) -> None:
    assert refusal(read, b"%PDF-1.7\n%%EOF").reason == "damaged"


def test_too_many_pages_names_both_numbers(read: Reader) -> None:
    refused = refusal(read, text_pdf(*[PARAGRAPH] * 4), max_pages=3)
    assert refused.reason == "too_many_pages"
    assert "4 pages" in str(refused)
    assert "limit is 3" in str(refused)
    assert len(read(text_pdf(*[PARAGRAPH] * 4), max_pages=4).pages) == 4


def test_a_page_tree_thousands_deep_ends_in_a_refusal(read: Reader) -> None:
    assert refusal(read, nested_page_tree(3000)).reason in {"damaged", "no_text_layer"}
