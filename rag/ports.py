"""The seams: what the pipeline and the ingestion need of an engine, as Protocols.

Engines live in `rag.engines`, one file a technology; `rag.wiring` alone chooses among them. Every port has a contract
suite in `tests/contracts`. All engines are safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rag.types import (
    Answer,
    ApiKey,
    Candidate,
    Chat,
    ChatCard,
    ChatQuestion,
    Chunk,
    CollectionCard,
    EmbedderIdentity,
    EngineInfo,
    Failure,
    Label,
    Message,
    Passage,
    Person,
    Refusal,
    Relevance,
    StoredDocument,
    StoredTrace,
    Trace,
    TraceSummary,
    Verdict,
)

Vectors = NDArray[np.float32]
"""`(n_texts, dimension)`, float32, rows of unit length."""

Vector = NDArray[np.float32]
"""`(dimension,)`, float32, unit length."""

Progress = Callable[[int, int], None]
"""Called with (done, total), from the calling thread."""


class Embedder(Protocol):
    """Turns texts into unit vectors; also the tokenizer by which chunks are measured."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def identity(self) -> EmbedderIdentity: ...

    @property
    def max_tokens(self) -> int:
        """Longest input that is read whole, prompt and special tokens included."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text by the model's tokenizer: *without* special tokens and prompt."""
        ...

    def count_passage_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text as `embed_passages` feeds it: prompt and special tokens included."""
        ...

    def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """Embed texts, in input order."""
        ...

    def embed_query(self, text: str) -> Vector:
        """Embed one query, with the model's query prompt where it has one."""
        ...


class Optimizable(Protocol):
    """An index whose searches take longer the more it holds, until it is optimized."""

    @property
    def collection(self) -> str: ...

    def unoptimized_chunks(self) -> int:
        """About how many chunks every search compares in full. It costs nothing to ask."""
        ...

    def is_due(self, optimize_from: int) -> bool:
        """Whether there are so many of them that optimizing is worth its cost. 0: never."""
        ...

    def optimize(self, told: Callable[[str], None] = ...) -> None:
        """Make searches quick, in another process, while this one answers and takes writes. `told` hears each stage.

        Killed at any moment, the index is as before or optimized, and whole. Raises CollectionError where it is being
        optimized already, was closed meanwhile, or has no room.
        """
        ...


class Index(Protocol):
    """One open collection: chunks with dense and sparse vectors, and the documents that they belong to.

    A document passes through `begin_document`, `add_chunks` (any number of times) and `publish_document`. Nothing of
    it is recalled before it is published, so no half document is ever searchable, and what is acknowledged by
    `publish_document` survives `kill -9`. Raises `IndexUnavailable` or a `CollectionError`.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def collection(self) -> str: ...

    @property
    def embedder(self) -> EmbedderIdentity:
        """The embedder that the collection was made with."""
        ...

    @property
    def optimizable(self) -> Optimizable | None:
        """What can be optimized of it; None: nothing has to be."""
        ...

    def documents(self) -> list[StoredDocument]:
        """All documents, ready and unfinished, by title and then id."""
        ...

    def document(self, document_id: str) -> StoredDocument | None:
        """One document, or None."""
        ...

    def begin_document(self, stored: StoredDocument) -> None:
        """Register a document in state `ingesting`. Again for the same id: its record is overwritten, chunks stay."""
        ...

    def chunk_ids(self, document_id: str) -> set[str]:
        """Ids of the chunks already written for a document, published or not."""
        ...

    def add_chunks(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Write chunks with their dense vectors, replacing those of the same id; not searchable yet."""
        ...

    def publish_document(self, stored: StoredDocument, *, replaces: Sequence[str] = ()) -> None:
        """Make the document searchable (state `ready`) and only then delete the documents `replaces`. Durable."""
        ...

    def delete_document(self, document_id: str) -> int:
        """Delete a document and its chunks; returns the number of chunks deleted. Unknown id: 0."""
        ...

    def delete_chunks(self, chunk_ids: Sequence[str]) -> None:
        """Delete chunks by id (left over from an interrupted run with other chunking)."""
        ...

    def chunks(self, document_id: str) -> list[Chunk]:
        """The chunks of a document in order of position."""
        ...

    def count_chunks(self) -> int:
        """Number of searchable chunks."""
        ...

    def recall(
        self, query: str, vector: Vector, *, limit: int, document_ids: Sequence[str] | None = None
    ) -> list[Candidate]:
        """The best `limit` chunks of published documents, by reciprocal rank fusion of dense and BM25 search.

        `document_ids` restricts the search to those documents (None: all; empty: none).
        """
        ...

    def flush(self) -> None:
        """Make everything written so far durable."""
        ...

    def close_when_unused(self, then: Callable[[], None]) -> Callable[[], object]:
        """Close it once nobody refers to it any more, and call `then`; what is returned does both at once.

        Whoever still reads it does so to the end. It all happens once.
        """
        ...

    def close(self) -> None:
        """Release the collection. Idempotent."""
        ...


class Reranker(Protocol):
    """Scores passages against a query. Ordering, ties, ranks and the floor are `rag.rerank` and `rag.floor`."""

    @property
    def info(self) -> EngineInfo: ...

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order. An empty list gives an empty list."""
        ...

    def estimate_seconds(self, n_passages: int) -> float | None:
        """Expected duration of `score`, from what was measured so far; None where nothing is known."""
        ...


@runtime_checkable
class KnowsAhead(Protocol):
    """A reranker that is quicker with passages that it has seen before."""

    @property
    def info(self) -> EngineInfo: ...

    def know(self, passages: Sequence[Passage]) -> bool:
        """See passages ahead of any question. False where nothing more can be kept, or nothing is gained."""
        ...


class LLM(Protocol):
    """Writes text, piece by piece. Raises an `LLMError`, never returns a broken-off reply as if it were whole."""

    @property
    def info(self) -> EngineInfo: ...

    def stream(self, messages: Sequence[Message], *, max_tokens: int) -> Iterator[str]:
        """The reply in pieces, in order."""
        ...

    def count_tokens(self, text: str) -> int:
        """Length of a text as the model counts it, or an upper estimate of it."""
        ...


class TraceStore(Protocol):
    """Keeps what happened to each question, and what people said of it. Raises `TracesUnavailable`.

    `collection` None means all collections, `since` is a time in ISO 8601 (inclusive; UTC where it names no zone).
    """

    @property
    def where(self) -> str:
        """The file or the address of the database, for a person: without any password."""
        ...

    def add(self, trace: Trace, outcome: Answer | Refusal | Failure, *, collection: str) -> None:
        """Keep a question, durably, and let go of those past their time; one of a known id is replaced."""
        ...

    def trace(self, trace_id: str) -> StoredTrace | None:
        """One question with everything that was kept of it, or None."""
        ...

    def traces(
        self, *, collection: str | None = None, since: str | None = None, limit: int | None = None
    ) -> Iterator[StoredTrace]:
        """Whole traces, newest first, read some at a time."""
        ...

    def summaries(
        self, *, collection: str | None = None, since: str | None = None, limit: int | None = None
    ) -> list[TraceSummary]:
        """The numbers of traces, newest first: no passage is read."""
        ...

    def count(self, *, collection: str | None = None) -> int:
        """Number of traces kept."""
        ...

    def label(self, trace_id: str, verdict: Verdict, *, chunk_id: str | None = None) -> Label:
        """Note a judgement of one of the trace's passages, or of its outcome, in place of an earlier one of the same.

        It outlives its trace where that is let go of for its age; whoever deletes a trace deletes its labels. Raises
        BadInput for an unknown trace or passage, and for a verdict that does not fit.
        """
        ...

    def unlabel(self, trace_id: str, *, chunk_id: str | None = None) -> None:
        """Take a judgement back, if there is one."""
        ...

    def labels(self, *, collection: str | None = None) -> list[Label]:
        """All judgements with the passages that they are about, in the order in which they were given."""
        ...

    def write_feedback(self, trace_id: str, feedback: str) -> None:
        """Keep a person's remark in place of the earlier one; empty: none. Raises BadInput for an unknown trace."""
        ...

    def delete(self, trace_id: str) -> bool:
        """Delete one trace with its labels; False where there is none."""
        ...

    def delete_before(self, moment: str, *, collection: str | None = None) -> int:
        """Delete the traces asked before a time with their labels, and all labels given before it.

        Returns the number of traces.
        """
        ...

    def delete_all(self, *, collection: str | None = None) -> int:
        """Delete all traces and all labels; returns the number of traces."""
        ...

    def forget_document(self, document_id: str, *, collection: str) -> int:
        """Remove a document's words from the traces of a collection; returns the number of traces that lost any.

        Gone are the texts of its passages, the labels on them, and prompt, reply, answer and quotes that rested on
        them. Questions, scores and ranks stay: the floor can still be replayed.
        """
        ...

    def close(self) -> None:
        """Release the database. Idempotent."""
        ...


class CollectionStore(Protocol):
    """The list of collections. Raises `LibraryUnavailable`, and BadInput for an unknown key."""

    def cards(self) -> list[CollectionCard]:
        """All collections, by title and then key."""
        ...

    def card(self, key: str) -> CollectionCard | None:
        """One collection, or None."""
        ...

    def add(self, key: str, title: str, *, owner: str = "") -> CollectionCard:
        """Note a collection; one that is known already stays as it is."""
        ...

    def rename(self, key: str, title: str) -> CollectionCard:
        """Give a collection another title."""
        ...

    def share(self, key: str, *, owner: str, members: Sequence[str]) -> CollectionCard:
        """Set whose it is and who else may use it."""
        ...

    def remove(self, key: str) -> bool:
        """Take a collection off the list; False if it was not on it."""
        ...

    def close(self) -> None:
        """Release the database. Idempotent."""
        ...


class ChatStore(Protocol):
    """Keeps chats: their questions in order, each with the trace of what came of it. Raises `LibraryUnavailable`.

    `owner` None means everyone's, `collection` None all collections.
    """

    def chats(
        self, *, owner: str | None = None, collection: str | None = None, words: str = "", limit: int | None = None
    ) -> list[ChatCard]:
        """The chats last asked first; with `words`, those in whose title or questions each of them stands."""
        ...

    def chat(self, chat_id: str) -> Chat | None:
        """One chat with its questions, or None."""
        ...

    def owner_of_trace(self, trace_id: str) -> str | None:
        """Whose chat the question of a trace stands in; None where it stands in none."""
        ...

    def begin(self, question: str, *, collection: str, owner: str = "") -> ChatCard:
        """Make a chat without questions, called after the one that it will begin with."""
        ...

    def add_question(self, chat_id: str, text: str, *, document_ids: Sequence[str] = ()) -> ChatQuestion:
        """Put a question at the end of a chat. Raises BadInput where the chat was deleted."""
        ...

    def set_trace(self, question_id: str, trace_id: str) -> None:
        """Note which trace tells what came of a question; one that was dropped meanwhile stays dropped."""
        ...

    def drop_from(self, chat_id: str, question_id: str) -> int:
        """Take a question and all later ones out of a chat; returns how many went."""
        ...

    def rename(self, chat_id: str, title: str) -> None:
        """Give a chat another title. Raises BadInput for an empty one, and where the chat was deleted."""
        ...

    def delete(self, chat_id: str) -> bool:
        """Delete a chat; False if there is none."""
        ...

    def delete_all(self, *, collection: str) -> int:
        """Delete the chats of a collection; returns how many."""
        ...

    def close(self) -> None:
        """Release the database. Idempotent."""
        ...


class KeyStore(Protocol):
    """The keys of the HTTP API, kept as hashes. Raises `LibraryUnavailable`, and BadInput for an unknown name."""

    def create(self, name: str, *, person: str = "") -> tuple[ApiKey, str]:
        """Make a key; returns what is kept of it, and the key itself, this once."""
        ...

    def listed(self) -> list[ApiKey]:
        """All keys, revoked ones too, by name."""
        ...

    def exist(self) -> bool:
        """Whether any key was made and not forgotten: then callers need one."""
        ...

    def find(self, text: str) -> ApiKey | None:
        """The key in force that this is, or None. Compared in constant time."""
        ...

    def revoke(self, name: str) -> ApiKey:
        """Let a key open nothing from now on."""
        ...

    def forget(self, name: str) -> None:
        """Take a key off the list; it opens nothing from now on."""
        ...

    def close(self) -> None:
        """Release the database. Idempotent."""
        ...


class PeopleStore(Protocol):
    """Who may sign in, and which browsers are signed in. Raises `LibraryUnavailable`, BadInput for an unknown name."""

    def add(self, name: str, password: str | None, *, is_admin: bool = False) -> Person:
        """Let a person sign in; the first one is an administrator. None: at a provider (OIDC) only."""
        ...

    def listed(self) -> list[Person]:
        """All of them, by name."""
        ...

    def person(self, name: str) -> Person | None:
        """The one of that name, or None."""
        ...

    def set_password(self, name: str, password: str) -> None:
        """Give a person another password; where they are signed in, they are not any more."""
        ...

    def remove(self, name: str) -> None:
        """Take a person off the list; where they are signed in, they are not any more. What is theirs stays."""
        ...

    def sign_in(self, name: str, password: str) -> str:
        """A token of a new session. Raises SignInRefused, whether name or password is wrong and after as long."""
        ...

    def signed_in(self, token: str) -> Person | None:
        """Whose session a token is of; None where it is of none, or has ended."""
        ...

    def sign_out(self, token: str) -> None:
        """End a session."""
        ...

    def close(self) -> None:
        """Release the database. Idempotent."""
        ...


class TraceSink(Protocol):
    """Passes finished questions on to another program. Never waits for it."""

    def send(self, stored: StoredTrace) -> None:
        """Hand over one question."""
        ...

    def close(self) -> None:
        """Send what is left, for a short time at most. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines that answer a question."""

    embedder: Embedder
    index: Index
    reranker: Reranker
    sentence_scorer: Reranker
    """A reranker quick enough to score single sentences: it picks the quotes of an answer."""
    llm: LLM | None
    """None: answers are quotes of the passages."""

    @property
    def infos(self) -> tuple[EngineInfo, ...]:
        """What is in use, for the screen and the trace."""
        llm = self.llm.info if self.llm else EngineInfo("llm", "none", why="no LLM is configured: answers are quotes")
        return (self.embedder.info, self.index.info, self.reranker.info, llm)
