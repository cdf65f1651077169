"""Which format a data folder has: one number in `format.json`, so that no program writes into what it can't read.

It moves no data: each part brings its own files from an older format to this one as it opens them.

    format 1   no `format.json`; the names of the originals stand in the index alone
    format 2   `collections/<name>/names/<document id>.json` keeps them beside the originals, so that an index can be
               rebuilt; ingestion notes those that a folder of format 1 lacks
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from rag.errors import CollectionError

log = logging.getLogger(__name__)

FORMAT = 2
FORMAT_FILE = "format.json"
REBUILT = "rebuilt"
"""Folder of a collection in which a new index is made; it is a data folder itself."""
WHOLE = "whole"
"""File in `REBUILT` that says: everything is in, this index takes the place of the earlier one."""
REBUILT_PARTS = ("index", "tokens")
"""Folders of a collection that follow from its original files."""


def check_format(data_dir: Path) -> int:
    """The format that the folder has, 1 or more; it is this version's from now on, where the folder can be written.

    Raises: CollectionError where a newer version wrote it, or the file can't be read.
    """
    file = data_dir / FORMAT_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        found = 1 if (data_dir / "collections").is_dir() else FORMAT
        _note(data_dir)
        return found
    except (OSError, ValueError) as error:
        raise _unreadable(file, str(error)) from error
    found = format_of(text, file)
    if found < FORMAT:
        _note(data_dir)
    return found


def format_of(text: str, file: Path) -> int:
    """The number in the text of a `format.json`. Raises CollectionError where there is none, or one too new."""
    try:
        found = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise _unreadable(file, f"its format is {found!r}")
    if found > FORMAT:
        raise CollectionError(
            f"{file.parent} was written by a newer version of Rank37 (its format is {found}, this version reads up to "
            f"{FORMAT}): update Rank37, or take another folder (RANK37_DATA_DIR)"
        )
    return found


def put_in_place(collection_dir: Path) -> None:
    """Let a whole rebuilt index take the place of the earlier one; nothing to do where there is none.

    The caller keeps everyone from opening the collection. A kill on the way leaves what the next call finishes.
    """
    rebuilt = collection_dir / REBUILT
    if not (rebuilt / WHOLE).exists():
        return
    for part in REBUILT_PARTS:
        new, place = rebuilt / "collections" / collection_dir.name / part, collection_dir / part
        earlier = rebuilt / f"earlier-{part}"
        if new.exists():
            if place.exists():
                shutil.rmtree(earlier, ignore_errors=True)
                place.rename(earlier)
            new.rename(place)
    shutil.rmtree(rebuilt)


def has_whole_rebuilt(collection_dir: Path) -> bool:
    """Whether a rebuilt index waits for `put_in_place`."""
    return (collection_dir / REBUILT / WHOLE).exists()


def _note(data_dir: Path) -> None:
    """Write this version's number, if that is possible: what can't be written into is told by who needs to."""
    unfinished = data_dir / f".unfinished-{uuid.uuid4().hex}.json"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(data_dir / FORMAT_FILE)
    except OSError as error:
        log.info("the format of %s was not noted: %s", data_dir, error)
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _unreadable(file: Path, reason: str) -> CollectionError:
    return CollectionError(
        f'{file} can\'t be read ({reason}): if this version of Rank37 wrote the folder, write {{"format": {FORMAT}}} '
        "into that file; else restore it from a backup"
    )
