"""`python -m tests.ui.take_screens [FOLDER]`: the screenshots of the documentation, taken from the running app.

It starts the app on a fresh folder, waits for the sample documents, asks two questions and writes PNG files (into
docs/screens by default). It needs Chromium and the `dev` extra; it asserts nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.ui.running_app import INGEST_MS, ROOT, ask, browser, open_page, running_app

ANSWERED = "How long is the waiting period for critical illness?"
REFUSED = "What was the shop’s revenue last year?"


def main(folder: Path) -> None:
    """Take them all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, running_app(Path(temporary) / "data") as url, browser() as chrome:
        page = open_page(chrome, f"{url}/documents")
        expect(page.get_by_text("Being added")).to_be_visible()
        expect(page.get_by_text("Being added")).to_have_count(0, timeout=2 * INGEST_MS)
        page.get_by_role("button", name="Clear finished").click()
        expect(page.get_by_test_id("job")).to_have_count(0)
        take(page, folder / "documents.png")

        for name, question, scheme, width, height in (
            ("ask", ANSWERED, "light", 1280, 1220),
            ("ask-dark", ANSWERED, "dark", 1280, 1220),
            ("ask-narrow", ANSWERED, "light", 390, 844),
            ("refusal", REFUSED, "light", 1280, 1060),
        ):
            page = open_page(chrome, url, width=width, height=height, scheme=scheme)
            ask(page, question)
            page.get_by_test_id("floor-line").wait_for()
            take(page, folder / f"{name}.png")


def take(page: Page, path: Path) -> None:
    """One screenshot, once the page has come to rest."""
    page.get_by_test_id("stStatusWidget").wait_for(state="detached")
    page.mouse.move(0, 0)
    page.wait_for_timeout(4000)  # fades and scrolling have no event to wait for
    page.screenshot(path=path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "screens")
