"""Programs of this project as a person starts them, each in a process of its own over a filled data folder.

It drives nothing and measures nothing.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.engines import filled_engines, settings_in
from bench.material import ROOT
from rag.errors import BadInput
from rag.types import Chunk

LONGEST_S = 300.0
"""Generous: the models are loaded from a cold disk by two slow cores."""


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def filled_folder(folder: Path, files: Sequence[Path]) -> list[Chunk]:
    """Ingest the files into a new data folder that does not want the samples any more; returns their chunks."""
    from ingest.samples import mark_samples_done

    with filled_engines(folder, files) as (_engines, chunks):
        pass
    mark_samples_done(settings_in(folder).collection_dir)
    return chunks


def environment_of(data_dir: Path) -> dict[str, str]:
    """What a program inherits here but for everything that configures this one; the embedded reranker is named."""
    others = {
        name: value for name, value in os.environ.items() if not name.startswith(("RANK37_", "OPENAI_", "QDRANT_"))
    }
    return others | {"RANK37_DATA_DIR": str(data_dir), "RANK37_RERANKER": "embedded"}


@contextmanager
def served(
    module: Sequence[str], data_dir: Path, health_url: str, log: Path, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m MODULE...` with settings of its own, once it answers; stopped at the end. What it prints is in `log`.

    Raises: BadInput where it does not start.
    """
    command = [sys.executable, "-m", *module]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment_of(data_dir) | settings, stdout=output, stderr=subprocess.STDOUT
        )
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
def served_pages(data_dir: Path) -> Iterator[str]:
    """The app's pages on a free port; gives their address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    module = ["streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    with served(module, data_dir, f"{url}/_stcore/health", data_dir.with_suffix(".log")):
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
