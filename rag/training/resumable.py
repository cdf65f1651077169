"""A file of lines that costs money or hours: what an interrupted run wrote of it stays, and the next one goes on there.

It knows no line's meaning. Until all is written the lines lie beside the file, at its `unfinished_path`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rag.json_lines import open_text
from rag.training.groups import unfinished_path


def left_over(path: Path) -> Path | None:
    """Where the lines lie that an interrupted run left for `path`, or None; one that it broke off in is dropped."""
    unfinished = unfinished_path(path)
    if not unfinished.is_file():
        return None
    with open_text(unfinished) as file:
        lines = file.read().split("\n")
    if lines[-1]:
        with open_text(unfinished, "w") as file:
            file.write("".join(f"{line}\n" for line in lines[:-1]))
    return unfinished


@contextmanager
def lines_behind(path: Path) -> Iterator[Callable[[Iterable[str]], None]]:
    """What writes lines behind those that are left over, durable at once; at the end the file is at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left_over(path)
    with open_text(unfinished_path(path), "a") as file:

        def write(lines: Iterable[str]) -> None:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()

        yield write
    unfinished_path(path).replace(path)
