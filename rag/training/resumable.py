"""A file of lines that costs money or hours: what an interrupted run wrote of it stays, and the next one goes on there.

It knows no line's meaning. Until all is written the lines lie beside the file, at its `unfinished_path`, as plain text
even where the file is to be zipped: of a zipped file that a run was killed in, nothing can be read back to the end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rag.durable import make_durable
from rag.json_lines import open_text
from rag.training.groups import unfinished_path


def lines_path(path: Path) -> Path:
    """Where the lines of `path` lie until all are written."""
    unfinished = unfinished_path(path)
    return unfinished.with_suffix("") if path.suffix == ".gz" else unfinished


def left_over(path: Path) -> Path | None:
    """Where the lines lie that an interrupted run left for `path`, or None; one that it broke off in is dropped."""
    lines = lines_path(path)
    if not lines.is_file():
        return None
    with lines.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
    return lines


@contextmanager
def lines_behind(path: Path) -> Iterator[Callable[[Iterable[str]], None]]:
    """What writes lines behind those that are left over, durable at once; at the end the file is at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left_over(path)
    lines = lines_path(path)
    with lines.open("a", encoding="utf-8") as file:

        def write(rows: Iterable[str]) -> None:
            file.write("".join(f"{row}\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

        yield write
    if lines != unfinished_path(path):
        with lines.open(encoding="utf-8") as file, open_text(unfinished_path(path), "w") as zipped:
            shutil.copyfileobj(file, zipped)
        make_durable(unfinished_path(path))  # before what it was made of goes
    unfinished_path(path).replace(path)
    lines.unlink(missing_ok=True)
