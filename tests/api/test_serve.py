"""Where the API listens: alone in its process, beside the app's pages; and the line of questions under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ingest.library import Library
from ingest.samples import mark_samples_done
from ingest.turns import Turns
from rag.errors import BadInput
from rag.settings import Settings
from rag.types import RerankProgress, Result
from rag.wiring import open_key_store
from tests.api.conftest import Served, serving
from ui.api.serve import open_listener
from ui.workspace import open_library

START_S = 400.0


def free_port() -> int:
    with open_listener("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


def wait_for(url: str) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/healthz").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {url}")


def test_alone_in_its_process_until_it_is_stopped(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    mark_samples_done(settings.collection_dir)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ui.api", "--port", str(port), "--data-dir", str(tmp_path), "--log-json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}")
        listed = httpx.get(f"http://127.0.0.1:{port}/v1/documents").json()
        assert listed == {"collection": "documents", "documents": []}
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert '"route": "/v1/documents", "status": 200' in log
    assert "Traceback" not in log


def test_it_refuses_to_start_where_strangers_could_read_everything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ui.api", "--host", "0.0.0.0", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 2
    assert "RANK37_ALLOW_OPEN=1" in done.stderr


def test_beside_the_pages_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    mark_samples_done(Settings(data_dir=tmp_path).collection_dir)
    monkeypatch.setenv("RANK37_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RANK37_API_PORT", str(port))
    open_library.clear()
    library = open_library()
    try:
        wait_for(f"http://127.0.0.1:{port}")
        key = library.create("Made on a page").key
        seen = httpx.get(f"http://127.0.0.1:{port}/v1/collections").json()["collections"]
        assert key in {card["key"] for card in seen}
    finally:
        library.close()
        open_library.clear()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")

    with open_listener("127.0.0.1", port), pytest.raises(BadInput, match="RANK37_API_PORT"):
        open_library()
    open_library().close()  # what failed left nothing open
    open_library.clear()


class Gate:
    """Keeps questions at work until it is opened."""

    def __init__(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.n_begun = 0
        self.n_stopped = 0
        workspace = library.open()
        answer = workspace.ask

        def ask(*arguments: object, listen: object = None, **options: object) -> Result:
            assert callable(listen)
            self.n_begun += 1
            try:
                while not self.open.wait(0.05):
                    listen(RerankProgress(0, 1))
            except BaseException:
                self.n_stopped += 1
                raise
            return answer(*arguments, listen=listen, **options)  # type: ignore[arg-type]  # as they came

        monkeypatch.setattr(workspace, "ask", ask)


@pytest.fixture
def narrow(library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, Gate]]:
    """A server at which one question is at work and one can wait, and the gate before which they stand."""
    keys = open_key_store(library.settings.model_copy(update={"data_dir": tmp_path}))
    gate = Gate(library, monkeypatch)
    narrowed = library.settings.model_copy(update={"at_work": 1, "waiting": 1})
    monkeypatch.setattr(library, "settings", narrowed)
    with serving(library, keys) as running:
        yield f"http://127.0.0.1:{running.port}", gate
        gate.open.set()
    keys.close()


def until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def gauge(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_beyond_the_line_questions_are_sent_away(narrow: tuple[str, Gate]) -> None:
    url, gate = narrow
    body = {"question": "What does a parking permit cost?"}
    replies: list[httpx.Response] = []
    askers = [
        threading.Thread(target=lambda: replies.append(httpx.post(f"{url}/v1/ask", json=body, timeout=START_S)))
        for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    until(lambda: gauge(url, "rank37_questions_waiting") == 1)
    assert gate.n_begun == 1
    for path, more in (
        ("/v1/ask", {}),
        ("/v1/ask", {"stream": True}),
        ("/v1/chat/completions", {"model": "documents", "messages": [{"role": "user", "content": "Why?"}]}),
    ):
        refused = httpx.post(url + path, json={**body, **more})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "1 questions are at work and 1 wait" in refused.json()["error"]["message"]
    gate.open.set()
    for asker in askers:
        asker.join(START_S)
    assert [reply.status_code for reply in replies] == [200, 200]
    assert gate.n_begun == 2


def test_where_the_pages_take_all_places_callers_are_told_when_to_come_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(at_work=1, waiting=0)
    monkeypatch.setattr(served.library, "turns", turns)
    body = {"question": "What does a parking permit cost?"}
    with served.client(served.all_key) as client:
        with turns.taken():
            refused = client.post("/v1/ask", json=body)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert client.post("/v1/ask", json=body).is_success


@pytest.mark.parametrize("stream", [True, False])
def test_a_question_whose_asker_leaves_makes_room(narrow: tuple[str, Gate], stream: bool) -> None:
    url, gate = narrow
    body = {"question": "What does a parking permit cost?", "stream": stream}
    if stream:
        with httpx.stream("POST", f"{url}/v1/ask", json=body, timeout=START_S) as reply:
            next(reply.iter_raw())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/ask", json=body, timeout=3.0)
        until(lambda: gate.n_begun == 1)
    until(lambda: gate.n_stopped == 1)
    until(lambda: gauge(url, "rank37_questions_at_work") == 0)
    gate.open.set()
    assert httpx.post(f"{url}/v1/ask", json={**body, "stream": False}, timeout=START_S).is_success


def test_a_fault_is_a_plain_reply(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> Result:
        raise RuntimeError("the secret of the question")

    monkeypatch.setattr(served.library.open(), "ask", fail)
    with served.client(served.all_key) as client:
        reply = client.post("/v1/ask", json={"question": "Why?"})
        assert (reply.status_code, reply.json()["error"]["type"]) == (500, "Fault")
        assert "secret" not in reply.text
        streamed = client.post("/v1/ask", json={"question": "Why?", "stream": True})
    assert streamed.text.startswith("event: error\n")
    assert "Traceback" not in streamed.text
