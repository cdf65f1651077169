"""The program's values as JSON values, and a result as the text of a chat message. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ingest.queue import JobView
from rag.export import refusal_text, refused_part_text, result_as_json
from rag.ports import Index
from rag.types import (
    Answer,
    Chunk,
    CollectionCard,
    Failure,
    RankedChunk,
    Refusal,
    Result,
    StoredDocument,
    StoredTrace,
    Trace,
    TraceSummary,
)

SOURCES = "\n\nSources:\n"
"""What stands before the list of sources at the end of a chat message."""


def files_of(index: Index, chunks: list[Chunk]) -> dict[str, str]:
    """The file of each of the chunks' documents, by document id."""
    ids = dict.fromkeys(chunk.document_id for chunk in chunks)
    found = {document_id: index.document(document_id) for document_id in ids}
    return {document_id: stored.document.source for document_id, stored in found.items() if stored}


def result_row(result: Result, index: Index, *, collection: str, rankings: bool) -> dict[str, Any]:
    """A result; the rankings of all candidates, with their texts, only if they are asked for."""
    trace = result.trace
    shown = trace.ranked if rankings else trace.kept
    row = result_as_json(result, files_of(index, [ranked.chunk for ranked in shown]))
    if not rankings:
        del row["candidates"], row["ranked"]
    return {"collection": collection, **row}


def ranking_row(trace: Trace) -> dict[str, Any]:
    """Both rankings in short: where each passage stands and stood, without its text."""
    kept = {ranked.chunk.id for ranked in trace.kept}
    return {
        "id": trace.id,
        "query": trace.query,
        "floor": trace.floor,
        "n_candidates": len(trace.candidates),
        "n_kept": len(trace.kept),
        "ranked": [{**_place(ranked), "kept": ranked.chunk.id in kept} for ranked in trace.ranked],
        "timings_ms": dict(trace.timings_ms),
    }


def passage_rows(trace: Trace, files: Mapping[str, str], limit: int | None) -> list[dict[str, Any]]:
    """The first passages after reranking, with their texts."""
    kept = {ranked.chunk.id for ranked in trace.kept}
    return [
        {
            **_place(ranked),
            "kept": ranked.chunk.id in kept,
            "file": files.get(ranked.chunk.document_id),
            "heading": ranked.chunk.heading,
            "text": ranked.chunk.text,
        }
        for ranked in trace.ranked[:limit]
    ]


def _place(ranked: RankedChunk) -> dict[str, Any]:
    chunk = ranked.chunk
    return {
        "rank": ranked.rank,
        "recall_rank": ranked.candidate.rank,
        "score": ranked.score,
        "part": ranked.part,
        "chunk_id": chunk.id,
        "document_id": chunk.document_id,
        "document": chunk.title,
        "pages": [span.page for span in chunk.spans],
    }


def chat_text(result: Result) -> str:
    """A result as a chat message: the answer with its [n], what is refused, and the sources at the end."""
    outcome, trace = result.outcome, result.trace
    if isinstance(outcome, Refusal):
        return f"No answer. {refusal_text(outcome, trace)}"
    text = outcome.text
    for part in trace.parts:
        if not part.covered:
            text += f"\n\n{refused_part_text(part, trace.floor)}"
    lines = [f"[{one.marker}] {one.chunk.title}, page {one.page}: “{one.quote}”" for one in outcome.citations]
    return f"{text}{SOURCES}" + "\n".join(lines)


def collection_row(card: CollectionCard) -> dict[str, Any]:
    """A collection."""
    return {
        "key": card.key,
        "title": card.title,
        "owner": card.owner,
        "members": list(card.members),
        "created_at": card.created_at,
    }


def document_row(stored: StoredDocument) -> dict[str, Any]:
    """A document with the receipt of its ingestion."""
    document = stored.document
    return {
        "id": document.id,
        "title": document.title,
        "file": document.source,
        "pages": document.page_count,
        "state": stored.state,
        "chunks": stored.n_chunks,
        "pages_without_text": list(stored.pages_without_text),
        "warnings": list(stored.warnings),
        "ingested_at": stored.ingested_at,
        "seconds": stored.seconds,
    }


def job_row(job: JobView) -> dict[str, Any]:
    """An upload in the queue."""
    return {
        "id": job.id,
        "file": job.file,
        "state": job.state,
        "stage": job.stage,
        "done": job.done,
        "total": job.total,
        "outcome": asdict(job.outcome) if job.outcome else None,
        "error": job.error,
        "seconds": round(job.seconds, 3),
    }


def summary_row(summary: TraceSummary) -> dict[str, Any]:
    """A kept question in short."""
    return {
        "id": summary.id,
        "asked_at": summary.asked_at,
        "collection": summary.collection,
        "question": summary.question,
        "floor": summary.floor,
        "outcome": summary.outcome,
        "reason": summary.reason,
        "best_score": summary.best_score,
        "timings_ms": dict(summary.timings_ms),
        "labels": [asdict(label) for label in summary.labels],
    }


def stored_row(stored: StoredTrace, files: Mapping[str, str]) -> dict[str, Any]:
    """A kept question with both rankings, and what people said of it."""
    outcome = stored.outcome
    if isinstance(outcome, Failure):
        shown = result_as_json(Result(Refusal("no_candidates", None), stored.trace), files)
        shown |= {"outcome": "failure", "reason": outcome.error, "text": outcome.message}
    else:
        shown = result_as_json(Result(outcome, stored.trace), files)
    return {
        "collection": stored.collection,
        **shown,
        "feedback": stored.feedback,
        "labels": [asdict(label) for label in stored.labels],
    }


def outcome_of(result: Result) -> str:
    """`answer` or `refusal`."""
    return "answer" if isinstance(result.outcome, Answer) else "refusal"
