"""`python -m tests.ui.take_screens [FOLDER] [--all]`: the screenshots of the documentation, taken from the running app.

It starts the app on a fresh folder, waits for the sample documents, asks two questions, looks at every page and writes
PNG files (into docs/screens by default). For the Quality page it asks labelled sample questions as well, and calls
right the passages that hold their answers. With --all it takes each page in light and dark, wide and narrow, to be
looked at. It needs Chromium and the `dev` extra; it asserts nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, TimeoutError, expect

from ingest.samples import mark_samples_done
from rag.evaluation.rankings import items_of_pages
from rag.evaluation.sets import read_set, sampled
from rag.pipeline import answer_question
from rag.settings import Settings
from rag.wiring import open_engines, open_recorder, policy_for
from tests.ui.running_app import ANSWER_MS, INGEST_MS, ROOT, ask, browser, open_page, running_app

ANSWERED = "How does ibuprofen work?"
"""Its answer is far down in what search finds: rank 21 becomes 3, and 9 becomes 1."""
REFUSED = "What was the shop’s revenue last year?"
SAMPLE_QUESTIONS = 20
"""Of each kind, at random, for the Quality page."""
WIDE, NARROW = (1280, 1000), (390, 844)
MOST_BYTES = 300_000
"""A larger picture is drawn with 256 colours."""

Draw = Callable[[Page], None]


@dataclass(frozen=True)
class Screen:
    """One page as it is to be seen."""

    name: str
    path: str = ""
    """Below the app's address; `{answered}` and `{refused}` stand for the ids of the two chats."""
    draw: Draw = lambda page: None
    """Brings it into the state that is taken."""
    height: int = WIDE[1]
    """Of the wide window."""
    documented: tuple[str, ...] = ("",)
    """The variants that the documentation shows."""


def show_rank_panel(page: Page) -> None:
    """The whole panel, its head at the top."""
    page.get_by_test_id("floor-line").wait_for()
    page.wait_for_timeout(4000)  # for so long the page holds the question at the top
    panel = page.get_by_test_id("stExpander").filter(has_text="Ranking before and after rerank")
    panel.evaluate("panel => { panel.style.scrollMarginTop = '1rem'; panel.scrollIntoView({ block: 'start' }); }")


def see_answer(page: Page) -> None:
    """The answer with its ranking below."""
    page.get_by_test_id("floor-line").wait_for()


def open_cited_page(page: Page) -> None:
    """The page of the first citation."""
    see_answer(page)
    page.get_by_role("button", name=re.compile(r"Show page \d")).first.click()
    page.get_by_role("dialog").get_by_test_id("page-number").wait_for()
    page.get_by_role("dialog").locator(".r37-quoted").first.wait_for()


def try_measured_floor(page: Page) -> None:
    """The Quality page with the conformal floor tried, and the questions that flip at it."""
    page.get_by_test_id("replay").wait_for(timeout=ANSWER_MS)
    page.get_by_test_id("verdict").wait_for()
    page.wait_for_timeout(3000)  # the charts are drawn after the words
    page.get_by_role("button", name=re.compile("^Conformal")).click()
    with suppress(TimeoutError):  # at another floor perhaps none flips
        page.get_by_test_id("flips").wait_for(timeout=30_000)


FIRST = (
    Screen("welcome", documented=("", "-narrow")),
    Screen("documents", "documents", documented=("", "-dark", "-narrow")),
)
"""Before anything was asked."""
ASKED = (
    Screen("ask", "?chat={answered}", see_answer, 1220, documented=("", "-dark", "-narrow")),
    Screen("ranking", "?chat={answered}", show_rank_panel, 1060, documented=("", "-dark")),
    Screen("page", "?chat={answered}", open_cited_page, documented=("", "-narrow")),
    Screen("refusal", "?chat={refused}", see_answer, 1060),
    Screen("collections", "collections"),
    Screen("settings", "settings", height=1500, documented=("", "-dark", "-narrow")),
)
QUALITY = (Screen("quality", "quality", try_measured_floor, 2000, documented=("", "-dark", "-narrow")),)
SIGN_IN = (Screen("sign-in"),)


def main(folder: Path, *, everything: bool) -> None:
    """Take them all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = Path(temporary) / "data"
        with running_app(data_dir) as url, browser() as chrome:
            page = open_page(chrome, f"{url}/documents")
            expect(page.get_by_text("Being added")).to_be_visible()
            expect(page.get_by_text("Being added")).to_have_count(0, timeout=2 * INGEST_MS)
            page.get_by_role("button", name="Clear finished").click()
            expect(page.get_by_test_id("job")).to_have_count(0)
            page.context.close()
            take(FIRST, folder, chrome, url, {}, everything=everything)
            chats = {"answered": chat_about(ANSWERED, chrome, url), "refused": chat_about(REFUSED, chrome, url)}
            take(ASKED, folder, chrome, url, chats, everything=everything)
        ask_samples(data_dir)
        with running_app(data_dir) as url, browser() as chrome:
            take(QUALITY, folder, chrome, url, {}, everything=everything)

        empty_dir = Path(temporary) / "people"
        mark_samples_done(Settings(data_dir=empty_dir).collection_dir)
        add = [sys.executable, "-m", "rag", "people", "add", "ann", "--data-dir", str(empty_dir)]
        subprocess.run(add, input="correct horse battery\n", text=True, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        with running_app(empty_dir, RANK37_AUTH="password") as url, browser() as chrome:
            take(SIGN_IN, folder, chrome, url, {}, everything=everything)


def chat_about(question: str, chrome: Browser, url: str) -> str:
    """Ask it in a chat of its own; gives the chat's id."""
    page = open_page(chrome, url)
    page.set_default_timeout(ANSWER_MS)
    ask(page, question)
    page.get_by_test_id("floor-line").wait_for()
    page.wait_for_url(re.compile(r"chat=[0-9a-f]{32}"))
    chat = page.url.partition("chat=")[2][:32]
    page.context.close()
    return chat


def ask_samples(data_dir: Path) -> None:
    """Ask the labelled sample questions, and call the passages right that hold a gold answer on its page."""
    settings = Settings(data_dir=data_dir)
    engines, recorder = open_engines(settings), open_recorder(settings)
    try:
        items_of = items_of_pages({one.document.id: one.document.source for one in engines.index.documents()})
        store = recorder.store()
        assert store is not None
        for question in sampled(read_set(ROOT / "data"), SAMPLE_QUESTIONS, seed=37).questions:
            policy = policy_for(settings, engines.reranker, engines.embedder)
            trace = recorder.answered(answer_question(question.text, engines, policy)).trace
            for ranked in trace.ranked:
                text = " ".join(ranked.chunk.text.split()).casefold()
                says = any(" ".join(answer.split()).casefold() in text for answer in question.answers)
                if says and question.relevant.intersection(items_of(ranked.chunk)):
                    store.label(trace.id, "right", chunk_id=ranked.chunk.id)
    finally:
        engines.index.close()
        recorder.close()


def take(
    screens: tuple[Screen, ...], folder: Path, chrome: Browser, url: str, chats: dict[str, str], *, everything: bool
) -> None:
    """Each of the screens in its variants."""
    for screen in screens:
        for suffix, scheme, (width, height) in (
            ("", "light", (WIDE[0], screen.height)),
            ("-dark", "dark", (WIDE[0], screen.height)),
            ("-narrow", "light", NARROW),
            ("-narrow-dark", "dark", NARROW),
        ):
            if not everything and suffix not in screen.documented:
                continue
            address = f"{url}/{screen.path.format(**chats)}"
            page = open_page(chrome, address, width=width, height=height, scheme=scheme)
            page.set_default_timeout(ANSWER_MS)
            page.get_by_test_id("stStatusWidget").wait_for(state="detached")
            screen.draw(page)
            photograph(page, folder / f"{screen.name}{suffix}.png")
            page.context.close()


def photograph(page: Page, path: Path) -> None:
    """One screenshot, once the page has come to rest."""
    page.get_by_test_id("stStatusWidget").wait_for(state="detached")
    page.mouse.move(0, 0)
    page.wait_for_timeout(4000)  # fades and scrolling have no event to wait for
    page.screenshot(path=path)
    with Image.open(path) as taken:
        picture = taken.convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path, f"{path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.ui.take_screens", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "screens")
    parser.add_argument("--all", action="store_true", help="each page in light and dark, wide and narrow")
    given = parser.parse_args()
    main(given.folder, everything=given.all)
