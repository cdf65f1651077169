"""The JSON report of an ingestion run: every file, how it ended and why, with totals.

It reports what it is given; it does not know the index.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from ingest.files import write_durably
from ingest.write import FileOutcome, FileStatus


def report_as_json(outcomes: Sequence[FileOutcome], *, seconds: float, error: str | None = None) -> dict[str, object]:
    """The report as JSON values.

    Args:
        outcomes: One a file, in the order in which they were done.
        seconds: Duration of the run.
        error: What ended the run before all files were done, or None.
    """
    statuses = Counter(outcome.status for outcome in outcomes)
    totals: dict[str, object] = {
        "files": len(outcomes),
        **{status: statuses[status] for status in get_args(FileStatus)},
        "refused_by_reason": dict(sorted(Counter(outcome.reason for outcome in outcomes if outcome.reason).items())),
        "pages": sum(outcome.pages for outcome in outcomes),
        "pages_without_text": sum(len(outcome.pages_without_text) for outcome in outcomes),
        "chunks": sum(outcome.chunks for outcome in outcomes),
        "seconds": round(seconds, 3),
    }
    documents = [{**asdict(outcome), "seconds": round(outcome.seconds, 3)} for outcome in outcomes]
    report: dict[str, object] = {"documents": documents, "totals": totals}
    if error is not None:
        report["error"] = error
    return report


def write_report(path: Path, report: dict[str, object]) -> None:
    """Write the report; an earlier one of that name is replaced whole or not at all. Raises OSError."""
    write_durably(path, (json.dumps(report, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
