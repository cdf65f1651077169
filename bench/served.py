"""Programs of this project as a person starts them, each in a process of its own, and a browser to look at their pages.

It drives nothing and measures nothing. The browser tests start the app by it too.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import filled_engines, settings_in
from bench.material import ROOT
from rag.errors import BadInput
from rag.types import Chunk

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LONGEST_S = 300.0
"""Generous: the models are loaded from a cold disk by two slow cores."""


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium that calls nobody by itself."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        try:
            yield launched
        finally:
            launched.close()


def filled_folder(folder: Path, files: Sequence[Path]) -> list[Chunk]:
    """Ingest the files into a new data folder that does not want the samples any more; returns their chunks."""
    from ingest.samples import mark_samples_done

    with filled_engines(folder, files) as (_engines, chunks):
        pass
    mark_samples_done(settings_in(folder).collection_dir)
    return chunks


def inherited() -> dict[str, str]:
    """What a program inherits here but for everything that configures this one."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RANK37_", "OPENAI_", "QDRANT_"))}


def environment_of(data_dir: Path) -> dict[str, str]:
    """What a program inherits here, and that it works in a data folder with the embedded reranker."""
    return inherited() | {"RANK37_DATA_DIR": str(data_dir), "RANK37_RERANKER": "embedded"}


@contextmanager
def served(
    module: Sequence[str], environment: Mapping[str, str], health_url: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m MODULE...` in an environment, once it answers; stopped at the end. What it prints is in `log`.

    Raises: BadInput where it does not start.
    """
    command = [sys.executable, "-m", *module]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + LONGEST_S
        while not _answers(health_url):
            if process.poll() is not None or time.monotonic() > end:
                last = log.read_text(encoding="utf-8", errors="replace").strip()[-500:]
                raise BadInput(
                    f"it did not start (exit status {process.poll()}): try `python -m {' '.join(module)}` ({last})"
                )
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@contextmanager
def served_pages(environment: Mapping[str, str], log: Path, *, port: int | None = None) -> Iterator[str]:
    """The app's pages in an environment, on that port or a free one; gives their address."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    module = ["streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    with served(module, environment, f"{url}/_stcore/health", log):
        yield url


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
