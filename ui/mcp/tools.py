"""The tools of the MCP server: search, ask, fetch_page, and which collections there are.

They serve whoever the transport says is calling. Which transport it is, is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio.to_thread import run_sync
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field
from starlette.requests import Request

from rag.errors import Rank37Error
from ui.api.access import Caller
from ui.api.documents import page_row
from ui.api.line import Listener
from ui.api.service import Query, Service, asking, ranking
from ui.api.values import chat_text, collection_row, files_of, passage_rows, result_row

Value = TypeVar("Value")

INSTRUCTIONS = (
    "Questions of a person's own documents. `ask` gives an answer whose every statement cites a page, or a refusal "
    "where the documents do not answer: pass a refusal on as such. `search` gives the passages themselves, best first, "
    "with a score in [0, 1]; `kept` says which reach the floor. `fetch_page` gives the text of a page that a passage "
    "or a citation names."
)

Collection = Annotated[str | None, Field(description="Key of a collection; without it: the first one.")]
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def make_server(find_service: Callable[[], Service], find_caller: Callable[[Request | None], Caller]) -> MCPServer[Any]:
    """The server with its tools.

    Args:
        find_service: What serves; called in a thread at each call, so it may take its time to open. Raises Rank37Error.
        find_caller: Who calls, by the HTTP request that the call came in; None: it came through a pipe.
    """

    def caller_of(context: Context[Any, Any]) -> Caller:
        return find_caller(context.request_context.request)

    server: MCPServer[Any] = MCPServer(
        "rank37", title="Rank37", instructions=INSTRUCTIONS, log_level="WARNING", subscriptions=False
    )

    @server.tool(annotations=_READS, structured_output=True)
    async def search(
        context: Context[Any, Any],
        query: Annotated[str, Field(description="A question, or what to look for.")],
        collection: Collection = None,
        limit: Annotated[int, Field(ge=1, le=100, description="How many passages at most.")] = 10,
    ) -> dict[str, Any]:
        """Find the passages of the documents that answer a question best, each with its document, pages and score."""
        service, caller = await _service(find_service), caller_of(context)
        asked = Query(query, collection)

        async def find() -> dict[str, Any]:
            asked.check()
            workspace = await run_sync(service.open, collection, caller)
            trace = await _in_line(service, ranking(workspace, asked, caller))
            index = workspace.engines.index
            files = await run_sync(files_of, index, [ranked.chunk for ranked in trace.ranked[:limit]])
            return {
                "collection": workspace.key,
                "floor": trace.floor,
                "passages": passage_rows(trace, files, limit),
                "notes": list(trace.notes),
            }

        return await _told(find)

    @server.tool(annotations=_READS, structured_output=True)
    async def ask(
        context: Context[Any, Any],
        question: Annotated[str, Field(description="A question of the documents.")],
        collection: Collection = None,
    ) -> dict[str, Any]:
        """Answer a question from the documents with citations of their pages, or refuse where they do not answer it."""
        service, caller = await _service(find_service), caller_of(context)
        asked = Query(question, collection)

        async def answer() -> dict[str, Any]:
            asked.check()
            workspace = await run_sync(service.open, collection, caller)
            result = await _in_line(service, asking(workspace, asked, caller))
            row = await run_sync(
                partial(result_row, result, workspace.engines.index, collection=workspace.key, rankings=False)
            )
            wanted = (
                "collection",
                "outcome",
                "reason",
                "citations",
                "refused_parts",
                "best_score",
                "floor",
                "notes",
                "id",
            )
            documents = {ranked.chunk.id: ranked.chunk.document_id for ranked in result.trace.kept}
            citations = [{**one, "document_id": documents.get(one["chunk_id"])} for one in row["citations"]]
            return {"text": chat_text(result), **{name: row[name] for name in wanted}, "citations": citations}

        return await _told(answer)

    @server.tool(annotations=_READS, structured_output=True)
    async def fetch_page(
        context: Context[Any, Any],
        document_id: Annotated[str, Field(description="As a passage or a citation names it.")],
        page: Annotated[int, Field(ge=1, description="Counted from 1.")],
        collection: Collection = None,
    ) -> dict[str, Any]:
        """Read the text of one page of a document."""
        service, caller = await _service(find_service), caller_of(context)

        def read() -> dict[str, Any]:
            return page_row(service.open(collection, caller), document_id, page)

        return await _told(lambda: run_sync(read))

    @server.tool(annotations=_READS, structured_output=True)
    async def list_collections(context: Context[Any, Any]) -> dict[str, Any]:
        """Which collections of documents there are, by key and title."""
        service, caller = await _service(find_service), caller_of(context)

        def read() -> dict[str, Any]:
            cards = service.library.collections(caller.person)
            return {"collections": [collection_row(card) for card in cards]}

        return await _told(lambda: run_sync(read))

    return server


async def _service(find_service: Callable[[], Service]) -> Service:
    try:
        return await run_sync(find_service)
    except Rank37Error as error:
        raise ToolError(str(error)) from None


async def _told(work: Callable[[], Awaitable[Value]]) -> Value:
    """What the work gives; an error that a person can read becomes one that the LLM can."""
    try:
        return await work()
    except Rank37Error as error:
        raise ToolError(str(error)) from None


async def _in_line(service: Service, do: Callable[[Listener], Value]) -> Value:
    work = service.line.enter(do)
    try:
        return await asyncio.shield(work.task)
    except asyncio.CancelledError:
        work.give_up()
        raise
