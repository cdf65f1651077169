"""Kept questions over HTTP: listed, looked at, labelled."""

from __future__ import annotations

import httpx

QUESTION = "When does the swimming pool open?"


def test_a_kept_question_is_listed_shown_and_labelled(all_client: httpx.Client) -> None:
    asked = all_client.post("/v1/ask", json={"question": QUESTION}).json()
    path = f"/v1/traces/{asked['id']}"
    first = all_client.get("/v1/traces", params={"limit": 1}).json()["traces"][0]
    assert (first["id"], first["question"], first["outcome"]) == (asked["id"], QUESTION, "answer")

    shown = all_client.get(path).json()
    assert shown["text"] == asked["text"]
    assert len(shown["candidates"]) == len(shown["ranked"]) == 2
    assert shown["ranked"][0]["file"] == "pool.pdf"

    chunk_id = asked["citations"][0]["chunk_id"]
    label = all_client.post(f"{path}/labels", json={"verdict": "right", "chunk_id": chunk_id})
    assert (label.status_code, label.json()["verdict"], label.json()["rank"]) == (201, "right", 1)
    all_client.post(f"{path}/labels", json={"verdict": "good_answer"})
    verdicts = [label["verdict"] for label in all_client.get(path).json()["labels"]]
    assert verdicts == ["right", "good_answer"]
    all_client.delete(f"{path}/labels", params={"chunk_id": chunk_id})
    assert [label["verdict"] for label in all_client.get(path).json()["labels"]] == ["good_answer"]


def test_labels_that_do_not_fit(all_client: httpx.Client) -> None:
    path = f"/v1/traces/{all_client.post('/v1/ask', json={'question': QUESTION}).json()['id']}/labels"
    for body in ({"verdict": "perfect"}, {"verdict": "right", "chunk_id": "none"}, {"verdict": "wrongly_refused"}):
        assert all_client.post(path, json=body).status_code == 400, body
    assert all_client.post("/v1/traces/none/labels", json={"verdict": "right"}).status_code == 404
