"""What only the embedded index has: a folder, its lock, damage to it, and processes that are killed."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import CollectionDamaged, CollectionError, CollectionLocked
from tests.contracts.test_index import RANDOM, document_id, ingest, recalled_texts, unit_vector

REPOSITORY = Path(__file__).parents[2]

HOLDER = """
import sys
from pathlib import Path
from rag.engines.qdrant_edge import EdgeIndex
from tests.contracts.test_index import RANDOM
index = EdgeIndex.open(Path(sys.argv[1]), "manuals", RANDOM)
print("open", flush=True)
sys.stdin.read()
"""

N_CHUNKS = 40
WRITER = """
import sys
import time
from pathlib import Path
from rag.engines.qdrant_edge import EdgeIndex
from tests.contracts.test_index import RANDOM, chunks_of, document_id, stored, unit_vectors
folder, n_chunks, start = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
index = EdgeIndex.open(folder, "manuals", RANDOM)
print("open", flush=True)
for number in range(start, start + 100_000):
    # Every fourth document stays; the others are replaced by the next one.
    name, record = f"document {number}", stored(f"document {number}", n_chunks)
    chunks = chunks_of(name, [f"apple {name} {position}" for position in range(n_chunks)])
    index.begin_document(record)
    for first in range(0, n_chunks, 4):
        time.sleep(0.01)  # embedding takes longer
        index.add_chunks(chunks[first : first + 4], unit_vectors(4, seed=first))
    replaced = [document_id(f"document {number - 1}")] if number % 4 else []
    index.publish_document(record, replaces=replaced)
    print(number, flush=True)
"""


def ready_after(last: int) -> set[str]:
    """The documents left when number `last` is published: the last of each row of four, and `last` itself."""
    return {f"document {number}" for number in range(last + 1) if number == last or number % 4 == 3}


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "collections" / "manuals" / "index"


@pytest.fixture
def index(folder: Path) -> Iterator[EdgeIndex]:
    index = EdgeIndex.open(folder, "manuals", RANDOM)
    yield index
    index.close()


def test_a_second_open_is_refused_with_both_remedies(index: EdgeIndex, folder: Path) -> None:
    with pytest.raises(CollectionLocked, match="use the running app.*QDRANT_URL"):
        EdgeIndex.open(folder, "manuals", RANDOM)
    ingest(index, "manual", ["apple"])
    assert recalled_texts(index, "apple") == ["apple"]


def test_a_folder_open_in_another_process_is_refused_until_that_one_ends(folder: Path) -> None:
    holder = run(HOLDER, str(folder))
    assert holder.stdout
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(CollectionLocked, match="use the running app.*QDRANT_URL"):
        EdgeIndex.open(folder, "manuals", RANDOM)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    EdgeIndex.open(folder, "manuals", RANDOM).close()


def test_two_first_starts_at_once_make_one_collection(folder: Path) -> None:
    holders = [run(HOLDER, str(folder)) for _ in range(2)]
    answers = [holder.stdout.readline() for holder in holders if holder.stdout]
    for holder in holders:
        holder.communicate()
    assert "open\n" in answers
    assert sorted(path.name for path in folder.parent.iterdir()) == ["index", "index.lock"]
    index = EdgeIndex.open(folder, "manuals", RANDOM)
    ingest(index, "manual", ["apple"])
    index.close()


def test_killed_writers_lose_nothing_acknowledged_and_leave_nothing_half(folder: Path) -> None:
    moments = random.Random(37)
    acknowledged = published = -1
    n_unfinished = 0
    for trial in range(6):
        writer = run(WRITER, str(folder), str(N_CHUNKS), str(published + 1))
        assert writer.stdout
        assert writer.stdout.readline() == "open\n"
        if trial % 2:  # so that a slow machine gets as far as acknowledging, too
            acknowledged = int(writer.stdout.readline())
        time.sleep(moments.uniform(0.02, 0.8))
        writer.send_signal(signal.SIGKILL)
        for line in writer.communicate()[0].splitlines():
            acknowledged = int(line)

        index = EdgeIndex.open(folder, "manuals", RANDOM)
        documents = {item.document.title: item for item in index.documents()}
        ready = {title for title, item in documents.items() if item.state == "ready"}
        n_unfinished += len(documents) - len(ready)
        # The writer may have been killed between publishing the next document and saying so.
        assert ready in (ready_after(published := max(published, acknowledged)), ready_after(published + 1))
        published += ready != ready_after(published)
        for title in ready:
            assert len(index.chunks(document_id(title))) == documents[title].n_chunks == N_CHUNKS
        assert index.count_chunks() == N_CHUNKS * len(ready)
        found = {candidate.chunk.title for candidate in index.recall("apple", unit_vector(), limit=1000)}
        assert found <= ready
        for title in sorted(ready):
            assert len(recalled_texts(index, "apple", document_ids=[document_id(title)])) == N_CHUNKS
        index.close()
    print(f"{acknowledged + 1} documents acknowledged, {n_unfinished} found unfinished after a kill")
    assert acknowledged > 0


@pytest.mark.parametrize(
    ("damaged_file", "damage"),
    [
        ("edge_config.json", b"{"),
        ("wal/first-index", b"garbage"),
        ("segments/*/segment.json", b""),
        ("segments/*/version.info", b"\xff\xfe"),
        ("segments/*/payload_storage/config.json", b"{}"),
        ("segments/*/mutable_id_tracker.mappings", b"garbage" * 20),
    ],
)
def test_a_damaged_folder_is_refused_with_the_remedy(folder: Path, damaged_file: str, damage: bytes) -> None:
    index = EdgeIndex.open(folder, "manuals", RANDOM)
    ingest(index, "manual", ["apple"])
    index.close()
    [file] = folder.glob(damaged_file)
    file.write_bytes(damage)
    with pytest.raises(CollectionDamaged, match="python -m rag rebuild"):
        EdgeIndex.open(folder, "manuals", RANDOM)


def test_an_empty_folder_in_the_place_of_the_collection_is_filled(folder: Path) -> None:
    folder.mkdir(parents=True)
    index = EdgeIndex.open(folder, "manuals", RANDOM)
    ingest(index, "manual", ["apple"])
    assert recalled_texts(index, "apple") == ["apple"]
    index.close()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(CollectionError, match="data.*RANK37_DATA_DIR"):
        EdgeIndex.open(tmp_path / "data" / "index", "manuals", RANDOM)


def test_the_engine_is_named_with_its_version(index: EdgeIndex) -> None:
    assert index.info.name == "Qdrant Edge"
    assert index.info.revision == "0.9.0"
    assert index.info.sends_data_to == ""
