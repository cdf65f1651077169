"""The sample PDFs, offered once: to a collection that is empty at its first start.

It ingests nothing itself; it says which files to queue and remembers that they were offered.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from ingest.files import find_pdfs, write_durably
from ingest.queue import IngestQueue, JobView
from rag.errors import CollectionError
from rag.ports import Index

SAMPLES_DIR = Path(__file__).resolve().parent.parent / "data" / "pdfs"
"""Beside the package in a checkout; absent in an installed wheel, where there are no samples."""

MARKER = "samples"
"""File in the collection's folder: `begun` while the samples are being ingested, then `done`."""


def samples_to_ingest(index: Index, collection_dir: Path) -> list[Path]:
    """The samples that this start has to ingest, usually none. Marks the collection as having been offered them.

    At the first start, if the collection is empty: all. After a first start that was stopped before
    `mark_samples_done`: all again, of which those already in cost nothing. Otherwise none: a person who deleted the
    samples, or began with files of their own, does not want them. Raises CollectionError.
    """
    marker = collection_dir / MARKER
    try:
        state = marker.read_text() if marker.exists() else ""
        if state == "done":
            return []
        if state != "begun" and index.documents():
            mark_samples_done(collection_dir)
            return []
        samples = list(find_pdfs([SAMPLES_DIR])) if SAMPLES_DIR.is_dir() else []
        if samples:
            collection_dir.mkdir(parents=True, exist_ok=True)
            write_durably(marker, b"begun")
        return samples
    except OSError as error:
        raise _unusable(collection_dir, error) from error


def mark_samples_done(collection_dir: Path) -> None:
    """Never offer the samples to this collection again. Raises CollectionError."""
    try:
        collection_dir.mkdir(parents=True, exist_ok=True)
        write_durably(collection_dir / MARKER, b"done")
    except OSError as error:
        raise _unusable(collection_dir, error) from error


def queue_samples(queue: IngestQueue, index: Index, collection_dir: Path) -> int:
    """Queue the samples of a first start, and mark them done once all have ended; returns how many were queued.

    After an outage they stay unmarked: the next start tries again.
    """
    samples = samples_to_ingest(index, collection_dir)
    remaining = {sample.name for sample in samples}
    lock = Lock()

    def when_ended(job: JobView) -> None:
        with lock:
            if job.state != "failed":
                remaining.discard(job.file)
            all_ended = not remaining
        if all_ended:
            mark_samples_done(collection_dir)

    for sample in samples:
        queue.submit_path(sample, when_ended=when_ended)
    return len(samples)


def _unusable(folder: Path, error: OSError) -> CollectionError:
    return CollectionError(
        f"{folder} can't be used: {error.strerror or error}; free some space, change its rights or set RANK37_DATA_DIR"
    )
