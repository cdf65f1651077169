"""How long a queue still takes, by what its files have taken so far. Pure; it says None rather than guess."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.queue import JobView


def time_left_s(jobs: Sequence[JobView]) -> float | None:
    """Seconds until the last waiting file is in; None while too little is known. 0 where nothing waits.

    A file in work takes as long as its stage's pace so far says. One that waits takes as long by its bytes as those
    that are done and the one in work.
    """
    waiting = [job for job in jobs if job.state == "waiting"]
    running = [job for job in jobs if job.state == "running"]
    done = [
        job for job in jobs if job.state == "done" and job.outcome and job.outcome.status in ("ingested", "replaced")
    ]
    left = 0.0
    seconds = sum(job.seconds for job in done)
    n_bytes, n_pages = sum(job.size_bytes for job in done), sum(job.outcome.pages for job in done if job.outcome)
    for job in running:
        rest = _rest_s(job, seconds / n_pages if n_pages else None)
        if rest is None:
            return None
        left += rest
        seconds += job.seconds + rest
        n_bytes += job.size_bytes
    if not waiting:
        return left
    if not n_bytes:
        return None
    return left + seconds / n_bytes * sum(job.size_bytes for job in waiting)


def _rest_s(job: JobView, seconds_a_page: float | None) -> float | None:
    """Of one file in work."""
    if job.stage == "write":
        return 0.0
    if not job.total or not job.done:
        return None
    rest = job.stage_seconds / job.done * (job.total - job.done)
    if job.stage == "embed":
        return rest
    if job.stage == "read" and seconds_a_page is not None:
        return rest + seconds_a_page * job.total
    return None
