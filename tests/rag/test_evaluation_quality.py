"""Figures from kept questions: which are taken, and what they say, by hand; the command prints the very same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rag.__main__ import EXIT_BAD_INPUT, main
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.engines.trace_store import SqlTraceStore
from rag.errors import BadInput
from rag.evaluation.floor_report import calibration_report, sweep_report
from rag.evaluation.floors import replay
from rag.evaluation.quality import (
    InUse,
    flips,
    floor_to_store,
    in_use,
    labelled_questions,
    past_questions,
    quality_report,
    state_key,
)
from rag.evaluation.scored_questions import ScoredQuestions
from rag.floor_store import FloorInUse, FloorScope
from rag.settings import load_settings
from rag.types import EngineInfo
from rag.wiring import open_rerankers
from tests.rag.quality_traces import fill, kept_question, other_revision

ENGINES = (EngineInfo("embedder", "minilm", "a"), EngineInfo("reranker", "small", "b", "float32"))
SCOPE = FloorScope("documents", "small", "b", "float32", None, 32, "minilm", "a")
NOW = InUse(ENGINES[1], ENGINES[1], ENGINES[0], FloorInUse(0.4, "default", "the default", SCOPE))

PADDING = [0.05 - 0.001 * place for place in range(19)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlTraceStore]:
    with closing(SqlTraceStore.open_file(tmp_path / "traces.sqlite")) as store:
        yield store


def report_of(store: SqlTraceStore, risk: float = 0.05) -> dict:
    return quality_report(past_questions(store.summaries(), NOW), NOW, collection="documents", risk=risk)


def test_scores_of_other_engines_are_left_out_and_counted(store: SqlTraceStore) -> None:
    fill(store, [kept_question("mine", (0.9,), engines=ENGINES)])
    fill(store, [kept_question(f"old {n}", (0.9,), engines=other_revision(ENGINES)) for n in range(2)])
    coarse = (ENGINES[0], replace(ENGINES[1], precision="bfloat16"))
    fill(store, [kept_question("coarse", (0.9,), engines=coarse)])
    moved = (replace(ENGINES[0], revision="z"), ENGINES[1])
    fill(store, [kept_question("moved", (0.9,), engines=moved)])
    past = past_questions(store.summaries(), NOW)
    assert [one.id for one in past.questions] == ["mine"]
    assert dict(past.left_out) == {
        "reranked by another revision of small": 2,
        "reranked in bfloat16, not float32": 1,
        "recalled by another embedder (minilm)": 1,
    }


def test_a_floor_flips_questions_both_ways(store: SqlTraceStore) -> None:
    fill(store, [kept_question(name, (best, 0.01), engines=ENGINES) for name, best in (("low", 0.3), ("high", 0.9))])
    past = past_questions(store.summaries(), NOW)
    report = report_of(store)
    assert [one["id"] for one in flips(past, report, 0.3)["now_passed"]] == ["low"], "the floor is inclusive"
    assert flips(past, report, 0.31)["now_passed"] == []
    lost = flips(past, report, 0.95)["now_stopped"]
    assert [(one["id"], one["outcome"], one["best_score"]) for one in lost] == [("high", "answer", 0.9)]
    for one in report["replays"]:
        found = replay(past.best_scores, [0.4, 0.4], one["floor"])
        assert (one["passed"], one["now_passed"]) == (found.passed, len(found.now_passed))
    with pytest.raises(BadInput, match="scores lie in 0 to 1"):
        flips(past, report, 1.5)


def test_labels_of_a_question_asked_twice_are_one_question(store: SqlTraceStore) -> None:
    same = [kept_question(f"t{day}", (0.9, 0.2), engines=ENGINES, day=day, question="Why?") for day in range(2)]
    fill(store, same, right=1)
    labelled, notes = labelled_questions(store.summaries())
    assert [(one.summary.id, one.right_ranks) for one in labelled] == [("t1", (1,))], "the newest counts"
    assert notes == ("1 questions were labelled more than once: each counts once",)


def test_a_passage_called_right_and_wrong_is_neither(store: SqlTraceStore) -> None:
    first = kept_question("t0", (0.9, 0.2), engines=ENGINES, question="Why?")
    fill(store, [first], right=1)
    again = replace(first, id="t1")
    fill(store, [again])
    store.label("t1", "wrong", chunk_id=first.ranked[0].chunk.id)
    labelled, notes = labelled_questions(store.summaries())
    assert labelled == []
    assert "1 labelled questions were left out" in notes[0]


def test_floors_are_those_of_the_reports_of_floors(store: SqlTraceStore) -> None:
    bests = [0.5 + 0.02 * n for n in range(19)]
    fill(store, [kept_question(f"t{n}", (best, *PADDING), engines=ENGINES) for n, best in enumerate(bests)], right=1)
    report = report_of(store)
    labelled, _ = labelled_questions(store.summaries())
    name = "19 labelled questions of documents"
    scored = ScoredQuestions(name, tuple(one.scored() for one in labelled), ENGINES[1], ENGINES[1], SCOPE, 0.4)
    assert report["sweep"] == sweep_report(scored)
    assert report["calibration"] == calibration_report(scored, 0.05)
    # k = floor(0.05 * (19 + 1)) = 1: the smallest gold score.
    assert report["calibration"]["floor"] == 0.5
    conformal = floor_to_store(0.5, report, NOW)
    assert (conformal.value, conformal.how, conformal.scope, conformal.measured_on) == (0.5, "conformal", SCOPE, name)
    best = report["sweep"]["best_keep"]["point"]["floor"]
    assert floor_to_store(best, report, NOW).how == "sweep"
    assert floor_to_store(0.77, report, NOW).how == "by hand"


def test_too_few_labels_for_a_conformal_floor_say_how_many_are_missing(store: SqlTraceStore) -> None:
    fill(store, [kept_question(f"t{n}", (0.8, 0.1), engines=ENGINES) for n in range(4)], right=1)
    report = report_of(store)
    needed = math.ceil(1 / 0.05) - 1
    assert report["needs"] == {"risk": 0.05, "n": 4, "needed": needed, "missing": needed - 4}
    assert report["calibration"] is None
    assert report_of(store, risk=0.2)["calibration"]["floor"] == 0.8, "ceil(1 / 0.2) - 1 = 4 are enough"


def test_without_labels_there_is_no_sweep_and_no_verdict(store: SqlTraceStore) -> None:
    fill(store, [kept_question("t", (0.8, 0.1), engines=ENGINES)])
    report = report_of(store)
    assert report["sweep"] is None
    assert report["verdict"]["decision"] == "unknown"
    assert report["verdict"]["rerank_ms"] == 200.0


def test_the_verdict_by_hand(store: SqlTraceStore) -> None:
    # The right passage was recalled 30th of 30 and is first after rerank: R@10 0 -> 1, nDCG@5 0 -> 1.
    scores = (0.9, *(0.3 - 0.01 * place for place in range(29)))
    fill(store, [kept_question(f"t{n}", scores, engines=ENGINES) for n in range(3)], right=1)
    verdict = report_of(store)["verdict"]
    assert verdict["decision"] == "on"
    assert {name: one["mean"] for name, one in verdict["before"].items()} == {"R@10": 0.0, "nDCG@5": 0.0}
    assert {name: one["mean"] for name, one in verdict["lift"].items()} == {"R@10": 1.0, "nDCG@5": 1.0}
    # Reading 20 leaves it where it was; reading 50 reads all 30, and nothing is left for 100.
    assert [(row["depth"], row["nDCG@5"]["mean"], row["ms"]) for row in verdict["depths"]] == [
        (20, 0.0, 200.0 * 20 / 30),
        (50, 1.0, 200.0),
    ]
    assert verdict["best_depth"] == 50


def test_no_lift_says_off_and_the_smallest_depth_pays_best(store: SqlTraceStore) -> None:
    scores, ranks = [0.9 - 0.01 * place for place in range(60)], range(1, 61)
    traces = [kept_question(f"t{n}", scores, engines=ENGINES, recall_ranks=ranks) for n in range(3)]
    fill(store, traces, right=2)
    verdict = report_of(store)["verdict"]
    assert verdict["decision"] == "off"
    # Second of the ranking: nDCG@5 = (1 / log2(3)) / (1 / log2(2)).
    assert verdict["before"]["nDCG@5"]["mean"] == pytest.approx(1 / math.log2(3))
    assert verdict["best_depth"] == 20


def test_a_lift_that_chance_could_do_is_unsure(store: SqlTraceStore) -> None:
    # One of two questions gains, the other loses as much but for one place: resamples of both kinds are drawn.
    up = kept_question("up", (0.9, 0.5, 0.4), engines=ENGINES, recall_ranks=(3, 1, 2))
    down = kept_question("down", (0.9, 0.5, 0.4), engines=ENGINES, recall_ranks=(2, 1, 3))
    fill(store, [up], right=1)
    fill(store, [down], right=2)
    verdict = report_of(store)["verdict"]
    # up: 1 - 1 / log2(4); down: 1 / log2(3) - 1.
    assert verdict["lift"]["nDCG@5"]["mean"] == pytest.approx((1 - 1 / 2 + 1 / math.log2(3) - 1) / 2)
    assert verdict["decision"] == "unsure"


def test_histograms_tell_kept_dropped_and_right_passages_apart(store: SqlTraceStore) -> None:
    fill(store, [kept_question("t", (0.9, 0.8, 0.1), engines=ENGINES)], right=2)
    counts = {name: sum(one["counts"]) for name, one in report_of(store)["histograms"].items()}
    assert counts == {"best": 1, "kept": 2, "dropped": 1, "right": 1}


def test_the_trend_is_by_day_and_over_a_long_time_by_week(store: SqlTraceStore) -> None:
    for day, best in ((0, 0.9), (0, 0.1), (2, 0.9)):
        fill(store, [kept_question(f"t{day} {best}", (best,), engines=ENGINES, day=day)])
    trend = report_of(store)["trend"]
    assert trend["period"] == "day"
    points = [(one["start"], one["n"], one["refused_share"], one["total_ms"]) for one in trend["points"]]
    assert points == [("2026-03-01", 2, 0.5, 300.0), ("2026-03-03", 1, 0.0, 300.0)]
    fill(store, [kept_question("later", (0.9,), engines=ENGINES, day=60)])
    trend = report_of(store)["trend"]
    # 2026-03-01 is a Sunday: its week began on the Monday before.
    assert (trend["period"], trend["points"][0]["start"]) == ("week", "2026-02-23")


def test_the_key_changes_with_labels_and_questions(store: SqlTraceStore) -> None:
    trace = kept_question("t", (0.9,), engines=ENGINES)
    fill(store, [trace])
    before = state_key(store.summaries())
    assert state_key(store.summaries()) == before
    store.label("t", "right", chunk_id=trace.ranked[0].chunk.id)
    assert state_key(store.summaries()) != before


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded_once(embedder: SentenceTransformerEmbedder, monkeypatch: pytest.MonkeyPatch) -> InUse:
    """What a question asked with the real embedded engines meets."""
    monkeypatch.setattr(SentenceTransformerEmbedder, "embedded", lambda: embedder)
    monkeypatch.setenv("RANK37_RERANKER", "embedded")
    monkeypatch.setenv("RANK37_TRACES_DAYS", "0")
    settings = load_settings()
    return in_use(settings, open_rerankers(settings)[0], embedder)


def test_the_command_prints_the_report_and_the_flips(
    store: SqlTraceStore, tmp_path: Path, loaded_once: InUse, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = (loaded_once.embedder, loaded_once.reranker)
    traces = [kept_question(f"t{n}", (0.3 + 0.03 * n, *PADDING), engines=engines) for n in range(20)]
    fill(store, traces, right=1)
    arguments = ["quality", "--data-dir", str(tmp_path), "--floor", "0.5"]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    past = past_questions(store.summaries(collection="documents"), loaded_once)
    report = quality_report(past, loaded_once, collection="documents")
    assert printed == json.loads(json.dumps({**report, "replay": flips(past, report, 0.5)}))
    # 0.3 to 0.39 were refused, 0.42 to 0.48 would be.
    assert [row["id"] for row in printed["replay"]["now_stopped"]] == ["t6", "t5", "t4"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "20 past questions" in shown
    assert "what a floor of 0.50 would have flipped" in shown
    assert "Keep it on here." in shown


def test_the_command_without_questions(tmp_path: Path, loaded_once: InUse, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", "--data-dir", str(tmp_path)]) == 0
    assert "0 past questions" in capsys.readouterr().out
    assert main(["quality", "--data-dir", str(tmp_path), "--risk", "0"]) == EXIT_BAD_INPUT
    assert "a risk of 0 can't be met" in capsys.readouterr().err
