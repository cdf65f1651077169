"""What survives a power cut: small files that are replaced as a whole, and what is brought to the disk."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".unfinished-"
"""How the name begins of what was not finished."""


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a file anew, in UTF-8, so that it survives a power cut. Raises OSError, and then nothing has changed.

    Args:
        path: In a folder that is there.
        text: All of it.
        mode: Who may read and write it, from its first byte on, less what the process's umask takes away.
    """
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}.json")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def make_durable(path: Path) -> None:
    """Bring a file, or the list of files in a folder, to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
