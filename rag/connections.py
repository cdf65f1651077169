"""Whether each service in use answers, in plain words: the index, the reranker, the LLM, the databases.

Each try does what a question does, once and small. It changes nothing and raises nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from rag.errors import LLMBadReply, Rank37Error
from rag.ports import LLM, ChatStore, Embedder, Index, Reranker, TraceStore
from rag.types import Message, Passage

log = logging.getLogger(__name__)

QUESTION = "How long does the lantern burn?"
RIGHT = "The lantern burns for 41 hours on one charge."
WRONG = "Parking permits are sold at the town hall."
REPLY_TOKENS = 400
"""Room for an LLM that thinks before it replies."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What came of one try."""

    name: str
    works: bool
    said: str
    """One sentence."""


def try_embedder(embedder: Embedder) -> Connection:
    """Embed a question."""

    def embed() -> str:
        return f"embeds a question as {embedder.embed_query(QUESTION).shape[0]} numbers"

    return _tried(f"Embedder: {embedder.info.name}", embed)


def try_index(index: Index, embedder: Embedder) -> Connection:
    """Count and search the open collection."""

    def search() -> str:
        found = index.recall(QUESTION, embedder.embed_query(QUESTION), limit=1)
        n_chunks = index.count_chunks()
        return f"holds {n_chunks:,} chunks and {'finds the nearest' if found else 'has nothing to search yet'}"

    return _tried(f"Index: {index.info.name}", search)


def try_reranker(reranker: Reranker) -> Connection:
    """Score a passage that answers a question and one that does not."""

    def score() -> str:
        right, wrong = reranker.score(QUESTION, [Passage("right", RIGHT), Passage("wrong", WRONG)])
        if right.order <= wrong.order:
            return (
                "answers, but puts a passage that says nothing before one that says it: its rankings can't be trusted"
            )
        scores = f" ({right.score:.2f} against {wrong.score:.2f})" if right.score and wrong.score is not None else ""
        return f"puts the passage that answers before the one that does not{scores}"

    return _tried(f"Reranker: {reranker.info.name}", score)


def try_llm(llm: LLM | None) -> Connection:
    """Ask for one word."""
    if llm is None:
        return Connection("LLM", True, "None is configured: answers are quotes of the documents.")

    def reply() -> str:
        try:
            said = "".join(llm.stream([Message("user", "Reply with one word: ready")], max_tokens=REPLY_TOKENS))
        except LLMBadReply:
            return f"is reached, but needs more than {REPLY_TOKENS} tokens for one word"
        return f"replied “{' '.join(said.split())[:60]}”"

    return _tried(f"LLM: {llm.info.name}", reply)


def try_traces(open_store: Callable[[], TraceStore | None]) -> Connection:
    """Count the questions that are kept."""

    def count() -> str:
        store = open_store()
        return "keeps no questions (RANK37_TRACES)" if store is None else f"keeps {store.count():,} in {store.where}"

    return _tried("Questions asked", count)


def try_chats(store: ChatStore) -> Connection:
    """List the latest chat."""

    def look() -> str:
        return "lists the latest" if store.chats(limit=1) else "can be read, and holds no chat yet"

    return _tried("Chats and collections", look)


def _tried(name: str, attempt: Callable[[], str]) -> Connection:
    started = time.monotonic()
    try:
        said = attempt()
    except Rank37Error as error:
        return Connection(name, False, f"{error}.".replace("..", "."))
    except Exception as error:
        log.exception("%s was tried and failed", name)
        return Connection(name, False, f"It failed ({type(error).__name__}): the log has the details.")
    return Connection(name, True, f"It {said}, in {(time.monotonic() - started) * 1000:,.0f} ms.")
