"""The app as a person starts it, `streamlit run app.py`, in a process of its own, and a headless Chromium.

It asserts nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
ANSWER_MS = 300_000
INGEST_MS = 900_000
"""Generous: two slow cores that are busy with something else."""


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def running_app(data_dir: Path, *, port: int | None = None, **environment: str) -> Iterator[str]:
    """Serve the app on a free loopback port over `data_dir`; gives its address. Its log is `app.log` beside it."""
    port = port or free_port()
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("RANK37_", "OPENAI_", "QDRANT_"))
    }
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    log = data_dir.parent / f"{data_dir.name}.app.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, "HF_HUB_OFFLINE": "1", "RANK37_DATA_DIR": str(data_dir), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_served(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield launched
        launched.close()


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


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_served(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the app ended with {process.returncode}: {log.read_text(errors='replace')}")
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the app did not answer within {START_S:.0f} s: {log.read_text(errors='replace')}")
