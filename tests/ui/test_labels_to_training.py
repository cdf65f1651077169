"""From clicks on the Ask page to a trained reranker that is measured, by the commands that the README names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from ingest.samples import mark_samples_done
from rag.__main__ import main
from rag.json_lines import read_rows
from rag.settings import Settings
from rag.training.groups import question_digest, read_groups
from tests.contracts.tiny_models import save_cross_encoder
from ui.chats import TRACE_PARAMETER
from ui.workspace import open_library

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("shop-gift-cards-and-loyalty.pdf", "shop-shipping.pdf")
UNASKED = "Who won the football world cup in 1954?"
N_QUESTIONS = 10
"""Half of them are held out, and a reranker is promoted on five at least."""
WAIT_S = 300.0


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    monkeypatch.setenv("RANK37_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RANK37_RERANKER", "embedded")
    monkeypatch.chdir(tmp_path)
    mark_samples_done(Settings().collection_dir)
    open_library.clear()
    yield AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT_S)
    open_library().close()
    open_library.clear()


def ask(app: AppTest, question: str) -> str:
    """Ask, and draw the page until the question is over; gives the id of its trace."""
    before = judged(app)
    app.chat_input[0].set_value(question).run()
    end = time.monotonic() + WAIT_S
    while not (new := judged(app) - before):
        assert time.monotonic() < end, f"not answered within {WAIT_S:.0f} s: {question}"
        assert not app.exception
        app.run()
    return new.pop().removeprefix("outcome ")


def judged(app: AppTest) -> set[str]:
    """Keys of the controls beneath answers and refusals."""
    return {control.key for control in app.button_group if control.key and control.key.startswith("outcome ")}


def say(app: AppTest, key: str, verdict: str) -> None:
    next(control for control in app.button_group if control.key == key).set_value(verdict).run()
    assert not app.exception


def train(*arguments: object) -> None:
    assert main(["train", *map(str, arguments)]) == 0


@pytest.mark.timeout(1800)
def test_from_labels_in_the_app_to_a_measured_reranker(
    app: AppTest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.run()
    workspace = open_library().open()
    for name in DOCUMENTS:
        workspace.queue.submit(name, (ROOT / "data" / "pdfs" / name).read_bytes())
    assert workspace.queue.wait(WAIT_S)
    app.run()

    samples = [row for _, row in read_rows(ROOT / "data" / "questions.jsonl")]
    questions = [row["text"] for row in samples if row.get("doc") in DOCUMENTS and row["answerable"]]
    questions += [row["text"] for row in samples if row.get("doc") == "shop-returns-and-refunds.pdf"]
    store = workspace.recorder.store()
    assert store is not None
    say(app, f"outcome {ask(app, UNASKED)}", "wrongly_refused")
    for question in questions[:N_QUESTIONS]:
        app.button(key="new_chat").click().run()
        stored = store.trace(ask(app, question))
        assert stored is not None
        trace = stored.trace
        say(app, f"passage {trace.id} {trace.ranked[0].chunk.id}", "right")
        say(app, f"passage {trace.id} {trace.ranked[1].chunk.id}", "wrong")

    again = AppTest.from_file(str(ROOT / "app.py"), default_timeout=WAIT_S)
    again.query_params[TRACE_PARAMETER] = [trace.id]
    again.run()
    labelled = {control.key: control.value for control in again.button_group}
    assert labelled[f"passage {trace.id} {trace.ranked[0].chunk.id}"] == "right", (
        "a new session has the chat and labels"
    )
    workspace.close()

    labels, learn, held_out = (tmp_path / f"{name}.jsonl" for name in ("labels", "learn", "held-out"))
    assert main(["traces", "labels", "--out", str(labels)]) == 0
    verdicts = [row["label"] for _, row in read_rows(labels)]
    assert sorted(set(verdicts)) == ["right", "wrong", "wrongly_refused"]
    assert len(verdicts) == 2 * N_QUESTIONS + 1

    train("split", labels, "--learn", learn, "--held-out", held_out, "--share", 0.5)
    everything, groups, measured = (tmp_path / f"{name}.jsonl" for name in ("all", "groups", "measured"))
    train("mine", "--labels", labels, "--collection", "documents", "--out", everything)
    mined = {question_digest(group.query): group for group in read_groups(everything)}
    assert question_digest(UNASKED) not in mined, "a wrong refusal alone names no passage"
    first = mined[question_digest(trace.query)]
    assert first.positives == (trace.ranked[0].chunk.passage,)
    assert trace.ranked[1].chunk.passage in first.negatives

    train("mine", "--labels", learn, "--collection", "documents", "--out", groups)
    train("candidates", "--labels", held_out, "--collection", "documents", "--depth", 10, "--out", measured)
    tiny = save_cross_encoder(tmp_path / "tiny", "bert")
    train("fine-tune", groups, "--base", tiny, "--out", tmp_path / "tuned", "--max-tokens", 32)
    capsys.readouterr()
    train("promote", tmp_path / "tuned", "--groups", measured, "--name", "mine")
    shown = capsys.readouterr().out
    assert "nDCG@5" in shown
    assert "not promoted" in shown, "a tiny model that knows nothing must not serve"
