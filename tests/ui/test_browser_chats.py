"""Chats, collections and settings in a real browser: back, reload, links, dialogs and the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.ui.running_app import ANSWER_MS, INGEST_MS, ask, chromium, open_page, running_app, upload
from tests.ui.test_browser import LANTERN_PAGES, LANTERN_QUESTION, new_chat, open_ask, pdf_with, see

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

CUP = "Who won the football world cup in 1954?"
KEY = "sk-a-secret-key"


@pytest.fixture(scope="module")
def app_url(tmp_path_factory: pytest.TempPathFactory, chrome: Browser) -> Iterator[str]:
    """The app over a collection with one document."""
    data_dir = tmp_path_factory.mktemp("chats") / "data"
    mark_samples_done(Settings(data_dir=data_dir).collection_dir)
    with running_app(data_dir, RANK37_RERANKER="embedded") as url:
        page = open_page(chrome, f"{url}/documents")
        lantern = pdf_with(LANTERN_PAGES, title="Brambleworth Lantern")
        see(upload(page, "lantern.pdf", lantern), "ingested", timeout=INGEST_MS)
        page.context.close()
        yield url


def chat_of(page: Page) -> str:
    page.wait_for_url(re.compile(r"chat=[0-9a-f]{32}"))
    found = re.search(r"chat=([0-9a-f]{32})", page.url)
    assert found is not None
    return found[1]


def test_back_reload_and_a_shared_link_bring_a_chat_back(app_url: str, chrome: Browser) -> None:
    page = open_page(chrome, app_url)
    ask(page, LANTERN_QUESTION)
    first = chat_of(page)
    new_chat(page)
    ask(page, CUP)
    second = chat_of(page)
    assert second != first

    page.go_back()
    expect(page.locator(".r37-question")).to_have_count(0)
    page.go_back()
    expect(page.locator(".r37-question")).to_have_text([LANTERN_QUESTION])
    assert chat_of(page) == first
    page.go_forward()
    expect(page.locator(".r37-question")).to_have_count(0)
    page.go_forward()
    expect(page.locator(".r37-question")).to_have_text([CUP])
    page.reload()
    expect(page.get_by_test_id("refusal")).to_be_visible()

    shared = open_page(chrome, f"{app_url}/?chat={first}")
    expect(shared.get_by_test_id("citation").first).to_contain_text("lasts 41 hours")
    shared.get_by_test_id("stSidebarNavLink").filter(has_text="Documents").click()
    expect(shared.get_by_role("heading", name="Documents", level=1)).to_be_visible()
    open_ask(shared)
    expect(shared.locator(".r37-question")).to_have_text([LANTERN_QUESTION])
    assert chat_of(shared) == first, "another page in between changes nothing"


def test_a_chat_is_edited_renamed_and_deleted(app_url: str, chrome: Browser) -> None:
    page = open_page(chrome, app_url)
    ask(page, CUP)
    ask(page, "And in 1958?")
    page.get_by_role("button", name="Edit the question").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("dropped from this chat")
    dialog.get_by_label("Question").fill(LANTERN_QUESTION)
    dialog.get_by_label("Question").press("Tab")
    dialog.get_by_role("button", name="Ask").click()
    expect(page.locator(".r37-question")).to_have_text([LANTERN_QUESTION], timeout=ANSWER_MS)
    expect(page.get_by_test_id("answer")).to_be_visible(timeout=ANSWER_MS)

    page.get_by_role("button", name="This chat").click()
    dialog.get_by_label("Title").fill("Lamps *and* oil")
    dialog.get_by_role("button", name="Rename").click()
    expect(dialog).to_have_count(0)
    listed = page.locator(".st-key-r37-chats").get_by_role("button", name="Lamps *and* oil")
    expect(listed).to_be_visible()

    page.get_by_role("button", name="This chat").click()
    expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
    dialog.get_by_text("Yes, delete this chat").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(".r37-question")).to_have_count(0)
    expect(listed).to_have_count(0)


def test_the_keyboard_alone_asks_and_opens_a_chat(app_url: str, chrome: Browser) -> None:
    page = open_page(chrome, app_url)
    box = page.get_by_test_id("stChatInputTextArea")
    expect(box).to_be_enabled()
    tab_until(page, "document.activeElement.dataset.testid === 'stChatInputTextArea'")
    page.keyboard.type(LANTERN_QUESTION)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("answer")).to_be_visible(timeout=ANSWER_MS)
    tab_until(
        page,
        "document.activeElement.matches('button') && document.activeElement.innerText.includes('Edit the question')",
    )
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    tab_until(page, "document.activeElement.matches('button') && document.activeElement.innerText.includes('New chat')")
    page.keyboard.press("Enter")
    expect(page.locator(".r37-question")).to_have_count(0)
    tab_until(page, "document.activeElement.matches('.st-key-r37-chats button')")
    page.keyboard.press("Enter")
    expect(page.locator(".r37-question").first).to_be_visible()


def tab_until(page: Page, condition: str, limit: int = 80) -> None:
    """Press Tab until the focus is there."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        if page.evaluate(condition):
            return
    raise AssertionError(f"not reached with {limit} times Tab: {condition}")


def test_a_collection_is_made_asked_and_deleted(app_url: str, chrome: Browser) -> None:
    page = open_page(chrome, f"{app_url}/collections")
    expect(page.get_by_text("1 document · 3 pages")).to_be_visible()
    page.get_by_label("New collection").fill("Town hall & <b>more</b>")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="Town hall & <b>more</b>")).to_be_visible()
    page.wait_for_url(re.compile("collection=town-hall"))
    open_ask(page)
    expect(page.get_by_text("The collection is empty")).to_be_visible()

    page.get_by_test_id("stSidebarNavLink").filter(has_text="Collections").click()
    page.get_by_role("button", name="Delete …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("To delete it").fill("Town")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_contain_text("nothing was deleted")
    dialog.get_by_label("To delete it").fill("Town hall & <b>more</b>")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("heading", name="Town hall & <b>more</b>")).to_have_count(0)
    assert "collection=" not in page.url


def test_a_key_that_was_saved_is_in_no_page(app_url: str, chrome: Browser) -> None:
    page = open_page(chrome, f"{app_url}/settings")
    page.get_by_label("Address").fill("http://127.0.0.1:9/v1")
    page.get_by_label("Key", exact=True).fill(KEY)
    page.get_by_label("Key", exact=True).press("Tab")
    page.get_by_role("button", name="Save and use").click()
    expect(page.get_by_text("Saved, and in use from now on")).to_be_visible()
    expect(page.get_by_label("Key", exact=True)).to_have_value("")
    assert KEY not in page.content()
    page.get_by_role("button", name="Test all").click()
    expect(page.get_by_test_id("stAlert").filter(has_text="LLM")).not_to_have_count(0)
    again = open_page(chrome, f"{app_url}/settings")
    expect(again.get_by_label("Address")).to_have_value("http://127.0.0.1:9/v1")
    assert KEY not in again.content()
    values = again.evaluate("[...document.querySelectorAll('input')].map(input => input.value)")
    assert KEY not in values
