"""A data folder as one checked ZIP file, and back: documents, indexes, traces, labels, floors, promoted rerankers.

It leaves out what is computed again (caches), locks and unfinished files. It holds no database or Qdrant server that
lies elsewhere. Its checksums show damage, not who made it; it holds the documents' words: keep it as safe.

    manifest.json      {"rank37_backup": 1, "format": 2, "made_at": "", "files": {name: [bytes, sha256]}, "folders": []}
    data/<name>        the files, by their place in the data folder
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import stat
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from rag.data_folder import FORMAT, FORMAT_FILE, WHOLE, check_format, format_of, is_rebuilt
from rag.errors import BadInput, CollectionError

BACKUP_VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 256 * 2**20
DATA = "data/"
BLOCK_BYTES = 1 << 20
HOLE_BYTES = 1 << 16
SQLITE_MAGIC = b"SQLite format 3\0"

Hold = Callable[[str], AbstractContextManager[object]]
"""Given a collection's name: while the block runs, the collection on disk is whole and nobody changes it."""


@dataclass(frozen=True, slots=True)
class BackupContent:
    """What a backup holds."""

    path: Path
    made_at: str
    """ISO 8601, UTC."""
    format: int
    collections: tuple[str, ...]
    n_files: int
    n_bytes: int
    """Of the files themselves, not packed."""
    left_out: tuple[str, ...] = ()
    """Links and special files of the data folder, which no backup holds."""


@dataclass(frozen=True, slots=True)
class _Manifest:
    made_at: str
    format: int
    files: Mapping[str, tuple[int, str]]
    """Size and SHA-256 by name."""
    folders: tuple[str, ...]
    """Those that are empty."""


def back_up(data_dir: Path, target: Path, *, hold: Hold) -> BackupContent:
    """Write the data folder to a new file. An interrupted backup leaves no file of that name.

    Raises:
        BadInput: There is no such folder, or the file exists already or lies in the folder.
        CollectionLocked: Another process has a collection open.
        CollectionError: Something can't be read or written.
    """
    if not data_dir.is_dir():
        raise BadInput(f"there is no data folder {data_dir}: check RANK37_DATA_DIR or --data-dir")
    if target.exists():
        raise BadInput(f"{target} exists already: a backup never replaces a file, name another")
    if target.resolve().is_relative_to(data_dir.resolve()):
        raise BadInput(f"{target} lies in the data folder itself: name a file elsewhere, best on another disk")
    check_format(data_dir)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    collections = _collections(data_dir)
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with ExitStack() as held, _storage_errors(target):
            for name in collections:
                held.enter_context(hold(name))
            with part.open("wb") as file:
                files, folders, left_out = _pack(data_dir, file, made_at)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    n_bytes = sum(size for size, _ in files.values())
    return BackupContent(target, made_at, FORMAT, collections, len(files), n_bytes, left_out)


def restore(source: Path, data_dir: Path, *, hold: Hold, force: bool = False) -> tuple[BackupContent, Path | None]:
    """Unpack a backup as the data folder; returns what it held, and where the folder that it replaced is now.

    Everything is checked before anything is changed. With `force` an earlier data folder is moved aside, not deleted.

    Raises:
        BadInput: The file is no whole backup of a version that this one reads, or the data folder is not empty.
        CollectionLocked: Another process has a collection of the data folder open.
        CollectionError: Something can't be read or written.
    """
    occupied = data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir()))
    if occupied and not force:
        raise BadInput(
            f"{data_dir} is not empty, and restoring would replace it: take another --data-dir, or --force, which "
            "moves what is there aside"
        )
    fresh = data_dir.with_name(f".{data_dir.name}.restoring-{uuid.uuid4().hex}")
    earlier: Path | None = None
    try:
        with _storage_errors(data_dir), ExitStack() as held:
            fresh.parent.mkdir(parents=True, exist_ok=True)
            content = _unpack(source, fresh)
            if occupied:
                for name in _collections(data_dir):
                    held.enter_context(hold(name))
                stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
                earlier = data_dir.with_name(f"{data_dir.name}.before-restore-{stamp}-{uuid.uuid4().hex[:4]}")
                data_dir.rename(earlier)
            elif data_dir.exists():
                data_dir.rmdir()
            fresh.rename(data_dir)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return content, earlier


def _collections(data_dir: Path) -> tuple[str, ...]:
    folder = data_dir / "collections"
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) if folder.is_dir() else ()


def _pack(
    data_dir: Path, file: IO[bytes], made_at: str
) -> tuple[dict[str, tuple[int, str]], list[str], tuple[str, ...]]:
    files: dict[str, tuple[int, str]] = {}
    folders: list[str] = []
    left_out: list[str] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        for path, kind in _entries(data_dir):
            name = path.relative_to(data_dir).as_posix()
            if kind == "file":
                files[name] = _pack_file(path, name, archive)
            elif kind == "empty":
                folders.append(name)
            else:
                left_out.append(name)
        manifest = {
            "rank37_backup": BACKUP_VERSION,
            "format": FORMAT,
            "made_at": made_at,
            "files": files,
            "folders": folders,
        }
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
    return files, folders, tuple(left_out)


def _entries(data_dir: Path) -> Iterator[tuple[Path, str]]:
    """Files, empty folders and things that can't be kept, by path; caches, locks and unfinished files are passed by."""
    for parent, folders, names in os.walk(data_dir):
        folder = Path(parent)
        folders[:] = sorted(name for name in folders if not _is_passed_by(folder / name, data_dir))
        for name in list(folders):
            if (folder / name).is_symlink():
                folders.remove(name)
                yield folder / name, "other"
        kept = sorted(name for name in names if not _is_passed_by(folder / name, data_dir))
        if not folders and not kept and folder != data_dir:
            yield folder, "empty"
        for name in kept:
            path = folder / name
            yield path, "file" if stat.S_ISREG(path.lstat().st_mode) else "other"


def _is_passed_by(path: Path, data_dir: Path) -> bool:
    name = path.name
    if path == data_dir / "cache":
        return True
    if is_rebuilt(name) and path.parent.parent == data_dir / "collections":
        return not (path / WHOLE).exists()  # a whole one is the index that serves
    if name.startswith((".unfinished-", ".incoming-")) or name.endswith((".part", ".lock")):
        return True
    for suffix in ("-wal", "-shm", "-journal"):  # a database's own; its copy has no need of them
        if name.endswith(suffix) and path.with_name(name.removesuffix(suffix)).exists():
            return True
    return False


def _pack_file(path: Path, name: str, archive: zipfile.ZipFile) -> tuple[int, str]:
    """Add one file; returns its size and hash. A SQLite database is copied by SQLite, whoever writes to it."""
    with path.open("rb") as file:
        if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
            file.seek(0)
            return _pack_bytes(file, name, archive)
    copy = Path(f"{archive.filename}.{uuid.uuid4().hex}.part")
    try:
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database,
            closing(sqlite3.connect(copy)) as target,
        ):
            database.backup(target)
            target.execute("PRAGMA journal_mode = DELETE").fetchall()
        with copy.open("rb") as file:
            return _pack_bytes(file, name, archive)
    except sqlite3.Error as error:
        raise CollectionError(
            f"the database {path} can't be copied ({error}): move it away if it is damaged, or stop what writes to it, "
            "then back up again"
        ) from error
    finally:
        copy.unlink(missing_ok=True)


def _pack_bytes(file: IO[bytes], name: str, archive: zipfile.ZipFile) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    information = zipfile.ZipInfo(DATA + name, datetime.now(UTC).timetuple()[:6])
    information.compress_type = zipfile.ZIP_DEFLATED
    information.external_attr = (stat.S_IFREG | 0o600) << 16
    with archive.open(information, "w", force_zip64=True) as member:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            member.write(block)
    return size, digest.hexdigest()


def _unpack(source: Path, folder: Path) -> BackupContent:
    """Unpack into a new folder, checking every name, size and hash. Raises BadInput."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = _members(archive, source)
            manifest = _manifest(archive, source)
            if set(members) != {DATA + name for name in manifest.files} | {MANIFEST}:
                raise _no_backup(source, "it does not hold exactly the files of its manifest")
            n_bytes = sum(size for size, _ in manifest.files.values())
            folder.mkdir()
            for name in manifest.folders:
                (folder / name).mkdir(parents=True, exist_ok=True)
            for name, (size, digest) in manifest.files.items():
                _unpack_file(archive, members[DATA + name], folder / name, size, digest, source)
    except FileNotFoundError:
        raise BadInput(f"there is no file {source}: check its path") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError) as error:
        raise _no_backup(source, str(error) or type(error).__name__) from error
    collections = sorted({PurePosixPath(name).parts[1] for name in manifest.files if name.startswith("collections/")})
    return BackupContent(source, manifest.made_at, manifest.format, tuple(collections), len(manifest.files), n_bytes)


def _members(archive: zipfile.ZipFile, source: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _no_backup(source, f"{member.filename!r} is no plain file")
        if member.filename in members:
            raise _no_backup(source, f"{member.filename!r} is there twice")
        if member.orig_filename != member.filename:
            raise _no_backup(source, f"{member.orig_filename!r} is no file name of a data folder")
        _check_name(member.filename, source)
        members[member.filename] = member
    if MANIFEST not in members:
        raise _no_backup(source, f"it has no {MANIFEST}")
    return members


def _manifest(archive: zipfile.ZipFile, source: Path) -> _Manifest:
    with archive.open(MANIFEST) as member:
        text = member.read(MANIFEST_LIMIT_BYTES + 1)
    if len(text) > MANIFEST_LIMIT_BYTES:
        raise _no_backup(source, f"its {MANIFEST} is larger than {MANIFEST_LIMIT_BYTES >> 20} MiB")
    try:
        found: dict[str, Any] = json.loads(text)
        version = found["rank37_backup"]
        if version != BACKUP_VERSION:
            raise BadInput(
                f"{source} is a backup of version {version!r}, this version of Rank37 reads {BACKUP_VERSION}: update "
                "Rank37"
            )
        format_number = format_of(json.dumps({"format": found["format"]}), source / FORMAT_FILE)
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in found["files"].items()}
        folders = tuple(str(name) for name in found["folders"])
        made_at = str(found["made_at"])
    except BadInput:
        raise
    except CollectionError as error:
        raise BadInput(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_backup(source, f"its {MANIFEST} can't be read: {type(error).__name__}: {error}") from error
    for name in (*files, *folders):
        _check_name(name, source)
    if any(size < 0 for size, _ in files.values()):
        raise _no_backup(source, "a file of its manifest has less than no bytes")
    return _Manifest(made_at, format_number, files, folders)


def _check_name(name: str, source: Path) -> None:
    """Raise BadInput unless the name leads to a place within the folder, on every system."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(sign in name for sign in "\\:\0\n\r"):
        raise _no_backup(source, f"{name!r} is no file name of a data folder")


def _unpack_file(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, size: int, digest: str, source: Path
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hashed, written = hashlib.sha256(), 0
    with archive.open(member) as packed, path.open("xb") as file:
        while written <= size and (block := packed.read(min(BLOCK_BYTES, size + 1 - written))):
            hashed.update(block)
            written += len(block)
            _write_sparsely(block, file)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    if written != size or hashed.hexdigest() != digest:
        raise _no_backup(source, f"{member.filename!r} is not what its manifest says")


def _write_sparsely(block: bytes, file: IO[bytes]) -> None:
    """Write, leaving holes for zeros: an index of Qdrant Edge is 180 MB of them around what it holds."""
    for start in range(0, len(block), HOLE_BYTES):
        piece = block[start : start + HOLE_BYTES]
        if piece.strip(b"\0"):
            file.write(piece)
        else:
            file.seek(len(piece), os.SEEK_CUR)


def _no_backup(source: Path, reason: str) -> BadInput:
    return BadInput(f"{source} is no whole backup of Rank37 ({reason}): nothing was changed, take another copy of it")


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise CollectionError(
            f"{where} can't be read or written ({error.strerror or error}): free some space, change its rights, or "
            "name another place"
        ) from error
