"""How much a collection holds: counted for the page that lists the collections.

It opens nothing: what is not open is measured by its folder alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.types import StoredDocument


@dataclass(frozen=True, slots=True)
class CollectionStatistics:
    """What is in an open collection."""

    documents: int
    """Those that can be found; unfinished ones are not counted."""
    pages: int
    chunks: int
    last_added: str
    """ISO 8601, UTC; empty where there is none."""


def statistics_of(stored: Sequence[StoredDocument]) -> CollectionStatistics:
    """Count the documents of a collection."""
    ready = [one for one in stored if one.state == "ready"]
    return CollectionStatistics(
        documents=len(ready),
        pages=sum(one.document.page_count for one in ready),
        chunks=sum(one.n_chunks for one in ready),
        last_added=max((one.ingested_at for one in ready), default=""),
    )


def disk_bytes(folder: Path) -> int:
    """Bytes of all files below a folder. A file that goes meanwhile, and a folder that is not there, count nothing."""
    total = 0
    for parent, _folders, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:
                continue
    return total
