"""`python -m rag` as a person runs it: real processes over a real collection made by `python -m ingest`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from rag.__main__ import main

TEXT = "The waiting period for critical illness is 180 days from the date on which the contract begins."


def run(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RANK37_DATA_DIR": str(data_dir), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command-line")
    canvas = Canvas(str(folder / "contract.pdf"), pagesize=A4, invariant=1)
    canvas.setTitle("Critical illness cover")
    canvas.drawString(72, 700, TEXT)
    canvas.showPage()
    canvas.drawString(72, 700, "Premiums are due on the first day of each month and are collected by direct debit.")
    canvas.save()
    done = run("ingest", str(folder / "contract.pdf"), data_dir=folder / "data")
    assert done.returncode == 0, done.stderr
    return folder / "data"


def test_ask_json_prints_one_object_with_both_rankings(data_dir: Path) -> None:
    done = run("rag", "ask", "How long is the waiting period for critical illness?", "--json", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["outcome"] == "answer"
    assert "180 days" in value["text"]
    assert value["citations"][0]["page"] == 1
    assert value["citations"][0]["document"] == "Critical illness cover"
    assert value["citations"][0]["file"] == value["ranked"][0]["file"] == "contract.pdf"
    assert value["citations"][0]["quote"] in TEXT
    assert len(value["candidates"]) == len(value["ranked"]) > 0
    assert [engine["role"] for engine in value["engines"]] == ["embedder", "index", "reranker", "llm"]
    reranker = value["engines"][2]
    assert reranker["stands_in_for"] == "BAAI/bge-reranker-v2-m3"
    assert "python -m rag models fetch" in reranker["why"]
    assert value["timings_ms"]["rerank"] > 0


def test_ask_prints_answer_citation_and_the_ranking(data_dir: Path) -> None:
    done = run("rag", "ask", "How long is the waiting period for critical illness?", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    for words in ("180 days", "page 1", "Reranked", "kept", "bge-reranker-v2-m3"):
        assert words in done.stdout, words


def test_a_refusal_is_said_with_what_was_nearest_and_is_no_failure(data_dir: Path) -> None:
    done = run("rag", "ask", "Who won the football world cup in 1954?", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    assert "No answer." in done.stdout
    assert "below the floor of 0.40" in " ".join(done.stdout.split())


def test_an_empty_collection_names_the_remedy(tmp_path: Path) -> None:
    done = run("rag", "ask", "Anything?", data_dir=tmp_path)
    assert done.returncode == 2
    assert "python -m ingest" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_llm_that_is_down_is_an_error_with_the_ranking(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("RANK37_LLM_RETRIES", "0")
    done = run("rag", "ask", "How long is the waiting period for critical illness?", data_dir=data_dir)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "180 days" in done.stderr, "the ranking is still shown"
    assert "Traceback" not in done.stderr


def test_what_was_asked_is_kept(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("rag", "ask", "How long is the waiting period for critical illness?", "--json", data_dir=data_dir)
    answer = json.loads(done.stdout)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("RANK37_LLM_RETRIES", "0")
    assert run("rag", "ask", "How long is the waiting period?", data_dir=data_dir).returncode == 1
    assert main(["traces", "show", answer["id"], "--json", "--data-dir", str(data_dir)]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["outcome"]["text"] == answer["text"]
    assert [one["score"] for one in kept["trace"]["ranked"]] == [one["score"] for one in answer["ranked"]]
    assert main(["traces", "list", "--json", "--limit", "1", "--data-dir", str(data_dir)]) == 0
    [latest] = json.loads(capsys.readouterr().out)
    assert (latest["outcome"], latest["reason"], latest["scores"] != []) == ("failure", "LLMUnavailable", True)


def test_a_qdrant_server_that_is_down_is_an_error_with_a_remedy(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:9")
    done = run("rag", "ask", "Anything?", data_dir=data_dir)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK37_FLOOR", "7")
    assert main(["ask", "Anything?"]) == 2
    assert "RANK37" in capsys.readouterr().err


def test_models_list_says_what_stands_in_and_how_to_get_the_real_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    printed = capsys.readouterr().out
    assert "embedder: embedded" in printed
    assert "python -m rag models fetch" in printed


def test_evaluate_ingests_the_set_and_counts(tmp_path: Path) -> None:
    (tmp_path / "set" / "pdfs").mkdir(parents=True)
    canvas = Canvas(str(tmp_path / "set" / "pdfs" / "contract.pdf"), pagesize=A4, invariant=1)
    canvas.drawString(72, 700, TEXT)
    canvas.save()
    rows = [
        {"_id": "1", "text": "Waiting period for critical illness?", "answers": ["180 days"],
         "evidence": [{"doc": "contract.pdf", "page_index0": 0}]},
        {"_id": "2", "text": "Who won the football world cup in 1954?", "answers": [], "evidence": []},
    ]  # fmt: skip
    (tmp_path / "set" / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    done = run("rag", "evaluate", str(tmp_path / "set"), "--json", "--progress", data_dir=tmp_path / "data")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["set"] == "set"
    assert report["n"] == 1
    assert report["before"]["R@100"] == {"mean": 1, "low": 1, "high": 1}
    assert report["after"]["nDCG@10"]["mean"] == report["page_hit@5"]["mean"] == 1
    assert report["answer_in_text"]["count"] == 1, "a set of PDFs is asked the whole way"
    assert report["refusals"]["unanswerable"] | {"count": 1, "of": 1} == report["refusals"]["unanswerable"]
    assert {"embed", "recall", "rerank", "answer", "total"} <= set(report["timings_ms"])
    assert "2 of 2" in done.stderr, "progress goes to stderr"


@pytest.fixture
def labelled_passages(tmp_path: Path) -> Path:
    """A set in BEIR's layout."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    texts = [TEXT, "Premiums are due on the first day of each month.", "The waiting period for dental care is 30 days."]
    files = {
        "corpus": [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(texts)],
        "queries": [
            {"_id": "q1", "text": "Waiting period for critical illness?"},
            {"_id": "q2", "text": "When are premiums due?"},
        ],
        "unanswerable": [{"_id": "u1", "text": "Who won the football world cup in 1954?"}],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t1\nq2\td1\t1\n", encoding="utf-8")
    return folder


def test_evaluate_side_by_side_then_compare(
    labelled_passages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data-dir", str(tmp_path / "data")]
    assert main(["evaluate", str(labelled_passages), *data, "--engines", "none,embedded", "--json"]) == 0
    printed = capsys.readouterr().out
    recalled, reranked = (json.loads(line) for line in printed.splitlines())
    assert recalled["n"] == reranked["n"] == 2
    assert recalled["before"] == recalled["after"] == reranked["before"]
    assert reranked["after"]["RR@10"]["mean"] == 1
    assert {info["role"] for info in reranked["engines"]} == {"embedder", "index", "reranker"}, (
        "no answer was asked for"
    )

    both = tmp_path / "both.json"
    both.write_text(printed, encoding="utf-8")
    assert main(["compare", str(both), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    change = reranked["after"]["nDCG@10"]["mean"] - recalled["after"]["nDCG@10"]["mean"]
    assert compared["after"]["nDCG@10"]["difference"]["mean"] == pytest.approx(change)
    assert main(["compare", str(both), "--markdown"]) == 0
    assert "**contracts: 3 questions asked of both**" in capsys.readouterr().out

    other = shutil.copytree(labelled_passages, tmp_path / "others")
    sets = [str(labelled_passages), str(other)]
    assert main(["evaluate", *sets, *data, "--pool", "--engines", "embedded", "--limit", "1", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "**contracts+others: 2 questions over 6 passages, the first 100 reranked by" in printed
    assert "| others | 1 |" in printed
    assert "| mean of the sets | 2 |" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--min-relevance", "other=2"], "SET being one of contracts"),
        (["--min-relevance", "2"], "relevance 2 or more"),
        (["--engines", ","], "empty name"),
    ],
)
def test_evaluate_names_a_bad_argument(
    labelled_passages: Path, tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(labelled_passages), "--data-dir", str(tmp_path / "data"), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_compare_takes_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a.json", "b.json", "c.json"]) == 2
    assert "3 files were named" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "python -m rag evaluate" in capsys.readouterr().err
