"""A kept trace as JSON values and back, each passage once: the form of the database and of an export.

Nothing is rounded or left out, unlike in `rag.export`: what is read back equals what was written. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rag.errors import BadInput
from rag.types import Answer, Chunk, Failure, Label, RankedChunk, Refusal, StoredTrace, Trace

CHUNK = "$chunk"
"""Key of what stands for a chunk: `{"$chunk": n}` is the n-th of the chunks, from 0."""

FORMAT = 1
"""Of an exported row. A program reads its own and older ones."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Packed:
    """A trace and its outcome as JSON values that name chunks by their place in `chunks`."""

    body: dict[str, Any]
    chunks: tuple[Chunk, ...]
    """Each once, in order of first appearance."""


@dataclass(frozen=True, slots=True)
class _Body:
    trace: Trace
    outcome: Answer | Refusal | Failure


def pack(trace: Trace, outcome: Answer | Refusal | Failure) -> Packed:
    """Take the chunks out of a trace and its outcome, so that each is written once."""
    places: dict[Chunk, int] = {}
    body = _packed(_Body(trace, outcome), lambda chunk: {CHUNK: places.setdefault(chunk, len(places))})
    return Packed(body, tuple(places))


def unpack(body: Mapping[str, Any], chunks: Sequence[Chunk]) -> tuple[Trace, Answer | Refusal | Failure]:
    """The trace and outcome that `pack` was given. Raises BadInput for what it did not make."""
    try:
        read = _BODIES.validate_python(_with_chunks(body, chunks))
    except (ValidationError, IndexError, TypeError) as error:
        raise BadInput(f"this is no kept trace ({_in_short(error)})") from None
    return read.trace, read.outcome


def chunk_as_json(chunk: Chunk) -> dict[str, Any]:
    """A chunk as JSON values."""
    return _fields(chunk, lambda value: _packed(value, chunk_as_json))


def chunk_from_json(row: Mapping[str, Any]) -> Chunk:
    """The chunk that `chunk_as_json` was given. Raises BadInput."""
    return _read(_CHUNKS, row, "chunk")


def stored_as_json(stored: StoredTrace) -> dict[str, Any]:
    """A kept trace as a row of an export: whole, with its labels."""
    packed = pack(stored.trace, stored.outcome)
    return {
        "format": FORMAT,
        "collection": stored.collection,
        "feedback": stored.feedback,
        "labels": [_packed(label, chunk_as_json) for label in stored.labels],
        **packed.body,
        "chunks": [chunk_as_json(chunk) for chunk in packed.chunks],
    }


def stored_from_json(row: Mapping[str, Any]) -> StoredTrace:
    """The kept trace that `stored_as_json` was given. Raises BadInput for what is none, or of a newer format."""
    number = row.get("format")
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise BadInput(f"a kept trace of format {number!r} can't be read: formats up to {FORMAT} can")
    try:
        chunks = [chunk_from_json(chunk) for chunk in row["chunks"]]
        trace, outcome = unpack({"trace": row["trace"], "outcome": row["outcome"]}, chunks)
        labels = tuple(_read(_LABELS, label, "label") for label in row["labels"])
        return StoredTrace(trace, outcome, str(row["collection"]), str(row["feedback"]), labels)
    except KeyError as error:
        raise BadInput(f"a kept trace needs {error}") from None


def quoted_chunks(trace: Trace, outcome: Answer | Refusal | Failure) -> set[Chunk]:
    """The chunks whose words can stand in prompt, reply, answer and quotes."""
    cited = {citation.chunk for citation in outcome.citations} if isinstance(outcome, Answer) else set()
    return {ranked.chunk for ranked in trace.kept} | cited


def place_after_rerank(trace: Trace, chunk_id: str) -> RankedChunk | None:
    """Where reranking put a chunk, or None."""
    return next((ranked for ranked in trace.ranked if ranked.chunk.id == chunk_id), None)


def _packed(value: object, of_chunk: Callable[[Chunk], dict[str, Any]]) -> Any:
    if isinstance(value, Chunk):
        return of_chunk(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value, lambda inner: _packed(inner, of_chunk))
    if isinstance(value, Mapping):
        return {key: _packed(item, of_chunk) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_packed(item, of_chunk) for item in value]
    return value


def _fields(value: Any, of_value: Callable[[Any], Any]) -> dict[str, Any]:
    return {field.name: of_value(getattr(value, field.name)) for field in fields(value)}


def _with_chunks(value: Any, chunks: Sequence[Chunk]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {CHUNK}:
            return chunks[value[CHUNK]]
        return {key: _with_chunks(item, chunks) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_chunks(item, chunks) for item in value]
    return value


def _read(adapter: TypeAdapter[_Value], row: Any, name: str) -> _Value:
    try:
        return adapter.validate_python(row)
    except ValidationError as error:
        raise BadInput(f"this is no {name} of a kept trace ({_in_short(error)})") from None


def _in_short(error: Exception) -> str:
    """What is wrong, without the values: they are people's questions and documents."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])


_BODIES = TypeAdapter(_Body)
_CHUNKS = TypeAdapter(Chunk)
_LABELS = TypeAdapter(Label)
