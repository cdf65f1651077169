"""Our own engines over a collection in a folder of its own: the defaults, without an LLM and without remembered scores.

Scores would be remembered on disk otherwise, and a second question would measure the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ingest.write import Ingester, ingest_files
from rag.errors import BadInput
from rag.ports import Embedder, Engines, Index
from rag.settings import EMBEDDED, Settings
from rag.types import Chunk
from rag.wiring import open_embedder, open_engines, open_index


def settings_in(folder: Path) -> Settings:
    """The defaults, whatever the environment says, with data in `folder`."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]  # pydantic-settings takes it
        data_dir=folder,
        reranker=EMBEDDED,
        rerank_cache_mb=0,
        traces=False,
        qdrant_url=None,
        openai_api_key=None,
        openai_base_url=None,
    )


@contextmanager
def filled_engines(folder: Path, files: Sequence[Path]) -> Iterator[tuple[Engines, list[Chunk]]]:
    """Engines over the files' chunks, and those chunks. Raises BadInput where a file can't be ingested."""
    settings = settings_in(folder)
    embedder = open_embedder(settings)
    index = open_index(settings, embedder.identity)
    try:
        fill(settings, embedder, index, files)
        chunks = [chunk for stored in index.documents() for chunk in index.chunks(stored.document.id)]
        yield open_engines(settings, embedder=embedder, index=index), chunks
    finally:
        index.close()


def fill(settings: Settings, embedder: Embedder, index: Index, files: Sequence[Path]) -> int:
    """Ingest the files; returns the number of pages. Raises BadInput where one is refused."""
    ingester = Ingester.from_settings(settings, embedder, index)
    pages = 0
    for outcome in ingest_files(ingester, files):
        if outcome.status == "refused":
            raise BadInput(f"{outcome.file}: {outcome.message}: take it out of the set")
        pages += outcome.pages
    return pages
