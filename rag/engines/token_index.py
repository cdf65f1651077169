"""An index that keeps token vectors beside its chunks: made at ingestion, deleted with their document.

It changes nothing of what the index within does, and what it finds out of step is mended at the next question, which
encodes what has no vectors.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from rag.engines.colbert import TokenEncoder
from rag.engines.qdrant_tokens import TokenStore
from rag.ports import Index, Optimizable, Vector, Vectors
from rag.types import Candidate, Chunk, EmbedderIdentity, EngineInfo, Passage, StoredDocument


class TokenIndex:
    """The port `Index` over another one, with a `TokenStore`. As safe to use from several threads as they are."""

    def __init__(self, inner: Index, tokens: TokenStore, encoder: TokenEncoder | None) -> None:
        """Join them.

        Args:
            inner: The index.
            tokens: Where token vectors are kept.
            encoder: Makes them. None: none are made, but those of a deleted document are deleted.
        """
        self._inner = inner
        self._tokens = tokens
        self._encoder = encoder

    @property
    def tokens(self) -> TokenStore:
        """The token vectors of this index's chunks."""
        return self._tokens

    @property
    def encoder(self) -> TokenEncoder | None:
        """What makes them, if they are made at all."""
        return self._encoder

    @property
    def info(self) -> EngineInfo:
        """That of the index within."""
        return self._inner.info

    @property
    def collection(self) -> str:
        """That of the index within."""
        return self._inner.collection

    @property
    def embedder(self) -> EmbedderIdentity:
        """That of the index within."""
        return self._inner.embedder

    @property
    def optimizable(self) -> Optimizable | None:
        """That of the index within."""
        return self._inner.optimizable

    def documents(self) -> list[StoredDocument]:
        """As in `Index`."""
        return self._inner.documents()

    def document(self, document_id: str) -> StoredDocument | None:
        """As in `Index`."""
        return self._inner.document(document_id)

    def begin_document(self, stored: StoredDocument) -> None:
        """As in `Index`."""
        self._inner.begin_document(stored)

    def chunk_ids(self, document_id: str) -> set[str]:
        """As in `Index`."""
        return self._inner.chunk_ids(document_id)

    def add_chunks(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """As in `Index`; the token vectors follow the chunks."""
        self._inner.add_chunks(chunks, vectors)
        if self._encoder is not None:
            passages = [Passage(chunk.id, chunk.passage) for chunk in chunks]
            self._tokens.write(passages, self._encoder.encode_passages([passage.text for passage in passages]))

    def publish_document(self, stored: StoredDocument, *, replaces: Sequence[str] = ()) -> None:
        """As in `Index`."""
        replaced = [
            chunk_id
            for document_id in replaces
            if document_id != stored.document.id
            for chunk_id in self._inner.chunk_ids(document_id)
        ]
        self._without(replaced, lambda: self._inner.publish_document(stored, replaces=replaces))

    def delete_document(self, document_id: str) -> int:
        """As in `Index`."""
        deleted: list[int] = []
        chunk_ids = list(self._inner.chunk_ids(document_id))
        self._without(chunk_ids, lambda: deleted.append(self._inner.delete_document(document_id)))
        return deleted[0]

    def delete_chunks(self, chunk_ids: Sequence[str]) -> None:
        """As in `Index`."""
        self._without(list(chunk_ids), lambda: self._inner.delete_chunks(chunk_ids))

    def chunks(self, document_id: str) -> list[Chunk]:
        """As in `Index`."""
        return self._inner.chunks(document_id)

    def count_chunks(self) -> int:
        """As in `Index`."""
        return self._inner.count_chunks()

    def recall(
        self, query: str, vector: Vector, *, limit: int, document_ids: Sequence[str] | None = None
    ) -> list[Candidate]:
        """As in `Index`."""
        return self._inner.recall(query, vector, limit=limit, document_ids=document_ids)

    def flush(self) -> None:
        """As in `Index`."""
        self._inner.flush()

    def close_when_unused(self, then: Callable[[], None]) -> Callable[[], object]:
        """As in `Index`."""
        return weakref.finalize(self, _close_both, self._inner, self._tokens, then)

    def close(self) -> None:
        """Release the collection and the token vectors. Idempotent."""
        self._inner.close()
        self._tokens.close()

    def _without(self, chunk_ids: Sequence[str], delete: Callable[[], object]) -> None:
        """Delete the token vectors of chunks that `delete` deletes.

        Before it, so that a process killed in between leaves chunks without token vectors, not the reverse; and after
        it, because a question in between may have made them again.
        """
        self._tokens.delete(chunk_ids)
        delete()
        self._tokens.delete(chunk_ids)


def _close_both(inner: Index, tokens: TokenStore, then: Callable[[], None]) -> None:
    inner.close()
    tokens.close()
    then()
