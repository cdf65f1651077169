"""Answers and refusals as HTML: verbatim, escaped, and saying what they rest on."""

from __future__ import annotations

from rag.replay import best_anyway
from rag.types import Answer, Candidate, Check, Chunk, Citation, Message, PageSpan, Part, RankedChunk, Refusal, Trace
from ui.answer import answer_html, anyway_html, citation_html, copy_html, refusal_html, refused_parts_html

CHUNK = Chunk("c", "d", "Terms & <Conditions>", "Refunds", "Seven days from receipt.", (PageSpan(3, 0, 24),), 0, 9)
CITATION = Citation(1, CHUNK, "Seven days from receipt.", 3)
FLOOR = 0.4


def refused(score: float, **more: object) -> Trace:
    candidate = Candidate(CHUNK, 1, 0.016)
    ranked = (RankedChunk(candidate, 1, score),)
    return Trace("t", "", "q", "q", FLOOR, 5, (), (candidate,), ranked, **more)  # type: ignore[arg-type]  # by name


def test_written_answer_shows_markers_and_below_them_document_page_and_quote() -> None:
    text = "You have **seven days** [1].\n\n- from receipt [1]\n- [2] is unknown"
    html = answer_html(Answer(text, (CITATION,), "written"))
    chip = '<b class="r37-marker" title="Terms &amp; &lt;Conditions&gt;, page 3">[1]</b>'
    assert f"<p>You have <b>seven days</b> {chip}.</p>" in html
    assert "<li>[2] is unknown</li>" in html, "a marker without a citation stays text"
    quote = citation_html(CITATION)
    assert "<blockquote>Seven days from receipt.</blockquote>" in quote
    assert "<b>Terms &amp; &lt;Conditions&gt;</b>,\npage 3" in quote


def test_a_marker_presses_what_opens_the_page_of_its_first_citation() -> None:
    later = Citation(1, CHUNK, "from receipt.", 3)
    other = Citation(2, CHUNK, "Seven days", 3)
    html = answer_html(Answer("Seven [1]. Days [2]. Really [1].", (CITATION, later, other), "written"), "t1")
    assert html.count('data-r37-press="r37-open-t1-0"') == 2
    assert html.count('data-r37-press="r37-open-t1-2"') == 1
    assert '<button type="button" class="r37-marker"' in html


def test_quoted_answer_says_that_no_llm_wrote_it() -> None:
    html = answer_html(Answer("Seven days from receipt. [1]", (CITATION,), "quoted"))
    assert "no LLM wrote any of it" in html
    assert "Seven days" not in html, "the quotes follow, each with its page"


def test_a_reply_never_becomes_markup_a_link_or_an_image() -> None:
    reply = "<img src=x onerror=alert(1)> ![x](http://example.org/?q=secret) [go](javascript:alert(1)) $x$ [1]"
    html = answer_html(Answer(reply, (CITATION,), "written"))
    assert "<img" not in html
    assert "<a" not in html
    assert "![x](http://example.org/?q=secret)" in html


def test_refusal_below_the_floor_says_what_was_nearest_and_how_far_it_fell_short() -> None:
    html = refusal_html(Refusal("below_floor", 0.31), refused(0.31))
    assert "the best scored 0.310: 0.090 below the floor of 0.40" in html
    assert "Nearest: <b>Terms &amp; &lt;Conditions&gt;</b>,\np. 3" in html
    assert "Seven days from receipt." in html
    assert "No LLM was asked." in html


def test_refusal_of_the_llm_says_that_it_was_asked() -> None:
    trace = refused(0.9, prompt=(Message("user", "…"),))
    html = refusal_html(Refusal("model_declined", 0.9), trace)
    assert "An LLM was asked." in html
    assert "below the floor" not in html


def test_every_refusal_has_its_words() -> None:
    trace = refused(0.2)
    texts = {
        reason: refusal_html(Refusal(reason, 0.2), trace)
        for reason in ("no_candidates", "below_floor", "uncited", "model_declined")
    }
    assert len(set(texts.values())) == 4


PARTS = (Part("How long?", 0.9, True), Part("What <b>else</b>?", 0.31, False), Part("Why?", None, False))


def test_parts_that_are_not_covered_are_refused_by_name_with_their_best_score() -> None:
    html = refused_parts_html(refused(0.9, parts=PARTS))
    assert "Not found in your documents" in html
    assert "<b>What &lt;b&gt;else&lt;/b&gt;?</b> The best passage scored 0.310: 0.090 below the floor of 0.40." in html
    assert "<b>Why?</b> No passage was given a score" in html
    assert "How long?" not in html


def test_a_refusal_of_all_parts_names_them_and_says_what_the_llm_was_asked() -> None:
    trace = refused(0.31, parts=PARTS[1:], timings_ms={"split": 3.0})
    html = refusal_html(Refusal("below_floor", 0.31), trace)
    assert "What &lt;b&gt;else&lt;/b&gt;?" in html
    assert "No LLM was asked for an answer; one was asked for the parts of the question." in html


def test_an_answer_from_below_the_floor_says_so_before_anything_else() -> None:
    below = best_anyway(refused(0.31))
    html = anyway_html(Answer("Seven [1].", (CITATION,), "written"), below)
    assert "Below the floor: don’t rely on this" in html
    assert "scored 0.310: 0.090 below the floor of 0.40" in html
    assert "found no answer there either" in anyway_html(Refusal("model_declined", 0.31), below)


def doubted(text: str, *sentences: tuple[str, str | None]) -> Answer:
    checks = tuple(
        Check(text.index(sentence), text.index(sentence) + len(sentence), (1,), 0.1, doubt)  # type: ignore[arg-type]
        for sentence, doubt in sentences
    )
    return Answer(text, (CITATION,), "written", checks=checks)


def test_an_unsupported_statement_is_marked_in_words_and_the_answer_says_how_many_are() -> None:
    answer = doubted(
        "You have seven days [1]. It floats <b>on</b> water [1].",
        ("You have seven days [1].", None),
        ("It floats <b>on</b> water [1].", "not_supported"),
    )
    html = answer_html(answer)
    assert "<b>Careful:</b> 1 of 2 statements is not supported by the\npassages" in html
    assert 'data-testid="unsupported">It floats &lt;b&gt;on&lt;/b&gt; water <b class="r37-marker"' in html
    assert '<b class="r37-doubt">unsupported: the passages that it cites don’t say so</b></span></p>' in html
    assert html.count("r37-unsupported") == 1


def test_a_list_item_stays_one_when_it_is_marked() -> None:
    html = answer_html(doubted("It:\n- lasts [1]\n- floats [1]", ("- floats [1]", "other_figure")))
    assert "<li>lasts" in html
    assert '<li><span class="r37-unsupported"' in html
    assert html.count("<li>") == 2


def test_an_answer_without_doubts_has_no_warning() -> None:
    html = answer_html(doubted("Seven days [1].", ("Seven days [1].", None)))
    assert "Careful" not in html
    assert "unsupported" not in html


def test_what_is_copied_has_the_citations_and_what_is_not_supported() -> None:
    html = copy_html(doubted('Seven days [1]. It "floats" [1].', ('It "floats" [1].', "not_verbatim")))
    assert "It &quot;floats&quot; [1]. [unsupported: it was put in quotation marks, but is no quote]" in html
    assert "[1] Terms &amp; &lt;Conditions&gt;, page 3: “Seven days from receipt.”" in html
