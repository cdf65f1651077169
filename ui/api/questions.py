"""Routes of questions: ask, with an answer or a refusal at the end, and retrieve, with the ranking alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from ingest.library import Workspace
from rag.errors import Rank37Error
from rag.types import RankingReady, ReplyText, RerankProgress, StageStarted, Turn, Waiting
from ui.api.errors import body_of
from ui.api.service import Query, asking, caller_of, done, ranking, service_of
from ui.api.streaming import ALIVE, Pause, Streamed, event_stream, sse
from ui.api.values import files_of, passage_rows, ranking_row, result_row

router = APIRouter(prefix="/v1", tags=["questions"])

MOST_TURNS = 50
MOST_DOCUMENTS = 1000

CollectionKey = Annotated[
    str | None, Field(None, max_length=63, description="Its key; without one: the collection that the app starts with.")
]


class EarlierTurn(BaseModel):
    """An earlier question and what was said to it."""

    question: str
    reply: str = ""


class QuestionBody(BaseModel):
    """A question, and where its answer is looked for."""

    question: str
    collection: CollectionKey = None
    document_ids: Annotated[
        list[str] | None, Field(None, max_length=MOST_DOCUMENTS, description="Search only in these documents.")
    ] = None
    history: Annotated[
        list[EarlierTurn], Field(max_length=MOST_TURNS, description="To understand a follow-up; never evidence.")
    ] = []
    floor: Annotated[
        float | None, Field(None, ge=0, le=1, description="Another floor than the collection's, for this question.")
    ] = None

    def query(self) -> Query:
        """What is asked. Raises BadInput."""
        query = Query(
            self.question,
            self.collection,
            tuple(Turn(turn.question, turn.reply) for turn in self.history),
            None if self.document_ids is None else tuple(self.document_ids),
            self.floor,
        )
        query.check()
        return query


class RetrieveRequest(QuestionBody):
    """A question whose passages are wanted."""

    top_n: Annotated[
        int | None, Field(None, ge=1, le=1000, description="How many passages, best first; without it: all.")
    ] = None


class AskRequest(QuestionBody):
    """A question."""

    stream: Annotated[
        bool, Field(description="Reply with server-sent events: stage, rerank, ranking, reply, result, error.")
    ] = False
    rankings: Annotated[
        bool, Field(description="Give all candidates before and after reranking, with their texts.")
    ] = False


@router.post("/ask", summary="Answer a question with citations, or refuse it")
async def ask(request: Request, body: AskRequest) -> Response:
    """The outcome with its citations and the passages that were kept.

    With `stream: true`, server-sent events: `stage` as each begins, `rerank` with its progress, `ranking` with both
    rankings in short, `reply` with pieces of the LLM's text *before its citations are checked*, and at the end
    `result`, whose text is the one to show, or `error`.
    """
    service, caller, query = service_of(request), caller_of(request), body.query()
    workspace = await run_sync(service.open, query.collection, caller)
    if body.stream:
        return event_stream(
            _events(Streamed(service.line, asking(workspace, query, caller)), request, workspace, body.rankings)
        )
    result = await done(service.line.enter(asking(workspace, query, caller)), request)
    return JSONResponse(await run_sync(lambda: _result(result, workspace, body.rankings)))


@router.post("/retrieve", summary="Rank passages for a question, without an answer")
async def retrieve(request: Request, body: RetrieveRequest) -> dict[str, Any]:
    """Recall, rerank and floor: the passages in order, each with its rank before, its score and whether it is kept."""
    service, caller, query = service_of(request), caller_of(request), body.query()
    workspace = await run_sync(service.open, query.collection, caller)
    trace = await done(service.line.enter(ranking(workspace, query, caller)), request)
    index = workspace.engines.index
    files = await run_sync(files_of, index, [ranked.chunk for ranked in trace.ranked[: body.top_n]])
    return {
        "collection": workspace.key,
        "query": trace.query,
        "floor": trace.floor,
        "n_candidates": len(trace.candidates),
        "n_kept": len(trace.kept),
        "passages": passage_rows(trace, files, body.top_n),
        "notes": list(trace.notes),
        "timings_ms": dict(trace.timings_ms),
    }


async def _events(
    streamed: Streamed[Any], request: Request, workspace: Workspace, rankings: bool
) -> AsyncIterator[bytes]:
    try:
        async for event in streamed.events(request):
            match event:
                case Pause():
                    yield ALIVE
                case Waiting(ahead) if ahead:
                    yield sse({"ahead": ahead}, "waiting")
                case StageStarted(stage):
                    yield sse({"stage": stage}, "stage")
                case RerankProgress(done, total):
                    yield sse({"done": done, "total": total}, "rerank")
                case RankingReady(trace):
                    yield sse(ranking_row(trace), "ranking")
                case ReplyText(text):
                    yield sse({"text": text}, "reply")
        result = streamed.result()
        if result is not None:
            yield sse(await run_sync(lambda: _result(result, workspace, rankings)), "result")
    except Rank37Error as error:
        yield sse(body_of(request.url.path, error), "error")


def _result(result: Any, workspace: Workspace, rankings: bool) -> dict[str, Any]:
    return result_row(result, workspace.engines.index, collection=workspace.key, rankings=rankings)
