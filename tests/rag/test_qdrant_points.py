"""The life of a document, cut off before each single write, and values as points."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from rag.engines.qdrant_edge import EdgeIndex, EdgeStore
from rag.engines.qdrant_points import (
    Hit,
    NewPoint,
    Payload,
    PointStore,
    QdrantIndex,
    Selection,
    SparseWeights,
    chunk_of,
    document_of,
    document_weights,
    query_weights,
)
from rag.engines.qdrant_server import ServerIndex, ServerStore
from rag.errors import CollectionDamaged
from rag.types import EngineInfo
from tests.contracts.test_index import RANDOM, chunks_of, document_id, ingest, recalled_texts, stored, unit_vectors


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


class MortalStore:
    """A `PointStore` that dies before its n-th write."""

    def __init__(self, inner: PointStore, n_writes: int) -> None:
        self._inner = inner
        self._writes_left = n_writes

    def _live(self) -> None:
        if self._writes_left == 0:
            raise Killed
        self._writes_left -= 1

    def write(self, points: Sequence[NewPoint], *, only_new: bool = False) -> None:
        self._live()
        self._inner.write(points, only_new=only_new)

    def delete(self, point_ids: Sequence[str]) -> None:
        self._live()
        self._inner.delete(point_ids)

    def delete_selected(self, selection: Selection) -> None:
        self._live()
        self._inner.delete_selected(selection)

    def flush(self) -> None:
        self._live()
        self._inner.flush()

    def read(self, point_ids: Sequence[str]) -> dict[str, Payload]:
        return self._inner.read(point_ids)

    def scan(self, selection: Selection, *, with_payload: bool = True) -> Iterator[tuple[str, Payload]]:
        return self._inner.scan(selection, with_payload=with_payload)

    def count(self, selection: Selection) -> int:
        return self._inner.count(selection)

    def search(
        self, dense: list[float], sparse: SparseWeights | None, selection: Selection, *, limit: int
    ) -> list[tuple[str, Payload, float]]:
        return self._inner.search(dense, sparse, selection, limit=limit)

    def close(self) -> None:
        self._inner.close()


Opener = Callable[[int | None], QdrantIndex]


@pytest.fixture(params=["edge", "local"])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the collection, whole (None) or with that many writes to live."""
    client = QdrantClient(":memory:")

    def open_index(n_writes: int | None) -> QdrantIndex:
        if request.param == "edge":
            if n_writes is None:
                return EdgeIndex.open(tmp_path / "index", "manuals", RANDOM)
            EdgeIndex.open(tmp_path / "index", "manuals", RANDOM).close()
            store: PointStore = EdgeStore(tmp_path / "index", "manuals", RANDOM.dimension)
        else:
            whole = ServerIndex.open(client, "manuals", RANDOM)
            if n_writes is None:
                return whole
            store = ServerStore(client, "manuals")
        return QdrantIndex(MortalStore(store, n_writes), "manuals", RANDOM, EngineInfo("index", "mortal"))

    return open_index


OLD = ["apple, old, first", "apple, old, second", "apple, old, third"]
NEW = ["apple, new, first", "apple, new, second"]


def replace_old_by_new(index: QdrantIndex) -> None:
    chunks = chunks_of("new", NEW)
    index.begin_document(stored("new", len(NEW)))
    for chunk in chunks:
        index.add_chunks([chunk], unit_vectors(1))
    index.publish_document(stored("new", len(NEW)), replaces=[document_id("old")])


def test_a_replacement_cut_off_before_any_write_leaves_one_whole_version(open_index: Opener) -> None:
    whole = open_index(None)
    ingest(whole, "old", OLD)
    if isinstance(whole, EdgeIndex):
        whole.close()

    survived: list[bool] = []
    for n_writes in range(20):
        mortal = open_index(n_writes)
        finished = True
        try:
            replace_old_by_new(mortal)
        except Killed:
            finished = False
        # What is written is written; only the process's memory is lost.
        if isinstance(whole, EdgeIndex):
            mortal.close()
        survivor = open_index(None)
        found = set(recalled_texts(survivor, "apple"))
        assert found in (set(OLD), set(NEW))
        assert survivor.count_chunks() == len(found)
        ready = {item.document.title for item in survivor.documents() if item.state == "ready"}
        assert ready == ({"old"} if found == set(OLD) else {"new"})
        if found == set(NEW):
            assert survivor.chunk_ids(document_id("old")) == set()
        # The rerun ends well, whatever was left behind.
        if found == set(OLD):
            replace_old_by_new(survivor)
        assert set(recalled_texts(survivor, "apple")) == set(NEW)
        assert [item.document.title for item in survivor.documents()] == ["new"]
        survivor.delete_document(document_id("new"))
        ingest(survivor, "old", OLD)
        if isinstance(survivor, EdgeIndex):
            survivor.close()
        survived.append(found == set(NEW))
        if finished:
            break
    # Old up to the one write that publishes, new from there on: begin, two chunks, publish are four writes.
    assert survived == [False] * 4 + [True] * (len(survived) - 4)
    assert finished


def test_a_deletion_cut_off_before_any_write_is_whole_or_nothing(open_index: Opener) -> None:
    whole = open_index(None)
    ingest(whole, "old", OLD)
    if isinstance(whole, EdgeIndex):
        whole.close()
    for n_writes in range(10):
        mortal = open_index(n_writes)
        finished = True
        try:
            mortal.delete_document(document_id("old"))
        except Killed:
            finished = False
            # Another thread of the same process, or another app, sees all or nothing as well.
            assert set(recalled_texts(mortal, "apple")) in (set(OLD), set())
        if isinstance(whole, EdgeIndex):
            mortal.close()
        survivor = open_index(None)
        found = set(recalled_texts(survivor, "apple"))
        assert found == (set(OLD) if n_writes == 0 else set())
        assert len(survivor.chunk_ids(document_id("old"))) == len(found)
        ingest(survivor, "old", OLD)
        if isinstance(survivor, EdgeIndex):
            survivor.close()
        if finished:
            break
    assert finished


def test_several_apps_over_one_server_see_each_other_at_once() -> None:
    client = QdrantClient(":memory:")
    writer, reader = (ServerIndex.open(client, "manuals", RANDOM) for _ in range(2))
    ingest(reader, "stays", ["apple stays"])
    writer.begin_document(stored("manual"))
    writer.add_chunks(chunks_of("manual", ["apple one", "apple two"]), unit_vectors(2))
    assert recalled_texts(reader, "apple") == ["apple stays"]
    writer.publish_document(stored("manual", 2))
    assert set(recalled_texts(reader, "apple")) == {"apple stays", "apple one", "apple two"}
    assert reader.delete_document(document_id("manual")) == 2
    assert recalled_texts(writer, "apple") == ["apple stays"]


def test_a_document_that_is_published_after_a_search_saw_a_part_of_it_is_recalled_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = EdgeIndex.open(tmp_path / "index", "manuals", RANDOM)
    ingest(index, "old", ["apple always"])
    chunks = chunks_of("new", [f"apple {position}" for position in range(5)])
    search = index._store.search

    def search_and_publish(*arguments: Any, **options: Any) -> list[Hit]:
        """The writer is at work from before the search until after it."""
        if index.document(document_id("new")):
            return search(*arguments, **options)
        index.begin_document(stored("new"))
        index.add_chunks(chunks[:3], unit_vectors(3))
        hits = search(*arguments, **options)
        index.add_chunks(chunks[3:], unit_vectors(2))
        index.publish_document(stored("new", 5))
        return hits

    monkeypatch.setattr(index._store, "search", search_and_publish)
    assert sorted(recalled_texts(index, "apple")) == sorted(["apple always", *(chunk.text for chunk in chunks)])
    index.close()


def test_chunks_whose_record_is_missing_are_never_recalled() -> None:
    client = QdrantClient(":memory:")
    index = ServerIndex.open(client, "manuals", RANDOM)
    ingest(index, "stays", ["apple stays"])
    ingest(index, "orphan", ["apple orphan"])
    store = ServerStore(client, "manuals")
    [record] = [point_id for point_id, payload in store.scan(Selection("document")) if payload["title"] == "orphan"]
    store.delete([record])
    assert recalled_texts(index, "apple") == ["apple stays"]


def test_bm25_weights() -> None:
    assert query_weights("the of and") is None
    assert query_weights("🙂") is None
    assert document_weights("") is None
    assert query_weights("Waiting PERIODS") == query_weights("waiting period")
    assert query_weights("café") == query_weights("cafe")
    terms = query_weights("waiting period of a critical illness")
    assert terms
    assert terms[1] == [1.0] * 4
    passage = document_weights("critical critical illness")
    assert passage
    # Term frequency with k = 1.2, b = 0.75 and an average length of 256: tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * 3/256)).
    weights = sorted(tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * 3 / 256)) for tf in (1, 2))
    assert sorted(passage[1]) == pytest.approx(weights, rel=1e-6)


def test_unreadable_payloads_are_damage_and_say_the_remedy() -> None:
    with pytest.raises(CollectionDamaged, match="make the index again from the kept original files"):
        chunk_of("c", {"kind": "chunk", "text": "no more"})
    with pytest.raises(CollectionDamaged, match="document d"):
        document_of({"document_id": "d", "title": "t"})
