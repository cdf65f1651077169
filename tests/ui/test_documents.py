"""The Documents page in parts: search, receipts, and chunks drawn where their words stand."""

from __future__ import annotations

import re
from dataclasses import replace

from ingest.chunk import chunk_document
from ingest.page_image import PageImage
from rag.types import Box, Chunk, Document, Page, PageSpan, StoredDocument, Word
from ui.chunk_view import chunk_html, chunks_on, cut_page_html, overlap
from ui.documents import document_table, found
from ui.receipt import receipt_html

TERMS = StoredDocument(
    Document("a" * 32, "Terms <b>of</b> sale", "terms.docx", 2),
    "ready",
    n_chunks=3,
    kind="docx",
    size_bytes=1536,
    seconds=2.14,
    ingested_at="2026-01-02T03:04:05+00:00",
)
SCAN = StoredDocument(
    Document("b" * 32, "Scan", "scan.pdf", 9),
    "ready",
    n_chunks=7,
    pages_without_text=(2, 3),
    ocr_pages=(4,),
    warnings=("pages 2-3 have no text layer",),
)


def chunk(at: int, text: str, *spans: PageSpan) -> Chunk:
    return Chunk(str(at), "d", "t", None, text, spans, at, 5)


def test_search_looks_at_title_file_kind_and_remarks() -> None:
    assert found([TERMS, SCAN], "") == [TERMS, SCAN]
    assert found([TERMS, SCAN], "SALE terms") == [TERMS]
    assert found([TERMS, SCAN], "word") == [TERMS]
    assert found([TERMS, SCAN], "text layer") == [SCAN]
    assert found([TERMS, SCAN], "terms scan") == []


def test_a_record_of_an_earlier_version_is_listed_without_size() -> None:
    table = document_table([TERMS, replace(SCAN, size_bytes=0)])
    assert table["Kind"].tolist() == ["Word", "PDF"]
    assert table["Size"].isna().tolist() == [False, True]


def test_a_receipt_says_what_came_in_and_what_did_not() -> None:
    html = receipt_html(TERMS)
    for words in ("<dt>Sections</dt><dd>2", "Word document", "1.5 KiB", "2.1 s", "2026-01-02 03:04 UTC"):
        assert words in html
    assert "r37-remarks" not in html
    html = receipt_html(SCAN)
    for words in (
        "<dt>Without text</dt><dd>2–3",
        "<dt>Read by OCR</dt><dd>4",
        "not noted",
        "Pages 2-3 have no text layer.",
    ):
        assert words in html


def test_what_a_chunk_repeats_is_found_by_its_spans_and_set_apart() -> None:
    one = chunk(0, "aaa bbb", PageSpan(1, 0, 7))
    two = chunk(1, "bbb\nccc", PageSpan(1, 4, 7), PageSpan(2, 0, 3))
    three = chunk(2, "ddd", PageSpan(2, 4, 7))
    assert [overlap(None, one), overlap(one, two), overlap(two, three)] == [0, len("bbb\n"), 0]
    assert '<span class="r37-again">bbb\n</span>ccc' in chunk_html(1, two, one)
    assert chunks_on([one, two, three], 2) == [(1, two), (2, three)]


def test_the_overlap_is_what_chunking_made() -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(40))

    def count(texts: object) -> list[int]:
        return [len(str(one).split()) for one in texts]  # type: ignore[attr-defined]  # a sequence of texts

    chunks = chunk_document(
        Document("d", "t", "t.pdf", 1),
        [Page("d", 1, text)],
        [],
        count_tokens=count,
        count_passage_tokens=count,
        max_tokens=40,
        overlap_tokens=10,
    )
    assert len(chunks) > 3
    for before, after in zip(chunks, chunks[1:], strict=False):
        shared = overlap(before, after)
        assert 0 < shared < len(after.text)
        assert before.text.endswith(after.text[:shared].strip())


def test_boxes_of_each_chunk_lie_where_its_words_stand() -> None:
    words = (Word(0, 3, Box(10, 20, 40, 30)), Word(4, 7, Box(10, 50, 40, 60)))
    drawn = PageImage(Page("d", 1, "aaa bbb", words, 100, 200), 1, b"png", "image/png", 100, 200)
    here = [(0, chunk(0, "aaa", PageSpan(1, 0, 3))), (1, chunk(1, "bbb", PageSpan(1, 4, 7)))]
    html = cut_page_html(drawn, here, "<Title>")
    places = re.findall(r'data-chunk="(\d)" style="left:([\d.]+)%;top:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%', html)
    assert [tuple(map(float, place)) for place in places] == [
        (1, 100 * 10 / 100, 100 * 20 / 200, 100 * 30 / 100, 100 * 10 / 200),
        (2, 100 * 10 / 100, 100 * 50 / 200, 100 * 30 / 100, 100 * 10 / 200),
    ]
    assert "<Title>" not in html
