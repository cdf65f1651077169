"""A page with its highlights: over the very words, and nothing highlighted where they can't be placed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ingest.chunk import chunk_document
from ingest.page_image import PageImage, draw_page
from ingest.read_pdf import read_pdf
from rag.types import Chunk
from tests.ingest.pdfs import image_pdf, text_pdf
from ui.page_view import Sight, marks_of, page_html, placing_note

FIRST = ["The policy covers accidents.", "The waiting period is 180 days, and it"]
SECOND = ["begins with the contract.", "It does not apply to accidents."]
QUOTE = "The waiting period is 180 days, and it"


def n_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


@pytest.fixture(scope="module")
def policy_pdf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "policy.pdf"
    path.write_bytes(text_pdf(FIRST, SECOND, title="Policy <b>"))
    return path


@pytest.fixture(scope="module")
def chunk(policy_pdf: Path) -> Chunk:
    """One chunk over both pages, as adding the document makes it."""
    read = read_pdf(policy_pdf)
    (chunk,) = chunk_document(
        read.document,
        read.pages,
        read.headings,
        count_tokens=n_words,
        count_passage_tokens=n_words,
        max_tokens=200,
        overlap_tokens=0,
    )
    assert [span.page for span in chunk.spans] == [1, 2]
    return chunk


@pytest.fixture(scope="module")
def drawn(policy_pdf: Path) -> dict[int, PageImage]:
    return {number: draw_page(policy_pdf, number, source="policy.pdf") for number in (1, 2)}


def words_under(image: PageImage, html: str, kind: str) -> str:
    """The words of the page whose middle is under a highlight of the page's HTML."""
    found = re.findall(rf'class="{kind}"[^>]*left:([\d.]+)%;top:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%', html)
    boxes = [tuple(map(float, box)) for box in found]
    words = []
    for word in image.page.words:
        x = 50 * (word.box.left + word.box.right) / image.page.width
        y = 50 * (word.box.top + word.box.bottom) / image.page.height
        if any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in boxes):
            words.append(image.page.text[word.start : word.end])
    return " ".join(words)


def test_the_quoted_words_are_highlighted_and_the_passage_around_them_more_faintly(
    chunk: Chunk, drawn: dict[int, PageImage]
) -> None:
    marks = marks_of(Sight(chunk, 1, QUOTE, 1), drawn[1])
    html = page_html(drawn[1], marks, chunk.title)
    assert words_under(drawn[1], html, "r37-quoted") == QUOTE
    assert words_under(drawn[1], html, "r37-read") == " ".join(FIRST)
    assert placing_note(Sight(chunk, 1, QUOTE, 1), marks, drawn[1]) == ""
    assert "Policy &lt;b&gt;" in html
    assert "<b>" not in html


def test_a_quote_over_two_pages_is_highlighted_on_both_and_each_says_so(
    chunk: Chunk, drawn: dict[int, PageImage]
) -> None:
    sight = Sight(chunk, 1, f"{QUOTE} {SECOND[0]}", 1)
    for number, words, other in ((1, QUOTE, 2), (2, SECOND[0], 1)):
        marks = marks_of(sight, drawn[number])
        assert words_under(drawn[number], page_html(drawn[number], marks, "Policy"), "r37-quoted") == words
        assert placing_note(sight, marks, drawn[number]) == f"The quoted words are partly on page {other}."


def test_a_neighbour_page_without_the_quote_has_no_highlight_and_no_complaint(
    chunk: Chunk, drawn: dict[int, PageImage]
) -> None:
    sight = Sight(chunk, 1, FIRST[0], 1)
    marks = marks_of(sight, drawn[2])
    assert marks.quoted == ()
    assert placing_note(sight, marks, drawn[2]) == ""


def test_words_that_are_not_on_the_page_are_said_not_to_be_and_nothing_is_highlighted(
    chunk: Chunk, drawn: dict[int, PageImage]
) -> None:
    other = replace(chunk, text="Words of an edition long gone.", spans=(replace(chunk.spans[0], end=30),))
    for quote in ("edition long gone.", None):
        sight = Sight(other, 1, quote, 1)
        marks = marks_of(sight, drawn[1])
        html = page_html(drawn[1], marks, "Policy")
        assert "r37-quoted" not in html
        assert "r37-read" not in html
        assert "can’t be placed on this page, so nothing is highlighted" in placing_note(sight, marks, drawn[1])


def test_a_picture_of_text_says_that_it_has_no_places(chunk: Chunk, tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(image_pdf())
    scan = draw_page(path, 1, source="scan.pdf")
    sight = Sight(chunk, 1, QUOTE, 1)
    assert "it may be a picture" in placing_note(sight, marks_of(sight, scan), scan)


def test_a_passage_without_a_quote_is_highlighted_as_a_whole(chunk: Chunk, drawn: dict[int, PageImage]) -> None:
    sight = Sight(chunk, 1)
    html = page_html(drawn[2], marks_of(sight, drawn[2]), "Policy")
    assert words_under(drawn[2], html, "r37-read") == " ".join(SECOND)
