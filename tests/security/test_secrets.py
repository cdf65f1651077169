"""Keys and passwords reach the services that they are for, and no trace, log, export, error, output or file of ours."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import rag.settings
from ingest.reader_process import start_module
from ingest.write import Ingester
from rag.__main__ import main
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput
from rag.settings import load_settings
from rag.wiring import open_index
from tests.security.hostile_pdfs import QUESTION, pdf_with

CANARIES = {
    "OPENAI_API_KEY": "canary-openai-5f1c",
    "COHERE_API_KEY": "canary-cohere-77ab",
    "JINA_API_KEY": "canary-jina-90de",
    "QDRANT_API_KEY": "canary-qdrant-31f0",
    "RANK37_RERANK_KEY": "canary-rerank-c2b4",
}
PASSWORD = "canary-password-e8a1"


@contextmanager
def echoing_server() -> Iterator[tuple[str, list[str]]]:
    """A service that refuses each request and repeats all that it was sent; its address, and what it got."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output quiet."""

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = f"{self.path} {dict(self.headers)}"
            got.append(sent)
            message = f"refused: {sent}"
            body = json.dumps({"error": {"message": message}, "message": message, "detail": message}).encode()
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, embedder: SentenceTransformerEmbedder) -> Path:
    """A data folder whose collection answers the question."""
    folder = tmp_path_factory.mktemp("secrets")
    settings = load_settings(data_dir=folder / "data")
    index = open_index(settings, embedder.identity)
    outcome = Ingester.from_settings(settings, embedder, index).ingest(pdf_with(folder / "a.pdf", "Keep it dry."))
    assert outcome.status == "ingested"
    index.close()
    return folder / "data"


def everything_under(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


SERVICES = {
    "OPENAI_API_KEY": {"OPENAI_BASE_URL": "{url}/v1", "RANK37_LLM_RETRIES": "0"},
    "COHERE_API_KEY": {"RANK37_RERANKER": "cohere", "CO_API_URL": "{url}"},
    "JINA_API_KEY": {"RANK37_RERANKER": "jina", "RANK37_JINA_URL": "{url}"},
    "RANK37_RERANK_KEY": {"RANK37_RERANKER": "service", "RANK37_RERANK_URL": "{url}"},
    "QDRANT_API_KEY": {"QDRANT_URL": "{url}"},
}


@pytest.mark.parametrize("key", SERVICES)
@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
def test_a_service_that_repeats_the_key_in_its_error_does_not_make_us_repeat_it(
    key: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with echoing_server() as (url, got):
        for name, value in {**CANARIES, "RANK37_RERANK_TIMEOUT_S": "5"}.items():
            if name in (key, "RANK37_RERANK_TIMEOUT_S"):
                monkeypatch.setenv(name, value)
        for name, value in SERVICES[key].items():
            monkeypatch.setenv(name, value.format(url=url))
        monkeypatch.setenv("RANK37_DATA_DIR", str(data_dir))
        caplog.set_level(logging.DEBUG)
        assert main(["ask", QUESTION, "--json"]) == 1
        assert main(["rerankers", "--json"]) == 0
        assert main(["traces", "export"]) == 0
    assert any(CANARIES[key] in sent for sent in got), "the service itself was given its key"
    printed = capfd.readouterr()
    for place, text in {
        "output": printed.out,
        "errors": printed.err,
        "logs": caplog.text,
        "files": everything_under(data_dir).decode("utf-8", "replace"),
    }.items():
        assert "canary" not in text, f"in {place}: {text[max(0, text.find('canary') - 300) :][:400]}"


def test_the_password_of_the_traces_database_is_never_told(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK37_DATA_DIR", str(data_dir))
    caplog.set_level(logging.DEBUG)
    for url in (
        f"postgresql+psycopg://reader:{PASSWORD}@127.0.0.1:9/traces",
        f"postgresql://reader:{PASSWORD}@127.0.0.1:9/traces",
        f"nonsense://reader:{PASSWORD}@host/traces",
        f"reader:{PASSWORD}@host",
    ):
        monkeypatch.setenv("RANK37_TRACES_URL", url)
        assert main(["ask", QUESTION, "--json"]) in (0, 1, 2)
        assert main(["traces", "list"]) in (1, 2)
    printed = capfd.readouterr()
    assert printed.err.count("rag: ") >= 4
    for text in (printed.out, printed.err, caplog.text, everything_under(data_dir).decode("utf-8", "replace")):
        assert PASSWORD not in text, text[max(0, text.find(PASSWORD) - 300) :][:400]


def test_a_setting_that_is_wrong_is_told_without_its_value_where_that_may_be_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK37_TRACES_URL", f"postgresql://reader:{PASSWORD}@host/traces")
    monkeypatch.setenv("RANK37_FLOOR", "high")
    with pytest.raises(BadInput, match="'high'") as raised:
        load_settings()
    assert "canary" not in str(raised.value)
    monkeypatch.setenv("RANK37_FLOOR", "0.4")
    with pytest.raises(BadInput) as raised:
        load_settings(openai_api_key={"canary": 1}, traces_url=["canary"])
    assert "canary" not in str(raised.value)
    assert "canary" not in repr(load_settings()) + str(load_settings().model_dump())


def test_secrets_are_read_from_the_file_of_streamlit_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / rag.settings.SECRETS_FILE
    file.parent.mkdir()
    file.write_text(
        'OPENAI_API_KEY = "from-the-file"\nRANK37_FLOOR = 0.6\nCOHERE_API_KEY = "of-the-file"\n'
        '[auth]\ncookie_secret = "not ours"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("COHERE_API_KEY", "of-the-environment")
    settings = load_settings()
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "from-the-file"
    assert settings.cohere_api_key is not None
    assert settings.cohere_api_key.get_secret_value() == "of-the-environment"
    assert settings.floor == 0.6
    assert load_settings(floor=0.2).floor == 0.2


def test_a_broken_file_of_secrets_is_named_without_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / rag.settings.SECRETS_FILE
    file.parent.mkdir()
    file.write_text(f'RANK37_FLOOR = 0.6\nOPENAI_API_KEY = "{PASSWORD}\n', encoding="utf-8")
    with pytest.raises(BadInput, match=r"secrets\.toml is no TOML at line 2") as raised:
        load_settings()
    assert PASSWORD not in str(raised.value)


def test_the_process_that_reads_a_file_is_given_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK37_TRACES_URL", f"postgresql://reader:{PASSWORD}@host/traces")
    (tmp_path / "tell_environment.py").write_text("import os\nprint(dict(os.environ))\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = start_module("tell_environment")
    told, _ = child.communicate(timeout=30)
    assert b"PATH" in told
    assert b"canary" not in told
