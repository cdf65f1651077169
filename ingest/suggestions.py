"""Questions that a collection can answer, made from its own headings: to click on before one knows what to ask.

A question is offered only if the best passage for it clears the floor and stands under that very heading. No LLM
writes them. What was found is kept in the collection's folder until its documents, its reranker or its floor change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from ingest.files import write_durably
from rag.errors import Rank37Error
from rag.pipeline import rank_passages
from rag.ports import Engines
from rag.types import Chunk, QueryPolicy, Trace

SUGGESTIONS_FILE = "suggestions.json"
OFFERED = 4
TRIED = 16
"""Most questions that are ranked to find those."""
DOCUMENTS_READ = 12
HEADING_CHARACTERS = (4, 60)
"""Shortest and longest heading that makes a question."""

_NUMBERING = re.compile(
    r"^(?:(?:part|chapter|section|article|annex|appendix)\s+)?[\dIVXivx]*[\d.)§:]+\s*", re.IGNORECASE
)
_SEVERAL = re.compile(r"[,;/&?]|\b(?:and|or|und|oder|et|ou)\b", re.IGNORECASE)
"""What a heading of several things has: a question of it would be split."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heading:
    """A section of a document that a question can be made of."""

    document_id: str
    title: str
    heading: str
    """As it stands in the document."""

    @property
    def question(self) -> str:
        """The question.

        >>> Heading("d", "Dental Care", "3.2 Waiting periods").question
        'What does “Dental Care” say about “Waiting periods”?'
        """
        return f"What does “{self.title}” say about “{subject(self.heading)}”?"


def subject(heading: str) -> str:
    """A heading without its number.

    >>> subject("2.5 Partial payments"), subject("Part 7: Claims"), subject("§ 4 Notice"), subject("Fever")
    ('Partial payments', 'Claims', 'Notice', 'Fever')
    """
    return _NUMBERING.sub("", " ".join(heading.split()).removeprefix("§ ")).strip(" .:")


def headings_of(documents: Sequence[Sequence[Chunk]]) -> Iterator[Heading]:
    """Headings that make a question, a document's next one after each other document's: so that all get a turn."""
    each = [_usable(chunks) for chunks in documents]
    for turn in zip_longest(*each):
        yield from (heading for heading in turn if heading is not None)


def find_suggestions(engines: Engines, policy: QueryPolicy, *, go_on: Callable[[], bool] = lambda: True) -> list[str]:
    """Up to `OFFERED` questions, best score first; `go_on` is asked before each try. Raises Rank37Error."""
    ready = [stored.document for stored in engines.index.documents() if stored.state == "ready"][:DOCUMENTS_READ]
    headings = headings_of([engines.index.chunks(document.id) for document in ready])
    alone = replace(policy, split_questions=False)  # so that no LLM is asked
    found: list[tuple[float, str]] = []
    for _, heading in zip(range(TRIED), headings, strict=False):
        if len(found) == OFFERED or not go_on():
            break
        trace = rank_passages(heading.question, engines, alone)
        if trace.kept and _is_of(trace, heading):
            found.append((trace.best_score or 0.0, heading.question))
    return [question for _score, question in sorted(found, reverse=True)]


class Suggestions:
    """The suggestions of one collection, looked for in the background. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Name the collection's folder; nothing is looked for yet."""
        self._file = folder / SUGGESTIONS_FILE
        self._lock = threading.Lock()
        self._looking: str | None = None
        self._found: tuple[str, list[str]] | None = None

    def get(self, engines: Engines, policy: QueryPolicy) -> list[str] | None:
        """What was found for the documents as they are; None while it is looked for, which this begins."""
        state = _state(engines, policy)
        with self._lock:
            if self._found is None:
                self._found = self._read()
            if self._found is not None and self._found[0] == state:
                return self._found[1]
            if self._looking != state:
                self._looking = state
                threading.Thread(
                    target=self._look, args=(state, engines, policy), name="suggestions", daemon=True
                ).start()
        return None

    def _look(self, state: str, engines: Engines, policy: QueryPolicy) -> None:
        found: list[str] = []
        try:
            found = find_suggestions(engines, policy, go_on=lambda: self._looking == state)
        except Rank37Error as error:
            log.warning("no questions are suggested: %s", error)
        except Exception:
            log.exception("no questions are suggested")
        with self._lock:
            if self._looking != state:
                return  # the documents changed meanwhile: another thread looks
            self._found = (state, found)
        try:
            write_durably(self._file, json.dumps({"state": state, "questions": found}).encode())
        except OSError as error:
            log.info("the suggested questions are not kept: %s", error)

    def _read(self) -> tuple[str, list[str]] | None:
        try:
            kept = json.loads(self._file.read_bytes())
            return str(kept["state"]), [str(question) for question in kept["questions"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _usable(chunks: Sequence[Chunk]) -> list[Heading]:
    shortest, longest = HEADING_CHARACTERS
    found: dict[str, Heading] = {}
    for chunk in chunks:
        name = subject(chunk.heading or "")
        if shortest <= len(name) <= longest and not _SEVERAL.search(name) and name != chunk.title:
            found.setdefault(name.casefold(), Heading(chunk.document_id, chunk.title, chunk.heading or ""))
    return list(found.values())


def _is_of(trace: Trace, heading: Heading) -> bool:
    best = trace.kept[0].chunk
    return best.document_id == heading.document_id and best.heading == heading.heading


def _state(engines: Engines, policy: QueryPolicy) -> str:
    documents = sorted(stored.document.id for stored in engines.index.documents() if stored.state == "ready")
    info = engines.reranker.info
    return hashlib.sha256(json.dumps([documents, info.name, info.revision, policy.floor]).encode()).hexdigest()
