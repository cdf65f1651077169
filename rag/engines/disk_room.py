"""Says no before a disk is full: Qdrant Edge writes into mapped files, and a full disk ends the whole process there.

Expected of a write that finds no room: an error. Actual (qdrant-edge-py 0.9.0): the files are made with holes, the
first write into one allocates it, and where that fails the kernel sends SIGBUS. It can't see what others write
meanwhile, so it keeps a reserve.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rag.errors import CollectionError

RESERVE_BYTES = 16 * 2**20
"""Room that stays free; what is known to be written comes on top."""


def check_room(folder: Path, what: str, *, to_write_bytes: int = 0) -> None:
    """Raise CollectionError, naming `what`, if the disk of `folder` has no room for so many bytes and the reserve."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # no number to go by: whatever is wrong shows at the write
        return
    needed = RESERVE_BYTES + to_write_bytes
    if free < needed:
        raise CollectionError(
            f"{what} can't be written in {folder}: the disk has {free / 2**20:,.1f} MiB free, at least "
            f"{needed / 2**20:,.1f} are needed; free some space, or choose another place (RANK37_DATA_DIR)"
        )
