"""Questions over HTTP: answered, refused, ranked and streamed, by a real server over real engines."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.api.conftest import PARKING, Served
from ui.api.rerank import candidates_of

QUESTION = "What does a parking permit cost?"
UNANSWERABLE = "Which planet has the most moons?"


def events_of(reply: httpx.Response) -> list[tuple[str, Any]]:
    """The events of a stream, comments left out."""
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in reply.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_a_question_is_answered_with_its_citation(all_client: httpx.Client) -> None:
    reply = all_client.post("/v1/ask", json={"question": QUESTION})
    assert reply.status_code == 200, reply.text
    value = reply.json()
    assert (value["outcome"], value["collection"]) == ("answer", "documents")
    assert "forty crowns" in value["text"]
    citation = value["citations"][0]
    assert (citation["file"], citation["page"], citation["marker"]) == ("town.pdf", 1, 1)
    assert citation["quote"] in PARKING
    assert value["kept"][0]["score"] >= value["floor"]
    assert "candidates" not in value

    whole = all_client.post("/v1/ask", json={"question": QUESTION, "rankings": True}).json()
    assert len(whole["candidates"]) == len(whole["ranked"]) == 2


def test_a_question_without_an_answer_is_refused(all_client: httpx.Client) -> None:
    value = all_client.post("/v1/ask", json={"question": UNANSWERABLE}).json()
    assert (value["outcome"], value["reason"]) == ("refusal", "below_floor")
    assert value["citations"] == []
    assert "below the floor" in value["text"]


def test_a_stream_tells_stages_ranking_and_result(all_client: httpx.Client) -> None:
    events = events_of(all_client.post("/v1/ask", json={"question": QUESTION, "stream": True}))
    names = [name for name, _ in events]
    assert [data["stage"] for name, data in events if name == "stage"] == ["embed", "recall", "rerank", "answer"]
    assert names.index("ranking") < names.index("result") == len(names) - 1
    ranking = next(data for name, data in events if name == "ranking")
    assert [row["rank"] for row in ranking["ranked"]] == [1, 2]
    assert ranking["ranked"][0]["kept"]
    assert "forty crowns" in events[-1][1]["text"]


def test_retrieve_ranks_without_an_answer_and_keeps_no_trace(all_client: httpx.Client, served: Served) -> None:
    store = served.library.open().recorder.store()
    assert store is not None
    n_before = store.count()
    value = all_client.post("/v1/retrieve", json={"question": QUESTION, "top_n": 1}).json()
    assert [passage["rank"] for passage in value["passages"]] == [1]
    assert "forty crowns" in value["passages"][0]["text"]
    assert (value["n_candidates"], value["n_kept"]) == (2, 1)
    none_kept = all_client.post("/v1/retrieve", json={"question": QUESTION, "floor": 1.0}).json()
    assert not any(passage["kept"] for passage in none_kept["passages"])
    assert store.count() == n_before


def test_only_the_named_documents_are_searched(all_client: httpx.Client) -> None:
    value = all_client.post("/v1/retrieve", json={"question": QUESTION, "document_ids": []}).json()
    assert value["passages"] == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"question": "   "}, "the question is empty"),
        ({}, "body.question: Field required"),
        ({"question": QUESTION, "floor": 2}, "less than or equal to 1"),
        ({"question": "x" * 8001}, "8,001 characters, the limit is 8,000"),
    ],
)
def test_what_can_not_be_asked_is_told_plainly(all_client: httpx.Client, body: dict[str, Any], says: str) -> None:
    reply = all_client.post("/v1/ask", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "BadInput"
    assert says in error["message"]
    assert len(error["message"]) < 1000


def test_an_unknown_collection_and_an_unknown_path_are_404(all_client: httpx.Client) -> None:
    reply = all_client.post("/v1/ask", json={"question": QUESTION, "collection": "nowhere"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "NotHere")
    assert (all_client.get("/v1/nothing").status_code, all_client.get("/v1/ask").status_code) == (404, 405)
    assert all_client.get("/v1/nothing").json()["error"]["type"] == "NotFound"


def test_rerank_in_the_shape_of_cohere_and_jina(all_client: httpx.Client) -> None:
    documents = ["The library lends books.", {"text": "A parking permit costs forty crowns."}, "Goats eat grass."]
    body = {"model": "rank37", "query": QUESTION, "documents": documents, "top_n": 2, "return_documents": True}
    value = all_client.post("/v1/rerank", json=body).json()
    assert value["results"][0]["index"] == 1
    assert value["results"][0]["document"] == documents[1]
    scores = [result["relevance_score"] for result in value["results"]]
    assert len(scores) == 2
    assert 1 >= scores[0] > scores[1] >= 0
    plain = all_client.post("/v1/rerank", json={"query": QUESTION, "documents": ["a", "b"]}).json()
    assert all("document" not in result for result in plain["results"])


def test_a_document_to_rerank_is_the_same_passage_wherever_it_stands() -> None:
    """Else its vectors would be kept once for each place at which it ever stood."""

    def ids(*texts: str) -> list[str]:
        return [candidate.chunk.id for candidate in candidates_of(texts)]

    first, second, third = ids("a", "b", "c")
    assert ids("c", "a", "b") == [third, first, second]
    assert ids("b", "a", "b")[:2] == [second, first]
    assert len(set(ids("a", "a", "b", "a"))) == 4  # and none is another's
    assert [candidate.rank for candidate in candidates_of(["b", "a", "b"])] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"documents": ["a"] * 1001}, 400, "1001 documents, the limit is 1000"),
        ({"documents": ["a" * 2_000_001]}, 400, "the limit is 2,000,000"),
        ({"documents": []}, 400, "at least 1"),
        ({"query": " "}, 400, "query is empty"),
        ({"model": "rerank-v3.5"}, 404, "no reranker 'rerank-v3.5'"),
        ({"documents": ["a" * (4 * 2**20 + 1)]}, 413, "4.0 MiB"),
    ],
)
def test_rerank_has_limits(all_client: httpx.Client, change: dict[str, Any], status: int, says: str) -> None:
    reply = all_client.post("/v1/rerank", json={"query": QUESTION, "documents": ["a"], **change})
    assert reply.status_code == status
    assert says in reply.json()["error"]["message"]
