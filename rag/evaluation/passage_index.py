"""Passages that are labelled as they stand, in a collection: each is one chunk, whatever its length.

They are never cut, or their ids would not match the labels. The embedder gets the longest beginning that it reads
whole; BM25 and the reranker get all of it. Nothing is searched or measured here.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.errors import BadInput
from rag.json_lines import read_rows
from rag.ports import Embedder, Index, Progress, Vector
from rag.types import Chunk, Document, PageSpan, StoredDocument

WRITE_BATCH = 256
"""Passages embedded and written together: what an interrupted run loses at most."""

_NAMESPACE = uuid.UUID("6f3c3d5e-5c39-4a0e-9d1c-7b1e37370037")


@dataclass(frozen=True, slots=True)
class CorpusPassage:
    """A passage of a labelled set."""

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text, as a reranker reads them."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def read_passages(path: Path) -> list[CorpusPassage]:
    """Rows of `{"_id", "title"?, "text"}`, the layout of a BEIR corpus. Raises BadInput naming file and line."""
    passages = []
    for number, row in read_rows(path):
        try:
            passages.append(CorpusPassage(str(row["_id"]), str(row.get("title") or ""), str(row["text"])))
        except KeyError as error:
            raise BadInput(f"{path}, line {number}: {error} is missing; a passage needs _id and text") from None
    return passages


def document_id(document: str) -> str:
    """The id that a document of passages has in the index: 32 hexadecimal digits that follow from its name."""
    return uuid.uuid5(_NAMESPACE, document).hex


def chunk_id(document: str, passage_id: str) -> str:
    """The id that a passage has in the index: it follows from its own id and the name of its document."""
    return str(uuid.uuid5(_NAMESPACE, f"{document_id(document)}/{passage_id}"))


def as_chunks(document: str, passages: Sequence[CorpusPassage], embedder: Embedder) -> list[Chunk]:
    """The passages of one document as chunks, in order; a passage's title is its chunk's.

    Raises BadInput for a passage id that occurs twice.
    """
    seen: set[str] = set()
    for passage in passages:
        if passage.id in seen:
            raise BadInput(f"{document}: the passage id {passage.id!r} occurs twice: make ids unique")
        seen.add(passage.id)
    lengths = embedder.count_passage_tokens([passage.whole for passage in passages])
    chunks = []
    for position, (passage, n_tokens) in enumerate(zip(passages, lengths, strict=True)):
        text = passage.text or " "
        spans = (PageSpan(1, 0, len(text)),)
        identity = chunk_id(document, passage.id)
        chunks.append(
            Chunk(identity, document_id(document), passage.title, None, text, spans, position, n_tokens=n_tokens)
        )
    return chunks


def write_passages(
    documents: Mapping[str, Sequence[CorpusPassage]],
    embedder: Embedder,
    index: Index,
    *,
    progress: Progress | None = None,
) -> list[tuple[Chunk, Vector]]:
    """Make the passages of the named documents searchable. What an earlier run wrote is not embedded again.

    A document that is ready is taken as complete: give each content a collection of its own.

    Returns:
        What it wrote now, with the vectors, in order: in a new collection everything, in a finished one nothing.
    """
    unfinished: dict[str, StoredDocument] = {}
    missing: list[Chunk] = []
    for name, passages in documents.items():
        identity = document_id(name)
        stored = index.document(identity)
        if stored is not None and stored.state == "ready":
            continue
        chunks = as_chunks(name, passages, embedder)
        ready = StoredDocument(Document(identity, name, name, 1), "ready", n_chunks=len(chunks))
        written = index.chunk_ids(identity) if stored is not None else set()
        index.begin_document(ready)
        unfinished[identity] = ready
        missing += [chunk for chunk in chunks if chunk.id not in written]
    pairs: list[tuple[Chunk, Vector]] = []
    for start in range(0, len(missing), WRITE_BATCH):
        batch = missing[start : start + WRITE_BATCH]
        texts = [
            chunk.passage if chunk.n_tokens <= embedder.max_tokens else beginning(chunk.passage, embedder)
            for chunk in batch
        ]
        vectors = embedder.embed_passages(texts, progress=_from(start, len(missing), progress))
        index.add_chunks(batch, vectors)
        pairs += zip(batch, vectors, strict=True)
    for ready in unfinished.values():
        index.publish_document(ready)
    return pairs


def beginning(text: str, embedder: Embedder) -> str:
    """The longest beginning of a text, cut between words, that the embedder reads whole.

    A text without spaces is cut between characters.
    """
    length = embedder.count_passage_tokens([text])[0]
    pieces, separator = (text.split(), " ") if len(text.split()) > 1 else (list(text), "")
    while length > embedder.max_tokens and len(pieces) > 1:
        pieces = pieces[: max(1, min(len(pieces) - 1, int(len(pieces) * embedder.max_tokens / length)))]
        text = separator.join(pieces)
        length = embedder.count_passage_tokens([text])[0]
    return text if length <= embedder.max_tokens or not separator else beginning(pieces[0], embedder)


def _from(start: int, total: int, progress: Progress | None) -> Progress | None:
    """Progress of a batch as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)
