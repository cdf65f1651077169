"""What has no pages is never said to have any: sections everywhere a PDF has pages, and a section is shown as text."""

from __future__ import annotations

import re

import pytest

from rag.deciding import Deciding
from rag.export import Kinds, answer_with_sources, chat_as_markdown
from rag.replay import at_floor
from rag.types import Answer, Candidate, Chunk, Citation, DocumentKind, PageSpan, RankedChunk, Refusal, Result, Trace
from ui.answer import answer_html, citation_html, copy_html, refusal_html
from ui.chunk_view import chunk_html
from ui.page_view import Sight, section_html
from ui.rank_panel import deciding_html, panel_html, tried_html

TEXT = "Goods can be returned.\nThe time is 30 days <b>."
CHUNK = Chunk("c", "d", "Terms", None, TEXT, (PageSpan(2, 10, 10 + len(TEXT)),), 0, 9)
CITATION = Citation(1, CHUNK, "The time is 30 days", 2)
ANSWER = Answer("It is 30 days [1].", (CITATION,), "written")
SAYS_PAGE = re.compile(r"\bp(?:age|ages|p)?\.? \d")


def asked(score: float) -> Trace:
    ranked = (RankedChunk(Candidate(CHUNK, 2, 0.02), 1, score),)
    kept = ranked if score >= 0.4 else ()
    return Trace("t", "", "q", "q", 0.4, 5, (), (Candidate(CHUNK, 2, 0.02),), ranked, kept)


def everything_said(kinds: Kinds) -> list[str]:
    """Every text on the screen, the clipboard and in a file that says where something stands."""
    kept, below = asked(0.9), asked(0.3)
    return [
        answer_html(ANSWER, "t", kinds),
        citation_html(CITATION, kinds),
        copy_html(ANSWER, kinds),
        answer_with_sources(ANSWER, kinds),
        chat_as_markdown([Result(ANSWER, kept)], kinds=kinds),
        refusal_html(Refusal("below_floor", 0.3), below, kinds),
        panel_html(kept, None, kinds),
        tried_html(kept, at_floor(kept, 0.95), kinds),
        deciding_html(kept, (Deciding("c", "The time is 30 days", 2, 0.9),), kinds),
    ]


@pytest.mark.parametrize("kind", ["docx", "html", "markdown", "text"])
def test_documents_without_pages_are_cited_by_sections(kind: DocumentKind) -> None:
    for said in everything_said({"d": kind}):
        assert re.search(r"\bsec(?:tion|\.) 2", said), said
        assert not SAYS_PAGE.search(said), said
    assert "sec. 2" in chunk_html(0, CHUNK, None, kind)


def test_a_pdf_and_what_is_not_known_any_more_have_pages() -> None:
    for kinds in ({"d": "pdf"}, {}):
        for said in everything_said(kinds):
            assert SAYS_PAGE.search(said), said
            assert "sec" not in said.replace("second", ""), said


def test_a_section_marks_the_quote_and_the_passage_around_it_and_nothing_becomes_markup() -> None:
    text = f"Before it. {TEXT} The time is 30 days"
    html = section_html(text, Sight(CHUNK, 2, CITATION.quote, 1), 2)
    assert re.findall(r'<mark class="r37-quoted">(.*?)</mark>', html) == ["The time is 30 days"]
    assert re.findall(r'<span class="r37-read">(.*?)</span>', html, re.DOTALL) == [
        "Goods can be returned.\n",
        " &lt;b&gt;.",
    ]
    assert html.index("<mark") < html.index("&lt;b&gt;"), "the one nearest to where it was read"
    assert "<b>" not in html
    assert 'aria-label="Section 2 of Terms"' in html


def test_another_section_has_nothing_marked() -> None:
    html = section_html("Something else.", Sight(CHUNK, 2, CITATION.quote, 1), 3)
    assert "<mark" not in html
    assert "r37-read" not in html
    assert "Something else." in html
