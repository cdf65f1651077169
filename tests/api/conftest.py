"""One real server on a loopback port over a real library, with three small collections and two persons' keys."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ingest.library import Library, Workspace
from ingest.samples import mark_samples_done
from rag.ports import KeyStore
from rag.settings import EMBEDDED, Settings
from rag.wiring import open_key_store
from tests.ingest.written_pdfs import write_pdf
from ui.api.serve import Serving, app_of, open_listener, serve_in_thread

PARKING = "Parking permits cost forty crowns a month. They are sold at the town hall on the market square."
SWIMMING = "The swimming pool opens at seven in the morning. Towels can be hired for two crowns."
ANNS = "Ann pays nine hundred crowns of rent each month. The landlord is the harbour company."
BOBS = "Bob keeps three goats in the garden shed. Their names are Alder, Birch and Cedar."
WAIT_S = 300.0


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    library: Library
    keys: KeyStore
    all_key: str
    """Of no person."""
    ann_key: str
    bob_key: str
    anns: str
    """Key of the collection that is Ann's."""
    bobs: str

    def client(self, key: str | None) -> httpx.Client:
        """A client that sends a key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=WAIT_S)


def add(workspace: Workspace, folder: Path, name: str, *pages: str) -> str:
    """Bring a PDF in; gives its document's id."""
    path = write_pdf(folder / name, list(pages))
    job = workspace.queue.submit(name, path.read_bytes())
    assert workspace.queue.wait(WAIT_S)
    outcome = next(one.outcome for one in workspace.queue.jobs() if one.id == job.id)
    assert outcome is not None
    assert outcome.document_id
    return outcome.document_id


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """Ann's collection, Bob's, and the first one, which is open to both."""
    folder = tmp_path_factory.mktemp("api")
    settings = Settings(data_dir=folder / "data", reranker=EMBEDDED, max_file_mb=1.0)
    mark_samples_done(settings.collection_dir)
    library = Library(settings)
    add(library.open(), folder, "town.pdf", PARKING)
    add(library.open(), folder, "pool.pdf", SWIMMING)
    add(library.open(library.create("Ann's papers", person="ann").key), folder, "ann.pdf", ANNS)
    add(library.open(library.create("Bob's papers", person="bob").key), folder, "bob.pdf", BOBS)
    yield library
    library.close()


@pytest.fixture(scope="session")
def served(library: Library) -> Iterator[Served]:
    """The server, at which every caller needs a key."""
    keys = open_key_store(library.settings)
    texts = [keys.create(name, person=person)[1] for name, person in (("all", ""), ("ann", "ann"), ("bob", "bob"))]
    by_owner = {card.owner: card.key for card in library.collections()}
    with serving(library, keys) as running:
        yield Served(f"http://127.0.0.1:{running.port}", library, keys, *texts, by_owner["ann"], by_owner["bob"])
    keys.close()


@contextmanager
def serving(library: Library, keys: KeyStore, host: str = "127.0.0.1") -> Iterator[Serving]:
    """Serve on a free loopback port, as if the server listened at `host`."""
    listener = open_listener("127.0.0.1", 0)
    running = serve_in_thread(app_of(library, keys, library.settings, host), listener)
    try:
        yield running
    finally:
        running.stop()
        listener.close()


@pytest.fixture
def all_client(served: Served) -> Iterator[httpx.Client]:
    with served.client(served.all_key) as client:
        yield client


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What was logged at INFO and above so far."""
    caplog.set_level(logging.INFO)
    return lambda: caplog.text
