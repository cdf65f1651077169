"""What whoever watches the server sees: alive, ready, numbers, a log without texts, a description."""

from __future__ import annotations

import json
import logging

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rag.errors import TracesUnavailable
from tests.api.conftest import Served
from ui.api.logs import JsonLines


def value(text: str, name: str, **labels: str) -> float:
    """A sample of the metrics; 0 where there is none yet."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((one.value for one in samples if one.name == name and labels.items() <= one.labels.items()), 0.0)


def test_alive_and_ready_need_no_key_on_this_machine(served: Served) -> None:
    with served.client(None) as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert set(ready.json()["checks"].values()) == {"ok"}


def test_ready_says_what_does_not_answer(served: Served) -> None:
    index = served.library.open().engines.index

    def fail() -> int:
        raise TracesUnavailable("the server secret.example is down")

    count, index.count_chunks = index.count_chunks, fail  # type: ignore[method-assign]
    try:
        with served.client(None) as client:
            reply = client.get("/readyz")
    finally:
        index.count_chunks = count  # type: ignore[method-assign]
    assert reply.status_code == 503
    assert reply.json()["checks"]["index"] == "TracesUnavailable"
    assert "secret.example" not in reply.text


def test_questions_are_counted_wherever_they_are_asked(served: Served, all_client: httpx.Client) -> None:
    before = all_client.get("/metrics").text
    all_client.post("/v1/ask", json={"question": "When does the swimming pool open?"})
    all_client.post("/v1/ask", json={"question": "Which planet has the most moons?"})
    workspace = served.library.open()  # as a page of the app asks
    workspace.recorder.answered(workspace.ask("What does a parking permit cost?"))
    after = all_client.get("/metrics").text

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("rank37_questions_total", outcome="answer") == 2
    assert grown("rank37_refusals_total", reason="below_floor") == 1
    assert grown("rank37_reranked_total") == 3
    assert 0 <= grown("rank37_rerank_changed_top_total") <= 3
    assert grown("rank37_stage_seconds_count", stage="rerank") == 3
    assert grown("rank37_http_requests_total", method="POST", route="/v1/ask", status="200") == 2
    assert value(after, "rank37_ingest_queue_files", state="waiting") == 0
    for text in ("swimming", "planet", "parking", "ann", "bob", "documents"):
        assert text not in after.replace("/v1/documents", "").lower()


def test_a_log_line_as_json() -> None:
    record = logging.LogRecord("ui.api", logging.INFO, "", 0, "%s done", ("GET",), None)
    record.fields = {"status": 200}
    row = json.loads(JsonLines().format(record))
    assert (row["message"], row["status"], row["level"]) == ("GET done", 200, "INFO")


def test_the_description_names_every_route(served: Served) -> None:
    with served.client(None) as client:
        described = client.get("/openapi.json").json()
        assert client.get("/docs").is_success
    assert {"/v1/ask", "/v1/rerank", "/v1/chat/completions", "/metrics"} <= set(described["paths"])
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], f"{method} {path}"
