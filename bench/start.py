"""`start`: seconds from `streamlit run app.py` to a usable page, and to the first answer, on a filled collection.

No peer takes part. The browser is open already, and the files are in the disk's cache after the first round.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.machine import OWN_LIBRARIES, versions
from bench.material import SAMPLES, pdfs_of, questions_of
from bench.rounds import spread
from bench.served import LONGEST_S, browser, chromium, environment_of, filled_folder, served_pages
from bench.words import listed_versions, seconds_of
from rag.errors import BadInput
from rag.evaluation.tables import Table

MOMENTS = ("served", "page", "usable", "answer")
WORDS = {
    "served": "the server answers",
    "page": "the page has its heading",
    "usable": "a question can be typed",
    "answer": "the first question is answered or refused",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench start`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ and questions.jsonl (data)")
    parser.add_argument("--data-dir", type=Path, help="a filled data folder to copy; none: the set is ingested first")
    parser.add_argument("--rounds", type=int, default=3, help="starts, each in a process of its own (3)")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "start"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """The moments of each start, in seconds from the command."""
    if chromium() is None:
        raise BadInput("Chromium is not installed: `start` needs a browser")
    question = questions_of(options.set, 1)[0]
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as name:
        filled = Path(name) / "filled"
        if options.data_dir:
            shutil.copytree(options.data_dir, filled)
        else:
            filled_folder(filled, pdfs_of(options.set))
        starts = []
        for number in range(options.rounds):
            copy = Path(name) / f"copy-{number}"
            shutil.copytree(filled, copy)
            starts.append(_start(copy, question))
            show(f"start {number + 1}: " + ", ".join(f"{moment} {starts[-1][moment]:.1f} s" for moment in MOMENTS))
    return {
        "set": options.set.name,
        "times": {moment: spread([start[moment] for start in starts]) for moment in MOMENTS},
        "versions": versions([*OWN_LIBRARIES, "streamlit", "playwright"]),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    rows = tuple(
        (
            WORDS[moment],
            seconds_of(times["median_s"]),
            f"{seconds_of(times['least_s'])} to {seconds_of(times['most_s'])}",
        )
        for moment, times in result["times"].items()
    )
    notes = (
        f"Seconds from `streamlit run app.py`, over the ingested {result['set']}, in Chromium. The question is typed "
        "as soon as that is possible.",
    )
    return [
        Table("From the command to an answer", ("until", "median", "from to"), rows, notes),
        listed_versions(result["versions"]),
    ]


def _start(data_dir: Path, question: str) -> dict[str, float]:
    with browser() as chrome:
        page = chrome.new_page()
        page.set_default_timeout(LONGEST_S * 1000)
        started = time.perf_counter()
        with served_pages(environment_of(data_dir), data_dir.with_suffix(".log")) as url:
            moments = {"served": time.perf_counter() - started}
            page.goto(url)
            page.get_by_role("heading", level=1).wait_for()
            moments["page"] = time.perf_counter() - started
            box = page.locator("[data-testid=stChatInputTextArea]:enabled")
            box.wait_for()
            moments["usable"] = time.perf_counter() - started
            box.fill(question)
            box.press("Enter")
            page.locator("[data-testid=answer], [data-testid=refusal]").first.wait_for()
            moments["answer"] = time.perf_counter() - started
    return moments
