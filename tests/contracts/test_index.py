"""What every index engine must do: Qdrant Edge in a folder, qdrant-client in local mode and, where set, a server."""

import os
import pydoc_data.topics
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from rag.engines import edge_optimizer, qdrant_edge
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.qdrant_points import QdrantIndex
from rag.engines.qdrant_server import ServerIndex, connect
from rag.errors import CollectionError, EmbedderMismatch
from rag.ports import Embedder, Index, Vector, Vectors
from rag.recall import RRF_CONSTANT
from rag.types import Chunk, Document, EmbedderIdentity, PageSpan, StoredDocument

DIMENSION = 16
RANDOM = EmbedderIdentity("random", "1", DIMENSION)
QDRANT_URL = os.environ.get("QDRANT_URL")
ENGINES = [
    "edge",
    "edge, optimized",
    "local",
    pytest.param(
        "server", marks=[pytest.mark.server, pytest.mark.skipif(not QDRANT_URL, reason="QDRANT_URL is not set")]
    ),
]


@dataclass
class Collection:
    """A collection that tests can open again."""

    open: Callable[[EmbedderIdentity], QdrantIndex]
    survives_closing: bool


def edge_collection(folder: Path) -> Collection:
    return Collection(lambda embedder: EdgeIndex.open(folder / "index", "manuals", embedder), survives_closing=True)


class OftenOptimized(EdgeIndex):
    """Optimized after the first documents and then some, so that later ones meet an optimized index."""

    n_published = 0

    def publish_document(self, stored: StoredDocument, *, replaces: Sequence[str] = ()) -> None:
        super().publish_document(stored, replaces=replaces)
        self.n_published += 1
        if self.n_published in (1, 2, 4) or self.n_published % 16 == 0:
            self.optimize()


def optimized_collection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """Optimized in this process: starting another each time would take minutes."""
    monkeypatch.setattr(
        qdrant_edge, "optimize_copy", lambda copy, dimension, *, stop: edge_optimizer.optimize_here(copy, dimension)
    )
    return Collection(lambda embedder: OftenOptimized.open(folder / "index", "manuals", embedder), True)


def local_collection() -> Collection:
    client = QdrantClient(":memory:")
    return Collection(lambda embedder: ServerIndex.open(client, "manuals", embedder), survives_closing=False)


@pytest.fixture(params=ENGINES)
def collection(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    if request.param == "edge":
        yield edge_collection(tmp_path)
    elif request.param == "edge, optimized":
        yield optimized_collection(tmp_path, monkeypatch)
    elif request.param == "local":
        yield local_collection()
    else:
        assert QDRANT_URL
        url, key, name = QDRANT_URL, os.environ.get("QDRANT_API_KEY"), f"test-{uuid.uuid4().hex}"
        yield Collection(lambda embedder: ServerIndex.open(connect(url, key, 30), name, embedder), True)
        connect(url, key, 30).delete_collection(name)


@pytest.fixture
def index(collection: Collection) -> Iterator[QdrantIndex]:
    index = collection.open(RANDOM)
    yield index
    index.close()


def unit_vectors(n: int, dimension: int = DIMENSION, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def unit_vector(seed: int = 0) -> Vector:
    return unit_vectors(1, seed=seed)[0]


def document_id(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, name).hex


def stored(name: str, n_chunks: int = 0) -> StoredDocument:
    return StoredDocument(Document(document_id(name), name, f"{name}.pdf", 1), "ingesting", n_chunks)


def chunks_of(name: str, texts: Sequence[str]) -> list[Chunk]:
    return [
        Chunk(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {position} {text}")),
            document_id=document_id(name),
            title=name,
            heading=None,
            text=text,
            spans=(PageSpan(1, 0, len(text)),),
            position=position,
            n_tokens=len(text.split()),
        )
        for position, text in enumerate(texts)
    ]


def ingest(
    index: Index, name: str, texts: Sequence[str], vectors: Vectors | None = None, replaces: Sequence[str] = ()
) -> list[Chunk]:
    """Take a document through its whole life."""
    chunks = chunks_of(name, texts)
    record = stored(name, len(chunks))
    index.begin_document(record)
    index.add_chunks(chunks, unit_vectors(len(chunks), seed=len(name)) if vectors is None else vectors)
    index.publish_document(record, replaces=replaces)
    return chunks


def recalled_texts(index: Index, query: str, vector: Vector | None = None, **options: object) -> list[str]:
    candidates = index.recall(query, unit_vector() if vector is None else vector, **{"limit": 100} | options)  # type: ignore[arg-type]  # options are recall's own
    return [candidate.chunk.text for candidate in candidates]


def test_an_empty_collection_recalls_nothing(index: QdrantIndex) -> None:
    assert index.recall("anything", unit_vector(), limit=100) == []
    assert index.documents() == []
    assert index.document("nothing") is None
    assert index.chunks("nothing") == []
    assert index.count_chunks() == 0
    assert index.embedder == RANDOM
    assert index.info.role == "index"


def test_recall_finds_by_meaning_and_by_exact_word(collection: Collection, embedder: Embedder) -> None:
    texts = [
        "The waiting period for critical illness is 180 days from the start of the contract.",
        "Ibuprofen lowers fever and eases pain in children older than three months.",
        "Refunds are paid within seven days from receipt of the returned goods.",
        "Error code QX-4471 means that the paper tray is empty.",
        "The garden is watered at dawn, when less of it evaporates.",
    ]
    index = collection.open(embedder.identity)
    ingest(index, "mixed", texts, embedder.embed_passages(texts))

    def best(query: str) -> str:
        return recalled_texts(index, query, embedder.embed_query(query), limit=1)[0]

    assert best("How soon do I get my money back?") == texts[2]
    assert best("medicine against a high temperature for my kid") == texts[1]
    assert best("4471") == texts[3]
    index.close()


def test_a_title_is_found_by_word_and_accents_do_not_matter(index: QdrantIndex) -> None:
    ingest(index, "Zanzibar", ["plain words about nothing", "more words about nothing"])
    ingest(index, "Other", ["a café in town", "a house in town"])
    assert set(recalled_texts(index, "zanzibar")[:2]) == {"plain words about nothing", "more words about nothing"}
    with_accent, without = (index.recall(query, unit_vector(), limit=4) for query in ("café", "CAFE"))
    assert with_accent == without


def test_scores_are_reciprocal_rank_fusion(index: QdrantIndex) -> None:
    texts = ["apple apple apple", "apple pear plum grape", "stone", "rock"]
    query = unit_vector()
    # Dense order: rock, stone, apple pear..., apple apple...; each a little further away from the query than the last.
    away = unit_vectors(1, seed=7)[0]
    vectors = np.stack([query + step * away for step in (0.9, 0.6, 0.3, 0.0)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ingest(index, "fruit", texts, vectors.astype(np.float32))

    candidates = index.recall("apple", query, limit=100)

    assert [candidate.rank for candidate in candidates] == [1, 2, 3, 4]
    scores = {candidate.chunk.text: candidate.score for candidate in candidates}
    assert RRF_CONSTANT == 60
    # 1 / (60 + dense rank) + 1 / (60 + BM25 rank), where the chunk holds the word at all.
    assert scores == pytest.approx(
        {
            "apple apple apple": 1 / (60 + 4) + 1 / (60 + 1),
            "apple pear plum grape": 1 / (60 + 3) + 1 / (60 + 2),
            "stone": 1 / (60 + 2),
            "rock": 1 / (60 + 1),
        },
        rel=1e-6,
    )
    assert [candidate.score for candidate in candidates] == sorted(scores.values(), reverse=True)


def test_each_search_gives_its_best_up_to_the_limit(index: QdrantIndex) -> None:
    query = unit_vector()
    vectors = np.concatenate([query[None], unit_vectors(3, seed=3)])
    ingest(index, "four", ["nearest by vector", "the word kumquat", "nothing", "nothing else"], vectors)
    # With limit 2, each search contributes two chunks; the fused list is cut to two again.
    candidates = index.recall("kumquat", query, limit=2)
    assert {candidate.chunk.text for candidate in candidates} >= {"the word kumquat"}
    assert [candidate.rank for candidate in candidates] == [1, 2]
    assert candidates[0].score <= 1 / 61 + 1 / 61
    assert index.recall("kumquat", query, limit=0) == []


def test_equal_scores_are_ordered_by_document_and_position(index: QdrantIndex) -> None:
    query = unit_vector()
    towards = np.stack([query + step * unit_vector(7) for step in range(6)])
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    # BM25 (shorter is better) orders these against dense search: ranks (1, 6), (2, 5), ..., (6, 1).
    texts = ["kumquat" + " filler" * n_fillers for n_fillers in (50, 40, 30, 20, 10, 0)]
    names = ["f", "e", "d", "c", "b", "a"]
    for name, text, vector in zip(names, texts, towards, strict=True):
        ingest(index, name, [text], vector[None])
    candidates = index.recall("kumquat", query, limit=6)
    pairs = [{candidates[place].chunk.title, candidates[place + 1].chunk.title} for place in (0, 2, 4)]
    assert pairs == [{"f", "a"}, {"e", "b"}, {"d", "c"}]  # 1/61 + 1/66 > 1/62 + 1/65 > 1/63 + 1/64
    assert [candidate.score for candidate in candidates[::2]] == pytest.approx(
        [1 / 61 + 1 / 66, 1 / 62 + 1 / 65, 1 / 63 + 1 / 64], rel=1e-6
    )
    for one, other in zip(candidates[::2], candidates[1::2], strict=True):
        assert one.score == other.score
        assert one.chunk.document_id < other.chunk.document_id
    # The cut goes through a pair: which of the two is kept is no accident either.
    assert index.recall("kumquat", query, limit=6)[:5] == candidates[:5]


@pytest.mark.parametrize("query", ["the of and", "🙂🚀", "", "   ", "返金ポリシー", "\x00", "\ud800", "?" * 3000])
def test_a_query_without_known_words_is_answered_by_dense_search(index: QdrantIndex, query: str) -> None:
    chunks = ingest(index, "manual", ["one passage", "another passage"], unit_vectors(2, seed=1))
    [best, _] = index.recall(query, unit_vectors(2, seed=1)[1], limit=100)
    assert best.chunk == chunks[1]
    assert best.score == pytest.approx(1 / (60 + 1))


def test_recall_is_restricted_to_documents(index: QdrantIndex) -> None:
    ingest(index, "a", ["apple in a"])
    ingest(index, "b", ["apple in b"])
    ingest(index, "c", ["apple in c"])
    assert set(recalled_texts(index, "apple")) == {"apple in a", "apple in b", "apple in c"}
    assert recalled_texts(index, "apple", document_ids=[document_id("b")]) == ["apple in b"]
    assert set(recalled_texts(index, "apple", document_ids=[document_id("a"), document_id("c")])) == {
        "apple in a",
        "apple in c",
    }
    assert recalled_texts(index, "apple", document_ids=[document_id("c"), "unknown"]) == ["apple in c"]
    assert recalled_texts(index, "apple", document_ids=["unknown"]) == []
    assert recalled_texts(index, "apple", document_ids=[]) == []


def test_an_unpublished_document_is_invisible_until_it_is_published(index: QdrantIndex) -> None:
    ingest(index, "old", ["apple, published"])
    chunks = chunks_of("new", ["apple, first half", "apple, second half"])
    index.begin_document(stored("new"))
    index.add_chunks(chunks[:1], unit_vectors(1))
    assert recalled_texts(index, "apple") == ["apple, published"]
    assert recalled_texts(index, "apple", document_ids=[document_id("new")]) == []
    assert index.count_chunks() == 1
    assert index.chunk_ids(document_id("new")) == {chunks[0].id}
    record = index.document(document_id("new"))
    assert record
    assert record.state == "ingesting"

    index.add_chunks(chunks[1:], unit_vectors(1, seed=1))
    index.publish_document(replace(stored("new"), n_chunks=2))
    assert set(recalled_texts(index, "apple")) == {"apple, published", "apple, first half", "apple, second half"}
    assert recalled_texts(index, "apple", document_ids=[document_id("new")]) != []
    assert index.count_chunks() == 3
    record = index.document(document_id("new"))
    assert record
    assert (record.state, record.n_chunks) == ("ready", 2)


def test_a_crowd_of_hidden_chunks_takes_no_places_away(index: QdrantIndex) -> None:
    query = unit_vector()
    ingest(index, "seen", ["apple far away", "no fruit, far away"], -np.stack([query, query]))
    index.begin_document(stored("hidden"))
    index.add_chunks(chunks_of("hidden", ["apple"] * 50), np.stack([query] * 50))
    assert set(recalled_texts(index, "apple", query, limit=2)) == {"apple far away", "no fruit, far away"}


def test_publishing_replaces_the_old_version_and_nothing_else(index: QdrantIndex) -> None:
    ingest(index, "bystander", ["apple of another document"])
    ingest(index, "version 1", ["apple, old", "pear, old"])
    new = chunks_of("version 2", ["apple, new"])
    index.begin_document(stored("version 2"))
    index.add_chunks(new, unit_vectors(1))
    assert set(recalled_texts(index, "apple")) == {"apple of another document", "apple, old", "pear, old"}

    index.publish_document(stored("version 2", 1), replaces=[document_id("version 1"), document_id("version 2"), "x"])
    assert set(recalled_texts(index, "apple")) == {"apple of another document", "apple, new"}
    assert index.document(document_id("version 1")) is None
    assert index.chunk_ids(document_id("version 1")) == set()
    assert [item.document.title for item in index.documents()] == ["bystander", "version 2"]
    assert index.count_chunks() == 2


def test_the_same_chunk_twice_is_one(index: QdrantIndex) -> None:
    first = ingest(index, "manual", ["apple", "pear"])
    again = ingest(index, "manual", ["apple", "pear"])
    assert first == again
    assert index.count_chunks() == 2
    assert len(index.documents()) == 1
    assert sorted(recalled_texts(index, "apple")) == ["apple", "pear"]


def test_beginning_again_hides_the_document_and_keeps_its_chunks(index: QdrantIndex) -> None:
    chunks = ingest(index, "manual", ["apple", "pear"])
    index.begin_document(stored("manual"))
    assert recalled_texts(index, "apple") == []
    assert index.chunk_ids(document_id("manual")) == {chunk.id for chunk in chunks}
    index.delete_chunks([chunks[1].id])
    index.publish_document(stored("manual", 1))
    assert recalled_texts(index, "apple") == ["apple"]


def test_deleting_a_document(index: QdrantIndex) -> None:
    ingest(index, "kept", ["apple, kept"])
    ingest(index, "gone", ["apple, gone", "pear, gone"])
    assert index.delete_document(document_id("gone")) == 2
    assert index.delete_document(document_id("gone")) == 0
    assert index.delete_document("unknown") == 0
    assert recalled_texts(index, "apple") == ["apple, kept"]
    assert [item.document.title for item in index.documents()] == ["kept"]
    assert index.document(document_id("gone")) is None
    assert index.count_chunks() == 1
    ingest(index, "gone", ["apple, back"])
    assert set(recalled_texts(index, "apple")) == {"apple, kept", "apple, back"}


def test_a_document_deleted_during_its_ingestion_stays_deleted(index: QdrantIndex) -> None:
    chunks = chunks_of("manual", ["apple", "pear"])
    index.begin_document(stored("manual"))
    index.add_chunks(chunks[:1], unit_vectors(1))
    assert index.delete_document(document_id("manual")) == 1
    with pytest.raises(CollectionError, match="deleted meanwhile"):
        index.add_chunks(chunks[1:], unit_vectors(1))
    with pytest.raises(CollectionError, match="deleted meanwhile"):
        index.publish_document(stored("manual"))
    assert index.documents() == []
    assert recalled_texts(index, "apple") == []


def test_documents_and_chunks_beyond_one_page_are_all_there(index: QdrantIndex) -> None:
    names = [f"document {number:04}" for number in range(1050)]
    for name in reversed(names):
        index.begin_document(stored(name))
    assert [item.document.title for item in index.documents()] == names

    texts = [f"passage number {number}" for number in range(700)]
    chunks = ingest(index, "long", texts, unit_vectors(700))
    assert index.count_chunks() == 700
    assert index.chunks(document_id("long")) == chunks
    assert index.chunk_ids(document_id("long")) == {chunk.id for chunk in chunks}
    assert len(recalled_texts(index, "passage", limit=300)) == 300
    index.delete_chunks([chunk.id for chunk in chunks[:600]])
    assert index.chunks(document_id("long")) == chunks[600:]
    assert index.delete_document(document_id("long")) == 100


def test_values_come_back_equal(index: QdrantIndex) -> None:
    text = "naïve café — „Ärger“ 😀👩‍👩‍👧 日本語 العربية \x00 \u2028 tab\tand\nline\r\n"
    chunk = Chunk(
        id=str(uuid.uuid4()),
        document_id=document_id("odd"),
        title="Títle 🚀",
        heading="§ 1",
        text=text,
        spans=(PageSpan(3, 5, 5 + len(text) - 1), PageSpan(4, 0, 0)),
        position=0,
        n_tokens=77,
    )
    plain = replace(chunk, id=str(uuid.uuid4()), heading=None, title="", position=1, spans=(PageSpan(4, 0, 9),))
    record = StoredDocument(
        document=Document(chunk.document_id, "Títle 🚀", "ünï cödé 😀.pdf", 12),
        state="ready",
        n_chunks=2,
        pages_without_text=(2, 11),
        warnings=("page 2 has no text", "„odd“ 😀"),
        ingested_at="2025-01-02T03:04:05+00:00",
        seconds=1.25,
        kind="docx",
        size_bytes=2**33,
        ocr_pages=(3, 4),
    )
    index.begin_document(record)
    assert index.document(chunk.document_id) == replace(record, state="ingesting")
    index.add_chunks([chunk, plain], unit_vectors(2))
    index.publish_document(record)
    assert index.document(chunk.document_id) == record
    assert index.documents() == [record]
    assert index.chunks(chunk.document_id) == [chunk, plain]
    assert {candidate.chunk for candidate in index.recall("日本語", unit_vector(), limit=5)} == {chunk, plain}


def test_vectors_of_another_shape_or_not_finite_are_a_mistake(index: QdrantIndex) -> None:
    chunks = chunks_of("manual", ["apple"])
    index.begin_document(stored("manual"))
    for vectors in (unit_vectors(1, 8), unit_vectors(2), np.full((1, DIMENSION), np.nan, np.float32)):
        with pytest.raises(ValueError, match="finite and of shape"):
            index.add_chunks(chunks, vectors)
    with pytest.raises(ValueError, match="finite and of shape"):
        index.recall("apple", unit_vectors(1, 8)[0], limit=5)
    index.add_chunks([], unit_vectors(0))


def test_reopening_keeps_everything(collection: Collection) -> None:
    index = collection.open(RANDOM)
    ready = ingest(index, "ready", [f"apple {number}" for number in range(300)])
    index.begin_document(stored("unfinished"))
    index.add_chunks(chunks_of("unfinished", ["apple, unfinished"]), unit_vectors(1))
    before = index.documents(), index.recall("apple", unit_vector(), limit=50)
    if collection.survives_closing:
        index.close()
        index.close()
        with pytest.raises(CollectionError, match="closed"):
            index.documents()
    index = collection.open(RANDOM)
    assert (index.documents(), index.recall("apple", unit_vector(), limit=50)) == before
    assert index.chunks(document_id("ready")) == ready
    assert index.chunk_ids(document_id("unfinished")) == {chunks_of("unfinished", ["apple, unfinished"])[0].id}
    index.close()


def test_another_embedder_is_refused_with_the_remedy(collection: Collection) -> None:
    minilm = EmbedderIdentity("all-MiniLM-L6-v2", "abc", 384)
    index = collection.open(minilm)
    name = index.collection
    if collection.survives_closing:
        index.close()
    with pytest.raises(EmbedderMismatch) as dimension:
        collection.open(EmbedderIdentity("bge-m3", "", 1024))
    assert str(dimension.value) == (
        f"collection {name!r} was made with all-MiniLM-L6-v2 (384); this run embeds with bge-m3 (1024): "
        "re-ingest into another collection, or set RANK37_EMBEDDER=all-MiniLM-L6-v2"
    )
    with pytest.raises(EmbedderMismatch, match=r"this run embeds with bge-small \(384\)"):
        collection.open(EmbedderIdentity("bge-small", "abc", 384))
    with pytest.raises(EmbedderMismatch, match="revision abc.*revision def"):
        collection.open(replace(minilm, revision="def"))
    # A refusal leaves nothing locked or changed.
    collection.open(minilm).close()


def test_searches_run_while_documents_come_and_go(index: QdrantIndex) -> None:
    """No reader ever sees part of a document: its chunks are recalled all or not at all."""
    size, stop = 12, threading.Event()
    ingest(index, "still there", ["apple always"])
    failures: list[object] = []

    def search() -> None:
        try:
            while not stop.is_set():
                candidates = index.recall("apple", unit_vector(1), limit=100)
                counts: dict[str, int] = {}
                for candidate in candidates:
                    counts[candidate.chunk.title] = counts.get(candidate.chunk.title, 0) + 1
                if counts.pop("still there", 0) != 1 or set(counts.values()) - {size} or len(counts) > 1:
                    failures.append(counts)
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=search) for _ in range(3)]
    for reader in readers:
        reader.start()
    previous: list[str] = []
    for version in range(8):
        name = f"version {version}"
        chunks = chunks_of(name, [f"apple {name} {position}" for position in range(size)])
        index.begin_document(stored(name))
        for chunk in chunks:
            index.add_chunks([chunk], unit_vectors(1, seed=version))
        index.publish_document(stored(name, size), replaces=previous)
        previous = [document_id(name)]
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert index.count_chunks() == size + 1


def test_edge_and_local_mode_agree(tmp_path: Path, embedder: Embedder) -> None:
    """On real prose (Python's reference manual): the same 100 best, of the same scores."""
    paragraphs = [
        " ".join(paragraph.split())
        for topic in sorted(pydoc_data.topics.topics)
        for paragraph in pydoc_data.topics.topics[topic].split("\n\n")
    ]
    texts = sorted({text for text in paragraphs if 80 <= len(text) <= 200})[:250]
    assert len(texts) == 250
    vectors = embedder.embed_passages(texts)
    indexes = [edge_collection(tmp_path).open(embedder.identity), local_collection().open(embedder.identity)]
    for index in indexes:
        ingest(index, "reference", texts, vectors)
        index.begin_document(stored("hidden"))
        index.add_chunks(chunks_of("hidden", texts[:5]), vectors[:5])
    overlaps, equal_scores = [], []
    for query in (
        "How does a generator raise StopIteration?",
        "What is the method resolution order of a class?",
        "when are default parameter values evaluated",
        "__getattribute__",
        "difference between is and ==",
        "the and of",
    ):
        edge, local = (index.recall(query, embedder.embed_query(query), limit=100) for index in indexes)
        assert len(edge) == len(local) == 100
        edge_scores, local_scores = ({item.chunk.id: item.score for item in items} for items in (edge, local))
        common = edge_scores.keys() & local_scores.keys()
        overlaps.append(len(common) / 100)
        equal_scores.append(sum(abs(edge_scores[key] - local_scores[key]) < 1e-6 for key in common) / 100)
    print(f"overlap of the top 100: {overlaps}, with equal scores: {equal_scores}")
    for index in indexes:
        index.close()
    assert min(overlaps) >= 0.95
