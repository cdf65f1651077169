"""The app as a person starts it, `streamlit run app.py`, in a process of its own, and a headless Chromium.

It asserts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page

from bench.material import ROOT
from bench.served import browser, chromium, free_port, inherited, served_pages

__all__ = [
    "ANSWER_MS",
    "INGEST_MS",
    "ROOT",
    "ask",
    "browser",
    "chromium",
    "free_port",
    "open_page",
    "running_app",
    "upload",
]

ANSWER_MS = 300_000
INGEST_MS = 900_000
"""Generous: two slow cores that are busy with something else."""


@contextmanager
def running_app(data_dir: Path, *, port: int | None = None, **environment: str) -> Iterator[str]:
    """Serve the app on a free loopback port over `data_dir`; gives its address. Its log is `app.log` beside it."""
    everything = {**inherited(), "HF_HUB_OFFLINE": "1", "RANK37_DATA_DIR": str(data_dir), **environment}
    with served_pages(everything, data_dir.parent / f"{data_dir.name}.app.log", port=port) as url:
        yield url


def open_page(browser: Browser, url: str, *, width: int = 1280, height: int = 1000, scheme: str = "light") -> Page:
    """A page of the app, opened in a window of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    page.get_by_role("heading", level=1).wait_for(timeout=ANSWER_MS)  # the first page loads the models
    return page


def ask(page: Page, question: str) -> Locator:
    """Type a question, wait until it is dealt with, and give the last message: the answer, refusal or error."""
    before = page.locator(".r37-question").count()
    box = page.get_by_test_id("stChatInputTextArea")
    box.fill(question)
    box.press("Enter")
    page.locator(".r37-question").nth(before).wait_for()
    message = page.get_by_test_id("stChatMessage").last
    message.locator("[data-testid=answer], [data-testid=refusal], [data-testid=stAlert]").first.wait_for(
        timeout=ANSWER_MS
    )
    return message


def upload(page: Page, name: str, data: bytes) -> Locator:
    """Add a PDF on the Documents page; gives its line in the queue, whose outcome is still to come."""
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "application/pdf", "buffer": data})
    page.get_by_test_id("stFileChip").first.wait_for()
    page.get_by_role("button", name="Add to the collection").click()
    return page.get_by_test_id("job").filter(has_text=name)
