"""A backup holds everything that can't be computed again, and no damaged or hostile file is ever unpacked as one."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from rag.__main__ import main
from rag.backup import MANIFEST, back_up, restore
from rag.data_folder import FORMAT
from rag.engines.qdrant_points import QdrantIndex
from rag.engines.trace_store import SqlTraceStore
from rag.errors import BadInput, CollectionError, CollectionLocked
from rag.floor_store import FloorStore
from rag.ports import Embedder
from rag.training.registry import RerankerRegistry
from rag.wiring import hold_collection
from tests.faults.folders import TEXTS, open_collection, searchable, settings_of
from tests.rag.traces import answer_to, trace_of


def nobody(name: str) -> nullcontext[None]:
    """For folders that no other process knows of."""
    return nullcontext()


@pytest.fixture(scope="module")
def backup(sound_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("backups") / "data.zip"
    back_up(sound_dir, target, hold=nobody)
    return target


def kept_files(folder: Path) -> dict[str, str]:
    """Hash of each file that a backup is to hold; a database has other bytes and the same content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and not path.name.startswith("traces.sqlite")
    }


def test_what_is_restored_is_what_was_backed_up(
    sound_dir: Path, backup: Path, tmp_path: Path, embedder: Embedder
) -> None:
    content, earlier = restore(backup, tmp_path / "data", hold=nobody)
    assert earlier is None
    assert content.collections == ("documents",)
    assert kept_files(tmp_path / "data") == kept_files(sound_dir)
    assert searchable(tmp_path / "data", embedder) == searchable(sound_dir, embedder)
    assert set(searchable(tmp_path / "data", embedder)) == set(TEXTS)
    with (
        closing(SqlTraceStore.open_file(tmp_path / "data" / "traces.sqlite")) as restored,
        closing(SqlTraceStore.open_file(sound_dir / "traces.sqlite")) as original,
    ):
        assert list(restored.traces()) == list(original.traces()) != []
        assert restored.labels() == original.labels() != []
    assert FloorStore(tmp_path / "data" / "floors.json").all() == FloorStore(sound_dir / "floors.json").all() != []
    promoted = RerankerRegistry(tmp_path / "data" / "rerankers").current()
    assert promoted is not None
    assert promoted.name == "ours"


def test_a_restored_index_takes_no_more_disk_than_it_holds(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "data", hold=nobody)
    statuses = [path.stat() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert sum(status.st_size for status in statuses) > 100e6, "its files are mostly holes"
    assert sum(status.st_blocks * 512 for status in statuses) < 20e6


def test_caches_locks_and_unfinished_files_are_left_out(data_dir: Path, tmp_path: Path) -> None:
    left = ("cache/scores.sqlite", "collections/documents/files/.x.part", ".unfinished-1.json", "x.lock")
    for name in left:
        (data_dir / name).parent.mkdir(exist_ok=True)
        (data_dir / name).write_bytes(b"x")
    (data_dir / "elsewhere").symlink_to("/etc")
    content = back_up(data_dir, tmp_path / "a.zip", hold=nobody)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert not {f"data/{name}" for name in left} & set(archive.namelist())
        assert not [name for name in archive.namelist() if name.endswith((".lock", "-wal", "-shm"))]
    assert content.left_out == ("elsewhere",), "what is no plain file is told, and not followed"


def test_traces_written_meanwhile_are_whole(data_dir: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    store = SqlTraceStore.open_file(data_dir / "traces.sqlite")

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            trace = trace_of(f"more-{number}")
            store.add(trace, answer_to(trace), collection="documents")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        back_up(data_dir, tmp_path / "a.zip", hold=nobody)
    finally:
        stop.set()
        writer.join()
    n_written = store.count()
    store.close()
    restore(tmp_path / "a.zip", tmp_path / "b", hold=nobody)
    with closing(SqlTraceStore.open_file(tmp_path / "b" / "traces.sqlite")) as restored:
        assert 1 <= len(list(restored.traces())) == restored.count() <= n_written


def test_an_open_collection_is_refused_from_outside_and_held_still_from_within(
    data_dir: Path, tmp_path: Path, embedder: Embedder
) -> None:
    settings = settings_of(data_dir)
    index = open_collection(data_dir, embedder)
    assert isinstance(index, QdrantIndex)
    with pytest.raises(CollectionLocked, match="open in another process"):
        back_up(data_dir, tmp_path / "a.zip", hold=lambda name: hold_collection(settings))
    assert list(tmp_path.glob("*.zip")) == []

    # The app's own process copies between two writes.
    ids = [stored.document.id for stored in index.documents()]
    began, deleted = threading.Event(), threading.Event()

    def delete() -> None:
        began.wait(30)
        index.delete_document(ids[0])
        deleted.set()

    deleter = threading.Thread(target=delete)
    deleter.start()

    class Held:
        def __enter__(self) -> None:
            self.rest = index.at_rest()
            self.rest.__enter__()
            began.set()

        def __exit__(self, *error: object) -> None:
            assert not deleted.is_set(), "a write waits until the copy is made"
            self.rest.__exit__(None, None, None)

    back_up(data_dir, tmp_path / "a.zip", hold=lambda name: Held())
    deleter.join(30)
    assert len(index.documents()) == len(TEXTS) - 1
    index.close()
    restore(tmp_path / "a.zip", tmp_path / "b", hold=nobody)
    assert set(searchable(tmp_path / "b", embedder)) == set(TEXTS)


def test_a_folder_that_is_not_empty_is_kept_unless_forced(
    backup: Path, data_dir: Path, tmp_path: Path, embedder: Embedder
) -> None:
    (data_dir / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty.*--force"):
        restore(backup, data_dir, hold=nobody)
    assert (data_dir / "mine.txt").exists()
    _, earlier = restore(backup, data_dir, hold=nobody, force=True)
    assert earlier is not None
    assert (earlier / "mine.txt").read_text() == "mine"
    assert not (data_dir / "mine.txt").exists()
    assert set(searchable(data_dir, embedder)) == set(TEXTS)
    index = open_collection(data_dir, embedder)
    with pytest.raises(CollectionLocked):
        restore(backup, data_dir, hold=lambda name: hold_collection(settings_of(data_dir)), force=True)
    index.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["data", earlier.name]), "nothing is left over"


def test_a_backup_never_replaces_a_file_nor_lies_in_what_it_keeps(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("mine")
    with pytest.raises(BadInput, match="exists already"):
        back_up(data_dir, tmp_path / "a.zip", hold=nobody)
    with pytest.raises(BadInput, match="lies in the data folder"):
        back_up(data_dir, data_dir / "a.zip", hold=nobody)
    with pytest.raises(BadInput, match="no data folder"):
        back_up(tmp_path / "nothing", tmp_path / "b.zip", hold=nobody)


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The archive with changed members."""
    with zipfile.ZipFile(source) as archive:
        # The large files of an index are zeros: without them a copy is quick, and as good for being refused.
        members = {name: archive.read(name) for name in archive.namelist() if archive.getinfo(name).file_size < 1e6}
        manifest = json.loads(members[MANIFEST])
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if f"data/{name}" in members}
    members[MANIFEST] = json.dumps(manifest).encode()
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def with_manifest(**fields: object) -> Callable[[dict[str, bytes]], object]:
    def change(members: dict[str, bytes]) -> None:
        members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), **fields}).encode()

    return change


def with_file(name: str, data: bytes = b"x", *, size: int | None = None) -> Callable[[dict[str, bytes]], object]:
    """A file that the manifest knows, with its true hash."""

    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["files"][name] = [len(data) if size is None else size, hashlib.sha256(data).hexdigest()]
        members[f"data/{name}"] = data
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def test_a_rewritten_archive_is_a_good_one_unless_it_is_changed(backup: Path, tmp_path: Path) -> None:
    content, _ = restore(rewritten(backup, tmp_path / "b.zip", with_file("note.txt")), tmp_path / "data", hold=nobody)
    assert (tmp_path / "data" / "note.txt").read_bytes() == b"x"
    assert content.format == FORMAT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda members: members.update({"data/floors.json": b"{}"}), "floors.json' is not what its manifest says"),
        (lambda members: members.pop("data/floors.json"), "exactly the files of its manifest"),
        (lambda members: members.update({"data/more.txt": b"x"}), "exactly the files of its manifest"),
        (lambda members: members.pop(MANIFEST), "no manifest.json"),
        (lambda members: members.update({MANIFEST: b"{"}), "manifest.json can't be read"),
        (lambda members: members.update({MANIFEST: b"[]"}), "manifest.json can't be read"),
        (with_manifest(files={"a": 1}), "manifest.json can't be read"),
        (with_manifest(rank37_backup=2), "version 2.*update Rank37"),
        (with_manifest(format=FORMAT + 1), f"format is {FORMAT + 1}.*update Rank37"),
        (with_manifest(folders=["../out"]), "'../out' is no file name"),
        (with_file("../out.txt"), "'data/../out.txt' is no file name"),
        (with_file("/etc/out.txt"), "'data//etc/out.txt' is no file name"),
        (with_file("a/../../../out.txt"), "is no file name"),
        (with_file("..\\out.txt"), "is no file name"),
        (with_file("C:out.txt"), "is no file name"),
        (with_file("bomb.txt", b"x" * 100, size=10), "not what its manifest says"),
        (with_file("short.txt", b"x" * 100, size=1000), "not what its manifest says"),
    ],
)
def test_a_tampered_archive_is_refused_and_changes_nothing(
    backup: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], object], said: str
) -> None:
    bad = rewritten(backup, tmp_path / "b.zip", change)
    with pytest.raises(BadInput, match=said):
        restore(bad, tmp_path / "inner" / "data", hold=nobody)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [bad]


def test_a_link_in_an_archive_is_refused(backup: Path, tmp_path: Path) -> None:
    bad = rewritten(backup, tmp_path / "b.zip", lambda members: None)
    with zipfile.ZipFile(bad, "a") as archive:
        link = zipfile.ZipInfo("data/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadInput, match="'data/link' is no plain file"):
        restore(bad, tmp_path / "data", hold=nobody)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(backup: Path, tmp_path: Path) -> None:
    bad = rewritten(backup, tmp_path / "b.zip", lambda members: None)
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr("data/floors.json", "{}")
    with pytest.raises(BadInput, match="there twice"):
        restore(bad, tmp_path / "data", hold=nobody)


@pytest.fixture
def damaged(backup: Path, tmp_path: Path) -> Callable[[Callable[[bytes], bytes]], Path]:
    small = rewritten(backup, tmp_path / "small.zip", lambda members: None)

    def damage(change: Callable[[bytes], bytes]) -> Path:
        small.write_bytes(change(small.read_bytes()))
        return small

    return damage


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused(damaged: Callable[..., Path], tmp_path: Path, share: float) -> None:
    bad = damaged(lambda data: data[: int(len(data) * share)])
    with pytest.raises(BadInput, match="no whole backup.*nothing was changed"):
        restore(bad, tmp_path / "data", hold=nobody)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("at", range(20))
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing_that_counts(
    damaged: Callable[..., Path], tmp_path: Path, at: int
) -> None:
    def flip(data: bytes) -> bytes:
        place = len(data) * at // 20 + 7
        return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]

    good, _ = restore(damaged(lambda data: data), tmp_path / "good", hold=nobody)
    try:
        restore(damaged(flip), tmp_path / "data", hold=nobody)
    except BadInput:
        assert not (tmp_path / "data").exists()
    else:  # in a date, or another field that nobody reads
        assert kept_files(tmp_path / "data") == kept_files(tmp_path / "good")


def test_the_commands_say_what_they_did(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data-dir", str(data_dir)]
    assert main(["backup", str(tmp_path / "a.zip"), *arguments]) == 0
    assert "collections: documents" in capsys.readouterr().out
    assert main(["backup", str(tmp_path / "a.zip"), *arguments]) == 2
    assert main(["restore", str(tmp_path / "a.zip"), *arguments]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "a.zip"), *arguments, "--force"]) == 0
    assert "delete it when all is well" in capsys.readouterr().out
    assert main(["restore", str(tmp_path / "none.zip"), "--data-dir", str(tmp_path / "new")]) == 2


def test_a_place_that_can_t_be_written_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CollectionError, match="file.*name another place"):
        back_up(data_dir, tmp_path / "file" / "a.zip", hold=nobody)
