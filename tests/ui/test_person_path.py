"""How many clicks a person needs from an empty app to the first cited answer: README.md states the same numbers.

A click is a press of the mouse that reaches the page. Choosing a file in the system's own window and typing are none.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.ui.running_app import ANSWER_MS, INGEST_MS, ROOT, chromium, running_app
from tests.ui.test_browser import LANTERN_PAGES, LANTERN_QUESTION, pdf_with
from ui.welcome import SHOWPIECES

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

CLICKS_WITH_SAMPLES = 1
CLICKS_WITH_OWN_FILE = 3

COUNTER = """
  window.r37Presses = 0;
  addEventListener("pointerdown", (event) => (window.r37Presses += event.isTrusted), { capture: true });
"""


def counting_page(chrome: Browser, url: str) -> Page:
    """The app as it opens, in a window that counts presses of the mouse."""
    page = chrome.new_context().new_page()
    page.set_default_timeout(INGEST_MS)
    page.add_init_script(COUNTER)
    page.goto(url)
    page.get_by_role("heading", level=1).wait_for()
    return page


def clicks(page: Page) -> int:
    return int(page.evaluate("window.r37Presses"))


def see_cited_answer(page: Page, title: str) -> None:
    expect(page.get_by_test_id("answer")).to_be_visible(timeout=ANSWER_MS)
    expect(page.get_by_test_id("citation").first).to_contain_text(re.compile(rf"\[\d\] .*{title}", re.DOTALL))


def test_from_the_first_start_to_an_answer_of_the_samples(tmp_path: Path, chrome: Browser) -> None:
    with running_app(tmp_path / "data", RANK37_RERANKER="embedded") as url:
        page = counting_page(chrome, url)
        page.get_by_role("button", name=SHOWPIECES[0].question).click(timeout=INGEST_MS)
        see_cited_answer(page, "Ibuprofen")
        assert clicks(page) == CLICKS_WITH_SAMPLES


def test_from_an_empty_collection_to_an_answer_of_an_own_file(tmp_path: Path, chrome: Browser) -> None:
    lantern = tmp_path / "lantern.pdf"
    lantern.write_bytes(pdf_with(LANTERN_PAGES, title="Brambleworth Lantern"))
    settings = Settings(data_dir=tmp_path / "data")
    mark_samples_done(settings.collection_dir)
    with running_app(settings.data_dir, RANK37_RERANKER="embedded") as url:
        page = counting_page(chrome, url)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Upload", exact=True).click()
        chooser.value.set_files(lantern)
        page.get_by_test_id("stFileChip").first.wait_for()
        page.get_by_role("button", name="Add to the collection").click()
        box = page.get_by_test_id("stChatInputTextArea")
        expect(box).to_be_enabled(timeout=INGEST_MS)
        box.click()
        page.keyboard.type(LANTERN_QUESTION)
        page.keyboard.press("Enter")
        see_cited_answer(page, "Brambleworth Lantern")
        assert clicks(page) == CLICKS_WITH_OWN_FILE


def test_the_readme_states_these_numbers() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    words = {1: "one click", 3: "three clicks"}
    assert f"{words[CLICKS_WITH_SAMPLES]} to the first cited answer" in text
    assert f"{words[CLICKS_WITH_OWN_FILE]} to the first cited answer" in text
