"""What the Quality page says of floors is what `sweep --labels` and `calibrate --labels` print of the same labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.library import Library
from ingest.samples import mark_samples_done
from rag.__main__ import main
from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.evaluation.quality import in_use, past_questions, quality_report
from rag.settings import EMBEDDED, Settings
from tests.ingest.written_pdfs import write_pdf

COVERS = ("critical illness", "dental care", "stolen bicycles", "lost luggage", "storm damage")
WAIT_S = 120.0
RISK = 0.25


@pytest.fixture
def settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    embedder: SentenceTransformerEmbedder,
    embedded_reranker: CrossEncoderReranker,
) -> Settings:
    """An empty data folder; the real embedded models are loaded once, as one process of a person's does."""
    monkeypatch.setattr(SentenceTransformerEmbedder, "embedded", lambda: embedder)
    monkeypatch.setattr(CrossEncoderReranker, "embedded", lambda: embedded_reranker)
    monkeypatch.setenv("RANK37_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RANK37_RERANKER", EMBEDDED)
    settings = Settings()
    mark_samples_done(settings.collection_dir)
    return settings


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_floors_of_the_page_are_those_of_the_commands(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Library(settings)
    workspace = library.open()
    for number, cover in enumerate(COVERS):
        path = tmp_path / f"{number}.pdf"
        write_pdf(path, [f"The waiting period for {cover} is {10 + 7 * number} days. Claims are made in writing."])
        workspace.queue.submit(path.name, path.read_bytes())
    assert workspace.queue.wait(WAIT_S)
    store = workspace.recorder.store()
    assert store is not None
    for cover in COVERS:
        trace = workspace.recorder.answered(workspace.ask(f"How long is the waiting period for {cover}?")).trace
        right = next(ranked.chunk.id for ranked in trace.ranked if cover in ranked.chunk.text)
        store.label(trace.id, "right", chunk_id=right)
    now = in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
    past = past_questions(store.summaries(collection=workspace.key), now)
    page = json.loads(json.dumps(quality_report(past, now, collection=workspace.key, risk=RISK)))
    library.close()

    assert page["labelled"] == len(COVERS)
    quality = printed(capsys, "quality", "--risk", str(RISK))
    assert quality == page

    labels = tmp_path / "labels.jsonl"
    assert main(["traces", "labels", "--out", str(labels)]) == 0
    capsys.readouterr()
    swept = printed(capsys, "sweep", "--labels", str(labels))
    assert named_alike(swept) == named_alike(page["sweep"])
    calibrated = printed(capsys, "calibrate", "--labels", str(labels), "--risk", str(RISK))
    assert named_alike(calibrated) == named_alike(page["calibration"])
    assert 0 < calibrated["floor"] < 1


def named_alike(report: dict[str, Any]) -> dict[str, Any]:
    """All figures of a report: the page and a file of labels are named otherwise, and read in another order."""
    return {name: value for name, value in report.items() if name not in ("set", "notes")}
