"""A small data folder as tests damage it: three documents, questions kept, a floor, a promoted reranker.

It asserts nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from ingest.write import Ingester
from rag.engines.trace_store import SqlTraceStore
from rag.floor_store import FloorScope, FloorStore, StoredFloor
from rag.ports import Embedder, Index
from rag.settings import Settings, load_settings
from rag.types import Chunk
from rag.wiring import open_index
from tests.ingest.written_pdfs import write_pdf
from tests.rag.traces import answer_to, trace_of

TEXTS = {
    "parking.pdf": "Parking permits cost forty crowns a month. They are sold at the town hall.",
    "library.pdf": "The library lends a book for three weeks. A reminder is sent by letter.",
    "pool.pdf": "The swimming pool opens at seven. Children under six swim for nothing.",
}
SCOPE = FloorScope("documents", "small", "def", "float32", None, 32, "all-MiniLM-L6-v2", "abc")
PROMOTED = {
    "name": "ours",
    "revision": "r1",
    "floor": 0.3,
    "promoted_at": "2026-03-01T12:00:00+00:00",
    "measured": {},
}


def settings_of(data_dir: Path) -> Settings:
    """Small chunks, so that a small document has several."""
    return load_settings(data_dir=data_dir, chunk_tokens=40, chunk_overlap_tokens=0)


def open_collection(data_dir: Path, embedder: Embedder) -> Index:
    """Its collection, as the program opens it."""
    return open_index(settings_of(data_dir), embedder.identity)


def fill(data_dir: Path, embedder: Embedder) -> None:
    """Make the data folder."""
    settings = settings_of(data_dir)
    index = open_index(settings, embedder.identity)
    ingester = Ingester.from_settings(settings, embedder, index)
    sources = data_dir.parent / "sources"
    sources.mkdir()
    for name, text in TEXTS.items():
        ingester.ingest(write_pdf(sources / name, [text]))
    index.close()
    store = SqlTraceStore.open_file(data_dir / "traces.sqlite")
    trace = trace_of("t1")
    store.add(trace, answer_to(trace), collection="documents")
    store.label("t1", "right", chunk_id=trace.kept[0].chunk.id)
    store.close()
    FloorStore(data_dir / "floors.json").put(StoredFloor(SCOPE, 0.31, "by hand", "2026-03-01T12:00:00+00:00"))
    model = data_dir / "rerankers" / "ours"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (model.parent / "promoted.json").write_text(json.dumps({"serving": [PROMOTED], "rolled_back": []}))


def copy_of(data_dir: Path, target: Path) -> Path:
    """A copy that keeps the holes of the index's files."""
    if shutil.which("cp"):
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(data_dir), str(target)], check=True)
    else:
        shutil.copytree(data_dir, target)
    return target


def searchable(data_dir: Path, embedder: Embedder) -> dict[str, list[Chunk]]:
    """The chunks of each document that a question can reach, by its source, as recall finds them."""
    index = open_collection(data_dir, embedder)
    try:
        ready = {stored.document.id: stored.document.source for stored in index.documents() if stored.state == "ready"}
        query = "Where are permits sold, and what does the library lend?"
        found = [one.chunk for one in index.recall(query, embedder.embed_query(query), limit=100)]
        assert len(found) == index.count_chunks()
        chunks: dict[str, list[Chunk]] = {source: [] for source in ready.values()}
        for chunk in sorted(found, key=lambda chunk: chunk.position):
            chunks[ready[chunk.document_id]].append(chunk)
        return chunks
    finally:
        index.close()
