"""`python -m ingest` as a person runs it: a process of its own, the real embedder and index."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.__main__ import main
from rag.engines.qdrant_edge import EdgeIndex
from rag.ports import Embedder
from rag.types import EmbedderIdentity
from tests.ingest.written_pdfs import long_pdf, sentences, write_pdf

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK37_CHUNK_TOKENS", "40")
    monkeypatch.setenv("RANK37_CHUNK_OVERLAP_TOKENS", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    (folder / "deep").mkdir(parents=True)
    write_pdf(folder / "a.pdf", [sentences(1, 4), ""])
    write_pdf(folder / "deep" / "b.PDF", [sentences(2, 4)])
    return folder


def start(*arguments: object) -> subprocess.Popen[str]:
    # What a shell runs in the background has SIGINT ignored, and would hand that on.
    of_this_process = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ingest", *(str(argument) for argument in arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    finally:
        signal.signal(signal.SIGINT, of_this_process)


def report_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_folder_goes_in_and_the_report_accounts_for_every_file(
    tmp_path: Path, papers: Path, embedder: Embedder
) -> None:
    process = start(papers, "--data-dir", tmp_path / "data", "--collection", "shelf", "--report", tmp_path / "r.json")
    output, errors = process.communicate(timeout=120)

    assert (process.returncode, errors) == (0, "")
    assert output.startswith("Ingesting 2 files into collection 'shelf'\n")
    assert f"ingested   {papers / 'a.pdf'}: 2 pages, 2 chunks [" in output
    assert "warning: page 2 " in output
    report = report_of(tmp_path / "r.json")
    assert [document["file"] for document in report["documents"]] == [
        str(papers / "a.pdf"),
        str(papers / "deep" / "b.PDF"),
    ]
    assert {"file", "status", "reason", "pages", "pages_without_text", "chunks", "seconds"} <= set(
        report["documents"][0]
    )
    assert (report["documents"][0]["pages"], report["documents"][0]["pages_without_text"]) == (2, [2])
    totals = report["totals"]
    assert (totals["files"], totals["ingested"], totals["refused"]) == (2, 2, 0)
    assert (totals["pages"], totals["pages_without_text"]) == (2 + 1, 1)
    assert totals["chunks"] == sum(document["chunks"] for document in report["documents"])
    index = EdgeIndex.open(tmp_path / "data" / "collections" / "shelf" / "index", "shelf", embedder.identity)
    assert index.count_chunks() == totals["chunks"]
    index.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, sharing the loaded embedder; gives exit status, output and errors."""
    monkeypatch.setattr("rag.wiring.open_embedder", lambda settings: embedder)

    def run_main(*arguments: object) -> tuple[int, str, str]:
        status = main([*(str(argument) for argument in arguments), "--data-dir", str(tmp_path / "data")])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_main


def test_running_again_changes_nothing(tmp_path: Path, papers: Path, run: Run) -> None:
    run(papers)
    status, output, _ = run(papers, "--report", tmp_path / "r.json")

    assert status == 0
    assert output.splitlines()[-1].startswith("2 unchanged")
    assert report_of(tmp_path / "r.json")["totals"]["unchanged"] == 2


def test_a_bad_file_is_named_with_its_reason_and_the_others_go_in(tmp_path: Path, papers: Path, run: Run) -> None:
    (papers / "aa.pdf").write_text("no PDF")
    status, output, errors = run(papers, tmp_path / "absent.pdf", "--report", tmp_path / "r.json")

    assert (status, errors) == (3, "")
    assert f"refused    {papers / 'aa.pdf'} (not_a_pdf): " in output
    report = report_of(tmp_path / "r.json")
    assert [document["status"] for document in report["documents"]] == ["ingested", "refused", "ingested", "refused"]
    assert report["totals"]["refused_by_reason"] == {"not_a_pdf": 1, "unreadable": 1}


def test_a_changed_file_is_reported_as_replaced(tmp_path: Path, papers: Path, run: Run) -> None:
    run(papers)
    write_pdf(papers / "a.pdf", [sentences(3, 4)])
    _, output, _ = run(papers)
    assert output.splitlines()[-1].startswith("1 replaced, 1 unchanged")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PAPERS", "--collection", "no/slash"], "no/slash"),
        (["PAPERS", "--report", "absent/r.json"], "absent"),
        (["PAPERS", "--report", "PAPERS"], "is a folder"),
        (["EMPTY"], "no file to ingest in"),
    ],
)
def test_a_bad_argument_is_told_before_any_work(
    arguments: list[str], message: str, tmp_path: Path, papers: Path, run: Run
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"PAPERS": papers, "EMPTY": tmp_path / "empty"}

    status, output, errors = run(*(places.get(argument, argument) for argument in arguments))

    assert (status, output) == (2, "")
    assert errors.startswith("ingest: ")
    assert message in errors
    assert not (tmp_path / "data").exists()


def test_a_bad_setting_is_told(papers: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK37_CHUNK_TOKENS", "4000")
    status, _, errors = run(papers)
    assert status == 2
    assert "RANK37_CHUNK_TOKENS" in errors


def test_an_outage_ends_the_run_with_its_message_and_a_report(
    tmp_path: Path, papers: Path, run: Run, embedder: Embedder
) -> None:
    folder = tmp_path / "data" / "collections" / "documents" / "index"
    open_elsewhere = EdgeIndex.open(folder, "documents", embedder.identity)
    status, _, errors = run(papers)
    open_elsewhere.close()
    assert status == 1
    assert "QDRANT_URL" in errors
    assert "Traceback" not in errors

    status, _, _ = run(papers)
    assert status == 0


def test_a_collection_of_another_embedder_is_told(tmp_path: Path, papers: Path, run: Run) -> None:
    folder = tmp_path / "data" / "collections" / "documents" / "index"
    EdgeIndex.open(folder, "documents", EmbedderIdentity("bge-m3", "1", 1024)).close()
    status, _, errors = run(papers)
    assert status == 1
    assert "bge-m3" in errors


def test_help_tells_of_every_option_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for needed in ("PATH", "--data-dir", "--collection", "--report", "Exit status", "130"):
        assert needed in text


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports_what_was_done_and_can_be_continued(
    stop: signal.Signals, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_pdf(folder / "first.pdf", [sentences(1, 3)])
    long_pdf(folder / "second.pdf", seed=2, pages=300)
    process = start(folder, "--data-dir", tmp_path / "data", "--report", tmp_path / "r.json")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ingested"):
            break

    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "continues where this run stopped" in errors
    assert "Traceback" not in errors
    report = report_of(tmp_path / "r.json")
    assert [document["file"] for document in report["documents"]] == [str(folder / "first.pdf")]
    assert "interrupted" in report["error"]

    (folder / "second.pdf").unlink()
    status, output, _ = run(folder)
    assert (status, output.splitlines()[-1].split(";")[0]) == (0, "1 unchanged")
