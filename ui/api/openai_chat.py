"""OpenAI's chat protocol: each collection is a model, the last user message the question, the answer a message.

What a message says has been checked: an LLM's text is not passed on before its citations are, so that no invented
marker, link or image reaches a client that would show it. Sampling parameters have no meaning here and are passed over.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from ingest.library import Workspace
from rag.errors import BadInput, Rank37Error
from rag.types import CollectionCard, RankingReady, Result, StageStarted, Turn
from ui.api.errors import body_of
from ui.api.service import Query, asking, caller_of, done, service_of
from ui.api.streaming import ALIVE, Pause, Streamed, event_stream, sse
from ui.api.values import SOURCES, chat_text, ranking_row, result_row

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

MOST_MESSAGES = 200
PIECE = re.compile(r"\S*\s*")
"""What a streamed message is sent in: words with the white space after them."""


class ContentPart(BaseModel):
    """A piece of a message; those that are no text can't be read."""

    type: str
    text: str = ""


class ChatMessage(BaseModel):
    """A message of the chat so far."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class StreamOptions(BaseModel):
    """How to stream."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A chat whose last message is a question."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[str, Field(description="The key of a collection; GET /v1/models lists them.")]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None


@router.get("/models", summary="List the collections as models")
def list_models(request: Request) -> dict[str, Any]:
    """Those that the caller may ask."""
    cards = service_of(request).library.collections(caller_of(request).person)
    return {"object": "list", "data": [_model(card) for card in cards]}


@router.get("/models/{key}", summary="Look at one collection as a model")
def show_model(request: Request, key: str) -> dict[str, Any]:
    """One that the caller may ask."""
    return _model(service_of(request).card(key, caller_of(request)))


@router.post("/chat/completions", summary="Answer the last message of a chat")
async def complete(request: Request, body: ChatRequest) -> Response:
    """The answer with its `[n]` and a list of sources at the end, or a message that says why there is none.

    `rank37` beside OpenAI's fields has the whole result. With `stream: true` the first chunks are empty and tell in
    `rank37` what is being done; the text follows once its citations are checked.
    """
    if body.n not in (None, 1):
        raise BadInput(f"n = {body.n}: a question has one answer; leave it out")
    service, caller, query = service_of(request), caller_of(request), _query(body.messages, body.model)
    workspace = await run_sync(service.open, query.collection, caller)
    if body.stream:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        streamed = Streamed(service.line, asking(workspace, query, caller))
        return event_stream(_chunks(streamed, request, workspace, with_usage=with_usage))
    result = await done(service.line.enter(asking(workspace, query, caller)), request)
    message = {"role": "assistant", "content": chat_text(result), "refusal": None}
    return JSONResponse(
        {
            **_head("chat.completion", workspace, result.trace.id),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": await run_sync(_usage, workspace, result),
            "rank37": await run_sync(_extra, workspace, result),
        }
    )


def _query(messages: Sequence[ChatMessage], model: str) -> Query:
    """The last message as the question, the pairs before it as earlier turns. Raises BadInput."""
    last = messages[-1]
    if last.role != "user":
        raise BadInput(f"the last message is of role {last.role!r}: the question is the last message, of role 'user'")
    turns: list[Turn] = []
    asked = ""
    for message in messages[:-1]:
        if message.role == "user":
            asked = message.text
        elif message.role == "assistant" and asked:
            turns.append(Turn(asked, message.text.split(SOURCES)[0]))
            asked = ""
    query = Query(last.text, model, tuple(turns))
    query.check()
    return query


async def _chunks(
    streamed: Streamed[Result], request: Request, workspace: Workspace, *, with_usage: bool
) -> AsyncIterator[bytes]:
    head = _head("chat.completion.chunk", workspace, "")

    def chunk(delta: dict[str, Any], finish_reason: str | None = None, **rank37: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return sse({**head, "choices": [choice], **({"rank37": rank37} if rank37 else {})})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for event in streamed.events(request):
            match event:
                case Pause():
                    yield ALIVE
                case StageStarted(stage):
                    yield chunk({}, stage=stage)
                case RankingReady(trace):
                    head["id"] = f"chatcmpl-{trace.id}"
                    yield chunk({}, ranking=ranking_row(trace))
        result = streamed.result()
        if result is None:
            return
        for piece in PIECE.findall(chat_text(result)):
            if piece:
                yield chunk({"content": piece})
        yield chunk({}, "stop", **await run_sync(_extra, workspace, result))
        if with_usage:
            yield sse({**head, "choices": [], "usage": await run_sync(_usage, workspace, result)})
        yield sse("[DONE]")
    except Rank37Error as error:
        yield sse(body_of(request.url.path, error))


def _head(kind: str, workspace: Workspace, trace_id: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{trace_id}",
        "object": kind,
        "created": int(time.time()),
        "model": workspace.key,
    }


def _extra(workspace: Workspace, result: Result) -> dict[str, Any]:
    return result_row(result, workspace.engines.index, collection=workspace.key, rankings=False)


def _usage(workspace: Workspace, result: Result) -> dict[str, int]:
    """Tokens of the prompt and the reply as the LLM counts them; none were used where no LLM was asked."""
    llm, trace = workspace.engines.llm, result.trace
    n_prompt = sum(llm.count_tokens(message.content) for message in trace.prompt) if llm else 0
    n_reply = llm.count_tokens(trace.reply) if llm and trace.reply else 0
    return {"prompt_tokens": n_prompt, "completion_tokens": n_reply, "total_tokens": n_prompt + n_reply}


def _model(card: CollectionCard) -> dict[str, Any]:
    created = int(datetime.fromisoformat(card.created_at).timestamp()) if card.created_at else 0
    return {
        "id": card.key,
        "object": "model",
        "created": created,
        "owned_by": card.owner or "rank37",
        "name": card.title,
    }
