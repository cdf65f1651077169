"""The settings that were changed in the app: kept in `settings.json` in the data folder, readable by its owner alone.

They may hold a key. The environment wins over them; which engines follow from them is `rag.wiring`'s choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rag.durable import replace_text
from rag.errors import BadInput

SAVED_FILE = "settings.json"
CHANGEABLE = (
    "reranker",
    "rerank_depth",
    "recall_limit",
    "answer_limit",
    "openai_base_url",
    "openai_model",
    "openai_api_key",
)
"""Fields of `Settings` that the app can change."""

Value = str | int | None


def read_saved(data_dir: Path) -> dict[str, Value]:
    """The values that were saved, by field; none where nothing was. Raises BadInput for a file that can't be used."""
    path = data_dir / SAVED_FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(rows) - set(CHANGEABLE))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"{path} can't be read ({type(error).__name__}): mend it, or delete it to be without saved settings"
        ) from None  # the error may quote the file, and with it a key
    if unknown:
        raise BadInput(f"{path} names {', '.join(unknown)}, which is not kept there: delete that line")
    return {name: value for name, value in rows.items() if value is not None}


def save(data_dir: Path, values: Mapping[str, Value]) -> None:
    """Keep these values instead of those saved before; None: the default. Raises BadInput where it can't be written."""
    if unknown := set(values) - set(CHANGEABLE):
        raise BadInput(f"{', '.join(sorted(unknown))} can't be changed in the app: set it in the environment")
    path = data_dir / SAVED_FILE
    text = json.dumps({name: value for name, value in values.items() if value is not None}, indent=2)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        replace_text(path, text, mode=0o600)  # nobody else may read it
    except OSError as error:
        raise BadInput(
            f"{path} can't be written: {error.strerror or error}; change the folder's rights, or set RANK37_DATA_DIR"
        ) from None
