"""Files on disk: find documents, name them safely, identify them by content, write so that a crash loses nothing.

It never looks inside a file: what kind it is says `ingest.kinds`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from rag.durable import make_durable
from rag.errors import FileRefused, RefusedReason
from rag.types import DocumentKind

DOCUMENT_ID = re.compile(r"[0-9a-f]{32}")

SUFFIXES: dict[str, DocumentKind] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
}
"""How the files are called that are looked for in folders and offered by the upload page. What they are, their content
says."""

PDF_SUFFIXES = (".pdf",)

KEPT_SUFFIXES: dict[DocumentKind, str] = {
    "pdf": ".pdf",
    "docx": ".docx",
    "html": ".html",
    "markdown": ".md",
    "text": ".txt",
}
"""What the kept copy of a document's file is called after its id."""

LONGEST_NAME = 255
"""Characters of a source name that are kept."""

_BLOCK_BYTES = 1 << 20


def bare_name(name: str) -> str:
    r"""The file name as it is shown and stored: no folders, no control characters, composed Unicode, valid UTF-8.

    It is a label and never a path. Names of both path styles are cut, since an upload can come from any system.

    >>> bare_name("../../etc/leaflet.pdf"), bare_name("C:\\papers\\a.pdf"), bare_name("../")
    ('leaflet.pdf', 'a.pdf', 'unnamed.pdf')
    """
    last = [piece for piece in re.split(r"[/\\]", name) if piece] or [""]
    printed = "".join(
        "\ufffd" if unicodedata.category(character) == "Cs" else character
        for character in unicodedata.normalize("NFC", last[-1])
        if unicodedata.category(character) not in ("Cc", "Zl", "Zp")
    ).strip()
    if printed in ("", ".", ".."):
        return "unnamed.pdf"
    return printed[-LONGEST_NAME:]


def printable(path: Path) -> str:
    """A path as text that can be printed and stored as JSON, whatever bytes it is made of."""
    return "".join(
        "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character for character in str(path)
    )


def find_documents(paths: Iterable[Path], suffixes: tuple[str, ...] = tuple(SUFFIXES)) -> Iterator[Path]:
    """The files that the paths stand for: a folder gives every file below it of these names, in any case, by path.

    Links to folders are not followed. A path that does not exist, or a folder that can't be listed, is given as it is:
    ingesting it says why it can't be read.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(_below(path, suffixes))
        else:
            yield path


def find_pdfs(paths: Iterable[Path]) -> Iterator[Path]:
    """The same of PDFs alone."""
    return find_documents(paths, PDF_SUFFIXES)


def _below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    unlisted: list[OSError] = []
    for parent, _folders, names in os.walk(folder, onerror=unlisted.append):
        yield from (Path(parent, name) for name in names if name.lower().endswith(suffixes))
    yield from (Path(error.filename) for error in unlisted if error.filename is not None)


def content_id(path: Path, *, max_bytes: int) -> str:
    """The id of the document that these bytes are: 32 hexadecimal digits. Raises FileRefused."""
    with open_file(path, max_bytes=max_bytes) as file:
        return _read_all(file, path, max_bytes, lambda block: None)


def copy_with_id(path: Path, target: Path, *, max_bytes: int) -> str:
    """Copy a file durably and return the id of the bytes copied.

    Raises FileRefused where the source can't be read, and OSError where the target can't be written.
    """
    with open_file(path, max_bytes=max_bytes) as file, target.open("wb") as copy:
        document_id = _read_all(file, path, max_bytes, copy.write)
        copy.flush()
        os.fsync(copy.fileno())
    return document_id


def open_file(path: Path, *, max_bytes: int) -> BinaryIO:
    """Open a regular file of 1 to `max_bytes` bytes. Raises FileRefused; it never waits for a pipe or device."""
    name = bare_name(path.name)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FileRefused(
                "unreadable", f"{name} is a folder that can't be listed: give its files, or change its rights"
            )
        if not stat.S_ISREG(status.st_mode):
            raise FileRefused("unreadable", f"{name} is a pipe or device, not a file: give a file")
        if status.st_size == 0:
            reason: RefusedReason = "not_a_pdf" if name.lower().endswith(PDF_SUFFIXES) else "no_text"
            raise FileRefused(reason, f"{name} is empty (0 bytes): nothing to read")
        if status.st_size > max_bytes:
            raise _too_large(name, status.st_size, max_bytes)
        return path.open("rb")
    except FileNotFoundError:
        raise FileRefused("unreadable", f"{name} does not exist: check the path") from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def original_in(files_dir: Path, document_id: str) -> Path | None:
    """The kept copy of a document's file, whatever its kind; None where there is none."""
    kept = (files_dir / f"{document_id}{suffix}" for suffix in KEPT_SUFFIXES.values())
    return next((path for path in kept if path.exists()), None)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that it holds all of the new bytes or what it held before, whatever happens meanwhile."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move_durably(part, path)
    finally:
        part.unlink(missing_ok=True)


def move_durably(source: Path, target: Path) -> None:
    """Rename within a folder; the rename survives a power cut."""
    source.replace(target)
    if os.name == "posix":  # other systems can't open a folder, and need not
        make_durable(target.parent)


def _read_all(file: BinaryIO, path: Path, max_bytes: int, take: Callable[[bytes], object]) -> str:
    """Feed the file to `take` in blocks and return the id of its bytes. Only the reads are turned into refusals."""
    digest = hashlib.sha256()
    n_bytes = 0
    while True:
        try:
            block = file.read(_BLOCK_BYTES)
        except OSError as error:
            raise _unreadable(bare_name(path.name), error) from error
        if not block:
            return digest.hexdigest()[:32]
        n_bytes += len(block)
        if n_bytes > max_bytes:  # it grew since its size was taken
            raise _too_large(bare_name(path.name), n_bytes, max_bytes)
        digest.update(block)
        take(block)


def _too_large(name: str, n_bytes: int, max_bytes: int) -> FileRefused:
    return FileRefused(
        "too_large",
        f"{name} has {n_bytes / 2**20:,.1f} MiB, the limit is {max_bytes / 2**20:,.1f} MiB: split it, or raise "
        "RANK37_MAX_FILE_MB",
    )


def _unreadable(name: str, error: Exception) -> FileRefused:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return FileRefused("unreadable", f"{name} can't be read: {reason}")
