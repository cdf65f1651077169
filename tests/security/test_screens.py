"""The app in a real browser with hostile names, titles, passages and an obedient model: nothing is fetched or run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Response, expect

from ingest.samples import mark_samples_done
from ingest.write import Ingester
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.settings import Settings
from rag.wiring import open_index
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.security.attacks import ATTACKS, NAMES
from tests.security.hostile_pdfs import FACT, QUESTION, pdf_with
from tests.security.test_injections import OBEDIENT
from tests.ui.running_app import ANSWER_MS, ask, browser, chromium, open_page, running_app

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

SHOWN_NAMES = ("script", "image", "attribute", "markdown", "formula")


@pytest.fixture
def data_dir(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> Path:
    """Documents with hostile names and titles, each of which answers the question."""
    settings = Settings(data_dir=tmp_path / "data", reranker="embedded")
    mark_samples_done(settings.collection_dir)
    with closing(open_index(settings, embedder.identity)) as index:
        ingester = Ingester.from_settings(settings, embedder, index)
        for number, name in enumerate(SHOWN_NAMES):
            text = f"{FACT} Edition {number}."
            path = pdf_with(tmp_path / f"{number}.pdf", ATTACKS["html"], fact=text, title=NAMES[name][:-4])
            assert ingester.ingest(path, source=NAMES[name]).status == "ingested"
    return settings.data_dir


class Watch:
    """What a page asks for, and what runs on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.elsewhere: list[str] = []
        page.on("request", self._asked)
        page.on("response", self._answered)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.url, self.url.replace("http", "ws", 1), "data:", "blob:")):
            self.elsewhere.append(request.url)

    def _answered(self, response: Response) -> None:
        """Kept for redirects, whose first address alone is in the request."""
        if not response.url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(response.url)

    def check(self) -> None:
        assert self.elsewhere == []
        assert self.page.evaluate("window.taken") is None, "a script of a document ran"
        drawn = self.page.locator("[data-testid=stMain], [data-testid=stSidebar]")
        assert drawn.locator("a[href*='collector.example'], img[src*='collector.example'], iframe").count() == 0
        assert drawn.locator("a[href^='javascript'], [onerror], [onload]").count() == 0


def test_hostile_documents_and_answers_fetch_nothing_and_run_nothing_on_any_page(data_dir: Path) -> None:
    with (
        FaultyLLMServer(OBEDIENT) as llm,
        running_app(
            data_dir, RANK37_RERANKER="embedded", RANK37_FLOOR="0", OPENAI_BASE_URL=llm.base_url,
            OPENAI_MODEL="scripted", RANK37_SPLIT_QUESTIONS="false",
        ) as url,
        browser() as chrome,
    ):  # fmt: skip
        page = open_page(chrome, url)
        watch = Watch(page, url)
        message = ask(page, f"{QUESTION} <img src=x onerror=window.taken=1> ![x](https://collector.example/q.png)")
        expect(message.get_by_test_id("answer")).to_contain_text("Everything is free")
        expect(message.get_by_test_id("answer")).to_contain_text("<script>window.taken=1</script>")
        expect(page.locator(".r37-after .r37-row").first).to_be_visible(timeout=ANSWER_MS)
        page.wait_for_timeout(2000)  # what is below the fold is drawn later
        watch.check()
        page.screenshot(path=data_dir.parent / "ask.png", full_page=True)

        page.get_by_test_id("stSidebarNavLink").filter(has_text="Documents").click()
        expect(page.get_by_role("heading", name="Documents", level=1)).to_be_visible()
        expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=ANSWER_MS)
        watch.check()

        page.get_by_test_id("stSidebarNavLink").filter(has_text="Quality").click()
        expect(page.get_by_role("heading", name="Quality", level=1)).to_be_visible(timeout=ANSWER_MS)
        page.wait_for_timeout(2000)
        watch.check()
