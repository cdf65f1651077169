"""Routes of kept questions: list them, look at one, and say what was right or wrong of it.

A key of a person sees the list of a collection that has an owner only where that is this person. Whoever asked has the
question's id, which can't be guessed, and can look at it and label it; one of a person's chat only they can, and the
collection's owner.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from ingest.library import Workspace
from rag.errors import BadInput
from rag.ports import TraceStore
from rag.types import StoredTrace, Verdict
from ui.api.errors import NotAllowed, NotHere
from ui.api.service import caller_of, service_of
from ui.api.values import files_of, stored_row, summary_row

router = APIRouter(prefix="/v1/traces", tags=["traces"])


class NewLabel(BaseModel):
    """A judgement of a passage, or of the outcome where no passage is named."""

    verdict: Verdict
    chunk_id: str | None = None


@router.get("", summary="List kept questions")
def list_traces(
    request: Request,
    collection: Annotated[str | None, Query(max_length=63)] = None,
    since: Annotated[str | None, Query(description="ISO 8601; UTC where it names no zone.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> dict[str, Any]:
    """Newest first, without passages."""
    service, caller = service_of(request), caller_of(request)
    card = service.card(collection, caller)
    if caller.person is not None and card.owner != caller.person:
        raise NotAllowed(
            f"the questions asked of {card.title!r} may be other people's: only its owner's key, or one of no person, "
            "lists them; each question can be looked at by its id"
        )
    store = _store(service.open(card.key, caller))
    summaries = store.summaries(collection=card.key, since=since, limit=limit)
    return {"collection": card.key, "traces": [summary_row(summary) for summary in summaries]}


@router.get("/{trace_id}", summary="Look at a kept question")
def show_trace(request: Request, trace_id: str) -> dict[str, Any]:
    """The outcome with all candidates before and after reranking, and the labels."""
    workspace, _, stored = _found(request, trace_id)
    chunks = [candidate.chunk for candidate in stored.trace.candidates]
    return stored_row(stored, files_of(workspace.engines.index, chunks))


@router.post("/{trace_id}/labels", status_code=201, summary="Label a passage or the outcome")
def add_label(request: Request, trace_id: str, body: NewLabel) -> dict[str, Any]:
    """In place of an earlier label of the same passage or of the outcome."""
    _, store, _ = _found(request, trace_id)
    return asdict(store.label(trace_id, body.verdict, chunk_id=body.chunk_id))


@router.delete("/{trace_id}/labels", summary="Take a label back")
def remove_label(request: Request, trace_id: str, chunk_id: str | None = None) -> dict[str, Any]:
    """That of a passage, or of the outcome where no passage is named."""
    _, store, _ = _found(request, trace_id)
    store.unlabel(trace_id, chunk_id=chunk_id)
    return {"trace_id": trace_id, "chunk_id": chunk_id, "deleted": True}


def _found(request: Request, trace_id: str) -> tuple[Workspace, TraceStore, StoredTrace]:
    """A kept question of a collection that the caller may use. Raises NotHere."""
    service, caller = service_of(request), caller_of(request)
    missing = NotHere(f"there is no trace {trace_id!r}, or it is not yours")
    # Which collection it belongs to is known only once it is read: the traces of all are kept in one store.
    store = _store(service.library.open())
    stored = store.trace(trace_id)
    cards = {card.key: card for card in service.library.collections(caller.person)}
    if stored is None or stored.collection not in cards:
        raise missing
    # What stands in a chat is its owner's alone, and the collection's owner's.
    if caller.person not in (None, cards[stored.collection].owner):
        asker = service.library.chats.owner_of_trace(trace_id)
        if asker is not None and asker != caller.person:
            raise missing
    return service.open(stored.collection, caller), store, stored


def _store(workspace: Workspace) -> TraceStore:
    store = workspace.recorder.store()
    if store is None:
        raise BadInput("no questions are kept here (RANK37_TRACES=off)")
    return store
