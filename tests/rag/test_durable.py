"""Small files that are replaced as a whole."""

import os
import stat
from pathlib import Path

import pytest

from rag.durable import replace_text


def test_the_new_text_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "floors.json"
    replace_text(path, "one")
    replace_text(path, "zwei, größer")
    assert path.read_text(encoding="utf-8") == "zwei, größer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "floors.json"
    replace_text(path, "one")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "two")
    assert path.read_text(encoding="utf-8") == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="the rights of files are POSIX's")
def test_a_private_file_is_its_owners(tmp_path: Path) -> None:
    replace_text(tmp_path / "settings.json", "{}", mode=0o600)
    assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o600
