"""What all sessions of the app share: the settings, the engines and the ingestion queue, opened once a process.

It opens and swaps engines; which engines those are is `rag.wiring`'s choice. Nothing is drawn here but the spinner.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import streamlit as st

from ingest.queue import IngestQueue
from ingest.samples import queue_samples
from ingest.write import FileOutcome, Ingester
from rag.errors import Rank37Error
from rag.ports import Engines
from rag.settings import Settings, load_settings
from rag.wiring import fetch_model, open_engines, open_recorder, open_rerankers

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far the download of the default reranker has come."""

    done_bytes: int = 0
    total_bytes: int = 0
    is_loading: bool = False
    """Downloaded; it is being read into memory."""
    error: Rank37Error | None = None


class _TellingIngester(Ingester):
    """Says in the terminal's log how each file ended."""

    def ingest(self, path: Path, **options: Any) -> FileOutcome:
        outcome = super().ingest(path, **options)
        _log.info("%s: %s, %s [%.1f s]", outcome.file, outcome.status, outcome.message, outcome.seconds)
        return outcome


class Workspace:
    """The engines and the queue. Safe to use from any thread; `engines` can change between two questions."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder = open_recorder(settings)
        self.engines: Engines = open_engines(settings)
        self.ingester = _TellingIngester.from_settings(settings, self.engines.embedder, self.engines.index)
        self.queue = IngestQueue(self.ingester, settings.collection_dir / "uploads")
        n_samples = queue_samples(self.queue, self.engines.index, settings.collection_dir)
        if n_samples:
            _log.info("first start: adding %d sample documents", n_samples)
        self.fetch: FetchProgress | None = None
        """None: no download has been asked for, or it is done."""
        self._fetch_lock = threading.Lock()

    def close(self) -> None:
        """Stop the queue and release the collection. Files in line are taken up by the next start."""
        self.queue.close()
        self.engines.index.close()
        self.recorder.close()

    def delete_document(self, document_id: str) -> None:
        """Remove a document, and its words from the questions asked so far. Raises Rank37Error with the remedy."""
        # First its words: if that fails the document is still there, so that deleting can be tried again.
        self.recorder.forget_document(document_id)
        self.ingester.delete(document_id)

    def fetch_default_reranker(self) -> None:
        """Download the default reranker in the background and use it from then on. Once at a time."""
        with self._fetch_lock:
            if self.fetch is not None and self.fetch.error is None:
                return
            self.fetch = FetchProgress()
        threading.Thread(target=self._fetch, name="fetch-reranker", daemon=True).start()

    def _fetch(self) -> None:
        def progress(done: int, total: int) -> None:
            self.fetch = FetchProgress(done, total)

        try:
            fetch_model(progress=progress)
            self.fetch = FetchProgress(is_loading=True)
            reranker, sentence_scorer = open_rerankers(self.settings)
        except Rank37Error as error:
            _log.warning("the default reranker was not fetched: %s", error)
            self.fetch = FetchProgress(error=error)
            return
        except Exception as error:
            _log.exception("the default reranker was not fetched")
            self.fetch = FetchProgress(error=Rank37Error(f"The download failed ({type(error).__name__}): see the log."))
            return
        self.engines = replace(self.engines, reranker=reranker, sentence_scorer=sentence_scorer)
        self.fetch = None
        _log.info("the reranker is now %s", reranker.info.name)


@st.cache_resource(show_spinner="Loading the models and opening the collection …")
def open_workspace() -> Workspace:
    """The workspace of this process; a failure is not remembered, so that a rerun tries again. Raises Rank37Error."""
    return Workspace(load_settings())
