"""What a killed process wrote of a file of lines is there for the next one; the file is whole or not there at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rag.json_lines import open_text
from rag.training.resumable import left_over, lines_behind

KILLED = """
import os, signal, sys
from pathlib import Path
from rag.training.resumable import lines_behind

with lines_behind(Path(sys.argv[1])) as write:
    write(["first", "größer"])
    write(["third"])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def lines_of(path: Path) -> list[str]:
    with open_text(path) as file:
        return file.read().splitlines()


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.jsonl.gz"])
def test_a_killed_process_loses_no_line_that_it_wrote(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new folder" / name
    assert left_over(path) is None
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    left = left_over(path)
    assert left is not None
    assert lines_of(left) == ["first", "größer", "third"]

    with left.open("ab") as file:
        file.write("größ".encode()[:-1])  # a line and a letter that it broke off in
    with lines_behind(path) as write:
        write(["fourth"])
    assert lines_of(path) == ["first", "größer", "third", "fourth"]
    assert [file.name for file in path.parent.iterdir()] == [name], "nothing unfinished is left"
    assert left_over(path) is None


def test_a_new_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl.gz"
    for rows in (["old", "older"], ["new"]):
        with lines_behind(path) as write:
            write(rows)
        assert lines_of(path) == rows
