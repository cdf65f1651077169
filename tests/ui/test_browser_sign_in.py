"""Signing in as a person does it, in a browser: before anything is shown, kept over a reload, over at signing out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.ui.running_app import ANSWER_MS, ROOT, browser, chromium, open_page, running_app

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

PASSWORD = "correct horse battery"


def test_a_person_signs_in_reloads_and_signs_out(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    mark_samples_done(settings.collection_dir)
    subprocess.run(
        [sys.executable, "-m", "rag", "people", "add", "ann", "--data-dir", str(settings.data_dir)],
        input=f"{PASSWORD}\n",
        text=True,
        cwd=ROOT,
        check=True,
    )
    with (
        running_app(settings.data_dir, RANK37_AUTH="password", RANK37_RERANKER="embedded") as url,
        browser() as launched,
    ):
        page = open_page(launched, f"{url}/collections")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        expect(page.get_by_test_id("stSidebarNav")).to_have_count(0)
        page.get_by_label("Name").fill("Ann")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text("Collections", timeout=ANSWER_MS)

        [cookie] = [one for one in page.context.cookies() if one["name"] == "rank37_session"]
        assert cookie["sameSite"] == "Strict"
        page.reload()
        expect(heading).to_have_text("Collections", timeout=ANSWER_MS)
        expect(page.get_by_role("button", name="Sign out")).to_be_visible()

        page.get_by_role("button", name="Sign out").click()
        expect(heading).to_have_text("Sign in", timeout=ANSWER_MS)
        page.context.add_cookies([cookie])  # a copy that someone kept
        page.reload()
        expect(heading).to_have_text("Sign in", timeout=ANSWER_MS)
        expect(page.get_by_text("Ann", exact=True)).to_have_count(0)
