"""A file that crashes, loops or swells ends by itself with a reason, and ends nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest.nursery import NURSERY
from ingest.read_pdf import ReadDocument, read_pdf
from ingest.reader_process import LimitedChild, ReadLimits, read_document, start_module
from rag.errors import FileRefused
from tests.ingest.pdfs import bomb, encrypted, nested_page_tree, text_pdf

LIMITS = ReadLimits(max_file_bytes=2**20, max_pages=500, time_limit_s=60, memory_limit_bytes=2**31)
PAGE = ["The waiting period for critical illness is 180 days.", "It begins with the contract."]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and memory limits are those of POSIX")


@pytest.fixture(params=["forked", "started anew"])
def children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[LimitedChild]:
    """Every child process that is started, in either of the two ways."""
    started: list[LimitedChild] = []

    def remember(module: str, *arguments: str) -> LimitedChild:
        started.append(start_module(module, *arguments))
        return started[-1]

    monkeypatch.setattr("ingest.reader_process.start_module", remember)
    if request.param == "started anew":
        monkeypatch.setattr(NURSERY, "fork", lambda *_: None)
    elif sys.platform != "linux":
        pytest.skip("only Linux has what the nursery needs")
    return started


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "file with spaces é.pdf"
        path.write_bytes(data)
        return path

    return write


def refusal(path: Path, limits: ReadLimits = LIMITS, **options: Any) -> FileRefused:
    with pytest.raises(FileRefused) as caught:
        read_document(path, source="manual.pdf", limits=limits, **options)
    return caught.value


def test_it_gives_what_reading_in_this_process_gives(
    file: Callable[[bytes], Path], children: list[LimitedChild]
) -> None:
    path = file(text_pdf(PAGE, PAGE[:1], title="Conditions \U0001f600 \u2028"))
    here = read_pdf(path, source="manual.pdf")
    assert read_document(path, source="manual.pdf", limits=LIMITS) == here
    with_words = read_document(path, source="manual.pdf", limits=LIMITS, words=True)
    page = with_words.pages[0]
    assert [page.text[word.start : word.end] for word in page.words] == page.text.split()
    assert [word.box.left for word in page.words] == pytest.approx(
        [word.box.left for word in read_pdf(path, words=True).pages[0].words], abs=0.01
    )


def test_it_works_from_any_folder_and_whatever_lies_there(
    file: Callable[[bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken for a module')")
    path = file(text_pdf(PAGE))
    monkeypatch.chdir(tmp_path)
    assert read_document(Path(path.name), source="manual.pdf", limits=LIMITS).pages[0].text == " ".join(PAGE)


def test_progress_counts_pages(file: Callable[[bytes], Path]) -> None:
    seen: list[tuple[int, int]] = []
    read_document(
        file(text_pdf(PAGE, PAGE, PAGE)),
        source="manual.pdf",
        limits=LIMITS,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_refusals_of_the_child_arrive_whole(file: Callable[[bytes], Path]) -> None:
    assert refusal(file(encrypted(text_pdf(PAGE), "secret"))).reason == "needs_password"
    assert refusal(file(b"%PDF-1.7\nnothing")).reason == "damaged"
    assert refusal(file(b"<html>")).reason == "not_a_pdf"
    assert refusal(file(text_pdf(PAGE, PAGE)), replace(LIMITS, max_pages=1)).reason == "too_many_pages"


def test_a_missing_file_is_a_refusal(tmp_path: Path) -> None:
    refused = refusal(tmp_path / "gone.pdf")
    assert refused.reason == "unreadable"
    assert "No such file" in str(refused)


def test_too_large_names_size_limit_and_remedy(file: Callable[[bytes], Path], children: list[LimitedChild]) -> None:
    refused = refusal(file(b"%PDF-1.7" + b" " * 3 * 2**19), replace(LIMITS, max_file_bytes=2**20))
    assert refused.reason == "too_large"
    assert str(refused) == "manual.pdf has 1.5 MiB, the limit is 1.0 MiB: split it, or raise RANK37_MAX_FILE_MB"
    assert not children, "no reader is started for it"


@posix
@pytest.mark.parametrize(
    ("number", "reason"), [("SIGSEGV", "unreadable"), ("SIGABRT", "unreadable"), ("SIGKILL", "memory_limit")]
)
def test_a_reader_that_dies_is_that_files_end_only(
    file: Callable[[bytes], Path], children: list[LimitedChild], number: str, reason: str
) -> None:
    path = file(text_pdf(*[PAGE] * 400))

    def strike(done: int, total: int) -> None:
        if done == 2:
            os.kill(children[0].pid, getattr(signal, number))

    refused = refusal(path, progress=strike)
    assert refused.reason == reason
    assert "on page" in str(refused)
    assert children[0].poll() is not None
    assert len(read_document(path, source="manual.pdf", limits=LIMITS).pages) == 400


def test_a_file_that_takes_too_long_is_ended(file: Callable[[bytes], Path], children: list[LimitedChild]) -> None:
    begun = time.monotonic()
    refused = refusal(file(bomb(10**8)), replace(LIMITS, time_limit_s=2.5))
    assert refused.reason == "time_limit"
    assert "2.5 s" in str(refused)
    assert time.monotonic() - begun < 10
    assert children[0].poll() is not None


@posix
def test_a_bomb_that_needs_too_much_memory_is_ended(
    file: Callable[[bytes], Path], children: list[LimitedChild]
) -> None:
    refused = refusal(file(bomb(10**8)), replace(LIMITS, memory_limit_bytes=400 * 2**20))
    assert refused.reason == "memory_limit"
    assert "400 MiB" in str(refused)
    assert children[0].poll() is not None


def test_a_page_with_absurdly_much_text_is_refused(file: Callable[[bytes], Path]) -> None:
    refused = refusal(file(bomb(300_000)))
    assert refused.reason == "too_large"
    assert "page 1" in str(refused)


def test_a_page_tree_thousands_deep_is_refused(file: Callable[[bytes], Path]) -> None:
    assert refusal(file(nested_page_tree(5000))).reason in {"damaged", "no_text_layer", "unreadable"}


def test_cancelling_ends_the_reader_at_once(file: Callable[[bytes], Path], children: list[LimitedChild]) -> None:
    begun = time.monotonic()
    refused = refusal(file(bomb(10**8)), cancelled=lambda: time.monotonic() - begun > 1)
    assert refused.reason == "cancelled"
    assert time.monotonic() - begun < 5
    assert children[0].poll() is not None


def test_an_error_of_the_caller_passes_through_and_ends_the_reader(
    file: Callable[[bytes], Path], children: list[LimitedChild]
) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        read_document(file(text_pdf(PAGE, PAGE)), source="manual.pdf", limits=LIMITS, progress=fail)
    assert children[0].poll() is not None


@pytest.fixture(scope="module")
def modules_of_child() -> set[str]:
    code = "import sys, ingest, ingest.reader_process, ingest.chunk; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    return {name.partition(".")[0] for name in output.split()}


@pytest.mark.parametrize("heavy", ["torch", "streamlit", "qdrant_edge", "qdrant_client", "transformers", "pandas"])
def test_the_reader_starts_light(modules_of_child: set[str], heavy: str) -> None:
    assert heavy not in modules_of_child


def test_several_files_are_read_side_by_side(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def read(number: int) -> ReadDocument:
        path = tmp_path / f"{number}.pdf"
        path.write_bytes(text_pdf([f"This is file number {number}."]))
        return read_document(path, source=path.name, limits=LIMITS)

    with ThreadPoolExecutor(3) as pool:
        texts = [result.pages[0].text for result in pool.map(read, range(4))]
    assert texts == [f"This is file number {number}." for number in range(4)]
