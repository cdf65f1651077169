"""`python -m ingest PATH...`: bring files and folders of them into a collection.

It finds files, shows progress and writes the report; the work on a file is `ingest.write`.

Exit status: 0 all files are in, 1 an outage stopped the run, 2 a bad argument or setting, 3 some files were refused,
130 interrupted. A stopped run continues where it was when it is started again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rag.errors import BadInput, Rank37Error
from rag.settings import Settings, load_settings

if TYPE_CHECKING:
    from ingest.write import FileOutcome, Ingester, IngestProgress

EXIT_DONE = 0
EXIT_OUTAGE = 1
EXIT_BAD_INPUT = 2
EXIT_SOME_REFUSED = 3
EXIT_INTERRUPTED = 130

STAGE_NAMES = {"read": "reading", "chunk": "cutting chunks", "embed": "embedding", "write": "writing"}

Reporter = Callable[["IngestProgress"], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name never breaks the run
    run = _Run(options.report, _Ray(options.ray, options.ray_workers) if options.ray else None)
    try:
        settings = load_settings(data_dir=options.data_dir, collection=options.collection)
        run.check_report_path()
        return run.ingest(options.paths, settings)
    except BadInput as error:
        return run.stop(str(error), EXIT_BAD_INPUT)
    except Rank37Error as error:
        return run.stop(str(error), EXIT_OUTAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return run.stop("the output is no longer read: stopped", EXIT_OUTAGE)
    except KeyboardInterrupt:
        return run.stop("interrupted: the same command continues where this run stopped", EXIT_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ingest",
        description="Bring PDF, Word (.docx), HTML, Markdown and text files into a collection, to ask about them.",
        epilog=(
            "Running it again adds nothing that is already there, replaces files that changed and continues a run that "
            "was stopped. Exit status: 0 all files are in, 3 some were refused, 2 bad argument or setting, 1 outage, "
            "130 interrupted."
        ),
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a file, or a folder searched for *.pdf, *.docx, *.html, *.md and *.txt",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder of the index and the files (RANK37_DATA_DIR)"
    )
    parser.add_argument("--collection", metavar="NAME", help="which collection (RANK37_COLLECTION)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write how each file ended to this file, as JSON")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="read, cut and embed on a Ray cluster: its address, or local for this machine's cores",
    )
    parser.add_argument("--ray-workers", type=int, default=2, metavar="N", help="files at a time on the cluster (2)")
    return parser


@dataclass(frozen=True, slots=True)
class _Ray:
    """Where files are read, cut and embedded, and how many at a time."""

    address: str
    workers: int


class _Run:
    """One run of the command: what was done so far survives whatever ends it."""

    def __init__(self, report_path: Path | None, ray: _Ray | None) -> None:
        self._report_path = report_path
        self._ray = ray
        self._outcomes: list[FileOutcome] = []
        self._started = perf_counter()
        self._began = False

    def check_report_path(self) -> None:
        """Raise BadInput now rather than lose the report after hours of work."""
        path = self._report_path
        if path is None:
            return
        if path.is_dir():
            raise BadInput(f"--report {path} is a folder: name a file")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise BadInput(f"--report {path} can't be written: {path.parent} is no folder that can be written to")

    def ingest(self, paths: Sequence[Path], settings: Settings) -> int:
        from ingest.files import find_documents, printable
        from ingest.write import counted, ingest_files

        files = list(find_documents(paths))
        if not files:
            folders = ", ".join(printable(path) for path in paths)
            raise BadInput(
                f"there is no file to ingest in {folders}: name PDF, Word (.docx), HTML, Markdown or text files, or "
                "a folder that holds some"
            )
        with _open_ingester(settings, files, self._ray) as ingester:
            print(f"Ingesting {counted(len(files), 'file')} into collection {settings.collection!r}", flush=True)
            self._began, self._started = True, perf_counter()
            with _display(len(files)) as show:
                for outcome in ingest_files(ingester, files, show.file):
                    self._outcomes.append(outcome)
                    show.outcome(outcome)
        self._summarise()
        if not self._write_report(None):
            return EXIT_OUTAGE
        return EXIT_SOME_REFUSED if any(done.status == "refused" for done in self._outcomes) else EXIT_DONE

    def stop(self, error: str, status: int) -> int:
        print(f"ingest: {error}", file=sys.stderr, flush=True)
        if self._began:
            self._write_report(error)
        return status

    def _summarise(self) -> None:
        from ingest.write import counted

        counts = Counter(outcome.status for outcome in self._outcomes)
        pages, chunks = (sum(getattr(done, name) for done in self._outcomes) for name in ("pages", "chunks"))
        ended = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        print(
            f"{ended}; {counted(pages, 'page')}, {counted(chunks, 'chunk')} in {perf_counter() - self._started:.1f} s",
            flush=True,
        )

    def _write_report(self, error: str | None) -> bool:
        from ingest.report import report_as_json, write_report

        if self._report_path is None:
            return True
        report = report_as_json(self._outcomes, seconds=perf_counter() - self._started, error=error)
        try:
            write_report(self._report_path, report)
        except OSError as failure:
            print(f"ingest: --report {self._report_path} can't be written: {failure.strerror}", file=sys.stderr)
            return False
        return True


@contextmanager
def _open_ingester(settings: Settings, files: Sequence[Path], ray: _Ray | None) -> Iterator[Ingester]:
    from rich.console import Console

    from ingest.write import Ingester
    from rag.wiring import open_collection_embedder, open_index, settings_of_collection

    console = Console(stderr=True)
    with console.status("loading the embedder") if console.is_terminal else nullcontext():
        embedder = open_collection_embedder(settings)
    settings = settings_of_collection(settings)  # the machines of a cluster see no data folder
    index = open_index(settings, embedder.identity)
    try:
        if ray is None:
            yield Ingester.from_settings(settings, embedder, index)
            return
        from ingest.ray_run import open_ray_ingester

        with open_ray_ingester(settings, embedder, index, files, address=ray.address, workers=ray.workers) as ingester:
            yield ingester
    finally:
        index.close()


class _PlainDisplay:
    """One line a file, once it is done. A line is the acknowledgement: it comes after the index made it durable."""

    def file(self, path: Path) -> Reporter:
        return lambda progress: None

    def outcome(self, outcome: FileOutcome) -> None:
        for line in _lines(outcome):
            print(line, flush=True)


class _TerminalDisplay:
    """The same lines above two bars: all files, and the one in work."""

    def __init__(self, n_files: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),  # last, so that the bars keep their place
            console=Console(),
            transient=True,
        )
        self._files = self.progress.add_task("files", total=n_files)
        self._file = self.progress.add_task("", total=None)

    def file(self, path: Path) -> Reporter:
        from ingest.files import bare_name

        name = bare_name(path.name)
        self.progress.remove_task(self._file)
        self._file = self.progress.add_task(name, total=None)

        def show(progress: IngestProgress) -> None:
            self.progress.update(
                self._file,
                description=f"{name}: {STAGE_NAMES[progress.stage]}",
                completed=progress.done,
                total=progress.total or None,
            )

        return show

    def outcome(self, outcome: FileOutcome) -> None:
        for line in _lines(outcome):
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.progress.advance(self._files)


@contextmanager
def _display(n_files: int) -> Iterator[_PlainDisplay | _TerminalDisplay]:
    if not sys.stdout.isatty():
        yield _PlainDisplay()
        return
    terminal = _TerminalDisplay(n_files)
    with terminal.progress:
        yield terminal


def _lines(outcome: FileOutcome) -> list[str]:
    reason = f" ({outcome.reason})" if outcome.reason else ""
    lines = [f"{outcome.status:9}  {outcome.file}{reason}: {outcome.message} [{outcome.seconds:.1f} s]"]
    return lines + [f"           warning: {warning}" for warning in outcome.warnings]


def _terminate(_signal: int, _frame: object) -> None:
    """SIGTERM ends the run like Ctrl-C: the report is written and the index closed."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())
