"""One writer at a time for a file or a folder that several processes share.

It waits its turn and says what is wrong where that fails; what is written, and whole, is the caller's part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from rag.errors import CollectionError


@contextmanager
def exclusive(shared: Path, lock: Path, *, limit_s: float) -> Iterator[None]:
    """Hold `lock`, a file whose folder is made where it is missing, while the block changes `shared`.

    Raises: CollectionError if another process holds it for longer than `limit_s`, or if nothing can be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, timeout=limit_s):
            yield
    except filelock.Timeout:
        raise CollectionError(f"another process is changing {shared}: try again when it is done") from None
    except OSError as error:
        raise CollectionError(
            f"{shared} can't be written ({error.strerror or error}): free some space, change its rights or set "
            "RANK37_DATA_DIR"
        ) from error
