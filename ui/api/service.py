"""What every route needs: the library, the keys, the line and the counters, and who calls.

It finds collections for a caller and answers nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.requests import Request

from ingest.library import Library, Workspace
from rag.asker import asked_by
from rag.errors import BadInput, Rank37Error
from rag.pipeline import rank_passages
from rag.ports import KeyStore
from rag.record import Recorder
from rag.types import CollectionCard, Result, Trace, Turn
from ui.api.access import Caller
from ui.api.errors import NotAllowed, NotHere
from ui.api.line import Line, Listener, Work
from ui.api.metrics import Metrics

QUESTION_CHARACTERS = 8000
"""Longest question."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that serves, in one process."""

    library: Library
    keys: KeyStore
    line: Line
    metrics: Metrics

    def card(self, key: str | None, caller: Caller) -> CollectionCard:
        """A collection that the caller may use; None: the one that the settings name. Raises NotHere."""
        wanted = key or self.library.settings.collection
        found = next((card for card in self.library.collections(caller.person) if card.key == wanted), None)
        if found is None:
            raise NotHere(f"there is no collection {wanted!r}, or it is not yours: GET /v1/collections names yours")
        return found

    def managed(self, key: str | None, caller: Caller) -> CollectionCard:
        """A collection that the caller may change. Raises NotHere or NotAllowed."""
        card = self.card(key, caller)
        if not card.is_managed_by(caller.person):
            raise NotAllowed(f"the collection {card.title!r} is {card.owner}'s: only its owner can do this")
        return card

    def open(self, key: str | None, caller: Caller) -> Workspace:
        """An open collection that the caller may use. Raises NotHere, or a Rank37Error where it can't be opened."""
        return self.library.open(self.card(key, caller).key, caller.person)


def service_of(request: Request) -> Service:
    """The service that a request reached."""
    service: Service = request.app.state.service
    return service


def caller_of(request: Request) -> Caller:
    """Who sent a request, as the guard found."""
    caller: Caller = request.state.caller
    return caller


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, of which collection, and how."""

    question: str
    collection: str | None = None
    history: tuple[Turn, ...] = ()
    document_ids: tuple[str, ...] | None = None
    floor: float | None = None
    """None: the collection's own."""

    def check(self) -> None:
        """Raises BadInput for an empty question, or a very long one, before anyone waits in line for it."""
        if not self.question.strip():
            raise BadInput("the question is empty: type one")
        if len(self.question) > QUESTION_CHARACTERS:
            raise BadInput(
                f"the question has {len(self.question):,} characters, the limit is {QUESTION_CHARACTERS:,}: shorten it"
            )


def asking(workspace: Workspace, query: Query, caller: Caller) -> Callable[[Listener], Result]:
    """What answers a question and records it."""

    def ask(listen: Listener) -> Result:
        return _recorded(
            workspace.recorder,
            lambda: workspace.ask(
                query.question,
                history=query.history,
                document_ids=query.document_ids,
                policy=None if query.floor is None else replace(workspace.policy, floor=query.floor),
                listen=listen,
                person=caller.person,
            ),
        )

    return ask


def ranking(workspace: Workspace, query: Query, caller: Caller) -> Callable[[Listener], Trace]:
    """What ranks passages for a question, and records nothing: there is no outcome."""

    def rank(listen: Listener) -> Trace:
        policy = workspace.policy
        with asked_by(caller.person):
            return rank_passages(
                query.question,
                workspace.engines,
                policy if query.floor is None else replace(policy, floor=query.floor),
                history=query.history,
                document_ids=query.document_ids,
                listen=listen,
            )

    return rank


def _recorded(recorder: Recorder, ask: Callable[[], Result]) -> Result:
    try:
        return recorder.answered(ask())
    except Rank37Error as error:
        recorder.failed(error)
        raise


async def done(work: Work[Value], request: Request) -> Value:
    """The end of a piece of work, or ConnectionError once the caller has left."""
    while True:
        ended, _ = await asyncio.wait({work.task}, timeout=1.0)
        if ended:
            return work.task.result()
        if await request.is_disconnected():
            work.give_up()
            raise ConnectionError("the caller left")
