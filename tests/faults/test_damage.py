"""Files of the data folder that were damaged, lost, or are of another version: named with a remedy, or made again."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ingest.queue import IngestQueue
from ingest.rebuild import find_originals, rebuild
from ingest.write import Ingester
from rag.__main__ import main
from rag.data_folder import FORMAT, FORMAT_FILE, REBUILT, WHOLE, put_in_place
from rag.engines.score_cache import ScoreCache
from rag.engines.trace_store import SqlTraceStore
from rag.errors import BadInput, CollectionDamaged, CollectionError, CollectionLocked, TracesUnavailable
from rag.floor_store import FloorStore
from rag.ports import Embedder
from rag.settings import load_settings
from rag.training.registry import RerankerRegistry
from rag.types import Relevance
from rag.wiring import open_index, open_trace_store
from tests.contracts.test_index import RANDOM
from tests.faults.folders import TEXTS, copy_of, open_collection, searchable, settings_of
from tests.ingest.written_pdfs import sentences, write_pdf

SEED = 37


def collection_of(data_dir: Path) -> Path:
    return settings_of(data_dir).collection_dir


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def deleted(path: Path) -> None:
    path.unlink()


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * min(64, path.stat().st_size))


def flipped(path: Path) -> None:
    """Eight bits of what is not empty space."""
    chance = random.Random(f"{SEED} {path.name}")
    n_bytes = max(len(path.read_bytes().rstrip(b"\0")), 1)
    with path.open("r+b") as file:
        for _ in range(8):
            at = chance.randrange(n_bytes)
            file.seek(at)
            old = file.read(1) or b"\0"
            file.seek(at)
            file.write(bytes([old[0] ^ (1 << chance.randrange(8))]))


DAMAGES: tuple[Callable[[Path], None], ...] = (truncated, emptied, deleted, overwritten, flipped)


def what_a_process_meets(data_dir: Path, vector: list[float]) -> str:
    """Open the collection, list it, search it and write to it in a fork: damage can end a process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the engine tells of its panics there
        signal.alarm(60)
        try:
            import numpy as np

            from rag.engines.qdrant_edge import EdgeIndex

            index = EdgeIndex.open(data_dir / "index", "manuals", RANDOM)
            texts = sorted(
                one.chunk.text for one in index.recall("apple", np.array(vector, dtype=np.float32), limit=100)
            )
            said = f"opened {texts}"
            index.close()
        except CollectionError as error:
            said = f"{type(error).__name__} {error}"
        except BaseException as error:
            said = f"raw {type(error).__name__} {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    status = os.waitpid(child, 0)[1]
    return said if not os.WIFSIGNALED(status) else f"died of signal {os.WTERMSIG(status)}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_damage_to_a_file_of_the_index_is_silent_or_fatal(tmp_path: Path) -> None:
    from rag.engines.qdrant_edge import EdgeIndex
    from tests.contracts.test_index import ingest, unit_vector

    index = EdgeIndex.open(tmp_path / "sound" / "index", "manuals", RANDOM)
    ingest(index, "manual", ["apple one", "apple two"])
    ingest(index, "book", ["pear apple"])
    vector = unit_vector().tolist()
    index.close()
    sound = f"opened {['apple one', 'apple two', 'pear apple']}"
    assert what_a_process_meets(tmp_path / "sound", vector) == sound

    files = sorted(
        path.relative_to(tmp_path / "sound")
        for path in (tmp_path / "sound" / "index").rglob("*")
        # Its indexes of the payload are made anew at each start, whatever is in them.
        if path.is_file() and not path.parent.name.endswith("-map") and "-null" not in str(path)
    )
    assert len(files) > 20
    chance = random.Random(SEED)
    cases = [(file, damage) for file in files for damage in DAMAGES]
    outcomes = {"sound": 0, "refused": 0}
    for number, (file, damage) in enumerate(chance.sample(cases, k=60)):
        damaged = copy_of(tmp_path / "sound", tmp_path / str(number))
        damage(damaged / file)
        met = what_a_process_meets(damaged, vector)
        shutil.rmtree(damaged)
        if met == sound:
            outcomes["sound"] += 1
        else:
            assert met.startswith("CollectionDamaged"), f"{file} {damage.__name__}: {met}"
            assert "python -m rag rebuild" in met, met
            outcomes["refused"] += 1
    print(outcomes)
    assert outcomes["refused"] > 10


def test_rebuilding_a_damaged_index_brings_every_document_back(
    data_dir: Path, sound_dir: Path, embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = searchable(sound_dir, embedder)
    for file in (collection_of(data_dir) / "index").rglob("segment.json"):
        file.write_bytes(b"\xff")
    with pytest.raises(CollectionDamaged, match="python -m rag rebuild"):
        open_collection(data_dir, embedder)
    originals = {path.name: path.read_bytes() for path in (collection_of(data_dir) / "files").iterdir()}
    outcomes = rebuild(settings_of(data_dir), embedder)
    assert [outcome.status for outcome in outcomes] == ["ingested"] * 3
    assert searchable(data_dir, embedder) == before, "with names, positions, texts and ids as they were"
    assert {path.name: path.read_bytes() for path in (collection_of(data_dir) / "files").iterdir()} == originals
    assert not (collection_of(data_dir) / REBUILT).exists()
    assert main(["rebuild", "--data-dir", str(data_dir)]) == 0
    assert "from 3 original files" in capsys.readouterr().out


def test_an_index_that_is_gone_is_no_empty_collection(data_dir: Path, embedder: Embedder) -> None:
    shutil.rmtree(collection_of(data_dir) / "index")
    with pytest.raises(CollectionDamaged, match="3 original files are kept.*python -m rag rebuild"):
        open_collection(data_dir, embedder)
    rebuild(settings_of(data_dir), embedder)
    assert set(searchable(data_dir, embedder)) == set(TEXTS)


def test_a_rebuild_that_is_stopped_leaves_the_earlier_index_and_continues(data_dir: Path, embedder: Embedder) -> None:
    before = searchable(data_dir, embedder)
    settings = settings_of(data_dir)
    taken: list[str] = []

    def stop_after_two(outcome: object) -> None:
        taken.append(str(outcome))
        if len(taken) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(settings, embedder, took=stop_after_two)  # type: ignore[arg-type]  # any outcome
    assert searchable(data_dir, embedder) == before
    statuses = [outcome.status for outcome in rebuild(settings, embedder)]
    assert sorted(statuses) == ["ingested", "unchanged", "unchanged"]
    assert searchable(data_dir, embedder) == before

    # Other settings make another index: nothing of the stopped one is used.
    taken.clear()
    with pytest.raises(KeyboardInterrupt):
        rebuild(settings, embedder, took=stop_after_two)  # type: ignore[arg-type]  # as above
    other = load_settings(data_dir=data_dir, chunk_tokens=60, chunk_overlap_tokens=0)
    assert [outcome.status for outcome in rebuild(other, embedder)] == ["ingested"] * 3


@pytest.mark.parametrize("stopped_at", ["before", "between", "after"])
def test_a_kill_while_the_new_index_takes_its_place_loses_nothing(
    data_dir: Path, embedder: Embedder, stopped_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = searchable(data_dir, embedder)
    folder = collection_of(data_dir)
    moves: list[Path] = []
    rename, rmtree = Path.rename, shutil.rmtree

    def stop(self: Path, target: Path) -> Path:
        if (folder / REBUILT / WHOLE).exists():
            moves.append(self)
            if len(moves) == {"before": 1, "between": 2, "after": 99}[stopped_at]:
                raise KeyboardInterrupt
        return rename(self, target)

    def stop_removing(path: Path, **options: bool) -> None:
        if path == folder / REBUILT:
            raise KeyboardInterrupt
        rmtree(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stop)
        if stopped_at == "after":
            patched.setattr(shutil, "rmtree", stop_removing)
        with pytest.raises(KeyboardInterrupt):
            rebuild(settings_of(data_dir), embedder)
    assert (folder / REBUILT / WHOLE).exists()
    assert searchable(data_dir, embedder) == before
    assert not (folder / REBUILT).exists()
    put_in_place(folder)  # nothing more to do


def test_a_damaged_original_is_told_and_stops_no_other(data_dir: Path, embedder: Embedder) -> None:
    first, *_ = find_originals(collection_of(data_dir) / "files")
    first.path.write_bytes(first.path.read_bytes() + b"more")
    outcomes = {outcome.file: outcome for outcome in rebuild(settings_of(data_dir), embedder)}
    assert outcomes[first.source].status == "refused"
    assert str(first.path) in outcomes[first.source].message
    assert first.path.exists()
    assert set(searchable(data_dir, embedder)) == set(TEXTS) - {first.source}
    assert main(["rebuild", "--data-dir", str(data_dir)]) == 3


def test_a_removal_that_had_begun_is_not_undone_by_a_rebuild(data_dir: Path, embedder: Embedder) -> None:
    files = collection_of(data_dir) / "files"
    first, *_ = find_originals(files)
    (files / f".{first.document_id}.leaving").touch()
    rebuild(settings_of(data_dir), embedder)
    assert set(searchable(data_dir, embedder)) == set(TEXTS) - {first.source}


def test_lost_or_damaged_names_cost_only_the_name(data_dir: Path, embedder: Embedder) -> None:
    names = collection_of(data_dir) / "names"
    first, second, third = sorted(names.iterdir())
    first.unlink()
    second.write_bytes(b"{")
    third.write_text(json.dumps({"source": "../../etc/passwd.pdf"}))
    rebuild(settings_of(data_dir), embedder)
    assert set(searchable(data_dir, embedder)) == {f"{first.stem}.pdf", f"{second.stem}.pdf", "passwd.pdf"}


def test_an_open_collection_is_not_rebuilt(data_dir: Path, embedder: Embedder) -> None:
    index = open_collection(data_dir, embedder)
    with pytest.raises(CollectionLocked):
        rebuild(settings_of(data_dir), embedder)
    index.close()


def test_without_originals_there_is_nothing_to_rebuild(tmp_path: Path, embedder: Embedder) -> None:
    with pytest.raises(BadInput, match="no original files.*rag restore"):
        rebuild(settings_of(tmp_path / "none"), embedder)


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten, flipped])
def test_damaged_traces_are_named_left_alone_and_cost_no_question(
    data_dir: Path, damage: Callable[[Path], None]
) -> None:
    path = data_dir / "traces.sqlite"
    damage(path)
    bytes_before = path.read_bytes()
    said = ""
    try:
        store = open_trace_store(settings_of(data_dir))
        assert store is not None
        with closing(store):
            list(store.traces())
            store.labels()
    except TracesUnavailable as error:
        said = str(error)
    if damage in (truncated, overwritten):  # an empty file is a new database, and SQLite has no checksums
        assert str(path) in said
        assert "move" in said
        assert path.read_bytes()[:512] == bytes_before[:512], "it is not replaced"


def test_a_damaged_score_cache_is_made_again_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, damage in enumerate((truncated, emptied, overwritten)):
        path = tmp_path / str(number) / "scores.sqlite"
        cache = ScoreCache(path, limit_mb=1)
        cache.write({bytes([n]) * 32: Relevance(1.0, 0.5, 1.0) for n in range(200)})
        cache.close()
        damage(path)
        again = ScoreCache(path, limit_mb=1)
        with caplog.at_level(logging.WARNING):
            again.read([b"\1" * 32])
            again.write({b"k" * 32: Relevance(1.0, 0.5, 1.0)})
            again.write({b"k" * 32: Relevance(1.0, 0.5, 1.0)})
        assert again.read([b"k" * 32])[b"k" * 32].score == 0.5
        again.close()


def test_a_folder_in_the_place_of_the_cache_costs_no_question(tmp_path: Path) -> None:
    (tmp_path / "scores.sqlite").mkdir()
    cache = ScoreCache(tmp_path / "scores.sqlite", limit_mb=1)
    cache.write({b"k" * 32: Relevance(1.0, 0.5, 1.0)})
    assert cache.read([b"k" * 32]) == {}


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten])
def test_damaged_floors_and_promotions_are_named_with_the_remedy(
    data_dir: Path, damage: Callable[[Path], None]
) -> None:
    floors, promoted = data_dir / "floors.json", data_dir / "rerankers" / "promoted.json"
    damage(floors)
    damage(promoted)
    with pytest.raises(CollectionError, match="floors.json can't be read.*mend it, or move it away"):
        FloorStore(floors).all()
    with pytest.raises(CollectionError, match="promoted.json can't be read.*mend it, or move it away"):
        RerankerRegistry(promoted.parent).serving()


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten, deleted])
def test_a_damaged_queue_card_ends_that_upload_only(
    data_dir: Path, tmp_path: Path, embedder: Embedder, damage: Callable[[Path], None]
) -> None:
    index = open_collection(data_dir, embedder)
    ingester = Ingester.from_settings(settings_of(data_dir), embedder, index)
    uploads = collection_of(data_dir) / "uploads"
    uploads.mkdir()
    for name in ("good", "bad"):
        write_pdf(uploads / f"{name}.pdf", [sentences(len(name), 2)])
        (uploads / f"{name}.json").write_text(json.dumps({"file": f"{name}.pdf", "starts": 0}))
    damage(uploads / "bad.json")
    queue = IngestQueue(ingester, uploads)
    assert queue.wait(60)
    assert [(job.file, job.state) for job in queue.jobs()] == [("good.pdf", "done")]
    queue.close()
    assert not [path for path in uploads.iterdir() if path.suffix in (".pdf", ".json", ".part")]
    index.close()


def test_a_newer_data_folder_is_refused_with_the_remedy(data_dir: Path, embedder: Embedder) -> None:
    (data_dir / FORMAT_FILE).write_text(json.dumps({"format": FORMAT + 1}))
    settings = settings_of(data_dir)
    opens: list[Callable[[], object]] = [
        lambda: open_index(settings, embedder.identity),
        lambda: open_trace_store(settings),
        lambda: rebuild(settings, embedder),
    ]
    for open_it in opens:
        with pytest.raises(CollectionError, match=rf"newer version.*format is {FORMAT + 1}.*update Rank37"):
            open_it()
    assert main(["backup", str(data_dir.parent / "a.zip"), "--data-dir", str(data_dir)]) == 1
    assert json.loads((data_dir / FORMAT_FILE).read_text()) == {"format": FORMAT + 1}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "two"}', '{"format": 0}', '{"format": true}'])
def test_a_damaged_format_file_is_named(data_dir: Path, embedder: Embedder, text: str) -> None:
    (data_dir / FORMAT_FILE).write_text(text)
    with pytest.raises(CollectionError, match=r"format.json can't be read.*\{\"format\": 2\}"):
        open_collection(data_dir, embedder)


def test_a_new_folder_has_this_versions_format(tmp_path: Path, embedder: Embedder) -> None:
    open_collection(tmp_path / "data", embedder).close()
    assert json.loads((tmp_path / "data" / FORMAT_FILE).read_text()) == {"format": FORMAT}


def test_an_sqlite_file_that_another_program_damaged_can_be_moved_away(data_dir: Path) -> None:
    path = data_dir / "traces.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(TracesUnavailable, match="move it away"):
        SqlTraceStore.open_file(path)
    path.rename(path.with_suffix(".damaged"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with closing(SqlTraceStore.open_file(path)) as store:
        assert store.count() == 0
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
