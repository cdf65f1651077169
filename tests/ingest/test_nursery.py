"""The warm process that forks a child for each file: one for all, gone with its parent, back when it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingest.nursery import NURSERY, ForkedChild
from ingest.page_image import draw_page
from ingest.reader_process import ReadLimits, read_document, start_module
from tests.ingest.pdfs import text_pdf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has what the nursery needs")
LIMITS = ReadLimits()


@pytest.fixture(autouse=True)
def _fresh_nursery() -> Iterator[None]:
    yield
    NURSERY.end()


@pytest.fixture
def manual_pdf(tmp_path: Path) -> Path:
    path = tmp_path / "manual.pdf"
    path.write_bytes(text_pdf(["The waiting period is 180 days."]))
    return path


def text_of(path: Path) -> str:
    return read_document(path, source="manual.pdf", limits=LIMITS).pages[0].text


def is_running(pid: int) -> bool:
    """Whether the process is there and no mere zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


def waiting_child() -> ForkedChild:
    """A reader that waits for what it reads to come: the pipe named as its file never gets a writer."""
    pipe = Path(os.environ["PYTEST_PIPE"])
    child = start_module(
        "ingest.reader_process",
        *("--source=a", "--max-pages", "9", "--memory-limit-bytes", str(2**32), "--time-limit-s", "60"),
        *("--", str(pipe)),
    )
    assert isinstance(child, ForkedChild)
    return child


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("PYTEST_PIPE", str(tmp_path / "pipe"))


def test_one_nursery_serves_files_pages_and_threads(manual_pdf: Path) -> None:
    NURSERY.end()  # one that an earlier test left
    assert NURSERY.pid is None
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(text_of, [manual_pdf] * 4))) == 1
    nursery = NURSERY.pid
    assert nursery is not None
    assert draw_page(manual_pdf, 1, source="manual.pdf").page.text == text_of(manual_pdf)
    assert NURSERY.pid == nursery
    assert len(list(Path(f"/proc/{nursery}/task").iterdir())) == 1, "threads would not be safe to fork"


def test_it_holds_no_file_of_its_parent_and_no_folder(manual_pdf: Path) -> None:
    with manual_pdf.open("rb") as held:
        os.set_inheritable(held.fileno(), True)
        text_of(manual_pdf)
        own = [str(entry.readlink()) for entry in Path(f"/proc/{NURSERY.pid}/fd").iterdir()]
    assert str(manual_pdf) not in own
    assert Path(f"/proc/{NURSERY.pid}/cwd").readlink() == Path("/")


def test_a_nursery_that_was_killed_comes_back_and_took_its_children_along(manual_pdf: Path, pipe: None) -> None:
    child, nursery = waiting_child(), NURSERY.pid
    assert nursery is not None
    assert is_running(child.pid)
    os.kill(nursery, signal.SIGKILL)
    assert child.wait(20) == -signal.SIGKILL
    assert within(20, lambda: not is_running(child.pid))
    assert child.stdout is not None
    child.stdout.close()
    assert "180 days" in text_of(manual_pdf)
    assert NURSERY.pid not in (None, nursery)


def test_a_child_is_killed_by_its_parents_word_and_when_nobody_waits_for_it(pipe: None) -> None:
    child = waiting_child()
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.05)
    child.kill()
    assert child.wait(20) == -signal.SIGKILL == child.poll()
    child.kill()  # it has ended: nothing is struck
    assert child.stdout is not None
    assert child.stdout.read() == b""
    child.stdout.close()

    left = waiting_child()
    assert left.stdout is not None
    left.stdout.close()
    left._control.close()
    assert within(20, lambda: not is_running(left.pid))


def test_it_ends_with_a_parent_that_is_killed(manual_pdf: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom ingest.nursery import NURSERY\n"
        "from ingest.reader_process import ReadLimits, read_document\n"
        "read_document(Path(sys.argv[1]), source='a.pdf', limits=ReadLimits())\n"
        "print(NURSERY.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(manual_pdf)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        nursery = int(parent.stdout.readline())
        assert is_running(nursery)
        parent.kill()
    assert within(20, lambda: not is_running(nursery))
