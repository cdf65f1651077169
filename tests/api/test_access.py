"""Who gets in: keys, persons who can't cross into each other's collections on any route, pages of strangers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingest.library import Library
from rag.errors import BadInput
from rag.ports import KeyStore
from rag.wiring import open_key_store
from tests.api.conftest import Served, serving
from ui.api.app import make_app
from ui.api.serve import check_may_listen, open_listener

Call = Callable[[httpx.Client, "Anns"], httpx.Response]


class Anns:
    """What there is of Ann's, by its names."""

    def __init__(self, served: Served) -> None:
        self.collection = served.anns
        workspace = served.library.open(served.anns)
        self.document = workspace.engines.index.documents()[0].document.id
        self.job = workspace.queue.jobs()[0].id
        result = workspace.recorder.answered(workspace.ask("What rent does Ann pay?"))
        self.trace = result.trace.id
        self.chunk = result.trace.candidates[0].chunk.id

    @property
    def where(self) -> dict[str, str]:
        return {"collection": self.collection}


CALLS: dict[str, Call] = {
    "POST /v1/ask": lambda client, anns: client.post("/v1/ask", json={"question": "What rent?", **anns.where}),
    "POST /v1/ask (stream)": lambda client, anns: client.post(
        "/v1/ask", json={"question": "What rent?", "stream": True, **anns.where}
    ),
    "POST /v1/retrieve": lambda client, anns: client.post("/v1/retrieve", json={"question": "Rent?", **anns.where}),
    "GET /v1/documents": lambda client, anns: client.get("/v1/documents", params=anns.where),
    "POST /v1/documents": lambda client, anns: client.post(
        "/v1/documents", params=anns.where, files={"file": ("x.pdf", b"%PDF-1.7")}
    ),
    "GET /v1/documents/jobs": lambda client, anns: client.get("/v1/documents/jobs", params=anns.where),
    "GET /v1/documents/jobs/{job_id}": lambda client, anns: client.get(
        f"/v1/documents/jobs/{anns.job}", params=anns.where
    ),
    "GET /v1/documents/jobs/{job_id} (elsewhere)": lambda client, anns: client.get(f"/v1/documents/jobs/{anns.job}"),
    "DELETE /v1/documents/jobs/{job_id}": lambda client, anns: client.delete(
        f"/v1/documents/jobs/{anns.job}", params=anns.where
    ),
    "GET /v1/documents/{document_id}/pages/{number}": lambda client, anns: client.get(
        f"/v1/documents/{anns.document}/pages/1", params=anns.where
    ),
    "GET /v1/documents/{document_id}/pages/{number} (elsewhere)": lambda client, anns: client.get(
        f"/v1/documents/{anns.document}/pages/1"
    ),
    "DELETE /v1/documents/{document_id}": lambda client, anns: client.delete(
        f"/v1/documents/{anns.document}", params=anns.where
    ),
    "PATCH /v1/collections/{key}": lambda client, anns: client.patch(
        f"/v1/collections/{anns.collection}", json={"title": "Mine", "members": ["bob"]}
    ),
    "DELETE /v1/collections/{key}": lambda client, anns: client.delete(f"/v1/collections/{anns.collection}"),
    "GET /v1/traces": lambda client, anns: client.get("/v1/traces", params=anns.where),
    "GET /v1/traces/{trace_id}": lambda client, anns: client.get(f"/v1/traces/{anns.trace}"),
    "POST /v1/traces/{trace_id}/labels": lambda client, anns: client.post(
        f"/v1/traces/{anns.trace}/labels", json={"verdict": "wrong", "chunk_id": anns.chunk}
    ),
    "DELETE /v1/traces/{trace_id}/labels": lambda client, anns: client.delete(f"/v1/traces/{anns.trace}/labels"),
    "GET /v1/models/{key}": lambda client, anns: client.get(f"/v1/models/{anns.collection}"),
    "POST /v1/chat/completions": lambda client, anns: client.post(
        "/v1/chat/completions",
        json={"model": anns.collection, "messages": [{"role": "user", "content": "What rent does Ann pay?"}]},
    ),
    "POST /v1/chat/completions (stream)": lambda client, anns: client.post(
        "/v1/chat/completions",
        json={"model": anns.collection, "stream": True, "messages": [{"role": "user", "content": "What rent?"}]},
    ),
    "POST /mcp": lambda client, anns: call_tool(client, "ask", question="What rent does Ann pay?", **anns.where),
    "POST /mcp (search)": lambda client, anns: call_tool(client, "search", query="What rent?", **anns.where),
    "POST /mcp (fetch_page)": lambda client, anns: call_tool(
        client, "fetch_page", document_id=anns.document, page=1, **anns.where
    ),
}
OWN_LISTS = {"GET /v1/collections", "POST /v1/collections", "GET /v1/models", "POST /v1/rerank"}
"""Routes that name no collection: they give what is the caller's own, or nothing of anyone."""
OF_NOBODY = {"GET /healthz", "GET /readyz", "GET /metrics"}


def call_tool(client: httpx.Client, name: str, **arguments: Any) -> httpx.Response:
    """Call an MCP tool in one plain request; a tool's error becomes a 404 here, to be compared with the others."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
    reply = client.post("/mcp", json=body, headers=headers)
    if reply.status_code == 200 and reply.json()["result"].get("isError"):
        return httpx.Response(404, json={"error": {"message": reply.text}}, request=reply.request)
    return reply


@pytest.fixture(scope="module")
def anns(served: Served) -> Anns:
    return Anns(served)


def test_every_route_is_tried_for_crossing(served: Served) -> None:
    app = make_app(served.library, served.keys, on_loopback=True)
    paths = app.openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} | {"POST /mcp"}
    assert routes == {name.split(" (")[0] for name in CALLS} | OWN_LISTS | OF_NOBODY


@pytest.mark.parametrize("name", CALLS)
def test_bob_can_not_cross_into_anns_collection(served: Served, anns: Anns, name: str) -> None:
    with served.client(served.bob_key) as client:
        reply = CALLS[name](client, anns)
    assert reply.status_code == 404, reply.text
    assert "rent" not in reply.text.replace("What rent", "")
    assert "nine hundred" not in reply.text
    workspace = served.library.open(served.anns, "ann")
    assert workspace.engines.index.document(anns.document) is not None
    assert len(workspace.queue.jobs()) == 1


@pytest.mark.parametrize("name", [name for name in CALLS if "elsewhere" not in name and "DELETE" not in name])
def test_ann_herself_gets_there(served: Served, anns: Anns, name: str) -> None:
    if name in ("POST /v1/documents", "PATCH /v1/collections/{key}"):
        pytest.skip("it would change what the other tests look at; see the tests of documents and collections")
    with served.client(served.ann_key) as client:
        reply = CALLS[name](client, anns)
    assert reply.is_success, reply.text


@pytest.mark.parametrize("name", CALLS)
def test_nobody_gets_in_without_a_key(served: Served, anns: Anns, name: str) -> None:
    for key in (None, "r37-000000000000-" + "A" * 43, served.bob_key[:-1]):
        with served.client(key) as client:
            reply = CALLS[name](client, anns)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "keys create" in reply.json()["error"]["message"]


def test_each_sees_their_own_collections(served: Served) -> None:
    def seen(key: str) -> set[str]:
        with served.client(key) as client:
            collections = {card["key"] for card in client.get("/v1/collections").json()["collections"]}
            assert {model["id"] for model in client.get("/v1/models").json()["data"]} == collections
        return collections

    assert seen(served.ann_key) == {"documents", served.anns}
    assert seen(served.bob_key) == {"documents", served.bobs}
    assert seen(served.all_key) == {"documents", served.anns, served.bobs}


def test_a_member_asks_and_does_not_change(served: Served, anns: Anns) -> None:
    served.library.share(served.anns, ["bob"], "ann")
    try:
        with served.client(served.bob_key) as client:
            assert client.post("/v1/retrieve", json={"question": "Rent?", **anns.where}).is_success
            assert client.get(f"/v1/traces/{anns.trace}").is_success
            for name in (
                "DELETE /v1/documents/{document_id}",
                "DELETE /v1/collections/{key}",
                "PATCH /v1/collections/{key}",
                "GET /v1/traces",
            ):
                reply = CALLS[name](client, anns)
                assert (reply.status_code, reply.json()["error"]["type"]) == (403, "NotAllowed"), name
            assert client.get("/v1/traces").status_code == 403  # of the collection that is no one's
    finally:
        served.library.share(served.anns, [], "ann")


def test_a_revoked_key_opens_nothing(served: Served) -> None:
    _, text = served.keys.create("to be revoked")
    with served.client(text) as client:
        assert client.get("/v1/collections").is_success
        served.keys.revoke("to be revoked")
        assert client.get("/v1/collections").status_code == 401


def test_no_key_question_or_text_is_in_the_log(served: Served, anns: Anns, log_lines: Callable[[], str]) -> None:
    with served.client(served.ann_key) as client:
        for call in (CALLS["POST /v1/ask"], CALLS["POST /v1/chat/completions"], CALLS["POST /mcp"]):
            assert call(client, anns).is_success
        client.post("/v1/ask", json={"question": "goats " * 5, "collection": "goats"})
    logged = log_lines()
    assert "POST /v1/ask 200" in logged
    assert "[ann]" in logged
    for secret in (served.ann_key, served.ann_key.split("-", 2)[2], "rent", "harbour company", "goats"):
        assert secret not in logged


@pytest.fixture
def keyless(tmp_path: Path, library: Library) -> Iterator[KeyStore]:
    store = open_key_store(library.settings.model_copy(update={"data_dir": tmp_path}))
    yield store
    store.close()


def test_without_keys_this_machine_gets_in_and_strange_pages_do_not(library: Library, keyless: KeyStore) -> None:
    with serving(library, keyless) as running:
        url = f"http://127.0.0.1:{running.port}"
        with httpx.Client(base_url=url) as client:
            assert client.get("/v1/collections").is_success
            assert client.get("/v1/collections", headers={"Authorization": "Bearer any"}).is_success
            assert client.get("/v1/collections", headers={"Origin": url}).is_success
            for headers in (
                {"Host": "evil.example"},
                {"Host": f"evil.example:{running.port}"},
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Origin": "http://127.0.0.1:1"},
            ):
                reply = client.get("/v1/collections", headers=headers)
                assert (reply.status_code, reply.json()["error"]["type"]) == (403, "NotAllowed"), headers
            keyless.create("first")
            assert client.get("/v1/collections").status_code == 401


def test_beyond_this_machine_all_but_the_public_needs_a_key(library: Library, keyless: KeyStore) -> None:
    _, text = keyless.create("first")
    with serving(library, keyless, "0.0.0.0") as running, httpx.Client() as client:
        url = f"http://127.0.0.1:{running.port}"
        needs = {path: client.get(url + path).status_code for path in ("/healthz", "/docs", "/readyz", "/metrics")}
        assert needs == {"/healthz": 200, "/docs": 200, "/readyz": 401, "/metrics": 401}
        headers = {"Authorization": f"Bearer {text}", "Host": "rank37.example"}
        assert client.get(url + "/metrics", headers=headers).is_success


def test_it_does_not_listen_beyond_this_machine_without_a_key(keyless: KeyStore) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check_may_listen(host, keyless, allow_open=False)
    for host in ("0.0.0.0", "::", "192.168.1.7", "rank37.example"):
        with pytest.raises(BadInput, match="RANK37_ALLOW_OPEN"):
            check_may_listen(host, keyless, allow_open=False)
        check_may_listen(host, keyless, allow_open=True)
    keyless.create("first")
    check_may_listen("0.0.0.0", keyless, allow_open=False)
    keyless.revoke("first")
    with pytest.raises(BadInput):
        check_may_listen("0.0.0.0", keyless, allow_open=False)


def test_a_port_that_is_taken_is_told_plainly() -> None:
    with (
        open_listener("127.0.0.1", 0) as listener,
        pytest.raises(BadInput, match="RANK37_API_PORT"),
    ):
        open_listener("127.0.0.1", listener.getsockname()[1])
