"""Time left, by sums that can be followed."""

from __future__ import annotations

from typing import Any

import pytest

from ingest.queue import JobView
from ingest.time_left import time_left_s
from ingest.write import FileOutcome


def done(size_bytes: int, seconds: float, pages: int) -> JobView:
    outcome = FileOutcome("a", "ingested", pages=pages)
    return JobView("d", "a", "done", outcome=outcome, seconds=seconds, size_bytes=size_bytes)


def running(stage: Any, n_done: int, total: int, *, stage_seconds: float, seconds: float = 10) -> JobView:
    return JobView(
        "r", "b", "running", stage, n_done, total, seconds=seconds, size_bytes=1000, stage_seconds=stage_seconds
    )


WAITING = JobView("w", "c", "waiting", size_bytes=3000)


@pytest.mark.parametrize(
    ("jobs", "left"),
    [
        ([], 0.0),
        ([done(1000, 5, 2)], 0.0),
        ([running("embed", 20, 100, stage_seconds=8)], 8 / 20 * 80),
        ([running("write", 0, 100, stage_seconds=1)], 0.0),
        ([WAITING], None),
        ([running("read", 1, 10, stage_seconds=2)], None),
        ([running("embed", 0, 10, stage_seconds=2)], None),
        ([done(500, 6, 3), running("read", 1, 10, stage_seconds=2)], 2 * 9 + 6 / 3 * 10),
        ([done(500, 6, 3), WAITING], 6 / 500 * 3000),
        ([running("embed", 20, 100, stage_seconds=8), WAITING], 32 + (10 + 32) / 1000 * 3000),
    ],
)
def test_time_left(jobs: list[JobView], left: float | None) -> None:
    assert time_left_s(jobs) == (None if left is None else pytest.approx(left))


def test_a_refused_file_says_nothing_about_pace() -> None:
    refused = JobView("x", "x", "done", outcome=FileOutcome("x", "refused", "damaged"), seconds=0.01, size_bytes=9000)
    assert time_left_s([refused, WAITING]) is None
