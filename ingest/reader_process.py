"""Reads a file in a process of its own, which a crash, a loop or a bomb can end without ending anything else.

`python -m ingest.reader_process` is the child: it writes one JSON object a line, never anything that the parent would
have to trust. This module interprets nothing of the file itself: which kind it is says `ingest.kinds`, and a kind is
read by `ingest.read_<kind>`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ingest.chunk import Heading
from ingest.kinds import kind_of
from ingest.layout import PrintedLine
from ingest.nursery import NURSERY, ForkedChild
from ingest.ocr import Ocr, Picture
from ingest.ocr import is_installed as ocr_is_installed
from ingest.read_document import PAGE_CHARACTERS, ReadDocument
from rag.children import search_path
from rag.errors import FileRefused
from rag.types import Box, Document, DocumentKind, Page, Word

OUTPUT_LIMIT_BYTES = 512 * 2**20
"""Most that a child may write about one file."""

_POLL_S = 0.1
_MAY_BE_SECRET = re.compile(r"key|secret|token|passw|credential|url|dsn", re.IGNORECASE)
_OCR_WALL_FACTOR = 5
"""The child gives OCR of a page up after so much time of the processor, the parent after this much more on the clock:
on a busy machine OCR is slow, not stuck."""
_MAX_LINE_BYTES = 64 * PAGE_CHARACTERS

LimitedChild = subprocess.Popen[bytes] | ForkedChild
"""A child process, started anew or forked."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one file may cost before it is refused."""

    max_file_bytes: int = 100 * 2**20
    max_pages: int = 5000
    time_limit_s: float = 300.0
    """Wall clock, from the start of the child."""
    memory_limit_bytes: int = 4096 * 2**20
    """Address space of the child, where the platform can limit it (Linux; macOS and Windows can't)."""
    ocr_page_limit_s: float = 60.0
    """Most time of the processor for OCR of one page, which is not counted in `time_limit_s`; 0: no OCR."""


def read_document(
    path: Path,
    *,
    source: str,
    limits: ReadLimits,
    words: bool = False,
    steps_back: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ReadDocument:
    """Read a file of any kind in a separate process.

    Args:
        path: The file.
        source: Its name as the person gave it.
        limits: What it may cost.
        words: Whether the pages carry word boxes.
        steps_back: Whether it leaves the processor to others where they want it.
        progress: Called with (pages done, pages in all) from the calling thread.
        cancelled: Asked about ten times a second, and after every page; True ends the child.

    Raises:
        FileRefused: With one of the reasons of `rag.errors.RefusedReason`.
    """
    try:
        size = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise FileRefused("unreadable", f"{source} can't be opened: {error.strerror}") from None
    if size > limits.max_file_bytes:
        raise FileRefused(
            "too_large",
            f"{source} has {size / 2**20:.1f} MiB, the limit is {limits.max_file_bytes / 2**20:.1f} MiB: split it, or "
            "raise RANK37_MAX_FILE_MB",
        )
    child = _start_child(path, source, limits, words, steps_back)
    try:
        return _collect(child, source, limits, progress, cancelled or (lambda: False))
    finally:
        _end(child)


def _start_child(path: Path, source: str, limits: ReadLimits, words: bool, steps_back: bool) -> LimitedChild:
    return start_module(
        "ingest.reader_process",
        *(f"--source={source}", "--max-pages", str(limits.max_pages)),  # a name can begin like an option
        *("--memory-limit-bytes", str(limits.memory_limit_bytes), "--time-limit-s", str(limits.time_limit_s)),
        *("--ocr-page-limit-s", str(limits.ocr_page_limit_s)),
        *(["--words"] if words else []),
        *(["--steps-back"] if steps_back else []),
        *("--", str(path.resolve())),
    )


def start_module(module: str, *arguments: str) -> LimitedChild:
    """Run a module of this program in a child process, whose standard output is a pipe.

    The warm nursery forks it where it can; else an interpreter is started anew.
    """
    environment = {
        **_without_settings(os.environ),
        "PYTHONPATH": search_path(),
        "PYTHONIOENCODING": "utf-8",
    }
    if child := NURSERY.fork(module, arguments, environment):
        return child
    # -P and an explicit path: no file of the current folder can pass for a module.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without keys, passwords and addresses: what takes over a reader finds none."""
    return {name: value for name, value in environment.items() if not _MAY_BE_SECRET.search(name)}


def _end(child: LimitedChild) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
    if child.stdout:
        child.stdout.close()


def _collect(
    child: LimitedChild,
    source: str,
    limits: ReadLimits,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool],
) -> ReadDocument:
    document: Document | None = None
    kind: DocumentKind = "pdf"
    pages: list[Page] = []
    n_bytes = 0
    memory = _MemoryWatch(child.pid)
    clock = _Clock(limits.time_limit_s)
    for line in _lines_until(child, source, clock, cancelled, memory):
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
                kind = message["file_kind"]
            case "ocr" if document is not None and message["page"] == len(pages) + 1:
                clock.begin_page(limits.ocr_page_limit_s * _OCR_WALL_FACTOR)
            case "page" if document is not None:
                clock.end_page()
                pages.append(_page(document, message))
                if progress:
                    progress(len(pages), document.page_count)
            case "end" if document is not None:
                headings = tuple(Heading(page, start, text) for page, start, text in message["headings"])
                return ReadDocument(
                    document,
                    tuple(pages),
                    headings,
                    tuple(message["pages_without_text"]),
                    tuple(message["warnings"]),
                    kind,
                    tuple(message["ocr_pages"]),
                )
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
    child: LimitedChild,
    source: str,
    clock: _Clock,
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
    try:
        while True:
            if cancelled():
                raise FileRefused("cancelled", f"{source} was cancelled")
            memory.look()
            left = clock.left_s()
            if left <= 0:
                if clock.reads_picture:
                    raise FileRefused(
                        "time_limit",
                        f"{source}: OCR of a page did not end within {clock.page_limit_s:g} s: raise "
                        "RANK37_OCR_PAGE_LIMIT_S, or 0 for no OCR",
                    )
                raise FileRefused(
                    "time_limit",
                    f"{source} was not read within {clock.time_limit_s:g} s: split it, or raise "
                    "RANK37_FILE_TIME_LIMIT_S",
                )
            with suppress(queue.Empty):
                line = lines.get(timeout=min(_POLL_S, left))
                if not line:
                    return
                yield line
    finally:
        stop.set()


class _Clock:
    """The time that a file has left. It stands still while a page is read by OCR, which has a limit of its own."""

    def __init__(self, time_limit_s: float) -> None:
        self.time_limit_s = time_limit_s
        self._deadline = time.monotonic() + time_limit_s
        self._kept_s: float | None = None
        self.page_limit_s = 0.0

    @property
    def reads_picture(self) -> bool:
        return self._kept_s is not None

    def left_s(self) -> float:
        return self._deadline - time.monotonic()

    def begin_page(self, limit_s: float) -> None:
        if self._kept_s is None:
            self._kept_s, self.page_limit_s = self.left_s(), limit_s
            self._deadline = time.monotonic() + limit_s

    def end_page(self) -> None:
        if self._kept_s is not None:
            self._deadline = time.monotonic() + self._kept_s
            self._kept_s = None


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
        "unreadable", f"{source}: its reader crashed {where} (exit {code}): open and save it with another program"
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
    parser.add_argument("--ocr-page-limit-s", type=float, default=0.0)
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--steps-back", action="store_true")
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    limit_self(options.memory_limit_bytes, options.time_limit_s)
    if options.steps_back:
        _step_back()
    tell = _Teller(options.words)
    try:
        kind = kind_of(options.path, options.source)
        if kind == "pdf":
            _read_pdf(options.path, options.source, options.max_pages, options.ocr_page_limit_s, tell)
        else:
            tell.all_of(_reader_of(kind)(options.path, source=options.source, max_pages=options.max_pages))
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
    os._exit(0)  # pdfium's own clean-up can crash on a file that was read well


def _reader_of(kind: DocumentKind) -> Callable[..., ReadDocument]:
    """What reads a kind in this process. Only that reader's libraries are loaded."""
    match kind:
        case "docx":
            from ingest.read_docx import read_docx

            return read_docx
        case "html":
            from ingest.read_html import read_html

            return read_html
        case "markdown":
            from ingest.read_markdown import read_markdown

            return read_markdown
        case _:
            from ingest.read_text import read_text

            return read_text


def _read_pdf(path: Path, source: str, max_pages: int, ocr_page_limit_s: float, tell: _Teller) -> None:
    """Tell a PDF page by page: it is the one kind that can take long."""
    from ingest.read_pdf import open_pdf

    ocr = _LimitedOcr(ocr_page_limit_s, tell) if ocr_page_limit_s > 0 and ocr_is_installed() else None
    with open_pdf(path, source=source, max_pages=max_pages, ocr=ocr) as pdf:
        tell.document(pdf.document, "pdf")
        for page in pdf.pages(words=tell.words):
            tell.page(page)
        tell.end(pdf.finish([]))


class _Teller:
    """Writes what was read to the parent."""

    def __init__(self, words: bool) -> None:
        self.words = words
        self._output = sys.stdout.buffer

    def __call__(self, kind: str, **fields: object) -> None:
        # ensure_ascii also carries a lone surrogate, which UTF-8 could not
        self._output.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        self._output.flush()

    def document(self, document: Document, kind: DocumentKind) -> None:
        self("document", id=document.id, title=document.title, page_count=document.page_count, file_kind=kind)

    def page(self, page: Page) -> None:
        boxes = [
            [word.start, word.end]
            + [round(edge, 2) for edge in (word.box.left, word.box.top, word.box.right, word.box.bottom)]
            for word in page.words
        ]
        self("page", number=page.number, text=page.text, words=boxes, width=page.width, height=page.height)

    def end(self, found: ReadDocument) -> None:
        self(
            "end",
            headings=[[heading.page, heading.start, heading.text] for heading in found.headings],
            pages_without_text=found.pages_without_text,
            warnings=found.warnings,
            ocr_pages=found.ocr_pages,
        )

    def all_of(self, found: ReadDocument) -> None:
        self.document(found.document, found.kind)
        for page in found.pages:
            self.page(page)
        self.end(found)


def _step_back() -> None:
    """Let others go first: questions, and the file whose turn it is."""
    with suppress(AttributeError, OSError):
        os.nice(5)


class _TooSlow(BaseException):
    """OCR of a page has used up its time. No Exception: rapidocr catches those, and raises its own."""


class _LimitedOcr:
    """OCR that gives a page up after its time, and tells the parent to wait meanwhile."""

    def __init__(self, page_limit_s: float, tell: _Teller) -> None:
        self._page_limit_s = page_limit_s
        self._tell = tell
        self._ocr = Ocr()
        _step_back()

    def read(self, number: int, picture: Picture, points_a_pixel: float) -> list[PrintedLine] | None:
        """See `ingest.read_pdf.PageOcr`."""
        self._tell("ocr", page=number)
        left_s = _pause_own_limit(self._page_limit_s * _OCR_WALL_FACTOR + 5)
        try:
            with _time_limit(self._page_limit_s):
                return self._ocr.read(number, picture, points_a_pixel)
        except _TooSlow:
            return None
        finally:
            _pause_own_limit(left_s)


def _pause_own_limit(seconds: float) -> float:
    """End this process after so many seconds instead; returns how many it had left."""
    if not hasattr(signal, "setitimer"):
        return 0.0
    return signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))[0]


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TooSlow within the block once it has used so much processor time and Python has the word, on POSIX."""
    if not hasattr(signal, "ITIMER_PROF"):
        yield
        return

    def strike(_signal: int, _frame: object) -> None:
        raise _TooSlow

    signal.signal(signal.SIGPROF, strike)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


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
