"""The app's states without a browser: an empty collection, one that can't be opened, wrong settings, a refused upload.

The engines are the real embedded ones.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reportlab.pdfgen.canvas import Canvas
from streamlit.testing.v1 import AppTest

from ingest.samples import mark_samples_done
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import Rank37Error
from rag.settings import Settings
from rag.types import EmbedderIdentity
from ui.documents import too_many
from ui.workspace import open_library

APP = Path(__file__).resolve().parents[2] / "app.py"
WAIT_S = 120.0


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings over a folder that wants no samples; what the app opened is closed afterwards."""
    monkeypatch.setenv("RANK37_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RANK37_RERANKER", "embedded")
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    mark_samples_done(settings.collection_dir)
    open_library.clear()
    yield settings
    close_workspace()


def close_workspace() -> None:
    """Close what the app opened, if anything."""
    try:
        library = open_library()
    except Rank37Error:
        return  # it could not be opened, so there is nothing to close
    library.close()
    open_library.clear()


@pytest.fixture
def app(settings: Settings) -> AppTest:
    return AppTest.from_file(str(APP), default_timeout=WAIT_S)


def errors(app: AppTest) -> str:
    """What the errors on the page say, without Markdown's escapes."""
    return "\n".join(element.value for element in app.error).replace("\\", "")


def html(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


def run_until(app: AppTest, reached: Callable[[], bool]) -> None:
    """Draw the page again and again, as its fragments do in a browser."""
    end = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end, f"not reached within {WAIT_S:.0f} s: {errors(app)} {html(app)[-2000:]}"
        app.run()


def lantern_pdf() -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    canvas.setTitle("Brambleworth Lantern")
    canvas.drawString(72, 700, "On the lowest setting, one charge of the Brambleworth lantern lasts 41 hours.")
    canvas.save()
    return buffer.getvalue()


def test_empty_collection_asks_for_documents_and_takes_no_question(app: AppTest) -> None:
    app.run()
    assert not app.exception
    assert "The collection is empty" in app.info[0].value
    assert app.chat_input[0].disabled
    run_until(app, lambda: "all-MiniLM-L6-v2" in html(app))
    sidebar = html(app)
    assert "minilm-reranker" in sidebar
    assert "Qdrant Edge" in sidebar


def test_ask_shows_the_cited_quote_the_ranking_and_then_a_refusal(app: AppTest) -> None:
    app.run()
    workspace = open_library().open()
    workspace.queue.submit("lantern.pdf", lantern_pdf())
    assert workspace.queue.wait(WAIT_S)
    app.run()
    app.chat_input[0].set_value("How long does one charge of the lantern last on the lowest setting?").run()
    run_until(app, lambda: 'data-testid="answer"' in html(app))
    assert "lasts 41 hours." in html(app)
    assert "Brambleworth Lantern</b>,\npage 1" in html(app)
    assert "1 kept of 1 at or above 0.40" in html(app)

    app.chat_input[0].set_value("Who won the football world cup in 1954?").run()
    run_until(app, lambda: 'data-testid="refusal"' in html(app))
    assert "The documents don’t answer this" in html(app)
    assert "No LLM was asked" in html(app)

    store = workspace.recorder.store()
    assert store is not None
    assert [one.outcome for one in store.summaries()] == ["refusal", "answer"], "both are kept"
    [document] = workspace.engines.index.documents()
    workspace.delete_document(document.document.id)
    assert workspace.engines.index.documents() == []
    texts = [candidate.chunk.text for stored in store.traces() for candidate in stored.trace.candidates]
    assert texts == ["", ""], "a deleted document leaves no words behind"
    assert 'data-testid="answer"' in html(app), "the earlier answer stays in the chat"
    assert not app.exception


def test_collection_that_another_program_holds_is_an_error_with_a_remedy(app: AppTest, settings: Settings) -> None:
    identity = SentenceTransformerEmbedder.embedded().identity
    held = EdgeIndex.open(settings.collection_dir / "index", settings.collection, identity)
    app.run()
    assert not app.exception
    assert "The collection is open in another program" in errors(app)
    assert "QDRANT" in errors(app), "one of the two ways out"

    held.close()
    app.button(key="open_again").click().run()
    assert not app.error
    assert "The collection is empty" in app.info[0].value


def test_collection_of_another_embedder_is_refused(app: AppTest, settings: Settings) -> None:
    other = EmbedderIdentity("BAAI/bge-m3", "abc", 1024)
    EdgeIndex.open(settings.collection_dir / "index", settings.collection, other).close()
    app.run()
    assert not app.exception
    assert "made with another embedder" in errors(app)
    assert "bge" in errors(app)


def test_wrong_setting_is_named_with_its_value(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK37_FLOOR", "7")
    app.run()
    assert not app.exception
    assert "floor" in errors(app)
    assert "7" in errors(app)


def test_stand_in_is_visible_and_a_failed_fetch_names_the_remedy(
    app: AppTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RANK37_RERANKER")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    run_until(app, lambda: "A stand-in" in html(app))
    assert "BAAI/bge-reranker-v2-m3" in html(app)
    fetch = next(button for button in app.button if "Fetch it now" in button.label)
    fetch.click().run()
    run_until(app, lambda: bool(app.error))
    assert "bge-reranker-v2-m3" in errors(app)
    assert not app.exception


def test_too_many_uploads_are_told_the_number_and_the_limit() -> None:
    settings = Settings(max_upload_files=3)
    assert too_many(3, settings) is None
    problem = too_many(4, settings)
    assert problem is not None
    assert "4 files at once; the limit is 3, and none was added" in problem
    assert "RANK37_MAX_UPLOAD_FILES" in problem
