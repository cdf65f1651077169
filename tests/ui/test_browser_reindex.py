"""Re-indexing in a real browser: another embedder is chosen, a wrong one refused, progress seen, one run cancelled."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ingest.samples import mark_samples_done
from ingest.write import Ingester
from rag.settings import EMBEDDED, Settings
from rag.wiring import open_embedder, open_index
from tests.contracts.tiny_models import save_embedder
from tests.ingest.written_pdfs import long_pdf
from tests.ui.running_app import INGEST_MS, ask, chromium, open_page, running_app
from tests.ui.test_browser import LANTERN_PAGES, LANTERN_QUESTION, pdf_with, take

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

N_DOCUMENTS = 5
"""Enough work for a small machine that the page shows it, and a person can cancel it."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A collection of one short document and some long ones, brought in with the embedded embedder."""
    settings = Settings(data_dir=tmp_path / "data", reranker=EMBEDDED)
    mark_samples_done(settings.collection_dir)
    embedder = open_embedder(settings)
    index = open_index(settings, embedder.identity)
    try:
        ingester = Ingester.from_settings(settings, embedder, index)
        (tmp_path / "lantern.pdf").write_bytes(pdf_with(LANTERN_PAGES, title="Brambleworth Lantern"))
        files = [long_pdf(tmp_path / f"long-{seed}.pdf", seed=seed, pages=50) for seed in range(1, N_DOCUMENTS)]
        for file in (tmp_path / "lantern.pdf", *files):
            assert ingester.ingest(file).status == "ingested"
    finally:
        index.close()
    return settings


def begin(page: Page, name: str | None) -> None:
    """Open the dialog, choose, and press the button; None: the embedder in use."""
    page.get_by_role("button", name="Re-index …").click()
    dialog = page.get_by_role("dialog")
    if name is None:
        dialog.get_by_text("as now").click()
        expect(dialog.get_by_role("textbox", name="Its name or folder")).to_have_count(0)
    else:
        dialog.get_by_text("another", exact=True).click()
        dialog.get_by_role("textbox", name="Its name or folder").fill(name)
        dialog.get_by_role("textbox", name="Its name or folder").press("Tab")
    dialog.get_by_role("button", name="Re-index").click()


def test_a_collection_is_reindexed_while_it_answers(settings: Settings, tmp_path: Path, chrome: Browser) -> None:
    tiny = save_embedder(tmp_path / "tiny-embedder", "bert")
    with running_app(settings.data_dir, RANK37_RERANKER=EMBEDDED) as url:
        page = open_page(chrome, f"{url}/collections")
        other = open_page(chrome, url)
        ask(other, LANTERN_QUESTION)  # so that everything is loaded
        expect(page.get_by_text("embedded with sentence-transformers/all-MiniLM-L6-v2")).to_be_visible()

        begin(page, "no-such/model")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text("is not on this machine")).to_be_visible()
        take(page, "reindex-refused")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)

        begin(page, None)
        expect(page.get_by_text(f"of {N_DOCUMENTS} documents")).to_be_visible(timeout=INGEST_MS)
        expect(page.get_by_text("The earlier index answers meanwhile")).to_be_visible()
        take(page, "reindex-progress")
        expect(other.get_by_test_id("answer")).to_have_count(1)
        page.get_by_role("button", name="Cancel re-indexing").click()
        expect(page.get_by_text("Re-indexing was cancelled")).to_be_visible(timeout=INGEST_MS)
        page.get_by_role("button", name="OK").click()
        expect(page.get_by_text("Re-indexing was cancelled")).to_have_count(0)

        begin(page, str(tiny))
        expect(page.get_by_text("Re-indexed with")).to_be_visible(timeout=INGEST_MS)
        expect(page.get_by_text("embedded with tiny-embedder")).to_be_visible()
        take(page, "reindex-done")
        narrow = open_page(chrome, f"{url}/collections", width=390, height=844)
        expect(narrow.get_by_text("Re-indexed with")).to_be_visible()
        for name in ("Rename …", "Re-index …", "OK"):
            expect(narrow.get_by_role("button", name=name)).to_be_visible()
        take(narrow, "reindex-narrow")
        assert narrow.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        message = ask(other, LANTERN_QUESTION)
        expect(message).to_contain_text("41 hours")
        page.get_by_role("button", name="OK").click()

    with running_app(settings.data_dir, RANK37_RERANKER=EMBEDDED) as url:
        page = open_page(chrome, f"{url}/collections")
        expect(page.get_by_text("embedded with tiny-embedder")).to_be_visible()
        deadline = time.monotonic() + 10
        while (settings.collection_dir / "rebuilt").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
