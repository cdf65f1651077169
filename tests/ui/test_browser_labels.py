"""Labels in a real browser: given by a click, there again after a reload and after a restart of the app."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.ui.running_app import INGEST_MS, ask, chromium, open_page, running_app, upload
from tests.ui.test_browser import LANTERN_PAGES, LANTERN_QUESTION, open_ask, pdf_with, see, take

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]


def choice(page: Page, group: str, verdict: str) -> Locator:
    """A verdict on the first passage, or on an outcome, of the latest question."""
    return page.get_by_role("radiogroup", name=group).last.get_by_role("radio", name=verdict)


def see_labels(page: Page) -> None:
    expect(choice(page, "Passage 1: Brambleworth Lantern", "Wrong")).to_be_checked(timeout=INGEST_MS)
    expect(page.get_by_role("radio", name="Wrongly refused")).to_be_checked()
    expect(page.get_by_test_id("label-count").last).to_contain_text("3 labels; 1 question has a right passage")
    page.get_by_text("Ranking before and after rerank").first.click()  # of an earlier question it is closed
    first = page.get_by_role("radiogroup", name="Passage 1: Brambleworth Lantern").first
    expect(first.get_by_role("radio", name="Right")).to_be_checked()


def test_labels_are_there_after_a_reload_and_a_restart(tmp_path: Path, chrome: Browser) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    mark_samples_done(settings.collection_dir)
    with running_app(settings.data_dir, RANK37_RERANKER="embedded") as url:
        page = open_page(chrome, f"{url}/documents")
        see(
            upload(page, "lantern.pdf", pdf_with(LANTERN_PAGES, title="Brambleworth Lantern")),
            "ingested",
            timeout=INGEST_MS,
        )
        open_ask(page)
        ask(page, LANTERN_QUESTION)
        right = choice(page, "Passage 1: Brambleworth Lantern", "Right")
        right.click()
        expect(right).to_be_checked()
        expect(page.get_by_test_id("label-count")).to_contain_text("1 label; 1 question has a right passage")
        right.click()
        expect(right).not_to_be_checked()
        right.click()
        expect(right).to_be_checked()

        ask(page, "What does a season ticket for the railway cost?")
        choice(page, "Your judgement of the refusal", "Wrongly refused").click()
        expect(page.get_by_text("Which passage answers it?")).to_be_visible()
        choice(page, "Passage 1: Brambleworth Lantern", "Wrong").click()
        see_labels(page)
        take(page, "11-labels")
        page.reload()
        see_labels(page)
        kept = urlsplit(page.url).query
        overflow = page.evaluate("document.querySelector('.stMain').scrollWidth - window.innerWidth")
        assert overflow <= 0, f"the page is {overflow} px wider than the screen"

    with running_app(settings.data_dir, RANK37_RERANKER="embedded") as url:
        page = open_page(chrome, f"{url}/?{kept}")
        see_labels(page)
        expect(page.locator(".r37-question")).to_have_count(2)
