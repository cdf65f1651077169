"""Labelled sets: what is read of folders in both layouts, and what is said of folders that can't be used."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rag.errors import BadInput
from rag.evaluation.sets import Question, page_item, pooled, read_set, sampled

PASSAGES = [
    {"_id": "d1", "title": "Cover", "text": "The waiting period is 180 days."},
    {"_id": "d2", "title": "", "text": "Premiums are due monthly."},
    {"_id": "d3", "text": "Dental care waits 30 days."},
]
QUERIES = [
    {"_id": "q1", "text": "How long is the wait?", "answers": ["180 days"]},
    {"_id": "q2", "text": "When are premiums due?"},
    {"_id": "q3", "text": "Nobody judged this one?"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t3\nq1\td3\t1\nq1\td2\t0\nq2\td2\t1\n"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")


def write_beir(folder: Path, *, qrels: str = QRELS, suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / f"corpus.jsonl{suffix}", PASSAGES)
    write_rows(folder / f"queries.jsonl{suffix}", QUERIES)
    (folder / "qrels.tsv").write_text(qrels, encoding="utf-8")
    return folder


def test_a_beir_folder_gives_passages_questions_and_grades(tmp_path: Path) -> None:
    read = read_set(write_beir(tmp_path / "cover"))
    assert read.name == "cover"
    assert [(one.id, one.title) for one in read.passages["cover"]] == [("d1", "Cover"), ("d2", ""), ("d3", "")]
    assert read.questions == (
        Question("q1", "How long is the wait?", {"d1": 3, "d3": 1}, 1, ("180 days",), "cover"),
        Question("q2", "When are premiums due?", {"d2": 1}, 1, (), "cover"),
    )
    assert read.left_out == 1, "a query without a judged passage can't be measured"


def test_zipped_files_and_other_forms_of_labels_read_the_same(tmp_path: Path) -> None:
    plain = read_set(write_beir(tmp_path / "a" / "cover"))
    without_header = QRELS.split("\n", 1)[1]
    of_trec = "\n".join("{}\t0\t{}\t{}".format(*line.split("\t")) for line in without_header.splitlines())
    assert read_set(write_beir(tmp_path / "b" / "cover", suffix=".gz")) == plain
    assert read_set(write_beir(tmp_path / "c" / "cover", qrels=without_header)) == plain
    assert read_set(write_beir(tmp_path / "d" / "cover", qrels=of_trec)) == plain
    elsewhere = write_beir(tmp_path / "e" / "cover")
    (elsewhere / "qrels").mkdir()
    (elsewhere / "qrels.tsv").rename(elsewhere / "qrels" / "test.tsv")
    assert read_set(elsewhere) == plain


def test_the_least_relevant_grade_decides_what_is_relevant(tmp_path: Path) -> None:
    read = read_set(write_beir(tmp_path / "cover"), min_relevance=2)
    assert [(question.id, question.relevant) for question in read.questions] == [("q1", {"d1"})]
    assert read.questions[0].gold == {"d1": 3, "d3": 1}, "nDCG still knows the lower grade"
    assert read.left_out == 2


def test_relevant_passages_that_the_corpus_lacks_are_counted(tmp_path: Path) -> None:
    read = read_set(write_beir(tmp_path / "cover", qrels=QRELS + "q2\tlost\t1\n"))
    assert read.missing_gold == 1
    assert read.questions[1].relevant == {"d2", "lost"}


def test_questions_to_be_refused_are_named_by_their_file(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "cover")
    write_rows(folder / "unanswerable.jsonl", [{"_id": "u1", "text": "Who won in 1954?", "source": "xquad/en"}])
    write_rows(folder / "unanswerable_near.jsonl.gz", [{"_id": "u2", "text": "Is a pet covered?"}])
    refused = [question for question in read_set(folder).questions if not question.answerable]
    assert [(one.id, one.group, one.source) for one in refused] == [
        ("u1", "unanswerable", "xquad-en"),
        ("u2", "unanswerable_near", ""),
    ]


def test_a_pdf_folder_gives_pages(tmp_path: Path) -> None:
    (tmp_path / "pdfs").mkdir()
    rows = [
        {"_id": "a", "text": "Why?", "answers": ["x"], "evidence": [{"doc": "3M_2018_10K", "page_index0": 59}]},
        {"_id": "b", "text": "How?", "answers": ["y"], "evidence": [{"doc": "cover.pdf", "page_index0": 0}]},
        {"_id": "c", "text": "Who?", "answers": [], "evidence": [], "answerable": False},
    ]
    write_rows(tmp_path / "questions.jsonl.gz", rows)
    read = read_set(tmp_path)
    assert read.pdfs == tmp_path / "pdfs"
    assert [question.gold for question in read.questions] == [{"3M_2018_10K page 60": 1}, {"cover page 1": 1}, {}]
    assert [question.answerable for question in read.questions] == [True, True, False]
    assert page_item("3M_2018_10K.pdf", 60) == "3M_2018_10K page 60", "as the ingested file is named"


def test_pooled_sets_keep_their_ids_apart(tmp_path: Path) -> None:
    for name, source in (("one", "two"), ("two", "three")):
        folder = write_beir(tmp_path / name)
        write_rows(folder / "unanswerable.jsonl", [{"_id": "u", "text": "Why not?", "source": source}])
    pool = pooled([read_set(tmp_path / "one"), read_set(tmp_path / "two")])
    assert list(pool.passages) == ["one", "two"]
    assert [passage.id for passage in pool.passages["two"]] == ["two/d1", "two/d2", "two/d3"]
    assert [(question.id, question.relevant) for question in pool.questions] == [
        ("one/q1", {"one/d1", "one/d3"}),
        ("one/q2", {"one/d2"}),
        ("two/q1", {"two/d1", "two/d3"}),
        ("two/q2", {"two/d2"}),
        ("u", frozenset()),
    ]
    # One query of each set has no judged passage; what one's file calls unanswerable is answered by the other set.
    assert pool.left_out == 1 + 1 + 1


def test_sets_of_the_same_name_are_not_pooled(tmp_path: Path) -> None:
    one = read_set(write_beir(tmp_path / "a" / "cover"))
    with pytest.raises(BadInput, match="different folder names"):
        pooled([one, read_set(write_beir(tmp_path / "b" / "cover"))])


def test_another_text_is_another_content(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "cover")
    before = read_set(folder).content
    assert read_set(folder).content == before
    write_rows(folder / "corpus.jsonl", [*PASSAGES[:2], {"_id": "d3", "text": "Dental care waits 31 days."}])
    assert read_set(folder).content != before


def test_a_sample_is_seeded_and_part_of_a_larger_one(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_rows(folder / "corpus.jsonl", PASSAGES)
    write_rows(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"Question {n}?"} for n in range(40)])
    (folder / "qrels.tsv").write_text("".join(f"q{n}\td1\t1\n" for n in range(40)), encoding="utf-8")
    write_rows(folder / "unanswerable.jsonl", [{"_id": f"u{n}", "text": f"Other {n}?"} for n in range(40)])
    read = read_set(folder)

    def ids(limit: int, seed: int = 37) -> list[str]:
        return [question.id for question in sampled(read, limit, seed=seed).questions]

    assert ids(5) == ids(5)
    assert len(ids(5)) == 5 + 5, "of the answerable, and of each file of questions to be refused"
    assert set(ids(5)) < set(ids(10))
    assert ids(5) != ids(5, seed=38)
    assert sampled(read, None, seed=37) == read
    order = [question.id for question in read.questions]
    assert ids(10) == sorted(ids(10), key=order.index), "in file order"


@pytest.mark.parametrize(
    ("qrels", "says"),
    [
        ("q1\td1\tyes", "line 2"),
        ("q1 d1", "line 2"),
        ("q1\tlost\t1", "names no passage of the corpus"),
        ("other\td1\t1", "relevance 1 or more"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, qrels: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_set(write_beir(tmp_path / "cover", qrels=f"query-id\tcorpus-id\tscore\n{qrels}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"text": "no id"}',
        '{"_id": "a", "text": "t", "evidence": [{"doc": "d"}]}',
        "[]",
        '{"_id": "a", "text": " "}',
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "pdfs").mkdir()
    (tmp_path / "questions.jsonl").write_text('{"_id": "1", "text": "ok"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match="line 2"):
        read_set(tmp_path)


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "cover", suffix=".gz")
    whole = (folder / "corpus.jsonl.gz").read_bytes()
    (folder / "corpus.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"corpus\.jsonl\.gz can't be read"):
        read_set(folder)


def test_a_folder_without_a_set_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"corpus\.jsonl, queries\.jsonl and qrels\.tsv"):
        read_set(tmp_path)
    (tmp_path / "questions.jsonl").write_text('{"_id": "1", "text": "ok"}\n', encoding="utf-8")
    with pytest.raises(BadInput, match="pdfs/"):
        read_set(tmp_path)
