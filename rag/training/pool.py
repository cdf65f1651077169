"""The passages that negatives are mined from: a collection of the app, or labelled passages in an index of their own.

It recalls as the product does and knows every passage's cosine to a question; choosing among them is `mine`'s part.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rag.evaluation.passage_index import CorpusPassage, beginning, write_passages
from rag.ports import Embedder, Index, Progress, Vector
from rag.types import Chunk

RECALL_LIMIT = 100


class Pool:
    """Searchable passages. Vectors of recalled ones are computed when they are first needed, and kept."""

    def __init__(self, embedder: Embedder, index: Index) -> None:
        """Look at what the index holds; it is only read."""
        self._embedder = embedder
        self._index = index
        self._vectors: dict[str, Vector] = {}
        self._chunks: dict[str, list[Chunk]] = {}
        self._by_title: dict[str, list[str]] = defaultdict(list)
        self._n_chunks: dict[str, int] = {}
        for stored in index.documents():
            if stored.state == "ready":
                self._by_title[stored.document.title].append(stored.document.id)
                self._n_chunks[stored.document.id] = stored.n_chunks

    @classmethod
    def of_passages(
        cls, passages: Sequence[CorpusPassage], embedder: Embedder, index: Index, *, progress: Progress | None = None
    ) -> Pool:
        """Embed the passages and write them into an index, a new one; those of one title are one document."""
        by_title: dict[str, list[CorpusPassage]] = defaultdict(list)
        for passage in passages:
            by_title[passage.title].append(passage)
        written = write_passages(by_title, embedder, index, progress=progress)
        pool = cls(embedder, index)
        pool._vectors = {chunk.id: vector for chunk, vector in written}
        return pool

    def query_vector(self, query: str) -> Vector:
        """The vector of a question, of its beginning where the embedder can't read all."""
        return self._embedder.embed_query(beginning(query, self._embedder))

    def recall(self, query: str, vector: Vector, *, title: str = "", limit: int = RECALL_LIMIT) -> list[Chunk]:
        """The best chunks for a question: of the documents of one title if there are such, else of all."""
        within = self._by_title.get(title) if title else None
        return [candidate.chunk for candidate in self._index.recall(query, vector, limit=limit, document_ids=within)]

    def chunks(self) -> list[Chunk]:
        """All of them: documents by title, chunks in order of position."""
        ids = [document_id for _, of_title in sorted(self._by_title.items()) for document_id in of_title]
        return [chunk for document_id in ids for chunk in self._index.chunks(document_id)]

    def random_chunk(self, choose: random.Random) -> Chunk | None:
        """Any chunk, each with the same probability; None if there are none."""
        documents = [document_id for document_id, n_chunks in self._n_chunks.items() if n_chunks > 0]
        if not documents:
            return None
        [document_id] = choose.choices(documents, [self._n_chunks[document_id] for document_id in documents])
        if document_id not in self._chunks:
            self._chunks[document_id] = self._index.chunks(document_id)
        return choose.choice(self._chunks[document_id])

    def cosines(self, vector: Vector, chunks: Sequence[Chunk]) -> list[float]:
        """Cosine of a question's vector to that of each chunk."""
        unknown = {chunk.id: chunk.passage for chunk in chunks if chunk.id not in self._vectors}
        if unknown:
            texts = [beginning(text, self._embedder) for text in unknown.values()]
            self._vectors.update(zip(unknown, self._embedder.embed_passages(texts), strict=True))
        return [float(np.dot(vector, self._vectors[chunk.id])) for chunk in chunks]

    def cosine_to_text(self, vector: Vector, text: str) -> float:
        """Cosine of a question's vector to that of a text outside the pool."""
        return float(np.dot(vector, self._embedder.embed_passages([beginning(text, self._embedder)])[0]))
