"""Every page by the rules of axe-core, in light and dark; and a question asked and its page opened by keys alone.

Findings of impact serious or critical fail, Streamlit's own too: `ui/style.css` mends those.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.ingest.docx_files import docx, heading, paragraph
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.ui.running_app import ANSWER_MS, INGEST_MS, ROOT, ask, chromium, open_page, running_app, upload
from tests.ui.test_browser import LANTERN_PAGES, LANTERN_QUESTION, pdf_with, see

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

GRAVE = ("serious", "critical")
WAIT_MS = 60_000
"""For a page to be drawn, on two slow cores that are busy with something else."""
LOOKS = 3
"""A page that is drawn anew while axe looks is paler for a moment: what it finds then is looked at again."""
REPLY = "On the lowest setting one charge lasts 41 hours [1]. It weighs 900 grams [1]."
PASSWORD = "correct horse battery"
UNANSWERED = "What does a season ticket for the Brambleworth railway cost?"


@pytest.fixture(scope="module")
def app_url(tmp_path_factory: pytest.TempPathFactory, chrome: Browser) -> Iterator[str]:
    """The app over a PDF and a Word document, with an LLM that always says the same."""
    data_dir = tmp_path_factory.mktemp("accessible") / "data"
    mark_samples_done(Settings(data_dir=data_dir).collection_dir)
    terms = docx(heading(1, "Terms of sale") + paragraph("Goods can be returned within 30 days."), title="Terms")
    with ExitStack() as stack:
        llm = stack.enter_context(FaultyLLMServer(REPLY))
        url = stack.enter_context(
            running_app(data_dir, RANK37_RERANKER="embedded", OPENAI_BASE_URL=llm.base_url, OPENAI_API_KEY="none")
        )
        page = open_page(chrome, f"{url}/documents")
        lantern = pdf_with(LANTERN_PAGES, title="Brambleworth Lantern")
        see(upload(page, "lantern.pdf", lantern), "ingested", timeout=INGEST_MS)
        see(upload(page, "terms.docx", terms), "ingested", timeout=INGEST_MS)
        page.context.close()
        yield url


@pytest.fixture(scope="module")
def sign_in_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app where people sign in, and one of them."""
    data_dir = tmp_path_factory.mktemp("sign-in") / "data"
    mark_samples_done(Settings(data_dir=data_dir).collection_dir)
    subprocess.run(
        [sys.executable, "-m", "rag", "people", "add", "ann", "--data-dir", str(data_dir)],
        input=f"{PASSWORD}\n",
        text=True,
        cwd=ROOT,
        check=True,
    )
    with running_app(data_dir, RANK37_AUTH="password", RANK37_RERANKER="embedded") as url:
        yield url


def findings(page: Page) -> list[str]:
    """What axe finds that is grave, and still there once the page has come to rest: rule, place and what is wrong."""
    found: list[str] = []
    for _ in range(LOOKS):
        page.get_by_test_id("stStatusWidget").wait_for(state="detached", timeout=WAIT_MS)
        page.wait_for_function("!document.querySelector('[data-stale=true]')")
        page.wait_for_timeout(700)  # fades have no event to wait for, and half-faded text has too little contrast
        found = _grave(page)
        if not found:
            break
    return found


def _grave(page: Page) -> list[str]:
    violations: list[dict[str, Any]] = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{violation['id']} ({node['impact']}) at {json.dumps(node['target'])}: {node['failureSummary']} {node['html']}"
        for violation in violations
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]


def no_findings(page: Page) -> None:
    found = findings(page)
    assert not found, "\n".join(found)


def ask_page(chrome: Browser, url: str, scheme: str) -> Page:
    page = open_page(chrome, url, scheme=scheme)
    expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
    return page


def suggesting_page(chrome: Browser, url: str, scheme: str) -> Page:
    page = ask_page(chrome, url, scheme)
    page.get_by_text("What is in use").click()
    expect(page.get_by_test_id("engine-reranker")).to_be_visible()
    return page


def answered_page(chrome: Browser, url: str, scheme: str) -> Page:
    page = ask_page(chrome, url, scheme)
    message = ask(page, LANTERN_QUESTION)
    expect(message.get_by_test_id("unsupported")).to_be_visible()
    expect(page.get_by_test_id("rank-map")).to_be_visible()
    page.get_by_role("button", name="Which sentence decided it?").click()
    expect(page.get_by_test_id("deciding")).to_be_visible()
    return page


def refused_page(chrome: Browser, url: str, scheme: str) -> Page:
    page = ask_page(chrome, url, scheme)
    message = ask(page, UNANSWERED)
    expect(message.get_by_test_id("refusal")).to_be_visible()
    return page


def page_view(chrome: Browser, url: str, scheme: str) -> Page:
    page = answered_page(chrome, url, scheme)
    page.locator("button.r37-marker").first.click()
    expect(page.get_by_role("dialog").locator(".r37-quoted").first).to_be_visible()
    return page


def section_view(chrome: Browser, url: str, scheme: str) -> Page:
    page = ask_page(chrome, url, scheme)
    message = ask(page, "Within how many days can goods be returned?")
    message.get_by_role("button", name="Show section 1").first.click()
    expect(page.get_by_role("dialog").locator("mark.r37-quoted, .r37-read").first).to_be_visible()
    return page


def documents_page(chrome: Browser, url: str, scheme: str) -> Page:
    page = open_page(chrome, f"{url}/documents", scheme=scheme)
    table = page.get_by_test_id("stDataFrame")
    table.scroll_into_view_if_needed()
    table.click(position={"x": 16, "y": 52})  # the tick box of the first row
    expect(page.get_by_test_id("receipt")).to_be_visible()
    return page


def titled(path: str) -> Callable[[Browser, str, str], Page]:
    """The page of that path, opened."""

    def opened(chrome: Browser, url: str, scheme: str) -> Page:
        page = open_page(chrome, f"{url}/{path}", scheme=scheme)
        expect(page.get_by_role("heading", level=1, name=path.capitalize())).to_be_visible()
        return page

    return opened


def quality_page(chrome: Browser, url: str, scheme: str) -> Page:
    page = refused_page(chrome, url, scheme)  # so that there is a question
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Quality").click()
    expect(page.get_by_test_id("replay")).to_be_visible()
    return page


PAGES: dict[str, Callable[[Browser, str, str], Page]] = {
    "ask": suggesting_page,
    "answered": answered_page,
    "refused": refused_page,
    "page view": page_view,
    "section view": section_view,
    "documents": documents_page,
    "collections": titled("collections"),
    "quality": quality_page,
    "settings": titled("settings"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_grave_finding(app_url: str, chrome: Browser, name: str, scheme: str) -> None:
    page = PAGES[name](chrome, app_url, scheme)
    no_findings(page)
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_signing_in_and_an_empty_collection_have_no_grave_finding(
    sign_in_url: str, chrome: Browser, scheme: str
) -> None:
    page = open_page(chrome, sign_in_url, scheme=scheme)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    no_findings(page)
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("The collection is empty")).to_be_visible(timeout=ANSWER_MS)
    no_findings(page)
    page.context.close()


def test_a_finding_would_be_found(chrome: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<html lang="en"><title>x</title><main><h1>x</h1><button></button></main></html>')
    page = chrome.new_page()
    page.goto(bad.as_uri())
    assert [finding.split(" ")[0] for finding in findings(page)] == ["button-name"]
    page.close()


def tab_until(page: Page, condition: str, *, most: int = 150) -> None:
    """Press Tab until the focused element is the one."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(condition):
            return
    raise AssertionError(f"{most} times Tab did not reach it: {condition}")


def test_the_keyboard_alone_asks_opens_the_cited_page_and_comes_back(app_url: str, chrome: Browser) -> None:
    page = ask_page(chrome, app_url, "light")
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_enabled()
    tab_until(page, "document.activeElement.dataset.testid === 'stChatInputTextArea'")
    page.keyboard.type(LANTERN_QUESTION)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("answer")).to_be_visible(timeout=ANSWER_MS)
    on_marker = "document.activeElement.matches('button.r37-marker')"
    tab_until(page, on_marker)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "whoever presses keys sees where they are"

    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_test_id("page-number")).to_have_text("Page 2 of 3")
    tab_until(page, "document.activeElement.matches('[role=dialog] .r37-page')")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.wait_for_function(on_marker)  # the focus is back where it was
