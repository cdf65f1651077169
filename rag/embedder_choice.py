"""Which embedder a collection was re-indexed with: noted beside its index, and moved into place together with it.

It loads no model, and does not say that the model is still there, or still the same: the index itself remembers what
made it.

    <collection>/embedder.json     {"embedder": "", "revision": null, "query_prompt": null, "passage_prompt": null}

A collection without that file is opened with the embedder of the settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rag.data_folder import EMBEDDER_FILE, homes_of
from rag.errors import CollectionError
from rag.settings import Settings


@dataclass(frozen=True, slots=True)
class EmbedderChoice:
    """What the settings of an embedder are, for one collection."""

    embedder: str
    """`embedded`, a name on the hub, or the full path of a folder."""
    revision: str | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From its JSON. Raises KeyError, TypeError or ValueError where it is none."""
        texts = {name: row[name] for name in ("embedder", "revision", "query_prompt", "passage_prompt")}
        if not isinstance(texts["embedder"], str):
            raise TypeError(f"its embedder is {texts['embedder']!r}")
        if any(not isinstance(text, str | None) for text in texts.values()):
            raise TypeError("a revision or prompt is no text")
        return cls(**texts)

    def over(self, settings: Settings) -> Settings:
        """The settings with this embedder in place of their own."""
        return settings.model_copy(
            update={
                "embedder": self.embedder,
                "embedder_revision": self.revision,
                "embedder_query_prompt": self.query_prompt,
                "embedder_passage_prompt": self.passage_prompt,
            }
        )

    def as_json(self) -> dict[str, str | None]:
        """What `of` reads."""
        return asdict(self)


def noted_embedder(collection_dir: Path) -> EmbedderChoice | None:
    """The embedder that a collection's index was made with, where it was re-indexed.

    Raises: CollectionError where the note can't be read.
    """
    for home in homes_of(collection_dir):
        file = home / EMBEDDER_FILE
        try:
            return EmbedderChoice.of(json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            continue  # of a whole new index too: another process may be moving it into its place
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CollectionError(
                f"{file} can't be read ({type(error).__name__}: {error}), so it is not known which embedder made the "
                "collection: make its index again with one that you name (`python -m rag rebuild --embedder NAME`)"
            ) from error
    return None
