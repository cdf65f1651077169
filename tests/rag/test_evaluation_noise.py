"""The noise experiment: four contexts of one ranking, by hand and over a real set; and sets of PDFs end to end."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from rag.__main__ import main
from rag.errors import BadInput
from rag.evaluation import noise
from rag.evaluation.noise import Ranked, arm_figures, noise_report, run_arms, tuned_floors
from rag.evaluation.noise_command import noise_table
from rag.evaluation.sets import Question
from rag.evaluation.tables import as_markdown, report_tables
from rag.floor import keep
from rag.ports import Engines
from rag.types import (
    Answer,
    Candidate,
    Chunk,
    Citation,
    EngineInfo,
    PageSpan,
    QueryPolicy,
    RankedChunk,
    Refusal,
    Trace,
)
from tests.rag.test_evaluation_answers import WrittenDown

POLICY = QueryPolicy(answer_limit=2)
ENGINE = EngineInfo("reranker", "a-reranker", "1")


def chunk(name: str) -> Chunk:
    return Chunk(name, "d", "", None, name, (PageSpan(1, 0, 1),), 0, 9)


def question(gold: str, recalled: Sequence[str], ranked: dict[str, float], *, identity: str = "q") -> Ranked:
    """A question with the names of recalled chunks in order, and the scores of the same chunks in rerank order."""
    candidates = {name: Candidate(chunk(name), rank, 1 / rank) for rank, name in enumerate(recalled, start=1)}
    after = tuple(
        RankedChunk(candidates[name], rank, score) for rank, (name, score) in enumerate(ranked.items(), start=1)
    )
    trace = Trace(
        "t", "", "Why?", "Why?", POLICY.floor, POLICY.answer_limit, (ENGINE,), tuple(candidates.values())[:2], after
    )
    asked = Question(identity, "Why?", {gold: 1} if gold else {}, group="" if gold else "unanswerable")
    return Ranked(asked, trace, {name: (name,) for name in recalled})


@pytest.fixture
def cites_first(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Answers that cite the first passage of the context; the contexts that were asked for, in order."""
    contexts: list[tuple[str, ...]] = []

    def answer(trace: Trace, engines: Engines, policy: QueryPolicy) -> Answer | Refusal:
        contexts.append(tuple(one.chunk.id for one in trace.kept))
        if not trace.kept:
            return Refusal("below_floor", trace.best_score)
        first = trace.kept[0].chunk
        return Answer("It is so [1].", (Citation(1, first, first.text, 1),), "written")

    monkeypatch.setattr(noise, "answer_from", answer)
    return contexts


def arms(rankings: Sequence[Ranked], floors: Sequence[float], judge: WrittenDown) -> list[dict[str, noise.ArmRow]]:
    return run_arms(rankings, floors, None, POLICY, lambda chunk: (chunk.id,), judge)  # type: ignore[arg-type]  # the fixture answers without engines


def test_four_contexts_of_one_ranking(cites_first: list[tuple[str, ...]]) -> None:
    rankings = [
        question("a", ["x", "y", "a"], {"a": 0.9, "x": 0.5, "y": 0.1}),
        question("", ["x", "y"], {"y": 0.6, "x": 0.2}),
    ]
    rows = arms(rankings, [0.7, 0.7], WrittenDown("a"))
    # The first: x y, then a x, both above 0.4, then a alone. The second: x y, then y x, then y, then nothing.
    assert cites_first == [("x", "y"), ("a", "x"), ("a",), ("x", "y"), ("y", "x"), ("y",), ()]
    figures = {arm: arm_figures([row[arm] for row in rows]) for arm in noise.ARMS}
    assert [figures[arm]["noise"]["mean"] for arm in noise.ARMS] == [2 / 2, 1 / 2, 1 / 2, 0 / 1]
    assert [figures[arm]["passages"]["mean"] for arm in noise.ARMS] == [4 / 2, 4 / 2, 3 / 2, 1 / 2]
    assert [figures[arm]["hallucination_rate"]["mean"] for arm in noise.ARMS] == [2 / 2, 1 / 2, 1 / 2, 0 / 1]
    assert [figures[arm]["cites_nothing_relevant"]["mean"] for arm in noise.ARMS] == [2 / 2, 1 / 2, 1 / 2, 0 / 1]
    # F1 = 2 * right / (answers + answerable): recall alone has nothing relevant in its context.
    assert [figures[arm]["f1"]["mean"] for arm in noise.ARMS] == [0, 2 / (2 + 1), 2 / (2 + 1), 2 / (1 + 1)]
    answered = [(figures[arm]["unanswerable_answered"]["count"], figures[arm]["n_answers"]) for arm in noise.ARMS]
    assert answered == [(1, 2), (1, 2), (1, 2), (0, 1)]


def test_a_floor_is_tuned_on_the_half_that_it_is_not_measured_on() -> None:
    # Answerable ones score 0.8, others 0.6: whatever the halves, each finds a floor between them.
    same = [question("a", ["a"], {"a": 0.8}, identity=f"q{n}") for n in range(4)]
    same += [question("", ["x"], {"x": 0.6}, identity=f"u{n}") for n in range(4)]
    floors = tuned_floors(same, usual=0.4, seed=37)
    assert all(0.6 < floor <= 0.8 for floor in floors)
    # One unanswerable question alone scores 0.75: its own half must not know.
    odd = [*same, question("", ["x"], {"x": 0.75}, identity="odd")]
    floors = tuned_floors(odd, usual=0.4, seed=37)
    assert floors[-1] <= 0.75, "the half that it is not in has nothing against 0.6 to 0.75"
    assert max(floors) > 0.75, "the other half learns from it"
    assert len(set(floors)) == 2
    assert floors == tuned_floors(odd, usual=0.4, seed=37)


def test_too_few_questions_for_two_halves_is_said() -> None:
    with pytest.raises(BadInput, match="relevant passage"):
        tuned_floors([question("a", ["a"], {"a": 0.8})], usual=0.4, seed=37)


def test_what_no_floor_can_keep_is_left_out_of_a_ranking() -> None:
    names = [f"c{n}" for n in range(6)]
    scores = [0.5, 0.3, 0.9, 0.2, 0.6, 0.1]  # an order-only reranker's scores need not fall
    candidates = [Candidate(chunk(name), rank, 1.0) for rank, name in enumerate(names, start=1)]
    ranked = tuple(RankedChunk(one, one.rank, score) for one, score in zip(candidates, scores, strict=True))
    usable = tuple(noise._usable(ranked, 2))
    assert [one.chunk.id for one in usable] == ["c0", "c1", "c2", "c4"]
    for floor in (0.0, 0.15, 0.25, 0.35, 0.55, 0.7, 0.95):
        assert keep(usable, floor=floor, limit=2) == keep(ranked, floor=floor, limit=2)


def test_the_table_shows_the_report(cites_first: list[tuple[str, ...]]) -> None:
    rankings = [question("a", ["x", "a"], {"a": 0.9, "x": 0.5}), question("", ["x"], {"x": 0.6})]
    judge = WrittenDown("a")
    value = noise_report("cover", rankings, arms(rankings, [0.7, 0.8], judge), [0.7, 0.8], judge, POLICY, seed=1)
    value |= {"only": ""}
    assert json.loads(json.dumps(value, allow_nan=False)) == value, "plain JSON values"
    text = as_markdown(noise_table(value))
    assert "| with rerank and the floor in use (0.40) | 0.500 [0.500, 0.500] |" in text
    assert "| with rerank and a tuned floor (0.70 / 0.80) | 0.000 [0.000, 0.000] |" in text
    assert "0 of 1, 0.000" in text
    assert "1 answerable questions and 1 to be refused" in text


# ---- the commands over small real sets -------------------------------------------------------------------------

TEXTS = {
    "illness": "The waiting period for critical illness is 180 days from the date on which the contract begins.",
    "premiums": "Premiums are due on the first day of each month and are collected by direct debit.",
    "dental": "The waiting period for dental treatment is 30 days.",
    "divers": "Divers are insured down to a depth of 40 metres.",
}
ASKED = {
    "illness": ("What is the waiting period for critical illness?", "180 days"),
    "premiums": ("When are premiums due?", "the first day of each month"),
    "dental": ("What is the waiting period for dental treatment?", "30 days"),
    "divers": ("Down to what depth are divers insured?", "40 metres"),
}
OTHERS = ["Who won the football world cup in 1954?", "How many moons does Jupiter have?"]


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in BEIR's layout."""
    folder = tmp_path_factory.mktemp("beir") / "cover"
    folder.mkdir()
    write_rows(folder / "corpus.jsonl", [{"_id": name, "text": text} for name, text in TEXTS.items()])
    write_rows(
        folder / "queries.jsonl",
        [{"_id": f"q-{name}", "text": text, "answers": [answer]} for name, (text, answer) in ASKED.items()],
    )
    write_rows(folder / "unanswerable.jsonl", [{"_id": f"u-{n}", "text": text} for n, text in enumerate(OTHERS)])
    qrels = "".join(f"q-{name}\t{name}\t1\n" for name in TEXTS)
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def filings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one PDF, a text a page."""
    folder = tmp_path_factory.mktemp("pdfs") / "filings"
    (folder / "pdfs").mkdir(parents=True)
    canvas = Canvas(str(folder / "pdfs" / "cover.pdf"), pagesize=A4, invariant=1)
    for text in TEXTS.values():
        canvas.drawString(72, 700, text)
        canvas.showPage()
    canvas.save()
    rows = [
        {"_id": name, "text": text, "answers": [answer], "evidence": [{"doc": "cover.pdf", "page_index0": page}]}
        for page, (name, (text, answer)) in enumerate(ASKED.items())
    ]
    rows[3]["evidence"][0]["page_index0"] = 0  # labelled wrongly: its answer will cite another page
    write_rows(folder / "questions.jsonl", [*rows, {"_id": "other", "text": OTHERS[0], "answers": [], "evidence": []}])
    return folder


def test_evaluate_of_pdfs_tells_right_from_wrong(
    filings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data-dir", str(tmp_path / "data"), "--engines", "embedded"]
    assert main(["evaluate", str(filings), *data, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    rows = {row["id"]: row for row in value["questions"]}
    assert rows["illness"]["outcome"] == {"strict": "right", "by_page": "right"}
    assert rows["illness"]["answer"]["cited_items"] == ["cover page 1"]
    assert rows["illness"]["answer"]["agrees"]
    assert rows["divers"]["outcome"] == {"strict": "wrong", "by_page": "wrong"}, "it cites page 4, the label says 1"
    assert rows["other"]["outcome"] == {"strict": "rightly_refused", "by_page": "rightly_refused"}
    assert value["outcomes"]["by_page"]["right"]["count"] == 3
    assert value["judge"]["kind"] == "relevance"
    assert 0 <= value["answered"]["citation_precision"]["mean"] <= 1
    assert value["answered"]["n"] == 4
    text = "\n".join(as_markdown(table) for table in report_tables(value))
    assert "| answerable: right | 3 of 4 |" in text
    assert "filings: what the answers are worth" in text

    assert main(["evaluate", str(filings), *data, "--judge", "llm"]) == 2
    assert "--judge llm needs an LLM" in capsys.readouterr().err


def test_noise_of_a_set_of_passages(
    passages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[str] = []
    rank = noise.rank_passages

    def counted(question: str, engines: Engines, policy: QueryPolicy) -> Trace:
        ranked.append(question)
        return rank(question, engines, policy)

    monkeypatch.setattr(noise, "rank_passages", counted)
    data = ["--data-dir", str(tmp_path / "data"), "--engines", "embedded"]
    assert main(["noise", str(passages), *data, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["n"], value["n_unanswerable"]) == (4, 2)
    figures = value["arms"]
    # Four passages in all: without a floor each context is all of them, one of which is relevant.
    assert figures["recall"]["noise"]["mean"] == figures["rerank"]["noise"]["mean"] == 3 / 4
    assert figures["recall"]["unanswerable_answered"]["count"] == 2
    assert figures["floor"]["unanswerable_answered"]["count"] == 0
    assert figures["floor"]["noise"]["mean"] < figures["rerank"]["noise"]["mean"]
    # Everything is answered, and what answers it is among all four: 2 * 4 / (6 + 4).
    assert figures["rerank"]["f1"]["mean"] == pytest.approx(2 * 4 / (6 + 4))
    assert figures["floor"]["f1"]["mean"] > figures["rerank"]["f1"]["mean"]
    assert figures["floor"]["floors"] == [0.4]

    assert sorted(ranked) == sorted([text for text, _ in ASKED.values()] + OTHERS), "each question is ranked once"

    assert main(["noise", str(passages), *data, "--only", "nothing"]) == 2
    assert "--only 'nothing'" in capsys.readouterr().err
