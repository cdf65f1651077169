"""The Quality page in a real browser: the slider flips questions at once, and a floor is applied and taken back."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import expect

from ingest.samples import mark_samples_done
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.engines.trace_store import SqlTraceStore
from rag.settings import Settings
from rag.wiring import open_rerankers
from tests.rag.quality_traces import fill, kept_question
from tests.ui.running_app import browser, chromium, open_page, running_app
from tests.ui.test_browser import take

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

WAIT_MS = 300_000


@pytest.fixture
def data_dir(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> Path:
    """Twenty labelled questions, whose best scores are 0.30, 0.33 to 0.87."""
    settings = Settings(data_dir=tmp_path / "data", reranker="embedded")
    mark_samples_done(settings.collection_dir)
    engines = (embedder.info, open_rerankers(settings)[0].info)
    traces = [
        kept_question(f"t{n}", (round(0.3 + 0.03 * n, 2), 0.05, 0.04), engines=engines, day=n % 3) for n in range(20)
    ]
    with closing(SqlTraceStore.open_file(settings.data_dir / "traces.sqlite")) as store:
        fill(store, traces, right=1)
    return settings.data_dir


def test_move_the_slider_and_apply_a_floor(data_dir: Path) -> None:
    with running_app(data_dir, RANK37_RERANKER="embedded", RANK37_TRACES_DAYS="0") as url, browser() as chrome:
        open_page(chrome, url)  # the models are loaded once
        page = open_page(chrome, f"{url}/quality", height=1400)
        replay = page.get_by_test_id("replay")
        # 0.30, 0.33, 0.36, 0.39 are below the floor of 0.4.
        expect(replay).to_contain_text("16 of 20", timeout=WAIT_MS)
        expect(page.get_by_test_id("verdict")).to_contain_text("Keep it on", timeout=WAIT_MS)

        slider = page.get_by_role("slider")
        slider.focus()
        slider.press("ArrowRight")
        slider.press("ArrowRight")
        slider.press("ArrowRight")
        # At 0.43 the question with 0.42 is refused as well.
        expect(replay).to_contain_text("15 of 20", timeout=WAIT_MS)
        flips = page.get_by_test_id("flips").locator("tbody tr")
        expect(flips).to_have_count(1, timeout=WAIT_MS)
        expect(flips.first).to_contain_text("What does t4 say?", timeout=WAIT_MS)
        expect(flips.first).to_contain_text("0.420", timeout=WAIT_MS)

        page.get_by_role("button", name="Conformal: 0.30").click()
        # k = floor(0.05 * 21) = 1: the smallest gold score lets all through.
        expect(replay).to_contain_text("20 of 20", timeout=WAIT_MS)
        page.get_by_role("button", name="Apply 0.30").click()
        in_use = page.get_by_test_id("floor-in-use")
        expect(in_use).to_contain_text("0.30", timeout=WAIT_MS)
        expect(in_use).to_contain_text("Conformal floor on 20 labelled questions of documents", timeout=WAIT_MS)
        expect(page.get_by_test_id("stSidebar")).to_contain_text("Floor 0.30", timeout=WAIT_MS)
        take(page, "10-quality")

        page.get_by_role("button", name="Undo").click()
        expect(in_use).to_contain_text("0.40", timeout=WAIT_MS)
        expect(page.get_by_test_id("stSidebar")).to_contain_text("Floor 0.40", timeout=WAIT_MS)
        expect(page.get_by_text("Traceback")).to_have_count(0)
