"""`kill -9` of ingestion and app, forty times or more: nothing acknowledged is lost, nothing half is searchable.

Half of the kills come at a random time, half at a random change to a file or the index: between two writes is where a
program can be wrong, and where the clock seldom strikes. RANK37_TEST_KILLS sets how many there are in all.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ingest.write import Ingester
from rag.engines.score_cache import ScoreCache
from rag.engines.trace_store import SqlTraceStore
from rag.ports import Embedder, Index
from rag.types import Chunk
from tests.faults.folders import open_collection, settings_of
from tests.ingest.written_pdfs import long_pdf, sentences, write_pdf

KILLS = int(os.environ.get("RANK37_TEST_KILLS", "40"))
SEED = int(os.environ.get("RANK37_TEST_KILL_SEED", "37"))
LONGEST_LIFE_S = 1.6
"""Of a life that the clock ends: two to four files."""
MOST_CHANGES = {"ingest": 70, "app": 35}
"""Of a life that a change ends: a file makes about twenty."""
NAMES = ("a.pdf", "b.pdf", "long.pdf")
VERSIONS = 3


class Lives:
    """The program that forks lives, and how each one ended."""

    def __init__(self, folder: Path) -> None:
        self._told = folder / "told"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.lives"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )
        assert self._read() == "ready"
        self.killed = 0
        self.longest_s = {"ingest": LONGEST_LIFE_S, "app": LONGEST_LIFE_S}
        """By kind, of a life that the clock ends: shorter on a machine on which one was done before its end."""

    def run(
        self, kind: str, data_dir: Path, steps: list[list[str]], *, after_s: float | None = None, countdown: int = 0
    ) -> list[list[Any]]:
        """Live until it is done, is killed after a time, or kills itself at a change; what it told."""
        self._told.unlink(missing_ok=True)
        life = {"kind": kind, "data_dir": str(data_dir), "steps": steps, "told": str(self._told)}
        assert self._process.stdin is not None
        print(json.dumps({**life, "countdown": countdown}), file=self._process.stdin, flush=True)
        child = int(self._read())
        if after_s is not None:
            time.sleep(after_s)
            with suppress(ProcessLookupError):  # on a quick machine it was done before
                os.kill(child, signal.SIGKILL)
        status = int(self._read())
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        self.killed += was_killed
        if after_s is not None and not was_killed:
            self.longest_s[kind] = min(self.longest_s[kind], after_s)
        assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL, f"it died of {status}"
        told: list[list[Any]] = []
        if self._told.exists():
            told = [json.loads(line) for line in self._told.read_text().splitlines()]
        assert not [what for what in told if what[0] == "error"], told
        return told

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    lives = Lives(tmp_path_factory.mktemp("lives"))
    yield lives
    lives.close()


@dataclass(frozen=True)
class Paper:
    """A file that is ingested, and what must be searchable of it then."""

    path: Path
    name: str
    document_id: str
    chunks: tuple[Chunk, ...]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> dict[str, list[Paper]]:
    """The versions of each file by its name, with the chunks that an undisturbed ingestion makes of them."""
    folder = tmp_path_factory.mktemp("papers")
    papers: dict[str, list[Paper]] = {name: [] for name in NAMES}
    for number, name in enumerate(NAMES):
        for version in range(VERSIONS):
            path = folder / f"{version}-{name}"
            seed = 100 * number + version
            long_pdf(path, seed=seed, pages=5) if name == "long.pdf" else write_pdf(path, [sentences(seed, 6)])
            data_dir = folder / path.stem
            index = open_collection(data_dir, embedder)
            outcome = Ingester.from_settings(settings_of(data_dir), embedder, index).ingest(path, source=name)
            assert outcome.document_id is not None
            papers[name].append(Paper(path, name, outcome.document_id, tuple(index.chunks(outcome.document_id))))
            index.close()
    assert len(papers["long.pdf"][0].chunks) > 32, "several batches"
    return papers


def after(kill: int, kind: str, chance: random.Random, lives: Lives) -> dict[str, Any]:
    """When the life ends: by the clock and by a change in turn."""
    if kill % 2:
        return {"after_s": chance.uniform(0.02, lives.longest_s[kind])}
    return {"countdown": chance.randint(1, MOST_CHANGES[kind])}


def check_whole(index: Index, files_dir: Path, by_id: dict[str, Paper]) -> dict[str, str]:
    """Check that what is searchable is whole and there once; the document id of each name that is."""
    ready: dict[str, str] = {}
    every_chunk: set[str] = set()
    for stored in index.documents():
        if stored.state != "ready":
            continue
        paper = by_id[stored.document.id]
        assert stored.document.source == paper.name
        assert paper.name not in ready, f"{paper.name} is there twice"
        ready[paper.name] = paper.document_id
        assert tuple(index.chunks(paper.document_id)) == paper.chunks, f"{paper.name} is searchable, but not whole"
        every_chunk |= {chunk.id for chunk in paper.chunks}
        original = files_dir / f"{paper.document_id}.pdf"
        assert hashlib.sha256(original.read_bytes()).hexdigest()[:32] == paper.document_id
        assert json.loads((files_dir.parent / "names" / f"{paper.document_id}.json").read_text()) == {
            "source": paper.name
        }
    assert index.count_chunks() == len(every_chunk)
    return ready


def recalled(index: Index, embedder: Embedder) -> list[str]:
    """Ids of the chunks that a question finds, all of them."""
    query = "amber anchor basket beacon branch bridge candle canyon"
    found = index.recall(query, embedder.embed_query(query), limit=1000)
    return sorted(candidate.chunk.id for candidate in found)


@pytest.mark.timeout(1800)
def test_killed_ingestions_lose_and_double_nothing(
    lives: Lives, papers: dict[str, list[Paper]], tmp_path: Path, embedder: Embedder
) -> None:
    chance = random.Random(SEED)
    data_dir = tmp_path / "data"
    files_dir = settings_of(data_dir).collection_dir / "files"
    by_id = {paper.document_id: paper for versions in papers.values() for paper in versions}
    current: dict[str, str] = {}
    begun, n_acknowledged, n_unfinished = lives.killed, 0, 0
    for kill in range(KILLS // 2):
        planned: list[tuple[str, str | None]] = []
        steps: list[list[str]] = []
        there = dict(current)
        for _ in range(8):
            name = chance.choice(NAMES)
            if name in there and chance.random() < 0.2:
                steps.append(["delete", there.pop(name), name])
                planned.append((name, None))
            else:
                paper = chance.choice(papers[name])
                steps.append(["ingest", str(paper.path), name])
                there[name] = paper.document_id
                planned.append((name, paper.document_id))
        told = lives.run("ingest", data_dir, steps, **after(kill, "ingest", chance, lives))
        told = [what for what in told if what[0] != "done"]
        assert all(what[0] != "ingested" or what[2] is not None for what in told), told
        n_acknowledged += len(told)

        for name, document_id in planned[: len(told)]:
            current = {**current, name: document_id} if document_id else {k: v for k, v in current.items() if k != name}
        allowed = [current]
        if len(told) < len(planned):  # in work when it was killed: done or not, nothing in between
            name, document_id = planned[len(told)]
            done = {key: value for key, value in current.items() if key != name}
            allowed.append({**done, name: document_id} if document_id else done)
        index = open_collection(data_dir, embedder)
        ready = check_whole(index, files_dir, by_id)
        assert ready in allowed, f"kill {kill}: {ready}, allowed: {allowed}, told: {told}"
        chunk_ids = sorted(chunk.id for document_id in ready.values() for chunk in by_id[document_id].chunks)
        assert recalled(index, embedder) == chunk_ids, f"kill {kill}: a question finds something else"
        n_unfinished += any(stored.state == "ingesting" for stored in index.documents())
        index.close()
        current = ready
    killed = lives.killed - begun
    print(f"{killed} kills, {n_acknowledged} steps acknowledged, after {n_unfinished} a document was unfinished")
    assert killed >= KILLS // 2 * 0.8, "most runs were done before their kill"
    assert n_acknowledged > 0


@dataclass
class Acknowledged:
    """What the killed apps said was done."""

    uploads: set[str] = field(default_factory=set)
    traces: dict[str, int] = field(default_factory=dict)
    """Number of ranked passages by trace id."""
    labels: set[tuple[str, str]] = field(default_factory=set)

    def hear(self, told: list[list[Any]]) -> None:
        for what in told:
            if what[0] == "submitted":
                self.uploads.add(what[1])
            elif what[0] == "answered":
                assert not [note for note in what[3] if "not kept" in note], what
                self.traces[what[1]] = what[2]
            elif what[0] == "labelled":
                self.labels.add((what[1], what[2]))


@pytest.mark.timeout(1800)
def test_killed_apps_lose_no_upload_question_or_label(
    lives: Lives, data_dir: Path, tmp_path: Path, embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(SEED + 1)
    shutil.rmtree(data_dir / "rerankers")  # there is no model in it
    folder = settings_of(data_dir).collection_dir
    files = [write_pdf(tmp_path / f"{n}.pdf", [sentences(1000 + n, 3)]) for n in range(KILLS - KILLS // 2)]
    ids = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:32] for path in files}
    said = Acknowledged()
    begun = lives.killed
    for kill, path in enumerate(files):
        steps = [["submit", str(path), path.name], ["ask", "What do parking permits cost?"]]
        chance.shuffle(steps)
        steps.append(["ask", sentences(1000 + chance.randint(0, kill), 1)])
        steps.append(["wait"])
        said.hear(lives.run("app", data_dir, steps, **after(kill, "app", chance, lives)))

        index = open_collection(data_dir, embedder)
        ready = {stored.document.id: stored for stored in index.documents() if stored.state == "ready"}
        assert index.count_chunks() == sum(stored.n_chunks for stored in ready.values())
        index.close()
        waiting = {}
        for card in (folder / "uploads").glob("*.json"):
            waiting[json.loads(card.read_bytes())["file"]] = card.with_suffix(".pdf").read_bytes()
        for name in said.uploads:
            kept = ids[name] in ready or waiting.get(name) == (tmp_path / name).read_bytes()
            assert kept, f"kill {kill}: {name} was taken, and is neither in the collection nor in the queue"
        if said.traces:
            with closing(SqlTraceStore.open_file(data_dir / "traces.sqlite")) as store:
                for trace_id, n_ranked in said.traces.items():
                    stored_trace = store.trace(trace_id)
                    assert stored_trace is not None, f"kill {kill}: a question that was answered is not kept"
                    assert len(stored_trace.trace.ranked) == n_ranked
                assert said.labels <= {(label.trace_id, label.chunk_id) for label in store.labels()}
            with closing(sqlite3.connect(data_dir / "traces.sqlite")) as database:
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        cache = ScoreCache(data_dir / "cache" / "scores.sqlite", limit_mb=10)
        cache.count()
        cache.close()
        assert "damaged" not in caplog.text

    killed = lives.killed - begun
    told = lives.run("app", data_dir, [["work"]])
    [worked] = [what for what in told if what[0] == "worked"]
    assert all(job[1] == "done" for job in worked[1]), worked
    index = open_collection(data_dir, embedder)
    sources = [stored.document.source for stored in index.documents() if stored.state == "ready"]
    assert len(sources) == len(set(sources)), "nothing is there twice"
    assert said.uploads <= set(sources)
    assert len(recalled(index, embedder)) == index.count_chunks()
    index.close()
    assert not [path for path in (folder / "uploads").iterdir() if path.suffix in (".pdf", ".json", ".part")]
    print(
        f"{killed} kills, {len(said.uploads)} uploads, {len(said.traces)} questions and {len(said.labels)} labels "
        f"acknowledged, {len(sources)} documents in the end"
    )
    assert killed >= len(files) * 0.6, "most runs were done before their kill"
    assert said.uploads
    assert said.traces
    assert said.labels
