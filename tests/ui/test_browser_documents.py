"""Files of other kinds in a real browser: added, listed with receipts and chunks, still told of after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.ingest.docx_files import docx, heading, paragraph
from tests.ui.running_app import INGEST_MS, chromium, open_page, running_app, upload
from tests.ui.test_browser import LANTERN_PAGES, pdf_with, see, take

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]


def test_other_kinds_receipts_chunks_and_a_restart(tmp_path: Path, chrome: Browser) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    mark_samples_done(settings.collection_dir)
    terms = docx(heading(1, "Terms of sale") + paragraph("Goods can be returned within 30 days."), title="Terms")
    with running_app(settings.data_dir) as url:
        page = open_page(chrome, f"{url}/documents")
        expect(page.get_by_text("Nothing yet")).to_be_visible()
        see(upload(page, "terms.docx", terms), "ingested", timeout=INGEST_MS)
        see(upload(page, "login.pdf", b"<html>Log in"), "it is a web page", timeout=INGEST_MS)
        see(upload(page, "lantern.pdf", pdf_with(LANTERN_PAGES, title="Lantern")), "ingested", timeout=INGEST_MS)

        page.reload()
        see(page.get_by_test_id("job").filter(has_text="login.pdf"), "refused", timeout=INGEST_MS)
        table = page.get_by_test_id("stDataFrame")
        table.scroll_into_view_if_needed()
        table.click(position={"x": 16, "y": 52})  # the tick box of the first row: by title, the lantern
        receipt = page.get_by_test_id("receipt")
        expect(receipt).to_contain_text("lantern.pdf")
        expect(receipt).to_contain_text("no page")
        page.get_by_role("button", name="Look at its chunks on the page").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_test_id("cut-page").locator("i.r37-cut").first).to_be_visible(timeout=60_000)
        expect(dialog.get_by_test_id("chunk").first).to_contain_text("Brambleworth lantern")
        take(page, "documents-chunks")
        dialog.get_by_role("button", name="Page after").click()
        expect(dialog.get_by_test_id("chunk-page")).to_have_text("Page 2 of 3")
        expect(dialog.get_by_test_id("chunk").first).to_contain_text("41 hours")

    with running_app(settings.data_dir) as url:
        page = open_page(chrome, f"{url}/documents")
        page.get_by_text("Before the last start: 3 files, 1 of them refused").click()
        see(page.get_by_test_id("job").filter(has_text="login.pdf"), "it is a web page")
        page.get_by_role("button", name="Clear finished").click()
        expect(page.get_by_text("Before the last start")).to_have_count(0)
