"""Reads a PDF in a process of its own, which a crash, a loop or a bomb can end without ending anything else.

`python -m ingest.reader_process` is the child: it writes one JSON object a line, never anything that the parent would
have to trust. This module interprets nothing of the PDF itself: that is `ingest.read_pdf`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ingest.chunk import Heading
from ingest.read_pdf import PAGE_CHARACTERS, ReadDocument, check_is_pdf, open_pdf
from rag.errors import FileRefused
from rag.types import Box, Document, Page, Word

OUTPUT_LIMIT_BYTES = 512 * 2**20
"""Most that a child may write about one file."""

_POLL_S = 0.1
_MAX_LINE_BYTES = 64 * PAGE_CHARACTERS


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one file may cost before it is refused."""

    max_file_bytes: int = 100 * 2**20
    max_pages: int = 5000
    time_limit_s: float = 300.0
    """Wall clock, from the start of the child."""
    memory_limit_bytes: int = 4096 * 2**20
    """Address space of the child, where the platform can limit it (Linux; macOS and Windows can't)."""


def read_document(
    path: Path,
    *,
    source: str,
    limits: ReadLimits,
    words: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ReadDocument:
    """Read a PDF in a separate process.

    Args:
        path: The file.
        source: Its name as the person gave it.
        limits: What it may cost.
        words: Whether the pages carry word boxes.
        progress: Called with (pages done, pages in all) from the calling thread.
        cancelled: Asked about ten times a second, and after every page; True ends the child.

    Raises:
        FileRefused: With one of the reasons of `rag.errors.RefusedReason`.
    """
    try:
        size = path.stat().st_size
        if size <= limits.max_file_bytes:
            check_is_pdf(path, source)
    except OSError as error:
        raise FileRefused("unreadable", f"{source} can't be opened: {error.strerror}") from None
    if size > limits.max_file_bytes:
        raise FileRefused(
            "too_large",
            f"{source} has {size / 2**20:.1f} MiB, the limit is {limits.max_file_bytes / 2**20:.1f} MiB: split it, or "
            "raise RANK37_MAX_FILE_MB",
        )
    child = _start_child(path, source, limits, words)
    try:
        return _collect(child, source, limits, progress, cancelled or (lambda: False))
    finally:
        _end(child)


def _start_child(path: Path, source: str, limits: ReadLimits, words: bool) -> subprocess.Popen[bytes]:
    return start_module(
        "ingest.reader_process",
        *("--source", source, "--max-pages", str(limits.max_pages)),
        *("--memory-limit-bytes", str(limits.memory_limit_bytes), "--time-limit-s", str(limits.time_limit_s)),
        *(["--words"] if words else []),
        *("--", str(path.resolve())),
    )


def start_module(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Run a module of this program in a child process, whose standard output is a pipe."""
    # -P and an explicit path: the child finds this package wherever the program was started, and no file of the current
    # folder can pass for a module.
    package_root = str(Path(__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search_path, "PYTHONIOENCODING": "utf-8"},
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
    if child.stdout:
        child.stdout.close()


def _collect(
    child: subprocess.Popen[bytes],
    source: str,
    limits: ReadLimits,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool],
) -> ReadDocument:
    document: Document | None = None
    pages: list[Page] = []
    n_bytes = 0
    memory = _MemoryWatch(child.pid)
    for line in _lines_until(child, source, limits.time_limit_s, cancelled, memory):
        n_bytes += len(line)
        if n_bytes > OUTPUT_LIMIT_BYTES or len(line) >= _MAX_LINE_BYTES:
            raise FileRefused(
                "too_large",
                f"{source} holds more than {OUTPUT_LIMIT_BYTES // 2**20} MiB of text, or a page of more than "
                f"{PAGE_CHARACTERS:,} characters: split it",
            )
        try:
            message = json.loads(line)
        except ValueError:
            break  # the line broke off: the child died in the middle of it
        match message["kind"]:
            case "document":
                document = Document(message["id"], message["title"], source, message["page_count"])
            case "page" if document is not None:
                pages.append(_page(document, message))
                if progress:
                    progress(len(pages), document.page_count)
            case "end" if document is not None:
                headings = tuple(Heading(page, start, text) for page, start, text in message["headings"])
                without_text, warnings = tuple(message["pages_without_text"]), tuple(message["warnings"])
                return ReadDocument(document, tuple(pages), headings, without_text, warnings)
            case "refused":
                raise FileRefused(message["reason"], message["message"])
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=5)
    where = "on opening or closing it"
    if document is not None and len(pages) < document.page_count:
        where = f"on page {len(pages) + 1}"
    raise explain_death(child.poll(), source, where, memory.peak_bytes, limits.memory_limit_bytes)


def _page(document: Document, message: dict[str, Any]) -> Page:
    words = tuple(Word(start, end, Box(*box)) for start, end, *box in message["words"])
    return Page(document.id, message["number"], message["text"], words, message["width"], message["height"])


def _lines_until(
    child: subprocess.Popen[bytes],
    source: str,
    time_limit_s: float,
    cancelled: Callable[[], bool],
    memory: _MemoryWatch,
) -> Iterator[bytes]:
    """The child's lines as they come. Raises FileRefused (time_limit, cancelled)."""
    lines: queue.Queue[bytes] = queue.Queue(maxsize=64)
    stop = threading.Event()

    def put(line: bytes) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                lines.put(line, timeout=_POLL_S)
                return

    def pump(output: IO[bytes]) -> None:
        with suppress(ValueError, OSError):  # closed under it when the child is ended
            while not stop.is_set() and (line := output.readline(_MAX_LINE_BYTES)):
                put(line)
        put(b"")

    assert child.stdout is not None
    threading.Thread(target=pump, args=(child.stdout,), name="reader-output", daemon=True).start()
    deadline = time.monotonic() + time_limit_s
    try:
        while True:
            if cancelled():
                raise FileRefused("cancelled", f"{source} was cancelled")
            memory.look()
            left = deadline - time.monotonic()
            if left <= 0:
                raise FileRefused(
                    "time_limit",
                    f"{source} was not read within {time_limit_s:g} s: split it, or raise RANK37_FILE_TIME_LIMIT_S",
                )
            with suppress(queue.Empty):
                line = lines.get(timeout=min(_POLL_S, left))
                if not line:
                    return
                yield line
    finally:
        stop.set()


class _MemoryWatch:
    """The child's largest address space as far as it was seen; 0 where the platform has no /proc."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self.peak_bytes = 0

    def look(self) -> None:
        with suppress(OSError, ValueError, IndexError):
            peak = self._status.read_text().partition("VmPeak:")[2].split()[0]
            self.peak_bytes = max(self.peak_bytes, int(peak) * 1024)


def explain_death(code: int | None, source: str, where: str, peak_bytes: int, memory_limit_bytes: int) -> FileRefused:
    """Why the child ended without a last word."""
    if code == -_signal_number("SIGKILL"):
        return FileRefused(
            "memory_limit", f"{source}: its reader was killed {where}, most likely for want of memory: split it"
        )
    # Native code that gets no memory aborts, as it does when it finds itself broken: what it had tells which.
    aborted = code == -_signal_number("SIGABRT") and peak_bytes > memory_limit_bytes / 2
    if code == EXIT_MEMORY or aborted:
        return FileRefused(
            "memory_limit",
            f"{source} needs more than {memory_limit_bytes // 2**20} MiB of memory {where}: split it, or raise "
            "RANK37_FILE_MEMORY_LIMIT_MB",
        )
    return FileRefused(
        "unreadable", f"{source}: the PDF parser crashed {where} (exit {code}): open and save it with another program"
    )


def _signal_number(name: str) -> int:
    """The signal's number, or one that no process ends with where the platform lacks it."""
    return int(getattr(signal, name, 1_000_000))


# The child

EXIT_MEMORY = 77
"""Exit status of a child that ran out of memory and could still say so."""


def main() -> None:
    """Read one file, write its pages as JSON lines to standard output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--max-pages", type=int, required=True)
    parser.add_argument("--memory-limit-bytes", type=int, required=True)
    parser.add_argument("--time-limit-s", type=float, required=True)
    parser.add_argument("--words", action="store_true")
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    limit_self(options.memory_limit_bytes, options.time_limit_s)
    output = sys.stdout.buffer

    def tell(kind: str, **fields: object) -> None:
        # ensure_ascii also carries a lone surrogate, which UTF-8 could not
        output.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        output.flush()

    try:
        with open_pdf(options.path, source=options.source, max_pages=options.max_pages) as pdf:
            document = pdf.document
            tell("document", id=document.id, title=document.title, page_count=document.page_count)
            for page in pdf.pages(words=options.words):
                boxes = [
                    [word.start, word.end]
                    + [round(edge, 2) for edge in (word.box.left, word.box.top, word.box.right, word.box.bottom)]
                    for word in page.words
                ]
                tell("page", number=page.number, text=page.text, words=boxes, width=page.width, height=page.height)
            found = pdf.finish([])
            tell(
                "end",
                headings=[[heading.page, heading.start, heading.text] for heading in found.headings],
                pages_without_text=found.pages_without_text,
                warnings=found.warnings,
            )
    except FileRefused as refusal:
        tell("refused", reason=refusal.reason, message=str(refusal))
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except Exception as error:  # the parsers raise errors of every kind on broken files
        tell(
            "refused",
            reason="unreadable",
            message=f"{options.source} can't be read ({type(error).__name__}): open and save it with another program",
        )
    output.flush()
    os._exit(0)  # pdfium's own clean-up can crash on a file that was read well


def limit_self(memory_limit_bytes: int, time_limit_s: float) -> None:
    """Bound memory, and end even if the parent is gone and native code never returns."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + 5)
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))


if __name__ == "__main__":
    main()
