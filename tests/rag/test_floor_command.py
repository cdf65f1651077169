"""`python -m rag sweep`, `calibrate` and `floor` end to end, with the embedded engines over a few passages."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rag.__main__ import main
from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput
from rag.evaluation.floor_plot import check_plot_path, save_chart, sweep_chart
from rag.evaluation.floor_report import calibration_report, calibration_tables, sweep_report, sweep_tables
from rag.evaluation.floors import ScoredPassage, ScoredQuestion, sweep
from rag.evaluation.passage_index import CorpusPassage, write_passages
from rag.evaluation.scored_questions import ScoredQuestions
from rag.evaluation.tables import as_markdown
from rag.floor_store import FloorScope
from rag.types import EngineInfo

COVERS = ("critical illness", "dental care", "stolen bicycles", "lost luggage", "storm damage")
TEXTS = [f"The waiting period for {cover} is {10 + 7 * n} days." for n, cover in enumerate(COVERS)]
QUESTIONS = [f"How long is the waiting period for {cover}?" for cover in COVERS]
WORLD_CUP = "Who won the football world cup in 1954?"


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def labelled_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in BEIR's layout: five answerable questions, one to be refused."""
    folder = tmp_path_factory.mktemp("sets") / "contracts"
    folder.mkdir()
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)])
    write_rows(folder / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, text in enumerate(QUESTIONS)])
    write_rows(folder / "unanswerable.jsonl", [{"_id": "u0", "text": WORLD_CUP}])
    lines = "".join(f"q{n}\td{n}\t1\n" for n in range(len(COVERS)))
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("floors")


@pytest.fixture(autouse=True)
def in_data_dir(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK37_DATA_DIR", str(data_dir))


@pytest.fixture(autouse=True)
def models_loaded_once(
    embedder: SentenceTransformerEmbedder, embedded_reranker: CrossEncoderReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real embedded models; they are loaded once, as one process of a person's does."""
    monkeypatch.setattr(SentenceTransformerEmbedder, "embedded", lambda: embedder)
    monkeypatch.setattr(CrossEncoderReranker, "embedded", lambda: embedded_reranker)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_from_a_set_to_a_floor_in_use_and_back(
    labelled_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = run(capsys, "floor", "show", "--json")
    found = json.loads(out)
    assert (found["value"], found["source"], found["stored"], found["others"]) == (0.4, "default", None, [])

    plot = tmp_path / "curves.svg"
    out, err = run(capsys, "sweep", labelled_set, "--json", "--plot", plot)
    swept = json.loads(out)
    assert (swept["answerable"], swept["reachable"], swept["unanswerable"]) == (5, 5, 1)
    assert swept["best_answer"]["f1"]["mean"] == swept["best_answer"]["point"]["answer"]["f1"] == 1
    assert swept["in_use"]["floor"] == 0.4
    assert len(swept["grid"]) == 21
    # Each question keeps at most 5 passages, of which one is relevant: without a floor 5 of 6 * 5.
    assert swept["grid"][0]["keep"]["precision"] == 5 / 30
    assert sum(swept["histograms"]["relevant"]["counts"]) == 5
    assert "too few" in swept["valley"]["why"]
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<svg")
    assert "curves.svg" in err

    out, _ = run(capsys, "calibrate", labelled_set, "--risk", 0.2, "--json", "--use", "documents")
    found = json.loads(out)
    assert (found["conformal"]["n"], found["conformal"]["k"], found["conformal"]["needed"]) == (5, 1, 4)
    assert found["floor"] == found["point"]["floor"] == found["conformal"]["floor"]
    assert found["unanswerable_answered"]["of"] == 1
    out, _ = run(capsys, "floor", "show")
    assert "(stored): conformal floor on contracts" in out
    assert "collection documents" in out
    stored = json.loads(run(capsys, "floor", "show", "--json")[0])
    assert stored["value"] == found["floor"]
    swept = json.loads(run(capsys, "sweep", labelled_set, "--json")[0])
    assert (swept["collection"], swept["in_use"]["floor"]) == ("documents", found["floor"])
    assert stored["stored"]["figures"]["conformal"] == found["conformal"]

    # Another chunking: the default again, and it says why.
    monkeypatch.setenv("RANK37_CHUNK_TOKENS", "128")
    out, _ = run(capsys, "floor", "show")
    assert "floor 0.40 (default)" in out
    assert "chunks of as many tokens as the embedder reads, not of 128: calibrate again" in out
    assert "python -m rag calibrate SET --use documents" in out
    monkeypatch.delenv("RANK37_CHUNK_TOKENS")

    out, _ = run(capsys, "floor", "set", "0.55")
    assert "floor 0.55 is stored for collection documents" in out
    monkeypatch.setenv("RANK37_FLOOR", "0.3")
    _, err = run(capsys, "floor", "set", "0.6")
    assert "RANK37_FLOOR = 0.30 overrides it" in err
    monkeypatch.delenv("RANK37_FLOOR")
    assert json.loads(run(capsys, "floor", "show", "--json")[0])["value"] == 0.6
    out, _ = run(capsys, "floor", "reset")
    assert "the floor of 0.60 is forgotten; it is 0.40 (default)" in out
    out, _ = run(capsys, "floor", "reset")
    assert "no floor was chosen for what is in use" in out

    _, err = run(capsys, "sweep", labelled_set, "--json", "--apply", "--by", "keep")
    stored = json.loads(run(capsys, "floor", "show", "--json")[0])["stored"]
    assert stored["value"] == swept["best_keep"]["point"]["floor"]
    assert stored["how"] == "sweep"
    assert "measured on contracts: it holds for 'documents' as far as" in err
    run(capsys, "floor", "reset")


@pytest.fixture
def collection(data_dir: Path, embedder: SentenceTransformerEmbedder) -> str:
    """A collection of the app with the passages, closed."""
    index = EdgeIndex.open(data_dir / "collections" / "manuals" / "index", "manuals", embedder.identity)
    write_passages({"contracts": [CorpusPassage(str(n), "", text) for n, text in enumerate(TEXTS)]}, embedder, index)
    index.close()
    return "manuals"


def test_labels_that_people_gave_choose_a_floor(
    collection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        *({"question": question, "passage": text, "label": "right"}
          for question, text in zip(QUESTIONS[:3], TEXTS, strict=False)),
        {"question": QUESTIONS[3], "passage": TEXTS[0], "label": "wrong"},
        {"question": QUESTIONS[4], "label": "wrongly_refused"},
        {"question": "Where is the office?", "passage": "The office is in Utrecht.", "label": "right"},
        {"text": WORLD_CUP, "answerable": False},
    ]  # fmt: skip
    labels = write_rows(tmp_path / "labels.jsonl", rows)
    found = json.loads(
        run(capsys, "calibrate", "--labels", labels, "--collection", collection, "--risk", "0.25", "--json", "--apply")[
            0
        ]
    )
    assert (found["answerable"], found["conformal"]["n"], found["unanswerable_answered"]["of"]) == (3, 3, 1)
    assert any(note.startswith("2 questions were left out: nobody has said") for note in found["notes"])
    assert any("1 questions were left out: their right passage is not in" in note for note in found["notes"])
    shown = json.loads(run(capsys, "floor", "show", "--collection", collection, "--json")[0])
    assert shown["value"] == found["floor"]
    assert shown["stored"]["measured_on"] == "labels.jsonl"
    assert json.loads(run(capsys, "floor", "show", "--json")[0])["source"] == "default", "of another collection"

    useless = write_rows(tmp_path / "useless.jsonl", rows[3:5])
    assert main(["sweep", "--labels", str(useless), "--collection", collection]) == 2
    assert "none of the 2 labelled questions can be used" in capsys.readouterr().err
    assert main(["sweep", "--labels", str(labels), "--collection", "empty"]) == 2
    assert "holds no documents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep"], "either a SET or --labels"),
        (["sweep", "SET", "--labels", "labels.jsonl"], "either a SET or --labels"),
        (["sweep", "--labels", "labels.jsonl", "--limit", "3"], "--limit is for a SET"),
        (["sweep", "SET", "--plot", "curves.gif"], "one of svg, png, html"),
        (["sweep", "SET", "--engines", "embedded,none", "--apply"], "2 rerankers have 2 floors"),
        (["calibrate", "SET", "--risk", "0"], "above 0 and below 1"),
        (["calibrate", "SET", "--risk", "0.01", "--use", "no good"], "collection name 'no good'"),
        (["calibrate", "SET", "--risk", "0.1"], "needs at least 9 labelled questions"),
        (["floor", "set", "1.5"], "scores lie in 0 to 1"),
    ],
)
def test_a_bad_argument_is_named(
    labelled_set: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(labelled_set) if argument == "SET" else argument for argument in arguments]) == 2
    assert says in capsys.readouterr().err


# ---- reports, tables and charts hold the same figures --------------------------------------------------------------


def scored(n: int = 20) -> ScoredQuestions:
    """Right passages at 0.40, 0.42, ...; a wrong one at 0.30 beside each; two questions to be refused, one at 0.5."""
    right = [
        ScoredQuestion(f"Q{k}?", True, (ScoredPassage(0.4 + k / 50, True), ScoredPassage(0.3, False))) for k in range(n)
    ]
    refused = [ScoredQuestion("U?", False, (ScoredPassage(best, False),)) for best in (0.1, 0.5)]
    info = EngineInfo("reranker", "a-reranker", "1")
    scope = FloorScope("manuals", "a-reranker", "1", "float32", None, 32, "an-embedder", "e")
    return ScoredQuestions("contracts", (*right, *refused), info, info, scope, 0.4, ("Some were left out",))


def test_the_report_is_what_the_functions_compute_and_the_tables_show_it() -> None:
    questions = scored()
    report = sweep_report(questions)
    assert json.loads(json.dumps(report, allow_nan=False)) == json.loads(json.dumps(report)), "plain JSON values"
    assert asdict(sweep(questions.questions)).items() <= report.items()
    text = "\n".join(as_markdown(table) for table in sweep_tables(report))
    # At 0.40 all 20 are kept, and one of 0.5: 20 of 21. F1 is 40 / 41.
    assert "| 0.40 * | 0.952 1.000 0.976 | 0.952 1.000 0.976 | 0 of 20 | 1 of 2 |" in text
    assert "Some were left out." in text
    report = calibration_report(questions, 0.1)
    text = "\n".join(as_markdown(table) for table in calibration_tables(report))
    assert report["floor"] == 0.4 + 1 / 50  # k = floor(0.1 * 21) = 2
    assert "| right passage kept | 20 of 20 | 19 of 20 |" in text
    assert "at least 90.0%" in text
    assert "(1 of 2 were; Clopper-Pearson)" in text


def test_the_chart_draws_the_report(tmp_path: Path) -> None:
    report = sweep_report(scored())
    chart = sweep_chart(report).to_dict()
    values = chart["datasets"][chart["hconcat"][0]["layer"][0]["data"]["name"]]
    assert {"floor": 0.4, "measure": "recall", "value": 1.0} in values
    assert f"F1 {report['best_answer']['point']['answer']['f1']:.3f}" in chart["hconcat"][0]["title"]
    save_chart([report], tmp_path / "new" / "curves.png")
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    save_chart([report], tmp_path / "curves.html")
    page = (tmp_path / "curves.html").read_text(encoding="utf-8")
    assert "<script src=" not in page, "it opens without a network"
    with pytest.raises(BadInput, match="svg, png, html"):
        check_plot_path(Path("curves"))
