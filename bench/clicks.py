"""`clicks`: from a click to the first paint of its effect, with nothing else running and while files are ingested.

No peer takes part. The times are taken in a headless Chromium by the page's own clock: from the release of the mouse's
button until the frame after the effect stood in the page. Browser, app and ingestion share this machine's cores.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.engines import settings_in
from bench.machine import OWN_LIBRARIES, versions
from bench.material import SAMPLES, copies_of, pdfs_of
from bench.rounds import spread
from bench.served import LONGEST_S, browser, chromium, environment_of, filled_folder, served_pages
from bench.words import figure, listed_versions, seconds_of
from rag.errors import BadInput, Rank37Error
from rag.evaluation.tables import Table

HEADING = "h1"
FOLDER_INPUT, FILES_INPUT = "input[type=file][webkitdirectory]", "input[type=file]:not([webkitdirectory])"
CLICKS = (
    ("to the Documents page", "[data-testid=stSidebarNavLink]", "Documents", HEADING, "Documents"),
    ("a switch on the page", "[data-testid=stButtonGroup] button", "A folder", FOLDER_INPUT, ""),
    ("a switch on the page", "[data-testid=stButtonGroup] button", "Files", FILES_INPUT, ""),
    ("to the Ask page", "[data-testid=stSidebarNavLink]", "Ask", HEADING, "Ask your documents"),
)
"""What is clicked in turn: a kind, where and by which words it is found, and where and by which words its effect is."""
IDLE, INGESTING = "nothing else running", "while files are ingested"
PAUSE_S = 0.4
"""Between two clicks, as a person looks before the next."""
SETTLED_S = 5.0
"""After the last file, before clicks count as alone: the page draws itself anew."""
MOST_FILES = 50
"""As many as the app takes at once."""

TIMED = """([selector, words]) => {
  window.r37Effect = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("no effect within two minutes")), 120_000);
    let clickedAt = null;
    const isEffect = (one) => one.textContent.trim().startsWith(words);
    const isThere = () => [...document.querySelectorAll(selector)].some(isEffect);
    const look = () => {
      if (clickedAt === null || !isThere()) return;
      observer.disconnect();
      requestAnimationFrame(() => setTimeout(() => resolve((performance.now() - clickedAt) / 1000)));
    };
    const observer = new MutationObserver(look);
    observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    const begin = (event) => { clickedAt = event.timeStamp; look(); };
    document.addEventListener("pointerup", begin, { capture: true, once: true });
  });
}"""
"""Armed before a click; the promise gives the seconds until the task after the next frame that had the effect in it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench clicks`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ (data)")
    parser.add_argument("--turns", type=int, default=2, help="turns of both, one after the other (2)")
    parser.add_argument("--rounds", type=int, default=4, help="how often all is clicked in a turn (4)")
    parser.add_argument("--files", type=int, default=20, help="PDFs ingested in a turn, copies of the set's (20)")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "clicks"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """Times of all clicks, in turns: alone, then while the files are ingested that the same page uploaded."""
    if chromium() is None:
        raise BadInput("Chromium is not installed: `clicks` needs a browser")
    for name in ("turns", "rounds", "files"):
        if not 1 <= getattr(options, name) <= MOST_FILES:
            raise BadInput(f"--{name} {getattr(options, name)}: 1 to {MOST_FILES} are possible")
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as name:
        folder = Path(name) / "data"
        filled_folder(folder, pdfs_of(options.set))
        copies = copies_of(pdfs_of(options.set), options.files * options.turns, Path(name) / "files")
        batches = [copies[number :: options.turns] for number in range(options.turns)]
        waiting = settings_in(folder).collection_dir / "uploads"
        with served_pages(environment_of(folder), folder.with_suffix(".log")) as url:
            times = _clicked(url, batches, waiting, options.rounds, show)
    if not times[INGESTING]:
        raise Rank37Error(f"{options.files} files were ingested before a round of clicks was done: give more --files")
    return {
        "set": options.set.name,
        "turns": options.turns,
        "files": options.files,
        "times": {when: {kind: spread(taken) for kind, taken in kinds.items()} for when, kinds in times.items()},
        "versions": versions([*OWN_LIBRARIES, "streamlit", "playwright"]),
    }


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    rows = []
    for kind, alone in result["times"][IDLE].items():
        busy = result["times"][INGESTING][kind]
        rows.append(
            (
                kind,
                seconds_of(alone["median_s"]),
                seconds_of(alone["most_s"]),
                seconds_of(busy["median_s"]),
                seconds_of(busy["most_s"]),
                figure(busy["median_s"] / alone["median_s"], "x"),
                f"{len(alone['seconds'])} and {len(busy['seconds'])}",
            )
        )
    columns = ("", "alone, median", "alone, worst", "meanwhile, median", "meanwhile, worst", "times alone", "clicks")
    notes = (
        f"In Chromium, over the ingested {result['set']}. Meanwhile: {result['files']} PDFs that the page had uploaded "
        f"are being ingested; only clicks before the last was in count. Alone and meanwhile {result['turns']} times in "
        "turns.",
    )
    return [
        Table("From a click to the paint of its effect", columns, tuple(rows), notes),
        listed_versions(result["versions"]),
    ]


def _clicked(
    url: str, batches: Sequence[Sequence[Path]], waiting: Path, rounds: int, show: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Seconds by when and kind."""
    times: dict[str, dict[str, list[float]]] = {IDLE: {}, INGESTING: {}}
    with browser() as chrome:
        page = chrome.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(LONGEST_S * 1000)
        page.goto(url)
        page.get_by_role("heading", level=1).wait_for()
        _round(page)  # what a page loads once is loaded
        for files in batches:
            _wait_until_ingested(waiting)
            for _ in range(rounds):
                _add(times[IDLE], _round(page))
            show(f"{IDLE}: {rounds} rounds")
            _upload(page, files)
            for number in range(rounds):
                taken = _round(page)
                if not _n_left(waiting):  # some of the round was clicked with nothing else running
                    show(f"the files were ingested within round {number + 1} of {rounds}: it does not count")
                    break
                _add(times[INGESTING], taken)
            show(f"{INGESTING}: {_n_left(waiting)} of {len(files)} files left")
    return times


def _n_left(waiting: Path) -> int:
    return len(list(waiting.glob("*.json")))


def _wait_until_ingested(waiting: Path) -> None:
    """Until the queue is empty, and the page has seen it."""
    while _n_left(waiting):
        time.sleep(1)
    time.sleep(SETTLED_S)


def _round(page: Any) -> list[tuple[str, float]]:
    """Click all in turn; the seconds of each. Raises Rank37Error where a click shows no effect."""
    from playwright.sync_api import Error

    taken = []
    for kind, selector, words, effect, effect_words in CLICKS:
        place = page.locator(selector).filter(has_text=re.compile(rf"{words}\s*$")).first
        place.wait_for()
        time.sleep(PAUSE_S)
        page.evaluate(TIMED, [effect, effect_words])
        place.click()
        try:
            taken.append((kind, float(page.evaluate("() => window.r37Effect"))))
        except Error as error:
            raise Rank37Error(f"a click on {words!r} ({kind}): {error}") from error
    return taken


def _upload(page: Any, files: Sequence[Path]) -> None:
    """On the Documents page, and back to the page of questions."""
    page.locator("[data-testid=stSidebarNavLink]").filter(has_text="Documents").click()
    page.get_by_role("heading", level=1, name="Documents").wait_for()
    page.locator(FILES_INPUT).first.set_input_files([str(file) for file in files])
    page.get_by_test_id("stFileChip").first.wait_for()
    page.get_by_role("button", name="Add to the collection").click()
    page.get_by_test_id("job").first.wait_for()
    page.locator("[data-testid=stSidebarNavLink]").filter(has_text="Ask").click()
    page.get_by_role("heading", level=1, name="Ask your documents").wait_for()


def _add(times: dict[str, list[float]], taken: Sequence[tuple[str, float]]) -> None:
    for kind, seconds in taken:
        times.setdefault(kind, []).append(seconds)
