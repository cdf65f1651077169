"""Floors with what each was measured for, in one JSON file; none is used for anything else.

It keeps and finds floors. Choosing one is `rag.evaluation.floors`' job, and which one is in use `rag.wiring`'s.

    <data_dir>/floors.json        {"floors": [record, ...]}, one a scope, the latest last
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rag.durable import replace_text
from rag.errors import BadInput, CollectionError
from rag.exclusive import exclusive

LOCK_LIMIT_S = 10.0

FloorMethod = Literal["sweep", "conformal", "by hand"]


@dataclass(frozen=True, slots=True)
class FloorScope:
    """What a floor is for: scores of another model, or of passages of another length, mean something else."""

    collection: str
    reranker: str
    """Name of the engine whose scores meet the floor: of a cascade the second, of a gated order the gate."""
    revision: str
    precision: str
    chunk_tokens: int | None
    """Most tokens of a chunk; None: as many as the embedder reads whole."""
    chunk_overlap_tokens: int
    embedder: str
    """Name of the embedder, whose tokenizer measures chunks and whose recall the floor's candidates come from."""
    embedder_revision: str

    def differences(self, other: FloorScope) -> tuple[str, ...]:
        """What is another there, in words, each as `name was, not is`; nothing for the same scope.

        >>> old = FloorScope("manuals", "bge", "1", "float32", None, 32, "minilm", "a")
        >>> new = FloorScope("manuals", "bge", "1", "bfloat16", 200, 32, "minilm", "a")
        >>> new.differences(old)
        ('precision float32, not bfloat16', 'chunks of as many tokens as the embedder reads, not of 200')
        """
        found = [
            f"{name} {_short(was)}, not {_short(now)}"
            for name, was, now in (
                ("the collection", other.collection, self.collection),
                ("the reranker", other.reranker, self.reranker),
                ("the reranker's revision", other.revision, self.revision),
                ("precision", other.precision, self.precision),
                ("the embedder", other.embedder, self.embedder),
                ("the embedder's revision", other.embedder_revision, self.embedder_revision),
            )
            if was != now
        ]
        if other.chunk_tokens != self.chunk_tokens:
            was, now = (one.chunk_tokens or "as many tokens as the embedder reads" for one in (other, self))
            found.append(f"chunks of {was}, not of {now}")
        if other.chunk_overlap_tokens != self.chunk_overlap_tokens:
            found.append(f"chunks that overlap by {other.chunk_overlap_tokens} tokens, not {self.chunk_overlap_tokens}")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class StoredFloor:
    """A floor that was chosen."""

    scope: FloorScope
    value: float
    """In [0, 1], inclusive."""
    how: FloorMethod
    chosen_at: str
    """ISO 8601, UTC."""
    measured_on: str = ""
    """The labelled questions; empty if it was set by hand."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What the command that chose it printed."""

    def __post_init__(self) -> None:
        """Raise BadInput for a value that no score can be compared with."""
        if not 0 <= self.value <= 1:
            raise BadInput(f"a floor of {self.value:g} can't be used: scores lie in 0 to 1, and so must a floor")


class FloorStore:
    """The floors of a data folder. Safe to use from several threads and processes: writers take turns."""

    def __init__(self, path: Path) -> None:
        """Look at the file, which needn't exist yet."""
        self.path = path

    def all(self) -> list[StoredFloor]:
        """Every floor, the latest last. Raises CollectionError for a damaged file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        try:
            return [_floor(row) for row in json.loads(text)["floors"]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error

    def find(self, scope: FloorScope) -> StoredFloor | None:
        """The floor of exactly that scope, or None. Raises CollectionError."""
        return next((one for one in self.all() if one.scope == scope), None)

    def of_collection(self, collection: str) -> list[StoredFloor]:
        """The floors of a collection, for whatever engines, the latest last. Raises CollectionError."""
        return [one for one in self.all() if one.scope.collection == collection]

    def put(self, floor: StoredFloor) -> None:
        """Keep a floor, instead of an earlier one of the same scope. Raises CollectionError."""
        with self._locked():
            self._write([*(one for one in self.all() if one.scope != floor.scope), floor])

    def remove(self, scope: FloorScope) -> StoredFloor | None:
        """Forget the floor of exactly that scope; returns it, or None if there was none. Raises CollectionError."""
        with self._locked():
            floors = self.all()
            found = next((one for one in floors if one.scope == scope), None)
            if found is not None:
                self._write([one for one in floors if one is not found])
            return found

    def _write(self, floors: list[StoredFloor]) -> None:
        rows = {"floors": [asdict(one) for one in floors]}
        replace_text(self.path, json.dumps(rows, indent=2, ensure_ascii=False))

    def _damaged(self, error: Exception) -> CollectionError:
        return CollectionError(
            f"{self.path} can't be read ({type(error).__name__}: {error}): mend it, or move it away to be without "
            "floors of your own"
        )

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive(self.path, self.path.with_name(f".{self.path.name}.lock"), limit_s=LOCK_LIMIT_S)


def floor_text(value: float) -> str:
    """A floor with two decimals, or four digits where it has more.

    >>> floor_text(0.4), floor_text(0.0312749)
    ('0.40', '0.03127')
    """
    short = f"{value:.2f}"
    return short if float(short) == value else f"{value:.4g}"


def _floor(row: Mapping[str, Any]) -> StoredFloor:
    return StoredFloor(**{**row, "scope": FloorScope(**row["scope"]), "value": float(row["value"])})


def _short(text: str) -> str:
    """A revision by its beginning; an empty one in words."""
    return (text[:12] if len(text) > 31 and "/" not in text else text) or "unknown"


FloorSource = Literal["setting", "stored", "promotion", "default"]


@dataclass(frozen=True, slots=True)
class FloorInUse:
    """The floor that questions meet, and why it is that one."""

    value: float
    source: FloorSource
    """setting: RANK37_FLOOR; stored: chosen for exactly this; promotion: chosen when the reranker was promoted."""
    why: str
    """One sentence."""
    scope: FloorScope
    """What a floor chosen now would be stored for."""
    stored: StoredFloor | None = None
    """The one stored for exactly this scope, also where RANK37_FLOOR overrides it."""
    stale: StoredFloor | None = None
    """The collection's latest one that is *not* used, since it was measured for something else: calibrate again."""
    differences: tuple[str, ...] = ()
    """In what that one's scope differs."""
