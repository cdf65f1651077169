"""The background queue with the real ingester: uploads survive, cancel, retry, and never stop one another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from filelock import FileLock

from ingest.queue import ENDED_FILE, MOST_STARTS, IngestQueue, JobView
from ingest.read_document import ReadDocument
from ingest.reader_process import ReadLimits, read_document
from ingest.write import Ingester
from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import BadInput, CollectionError, IndexUnavailable
from rag.ports import Embedder, Index
from tests.ingest.written_pdfs import long_pdf, sentences, write_pdf

LIMITS = ReadLimits(max_file_bytes=300_000, max_pages=200, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)


class Gate:
    """The real index behind a gate: `add_chunks` waits while it is shut, and fails while `down` is set."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.down = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def add_chunks(self, *arguments: Any) -> None:
        self.reached.set()
        assert self.open.wait(60)
        if self.down:
            raise IndexUnavailable("the Qdrant server does not answer: start it")
        self._index.add_chunks(*arguments)


@pytest.fixture
def gate(tmp_path: Path, embedder: Embedder) -> Iterator[Gate]:
    index = EdgeIndex.open(tmp_path / "index", "manuals", embedder.identity)
    yield Gate(index)
    index.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
def ingester(gate: Gate, tmp_path: Path, embedder: Embedder) -> Ingester:
    return Ingester(embedder, gate, tmp_path / "files", limits=LIMITS, chunk_tokens=40, overlap_tokens=0)


@pytest.fixture
def open_queue(ingester: Ingester, folder: Path, gate: Gate) -> Iterator[Callable[[], IngestQueue]]:
    queues: list[IngestQueue] = []

    def make() -> IngestQueue:
        queues.append(IngestQueue(ingester, folder))
        return queues[-1]

    yield make
    gate.open.set()
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(open_queue: Callable[[], IngestQueue]) -> IngestQueue:
    return open_queue()


def pdf_bytes(tmp_path: Path, seed: int) -> bytes:
    return write_pdf(tmp_path / "made.pdf", [sentences(seed, 3)]).read_bytes()


def kept(folder: Path) -> list[Path]:
    """Uploads and their cards, without the list of those that ended."""
    return [path for path in folder.iterdir() if path.name != ENDED_FILE]


def only(queue: IngestQueue) -> JobView:
    [job] = queue.jobs()
    return job


def test_uploads_are_brought_in_and_a_bad_one_stops_none(
    tmp_path: Path, queue: IngestQueue, gate: Gate, folder: Path
) -> None:
    contents = [pdf_bytes(tmp_path, 1), b"no PDF at all", pdf_bytes(tmp_path, 2)]
    submitted = [queue.submit(f"../{number}.pdf", data) for number, data in enumerate(contents)]

    assert queue.wait(60)

    jobs = queue.jobs()
    assert [job.id for job in jobs] == [job.id for job in submitted]
    assert [(job.file, job.state) for job in jobs] == [("0.pdf", "done"), ("1.pdf", "done"), ("2.pdf", "done")]
    outcomes = [job.outcome for job in jobs]
    assert [outcome and outcome.status for outcome in outcomes] == ["ingested", "refused", "ingested"]
    assert [outcome and outcome.reason for outcome in outcomes] == [None, "not_a_pdf", None]
    assert [outcome and outcome.file for outcome in outcomes] == ["0.pdf", "1.pdf", "2.pdf"]
    assert sorted(stored.document.source for stored in gate.documents()) == ["0.pdf", "2.pdf"]
    assert kept(folder) == []
    assert jobs[0].seconds > 0


def test_a_page_sees_how_far_a_file_is(tmp_path: Path, queue: IngestQueue, gate: Gate) -> None:
    gate.open.clear()
    queue.submit_path(long_pdf(tmp_path / "long.pdf", seed=1, pages=2))
    waiting = queue.submit("next.pdf", pdf_bytes(tmp_path, 3))
    assert gate.reached.wait(60)

    running, behind = queue.jobs()

    assert (running.state, running.stage) == ("running", "embed")
    assert 0 < running.done <= running.total
    assert running.seconds > 0
    assert (behind.id, behind.state, behind.stage) == (waiting.id, "waiting", None)


def test_a_waiting_and_a_running_file_can_be_cancelled(
    tmp_path: Path, queue: IngestQueue, gate: Gate, folder: Path
) -> None:
    gate.open.clear()
    ids = [queue.submit(f"{number}.pdf", pdf_bytes(tmp_path, number)).id for number in range(3)]
    assert gate.reached.wait(60)

    for job_id in ids[:2]:
        queue.cancel(job_id)
    gate.open.set()
    assert queue.wait(60)

    assert [job.state for job in queue.jobs()] == ["cancelled", "cancelled", "done"]
    assert [job.outcome and job.outcome.reason for job in queue.jobs()] == ["cancelled", "cancelled", None]
    assert [stored.document.source for stored in gate.documents()] == ["2.pdf"]
    assert kept(folder) == []
    queue.cancel(ids[2])  # too late: it stays
    assert [stored.document.source for stored in gate.documents()] == ["2.pdf"]


def test_an_outage_fails_the_file_and_it_can_be_tried_again(tmp_path: Path, queue: IngestQueue, gate: Gate) -> None:
    gate.down = True
    job_id = queue.submit("a.pdf", pdf_bytes(tmp_path, 4)).id
    assert queue.wait(60)
    assert (only(queue).state, only(queue).error) == ("failed", "the Qdrant server does not answer: start it")
    assert only(queue).outcome is None

    gate.down = False
    queue.retry(job_id)
    assert queue.wait(60)

    assert (only(queue).state, only(queue).error) == ("done", None)
    assert gate.count_chunks() > 0
    with pytest.raises(BadInput, match="is done"):
        queue.retry(job_id)


def test_ended_jobs_can_be_cleared_with_their_files(
    tmp_path: Path, queue: IngestQueue, gate: Gate, folder: Path
) -> None:
    gate.down = True
    failed = queue.submit("a.pdf", pdf_bytes(tmp_path, 5)).id
    assert queue.wait(60)
    assert len(kept(folder)) == 3  # the upload, its card and the mark that it is owned, for a retry

    queue.clear_finished()

    assert queue.jobs() == []
    assert kept(folder) == []
    with pytest.raises(BadInput, match="no job"):
        queue.retry(failed)


def test_uploads_outlive_the_program(
    tmp_path: Path, open_queue: Callable[[], IngestQueue], gate: Gate, folder: Path
) -> None:
    gate.open.clear()
    first = open_queue()
    for number in range(3):
        first.submit(f"{number}.pdf", pdf_bytes(tmp_path, number))
    assert gate.reached.wait(60)
    threading.Timer(0.2, gate.open.set).start()  # lets the write end while the queue closes
    first.close()
    assert len(list(folder.glob("*.pdf"))) >= 2

    second = open_queue()
    assert second.wait(60)

    assert [job.state for job in second.jobs()] == ["done"] * len(second.jobs())
    assert sorted(stored.document.source for stored in gate.documents()) == ["0.pdf", "1.pdf", "2.pdf"]
    assert {stored.state for stored in gate.documents()} == {"ready"}
    assert kept(folder) == []


def test_an_upload_that_takes_the_program_down_is_held_back(
    tmp_path: Path, open_queue: Callable[[], IngestQueue], folder: Path
) -> None:
    folder.mkdir()
    (folder / "a1.pdf").write_bytes(pdf_bytes(tmp_path, 6))
    (folder / "a1.json").write_text(f'{{"file": "heavy.pdf", "starts": {MOST_STARTS}}}')

    queue = open_queue()

    assert (only(queue).file, only(queue).state) == ("heavy.pdf", "failed")
    assert "heavy.pdf was started 3 times" in str(only(queue).error)
    queue.retry(only(queue).id)
    assert queue.wait(60)
    assert only(queue).state == "done"


def test_half_written_uploads_are_cleared_away(open_queue: Callable[[], IngestQueue], folder: Path) -> None:
    folder.mkdir()
    for name in ("nocard.pdf", ".x.pdf.1.part", "broken.json", "broken.pdf"):
        (folder / name).write_bytes(b"{")

    assert open_queue().jobs() == []
    assert kept(folder) == []


def test_limits_and_storage_are_checked_when_a_file_is_handed_over(
    tmp_path: Path, queue: IngestQueue, ingester: Ingester, folder: Path
) -> None:
    with pytest.raises(BadInput, match=r"0\.4 MiB, the limit is 0\.3 MiB"):
        queue.submit("big.pdf", b"0" * 400_000)
    assert queue.jobs() == []
    assert kept(folder) == []
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(CollectionError, match="uploads can't be kept"):
        IngestQueue(ingester, in_the_way / "uploads")


def test_a_listener_hears_once_how_a_file_ended_and_can_not_break_the_queue(tmp_path: Path, queue: IngestQueue) -> None:
    heard: list[JobView] = []
    heard_both = threading.Event()

    def listen(job: JobView) -> None:
        heard.append(job)
        if len(heard) == 2:
            heard_both.set()
        raise RuntimeError("a listener's own fault")

    write_pdf(tmp_path / "present.pdf", [sentences(7, 2)])
    for name in ("absent.pdf", "present.pdf"):
        queue.submit_path(tmp_path / name, when_ended=listen)
    assert heard_both.wait(60)

    assert [job.file for job in heard] == ["absent.pdf", "present.pdf"]
    assert [job.state for job in heard] == ["done", "done"]
    assert heard[1].outcome is not None
    assert heard[1].outcome.status == "ingested"


def test_many_threads_can_use_the_queue_at_once(tmp_path: Path, queue: IngestQueue, gate: Gate) -> None:
    contents = [pdf_bytes(tmp_path, seed) for seed in range(8)]
    stop = threading.Event()
    polls = 0

    def poll() -> None:
        nonlocal polls
        while not stop.is_set():
            assert all(job.done <= job.total or job.total == 0 for job in queue.jobs())
            polls += 1
            sleep(0.001)

    poller = threading.Thread(target=poll)
    poller.start()
    submitters = [
        threading.Thread(target=queue.submit, args=(f"{number}.pdf", data)) for number, data in enumerate(contents)
    ]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join()
    assert queue.wait(120)
    stop.set()
    poller.join()

    assert polls > 10
    assert len(queue.jobs()) == len(gate.documents()) == 8


def test_closing_does_not_wait_for_the_whole_file(
    tmp_path: Path, open_queue: Callable[[], IngestQueue], folder: Path
) -> None:
    queue = open_queue()
    queue.submit_path(long_pdf(tmp_path / "long.pdf", seed=2, pages=60))
    deadline = monotonic() + 60
    while only(queue).stage != "embed":
        assert monotonic() < deadline
        sleep(0.01)
    began = monotonic()

    queue.close()

    assert monotonic() - began < 5
    assert only(queue).state == "waiting"
    with pytest.raises(BadInput, match="stopping"):
        queue.submit("late.pdf", b"%PDF")
    assert kept(folder) == []


def test_how_files_ended_is_still_listed_after_a_restart_until_it_is_cleared(
    tmp_path: Path, open_queue: Callable[[], IngestQueue], folder: Path
) -> None:
    first = open_queue()
    first.submit("good.pdf", pdf_bytes(tmp_path, 11))
    first.submit("bad.pdf", b"no PDF at all")
    assert first.wait(60)
    before = first.jobs()
    first.close()
    with (folder / ENDED_FILE).open("ab") as file:
        file.write(b'{"id": "broken off by a ki')

    second = open_queue()

    listed = second.jobs()
    assert [(job.id, job.file, job.state, job.outcome) for job in listed] == [
        (job.id, job.file, job.state, job.outcome) for job in before
    ]
    assert [job.earlier for job in listed] == [True, True]
    assert second.wait(0)
    second.clear_finished()
    assert second.jobs() == []
    second.close()
    assert open_queue().jobs() == []


def test_queues_that_share_a_folder_own_each_upload_once(
    open_queue: Callable[[], IngestQueue], gate: Gate, tmp_path: Path, folder: Path
) -> None:
    first = open_queue()
    gate.open.clear()
    running = first.submit("one.pdf", long_pdf_bytes(tmp_path, "one"))
    waiting = first.submit("two.pdf", long_pdf_bytes(tmp_path, "second"))
    assert gate.reached.wait(30)
    second = open_queue()
    assert second.jobs() == [], "both are the first one's"
    assert {path.stem for path in folder.glob("*.pdf")} == {running.id, waiting.id}, "and their files are there still"

    gate.open.set()
    assert first.wait(60)
    assert [job.state for job in first.jobs()] == ["done", "done"]
    assert [path.name for path in folder.iterdir()] == [ENDED_FILE]


def test_an_open_queue_takes_up_what_another_left(
    open_queue: Callable[[], IngestQueue],
    gate: Gate,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingest.queue.TAKE_UP_EVERY_S", 0.1)
    first = open_queue()
    gate.open.clear()
    left = first.submit("one.pdf", long_pdf_bytes(tmp_path, "one"))
    assert gate.reached.wait(30)
    second = open_queue()
    threading.Timer(0.5, gate.open.set).start()
    first.close()
    deadline = monotonic() + 60
    while not [job for job in second.jobs() if job.state == "done"]:
        assert monotonic() < deadline
        sleep(0.05)
    assert [(job.id, job.file) for job in second.jobs()] == [(left.id, "one.pdf")]
    assert [stored.document.source for stored in gate.documents()] == ["one.pdf"]


def test_what_someone_is_just_writing_is_left_alone(open_queue: Callable[[], IngestQueue], folder: Path) -> None:
    folder.mkdir()
    written, half = "a" * 32, "b" * 32
    (folder / f"{written}.pdf").write_bytes(b"being written by another process")
    (folder / f".{half}.pdf.77.part").write_bytes(b"left by one that was killed")
    (folder / f"{'c' * 32}.json").write_text('{"file": "c.pdf", "starts": 3}')
    (folder / f".{'c' * 32}.json.77.part").write_bytes(b"left by one that was killed as it wrote the card anew")
    with FileLock(folder / f"{written}.owned"):
        assert [job.file for job in open_queue().jobs()] == ["c.pdf"]
        assert not list(folder.glob(".*.part"))
        assert (folder / f"{written}.pdf").exists()
        assert not list(folder.glob(f"*{half}*"))


def long_pdf_bytes(folder: Path, name: str) -> bytes:
    return long_pdf(folder / f"{name}-source.pdf", seed=len(name), pages=2).read_bytes()


class Reads:
    """The real reader, and which files it was given, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sources: list[str] = []
        monkeypatch.setattr("ingest.write.read_document", self)

    def __call__(self, path: Path, *, source: str, **options: Any) -> ReadDocument:
        self.sources.append(source)
        return read_document(path, source=source, **options)

    def wait_for(self, source: str) -> None:
        deadline = monotonic() + 60
        while source not in self.sources:
            assert monotonic() < deadline, f"{source} was not read ahead"
            sleep(0.01)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def leftovers(tmp_path: Path) -> list[Path]:
    """Copies of files that were never finished."""
    return list((tmp_path / "files").glob(".*.part"))


def test_the_next_upload_is_read_while_one_is_written(
    tmp_path: Path, queue: IngestQueue, gate: Gate, folder: Path, reads: Reads
) -> None:
    gate.open.clear()
    for number in range(3):
        queue.submit(f"{number}.pdf", pdf_bytes(tmp_path, number))
    assert gate.reached.wait(60)

    reads.wait_for("1.pdf")
    assert [(job.state, job.stage) for job in queue.jobs()] == [
        ("running", "embed"),
        ("waiting", None),
        ("waiting", None),
    ]
    gate.open.set()
    assert queue.wait(60)

    assert sorted(reads.sources) == ["0.pdf", "1.pdf", "2.pdf"]  # each once
    assert [job.outcome and job.outcome.status for job in queue.jobs()] == ["ingested"] * 3
    assert sorted(stored.document.source for stored in gate.documents()) == ["0.pdf", "1.pdf", "2.pdf"]
    assert (kept(folder), leftovers(tmp_path)) == ([], [])


def test_an_upload_that_is_cancelled_after_it_was_read_ahead_leaves_nothing(
    tmp_path: Path, queue: IngestQueue, gate: Gate, folder: Path, reads: Reads
) -> None:
    gate.open.clear()
    queue.submit("0.pdf", pdf_bytes(tmp_path, 0))
    ahead = queue.submit("1.pdf", pdf_bytes(tmp_path, 1))
    reads.wait_for("1.pdf")

    queue.cancel(ahead.id)
    gate.open.set()
    assert queue.wait(60)
    queue.close()

    assert [job.state for job in queue.jobs()] == ["done", "cancelled"]
    assert [stored.document.source for stored in gate.documents()] == ["0.pdf"]
    assert (kept(folder), leftovers(tmp_path)) == ([], [])


def test_what_was_read_ahead_when_the_queue_closes_is_brought_in_by_the_next_one(
    tmp_path: Path, open_queue: Callable[[], IngestQueue], gate: Gate, folder: Path, reads: Reads
) -> None:
    gate.open.clear()
    first = open_queue()
    for number in range(2):
        first.submit(f"{number}.pdf", pdf_bytes(tmp_path, number))
    reads.wait_for("1.pdf")
    threading.Timer(0.2, gate.open.set).start()  # lets the write end while the queue closes
    first.close()
    assert leftovers(tmp_path) == []
    assert "1.pdf" not in [stored.document.source for stored in gate.documents()]

    second = open_queue()
    assert second.wait(60)

    assert sorted(stored.document.source for stored in gate.documents()) == ["0.pdf", "1.pdf"]
    assert {stored.state for stored in gate.documents()} == {"ready"}
    assert (kept(folder), leftovers(tmp_path)) == ([], [])


def test_nothing_is_read_ahead_of_an_upload_that_may_have_taken_the_program_down(
    tmp_path: Path, open_queue: Callable[[], IngestQueue], gate: Gate, folder: Path, reads: Reads
) -> None:
    folder.mkdir()
    for number, starts in enumerate((1, 0)):
        (folder / f"{number}.pdf").write_bytes(pdf_bytes(tmp_path, number))
        (folder / f"{number}.json").write_text(f'{{"file": "{number}.pdf", "starts": {starts}}}')
    gate.open.clear()

    queue = open_queue()
    assert gate.reached.wait(60)
    assert reads.sources == ["0.pdf"]
    gate.open.set()
    assert queue.wait(60)

    assert reads.sources == ["0.pdf", "1.pdf"]
    assert [job.state for job in queue.jobs()] == ["done", "done"]
