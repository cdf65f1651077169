"""Which folder serves of an embedded index: its own, or a quicker copy that lies within it.

    index/                  as it was made: edge_config.json, segments/, wal/
    index/quick-<hex>/      the same three, of a copy
    index/serves.json       {"folder": "quick-<hex>"}: that copy serves, and what else lies here is out of date

Writing the last one is the moment from which the copy counts; a kill before it leaves the earlier index, a kill after
it the copy, and what is left over of the other goes the next time that somebody opens the index. It opens no index.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rag.durable import UNFINISHED, make_durable, replace_text
from rag.errors import CollectionDamaged

SERVES_FILE = "serves.json"
_COPY = re.compile(r"quick-[0-9a-f]{32}")
_ENTRY_BYTES = 21
"""Of a point in the log of an appendable segment's ids (qdrant-edge-py 0.9.0): what happened, UUID, number within."""


def serving_folder(folder: Path) -> Path:
    """Where the files lie that answer. Raises CollectionDamaged where that can't be told."""
    file = folder / SERVES_FILE
    try:
        name = json.loads(file.read_bytes())["folder"]
    except (FileNotFoundError, NotADirectoryError):
        return folder
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    if not isinstance(name, str) or not _COPY.fullmatch(name):
        raise _damaged(file, f"it names {name!r}")
    return folder / name


def new_copy(folder: Path) -> Path:
    """A place for a copy; nothing is there yet."""
    return folder / f"quick-{uuid.uuid4().hex}"


def copy_serving(folder: Path, copy: Path, *, stop: Callable[[], object]) -> None:
    """Copy the files that answer, while nobody writes to them. `stop` is called before each and ends it by raising.

    Raises OSError.
    """

    def copied(source: str, target: str) -> None:
        stop()
        shutil.copyfile(source, target)

    shutil.copytree(
        serving_folder(folder),
        copy,
        copy_function=copied,
        ignore=lambda parent, names: [name for name in names if Path(parent) == folder and _is_ours(name)],
    )


def serve_from(folder: Path, copy: Path) -> None:
    """Let a copy serve from now on, for good. Raises OSError, and then nothing has changed."""
    replace_text(folder / SERVES_FILE, json.dumps({"folder": copy.name}))
    with suppress(OSError):  # where folders can't be made durable, the file still is
        make_durable(folder)


def drop_others(folder: Path) -> None:
    """Remove what does not serve: earlier files, and copies that were not finished. Nobody else has the index open.

    What can't be removed stays for the next time. Raises CollectionDamaged.
    """
    serving = serving_folder(folder)
    if serving != folder and not serving.is_dir():
        return
    entries = list(folder.iterdir()) if folder.is_dir() else []
    for entry in entries:
        if entry == serving or entry.name == SERVES_FILE or (serving == folder and not _is_ours(entry.name)):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()


def size_bytes(folder: Path) -> int:
    """Bytes of the files that answer. A file that goes meanwhile counts nothing."""
    serving, total = serving_folder(folder), 0
    for parent, folders, names in os.walk(serving):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if not _is_ours(name)]
        for name in names:
            with suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


def scanned_points(folder: Path) -> int:
    """About how many points every search compares in full: those that came after the last copy was made, or all.

    Read from the sizes of files, so it costs nothing; the latest points count once they are durable.
    """
    total = 0
    for log in serving_folder(folder).glob("segments/*/mutable_id_tracker.mappings"):
        with suppress(OSError):
            total += log.stat().st_size // _ENTRY_BYTES
    return total


def _is_ours(name: str) -> bool:
    """Whether the name is one of this module's, and not one of the engine's."""
    return name == SERVES_FILE or name.startswith(UNFINISHED) or _COPY.fullmatch(name) is not None


def _damaged(file: Path, reason: str) -> CollectionDamaged:
    return CollectionDamaged(
        f"{file} can't be read ({reason}): make the index again from the kept original files (`python -m rag "
        "rebuild`), or restore a backup (`python -m rag restore FILE`)"
    )
