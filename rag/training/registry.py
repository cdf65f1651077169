"""Which trained reranker serves, what it was measured on, and what served before: one JSON file beside the models.

It keeps and finds models; whether one deserves to serve is `rag.training.promote`'s decision. It loads no library, so
that opening the configured reranker costs nothing more.

    <data_dir>/rerankers/promoted.json        {"serving": [record, ...], "rolled_back": [record, ...]}, last one serves
    <data_dir>/rerankers/<name>/              the model itself, as `fine-tune` or `calibrate` wrote it
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rag.durable import replace_text
from rag.errors import BadInput, CollectionError
from rag.exclusive import exclusive
from rag.settings import COLLECTION_NAME

REGISTRY_FILE = "promoted.json"
LOCK_LIMIT_S = 10.0
TAKEN_NAMES = frozenset({"embedded", "promoted", "none", "cohere", "jina", "service", "colbert", "rank-gpt", "cascade"})
"""What the setting of the reranker means something else by."""


@dataclass(frozen=True, slots=True)
class PromotedReranker:
    """A reranker that was promoted."""

    name: str
    """Also the name of its folder."""
    revision: str
    """Hash of the model's content: a changed folder is not the model that was measured."""
    floor: float
    """The minimum score that was chosen for exactly this model."""
    promoted_at: str
    """ISO 8601, UTC."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """On what, against what, and the figures."""


class RerankerRegistry:
    """The promoted rerankers of a data folder."""

    def __init__(self, folder: Path) -> None:
        """Look at `folder`, which needn't exist yet."""
        self.folder = folder

    def serving(self) -> list[PromotedReranker]:
        """The promoted rerankers, the one that serves last. Raises CollectionError for a damaged file."""
        return self._read()["serving"]

    def current(self) -> PromotedReranker | None:
        """The one that serves, or None."""
        serving = self.serving()
        return serving[-1] if serving else None

    def folder_of(self, promoted: PromotedReranker) -> Path:
        """Where its model lies."""
        return self.folder / promoted.name

    def floor_for(self, name: str, revision: str) -> float | None:
        """The floor of exactly that reranker, or None."""
        records = [one for one in self.serving() if (one.name, one.revision) == (name, revision)]
        return records[-1].floor if records else None

    def add(self, promoted: PromotedReranker, model_folder: Path) -> None:
        """Copy the model and let it serve. Whatever breaks off leaves the one that served before in service.

        Raises: BadInput for a name that can't be used or is another model's.
        """
        check_name(promoted.name)
        with self._locked():
            records = self._read()
            known = [one for kind in records.values() for one in kind if one.name == promoted.name]
            if any(one.revision != promoted.revision for one in known):
                raise BadInput(
                    f"a reranker called {promoted.name!r} with other content was promoted before: take another --name"
                )
            self._copy(model_folder, self.folder_of(promoted))
            records["serving"] = [one for one in records["serving"] if one.name != promoted.name] + [promoted]
            records["rolled_back"] = [one for one in records["rolled_back"] if one.name != promoted.name]
            self._write(records)

    def roll_back(self) -> tuple[PromotedReranker, PromotedReranker | None]:
        """Let the one before serve again; returns the one that served, and the one that does now (None: the default).

        The model's folder stays. Raises: BadInput where none was promoted.
        """
        with self._locked():
            records = self._read()
            if not records["serving"]:
                raise BadInput(f"no reranker was promoted in {self.folder}: there is nothing to roll back")
            undone = records["serving"].pop()
            records["rolled_back"].append(undone)
            self._write(records)
            return undone, records["serving"][-1] if records["serving"] else None

    def _read(self) -> dict[str, list[PromotedReranker]]:
        path = self.folder / REGISTRY_FILE
        if not path.exists():
            return {"serving": [], "rolled_back": []}
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return {kind: [PromotedReranker(**row) for row in rows[kind]] for kind in ("serving", "rolled_back")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CollectionError(
                f"{path} can't be read ({type(error).__name__}: {error}): mend it, or move it away to be without "
                "promoted rerankers"
            ) from error

    def _write(self, records: Mapping[str, list[PromotedReranker]]) -> None:
        rows = {kind: [asdict(one) for one in listed] for kind, listed in records.items()}
        replace_text(self.folder / REGISTRY_FILE, json.dumps(rows, indent=2))

    def _copy(self, model_folder: Path, destination: Path) -> None:
        if destination.exists():  # of the same content: its revision is known
            return
        incoming = self.folder / f".incoming-{uuid.uuid4().hex}"
        try:
            shutil.copytree(model_folder, incoming)
            incoming.replace(destination)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive(self.folder, self.folder / f".{REGISTRY_FILE}.lock", limit_s=LOCK_LIMIT_S)


def check_name(name: str) -> None:
    """Raise BadInput for what can't be a promoted reranker's name."""
    if not COLLECTION_NAME.fullmatch(name) or name in TAKEN_NAMES:
        raise BadInput(
            f"a reranker can't be called {name!r}: take 1 to 63 letters, digits, '-' or '_', starting with a letter or "
            f"digit, and none of {', '.join(sorted(TAKEN_NAMES))}"
        )
