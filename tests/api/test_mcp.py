"""The MCP server, driven by the official package's own client: over HTTP in the API, and over a pipe."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.api.conftest import PARKING, Served

TOOLS = {"search", "ask", "fetch_page", "list_collections"}
QUESTION = "What does a parking permit cost?"


@asynccontextmanager
async def over_http(served: Served, key: str, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=120) as http:
        transport = streamable_http_client(f"{served.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:  # type: ignore[arg-type]  # one of its modes
            yield client


async def found(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool gives."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def said(client: Client, tool: str, **arguments: Any) -> str:
    """The message of a tool's error."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]  # an error is text


async def ask_search_and_read(client: Client) -> None:
    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    searched = await found(client, "search", query=QUESTION, limit=1)
    passage = searched["passages"][0]
    assert "forty crowns" in passage["text"]
    assert passage["kept"]
    assert passage["score"] >= searched["floor"]

    asked = await found(client, "ask", question=QUESTION)
    assert asked["outcome"] == "answer"
    citation = asked["citations"][0]
    page = await found(client, "fetch_page", document_id=citation["document_id"], page=citation["page"])
    assert page["text"] == PARKING
    assert citation["quote"] in page["text"]

    refused = await found(client, "ask", question="Which planet has the most moons?")
    assert refused["outcome"] == "refusal"
    assert refused["text"].startswith("No answer.")
    assert "is empty" in await said(client, "ask", question=" ")
    assert "no page 7" in await said(client, "fetch_page", document_id=citation["document_id"], page=7)


def test_over_http_with_the_packages_client(served: Served) -> None:
    async def run(mode: str) -> None:
        async with over_http(served, served.all_key, mode) as client:
            await ask_search_and_read(client)

    for mode in ("auto", "legacy"):  # without and with a handshake
        anyio.run(run, mode)


def test_over_http_each_person_reaches_their_own(served: Served) -> None:
    async def run() -> None:
        async with over_http(served, served.ann_key) as ann, over_http(served, served.bob_key) as bob:
            listed = await found(ann, "list_collections")
            assert {card["key"] for card in listed["collections"]} == {"documents", served.anns}
            hers = await found(ann, "search", query="What rent?", collection=served.anns)
            assert "nine hundred" in hers["passages"][0]["text"]
            document_id = hers["passages"][0]["document_id"]
            for tool, arguments in (
                ("search", {"query": "What rent?"}),
                ("ask", {"question": "What rent?"}),
                ("fetch_page", {"document_id": document_id, "page": 1}),
            ):
                assert "or it is not yours" in await said(bob, tool, collection=served.anns, **arguments)
            assert "no document" in await said(bob, "fetch_page", document_id=document_id, page=1)

    anyio.run(run)


def test_over_a_pipe_with_the_packages_client(served: Served, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(served.library.settings.data_dir, data_dir, ignore=shutil.ignore_patterns("*lock*", "*.sqlite*"))
    environment = {"RANK37_DATA_DIR": str(data_dir), "RANK37_RERANKER": "embedded", "HF_HUB_OFFLINE": "1"}
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "ui.mcp"],
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )

    async def run() -> None:
        async with Client(parameters) as client:
            await ask_search_and_read(client)

    anyio.run(run)
