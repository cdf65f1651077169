"""How this program starts processes of its own; it starts none."""

from __future__ import annotations

import os
from pathlib import Path


def search_path() -> str:
    """PYTHONPATH of a child, which finds this program's packages wherever and however it was started."""
    package_root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
