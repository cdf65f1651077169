"""`kill -9` of a real ingestion at ten random moments: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import pytest

from ingest.write import BATCH_CHUNKS, Ingester
from rag.engines.qdrant_edge import EdgeIndex
from rag.ports import Embedder
from rag.settings import load_settings
from rag.types import Chunk
from tests.ingest.written_pdfs import long_pdf, sentences, write_pdf

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
SEED = 37
EARLIER_CONTENT = 900
"""Seed of the first version of one file: the runs that are killed replace it."""


@dataclass(frozen=True)
class Collection:
    """A data folder that is ingested into, and looked at from outside."""

    data_dir: Path
    embedder: Embedder

    def start(self, folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ingest", str(folder), "--data-dir", str(self.data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "RANK37_CHUNK_TOKENS": "40", "RANK37_CHUNK_OVERLAP_TOKENS": "0"},
        )

    def ingest(self, pdf: Path) -> None:
        """Bring a file in without a process of its own."""
        index = self.open()
        settings = load_settings(data_dir=self.data_dir, chunk_tokens=40, chunk_overlap_tokens=0)
        assert Ingester.from_settings(settings, self.embedder, index).ingest(pdf).status == "ingested"
        index.close()

    def open(self) -> EdgeIndex:
        folder = self.data_dir / "collections" / "documents" / "index"
        return EdgeIndex.open(folder, "documents", self.embedder.identity)

    def ready(self) -> dict[str, list[Chunk]]:
        """The chunks of each searchable document, by its source."""
        index = self.open()
        try:
            ready = {
                stored.document.source: index.chunks(stored.document.id)
                for stored in index.documents()
                if stored.state == "ready"
            }
            assert index.count_chunks() == sum(len(chunks) for chunks in ready.values())
            return ready
        finally:
            index.close()

    def unfinished_chunks(self) -> int:
        """How many chunks are written of documents that are not searchable yet."""
        index = self.open()
        try:
            documents = [stored for stored in index.documents() if stored.state == "ingesting"]
            return sum(len(index.chunk_ids(stored.document.id)) for stored in documents)
        finally:
            index.close()

    def everything(self) -> tuple[dict[str, list[str]], list[str]]:
        """Ids of the chunks of every document, in any state, and the names of the kept originals."""
        index = self.open()
        try:
            chunk_ids = {
                stored.document.id: sorted(index.chunk_ids(stored.document.id)) for stored in index.documents()
            }
        finally:
            index.close()
        return chunk_ids, sorted(path.name for path in self.files_dir.glob("*.pdf"))

    @property
    def files_dir(self) -> Path:
        return self.data_dir / "collections" / "documents" / "files"


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one to some batches of chunks, so that kills meet reading, embedding, writing and publishing."""
    folder = tmp_path_factory.mktemp("papers")
    for name in ("0-first", "2-third", "4-last"):
        write_pdf(folder / f"{name}.pdf", [sentences(int(name[0]), 6)])
    long_pdf(folder / "1-replaced.pdf", seed=1, pages=4)
    long_pdf(folder / "3-long.pdf", seed=3, pages=16)
    return folder


@pytest.fixture
def fresh(tmp_path: Path, embedder: Embedder) -> Collection:
    return Collection(tmp_path / "data", embedder)


def wait_until_it_begins(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Ingesting"), line + (process.stderr.read() if process.stderr else "")


def acknowledged(lines: list[str]) -> set[str]:
    """The files that the output says are in."""
    return {
        Path(line.split()[1].rstrip(":")).name
        for line in lines
        if line.split()[:1] and line.split()[0] in ("ingested", "replaced", "unchanged")
    }


@pytest.mark.timeout(1800)  # thirteen starts of the program, seconds each, minutes on a busy machine
def test_ten_kills_lose_nothing_acknowledged_and_double_nothing(
    papers: Path, fresh: Collection, tmp_path: Path, embedder: Embedder
) -> None:
    undisturbed = Collection(tmp_path / "undisturbed", embedder)
    process = undisturbed.start(papers)
    wait_until_it_begins(process)
    began = monotonic()
    output, errors = process.communicate(timeout=300)
    duration = monotonic() - began
    assert process.returncode == 0, errors
    files = {path.name for path in papers.iterdir()}
    assert acknowledged(output.splitlines()) == files
    expected = undisturbed.ready()
    assert set(expected) == files

    # An earlier version of one file is in already; it must be searchable, whole, until the new one is.
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    fresh.ingest(long_pdf(earlier / "1-replaced.pdf", seed=EARLIER_CONTENT, pages=1))
    earlier_chunks = fresh.ready()["1-replaced.pdf"]
    assert earlier_chunks != expected["1-replaced.pdf"]

    # Each run continues the one before: ten moments of the undisturbed run become delays that add up to the last.
    chance = random.Random(SEED)
    moments = [0.0, *sorted(chance.uniform(0.0, duration) for _ in range(KILLS))]
    seen: set[str] = set()
    killed = 0
    for kill in range(1, KILLS + 1):
        delay_s = moments[kill] - moments[kill - 1]
        process = fresh.start(papers)
        wait_until_it_begins(process)
        sleep(delay_s)
        os.kill(process.pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 0), errors
        killed += process.returncode != 0
        said = acknowledged(output.splitlines())
        seen |= said

        ready, unfinished = fresh.ready(), fresh.unfinished_chunks()
        print(
            f"kill {kill:2} at {moments[kill]:5.2f} of {duration:.2f} s: {len(said)} acknowledged by this run, "
            f"{len(seen)} in all, {len(ready)} searchable, {sum(map(len, ready.values()))} chunks, "
            f"{unfinished} chunks of an unfinished one"
        )
        assert seen <= set(ready), f"kill {kill}: acknowledged, but gone: {seen - set(ready)}"
        for source, chunks in ready.items():
            versions = [expected[source]]
            if source == "1-replaced.pdf" and source not in seen:
                versions.append(earlier_chunks)
            assert chunks in versions, f"kill {kill}: {source} is searchable, but not whole"
        assert "1-replaced.pdf" in ready

    assert killed >= KILLS // 2, "most runs were done before their kill"
    process = fresh.start(papers)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors

    assert fresh.ready() == expected
    assert fresh.everything() == undisturbed.everything()


TELLING_INGESTION = """
import sys
from pathlib import Path
from ingest.write import Ingester
from rag.settings import load_settings
from rag.wiring import open_embedder, open_index

settings = load_settings(data_dir=Path(sys.argv[2]), chunk_tokens=40, chunk_overlap_tokens=0)
embedder = open_embedder(settings)
index = open_index(settings, embedder.identity)
tell = lambda progress: print(progress.stage, progress.done, progress.total, flush=True)
print(Ingester.from_settings(settings, embedder, index).ingest(Path(sys.argv[1]), progress=tell).status, flush=True)
index.close()
"""
"""A program of its own that ingests one file and prints each step."""


def test_a_kill_in_the_middle_of_a_document_continues_there(fresh: Collection, tmp_path: Path) -> None:
    pdf = long_pdf(tmp_path / "long.pdf", seed=8, pages=8)
    command = [sys.executable, "-c", TELLING_INGESTION, str(pdf), str(fresh.data_dir)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("embed") and int(line.split()[1]) > BATCH_CHUNKS:
            process.kill()
            break
    process.communicate(timeout=60)

    index = fresh.open()
    [stored] = index.documents()
    assert (stored.state, index.count_chunks()) == ("ingesting", 0)
    assert len(index.chunk_ids(stored.document.id)) == BATCH_CHUNKS
    index.close()

    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=300, check=True)
    steps = [line.split() for line in again.stdout.splitlines()]
    first_embedded = next(step for step in steps if step[0] == "embed")
    assert int(first_embedded[1]) == BATCH_CHUNKS
    assert steps[-1] == ["ingested"]
    [chunks] = fresh.ready().values()
    assert [chunk.position for chunk in chunks] == list(range(int(first_embedded[2])))
    assert len({chunk.id for chunk in chunks}) == len(chunks)
