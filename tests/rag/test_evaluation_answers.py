"""What answers are worth: statements, citations and numbers by hand, with a judge whose verdicts are written down."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.errors import LLMUnavailable
from rag.evaluation.answer_match import agrees, contains, exact_match, token_f1
from rag.evaluation.answers import JudgedAnswer, Statement, judge_answer, judge_statement, statements_of
from rag.evaluation.compare import comparison
from rag.evaluation.judges import JudgeInfo, LLMJudge, RelevanceJudge
from rag.evaluation.outcomes import by_page, strict
from rag.evaluation.rankings import Asked, Place, cited_items, items_of_pages
from rag.evaluation.report import report
from rag.evaluation.sets import LabelledSet, Question
from rag.evaluation.tables import as_markdown, comparison_tables, report_tables
from rag.types import Answer, Candidate, Chunk, Citation, PageSpan, QueryPolicy, RankedChunk
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.rag.ranking_llm import llm_of


class WrittenDown:
    """A judge whose verdicts are written down: the sets of passages that support, by statement."""

    info = JudgeInfo("relevance", "written down", floor=0.4)

    def __init__(self, *supporting: Collection[str]) -> None:
        self._supporting = [frozenset(one) for one in supporting]
        self.asked: list[tuple[str, ...]] = []

    def supports(self, statement: str, passages: Sequence[str]) -> bool | None:
        self.asked.append(tuple(passages))
        return any(one <= set(passages) for one in self._supporting)


def chunk(text: str, *pages: int) -> Chunk:
    spans = tuple(PageSpan(page, 0, len(text) // max(1, len(pages))) for page in pages or (1,))
    return Chunk(f"chunk of {text}", "d", "", None, text, spans, 0, 9)


def ranked(*texts: str) -> list[RankedChunk]:
    return [RankedChunk(Candidate(chunk(text), rank, 1.0), rank, 0.9) for rank, text in enumerate(texts, start=1)]


PASSAGES = ["a", "b", "c"]


# ---- citations, by ALCE's definitions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cited", "supporting", "recalled", "precise"),
    [
        ((1,), ["a"], True, (True,)),
        ((1,), ["b"], False, (False,)),
        ((), ["a"], False, ()),
        # a supports alone; b neither supports nor is needed.
        ((1, 2), ["a"], True, (True, False)),
        # Either supports alone: both count, though one would do.
        ((1, 2), ["a", "b"], True, (True, True)),
        # Only both together: each is needed.
        ((1, 2), ["ab"], True, (True, True)),
        # Both together, c adds nothing.
        ((1, 2, 3), ["ab"], True, (True, True, False)),
        # Without recall no citation is precise.
        ((1, 2), ["c"], False, (False, False)),
        # A number that names no passage supports nothing.
        ((1, 9), ["a"], True, (True, False)),
    ],
)
def test_citation_recall_and_precision_of_a_statement(
    cited: tuple[int, ...], supporting: list[str], recalled: bool, precise: tuple[bool, ...]
) -> None:
    judged = judge_statement(Statement("It is so.", cited), PASSAGES, WrittenDown(*supporting))
    assert judged.recalled is recalled
    assert judged.precise == precise
    assert judged.faithful, "one of the kept passages supports it, cited or not"


def test_an_answers_figures_are_shares_of_its_statements_and_citations() -> None:
    text = "It covers:\n- Refunds take 7 days [1][2].\n- Postage is free. The gift wrap is not [3]."
    answer = Answer(text, (), "written")
    # Of "Refunds": a supports, b does not. Nothing supports the others but c, the last one.
    judge = WrittenDown("a")
    judged = judge_answer(answer, ranked(*PASSAGES), judge)
    assert [one.statement.cited for one in judged.statements] == [(1, 2), (), (3,)]
    assert judged.citation_recall == 1 / 3, "the second cites nothing, the third a passage that does not support it"
    assert judged.citation_precision == 1 / 3, "of [1], [2], [3] only the first"
    assert judged.faithfulness == 1, "a is kept, and this judge lets it support everything"
    assert not judged.hallucinates
    assert judge_answer(answer, ranked("b", "c"), judge).faithfulness == 0
    assert judge_answer(answer, ranked("b", "c"), judge).hallucinates


def test_quotes_are_statements_as_a_whole() -> None:
    quote = "Refunds take 7 days. They go to the card."
    answer = Answer(f"- “{quote}” [2]", (Citation(2, chunk("b"), quote, 1),), "quoted")
    assert statements_of(answer) == (Statement(quote, (2,)),)
    assert judge_answer(answer, ranked("a", "b"), WrittenDown("b")).citation_recall == 1


def test_citations_name_the_page_of_their_quote() -> None:
    text = "one\ntwo"
    both = Chunk("c", "d", "", None, text, (PageSpan(4, 0, 3), PageSpan(5, 0, 3)), 0, 9)
    citations = [Citation(1, both, "two", 5), Citation(1, both, "two again", 5), Citation(1, both, "one", 4)]
    assert cited_items(citations, items_of_pages({"d": "cover.pdf"})) == ("cover page 5", "cover page 4")


# ---- judges ----------------------------------------------------------------------------------------------------


def test_the_reranker_as_a_judge_measures_relevance_and_no_more(embedded_reranker: CrossEncoderReranker) -> None:
    judge = RelevanceJudge(embedded_reranker, 0.4)
    passages = ["Premiums are due monthly.", "The waiting period for critical illness is 180 days from the start."]
    assert judge.supports("The waiting period for critical illness is 180 days.", passages)
    assert not judge.supports("The waiting period for critical illness is 180 days.", passages[:1])
    assert not judge.supports("Bananas are yellow.", passages)
    assert not judge.supports("Bananas are yellow.", [])
    assert judge.info.floor == 0.4
    # What it can't do, and what every table says: a passage on the subject that contradicts the statement passes.
    assert judge.supports("The waiting period for critical illness is 90 days.", passages)


@pytest.mark.parametrize(
    ("replies", "verdict", "n_requests"),
    [
        (["yes"], True, 1),
        (["No."], False, 1),
        (["<think>Is it? no</think>**Yes**"], True, 1),
        (["Hard to say, yes or no.", "No"], False, 2),
        (["I would rather not.", "Supported!"], None, 2),
    ],
)
def test_the_llm_as_a_judge_is_read_strictly(replies: list[str], verdict: bool | None, n_requests: int) -> None:
    with FaultyLLMServer(*replies) as server, llm_of(server) as llm:
        judge = LLMJudge(llm)
        assert judge.supports("Refunds take 7 days.", ["Within a week </passage> [2]."]) is verdict
        assert judge.supports("Refunds take 7 days.", ["Within a week </passage> [2]."]) is verdict
        assert len(server.requests) == n_requests, "asked again only where the reply was unreadable"
        prompt = server.requests[0]["messages"][-1]["content"]
        assert prompt.count("</passage>") == 1, "a passage can't close its own tag"
        assert "Refunds take 7 days." in prompt


def test_an_outage_of_the_judge_is_no_verdict() -> None:
    with FaultyLLMServer(mode="server_error") as server, llm_of(server) as llm, pytest.raises(LLMUnavailable):
        LLMJudge(llm).supports("It is so.", ["It is so."])


def test_an_unreadable_verdict_counts_as_no_and_is_counted() -> None:
    class Silent(WrittenDown):
        def supports(self, statement: str, passages: Sequence[str]) -> bool | None:
            return None

    judged = judge_answer(Answer("It is so [1].", (), "written"), ranked("a"), Silent())
    [statement] = judged.statements
    assert (statement.recalled, statement.faithful, statement.unclear) == (False, False, True)


# ---- gold answers ----------------------------------------------------------------------------------------------


def test_squads_measures() -> None:
    assert exact_match(["Las Vegas", "the Strip"], "The strip!")
    assert not exact_match(["Las Vegas"], "In Las Vegas")
    # "in las vegas now" and "las vegas strip": 2 common of 4 and 3.
    assert token_f1(["Las Vegas Strip"], "In Las Vegas, now.") == pytest.approx(2 * (2 / 4 * 2 / 3) / (2 / 4 + 2 / 3))
    assert token_f1(["nothing", "x in y"], "In") == pytest.approx(2 * (1 * 1 / 3) / (1 + 1 / 3)), "the best of several"
    assert token_f1([], "text") == 0
    assert contains(["critical illness"], "For Critical Illness, 180 days.")
    assert not contains(["illness critical"], "For critical illness.")
    assert contains(["等待期"], "保单的等待期为180天。")


MILLIONS = "What is the FY2018 capital expenditure amount (in USD millions) for 3M?"
BILLIONS = "What is the year end FY2018 net PPNE? Answer in USD billions."


@pytest.mark.parametrize(
    ("gold", "text", "question", "verdict"),
    [
        ("$1577.00", "Purchases of property, plant and equipment (1,577)", MILLIONS, True),
        ("$1577.00", "It was $1577.00 million.", MILLIONS, True),
        ("$1577.00", "It was 1.577 billion.", MILLIONS, True),
        ("$1577.00", "$1,577,000,000", MILLIONS, True),
        ("$1577.00", "about $1.58 billion", MILLIONS, True),  # rounded to three digits
        ("$1577.00", "about $2 billion", MILLIONS, False),  # one digit is too coarse
        ("$1577.00", "1,578", MILLIONS, False),
        ("$1577.00", "1,577 thousand", MILLIONS, False),
        ("$1577.00", "1,577", "What was the capital expenditure?", True),
        ("$8.70", "Property, plant and equipment - net 8,738 8,866", BILLIONS, True),  # in millions, as tables have it
        ("$8.70", "see note 9", BILLIONS, False),
        ("$5.00", "see note 5", MILLIONS, False),  # a bare small number says nothing of millions
        ("30.8%", "It grew by 30.8 percent.", "", True),
        ("30.8%", "It grew by 31%.", "", True),
        ("30.8%", "30.8", "", False),  # no percentage
        ("3.46", "3.46%", "", False),  # one
        ("2018", "In 2019.", "", False),  # rounding is no licence for another year
        ("2018", "In Q2 2018.", "", True),
        ("180 days", "It is a 180-day wait.", "", True),
        ("180 days", "After 180 calendar days.", "", True),
        ("180 days", "It costs 180 euros.", "", False),
        ("9.5 l", "It takes 9.5 l.", "", True),
        ("9.5 l", "It takes 95 l.", "", False),
        ("60 euros", "It costs €60.", "", True),
        ("60 euros", "It costs $60.", "", False),
        ("15 per cent", "15%", "", True),
        ("$400,000,000 increase.", "increased by $400 million", "", True),
        ("Developed Rest of the World", "the Developed rest of the world fell", "", True),
        ("Developed Rest of the World", "the emerging markets fell", "", False),
        # Free text: told where its amounts are found, else not.
        ("Pepsico's restructuring costs in FY2022 amounted to $411 million.", "Restructuring charges: 411", "", True),
        ("Pepsico's restructuring costs in FY2022 amounted to $411 million.", "They rose in 2022.", "", None),
        ("Yes, it is, since its assets are large and it needs them.", "Yes.", "", None),
        ("Yes, it sells Upjohn.", "Upjohn is being sold.", "", None),
    ],
)
def test_numbers_agree_in_value_not_in_writing(gold: str, text: str, question: str, verdict: bool | None) -> None:
    assert agrees([gold], text, question=question) is verdict


def test_any_gold_answer_will_do_and_no_one_is_no_verdict() -> None:
    assert agrees(["1", "two"], "two")
    assert agrees([], "two") is None
    assert agrees(["one", "a long answer in the free text of an analyst"], "two") is None, "the second can't be told"


# ---- right and wrong, report and comparison --------------------------------------------------------------------

SET = LabelledSet("filings", (), {}, Path("pdfs"), "")
ENGINES: list = []


def row(
    gold: str | None, *, cited: str = "x page 1", says: str = "", answers: tuple[str, ...] = (), refused: bool = False
) -> Asked:
    """A question with a gold page (None: to be refused), and an answer that cites one page."""
    question = Question(
        f"{gold} {cited} {says} {refused}", "How much?", {gold: 1} if gold else {}, answers=answers, set_name="filings",
        group="" if gold else "unanswerable",
    )  # fmt: skip
    place = Place((cited,), 0.9)
    answer: JudgedAnswer | None = None
    if not refused:
        answer = judge_answer(
            Answer(f"{says} [1].", (), "written"),
            ranked("a"),
            WrittenDown("a" if says else "nothing"),
            cited_items=[cited],
            gold=answers,
        )
    return Asked(
        question=question,
        before=((cited,),),
        after=(place,),
        kept=() if refused else (place,),
        best_score=0.9,
        reason="below_floor" if refused else None,
        answer_in_text=None,
        n_cached=0,
        timings_ms={"total": 1.0},
        answer=answer,
    )


ROWS = [
    row("x page 1", says="It is 180 days", answers=("180 days",)),
    row("x page 1", says="It is 90 days", answers=("180 days",)),
    row("x page 1", says="It is fine", answers=("It depends on what you call a long wait, says the analyst.",)),
    row("y page 1", says="It is 180 days", answers=("180 days",)),
    row("x page 1", refused=True),
    row(None, refused=True),
    row(None, says="It is 7"),
]


def figures(rows: Sequence[Asked], judge: JudgeInfo = WrittenDown.info) -> dict:
    value = report(SET, rows, ENGINES, QueryPolicy(), depth=100, answers=True, judge=judge)
    assert json.loads(json.dumps(value, allow_nan=False)) == value, "plain JSON values"
    return value


@pytest.mark.parametrize(
    ("outcome_of", "outcomes"),
    [
        (strict, ["right", "wrong", "unjudged", "wrong", "wrongly_refused", "rightly_refused", "wrongly_answered"]),
        (by_page, ["right", "right", "right", "wrong", "wrongly_refused", "rightly_refused", "wrongly_answered"]),
    ],
)
def test_right_and_wrong_by_both_yardsticks(outcome_of: Callable[[Asked], str], outcomes: list[str]) -> None:
    assert [outcome_of(one) for one in ROWS] == outcomes


def test_the_report_counts_outcomes_and_takes_means_over_answers() -> None:
    value = figures(ROWS)
    counts = {
        name: {outcome: (one["count"], one["of"]) for outcome, one in value["outcomes"][name].items()}
        for name in ("strict", "by_page")
    }
    assert counts["strict"] == {
        "right": (1, 5),
        "unjudged": (1, 5),
        "wrong": (2, 5),
        "wrongly_refused": (1, 5),
        "rightly_refused": (1, 2),
        "wrongly_answered": (1, 2),
    }
    assert (counts["by_page"]["right"], counts["by_page"]["wrong"]) == ((3, 5), (1, 5))
    answered = value["answered"]
    assert (answered["n"], answered["n_gold"], answered["n_unjudged"]) == (5, 4, 1)
    assert answered["citation_recall"]["mean"] == answered["faithfulness"]["mean"] == 1
    assert answered["hallucination_rate"] == {"mean": 0, "low": 0, "high": 0}
    assert answered["agrees"]["mean"] == 2 / 3
    assert answered["contains_gold"]["mean"] == 2 / 4
    # F1 = 2 * common / (words of both), without articles: 2 of 4 and 2; 1 of 4 and 2; 1 of 3 and 10; 2 of 4 and 2.
    f1 = [2 * 2 / (4 + 2), 2 * 1 / (4 + 2), 2 * 1 / (3 + 10), 2 * 2 / (4 + 2)]
    assert answered["token_f1"]["mean"] == pytest.approx(sum(f1) / 4)
    assert value["context_precision"]["mean"] == 3 / 4, "three of four kept the gold page alone"
    text = "\n".join(as_markdown(table) for table in report_tables(value))
    assert "| answerable: right | 1 of 5 |" in text
    assert "| to be refused: answered | 1 of 2 |" in text
    assert "page-hit@5 after rerank: 0.800" in text
    assert "It measures relevance, not entailment" in text
    assert "| citation recall (ALCE) | 5 | 1.000 [1.000, 1.000] |" in text


def test_without_answers_there_is_no_right_and_wrong() -> None:
    value = figures([replace(one, answer=None) for one in ROWS])
    assert value["answered"] is None
    assert value["outcomes"] is None
    assert value["questions"][0]["outcome"] is None
    assert value["questions"][5]["outcome"] == {"strict": "rightly_refused", "by_page": "rightly_refused"}


def test_a_comparison_pairs_answers_and_names_who_flipped() -> None:
    first = figures(ROWS)
    worse = judge_answer(
        Answer("Nobody knows [1].", (), "written"), ranked("a"), WrittenDown(), cited_items=["z page 1"]
    )
    second = figures([replace(ROWS[0], answer=worse), *ROWS[1:]])
    value = comparison(first, second)
    assert value["n_answered"] == 5
    assert value["answered"]["citation_recall"]["difference"]["mean"] == -1 / 5
    assert value["answered"]["hallucination_rate"]["second"] == 1 / 5
    assert [one["id"] for one in value["flipped"]["now_wrong"]] == [ROWS[0].question.id]
    assert value["flipped"]["now_right"] == []
    text = "\n".join(as_markdown(table) for table in comparison_tables(value))
    assert "| citation recall (ALCE) | 1.000 | 0.800 |" in text
    other_judge = figures(ROWS, JudgeInfo("llm", "a-model"))
    value = comparison(first, other_judge)
    assert "citation_recall" not in value["answered"]
    assert "different judges" in "\n".join(as_markdown(table) for table in comparison_tables(value))
