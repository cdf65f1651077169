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
from tests.ui.running_app import INGEST_MS, ask, chromium, open_page, running_app, upload
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
KETTLE_PAGES = (("The Brambleworth kettle boils a litre in three minutes.", "Descale it once a month."),)
DRAWN_MS = 60_000
"""For a page to be drawn by a process of its own, on two slow cores that are busy with something else."""
UNANSWERED = "What does a season ticket for the Brambleworth railway cost?"


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
        see(upload(page, "kettle.pdf", pdf_with(KETTLE_PAGES, title="Kettle")), "ingested", timeout=INGEST_MS)
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
    expect(dialog.get_by_test_id("page-number")).to_have_text("Page 2 of 3", timeout=DRAWN_MS)
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
    expect(dialog.get_by_test_id("page-number")).to_have_text("Page 3 of 3", timeout=DRAWN_MS)
    expect(dialog.locator(".r37-quoted")).to_have_count(0)
    expect(dialog.get_by_role("button", name="Page after")).to_be_disabled()
    dialog.get_by_role("button", name="To page 2").click()
    expect(dialog.get_by_test_id("page-number")).to_have_text("Page 2 of 3", timeout=DRAWN_MS)
    expect(dialog.locator(".r37-quoted").first).to_be_visible(timeout=DRAWN_MS)

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
    expect(page.get_by_role("dialog").locator(".r37-read").first).to_be_visible(timeout=DRAWN_MS)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    open_ask(page)


def test_statements_that_nothing_supports_are_marked_and_the_answer_is_copied_with_that(
    lantern_app: str, chrome: Browser
) -> None:
    page = open_page(chrome, lantern_app)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=lantern_app)
    message = ask(page, LANTERN_QUESTION)
    expect(message.get_by_test_id("doubts")).to_contain_text("2 of 3 statements are not supported")
    marked = message.get_by_test_id("unsupported")
    expect(marked).to_have_count(2)
    expect(marked.first).to_contain_text("unsupported: a figure of it is not in the passages that it cites")
    expect(marked.last).to_contain_text("unsupported: it was put in quotation marks, but is no quote")
    expect(marked.last).not_to_contain_text("“")
    message.get_by_role("button", name="Copy with citations").click()
    expect(message.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "[unsupported: it was put in quotation marks, but is no quote]" in copied
    assert "[1] Brambleworth Lantern, page 2: “" in copied
    take(page, "answers-unsupported")
    for name, start in (("Chat as Markdown", b"# Chat"), ("Chat as PDF", b"%PDF")):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert Path(download.value.path()).read_bytes().startswith(start)


def test_the_rank_panel_tries_a_floor_searches_explains_and_exports(lantern_app: str, chrome: Browser) -> None:
    page = open_page(chrome, lantern_app)
    ask(page, LANTERN_QUESTION)
    expect(page.get_by_test_id("leap")).to_contain_text("→ 1")
    expect(page.get_by_test_id("rank-map")).to_be_visible(timeout=DRAWN_MS)
    drawing = page.get_by_test_id("rank-map").locator("img")
    assert drawing.evaluate("picture => picture.complete && picture.naturalWidth > 0")
    page.get_by_role("slider").press("End")
    expect(page.get_by_test_id("tried-floor")).to_contain_text(
        "At a floor of 1.00 the question would be refused", timeout=DRAWN_MS
    )
    page.get_by_placeholder("Search the passages").fill("brightest")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("narrowed")).to_contain_text("1 of", timeout=DRAWN_MS)
    page.get_by_role("button", name="Which sentence decided it?").click()
    expect(page.get_by_test_id("deciding")).to_contain_text("lasts 41 hours", timeout=DRAWN_MS)
    for name, start in (("Ranking as CSV", b"\xef\xbb\xbfrank,"), ("Ranking as JSON", b"{")):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert Path(download.value.path()).read_bytes().startswith(start)
    take(page, "rank-panel")


def test_a_refused_question_is_answered_anyway_and_its_page_is_named(lantern_app: str, chrome: Browser) -> None:
    page = open_page(chrome, lantern_app, width=390, height=844, scheme="dark")
    message = ask(page, UNANSWERED)
    message.get_by_role("button", name=re.compile("Answer from the best")).click()
    expect(message.get_by_test_id("anyway")).to_contain_text("Below the floor: don’t rely on this", timeout=DRAWN_MS)
    expect(message.get_by_test_id("answer")).to_be_visible()
    take(page, "refusal-anyway")
    page.get_by_role("radio", name="Wrongly refused").last.click()
    message.get_by_role("button", name=re.compile(r"Yes, page \d answers it")).click()
    expect(message.get_by_test_id("said-where")).to_contain_text("is right", timeout=DRAWN_MS)
    overflow = page.evaluate("document.querySelector('.stMain').scrollWidth - window.innerWidth")
    assert overflow <= 0, f"the page is {overflow} px wider than the screen"
    take(page, "refusal-page")
