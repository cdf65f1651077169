"""How this program starts processes of its own, and how those end with it; it starts none."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def search_path() -> str:
    """PYTHONPATH of a child, which finds this program's packages wherever and however it was started."""
    package_root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))


def end_with(parent: int) -> None:
    """In a child: be killed when the process that started it ends, whatever ends that. Only Linux has what it needs."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before that was said
        os._exit(1)
