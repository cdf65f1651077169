"""Small labelled data of real sentences, and a collection of chunks made by hand."""

from collections.abc import Sequence
from pathlib import Path

from rag.evaluation.passage_index import CorpusPassage
from rag.ports import Embedder, Index
from rag.training.groups import TrainingGroup
from rag.types import Chunk, Document, PageSpan, StoredDocument
from tests.contracts.tiny_models import CORPUS

QUESTIONS = (
    "How long is the waiting period for critical illness?",
    "What is the waiting period for dental treatment?",
    "How much ibuprofen may a child take?",
    "How does ibuprofen work?",
    "How many days do I have to return an item?",
    "Wie lang ist die Wartezeit?",
)


def tiny_groups(repeats: int = 2) -> list[TrainingGroup]:
    """Each sentence of the tiny models' corpus with a question it answers; the other sentences are wrong."""
    return [
        TrainingGroup(f"{question} ({number})", (text,), tuple(other for other in CORPUS if other != text))
        for number in range(repeats)
        for question, text in zip(QUESTIONS, CORPUS, strict=True)
    ]


PAGES = {
    ("critical-illness", "Critical Illness Cover"): (
        "The waiting period for critical illness is 180 days from the start of the contract.",
        "Premiums are due on the first day of each month and are collected by direct debit.",
        "A claim must be reported within 30 days of the diagnosis, with the specialist's letter.",
    ),
    ("dental-care", "Dental Care Plan"): (
        "The waiting period for dental treatment is ninety days; for accidents there is none.",
        "The waiting period for orthodontic braces is eighteen months.",
        "Root canal treatment is refunded at 60 per cent under the Plus level.",
    ),
    ("returns", "Returns and Refunds"): (
        "You can return an item for a refund within seven days from receipt.",
        "Gift cards cannot be returned or exchanged for money.",
        "Shipping is free for orders above fifty euros.",
    ),
}
"""One chunk a page."""


def chunks_of(source: str, title: str, texts: Sequence[str]) -> list[Chunk]:
    return [
        Chunk(
            f"00000000-0000-0000-{len(source):04d}-{number:012d}",
            f"{len(source):032d}",
            title,
            None,
            text,
            (PageSpan(number + 1, 0, len(text)),),
            number,
            30,
        )  # fmt: skip
        for number, text in enumerate(texts)
    ]


def fill(index: Index, embedder: Embedder) -> None:
    """Write `PAGES` into a collection, as ingestion would."""
    for (source, title), texts in PAGES.items():
        chunks = chunks_of(source, title, texts)
        stored = StoredDocument(
            Document(chunks[0].document_id, title, f"{source}.pdf", len(texts)), "ready", n_chunks=len(chunks)
        )
        index.begin_document(stored)
        index.add_chunks(chunks, embedder.embed_passages([chunk.passage for chunk in chunks]))
        index.publish_document(stored)


def evidence(doc: str, page: int, text: str) -> dict[str, object]:
    return {"doc": f"{doc}.pdf", "page_index0": page - 1, "text": text}


def passages() -> list[CorpusPassage]:
    return [
        CorpusPassage(f"{source}-{number}", title, text)
        for (source, title), texts in PAGES.items()
        for number, text in enumerate(texts)
    ]


def write_lines(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path
