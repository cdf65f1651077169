"""The Quality page without a browser, in each of its states, over real traces in a real store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from ingest.samples import mark_samples_done
from rag.engines.trace_store import SqlTraceStore
from rag.errors import Rank37Error
from rag.evaluation.quality import in_use, past_questions, quality_report
from rag.floor_store import StoredFloor, floor_text
from rag.settings import Settings
from rag.types import EngineInfo
from rag.wiring import floor_store
from tests.rag.quality_traces import fill, kept_question, other_revision
from ui.workspace import Workspace, open_library

WAIT_S = 120.0
LONG = "Is it covered " + "if the other party said nothing about it " * 6 + "<b>in writing</b>?"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace over an empty collection, opened once; closed afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("quality")
        patch.chdir(folder)
        patch.setenv("RANK37_DATA_DIR", str(folder / "data"))
        patch.setenv("RANK37_RERANKER", "embedded")
        patch.setenv("RANK37_TRACES_DAYS", "0")
        mark_samples_done(Settings().collection_dir)
        open_library.clear()
        workspace = open_library().open()
        yield workspace
        open_library().close()
        open_library.clear()


@pytest.fixture
def workspace(opened: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace without questions and floors; what a test changes of it is put back."""
    store = opened.recorder.store()
    assert store is not None
    store.delete_all()
    floor_store(opened.settings).path.unlink(missing_ok=True)
    monkeypatch.setattr(opened, "settings", opened.settings)
    monkeypatch.setattr(opened.recorder, "store", opened.recorder.store)
    return opened


@pytest.fixture
def engines(workspace: Workspace) -> tuple[EngineInfo, ...]:
    return workspace.engines.infos


@pytest.fixture
def store(workspace: Workspace) -> SqlTraceStore:
    store = workspace.recorder.store()
    assert isinstance(store, SqlTraceStore)
    return store


@pytest.fixture
def page(workspace: Workspace) -> AppTest:
    def draw() -> None:
        from ui import quality

        quality.show()

    return AppTest.from_function(draw, default_timeout=WAIT_S)


def html(page: AppTest) -> str:
    return "\n".join(element.proto.body for element in page.get("html"))


def captions(page: AppTest) -> str:
    return "\n".join(element.value for element in page.caption).replace("\\", "")


def label_buttons(page: AppTest) -> list[str]:
    return [button.label for button in page.button]


def ask_twenty(store: SqlTraceStore, engines: tuple[EngineInfo, ...], *, right: int | None = 1) -> None:
    """Questions whose best scores are 0.30, 0.33 to 0.87; four of them below the floor of 0.4."""
    traces = [
        kept_question(
            f"t{n}", (round(0.3 + 0.03 * n, 2), 0.05, 0.04), engines=engines, day=n % 3, question="" if n else LONG
        )
        for n in range(20)
    ]
    fill(store, traces, right=right)


def test_without_questions_it_says_how_the_page_fills(page: AppTest) -> None:
    page.run()
    assert not page.exception
    assert "No question of this collection is kept yet" in page.info[0].value
    assert "<b>0.40</b>" in html(page)


def test_traces_that_are_not_kept_are_said_so(page: AppTest, workspace: Workspace) -> None:
    workspace.recorder.store = lambda: None  # type: ignore[method-assign]  # what RANK37_TRACES=off makes of it
    page.run()
    assert not page.exception
    assert "RANK37_TRACES=off" in page.info[0].value


def test_questions_of_another_reranker_are_counted_and_not_used(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...]
) -> None:
    ask_twenty(store, tuple(other_revision(engines)))
    page.run()
    assert not page.exception
    assert "None of the questions asked so far can be used" in page.info[0].value
    assert "20 questions left out" in captions(page)
    assert "20 reranked by another revision" in captions(page)


def test_without_labels_the_replay_works_and_the_verdict_waits(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...]
) -> None:
    ask_twenty(store, engines, right=None)
    page.run()
    assert not page.exception
    assert "none of them labelled yet" in captions(page)
    assert "needs 19 labelled questions" in captions(page)
    assert "so far there are 0. Label 19 more" in captions(page)
    assert "Not known yet" in html(page)

    # 0.30, 0.33, 0.36, 0.39 are refused at 0.4; 0.33 lets the last three through.
    page.select_slider[0].set_value(0.33).run()
    assert '<b class="r37-up">3</b><span>refused then, let through now</span>' in html(page)
    assert ">19 of 20</b>" in html(page)


def test_the_page_sets_the_slider_where_it_has_to_and_not_while_it_is_moved(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...]
) -> None:
    """A value that is set overwrites in the browser where a person has moved the slider to while the page was drawn."""
    ask_twenty(store, engines, right=None)
    page.run()
    assert page.select_slider[0].proto.set_value, "the floor in use, at first"
    assert page.select_slider[0].value == 0.4
    for floor in (0.41, 0.3):
        page.select_slider[0].set_value(floor).run()
        assert not page.select_slider[0].proto.set_value
        assert page.select_slider[0].value == floor

    for n in range(20):
        store.label(f"t{n}", "right", chunk_id=kept_question(f"t{n}", (0.5,), engines=engines).ranked[0].chunk.id)
    page.run()
    assert any(label == "Conformal: 0.30" for label in label_buttons(page)), "its place on the slider has a name now"
    assert page.select_slider[0].value == 0.3
    assert page.select_slider[0].proto.set_value, "the browser knows it by the earlier words"
    assert ">20 of 20</b>" in html(page)


def test_long_questions_are_cut_with_the_whole_on_hover(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...]
) -> None:
    ask_twenty(store, engines)
    page.run()
    page.select_slider[0].set_value(0.0).run()
    shown = html(page)
    assert 'said nothing about it &lt;b&gt;in writing&lt;/b&gt;?">Is it covered if' in shown
    assert "…</td>" in shown
    assert "<b>in writing" not in shown


def test_every_figure_is_the_reports(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...], workspace: Workspace
) -> None:
    """The report is what `python -m rag quality` prints: tests/rag/test_evaluation_quality.py."""
    ask_twenty(store, engines)
    page.run()
    assert not page.exception
    now = in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
    past = past_questions(store.summaries(collection="documents"), now)
    report = quality_report(past, now, collection="documents")
    shown = html(page)
    for name, lift in report["verdict"]["lift"].items():
        before = report["verdict"]["before"][name]
        assert f"<td>{name}</td><td>{before['mean']:.3f} <small>[{before['low']:.3f}, {before['high']:.3f}]" in shown
        assert f"<td>{lift['mean']:+.3f} <small>[{lift['low']:+.3f}, {lift['high']:+.3f}]" in shown
    for depth in report["verdict"]["depths"]:
        assert f"{depth['nDCG@5']['mean']:.3f} <small>" in shown
    for mark in report["marks"]:
        assert any(label.endswith(f": {floor_text(mark['floor'])}") for label in label_buttons(page))
    for replayed in report["replays"]:
        page.select_slider[0].set_value(replayed["floor"]).run()
        shown = html(page)
        assert f">{replayed['passed']} of 20</b><span>pass the floor" in shown
        assert f">{replayed['now_passed']}</b><span>refused then" in shown
        assert f">{replayed['now_stopped']}</b><span>let through then" in shown


def test_another_risk_is_another_conformal_floor(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...]
) -> None:
    ask_twenty(store, engines)
    page.run()
    # 20 questions: k = floor(0.05 * 21) = 1, and floor(0.2 * 21) = 4: 0.30 and 0.30 + 3 * 0.03.
    assert "Conformal: 0.30" in label_buttons(page)
    page.segmented_control[0].set_value(0.2).run()
    assert "Conformal: 0.39" in label_buttons(page)


def test_apply_undo_and_reset(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...], workspace: Workspace
) -> None:
    ask_twenty(store, engines)
    page.run()
    scope = in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder).floor.scope
    floors = floor_store(workspace.settings)
    next(button for button in page.button if button.label.startswith("Conformal")).click().run()
    page.button(key="apply").click().run()
    assert not page.exception
    stored = floors.find(scope)
    assert stored is not None
    assert (stored.value, stored.how, stored.measured_on) == (0.3, "conformal", "20 labelled questions of documents")
    assert "The floor is 0.30 from now on (it was 0.40)." in page.success[0].value
    assert page.button(key="apply").disabled, "it is in use"

    next(button for button in page.button if button.label == "Undo").click().run()
    assert floors.find(scope) is None
    assert not page.success

    page.select_slider[0].set_value(0.55).run()
    page.button(key="apply").click().run()
    by_hand = floors.find(scope)
    assert by_hand is not None
    assert (by_hand.value, by_hand.how) == (0.55, "by hand")
    next(button for button in page.button if button.label == "Reset to default").click().run()
    assert floors.find(scope) is None
    assert "The floor is 0.40 again (it was 0.55)." in page.success[0].value
    next(button for button in page.button if button.label == "Undo").click().run()
    assert floors.find(scope) == by_hand


def test_a_floor_of_another_model_is_stale_and_recalibrating_is_offered(
    page: AppTest, store: SqlTraceStore, engines: tuple[EngineInfo, ...], workspace: Workspace
) -> None:
    scope = in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder).floor.scope
    old = replace(scope, reranker="an-older-model")
    floor_store(workspace.settings).put(StoredFloor(old, 0.7, "conformal", "2026-01-31T00:00:00+00:00", "a set"))
    page.run()
    said = "\n".join(element.value for element in page.markdown).replace("\\", "")
    assert "The stored floor of 0.70 is stale." in said
    assert "the reranker an-older-model, not" in said
    assert "calibrate --labels labels.jsonl" in page.code[0].value
    assert "<b>0.40</b>" in html(page)

    ask_twenty(store, engines)
    page.run()
    next(button for button in page.button if button.label.startswith("Recalibrate")).click().run()
    assert page.select_slider[0].value == 0.3, "the conformal floor of the labels"


def test_a_named_floor_cant_be_overridden(
    store: SqlTraceStore, engines: tuple[EngineInfo, ...], workspace: Workspace, page: AppTest
) -> None:
    ask_twenty(store, engines)
    workspace.settings = Settings(data_dir=workspace.settings.data_dir, floor=0.5)
    page.run()
    page.select_slider[0].set_value(0.2).run()
    assert page.button(key="apply").disabled
    assert "RANK37_FLOOR is set" in captions(page)


def test_a_store_that_cant_be_read_is_an_error_with_a_remedy(page: AppTest, workspace: Workspace) -> None:
    def fail() -> None:
        raise Rank37Error("the traces can't be read: move them away")

    workspace.recorder.store = fail  # type: ignore[method-assign,assignment]  # as a damaged file does
    page.run()
    assert not page.exception
    assert "move them away" in page.error[0].value.replace("\\", "")
