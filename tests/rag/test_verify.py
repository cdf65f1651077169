"""Statements against the passages that they cite: what stands there holds, what does not is told with its reason."""

from __future__ import annotations

import pytest

from rag.citations import cite
from rag.engines.late_fusion import cross_encoder_of, embedded_reranker
from rag.ports import Reranker
from rag.trace_json import pack, unpack
from rag.types import Answer, Candidate, Check, Chunk, PageSpan, RankedChunk
from rag.verify import verify
from tests.rag.traces import trace_of

FLOOR = 0.4
LANTERN = (
    "Light settings and battery life. On the lowest setting, one charge of the Brambleworth lantern lasts 41 hours. "
    "On the brightest setting, one charge lasts six hours. Keep it “dry and out of the sun”."
)
ILLNESS = (
    "A diagnosis must fall after the waiting period. For critical illness the waiting period is one hundred and eighty "
    "days, counted from the Start Date, and no symptom leading to the diagnosis may have been reported to a doctor "
    "before its end."
)


def ranked(number: int, title: str, text: str) -> RankedChunk:
    chunk = Chunk(f"c{number}", "d", title, None, text, (PageSpan(number, 0, len(text)),), number, 90)
    return RankedChunk(Candidate(chunk, number, 0.1), number, 0.9)


PASSAGES = (ranked(1, "Brambleworth Lantern", LANTERN), ranked(2, "Critical Illness Cover", ILLNESS))


@pytest.fixture(scope="module")
def scorer() -> Reranker:
    return cross_encoder_of(embedded_reranker())


def checked(reply: str, scorer: Reranker) -> Answer:
    cited = cite(reply, PASSAGES)
    assert isinstance(cited, Answer)
    return verify(cited, PASSAGES, scorer, floor=FLOOR)


@pytest.mark.parametrize(
    ("sentence", "doubt"),
    [
        ("On the lowest setting one charge lasts 41 hours [1].", None),
        ("The lamp runs for 6 hours at full brightness [1].", None),
        ("Critical illness is covered after a waiting period of 180 days [2].", None),
        ("The manual says to keep it “dry and out of the sun” [1].", None),
        ("It floats on water and is made in Denmark [1].", "not_supported"),
        ("On the lowest setting one charge of the lantern lasts 14 hours [1].", "other_figure"),
        ("On the lowest setting one charge of the lantern lasts 41 hours [2].", "other_figure"),
        ("The waiting period for critical illness is ninety days [2].", "other_figure"),
        ("Keep the Brambleworth lantern “cool and away from children” [1].", "not_verbatim"),
    ],
)
def test_a_statement_holds_only_where_its_passages_say_so(sentence: str, doubt: str | None, scorer: Reranker) -> None:
    (check,) = checked(sentence, scorer).checks
    assert check.doubt == doubt
    assert check.score is not None
    assert 0 <= check.score <= 1


def test_a_statement_without_a_citation_is_doubted_and_never_scored(scorer: Reranker) -> None:
    answer = checked("One charge lasts 41 hours [1]. Postage is free of charge.", scorer)
    assert [(check.doubt, check.markers) for check in answer.checks] == [(None, (1,)), ("no_citation", ())]
    assert answer.checks[1].score is None


def test_words_that_stand_in_no_passage_lose_their_quotation_marks_and_others_keep_them(scorer: Reranker) -> None:
    answer = checked("It is “a lamp for all seasons” [1]. Keep it “dry and out of the sun” [1].", scorer)
    assert answer.text == "It is a lamp for all seasons [1]. Keep it “dry and out of the sun” [1]."
    assert [check.doubt for check in answer.checks] == ["not_verbatim", None]


def test_each_check_spans_its_sentence_in_the_answer_s_text(scorer: Reranker) -> None:
    answer = checked("The lantern:\n\n- lasts 41 hours on the lowest setting [1]\n- floats on water [1]\n", scorer)
    spans = [answer.text[check.start : check.end] for check in answer.checks]
    assert spans == ["- lasts 41 hours on the lowest setting [1]", "- floats on water [1]"]


def test_a_quoted_answer_is_verbatim_and_needs_no_check(scorer: Reranker) -> None:
    quoted = Answer("“x” [1]", (), "quoted")
    assert verify(quoted, PASSAGES, scorer, floor=FLOOR) is quoted


def test_checks_are_kept_with_the_trace() -> None:
    trace = trace_of()
    answer = Answer("It is 7 days [1].", (), "written", checks=(Check(0, 17, (1,), 0.25, "not_supported"),))
    packed = pack(trace, answer)
    assert unpack(packed.body, packed.chunks)[1] == answer
