"""The SQLite file of traces: damage, deleted words, passwords, several processes, a kill."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rag.engines.trace_store import SqlTraceStore
from rag.errors import BadInput, TracesUnavailable
from rag.settings import load_settings
from tests.rag.traces import answer_to, chunk, trace_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqlTraceStore]:
    with closing(SqlTraceStore.open_file(path)) as store:
        yield store


def add(store: SqlTraceStore, name: str, **how: object) -> None:
    trace = trace_of(name, **how)  # type: ignore[arg-type]
    store.add(trace, answer_to(trace), collection="documents")


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize("content", [b"no database at all, but a text\n" * 200, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_named_with_the_remedy_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(TracesUnavailable, match=r"traces\.sqlite can't be opened .*move it away"):
        SqlTraceStore.open_file(path)
    assert path.read_bytes() == content


def test_damage_within_is_an_error_and_no_nonsense(store: SqlTraceStore, path: Path) -> None:
    add(store, "t1")
    for damage in ("UPDATE traces SET body = x'00'", "DELETE FROM trace_passages", "DELETE FROM trace_schema"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(damage)
        with pytest.raises(TracesUnavailable, match="damaged: move it away|are damaged"):
            store.trace("t1") if "schema" not in damage else add(store, "t2")


def test_deleted_words_are_gone_from_the_file(store: SqlTraceStore, path: Path) -> None:
    add(store, "t1", question="Who is the mole in the finance team?", documents=("public", "secret"))
    store.label("t1", "right", chunk_id="public-term 0")
    store.label("t1", "wrong", chunk_id="secret-term 1")
    assert b"mole in the finance" in bytes_on_disk(path), "the question is a readable column"
    label = b"of the secret"
    assert label in bytes_on_disk(path), "the label holds the passage"
    store.forget_document("secret", collection="documents")
    assert label not in bytes_on_disk(path)
    store.delete("t1")
    assert b"mole in the finance" not in bytes_on_disk(path)
    assert b"of the public" not in bytes_on_disk(path)


def test_deleting_gives_the_room_back(store: SqlTraceStore, path: Path) -> None:
    for number in range(30):
        passages = [chunk(os.urandom(2000).hex()) for _ in range(5)]
        add(store, f"t{number}", passages=passages, scores=[0.5] * 5)
    store.delete("none")  # ends with a checkpoint
    full = path.stat().st_size
    store.delete_all()
    assert path.stat().st_size < full / 4


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://someone:hush-hush@127.0.0.1:9/traces"
    monkeypatch.setenv("RANK37_TRACES_URL", url)
    settings = load_settings()
    assert "hush-hush" not in repr(settings)
    with pytest.raises(TracesUnavailable) as raised:
        SqlTraceStore.open(url)
    assert "hush-hush" not in str(raised.value)
    assert "postgresql+psycopg://someone:***@127.0.0.1:9/traces" in str(raised.value)
    assert raised.value.__suppress_context__, "nor is it in the traceback"


@pytest.mark.parametrize("url", ["hush-hush", "postgresql//u:hush-hush@host", "nosuch://u:hush-hush@host/d"])
def test_what_is_no_url_is_bad_input_that_does_not_repeat_it(url: str) -> None:
    with pytest.raises(BadInput, match="RANK37_TRACES_URL") as raised:
        SqlTraceStore.open(url)
    assert "hush-hush" not in str(raised.value)


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(BadInput, match="keeps nothing"):
        SqlTraceStore.open("sqlite://")


def test_a_file_can_be_named_by_its_url(path: Path) -> None:
    with closing(SqlTraceStore.open(f"sqlite:///{path}")) as store:
        assert store.where == str(path)
    assert path.exists()


def test_statements_and_texts_are_not_in_an_error(store: SqlTraceStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE traces")
    with pytest.raises(TracesUnavailable) as raised:
        add(store, "t1", question="A secret question?")
    assert "no such table: traces" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "INSERT" not in str(raised.value)


WRITER = """
import sys
from pathlib import Path
from rag.engines.trace_store import SqlTraceStore
from tests.rag.traces import answer_to, trace_of
store = SqlTraceStore.open_file(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    trace = trace_of(f"{sys.argv[2]}-{number}")
    store.add(trace, answer_to(trace), collection="documents")
    print(number, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_processes_that_start_on_a_new_file_at_once_all_write(path: Path) -> None:
    writers = [writer(path, name, 10) for name in "abc"]
    assert [one.wait(60) for one in writers] == [0, 0, 0]
    for one in writers:
        assert one.stdout
        one.stdout.close()
    with closing(SqlTraceStore.open_file(path)) as store:
        assert store.count() == 3 * 10
        assert all(len(one.trace.ranked) == 4 for one in store.traces())


def test_what_was_kept_survives_a_kill(path: Path) -> None:
    process = writer(path, "k", 100_000)
    assert process.stdout
    for _ in range(5):
        process.stdout.readline()
    process.kill()
    n_told = 5 + len(process.stdout.readlines())
    process.wait(60)
    process.stdout.close()
    with closing(SqlTraceStore.open_file(path)) as store:
        assert store.count() >= n_told
        assert all(one.outcome == answer_to(one.trace) for one in store.traces())
