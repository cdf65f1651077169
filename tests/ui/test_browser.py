"""The app in a real browser, from first start to answers, refusals and outages. Screenshots land in test-output/."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.ui.running_app import INGEST_MS, ROOT, ask, chromium, open_page, running_app, upload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

LANTERN_PAGES = (
    (
        "The Brambleworth lantern is a camping lamp with a folding handle.",
        "Charge it with the cable in the lid. A full charge takes five hours.",
        "Store the lantern dry and out of the sun.",
    ),
    (
        "Light settings and battery life.",
        "On the lowest setting, one charge of the Brambleworth lantern lasts 41 hours.",
        "On the brightest setting, one charge lasts six hours.",
    ),
    (
        "Care of the lantern.",
        "Wipe the glass with a soft cloth. Never open the housing.",
        "Send a lantern that flickers to the workshop in Brambleworth.",
    ),
)
LANTERN_QUESTION = "How long does one charge of the Brambleworth lantern last on the lowest setting?"


@pytest.fixture(scope="module")
def fresh_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A first start: nothing in the data folder, so the samples are brought in."""
    with running_app(tmp_path_factory.mktemp("first") / "data") as url:
        yield url


@pytest.fixture
def lantern_pdf() -> bytes:
    return pdf_with(LANTERN_PAGES, title="Brambleworth Lantern")


def pdf_with(pages: tuple[tuple[str, ...], ...], *, title: str) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4)
    canvas.setTitle(title)
    for lines in pages:
        for number, line in enumerate(lines):
            canvas.drawString(72, 760 - 22 * number, line)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def see(lines: Locator, text: str | re.Pattern[str], *, timeout: float = 30_000) -> None:
    """One of the lines shows the text. While a page is drawn anew, an old line can stand beside the new one."""
    expect(lines.filter(has_text=text).first).to_be_visible(timeout=timeout)


def take(page: Page, name: str) -> None:
    folder = ROOT / "test-output"
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def see_latest_question(page: Page) -> None:
    """The page has scrolled to the latest question, not to the end of its ranking."""
    page.wait_for_function(
        """() => {
          const { top } = [...document.querySelectorAll(".r37-question")].at(-1).getBoundingClientRect();
          return top >= 0 && top < 200;
        }"""
    )


def open_documents(page: Page) -> None:
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Documents").click()
    expect(page.get_by_role("heading", name="Documents", level=1)).to_be_visible()


def open_ask(page: Page) -> None:
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Ask").click()
    expect(page.get_by_role("heading", name="Ask your documents", level=1)).to_be_visible()


def new_chat(page: Page) -> None:
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".r37-question")).to_have_count(0)


def test_first_start_upload_ask_and_refuse(fresh_app: str, chrome: Browser, lantern_pdf: bytes) -> None:
    page = open_page(chrome, fresh_app)
    expect(page.get_by_text("Adding documents:")).to_be_visible()
    take(page, "1-first-start")

    open_documents(page)
    job = upload(page, "lantern.pdf", lantern_pdf)
    see(job, re.compile("waiting|running"))
    take(page, "2-uploading")
    see(job, "ingested", timeout=INGEST_MS)
    see(job, "3 pages")
    take(page, "3-documents")

    open_ask(page)
    message = ask(page, LANTERN_QUESTION)
    citation = message.get_by_test_id("citation").filter(has_text="lasts 41 hours")
    expect(citation).to_contain_text("[1] Brambleworth Lantern, page 2")
    expect(message).to_contain_text("no LLM wrote any of it")

    summary = page.get_by_test_id("rank-summary").last
    expect(summary).to_contain_text(re.compile(r"Recall \d+ → rerank → \d kept of \d+ at or above 0\.40"))
    before, after = page.locator(".r37-before").last, page.locator(".r37-after").last
    n_candidates = before.locator(".r37-row").count()
    assert n_candidates >= 10
    assert after.locator(".r37-row").count() == n_candidates, "both sides hold the same passages"
    first = after.locator(".r37-row").first
    expect(first).to_contain_text("Brambleworth Lantern")
    was = re.search(r"was (\d+)", first.inner_text())
    assert was is not None
    twin = before.locator(".r37-row").nth(int(was[1]) - 1)
    expect(twin).to_contain_text("Brambleworth Lantern")
    expect(twin).to_contain_text("now 1")
    expect(after.get_by_test_id("floor-line")).to_be_visible()
    see_latest_question(page)
    take(page, "4-answer")

    message = ask(page, "What does a season ticket for the Brambleworth railway cost?")
    refusal = message.get_by_test_id("refusal")
    expect(refusal).to_contain_text("The documents don’t answer this")
    expect(refusal).to_contain_text("below the floor of 0.40")
    expect(refusal).to_contain_text("No LLM was asked")
    expect(message.get_by_test_id("answer")).to_have_count(0)
    expect(page.get_by_test_id("rank-summary").last).to_contain_text("none at or above 0.40")
    expect(page.get_by_text("searched as typed")).to_be_visible()
    see_latest_question(page)
    take(page, "5-refusal")


def test_files_that_are_refused_say_why(fresh_app: str, chrome: Browser) -> None:
    page = open_page(chrome, f"{fresh_app}/documents")
    broken = upload(page, "broken <img src=x onerror=alert(1)> [a](b) $x$.pdf", b"%PDF-1.7\nnothing else")
    see(broken, "refused", timeout=INGEST_MS)
    see(broken, re.compile("damaged|unreadable"))
    no_pdf = upload(page, "letter.pdf", b"Dear reader, this is no PDF at all.")
    see(no_pdf, "not a PDF", timeout=INGEST_MS)
    assert page.locator("img[src=x]").count() == 0, "a file name must never become markup"
    take(page, "6-refused-files")


def test_narrow_and_dark_screens_hold_the_ranking(fresh_app: str, chrome: Browser) -> None:
    page = open_page(chrome, fresh_app, width=390, height=844, scheme="dark")
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_enabled(timeout=INGEST_MS)
    ask(page, "What is the ibuprofen dosage for children?")
    expect(page.locator(".r37-before").last).to_be_visible()
    expect(page.locator(".r37-after").last).to_be_visible()
    overflow = page.evaluate("document.querySelector('.stMain').scrollWidth - window.innerWidth")
    assert overflow <= 0, f"the page is {overflow} px wider than the screen"
    take(page, "7-narrow-dark")


def test_a_document_is_deleted_after_a_question(fresh_app: str, chrome: Browser) -> None:
    page = open_page(chrome, f"{fresh_app}/documents")
    expect(page.get_by_role("heading", name="Being added")).to_have_count(0, timeout=INGEST_MS)
    table = page.get_by_test_id("stDataFrame")
    table.scroll_into_view_if_needed()
    counted = re.search(r"(\d+) documents", page.locator(".r37-facts").inner_text())
    assert counted is not None
    delete = page.get_by_role("button", name="Delete 1 document")
    table.click(position={"x": 16, "y": 52})  # the tick box of the first row; the table is drawn on a canvas
    delete.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(".pdf")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(".r37-facts")).to_contain_text(f"{int(counted[1]) - 1} documents")


def test_pages_ask_nothing_of_other_hosts(fresh_app: str, chrome: Browser) -> None:
    context = chrome.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(fresh_app)
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_visible(timeout=60_000)
    open_documents(page)
    expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=INGEST_MS)
    assert asked
    assert [url for url in asked if not url.startswith((fresh_app, "data:", "blob:"))] == []


def test_llm_writes_a_checked_answer_then_fails(tmp_path: Path, chrome: Browser, lantern_pdf: bytes) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    mark_samples_done(settings.collection_dir)
    environment = {"OPENAI_API_KEY": "none", "RANK37_LLM_RETRIES": "0"}

    with FaultyLLMServer("On the lowest setting one charge lasts 41 hours [1].", piece_delay_s=0.02) as llm:
        with running_app(settings.data_dir, OPENAI_BASE_URL=llm.base_url, **environment) as url:
            page = open_page(chrome, f"{url}/documents")
            see(upload(page, "lantern.pdf", lantern_pdf), "ingested", timeout=INGEST_MS)
            open_ask(page)
            message = ask(page, LANTERN_QUESTION)
            expect(message.get_by_test_id("answer")).to_contain_text("one charge lasts 41 hours [1]")
            citation = message.get_by_test_id("citation").first
            expect(citation).to_contain_text("lasts 41 hours")
            expect(citation).to_contain_text("Brambleworth Lantern, page 2")
            take(page, "8-written-answer")

            llm.mode = "breaks_off"
            new_chat(page)
            message = ask(page, LANTERN_QUESTION)
            expect(message.get_by_test_id("stAlert")).to_contain_text("The LLM’s reply broke off")
            expect(message.get_by_test_id("answer")).to_have_count(0)
        closed = llm.base_url

    with running_app(settings.data_dir, OPENAI_BASE_URL=closed, **environment) as url:
        page = open_page(chrome, url)
        message = ask(page, LANTERN_QUESTION)
        expect(message.get_by_test_id("stAlert")).to_contain_text("The LLM can’t be reached")
        expect(message.get_by_test_id("refusal")).to_have_count(0)
        expect(page.get_by_test_id("rank-summary")).to_contain_text("kept of")
        expect(page.locator(".r37-after .r37-row").first).to_contain_text("Brambleworth Lantern")
        expect(page.get_by_text("Traceback")).to_have_count(0)
        take(page, "9-llm-down")
