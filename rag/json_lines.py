"""JSONL files, plain or zipped: the layout of labelled sets and of training data. It knows no row's meaning."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rag.errors import BadInput


def open_text(path: Path, mode: str = "r") -> IO[str]:
    """Open a UTF-8 text file, through gzip where its name ends in `.gz`."""
    if path.suffix == ".gz":
        return gzip.open(path, mode + "t", encoding="utf-8")  # type: ignore[return-value]  # text mode gives IO[str]
    return path.open(mode, encoding="utf-8")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their 1-based line numbers; empty lines are skipped. Raises BadInput naming file and line."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist: name a JSONL file, plain or .gz")
    number = 0
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise BadInput(f"{path}, line {number}: not a JSON object ({error.msg})") from None
                if not isinstance(row, dict):
                    raise BadInput(f"{path}, line {number}: a JSON object is needed, not {type(row).__name__}")
                yield number, row
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise BadInput(f"{path} can't be read after line {number} ({error}): get the file again") from None


def plain_or_zipped(folder: Path, name: str) -> Path | None:
    """The file `name` in a folder, or `name.gz` beside it, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
