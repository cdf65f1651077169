"""What can be done with an answer, in a real browser: open its pages, check, replay, correct and take it along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.ui.running_app import INGEST_MS, ask, browser, chromium, open_page, running_app, upload
from tests.ui.test_browser import LANTERN_PAGES, LANTERN_QUESTION, open_ask, pdf_with, see, take

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

REPLY = (
    "On the lowest setting one charge lasts 41 hours [1]. It floats on water and weighs 900 grams [1]. "
    "The manual calls it “a lamp for all seasons” [1]."
)
UNANSWERED = "What does a season ticket for the Brambleworth railway cost?"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def lantern_app(tmp_path_factory: pytest.TempPathFactory, chrome: Browser) -> Iterator[str]:
    """The app over the manual of a lantern, with an LLM that always says the same."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("lantern") / "data")
    mark_samples_done(settings.collection_dir)
    with (
        FaultyLLMServer(REPLY, piece_delay_s=0.0) as llm,
        running_app(settings.data_dir, OPENAI_BASE_URL=llm.base_url, OPENAI_API_KEY="none") as url,
    ):
        page = open_page(chrome, f"{url}/documents")
        data = pdf_with(LANTERN_PAGES, title="Brambleworth Lantern")
        see(upload(page, "lantern.pdf", data), "ingested", timeout=INGEST_MS)
        page.close()
        yield url


def covers(page: Page) -> str:
    """The highlighted words' place: which of the drawn lines it covers, as `top,left` shares of the picture."""
    return str(
        page.evaluate(
            """() => {
              const sheet = document.querySelector(".r37-sheet img").getBoundingClientRect();
              const mark = document.querySelector(".r37-quoted").getBoundingClientRect();
              return [mark.top - sheet.top, mark.bottom - sheet.top].map((y) => (y / sheet.height).toFixed(3)).join();
            }"""
        )
    )


@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 1000, "light"), (390, 844, "dark")])
def test_a_marker_opens_the_page_with_the_quoted_words_highlighted(
    lantern_app: str, chrome: Browser, width: int, height: int, scheme: str
) -> None:
    page = open_page(chrome, lantern_app, width=width, height=height, scheme=scheme)
    message = ask(page, LANTERN_QUESTION)
    message.locator("button.r37-marker").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_test_id("page-number")).to_have_text("Page 2 of 3")
    expect(dialog.get_by_alt_text("Page 2 of Brambleworth Lantern, as printed")).to_be_visible()
    expect(dialog.locator(".r37-quoted").first).to_be_in_viewport()
    top, bottom = map(float, covers(page).split(","))
    # The second line's baseline is 738 points above the foot of the page of 841.89: its letters are around there.
    baseline = (841.89 - 738) / 841.89
    assert top < baseline - 0.008 < bottom
    assert bottom - top < 0.03, "one line"
    take(page, f"pages-{width}-{scheme}")
    overflow = page.evaluate("document.querySelector('[role=dialog]').scrollWidth - window.innerWidth")
    assert overflow <= 0, f"the dialog is {overflow} px wider than the screen"

    dialog.get_by_role("button", name="Page after").click()
    expect(dialog.get_by_test_id("page-number")).to_have_text("Page 3 of 3")
    expect(dialog.locator(".r37-quoted")).to_have_count(0)
    expect(dialog.get_by_role("button", name="Page after")).to_be_disabled()
    dialog.get_by_role("button", name="To page 2").click()
    expect(dialog.get_by_test_id("page-number")).to_have_text("Page 2 of 3")
    expect(dialog.locator(".r37-quoted").first).to_be_visible()

    link = dialog.get_by_role("link", name="Open the PDF at page 2")
    address = link.get_attribute("href")
    assert address is not None
    assert address.endswith("#page=2")
    reply = page.request.get(lantern_app + address.partition("#")[0])
    assert reply.headers["content-type"] == "application/pdf"
    assert "attachment" not in reply.headers.get("content-disposition", "")
    assert reply.body().startswith(b"%PDF")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download the PDF").click()
    assert re.fullmatch(r".*\.pdf", download.value.suggested_filename)
    assert Path(download.value.path()).read_bytes().startswith(b"%PDF")


def test_the_page_of_a_refusal_s_nearest_passage_opens_as_well(lantern_app: str, chrome: Browser) -> None:
    page = open_page(chrome, lantern_app)
    message = ask(page, UNANSWERED)
    expect(message.get_by_test_id("refusal")).to_be_visible()
    message.get_by_role("button", name=re.compile(r"Show page \d")).click()
    expect(page.get_by_role("dialog").locator(".r37-read").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    open_ask(page)
