"""`python -m rag` as a person runs it: real processes over a real collection made by `python -m ingest`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from rag.__main__ import main

TEXT = "The waiting period for critical illness is 180 days from the date on which the contract begins."


def run(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RANK37_DATA_DIR": str(data_dir), "HF_HUB_OFFLINE": "1"}
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
    done = run("rag", "evaluate", str(tmp_path / "set"), "--json", data_dir=tmp_path / "data")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["answerable"] | {"n": 1, "gold_recalled": 1, "gold_in_top_5_after": 1} == report["answerable"]
    assert report["unanswerable"] == {"n": 1, "answered": 0, "refused": 1}
