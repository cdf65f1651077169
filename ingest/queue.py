"""The background queue behind the upload page: files wait on disk, one worker thread brings them in, one by one.

It draws nothing and decides nothing about a file; `ingest.write` does the work.

Uploads that were accepted but not finished when the program stopped, even by `kill -9`, are taken up again by the next
queue on the same folder, or by one that is open on it: several apps can share a folder, each upload has one owner at a
time. How files ended is kept there until it is cleared.
"""

from __future__ import annotations

import atexit
import json
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal
from uuid import uuid4

from filelock import FileLock, Timeout

from ingest.files import bare_name, write_durably
from ingest.write import FileOutcome, Ingester, IngestProgress, IngestStage
from rag.errors import BadInput, CollectionError, Rank37Error

log = logging.getLogger(__name__)

MOST_STARTS = 3
"""How often an upload is started before it is held back: one that takes the program down must not do so forever."""

MOST_ENDED = 500
"""How many ended files are kept for the next run."""

ENDED_FILE = "ended.jsonl"
OWNED = ".owned"
"""End of the name of the file beside an upload that its owner holds locked; the lock goes with the process."""
TAKE_UP_EVERY_S = 30.0
"""How often an idle queue looks for uploads whose owner has stopped."""

_JOB_ID = re.compile(r"[0-9a-f]{32}")

JobState = Literal["waiting", "running", "done", "cancelled", "failed"]
ENDED: frozenset[JobState] = frozenset({"done", "cancelled", "failed"})


@dataclass(frozen=True, slots=True)
class JobView:
    """One file of the queue at one moment."""

    id: str
    file: str
    state: JobState
    """`done` says that the file was dealt with: the outcome may well be that it was refused."""
    stage: IngestStage | None = None
    """What is being done; None unless running."""
    done: int = 0
    """Pages in stage `read`, chunks in the others."""
    total: int = 0
    """0: not known yet."""
    outcome: FileOutcome | None = None
    """Set if done or cancelled."""
    error: str | None = None
    """Set if failed: what to read and remedy before trying again."""
    seconds: float = 0.0
    """Time in work so far."""
    size_bytes: int = 0
    """Of the file; 0 where it is not known."""
    stage_seconds: float = 0.0
    """Time in the present stage so far."""
    earlier: bool = False
    """Whether it ended before this queue was opened."""


@dataclass(slots=True)
class _Job:
    """One file of the queue, as the queue itself knows it."""

    id: str
    file: str
    path: Path
    spooled: bool = False
    """The path is the queue's own copy, removed once it is not needed any more."""
    starts: int = 0
    when_ended: Callable[[JobView], None] | None = None
    cancel_asked: threading.Event = field(default_factory=threading.Event)
    state: JobState = "waiting"
    progress: IngestProgress | None = None
    outcome: FileOutcome | None = None
    error: str | None = None
    started: float = 0.0
    seconds: float = 0.0
    size_bytes: int = 0
    stage_started: float = 0.0
    earlier: bool = False
    owned: FileLock | None = None
    """Held while this queue may touch the upload's files."""


class _Closing(BaseException):
    """Ends the file in work when the queue closes; what was written of it stays, for the next run to continue."""


class IngestQueue:
    """A queue of files and the thread that works on it. All methods are safe to call from any thread and return soon.

    Raises CollectionError if the folder can't be used.
    """

    def __init__(self, ingester: Ingester, folder: Path) -> None:
        """Start the worker; `folder` holds the uploads that wait."""
        self._ingester = ingester
        self._folder = folder
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._closing = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take_up_ended()
            self._take_up_waiting()
        except OSError as error:
            raise _no_space(folder, error) from error
        self._worker = threading.Thread(target=self._work, name="rank37-ingest", daemon=True)
        self._worker.start()
        atexit.register(self.close)

    def submit(self, name: str, data: bytes) -> JobView:
        """Queue an upload. Once this returns, the file is on disk and outlives the program.

        Raises BadInput if it is larger than a file may be, CollectionError if the disk can't take it.
        """
        limit = self._ingester.max_file_bytes
        if len(data) > limit:
            raise BadInput(
                f"{bare_name(name)} has {len(data) / 2**20:,.1f} MiB, the limit is {limit / 2**20:,.1f} MiB: split "
                "it, or raise RANK37_MAX_FILE_MB"
            )
        job_id = uuid4().hex
        job = _Job(job_id, bare_name(name), self._folder / f"{job_id}.pdf", spooled=True, size_bytes=len(data))
        try:
            job.owned = self._own(job_id)
            write_durably(job.path, data)
            self._write_card(job)
        except (OSError, CollectionError) as error:
            self._discard_files(job)
            raise error if isinstance(error, CollectionError) else _no_space(self._folder, error) from error
        return self._enter(job)

    def submit_path(self, path: Path, *, when_ended: Callable[[JobView], None] | None = None) -> JobView:
        """Queue a file that is on this machine; it is read where it lies.

        `when_ended` is called from the worker thread, once, when the job has ended in whatever way.
        """
        job = _Job(uuid4().hex, bare_name(path.name), path, when_ended=when_ended)
        with suppress(OSError):  # its turn says what is wrong with it
            job.size_bytes = path.stat().st_size
        return self._enter(job)

    def jobs(self) -> list[JobView]:
        """All jobs that were not cleared, in the order in which they were queued."""
        with self._changed:
            return [_view(job) for job in self._jobs.values()]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until every job has ended; False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: all(job.state in ENDED for job in self._jobs.values()), timeout_s)

    def cancel(self, job_id: str) -> None:
        """Cancel a job: nothing of the file stays. One that has ended, or whose document is published, stays as it is.

        Raises BadInput for an unknown id.
        """
        with self._changed:
            job = self._job(job_id)
            if job.state in ENDED:
                return
            job.cancel_asked.set()
            if job.state == "running":
                return  # the worker ends it, within a moment
            job.state = "cancelled"  # before the worker can take it
            job.outcome = FileOutcome(job.file, "refused", "cancelled", f"{job.file} was cancelled before it began")
        self._end(job, "cancelled")

    def retry(self, job_id: str) -> None:
        """Queue a failed job again, at the end. Raises BadInput if it is unknown or did not fail."""
        with self._changed:
            job = self._job(job_id)
            if job.state != "failed":
                raise BadInput(f"{job.file} is {job.state}: only a failed file can be tried again; upload it anew")
            del self._jobs[job_id]
            job.cancel_asked.clear()
            job.state, job.error, job.progress, job.starts, job.seconds = "waiting", None, None, 0, 0.0
            self._jobs[job_id] = job
            self._changed.notify_all()

    def clear_finished(self) -> None:
        """Forget the jobs that have ended. A failed upload is forgotten with its file."""
        with self._changed:
            ended = [job for job in self._jobs.values() if job.state in ENDED]
            for job in ended:
                del self._jobs[job.id]
            with suppress(OSError):
                (self._folder / ENDED_FILE).unlink(missing_ok=True)
            self._changed.notify_all()
        for job in ended:
            self._discard_files(job)

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop the worker. Files that wait or are in work are taken up by the next queue on this folder. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._worker is not threading.current_thread():
            self._worker.join(timeout_s)
        with self._changed:
            for job in self._jobs.values():
                self._disown(job)
        atexit.unregister(self.close)

    def _enter(self, job: _Job) -> JobView:
        with self._changed:
            if self._closing:
                self._discard_files(job)
                raise BadInput(f"{job.file} can't be taken: the program is stopping")
            self._jobs[job.id] = job
            self._changed.notify_all()
            return _view(job)

    def _job(self, job_id: str) -> _Job:
        if job_id not in self._jobs:
            raise BadInput(f"there is no job {job_id!r} in the queue: it may have been cleared")
        return self._jobs[job_id]

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                try:
                    self._run(job)
                except _Closing:
                    self._put_back(job)
                    return
                except Rank37Error as error:
                    self._end(job, "failed", str(error))
                except Exception as error:
                    log.exception("unforeseen error while ingesting %s", job.file)
                    self._end(job, "failed", f"unforeseen {type(error).__name__}: {error}; the log has the details")
                if self._following() is None:  # the one that was begun ahead may have been cancelled
                    self._ingester.forget_ahead()
        finally:
            self._ingester.forget_ahead()  # before `close` gives the uploads free

    def _next(self) -> _Job | None:
        """Wait for the next job and mark it running; None when the queue closes."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._closing or self._following() is not None, TAKE_UP_EVERY_S):
                with suppress(OSError):  # the next look, or the next start
                    self._take_up_waiting()
            job = self._following()
            if self._closing or job is None:
                return None
            job.state, job.started = "running", perf_counter()
            job.starts += 1
            return job

    def _following(self) -> _Job | None:
        """The first of those that wait. Their uploads are this queue's."""
        with self._changed:
            return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _look_ahead(self, job: _Job) -> bool:
        """Begin with the file after this one; False where none waits yet.

        Nothing is begun ahead of or along with a file that was in work when the program stopped: if that was no
        accident, it must not count against another one.
        """
        following = self._following()
        if following is None:
            return False
        if job.starts == 1 and following.starts == 0:
            self._ingester.look_ahead(following.path, source=following.file)
        return True

    def _run(self, job: _Job) -> None:
        self._write_card(job)
        looked_ahead = self._look_ahead(job)

        def show(progress: IngestProgress) -> None:
            nonlocal looked_ahead
            looked_ahead = looked_ahead or self._look_ahead(job)
            if job.progress is None or job.progress.stage != progress.stage:
                job.stage_started = perf_counter()
            job.progress = progress  # one assignment: a reader sees the old value or the new one, whole

        def cancelled() -> bool:
            if self._closing:
                raise _Closing
            return job.cancel_asked.is_set()

        outcome = self._ingester.ingest(
            job.path,
            source=job.file,
            keep=self._brought_in_by_others(job),
            progress=show,
            cancelled=cancelled,
        )
        job.outcome = outcome
        self._end(job, "cancelled" if outcome.reason == "cancelled" else "done")

    def _put_back(self, job: _Job) -> None:
        """The program is stopping in good order: this start does not count against the file."""
        with self._changed:
            job.state = "waiting"
            job.starts -= 1
        try:
            self._write_card(job)
        except CollectionError:
            log.exception("the upload %s could not be put back", job.path)

    def _brought_in_by_others(self, job: _Job) -> frozenset[str]:
        """Documents of listed files with other names: files that swapped their names must not remove each other."""
        with self._changed:
            outcomes = [other.outcome for other in self._jobs.values() if other.file != job.file]
        return frozenset(outcome.document_id for outcome in outcomes if outcome and outcome.document_id)

    def _end(self, job: _Job, state: JobState, error: str | None = None) -> None:
        if state != "failed":
            self._discard_files(job)
        with self._changed:
            job.seconds = perf_counter() - job.started if job.started else 0.0
            job.state, job.error = state, error
            view = _view(job)
            if state != "failed":
                self._note_ended(job)
            self._changed.notify_all()
        if job.when_ended is not None:
            try:
                job.when_ended(view)
            except Exception:
                log.exception("the listener of %s failed", job.file)

    def _card(self, job: _Job) -> Path:
        return self._folder / f"{job.id}.json"

    def _write_card(self, job: _Job) -> None:
        """Note beside an upload what it is called and how often it was started. Its presence makes the upload valid."""
        if not job.spooled:
            return
        try:
            write_durably(self._card(job), json.dumps({"file": job.file, "starts": job.starts}).encode())
        except OSError as error:
            raise _no_space(self._folder, error) from error

    def _discard_files(self, job: _Job) -> None:
        if not job.spooled:
            return
        try:
            self._card(job).unlink(missing_ok=True)
            job.path.unlink(missing_ok=True)
        except OSError:
            log.exception("the upload %s can't be removed", job.path)
        self._disown(job)

    def _own(self, job_id: str) -> FileLock | None:
        """The lock of an upload, held; None where another queue holds it."""
        lock = FileLock(self._folder / f"{job_id}{OWNED}", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _disown(self, job: _Job) -> None:
        if job.owned is not None:
            with suppress(OSError):
                Path(job.owned.lock_file).unlink(missing_ok=True)
            job.owned.release()
            job.owned = None

    def _note_ended(self, job: _Job) -> None:
        """Keep how a file ended for the next run. Losing it costs a line of a list: a full disk is no error here."""
        outcome = None if job.outcome is None else asdict(job.outcome)
        noted: dict[str, object] = {
            "id": job.id,
            "file": job.file,
            "state": job.state,
            "outcome": outcome,
            "seconds": job.seconds,
        }
        try:
            with (self._folder / ENDED_FILE).open("ab") as file:
                file.write(json.dumps(noted).encode() + b"\n")
        except OSError:
            log.exception("the end of %s can't be noted", job.file)

    def _take_up_ended(self) -> None:
        """List the files that ended in earlier runs."""
        path = self._folder / ENDED_FILE
        if not path.exists():
            return
        lines = path.read_bytes().splitlines()[-MOST_ENDED:]
        for line in lines:
            try:
                noted = json.loads(line)
                job = _Job(str(noted["id"]), bare_name(str(noted["file"])), self._folder / "ended", earlier=True)
                job.state = "cancelled" if noted["state"] == "cancelled" else "done"
                job.outcome = _outcome_of(noted["outcome"])
                job.seconds = float(noted["seconds"])
            except (ValueError, KeyError, TypeError):
                continue  # broken off by a kill, or of another version: it is only a list
            self._jobs[job.id] = job
        write_durably(path, b"".join(line + b"\n" for line in lines))

    def _take_up_waiting(self) -> None:
        """Queue the uploads that nobody owns any more, oldest first, and remove half-written ones."""
        cards = sorted(self._folder.glob("*.json"), key=lambda card: (card.stat().st_mtime_ns, card.name))
        for card in cards:
            owned = None if card.stem in self._jobs else self._own(card.stem)
            if owned is None:
                continue
            job = _Job(card.stem, "", card.with_suffix(".pdf"), spooled=True, owned=owned)
            try:
                noted = json.loads(card.read_bytes())
                job.file, job.starts = bare_name(str(noted["file"])), int(noted["starts"])
                job.size_bytes = job.path.stat().st_size if job.path.exists() else 0
            except FileNotFoundError:  # its owner has ended it meanwhile
                self._disown(job)
                continue
            except (ValueError, KeyError, TypeError):
                log.warning("%s is not a card of this queue: removed", card)
                card.unlink(missing_ok=True)
                self._disown(job)
                continue
            if job.starts >= MOST_STARTS:
                job.state = "failed"
                job.error = (
                    f"{job.file} was started {job.starts} times and the program stopped each time: "
                    "try again if that had another cause, or clear it"
                )
            self._jobs[job.id] = job
        for leftover in [*self._folder.glob("*.pdf"), *self._folder.glob(".*.part"), *self._folder.glob(f"*{OWNED}")]:
            self._remove_leftover(leftover)

    def _remove_leftover(self, leftover: Path) -> None:
        """A file of an upload that was never taken, unless someone is just writing it."""
        found = _JOB_ID.search(leftover.name)
        job_id = found.group() if found else leftover.stem
        if (
            leftover.suffix == ".part" and job_id in self._jobs
        ):  # this queue writes nothing meanwhile: an earlier one did
            leftover.unlink(missing_ok=True)
            return
        if job_id in self._jobs or (self._folder / f"{job_id}.json").exists():
            return
        owned = self._own(job_id)
        if owned is not None:
            leftover.unlink(missing_ok=True)
            self._disown(_Job(job_id, "", leftover, owned=owned))


def _view(job: _Job) -> JobView:
    progress = job.progress if job.state == "running" else None
    return JobView(
        job.id,
        job.file,
        job.state,
        progress.stage if progress else None,
        progress.done if progress else 0,
        progress.total if progress else 0,
        job.outcome,
        job.error,
        perf_counter() - job.started if job.state == "running" else job.seconds,
        job.size_bytes,
        perf_counter() - job.stage_started if progress else 0.0,
        job.earlier,
    )


def _outcome_of(noted: dict[str, Any] | None) -> FileOutcome | None:
    if noted is None:
        return None
    lists = {name: tuple(noted[name]) for name in ("warnings", "pages_without_text")}
    return FileOutcome(**{**noted, **lists})


def _no_space(folder: Path, error: OSError) -> CollectionError:
    return CollectionError(
        f"uploads can't be kept in {folder}: {error.strerror or error}; free some space, change its rights or set "
        "RANK37_DATA_DIR"
    )
