"""Memory in huge pages: that it is there where Linux has them, that what it holds stays, and what is left alone."""

import ctypes
import mmap
import platform
import sys
from pathlib import Path

import pytest

from rag.engines import huge_pages
from rag.engines.huge_pages import LEAST_BYTES, in_huge_pages


def filled() -> mmap.mmap:
    """Memory as the C library gets it for a large piece."""
    piece = mmap.mmap(-1, len(CONTENT), *([mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS] if sys.platform != "win32" else []))
    piece.write(CONTENT)
    return piece


def huge_bytes(address: int) -> int:
    """How much of the mapping around an address lies in huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            start, _, end = name.partition("-")
            inside = int(start, 16) <= address < int(end, 16)
        elif inside and name == "AnonHugePages:":
            return int(values[0]) * 1024
    return 0


CONTENT = bytes(range(256)) * (LEAST_BYTES // 64)
"""Four times as much as is left alone."""


def collapses_here() -> bool:
    """Whether Linux has huge pages, and moves memory into them at once when it is asked to (from 6.1 on)."""
    if sys.platform != "linux" or not huge_pages._MODE.exists() or "[never]" in huge_pages._MODE.read_text():
        return False
    major, minor = platform.release().split(".")[:2]
    return (int(major), int(minor)) >= (6, 1)


def test_a_large_piece_is_moved_as_it_is() -> None:
    if not collapses_here():
        pytest.skip("this system has no huge pages, or doesn't move memory into them when asked to")
    with in_huge_pages():
        piece = filled()
    middle = ctypes.addressof(ctypes.c_char.from_buffer(piece)) + len(CONTENT) // 2
    assert huge_bytes(middle) >= len(CONTENT) - 2 * 2**21  # without what doesn't fill a page at either end
    assert piece[:] == CONTENT


def test_where_huge_pages_are_ruled_out_none_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mode = tmp_path / "enabled"
    mode.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "_MODE", mode)
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(huge_pages, "_move", lambda start, end: moved.append((start, end)))
    with in_huge_pages():
        piece = filled()
    assert moved == []
    assert piece[:] == CONTENT


@pytest.mark.parametrize("missing", ["no system C library", "no /sys"])
def test_without_what_linux_has_nothing_happens(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "no /sys":
        monkeypatch.setattr(huge_pages, "_MODE", tmp_path / "absent")
    else:
        monkeypatch.setattr(huge_pages, "_LIBC", None)
    with in_huge_pages():
        piece = filled()
    assert piece[:] == CONTENT


def test_what_fails_within_is_told() -> None:
    with pytest.raises(ValueError, match="no such folder"), in_huge_pages():
        raise ValueError("no such folder")
