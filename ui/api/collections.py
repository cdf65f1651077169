"""Routes of collections: list, make, rename, share, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from ui.api.service import caller_of, service_of
from ui.api.values import collection_row

router = APIRouter(prefix="/v1/collections", tags=["collections"])

MOST_MEMBERS = 1000


class NewCollection(BaseModel):
    """A collection to be made."""

    title: str


class ChangedCollection(BaseModel):
    """What is to be changed of a collection; what is left out stays."""

    title: str | None = None
    members: Annotated[list[str] | None, Field(None, max_length=MOST_MEMBERS, description="Who else may use it.")] = (
        None
    )


@router.get("", summary="List the collections that the caller may use")
def list_collections(request: Request) -> dict[str, Any]:
    """By title."""
    service = service_of(request)
    cards = service.library.collections(caller_of(request).person)
    return {"collections": [collection_row(card) for card in cards], "default": service.library.settings.collection}


@router.post("", status_code=201, summary="Make an empty collection")
def create(request: Request, body: NewCollection) -> dict[str, Any]:
    """It is the caller's own, where the key is a person's."""
    return collection_row(service_of(request).library.create(body.title, caller_of(request).person))


@router.patch("/{key}", summary="Rename a collection, or share it")
def change(request: Request, key: str, body: ChangedCollection) -> dict[str, Any]:
    """Only its owner can, where it has one."""
    service, caller = service_of(request), caller_of(request)
    card = service.managed(key, caller)
    if body.title is not None:
        card = service.library.rename(card.key, body.title, caller.person)
    if body.members is not None:
        card = service.library.share(card.key, body.members, caller.person)
    return collection_row(card)


@router.delete("/{key}", summary="Delete a collection")
def delete(request: Request, key: str) -> dict[str, Any]:
    """With its documents, kept questions, labels and floors. Only its owner can, where it has one."""
    service, caller = service_of(request), caller_of(request)
    card = service.managed(key, caller)
    service.library.delete(card.key, caller.person)
    return {"key": card.key, "deleted": True}
