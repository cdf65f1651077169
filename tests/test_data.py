"""The sample PDFs and labelled questions are what their sources say, and they tell the stories they are there for."""

import doctest
import gzip
import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from rag.errors import BadInput
from rag.training.groups import question_digest, split_rows
from rag.training.words import words

DATA = Path(__file__).parents[1] / "data"
PDFS = sorted(DATA.glob("pdfs/*.pdf"))
SOURCES = sorted(DATA.glob("sources/*.md"))


def script(name: str) -> ModuleType:
    """A script of the data folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"sample_data_{name}", DATA / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    return script("build")


@pytest.fixture(scope="module")
def own_words() -> ModuleType:
    return script("own_words")


@pytest.fixture(scope="module")
def built(builder: ModuleType) -> tuple[dict[str, bytes], dict[str, list[dict]]]:
    """PDFs, and question rows by file name, built anew from the sources."""
    return builder.build(DATA)


@pytest.fixture(scope="module")
def committed_pages(builder: ModuleType) -> dict[str, list[str]]:
    """Folded text of each page of the PDFs in the repository."""
    return {path.name: [builder.fold(page) for page in builder.page_texts(path.read_bytes())] for path in PDFS}


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def questions() -> list[dict]:
    return rows_of("questions.jsonl")


@pytest.fixture(scope="module")
def desk_questions() -> list[dict]:
    return rows_of("insurance-desk.jsonl")


@pytest.fixture(scope="module")
def judging_questions() -> list[dict]:
    return rows_of("shop-desk.jsonl")


@pytest.fixture(scope="module")
def all_questions(questions, desk_questions, judging_questions) -> list[dict]:
    return questions + desk_questions + judging_questions


@pytest.fixture(scope="module")
def insurance_passages(builder: ModuleType) -> list[tuple[str, str]]:
    """(heading, text) of each section of the insurer's contracts."""
    passages: list[tuple[str, str]] = []
    for path in SOURCES:
        if not path.name.startswith("insurance-"):
            continue
        for block in builder.read_source(path).blocks:
            if isinstance(block, builder.Heading):
                passages.append((block.text, ""))
                continue
            if isinstance(block, builder.Grid):
                text = " ".join(cell for row in block.rows for cell in row)
            else:
                text = " ".join(block.texts) if isinstance(block, builder.Items) else block.text
            heading, before = passages[-1]
            passages[-1] = (heading, f"{before} {text}".strip())
    return [passage for passage in passages if passage[1]]


def test_every_committed_pdf_says_what_its_source_says(builder, built, committed_pages):
    pdfs, _ = built
    assert sorted(committed_pages) == sorted(pdfs)
    # Compared by their text: compressed bytes can differ between versions of reportlab and zlib.
    for name, pdf in pdfs.items():
        assert committed_pages[name] == [builder.fold(page) for page in builder.page_texts(pdf)], (
            f"{name} is not what its source says: run python data/build.py"
        )


def test_committed_questions_are_the_resolved_sources(built, questions, desk_questions, judging_questions):
    committed = {
        "questions.jsonl": questions,
        "insurance-desk.jsonl": desk_questions,
        "shop-desk.jsonl": judging_questions,
    }
    assert built[1] == committed, "run python data/build.py"


def test_building_again_gives_the_same_bytes(builder, built):
    source = builder.read_source(DATA / "sources" / "insurance-critical-illness.md")
    assert builder.render(source) == built[0]["insurance-critical-illness.pdf"]


def test_there_are_enough_documents_and_questions(questions):
    assert len(PDFS) >= 8
    assert sum(row["answerable"] for row in questions) >= 60
    assert sum(not row["answerable"] for row in questions) >= 30
    assert sum(row.get("why", "").startswith("near miss") for row in questions) >= 10


def test_evidence_stands_on_its_page_and_holds_the_answers(builder, committed_pages, all_questions):
    for row in all_questions:
        for evidence in row["evidence"]:
            page = committed_pages[evidence["doc"]][evidence["page_index0"]]
            assert builder.fold(evidence["text"]) in page, row["_id"]
        quoted = " ".join(evidence["text"] for evidence in row["evidence"])
        assert all(builder.fold(answer) in quoted for answer in row["answers"]), row["_id"]
        assert bool(row["evidence"]) == bool(row["answers"]) == row["answerable"], row["_id"]


def test_question_ids_and_texts_are_unique(all_questions):
    for field in ("_id", "text"):
        assert max(Counter(row[field] for row in all_questions).values()) == 1


def test_the_service_desk_has_enough_questions_to_learn_from_and_to_judge(desk_questions):
    learn, held_out = split_rows(desk_questions, 0.75, 37)  # as README.md splits them
    assert [sum(row["answerable"] for row in rows) for rows in (learn, held_out)] == [40, 120]
    assert [sum(not row["answerable"] for row in rows) for rows in (learn, held_out)] == [5, 15]


def test_the_questions_for_judging_ask_about_every_document_but_the_insurer_s(judging_questions):
    assert sum(row["answerable"] for row in judging_questions) == 100
    assert sum(not row["answerable"] for row in judging_questions) == 30
    asked = {row["doc"] for row in judging_questions if row["answerable"]}
    assert asked == {path.name for path in PDFS if not path.name.startswith("insurance-")}


def test_a_prefix_leaves_out_questions_about_documents_that_it_does_not_build(builder, judging_questions):
    pdfs, files = builder.build(DATA, ["shop"])
    assert all(name.startswith("shop-") for name in pdfs)
    assert [row["_id"] for row in files["shop-desk.jsonl"]] == [
        row["_id"] for row in judging_questions if row.get("doc", "shop-").startswith("shop-")
    ]


def test_an_id_that_two_question_files_use_is_refused(builder, tmp_path):
    (tmp_path / "questions").mkdir()
    row = json.dumps({"id": "q1", "text": "How long?", "answerable": False, "why": "nothing says"})
    for name in ("shop.jsonl", "shop-desk.jsonl"):
        (tmp_path / "questions" / name).write_text(row, "utf-8")
    with pytest.raises(builder.SourceError, match="'q1' is used twice"):
        builder.build(tmp_path)


def test_only_one_of_many_waiting_periods_is_that_of_critical_illness(insurance_passages):
    assert sum("waiting period" in text.lower() for _, text in insurance_passages) > 20
    said = [passage for passage in insurance_passages if re.search(r"180 days|hundred and eighty", passage[1])]
    assert len(said) == 1
    heading, text = said[0]
    assert "critical illness" in text
    assert "waiting period" in text
    assert "waiting" not in heading.lower()


def test_contracts_repeat_no_text_verbatim(insurance_passages):
    texts = Counter(text for _, text in insurance_passages)
    assert len(texts) >= 170
    assert max(texts.values()) == 1


def test_pdf_has_title_author_and_an_outline_entry_for_each_heading(builder, built):
    import pypdfium2

    source = builder.read_source(DATA / "sources" / "insurance-dental-care.md")
    document = pypdfium2.PdfDocument(built[0]["insurance-dental-care.pdf"])
    metadata = document.get_metadata_dict()
    assert metadata["Title"] == "Dental Care Plan"
    assert metadata["Author"] == "Alder Mutual Insurance Society"
    headings = [block.text for block in source.blocks if isinstance(block, builder.Heading)]
    assert [bookmark.get_title() for bookmark in document.get_toc()] == headings
    document.close()


def test_evidence_that_stands_nowhere_names_its_question(builder):
    row = {"id": "q1", "text": "How long?", "answers": ["9 days"], "doc": "a.pdf", "evidence": ["lasts 9 days"]}
    with pytest.raises(builder.SourceError, match=r"'q1'.*isn't on any page of a\.pdf"):
        builder.resolve_question(row, {"a.pdf": ["It lasts 8 days."]})


def test_answer_outside_the_evidence_names_its_question(builder):
    # "19 days" holds the characters "9 days", but not the answer.
    row = {"id": "q2", "text": "How long?", "answers": ["9 days"], "doc": "a.pdf", "evidence": ["lasts 19 days"]}
    with pytest.raises(builder.SourceError, match="'q2'.*'9 days' isn't within the evidence"):
        builder.resolve_question(row, {"a.pdf": ["It lasts 19 days."]})


def test_evidence_on_two_pages_makes_both_gold(builder):
    row = {"id": "q3", "text": "How long?", "answers": ["9 days"], "doc": "a.pdf", "evidence": ["lasts 9 days"]}
    resolved = builder.resolve_question(row, {"a.pdf": ["It lasts\r\n9 days.", "Nothing.", "So it lasts 9 days."]})
    assert [evidence["page_index0"] for evidence in resolved["evidence"]] == [0, 2]


def test_source_with_a_character_that_the_fonts_lack_is_refused(builder, tmp_path):
    path = tmp_path / "odd.md"
    path.write_text("---\ntitle: Odd\nauthor: A\ndate: today\n---\n\n# One\n\nat least ≥ 5\n", "utf-8")
    with pytest.raises(builder.SourceError, match=r"odd\.md.*≥"):
        builder.read_source(path)


def test_questions_in_own_words_are_joined_with_their_passages(own_words, tmp_path):
    rows = [
        {"positive": "It lasts 9 days.", "title": "Post", "query": "asked by others"},
        {"positive": "It costs £3.", "query": "asked by others"},
    ]
    with gzip.open(tmp_path / "notes.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    questions = tmp_path / "questions.jsonl"
    asked = [
        {"query": "when's it here?", "source": "notes", "passage": own_words.digest(rows[0]["positive"])},
        {"query": "cheaper for kids?", "source": "notes", "passage": own_words.digest(rows[1]["positive"])},
    ]
    lines = [json.dumps(row | {"answerable": number == 0}) + "\n" for number, row in enumerate(asked)]
    questions.write_text("".join(lines), "utf-8")
    assert list(own_words.joined(questions, tmp_path)) == [
        (True, {"query": "when's it here?", "positive": "It lasts 9 days.", "title": "Post"}),
        (False, {"query": "cheaper for kids?", "answerable": False, "near": "It costs £3."}),
    ]


def test_a_set_of_another_edition_is_named(own_words, tmp_path):
    (tmp_path / "notes.jsonl").write_text('{"positive": "It lasts 8 days."}\n', "utf-8")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"query": "q", "source": "notes", "passage": "0", "answerable": true}\n', "utf-8")
    with pytest.raises(BadInput, match=r"line 1: no passage of notes has the digest 0"):
        list(own_words.joined(questions, tmp_path))
    with pytest.raises(BadInput, match=r"holds no notes\.jsonl"):
        list(own_words.joined(questions, tmp_path / "elsewhere"))


def test_generated_questions_are_about_passages_of_the_contracts(committed_pages):
    def runs(text: str) -> set[tuple[str, ...]]:
        found = words(text)
        return set(zip(*(found[start:] for start in range(5)), strict=False))

    contracts = [runs(" ".join(pages)) for name, pages in committed_pages.items() if name.startswith("insurance-")]
    rows = rows_of("insurance-generated.jsonl")
    assert Counter(row["label"] for row in rows).keys() == {"right", "wrong"}
    passages = {row["passage"] for row in rows}
    assert len(passages) > 200
    for passage in passages:  # a few runs lie across two pages
        assert max(len(runs(passage) & contract) for contract in contracts) >= 0.8 * len(runs(passage)), passage


def test_what_is_learnt_from_is_not_what_is_judged_on(all_questions):
    asked = [row["query"] for row in rows_of("own-words.jsonl")]
    asked += [row["question"] for row in rows_of("insurance-generated.jsonl")]
    learnt = Counter(question_digest(question) for question in asked)
    assert len(learnt) == sum(learnt.values()) > 4_000
    assert not learnt.keys() & {question_digest(row["text"]) for row in all_questions}


def test_worked_examples(builder, own_words):
    for module, least in ((builder, 3), (own_words, 1)):
        result = doctest.testmod(module)
        assert result.attempted >= least
        assert result.failed == 0
