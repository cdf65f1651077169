"""Processes that the program starts find its packages, whatever folder and environment it was started from."""

import subprocess
import sys
from pathlib import Path

import pytest

import ingest
import rag
from rag.children import search_path


@pytest.mark.parametrize("package", [rag, ingest])
def test_a_child_finds_the_packages_from_another_folder_and_without_an_installation(
    package: object, tmp_path: Path
) -> None:
    name = package.__name__  # type: ignore[attr-defined]
    # -S leaves out what an installation adds to the path, -P the folder that it is started in.
    found = subprocess.run(
        [sys.executable, "-S", "-P", "-c", f"import {name}; print({name}.__file__)"],
        cwd=tmp_path,
        env={"PYTHONPATH": search_path()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == Path(package.__file__)  # type: ignore[attr-defined]


def test_what_the_environment_names_is_searched_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert search_path().endswith("elsewhere")
    monkeypatch.delenv("PYTHONPATH")
    assert Path(search_path()) == Path(rag.__file__).parents[1]
