"""Fixtures that many tests share: the real embedded models, loaded once, and no way out to the network."""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.postgres import URL_VARIABLE, binaries, postgres_server, short_folder

if TYPE_CHECKING:
    from rag.engines.cross_encoder import CrossEncoderReranker
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
for name in [
    name for name in os.environ if name.startswith(("RANK37_", "OPENAI_", "COHERE_", "CO_API_", "JINA_", "OTEL_"))
]:
    if not name.startswith("RANK37_TEST_"):
        del os.environ[name]


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A test that reaches beyond this machine fails, except those marked `hub` or `server`."""
    if request.node.get_closest_marker("hub") or request.node.get_closest_marker("server"):
        return
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and not _is_loopback(str(address[0])):
            raise AssertionError(f"a test tried to reach {address[0]!r} on the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(autouse=True)
def app_listens_here() -> None:
    """Pages that a test draws without a server believe what the project's configuration says, wherever it runs."""
    if "streamlit" in sys.modules:
        from streamlit import config

        config.set_option("server.address", "127.0.0.1")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def embedder() -> "SentenceTransformerEmbedder":
    """The real all-MiniLM-L6-v2."""
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder.embedded()


@pytest.fixture(scope="session")
def embedded_reranker() -> "CrossEncoderReranker":
    """The real cross-encoder that the project ships."""
    from rag.engines.cross_encoder import CrossEncoderReranker

    return CrossEncoderReranker.embedded()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server: the one that the environment names, else one of the tests' own, else the test skips."""
    named = os.environ.get(URL_VARIABLE)
    if named:
        yield named
        return
    if binaries() is None:
        pytest.skip(f"PostgreSQL is not installed (.ci/run installs it), and {URL_VARIABLE} is not set")
    with short_folder() as folder, postgres_server(folder) as url:
        yield url
