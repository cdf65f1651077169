"""Documents and collections over HTTP: upload into the queue, look, read a page, delete; limits on what is sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import WAIT_S, Served
from tests.ingest.written_pdfs import write_pdf

GOATS = "Goats need a shed of two square metres each. They must not eat rhododendron leaves."


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        row: dict[str, Any] = client.get(
            f"/v1/documents/jobs/{job['id']}", params={"collection": job["collection"]}
        ).json()
        if row["state"] in ("done", "failed", "cancelled"):
            return row
        time.sleep(0.1)
    raise AssertionError("the job did not end")


@pytest.fixture
def collection(all_client: httpx.Client) -> Iterator[str]:
    """A new collection's key."""
    reply = all_client.post("/v1/collections", json={"title": "Goats"})
    assert reply.status_code == 201, reply.text
    key: str = reply.json()["key"]
    yield key
    all_client.delete(f"/v1/collections/{key}")


def test_a_document_from_upload_to_deletion(all_client: httpx.Client, collection: str, tmp_path: Path) -> None:
    pdf = write_pdf(tmp_path / "goats.pdf", [GOATS, "Hay is bought in June."]).read_bytes()
    where = {"collection": collection}
    reply = all_client.post("/v1/documents", params=where, files={"file": ("../goats.pdf", pdf)})
    assert reply.status_code == 202, reply.text
    job = ended(all_client, reply.json())
    assert (job["state"], job["outcome"]["status"], job["file"]) == ("done", "ingested", "goats.pdf")
    document_id = job["outcome"]["document_id"]

    listed = all_client.get("/v1/documents", params=where).json()["documents"]
    assert [(one["id"], one["pages"], one["state"]) for one in listed] == [(document_id, 2, "ready")]
    page = all_client.get(f"/v1/documents/{document_id}/pages/2", params=where).json()
    assert (page["text"], page["page"], page["pages"]) == ("Hay is bought in June.", 2, 2)
    for path in (f"{document_id}/pages/3", f"{document_id}/pages/0", f"{'0' * 32}/pages/1"):
        assert all_client.get(f"/v1/documents/{path}", params=where).status_code == 404

    asked = {"question": "How large must a goat's shed be?", "collection": collection}
    assert "two square metres" in all_client.post("/v1/ask", json=asked).json()["text"]
    assert all_client.delete(f"/v1/documents/{document_id}", params=where).json()["deleted"]
    assert all_client.get("/v1/documents", params=where).json()["documents"] == []
    assert all_client.delete(f"/v1/documents/{document_id}", params=where).status_code == 404
    assert all_client.post("/v1/ask", json=asked).json()["reason"] == "no_candidates"


def test_a_file_that_is_no_pdf_is_an_outcome(all_client: httpx.Client, collection: str) -> None:
    where = {"collection": collection}
    reply = all_client.post("/v1/documents", params=where, files={"file": ("a.pdf", b"PK\x03\x04")})
    job = ended(all_client, reply.json())
    assert (job["state"], job["outcome"]["status"]) == ("done", "refused")
    jobs = all_client.get("/v1/documents/jobs", params=where).json()["jobs"]
    assert [one["id"] for one in jobs] == [job["id"]]
    cancelled = all_client.delete(f"/v1/documents/jobs/{job['id']}", params=where)
    assert cancelled.json()["state"] == "done"  # it has ended already


def test_a_file_that_is_too_large_is_413(served: Served, all_client: httpx.Client, collection: str) -> None:
    limit = int(served.library.settings.max_file_mb * 2**20)
    where = {"collection": collection}
    # Just over the limit: the queue says so. Far over it: refused by its declared length, or as it arrives.
    reply = all_client.post("/v1/documents", params=where, files={"file": ("a.pdf", b"%PDF" + b"x" * limit)})
    assert reply.status_code == 413
    assert "limit is 1.0 MiB" in reply.json()["error"]["message"]
    far = b"%PDF" + b"x" * (2 * limit)
    assert all_client.post("/v1/documents", params=where, files={"file": ("a.pdf", far)}).status_code == 413

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 2**16
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    reply = all_client.post("/v1/documents", params=where, content=pieces(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["type"]) == (413, "TooLarge")
    assert all_client.get("/v1/documents/jobs", params=where).json()["jobs"] == []


def test_collections_are_made_renamed_shared_and_deleted(served: Served) -> None:
    with served.client(served.ann_key) as ann, served.client(served.bob_key) as bob:
        made = ann.post("/v1/collections", json={"title": "Letters"})
        assert (made.status_code, made.json()["owner"]) == (201, "ann")
        path = f"/v1/collections/{made.json()['key']}"
        assert ann.post("/v1/collections", json={"title": "letters"}).status_code == 400
        changed = ann.patch(path, json={"title": "Post", "members": ["bob"]}).json()
        assert (changed["title"], changed["members"]) == ("Post", ["bob"])
        assert "Post" in {card["title"] for card in bob.get("/v1/collections").json()["collections"]}
        assert bob.delete(path).status_code == 403
        assert ann.delete(path).json()["deleted"]
        assert ann.delete(path).status_code == 404
        reply = ann.delete("/v1/collections/documents")
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "BadInput")
