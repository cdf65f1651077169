"""Which chunks answer a labelled question: by evidence on a page, by text, by a person's label."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import BadInput
from rag.ports import Embedder
from rag.training.questions import Unresolved, read_questions, resolve
from tests.rag.training.training_data import evidence, fill, write_lines

WAITING = "The waiting period for critical illness is 180 days from the start of the contract."
DENTAL = "The waiting period for dental treatment is ninety days; for accidents there is none."


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Iterator[EdgeIndex]:
    index = EdgeIndex.open(tmp_path_factory.mktemp("index"), "contracts", embedder.identity)
    fill(index, embedder)
    yield index
    index.close()


def rows(folder: Path, *values: dict[str, object]):
    return read_questions([write_lines(folder / "questions.jsonl", [json.dumps(value) for value in values])])


def texts(passages) -> list[str]:
    return [passage.text for passage in passages]


def test_evidence_is_the_chunk_of_its_page_that_holds_the_quote(tmp_path: Path, index: EdgeIndex) -> None:
    quote = evidence("critical-illness", 1, "critical illness is\n180  days")
    [row] = rows(tmp_path, {"text": "How long?", "answers": ["180 days"], "evidence": [quote]})
    [question] = resolve([row], index, Unresolved())
    assert texts(question.positives) == [WAITING]
    assert question.positives[0].whole == f"Critical Illness Cover\n{WAITING}"
    assert question.answerable is True
    assert question.answers == ("180 days",)


def test_a_quote_cut_by_a_border_is_found_by_most_of_its_words(tmp_path: Path, index: EdgeIndex) -> None:
    quote = "dental treatment is ninety days; for accidents there is none. Next page"
    [row] = rows(tmp_path, {"text": "q", "evidence": [evidence("dental-care", 1, quote)]})
    [question] = resolve([row], index, Unresolved())
    assert texts(question.positives) == [DENTAL]


@pytest.mark.parametrize("item", [evidence("dental-care", 2, DENTAL), evidence("no-such-file", 1, DENTAL)])
def test_evidence_that_is_nowhere_is_reported_and_not_guessed(
    tmp_path: Path, index: EdgeIndex, item: dict[str, object]
) -> None:
    unresolved = Unresolved()
    assert resolve(rows(tmp_path, {"text": "lost question", "evidence": [item]}), index, unresolved) == []
    [reason] = unresolved.reasons
    assert "lost question" in reason
    assert f"page {int(str(item['page_index0'])) + 1}" in reason


def test_a_passage_given_by_text_is_the_chunk_that_contains_it(tmp_path: Path, index: EdgeIndex) -> None:
    inside, foreign = resolve(
        rows(tmp_path, {"query": "a", "positive": "seven days from receipt"}, {"query": "b", "positive": "Not here."}),
        index,
        Unresolved(),
    )
    assert texts(inside.positives) == ["You can return an item for a refund within seven days from receipt."]
    assert texts(foreign.positives) == ["Not here."]


def test_labels_of_one_question_are_joined(tmp_path: Path, index: EdgeIndex) -> None:
    found = resolve(
        rows(
            tmp_path,
            {"question": "How long must I wait?", "passage": WAITING, "label": "right"},
            {"question": "how long must i wait", "passage": DENTAL, "label": "wrong"},
            {"question": "Is shipping free?", "label": "wrongly_refused"},
            {"question": "What of gift cards?", "passage": DENTAL, "label": "wrong"},
        ),
        index,
        Unresolved(),
    )
    waiting, shipping, gift = found
    assert (texts(waiting.positives), texts(waiting.negatives)) == ([WAITING], [DENTAL])
    assert waiting.answerable is True
    # Nobody said which passage is right, so nothing may be called wrong.
    assert (shipping.positives, shipping.negatives, shipping.answerable) == ((), (), None)
    assert (texts(gift.negatives), gift.answerable) == ([DENTAL], None)


def test_a_passage_called_right_and_wrong_is_neither(tmp_path: Path) -> None:
    [row] = rows(
        tmp_path,
        {"question": "q", "passage": WAITING, "label": "right"},
        {"question": "q", "passage": WAITING, "label": "wrong"},
    )
    assert (row.question.positives, row.question.negatives) == ((), ())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"positive": "p"}, "no question"),
        ({"text": "q", "evidence": [{"doc": "a.pdf"}]}, "page_index0"),
        ({"text": "q", "answerable": True}, "without positive or evidence"),
        ({"question": "q", "passage": "p", "label": "good"}, "right, wrong, wrongly_refused"),
        ({"question": "q", "label": "wrong"}, "needs passage"),
    ],
)
def test_a_row_that_can_not_be_used_is_named(tmp_path: Path, row: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match="line 1") as error:
        rows(tmp_path, row)
    assert said in str(error.value)


def test_the_sample_questions_can_be_read() -> None:
    found = read_questions([Path(__file__).parents[3] / "data" / "questions.jsonl"])
    assert len(found) > 100
    assert {row.question.answerable for row in found} == {True, False}
    assert all(bool(row.evidence) is row.question.answerable for row in found)
