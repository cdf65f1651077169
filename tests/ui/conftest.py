"""What the browser tests share: a headless Chromium for the tests of a file."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.running_app import browser

WAIT_MS = 60_000
"""How long an expectation waits: a slow machine draws a page for seconds."""
_USUAL_WAIT_MS = 5_000


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    """A headless Chromium. What is expected of its pages may take `WAIT_MS`."""
    expect.set_options(timeout=WAIT_MS)
    with browser() as launched:
        yield launched
    expect.set_options(timeout=_USUAL_WAIT_MS)
