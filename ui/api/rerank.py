"""The route of the reranker alone, in the shape of Cohere's and Jina's: a query and documents in, scores out."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ingest.library import Workspace
from rag.asker import asked_by
from rag.errors import BadInput
from rag.ports import Reranker
from rag.rerank import rerank
from rag.types import Candidate, Chunk, PageSpan, RankedChunk
from rag.wiring import scores_by_index
from ui.api.errors import NotHere
from ui.api.line import Listener
from ui.api.service import caller_of, done, service_of

router = APIRouter(prefix="/v1", tags=["reranking"])

MOST_DOCUMENTS = 1000
MOST_CHARACTERS = 2_000_000
"""Of all documents together."""
OWN_NAME = "rank37"
"""Names whatever reranker is in use."""


class DocumentText(BaseModel):
    """A document as an object."""

    text: str


class RerankRequest(BaseModel):
    """What is to be ordered."""

    query: str
    documents: Annotated[list[str | DocumentText], Field(min_length=1)]
    model: Annotated[
        str | None, Field(description=f"The name of the reranker in use, or `{OWN_NAME}`: there is no other.")
    ] = None
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool = False


class RerankedText(BaseModel):
    """A document's text."""

    text: str


class Reranked(BaseModel):
    """A document's score."""

    index: int
    """Its place in the request, from 0."""
    relevance_score: float | None
    """In [0, 1], comparable between requests. None: beyond what the second model of a cascade reads."""
    document: RerankedText | None = None


class RerankReply(BaseModel):
    """The documents, best first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[Reranked]


@router.post("/rerank", summary="Order documents by relevance to a query", response_model_exclude_unset=True)
async def rerank_documents(request: Request, body: RerankRequest) -> RerankReply:
    """The reranker that questions meet, over documents of your own. No file keeps anything but remembered scores."""
    service = service_of(request)
    workspace = await run_sync(service.library.open)  # for its engines: no document of it is read
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    _check(body.query, texts)
    reranker = _reranker(workspace)
    name = reranker.info.name
    if body.model not in (None, OWN_NAME, name):
        raise NotHere(f"there is no reranker {body.model!r} here: name {name!r} or {OWN_NAME!r}, or none")
    candidates = candidates_of(texts)
    caller = caller_of(request)

    def order(_listen: Listener) -> tuple[RankedChunk, ...]:
        with asked_by(caller.person):
            return rerank(body.query, candidates, reranker)

    ranked = await done(service.line.enter(order), request)
    results = [
        Reranked(
            index=one.candidate.rank - 1,
            relevance_score=one.score,
            **({"document": RerankedText(text=one.chunk.text)} if body.return_documents else {}),
        )
        for one in ranked[: body.top_n]
    ]
    return RerankReply(id=uuid.uuid4().hex, object="list", model=name, results=results)


def _check(query: str, texts: list[str]) -> None:
    if not query.strip():
        raise BadInput("the query is empty: type one")
    if len(texts) > MOST_DOCUMENTS:
        raise BadInput(f"{len(texts)} documents, the limit is {MOST_DOCUMENTS}: send them in several requests")
    n_characters = sum(map(len, texts))
    if n_characters > MOST_CHARACTERS:
        raise BadInput(
            f"the documents have {n_characters:,} characters, the limit is {MOST_CHARACTERS:,}: send them in several "
            "requests"
        )


def _reranker(workspace: Workspace) -> Reranker:
    """The one in use; where that needs the index's own token vectors, which foreign texts lack, the cross-encoder."""
    engines = workspace.engines
    return engines.sentence_scorer if scores_by_index(workspace.settings) else engines.reranker


def candidates_of(texts: Sequence[str]) -> list[Candidate]:
    """The texts as passages. Wherever a text stands, its id is the same: what was made of it is found again by it."""
    n_before: Counter[str] = Counter()
    candidates = []
    for place, text in enumerate(texts):
        chunk_id = hashlib.sha256(f"{n_before[text]}\n{text}".encode("utf-8", "replace")).hexdigest()
        n_before[text] += 1
        chunk = Chunk(chunk_id, "", "", None, text, (PageSpan(1, 0, len(text)),), 0, 0)
        candidates.append(Candidate(chunk, place + 1, 0.0))
    return candidates
