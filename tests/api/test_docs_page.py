"""The page /docs: drawn by what this server gives, without a word to another host, also where callers need keys."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.api.conftest import Served
from tests.ui.running_app import browser, chromium


def test_every_file_that_the_page_names_comes_from_this_server(served: Served) -> None:
    with served.client(None) as client:
        page = client.get("/docs")
        named = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)["']""", page.text)
        paths = [name for name in named if not name.startswith("data:")]
        assert len(paths) >= 2, "its script and its style"
        for path in paths:
            assert path.startswith("/docs/"), path
            file = client.get(path)
            assert file.is_success, path
            assert len(file.content) > 10_000, path
    assert re.findall(r"https?://[^\s\"']+", page.text) == []


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests")
def test_a_browser_draws_it_and_asks_no_other_host(served: Served) -> None:
    asked: list[str] = []
    with browser() as launched:
        page = launched.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{served.url}/docs")
        expect(page.get_by_text("/v1/retrieve", exact=True)).to_be_visible(timeout=60_000)
        page.wait_for_load_state("networkidle")
        assert page.title() == "Rank37: HTTP API"
    assert len(asked) >= 4, "the page, its script, its style and the description"
    assert [url for url in asked if not url.startswith((served.url, "data:"))] == []
