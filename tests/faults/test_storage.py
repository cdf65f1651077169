"""A disk that fills up and one that is read-only, mounted for the test: clear errors, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.engines.disk_room import RESERVE_BYTES
from rag.errors import CollectionError
from rag.ports import Embedder
from tests.faults.folders import TEXTS, copy_of, open_collection, searchable
from tests.ingest.written_pdfs import long_pdf

ROOT = Path(__file__).parents[2]


def mounted(*command: str) -> bool:
    """Whether a mount succeeded: only root may, and not everywhere."""
    return subprocess.run(["mount", *command], capture_output=True, check=False).returncode == 0


def run(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "RANK37_DATA_DIR": str(data_dir),
        "RANK37_CHUNK_TOKENS": "40",
        "RANK37_CHUNK_OVERLAP_TOKENS": "0",
        "RANK37_RERANKER": "embedded",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=300,
        check=False,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with little more than the reserve. tmpfs is no use: it fills as its files are looked at."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    size = RESERVE_BYTES + 6 * 2**20
    with image.open("wb") as file:
        file.truncate(size)
    made = shutil.which("mkfs.ext4") and subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)], capture_output=True, check=False
    )
    if not made or made.returncode or not mounted("-o", "loop", str(image), str(place)):
        pytest.skip("no disk can be mounted here: that takes root, mkfs.ext4 and a loop device")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill_disk(place: Path, *, leave_bytes: int) -> None:
    free = shutil.disk_usage(place).free
    with (place / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - leave_bytes, 1))


def test_a_disk_that_fills_up_ends_no_process_and_loses_nothing(
    sound_dir: Path, small_disk: Path, tmp_path: Path, embedder: Embedder
) -> None:
    data_dir = copy_of(sound_dir, small_disk / "data")
    before = searchable(data_dir, embedder)
    fill_disk(small_disk, leave_bytes=RESERVE_BYTES + 100_000)
    pdf = long_pdf(tmp_path / "long.pdf", seed=1, pages=12)

    stopped = run("ingest", str(pdf), data_dir=data_dir)
    assert stopped.returncode == 1, (stopped.returncode, stopped.stderr)  # an outage, not -7: SIGBUS
    assert "MiB free" in stopped.stderr
    assert "free some space" in stopped.stderr
    assert "Traceback" not in stopped.stderr

    (small_disk / "filler").unlink()
    assert searchable(data_dir, embedder) == before, "nothing of the new file, everything of the others"
    done = run("ingest", str(pdf), data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    assert set(searchable(data_dir, embedder)) == {*TEXTS, "long.pdf"}


def test_on_a_disk_without_a_byte_left_everything_says_so(
    sound_dir: Path, small_disk: Path, embedder: Embedder
) -> None:
    data_dir = copy_of(sound_dir, small_disk / "data")
    fill_disk(small_disk, leave_bytes=0)
    with pytest.raises(CollectionError, match="MiB free, at least.*free some space"):
        open_collection(data_dir, embedder)
    backup = run("rag", "backup", str(small_disk / "a.zip"), data_dir=data_dir)
    assert (backup.returncode, "free some space" in backup.stderr) == (1, True), backup.stderr
    assert not list(small_disk.glob("*.zip*"))
    assert not list(small_disk.glob(".*.part"))
    (small_disk / "filler").unlink()
    assert set(searchable(data_dir, embedder)) == set(TEXTS)


@pytest.fixture
def read_only_dir(sound_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """The data folder, read-only even for root."""
    place = copy_of(sound_dir, tmp_path / "data")
    if not mounted("--bind", str(place), str(place)) or not mounted("-o", "remount,ro,bind", str(place)):
        pytest.skip("nothing can be mounted read-only here: that takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_data_folder_is_named_with_the_remedy(
    read_only_dir: Path, tmp_path: Path, embedder: Embedder
) -> None:
    with pytest.raises(CollectionError, match="Read-only file system.*RANK37_DATA_DIR"):
        open_collection(read_only_dir, embedder)
    asked = run("rag", "ask", "What does parking cost?", data_dir=read_only_dir)
    assert asked.returncode == 1
    assert "Read-only file system" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_what_can_not_be_kept_costs_no_answer(sound_dir: Path, tmp_path: Path) -> None:
    """Traces and remembered scores on a read-only disk, the index on one that can be written."""
    data_dir = copy_of(sound_dir, tmp_path / "data")
    traces = tmp_path / "elsewhere"
    traces.mkdir()
    shutil.move(data_dir / "traces.sqlite", traces / "traces.sqlite")
    (data_dir / "cache").mkdir(exist_ok=True)
    held = [traces, data_dir / "cache"]
    if not all(mounted("--bind", str(place), str(place)) for place in held):
        pytest.skip("nothing can be mounted read-only here: that takes root")
    try:
        assert all(mounted("-o", "remount,ro,bind", str(place)) for place in held)
        os.environ["RANK37_TRACES_URL"] = f"sqlite:///{traces}/traces.sqlite"
        asked = run("rag", "ask", "What do parking permits cost?", "--json", data_dir=data_dir)
    finally:
        del os.environ["RANK37_TRACES_URL"]
        for place in held:
            subprocess.run(["umount", "-l", str(place)], check=True)
    assert asked.returncode == 0, asked.stderr
    result = json.loads(asked.stdout)
    assert "forty crowns" in json.dumps(result)
    assert "This question was not kept" in json.dumps(result)
