"""Which format a data folder has: one number in `format.json`, so that no program writes into what it can't read.

It moves no data: each part brings its own files from an older format to this one as it opens them.

    format 1   no `format.json`; the names of the originals stand in the index alone
    format 2   `collections/<name>/names/<document id>.json` keeps them beside the originals, so that an index can be
               rebuilt; ingestion notes those that a folder of format 1 lacks
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from rag.durable import replace_text
from rag.errors import CollectionError

log = logging.getLogger(__name__)

FORMAT = 2
FORMAT_FILE = "format.json"
REBUILT = "rebuilt"
"""How the folders of a collection are called in which a new index is made: `rebuilt`, then `rebuilt-2` and so on, the
later the newer. Each is a data folder itself."""
WHOLE = "whole"
"""File in such a folder that says: everything is in, this index serves and not the earlier one. It names its parts."""
EMBEDDER_FILE = "embedder.json"
"""Which embedder the index was made with, where that was chosen for this collection: see `rag.embedder_choice`."""
REBUILT_PARTS = ("index", "tokens", EMBEDDER_FILE)
"""What of a collection follows from its original files, and takes its place together."""
_REBUILT_NAME = re.compile(rf"{REBUILT}(?:-([1-9][0-9]*))?")


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


def is_rebuilt(name: str) -> bool:
    """Whether a folder of a collection is one in which a new index is made.

    >>> is_rebuilt("rebuilt"), is_rebuilt("rebuilt-12"), is_rebuilt("index")
    (True, True, False)
    """
    return _REBUILT_NAME.fullmatch(name) is not None


def rebuilt_folders(collection_dir: Path) -> list[Path]:
    """The folders in which new indexes are made or were made, the newest last."""
    return sorted((folder for folder in collection_dir.glob(f"{REBUILT}*") if is_rebuilt(folder.name)), key=_number_of)


def begun_folder(collection_dir: Path) -> Path | None:
    """Where a new index is being made, or was when that was stopped; None: nowhere."""
    folders = rebuilt_folders(collection_dir)
    return folders[-1] if folders and not _is_whole(folders[-1]) else None


def next_folder(collection_dir: Path) -> Path:
    """Where the next new index is made: where one was begun already, else a folder that is not there yet."""
    begun, folders = begun_folder(collection_dir), rebuilt_folders(collection_dir)
    if begun is not None or not folders:
        return begun or collection_dir / REBUILT
    return collection_dir / f"{REBUILT}-{_number_of(folders[-1]) + 1}"


def home_in(rebuilt: Path, collection_dir: Path) -> Path:
    """Where the index of a rebuilt folder lies, with what belongs to it."""
    return rebuilt / "collections" / collection_dir.name


def homes_of(collection_dir: Path) -> list[Path]:
    """Where whole indexes of a collection lie, the one that serves first."""
    whole = [folder for folder in rebuilt_folders(collection_dir) if _is_whole(folder)]
    return [*(home_in(folder, collection_dir) for folder in reversed(whole)), collection_dir]


def whole_note(rebuilt: Path, collection_dir: Path) -> bytes:
    """What the file `WHOLE` of a rebuilt folder holds. Writing it is the moment from which the new index counts."""
    home = home_in(rebuilt, collection_dir)
    return json.dumps({"parts": [part for part in REBUILT_PARTS if (home / part).exists()]}).encode()


def put_in_place(collection_dir: Path) -> None:
    """Let a whole rebuilt index take the place of the earlier one; nothing to do where there is none.

    The caller keeps everyone from opening the collection. A kill on the way leaves what the next call finishes. A new
    index that is not whole yet stays as it is.
    """
    folders = rebuilt_folders(collection_dir)
    while folders and not _is_whole(folders[-1]):
        folders.pop()  # one that is being made
    if not folders:
        return
    *outdated, rebuilt = folders
    home, parts = home_in(rebuilt, collection_dir), _parts_of(rebuilt)
    for part in REBUILT_PARTS:
        new, place, earlier = home / part, collection_dir / part, rebuilt / f"earlier-{part}"
        if (new.exists() or part not in parts) and place.exists():
            _remove(earlier)
            place.rename(earlier)
        if new.exists():
            new.rename(place)
    for folder in (*outdated, rebuilt):  # the one that counts goes last
        shutil.rmtree(folder)


def drop_earlier(collection_dir: Path, home: Path) -> None:
    """Remove an index that does not serve any more, and that nobody has open; the one that serves is left alone."""
    if home == homes_of(collection_dir)[0]:
        return
    if home != collection_dir:
        shutil.rmtree(home.parents[1])
        return
    for part in REBUILT_PARTS:
        _remove(collection_dir / part)


def has_whole_rebuilt(collection_dir: Path) -> bool:
    """Whether a rebuilt index waits for `put_in_place`."""
    return homes_of(collection_dir)[0] != collection_dir


def _number_of(folder: Path) -> int:
    match = _REBUILT_NAME.fullmatch(folder.name)
    return int(match[1] or 1) if match else 0


def _is_whole(folder: Path) -> bool:
    return (folder / WHOLE).exists()


def _parts_of(rebuilt: Path) -> tuple[str, ...]:
    """Which parts a new index has; those it lacks are not the earlier one's. Notes of earlier versions are empty."""
    try:
        return tuple(json.loads((rebuilt / WHOLE).read_bytes())["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        return REBUILT_PARTS


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _note(data_dir: Path) -> None:
    """Write this version's number, if that is possible: what can't be written into is told by who needs to."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        replace_text(data_dir / FORMAT_FILE, json.dumps({"format": FORMAT}))
    except OSError as error:
        log.info("the format of %s was not noted: %s", data_dir, error)


def _unreadable(file: Path, reason: str) -> CollectionError:
    return CollectionError(
        f'{file} can\'t be read ({reason}): if this version of Rank37 wrote the folder, write {{"format": {FORMAT}}} '
        "into that file; else restore it from a backup"
    )
