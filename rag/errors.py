"""The errors of Rank37. Each message names the value, the limit and the remedy, and is fit to be shown to a person.

    Rank37Error
    ├── BadInput                 a question, setting, file name or collection name that can't be used
    ├── FileRefused              a file that can't be ingested; `.reason` is its short code
    ├── CollectionError
    │   ├── CollectionLocked     another process has the embedded index open
    │   ├── EmbedderMismatch     the collection was made with another embedder
    │   └── CollectionDamaged    the stored data can't be read
    ├── IndexUnavailable         the Qdrant server is down, slow or answers nonsense
    ├── EngineFault              an engine gave something that is no result: a missing score, a NaN
    ├── ModelUnavailable         a model is not on this machine, or its file is not the published one
    ├── TooManyQuestions         so many are waiting for an answer already that no more are taken
    ├── RerankerUnavailable      a rerank service is down, slow, refuses the key or answers nonsense
    ├── IngestionStopped         the machines that read the files are gone; the same command continues
    ├── TracesUnavailable        the database of the traces can't be opened, read or written
    ├── LibraryUnavailable       the database of collections and chats can't be opened, read or written
    ├── SignInRefused            name and password are not those of anyone, or there were too many tries
    └── LLMError
        ├── LLMUnavailable       no connection, or the server answers with an error
        ├── LLMTimeout           no reply, or no further piece of it, in time
        ├── LLMRateLimited       429 after all retries
        ├── LLMRejected          the request was refused: key, model name, prompt too long
        └── LLMBadReply          the reply broke off, or is not what the protocol says

A refusal to answer is no error: it is the value `rag.types.Refusal`.
"""

from __future__ import annotations

from typing import Literal

from rag.types import Trace


class Rank37Error(Exception):
    """Base of every error that a person is meant to read."""

    trace: Trace | None = None
    """What was done of a question before the error: the rankings, where they were ready."""

    def attach(self, trace: Trace) -> None:
        """Attach what was done so far, before the error travels on."""
        self.trace = trace


class BadInput(Rank37Error, ValueError):
    """A value given by a person can't be used."""


RefusedReason = Literal[
    "not_a_pdf",
    "unsupported_type",
    "needs_password",
    "damaged",
    "no_text_layer",
    "no_text",
    "too_large",
    "too_many_pages",
    "time_limit",
    "memory_limit",
    "unreadable",
    "cancelled",
]


class FileRefused(Rank37Error):
    """A file can't be ingested."""

    def __init__(self, reason: RefusedReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CollectionError(Rank37Error):
    """A collection can't be opened or used."""


class CollectionLocked(CollectionError):
    """Another process has the embedded index open."""


class EmbedderMismatch(CollectionError):
    """The collection was made with another embedder."""


class CollectionDamaged(CollectionError):
    """The stored data can't be read."""


class IndexUnavailable(Rank37Error):
    """The Qdrant server can't be reached or answers with an error."""


class EngineFault(Rank37Error):
    """An engine gave something that is no result."""


class ModelUnavailable(Rank37Error):
    """A model is not on this machine, or its file is not the published one."""


class TooManyQuestions(Rank37Error):
    """No place is left in the line of questions."""


class RerankerUnavailable(Rank37Error):
    """A reranker outside this process is down, slow, refuses the request or answers nonsense."""


class IngestionStopped(Rank37Error):
    """The machines that read and embed files are gone. What was acknowledged is in."""


class TracesUnavailable(Rank37Error):
    """The database of the traces can't be opened, read or written. It never costs a question its answer."""


class LibraryUnavailable(Rank37Error):
    """The database of collections and chats can't be opened, read or written."""


class SignInRefused(Rank37Error):
    """Name and password do not let anyone in; which of both is wrong, it does not say."""


class LLMError(Rank37Error):
    """The LLM did not give a usable reply: never to be mistaken for a refusal."""


class LLMUnavailable(LLMError):
    """No connection, or the server answers with an error."""


class LLMTimeout(LLMError):
    """No reply, or no further piece of it, in time."""


class LLMRateLimited(LLMError):
    """The server answered 429 after all retries."""


class LLMRejected(LLMError):
    """The server refused the request: key, model name, prompt too long."""


class LLMBadReply(LLMError):
    """The reply broke off, or is not what the protocol says."""
