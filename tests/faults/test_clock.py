"""A clock that jumps by years, both ways: nothing is lost for it, nothing hangs, nothing breaks."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from ingest.queue import IngestQueue
from ingest.write import Ingester
from rag.engines.score_cache import ScoreCache
from rag.engines.trace_store import Retention, SqlTraceStore
from rag.ports import Embedder
from rag.types import Relevance
from tests.faults.folders import open_collection, settings_of
from tests.ingest.written_pdfs import sentences, write_pdf
from tests.rag.traces import answer_to, trace_of

NOON = 1_772_366_400.0
"""2026-03-01T12:00:00 UTC, in seconds since 1970: when the traces of `trace_of` were asked."""
YEAR_S = 365 * 86400.0
JUMPS_S = (0.0, 10 * YEAR_S, -20 * YEAR_S, 3600.0, -NOON, 0.0)
"""From now; the last but one is 1970."""


class Clock:
    """Says what it is set to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def test_uploads_are_brought_in_while_the_clock_jumps(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr("ingest.write.time", clock)
    index = open_collection(tmp_path / "data", embedder)
    ingester = Ingester.from_settings(settings_of(tmp_path / "data"), embedder, index)
    queue = IngestQueue(ingester, tmp_path / "uploads")
    for number, jump in enumerate(JUMPS_S):
        clock.now = NOON + jump
        queue.submit(f"{number}.pdf", write_pdf(tmp_path / "made.pdf", [sentences(number, 3)]).read_bytes())
    assert queue.wait(120)
    assert [job.state for job in queue.jobs()] == ["done"] * len(JUMPS_S)
    assert all(0 <= job.seconds < 120 for job in queue.jobs())
    queue.close()
    assert sorted(stored.document.source for stored in index.documents() if stored.state == "ready") == [
        f"{number}.pdf" for number in range(len(JUMPS_S))
    ]
    # A copy that another process is making is not taken for a leftover of long ago.
    part = settings_of(tmp_path / "data").collection_dir / "files" / ".copy.part"
    part.touch()
    clock.now = NOON - 20 * YEAR_S
    Ingester.from_settings(settings_of(tmp_path / "data"), embedder, index)
    assert part.exists()
    index.close()


def test_remembered_scores_survive_every_jump_and_the_size_stays_bounded(tmp_path: Path) -> None:
    clock = Clock()
    cache = ScoreCache(tmp_path / "scores.sqlite", limit_mb=0.3, clock=clock)
    for number, jump in enumerate(JUMPS_S):
        clock.now = NOON + jump
        keys = [bytes([number]) * 4 + n.to_bytes(28) for n in range(400)]
        cache.write({key: Relevance(1.0, 0.5, 1.0) for key in keys})
        assert len(cache.read(keys)) == len(keys)
    for _ in range(10):
        keys = [bytes([9]) * 4 + n.to_bytes(28) for n in range(1000)]
        cache.write({key: Relevance(1.0, 0.5, 1.0) for key in keys})
    assert cache.used_bytes() < 0.4e6
    cache.close()


def test_a_clock_that_is_behind_deletes_no_trace_and_one_that_is_right_again_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    with closing(SqlTraceStore.open_file(tmp_path / "traces.sqlite", Retention(days=90), clock=clock)) as store:
        for number, jump in enumerate((0.0, -20 * YEAR_S, -NOON, 3600.0)):
            clock.now = NOON + jump
            trace = trace_of(f"t{number}")
            store.add(trace, answer_to(trace), collection="documents")
            store.label(f"t{number}", "good_answer")
        assert store.count() == 4
        # What is past its time by the clock goes: a machine whose clock is years ahead forgets traces, never labels.
        clock.now = NOON + YEAR_S
        trace = trace_of("late", asked_at="2027-03-01T12:00:00+00:00")
        store.add(trace, answer_to(trace), collection="documents")
        assert store.count() == 1
        assert len(store.labels()) == 4
        clock.now = NOON
        back = trace_of("back")
        store.add(back, answer_to(back), collection="documents")
        assert {one.trace.id for one in store.traces()} == {"late", "back"}
