"""A Qdrant server that stops, restarts, hangs or cuts a connection in mid-query and mid-ingest, on a real socket.

Without a server the stand-in of `qdrant_stand_in.py` takes its place; where QDRANT_URL is set, a real one is cut off by
a proxy as well.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ingest.write import Ingester
from rag.engines.qdrant_server import ServerIndex, connect
from rag.errors import IndexUnavailable
from rag.ports import Embedder, Index
from tests.faults.folders import TEXTS, settings_of
from tests.faults.qdrant_stand_in import Fault, QdrantStandIn
from tests.ingest.written_pdfs import long_pdf, write_pdf

QDRANT_URL = os.environ.get("QDRANT_URL")


@pytest.fixture
def server() -> Iterator[QdrantStandIn]:
    server = QdrantStandIn()
    server.start()
    yield server
    server.fault = lambda method, path: None
    server.stop()


@pytest.fixture
def index(server: QdrantStandIn, embedder: Embedder) -> Iterator[ServerIndex]:
    index = ServerIndex.open(connect(server.url, None, 1), "manuals", embedder.identity)
    yield index
    with suppress(IndexUnavailable):
        index.close()


@pytest.fixture
def ingester(index: ServerIndex, tmp_path: Path, embedder: Embedder) -> Ingester:
    return Ingester.from_settings(settings_of(tmp_path / "data"), embedder, index)


def recalled(index: Index, embedder: Embedder) -> list[str]:
    query = "What do parking permits cost?"
    return sorted(one.chunk.text for one in index.recall(query, embedder.embed_query(query), limit=1000))


def test_a_server_that_stops_and_starts_again_goes_on(
    server: QdrantStandIn, index: ServerIndex, ingester: Ingester, tmp_path: Path, embedder: Embedder
) -> None:
    for name, text in TEXTS.items():
        assert ingester.ingest(write_pdf(tmp_path / name, [text])).status == "ingested"
    found = recalled(index, embedder)
    assert found == sorted(TEXTS.values())
    server.stop()
    with pytest.raises(IndexUnavailable, match="can't be reached: start it"):
        recalled(index, embedder)
    with pytest.raises(IndexUnavailable):
        ingester.ingest(write_pdf(tmp_path / "new.pdf", ["Something new is said here."]))
    server.start()
    assert recalled(index, embedder) == found, "the same open index, without a restart of the program"
    assert ingester.ingest(tmp_path / "new.pdf").status == "ingested"


@pytest.mark.parametrize("fault", ["error", "reset", "hang", "reset after it was done"])
def test_a_question_meets_an_outage_and_the_next_one_an_answer(
    server: QdrantStandIn, index: ServerIndex, ingester: Ingester, tmp_path: Path, embedder: Embedder, fault: Fault
) -> None:
    ingester.ingest(write_pdf(tmp_path / "parking.pdf", [TEXTS["parking.pdf"]]))
    server.fault = lambda method, path: fault if path.endswith("/query") else None
    with pytest.raises(IndexUnavailable, match="Qdrant server at http://127.0.0.1"):
        recalled(index, embedder)
    server.fault = lambda method, path: None
    assert recalled(index, embedder) == [TEXTS["parking.pdf"]]


def test_cut_off_at_any_request_of_an_ingestion_nothing_half_is_searchable(
    server: QdrantStandIn, index: ServerIndex, ingester: Ingester, tmp_path: Path, embedder: Embedder
) -> None:
    pdf = long_pdf(tmp_path / "long.pdf", seed=1, pages=5)
    earlier = ingester.ingest(write_pdf(tmp_path / "earlier.pdf", [TEXTS["pool.pdf"]]), source="long.pdf")
    assert earlier.document_id is not None
    kinds: list[Fault] = ["error", "reset", "reset after it was done"]
    chance = random.Random(37)
    cut, whole = 0, 0
    for nth in range(1, 12):
        left = nth

        def cut_once(method: str, path: str) -> Fault | None:
            nonlocal left
            left -= 1
            return chance.choice(kinds) if left == 0 else None

        server.fault = cut_once
        try:
            ingester.ingest(pdf, source="long.pdf")
        except IndexUnavailable:
            cut += 1
        server.fault = lambda method, path: None
        ready = {stored.document.id: stored for stored in index.documents() if stored.state == "ready"}
        assert len(ready) == 1, "the earlier version or the new one, never both and never none"
        [stored] = ready.values()
        whole += stored.document.id != earlier.document_id
        assert len(recalled(index, embedder)) == stored.n_chunks == len(index.chunks(stored.document.id))
    assert cut >= 5
    assert ingester.ingest(pdf, source="long.pdf").status in ("ingested", "replaced", "unchanged")
    [stored] = index.documents()
    assert stored.state == "ready"
    assert len(index.chunk_ids(stored.document.id)) == stored.n_chunks == len(recalled(index, embedder))


class CutProxy:
    """Passes a port of this machine on to a server, until it is told to cut every connection."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.open = True
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if not self.open:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.open = False
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()


@pytest.mark.server
@pytest.mark.skipif(not QDRANT_URL, reason="QDRANT_URL is not set")
def test_a_real_server_that_is_cut_off_in_mid_ingestion(tmp_path: Path, embedder: Embedder) -> None:
    parts = urlsplit(QDRANT_URL or "")
    proxy = CutProxy(parts.hostname or "", parts.port or 6333)
    key, name = os.environ.get("QDRANT_API_KEY"), f"test-{uuid.uuid4().hex}"
    index = ServerIndex.open(connect(f"http://127.0.0.1:{proxy.port}", key, 10), name, embedder.identity)
    try:
        ingester = Ingester.from_settings(settings_of(tmp_path / "data"), embedder, index)
        pdf = long_pdf(tmp_path / "long.pdf", seed=1, pages=5)
        with pytest.raises(IndexUnavailable):
            ingester.ingest(pdf, progress=lambda now: proxy.cut() if (now.stage, now.done) == ("embed", 32) else None)
        proxy.open = True
        assert recalled(index, embedder) == []
        assert ingester.ingest(pdf).status == "ingested"
        [stored] = index.documents()
        assert len(recalled(index, embedder)) == stored.n_chunks
    finally:
        proxy.open = True
        index.close()
        connect(QDRANT_URL or "", key, 30).delete_collection(name)
