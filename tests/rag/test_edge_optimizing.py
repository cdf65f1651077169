"""The embedded index optimized: what it finds, what is written meanwhile, and processes that are killed on the way."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.backup import back_up, restore
from rag.engines import edge_folder, edge_optimizer, qdrant_edge
from rag.engines.edge_folder import SERVES_FILE, serving_folder
from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import CollectionDamaged, CollectionError
from rag.ports import Vectors
from rag.settings import Settings
from rag.types import EmbedderIdentity
from rag.wiring import hold_collection
from tests.contracts.test_index import document_id, ingest, unit_vectors

REPOSITORY = Path(__file__).parents[2]
DIMENSION = 64
MADE_UP = EmbedderIdentity("made up", "1", DIMENSION)
N_CHUNKS = 3000
N_SMALL = 30
"""Chunks of a small document."""

OPTIMIZER = """
import sys, time
from pathlib import Path
from rag.engines import edge_folder, edge_optimizer, qdrant_edge
from rag.types import EmbedderIdentity
moment = sys.argv[2]
def stand_still(*_arguments, **_options):
    print(moment, flush=True)
    time.sleep(600)
if moment == "child":
    edge_optimizer.optimize_here = stand_still
    sys.argv[2] = "64"
    edge_optimizer.main()
index = qdrant_edge.EdgeIndex.open(Path(sys.argv[1]), "manuals", EmbedderIdentity("made up", "1", 64))
if moment == "before serving":
    qdrant_edge.serve_from = stand_still
if moment == "before dropping":
    qdrant_edge.drop_others = stand_still
index.optimize(lambda stage: stand_still() if stage == moment else None)
"""


def vectors_of(n: int, seed: int = 0) -> Vectors:
    return unit_vectors(n, DIMENSION, seed)


def texts_of(n: int) -> list[str]:
    return [f"apple pear w{number}" for number in range(n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "collections" / "manuals" / "index"


@pytest.fixture
def index(folder: Path) -> Iterator[EdgeIndex]:
    """A large and a small document, not optimized."""
    index = EdgeIndex.open(folder, "manuals", MADE_UP)
    ingest(index, "large", texts_of(N_CHUNKS), vectors_of(N_CHUNKS))
    ingest(index, "small", texts_of(N_SMALL), vectors_of(N_SMALL, seed=1))
    yield index
    index.close()


def optimize_here(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Let optimizing run in this process, with something that happens before it is done."""

    def optimize(copy: Path, dimension: int, *, stop: Callable[[], object]) -> None:
        edge_optimizer.optimize_here(copy, dimension)
        meanwhile()
        stop()

    monkeypatch.setattr(qdrant_edge, "optimize_copy", optimize)


def found(index: EdgeIndex, vector: "np.ndarray", words: str = "", limit: int = 100) -> list[str]:
    return [candidate.chunk.id for candidate in index.recall(words, vector, limit=limit)]


def everything(index: EdgeIndex) -> dict[str, tuple[object, ...]]:
    """All that the index holds of documents and chunks."""
    return {stored.document.id: (stored, *index.chunks(stored.document.id)) for stored in index.documents()}


def test_an_optimized_index_finds_what_an_exact_search_finds(index: EdgeIndex, folder: Path) -> None:
    asked = vectors_of(20, seed=2)
    exact = [found(index, vector) for vector in asked]
    hybrid = [found(index, vector, "w7 w1234") for vector in asked]
    held = everything(index)
    # The two documents and the collection have a record each.
    assert index.unoptimized_chunks() == N_CHUNKS + N_SMALL + 3
    stages: list[str] = []
    index.optimize(stages.append)
    assert stages == ["copying", "optimizing", "catching up"]
    assert index.unoptimized_chunks() == 0
    assert serving_folder(folder) != folder
    assert everything(index) == held
    shares = [len(set(found(index, vector)) & set(best)) / 100 for vector, best in zip(asked, exact, strict=True)]
    assert np.mean(shares) >= 0.98
    shares = [
        len(set(found(index, vector, "w7 w1234")) & set(best)) / 100 for vector, best in zip(asked, hybrid, strict=True)
    ]
    assert np.mean(shares) >= 0.98
    # One folder and the file that names it are all that is left, also after it was opened again.
    assert sorted(path.name for path in folder.iterdir()) == sorted([serving_folder(folder).name, SERVES_FILE])
    index.close()
    again = EdgeIndex.open(folder, "manuals", MADE_UP)
    assert everything(again) == held
    again.close()


def test_a_filter_that_keeps_few_chunks_finds_exactly_those(index: EdgeIndex) -> None:
    index.optimize()
    of_small = {chunk.id for chunk in index.chunks(document_id("small"))}
    for vector in vectors_of(5, seed=3):
        within = index.recall("", vector, limit=100, document_ids=[document_id("small")])
        assert {candidate.chunk.id for candidate in within} == of_small
        within = index.recall("apple", vector, limit=100, document_ids=[document_id("small")])
        assert {candidate.chunk.id for candidate in within} == of_small


def test_what_comes_and_goes_after_optimizing_is_found_and_is_not(index: EdgeIndex) -> None:
    index.optimize()
    new = ingest(index, "new", ["a plum"], vectors_of(1, seed=4))
    assert found(index, vectors_of(1, seed=4)[0])[0] == new[0].id
    assert index.unoptimized_chunks() == 2  # the chunk, and its document's record
    index.delete_document(document_id("large"))
    assert len(found(index, vectors_of(1)[0], "apple", limit=200)) == N_SMALL + 1
    index.optimize()
    assert index.count_chunks() == N_SMALL + 1
    assert len(found(index, vectors_of(1)[0], "apple", limit=200)) == N_SMALL + 1


def test_what_is_written_while_it_is_optimized_is_in_the_new_index(
    index: EdgeIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        ingest(index, "new", texts_of(600), vectors_of(600, seed=5))
        ingest(index, "small", texts_of(N_SMALL + 5), vectors_of(N_SMALL + 5, seed=6))
        index.delete_document(document_id("large"))
        ingest(index, "large", texts_of(10), vectors_of(10, seed=7))
        ingest(index, "begun and replaced", ["a fig"], vectors_of(1, seed=8))
        ingest(index, "replacing", ["a date"], vectors_of(1, seed=9), replaces=[document_id("begun and replaced")])

    optimize_here(monkeypatch, change)
    index.optimize()
    names = {"new": 600, "small": N_SMALL + 5, "large": 10, "replacing": 1}
    held = everything(index)
    assert {stored.document.title: stored.n_chunks for stored in index.documents()} == names
    assert {stored.document.title: len(index.chunks(stored.document.id)) for stored in index.documents()} == names
    assert len(found(index, vectors_of(1)[0], limit=1000)) == sum(names.values())
    index.close()
    again = EdgeIndex.open(folder, "manuals", MADE_UP)
    assert serving_folder(folder) != folder
    assert everything(again) == held
    again.close()


def test_questions_are_answered_and_files_taken_meanwhile(index: EdgeIndex) -> None:
    worker = threading.Thread(target=index.optimize)
    worker.start()
    n_answers = n_written = 0
    while worker.is_alive():
        assert len(found(index, vectors_of(1)[0], "apple")) == 100
        ingest(index, f"new {n_written}", ["a plum"], vectors_of(1, seed=100 + n_written))
        n_answers, n_written = n_answers + 1, n_written + 1
    worker.join()
    assert n_answers > 1
    assert index.count_chunks() == N_CHUNKS + N_SMALL + n_written
    for number in range(n_written):
        [candidate, *_] = index.recall("", vectors_of(1, seed=100 + number)[0], limit=1)
        assert candidate.chunk.title == f"new {number}"


def test_two_at_once_are_refused(index: EdgeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def again() -> None:
        with pytest.raises(CollectionError, match="being optimized already"):
            index.optimize()
        refused.append(True)

    optimize_here(monkeypatch, again)
    index.optimize()
    assert refused == [True]


def test_a_killed_child_leaves_the_old_index(index: EdgeIndex, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = everything(index)
    popen = subprocess.Popen

    def killed(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        child = popen(command, **options)  # type: ignore[call-overload]
        child.kill()
        return child

    monkeypatch.setattr(edge_optimizer.subprocess, "Popen", killed)
    with pytest.raises(CollectionError, match=r"was not optimized \(exit -9.*serves as before"):
        index.optimize()
    assert serving_folder(folder) == folder
    assert not [path for path in folder.iterdir() if path.name.startswith("quick-")]
    ingest(index, "new", ["a plum"], vectors_of(1, seed=4))
    assert len(everything(index)) == len(held) + 1
    monkeypatch.undo()
    index.optimize()
    assert index.unoptimized_chunks() == 0


@pytest.mark.parametrize(
    ("moment", "is_new"),
    [("optimizing", False), ("catching up", False), ("before serving", False), ("before dropping", True)],
)
def test_a_killed_parent_leaves_the_old_index_or_the_new_one(folder: Path, moment: str, is_new: bool) -> None:
    index = EdgeIndex.open(folder, "manuals", MADE_UP)
    ingest(index, "small", texts_of(N_SMALL), vectors_of(N_SMALL))
    held = everything(index)
    index.close()
    parent = subprocess.Popen(
        [sys.executable, "-c", OPTIMIZER, str(folder), moment], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    assert parent.stdout.readline() == f"{moment}\n"
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert len([path for path in folder.iterdir() if path.name.startswith("quick-")]) == 1
    survivor = EdgeIndex.open(folder, "manuals", MADE_UP)
    assert everything(survivor) == held
    assert (serving_folder(folder) != folder) is is_new
    # What counts no more is gone.
    assert (folder / "segments").exists() is not is_new
    assert len([path for path in folder.iterdir() if path.name.startswith("quick-")]) == is_new
    survivor.optimize()
    assert everything(survivor) == held
    survivor.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_the_child_ends_with_its_parent(folder: Path) -> None:
    program = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2], 'child'], "
        "env={**os.environ, 'RANK37_PARENT': str(os.getpid())})\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, OPTIMIZER, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "child\n"
    parent.kill()
    parent.wait()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child goes on without its parent")
    parent.stdout.close()


def test_closing_ends_what_is_under_way(index: EdgeIndex, folder: Path) -> None:
    errors: list[CollectionError] = []
    begun = threading.Event()

    def optimize() -> None:
        try:
            index.optimize(lambda stage: begun.set() if stage == "optimizing" else None)
        except CollectionError as error:
            errors.append(error)

    worker = threading.Thread(target=optimize)
    worker.start()
    assert begun.wait(30)
    index.close()
    worker.join(30)
    assert "was closed while it was being optimized" in str(errors[0])
    again = EdgeIndex.open(folder, "manuals", MADE_UP)
    assert again.count_chunks() == N_CHUNKS + N_SMALL
    assert serving_folder(folder) == folder
    again.close()


def test_without_room_nothing_is_begun(index: EdgeIndex, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_room(_folder: Path, what: str, *, to_write_bytes: int = 0) -> None:
        asked.append(to_write_bytes)
        raise CollectionError(f"{what} can't be written: the disk has no room")

    monkeypatch.setattr(qdrant_edge, "check_room", no_room)
    with pytest.raises(CollectionError, match="an optimized copy of collection 'manuals'.*no room"):
        index.optimize()
    assert asked == [int(2.5 * edge_folder.size_bytes(folder))]
    assert not [path for path in folder.iterdir() if path.name.startswith("quick-")]


def test_it_is_due_once_enough_came_and_again_once_it_has_grown_by_a_tenth(
    index: EdgeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize_here(monkeypatch)
    all_points = N_CHUNKS + N_SMALL + 3
    assert index.is_due(all_points)
    assert not index.is_due(all_points + 1)
    assert not index.is_due(0)
    index.optimize()
    ingest(index, "new", texts_of(300), vectors_of(300, seed=5))
    # 301 points came, and a tenth of 3,330 chunks is 333.
    assert not index.is_due(100)
    ingest(index, "newer", texts_of(100), vectors_of(100, seed=6))
    # 402 points came, and a tenth of 3,430 chunks is 343.
    assert index.is_due(100)
    assert not index.is_due(403)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"folder": "../elsewhere"}', b'{"folder": 7}', b"\xff"])
def test_a_damaged_note_of_what_serves_is_told_with_the_remedy(
    index: EdgeIndex, folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize_here(monkeypatch)
    index.optimize()
    index.close()
    (folder / SERVES_FILE).write_bytes(content)
    with pytest.raises(CollectionDamaged, match="serves.json.*python -m rag rebuild"):
        EdgeIndex.open(folder, "manuals", MADE_UP)
    with qdrant_edge.held(folder, "manuals"):  # so that it can be made again
        pass


def test_a_copy_that_is_gone_is_damage(index: EdgeIndex, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimize_here(monkeypatch)
    index.optimize()
    index.close()
    serving_folder(folder).rename(folder.parent / "elsewhere")
    with pytest.raises(CollectionDamaged, match="python -m rag rebuild"):
        EdgeIndex.open(folder, "manuals", MADE_UP)


def test_a_backup_holds_an_optimized_index_and_no_unfinished_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize_here(monkeypatch)
    settings = Settings(data_dir=tmp_path / "data", collection="manuals")
    index = EdgeIndex.open(settings.collection_dir / "index", "manuals", MADE_UP)
    ingest(index, "small", texts_of(N_SMALL), vectors_of(N_SMALL))
    index.optimize()
    held = everything(index)
    index.close()
    unfinished = edge_folder.new_copy(settings.collection_dir / "index")
    unfinished.mkdir()
    (unfinished / "edge_config.json").write_text("{}")
    back_up(settings.data_dir, tmp_path / "data.zip", hold=lambda name: hold_collection(settings))
    assert not unfinished.exists()
    restore(tmp_path / "data.zip", tmp_path / "restored", hold=lambda name: hold_collection(settings))
    folder = tmp_path / "restored" / "collections" / "manuals" / "index"
    again = EdgeIndex.open(folder, "manuals", MADE_UP)
    assert serving_folder(folder) != folder
    assert everything(again) == held
    again.close()
