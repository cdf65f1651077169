"""A file's line in the queue: what a person reads of each state, whatever the file is called."""

from __future__ import annotations

import pytest

from ingest.queue import JobView
from ingest.write import FileOutcome
from ui.ingestion import job_html

NASTY = '<img src=x onerror=alert(1)> & "Ümläut" \u202egnp.pdf'


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (JobView("1", "a.pdf", "waiting"), ["waiting"]),
        (JobView("1", "a.pdf", "running", "read", 3, 12), ["running", "Reading 3 of 12 pages"]),
        (JobView("1", "a.docx", "running", "read", 3, 12), ["running", "Reading 3 of 12 sections"]),
        (JobView("1", "a.pdf", "running", "embed", 1, 40), ["Embedding 1 of 40 passages", "width:26.8%"]),
        (
            JobView("1", "a.pdf", "done", outcome=FileOutcome("a.pdf", "ingested", pages=1, chunks=7, seconds=2.0)),
            ["ingested", "1 page, 7 chunks in 2.0 s"],
        ),
        (
            JobView("1", "a.md", "done", outcome=FileOutcome("a.md", "ingested", pages=2, chunks=7, seconds=2.0)),
            ["ingested", "2 sections, 7 chunks in 2.0 s"],
        ),
        (
            JobView(
                "1",
                "a.pdf",
                "done",
                outcome=FileOutcome("a.pdf", "replaced", pages=9, chunks=7, pages_without_text=(2, 3, 4, 9)),
            ),
            ["replaced", "in place of the earlier version", "No readable text on page 2–4, 9"],
        ),
        (
            JobView("1", "a.pdf", "done", outcome=FileOutcome("a.pdf", "refused", "needs_password", "it is locked")),
            ["refused", "<b>needs password</b>: it is locked"],
        ),
        (
            JobView("1", "a.pdf", "failed", error="the disk is full: free some"),
            ["failed", "the disk is full: free some"],
        ),
        (JobView("1", "a.pdf", "cancelled"), ["cancelled", "nothing of it was kept"]),
    ],
    ids=lambda value: f"{value.state}-{value.stage or ''}" if isinstance(value, JobView) else "",
)
def test_each_state_in_words(job: JobView, words: list[str]) -> None:
    html = job_html(job)
    for word in words:
        assert word in html


def test_a_file_name_is_shown_as_it_is_and_never_as_markup() -> None:
    html = job_html(JobView("1", NASTY, "waiting"))
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;Ümläut&quot; gnp.pdf" in html
