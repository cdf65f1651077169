"""`python -m tests.ui.take_screens [FOLDER]`: the screenshots of the documentation, taken from the running app.

It starts the app on a fresh folder, waits for the sample documents, asks two questions, looks at every page and writes
PNG files (into docs/screens by default). For the Quality page it asks labelled sample questions as well, and calls the
passages of their pages right. It needs Chromium and the `dev` extra; it asserts nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from rag.evaluation.rankings import items_of_pages
from rag.evaluation.sets import read_set, sampled
from rag.pipeline import answer_question
from rag.settings import Settings
from rag.wiring import open_engines, open_recorder, policy_for
from tests.ui.running_app import INGEST_MS, ROOT, ask, browser, open_page, running_app

ANSWERED = "How long is the waiting period for critical illness?"
REFUSED = "What was the shop’s revenue last year?"
SAMPLE_QUESTIONS = 25
"""Of each kind, at random, for the Quality page."""


def main(folder: Path) -> None:
    """Take them all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = Path(temporary) / "data"
        take_documents_and_answers(folder, data_dir)
        ask_samples(data_dir)
        take_quality(folder, data_dir)


def take_documents_and_answers(folder: Path, data_dir: Path) -> None:
    """Those of a first start."""
    with running_app(data_dir) as url, browser() as chrome:
        page = open_page(chrome, f"{url}/documents")
        expect(page.get_by_text("Being added")).to_be_visible()
        expect(page.get_by_text("Being added")).to_have_count(0, timeout=2 * INGEST_MS)
        page.get_by_role("button", name="Clear finished").click()
        expect(page.get_by_test_id("job")).to_have_count(0)
        take(page, folder / "documents.png")

        take(open_page(chrome, url), folder / "welcome.png")
        for name, question, scheme, width, height in (
            ("ask", ANSWERED, "light", 1280, 1220),
            ("ask-dark", ANSWERED, "dark", 1280, 1220),
            ("ask-narrow", ANSWERED, "light", 390, 844),
            ("refusal", REFUSED, "light", 1280, 1060),
        ):
            page = open_page(chrome, url, width=width, height=height, scheme=scheme)
            ask(page, question)
            page.get_by_test_id("floor-line").wait_for()
            take(page, folder / f"{name}.png")
            if name in ("ask", "ask-narrow"):
                page.locator("button.r37-marker, button:has-text('Show page')").first.click()
                page.get_by_role("dialog").get_by_test_id("page-number").wait_for()
                take(page, folder / f"page{name.removeprefix('ask')}.png")
        for name, scheme, width in (
            ("collections", "light", 1280),
            ("settings", "light", 1280),
            ("settings-dark", "dark", 1280),
            ("settings-narrow", "light", 390),
        ):
            path = name.partition("-")[0]
            page = open_page(chrome, f"{url}/{path}", width=width, scheme=scheme)
            page.get_by_role("heading", name=path.capitalize()).first.wait_for()
            take(page, folder / f"{name}.png")


def ask_samples(data_dir: Path) -> None:
    """Ask the labelled sample questions of the app's collection, and call the passages of their pages right."""
    settings = Settings(data_dir=data_dir)
    engines, recorder = open_engines(settings), open_recorder(settings)
    try:
        items_of = items_of_pages({one.document.id: one.document.source for one in engines.index.documents()})
        store = recorder.store()
        assert store is not None
        for question in sampled(read_set(ROOT / "data"), SAMPLE_QUESTIONS, seed=37).questions:
            policy = policy_for(settings, engines.reranker, engines.embedder)
            trace = recorder.answered(answer_question(question.text, engines, policy)).trace
            for ranked in trace.ranked:
                if question.relevant.intersection(items_of(ranked.chunk)):
                    store.label(trace.id, "right", chunk_id=ranked.chunk.id)
    finally:
        engines.index.close()
        recorder.close()


def take_quality(folder: Path, data_dir: Path) -> None:
    """The Quality page, with its best floor tried."""
    with running_app(data_dir) as url, browser() as chrome:
        page = open_page(chrome, f"{url}/quality", height=1500)
        page.get_by_role("button", name="Best F1").click()
        page.get_by_test_id("flips").wait_for()
        take(page, folder / "quality.png")


def take(page: Page, path: Path) -> None:
    """One screenshot, once the page has come to rest."""
    page.get_by_test_id("stStatusWidget").wait_for(state="detached")
    page.mouse.move(0, 0)
    page.wait_for_timeout(4000)  # fades and scrolling have no event to wait for
    page.screenshot(path=path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "screens")
