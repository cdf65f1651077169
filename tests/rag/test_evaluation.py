"""Labelled questions: reading them, and the figures that follow from asking them of a real collection."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput
from rag.evaluation.pages import ask_all, summary
from rag.evaluation.questions import GoldPage, LabelledQuestion, read_questions
from rag.ports import Engines
from rag.types import Chunk, Document, PageSpan, QueryPolicy, StoredDocument

PAGES = [
    "The waiting period for critical illness is 180 days from the start of the contract.",
    "Premiums are due on the first day of each month.",
    "The waiting period for dental treatment is 30 days.",
]


@pytest.fixture
def engines(
    tmp_path: Path, embedder: SentenceTransformerEmbedder, embedded_reranker: CrossEncoderReranker
) -> Iterator[Engines]:
    index = EdgeIndex.open(tmp_path / "index", "contracts", embedder.identity)
    stored = StoredDocument(Document("c0ffee", "Critical illness cover", "contract.pdf", len(PAGES)), "ingesting")
    chunks = [
        Chunk(f"00000000-0000-4000-8000-00000000000{n}", "c0ffee", "", None, text, (PageSpan(n, 0, len(text)),), n, 30)
        for n, text in enumerate(PAGES, start=1)
    ]
    index.begin_document(stored)
    index.add_chunks(chunks, embedder.embed_passages([chunk.passage for chunk in chunks]))
    index.publish_document(replace(stored, state="ready", n_chunks=len(chunks)))
    yield Engines(embedder, index, embedded_reranker, embedded_reranker, None)
    index.close()


QUESTIONS = [
    LabelledQuestion(
        "1", "What is the waiting period for critical illness?", ("180 days",), (GoldPage("contract", 1),)
    ),
    LabelledQuestion("2", "What is the waiting period for dental treatment?", ("30 days",), (GoldPage("contract", 3),)),
    LabelledQuestion("3", "When are premiums due?", ("first day",), (GoldPage("elsewhere", 2),)),
    LabelledQuestion("4", "Who won the football world cup in 1954?", (), ()),
]


def test_counts_follow_from_the_traces(engines: Engines) -> None:
    asked = ask_all(QUESTIONS, engines, QueryPolicy())
    report = summary("contracts", asked, engines, QueryPolicy())
    by_id = {row.id: row for row in asked}
    assert by_id["1"].rank_after == 1
    assert by_id["1"].answered
    assert by_id["1"].answer_in_text is True
    assert by_id["2"].rank_after == 1
    assert by_id["3"].rank_before is None, "a page of another document is no hit"
    assert not by_id["4"].answered
    assert by_id["4"].reason == "below_floor"
    assert report["n"] == 4
    assert report["answerable"]["n"] == 3
    assert report["answerable"]["gold_recalled"] == 2
    assert report["answerable"]["gold_in_top_5_after"] == 2
    assert report["answerable"]["gold_kept"] == sum(row.kept_gold for row in asked)
    assert report["unanswerable"] == {"n": 1, "answered": 0, "refused": 1}
    assert json.loads(json.dumps(report))["questions"][0]["id"] == "1"


def test_a_floor_of_one_refuses_everything(engines: Engines) -> None:
    policy = QueryPolicy(floor=1.0)
    report = summary("contracts", ask_all(QUESTIONS, engines, policy), engines, policy)
    assert report["answerable"]["refused"] == 3
    assert report["refusals_by_reason"] == {"below_floor": 4}


def test_questions_are_read_plain_and_zipped(tmp_path: Path) -> None:
    rows = [
        {"_id": "a", "text": "Why?", "answers": ["x"], "evidence": [{"doc": "3M_2018_10K", "page_index0": 59}]},
        {"_id": "b", "text": "Who?", "answers": [], "evidence": [], "answerable": False},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "questions.jsonl").write_text(lines, encoding="utf-8")
    plain = read_questions(tmp_path)
    (tmp_path / "questions.jsonl").unlink()
    with gzip.open(tmp_path / "questions.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    assert read_questions(tmp_path) == plain
    assert plain[0].gold == (GoldPage("3M_2018_10K", 60),)
    assert [question.answerable for question in plain] == [True, False]


@pytest.mark.parametrize(
    "line", ["{", '{"text": "no id"}', '{"_id": "a", "text": "t", "evidence": [{"doc": "d"}]}', "[]"]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "questions.jsonl").write_text('{"_id": "1", "text": "ok"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match="line 2"):
        read_questions(tmp_path)


def test_a_folder_without_questions_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="questions.jsonl"):
        read_questions(tmp_path)
