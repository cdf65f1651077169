"""Late interaction with real token vectors, stored and scored by real Qdrant engines."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from rag.engines.colbert import ColBERTReranker, MemoryTokenStore, TokenEncoder
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER
from rag.engines.qdrant_tokens import EdgeTokenStore, EncoderIdentity, ServerTokenStore, TokenStore, max_sim
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.engines.token_index import TokenIndex
from rag.errors import BadInput, CollectionError, CollectionLocked, ModelUnavailable
from rag.ports import Index
from rag.settings import Settings
from rag.types import Document, Passage, StoredDocument
from rag.wiring import open_index, open_rerankers
from tests.contracts.tiny_models import CORPUS, save_embedder
from tests.rag.test_pipeline import chunks_of

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]
THREE = EncoderIdentity("three", "1", 3)


@pytest.fixture(scope="module")
def encoder() -> TokenEncoder:
    return TokenEncoder.embedded()


class Counted:
    """A real encoder that writes down which passages it encoded."""

    def __init__(self, encoder: TokenEncoder) -> None:
        self._encoder = encoder
        self.identity, self.info, self.encode_query = encoder.identity, encoder.info, encoder.encode_query
        self.encoded: list[str] = []

    def encode_passages(self, texts: Sequence[str], **more: object) -> list[np.ndarray]:
        self.encoded += texts
        return self._encoder.encode_passages(texts, **more)


@pytest.fixture
def counted(encoder: TokenEncoder) -> Counted:
    return Counted(encoder)


Opener = Callable[[EncoderIdentity | None], TokenStore]


@pytest.fixture(params=["edge", "server"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same store again and again; the last one that was opened is closed at the end."""
    client = QdrantClient(":memory:")
    opened: list[TokenStore] = []

    def open_again(identity: EncoderIdentity | None) -> TokenStore:
        if opened and request.param == "edge":
            opened[-1].close()
        if request.param == "edge":
            opened.append(EdgeTokenStore(tmp_path / "tokens", identity))
        else:
            opened.append(ServerTokenStore(client, "documents-tokens", identity))
        return opened[-1]

    yield open_again
    if opened:
        opened[-1].close()
    client.close()


def unit_rows(n_rows: int, dimension: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n_rows, dimension)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def test_the_index_scores_as_the_formula_says(open_store: Opener) -> None:
    store = open_store(THREE)
    passages = [Passage(str(number), f"text {number}") for number in range(40)]
    vectors = [unit_rows(1 + number % 7, 3, number) for number in range(40)]
    store.write(passages, vectors)
    query = unit_rows(4, 3, 1000)
    scores = store.max_sim(query, passages)
    # The sum over the question's vectors of the best dot product with any of the passage's.
    for passage, rows in zip(passages, vectors, strict=True):
        by_hand = sum(max(float(token @ row) for row in rows) for token in query)
        assert scores[passage.id] == pytest.approx(by_hand, abs=2e-3)
        assert max_sim(query, rows) == pytest.approx(by_hand, abs=1e-5)


def test_only_what_is_asked_for_stored_and_unchanged_is_scored(open_store: Opener) -> None:
    store = open_store(THREE)
    some, other = Passage("a", "text"), Passage("b", "text")
    assert store.max_sim(unit_rows(2, 3, 0), []) == {}
    assert store.max_sim(unit_rows(2, 3, 0), [some]) == {}
    store.write([some, other], [unit_rows(2, 3, 1), unit_rows(3, 3, 2)])
    store.write([Passage("c", "?")], [unit_rows(0, 3, 0)])
    assert set(store.max_sim(unit_rows(2, 3, 0), [some, Passage("c", "?")])) == {"a"}
    assert set(store.max_sim(unit_rows(2, 3, 0), [some, replace(other, text="changed")])) == {"a"}
    store.delete(["a", "unknown"])
    store.delete([])
    assert set(store.max_sim(unit_rows(2, 3, 0), [some, other])) == {"b"}


def test_vectors_outlive_the_process(open_store: Opener) -> None:
    open_store(THREE).write(PASSAGES[:1], [unit_rows(2, 3, 1)])
    assert set(open_store(THREE).max_sim(unit_rows(2, 3, 0), PASSAGES)) == {"0"}


def test_another_encoder_starts_anew(open_store: Opener, caplog: pytest.LogCaptureFixture) -> None:
    open_store(THREE).write(PASSAGES[:1], [unit_rows(2, 3, 1)])
    other = open_store(EncoderIdentity("four", "1", 4))
    assert "made anew" in caplog.text
    assert other.max_sim(unit_rows(2, 4, 0), PASSAGES) == {}
    other.write(PASSAGES[:1], [unit_rows(2, 4, 1)])
    assert set(other.max_sim(unit_rows(2, 4, 0), PASSAGES)) == {"0"}


def test_without_an_encoder_nothing_is_made_but_things_can_be_deleted(open_store: Opener) -> None:
    with pytest.raises(CollectionError, match="no token vectors|no collection"):
        open_store(None)
    open_store(THREE).write(PASSAGES[:2], [unit_rows(2, 3, 1), unit_rows(2, 3, 2)])
    open_store(None).delete(["0"])
    assert set(open_store(THREE).max_sim(unit_rows(2, 3, 0), PASSAGES)) == {"1"}


def test_a_folder_is_open_once(tmp_path: Path) -> None:
    store = EdgeTokenStore(tmp_path / "tokens", THREE)
    with pytest.raises(CollectionLocked, match="set QDRANT_URL"):
        EdgeTokenStore(tmp_path / "tokens", THREE)
    store.close()
    store.close()
    with pytest.raises(CollectionError, match="closed"):
        store.delete(["0"])


def test_a_damaged_folder_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = EdgeTokenStore(tmp_path / "tokens", THREE)
    store.write(PASSAGES[:1], [unit_rows(2, 3, 1)])
    store.close()
    for file in (tmp_path / "tokens").rglob("*.json"):
        file.write_text("{")
    with caplog.at_level(logging.WARNING):
        store = EdgeTokenStore(tmp_path / "tokens", THREE)
    assert "made anew" in caplog.text
    assert store.max_sim(unit_rows(2, 3, 0), PASSAGES) == {}
    store.close()


def test_the_right_passage_comes_first(encoder: TokenEncoder) -> None:
    relevances = ColBERTReranker(encoder).score(QUERY, PASSAGES)
    assert max(range(len(PASSAGES)), key=lambda number: relevances[number].order) == 0
    assert all(one.score is None and -1 <= one.order <= 1.001 for one in relevances)


def test_stored_vectors_order_as_fresh_ones_and_are_not_made_again(counted: Counted, open_store: Opener) -> None:
    store = open_store(counted.identity)
    fresh = ColBERTReranker(counted).score(QUERY, PASSAGES)
    counted.encoded.clear()
    reranker = ColBERTReranker(counted, store)
    first = reranker.score(QUERY, PASSAGES)
    assert sorted(counted.encoded) == sorted(CORPUS)
    counted.encoded.clear()
    for query in (QUERY, "ibuprofen for children"):
        again = reranker.score(query, PASSAGES)
        assert counted.encoded == []
        if query == QUERY:
            for one, two, three in zip(fresh, first, again, strict=True):
                assert one.order == pytest.approx(two.order, abs=2e-3)
                assert two.order == three.order


def test_what_lacks_vectors_is_filled_in(counted: Counted, open_store: Opener) -> None:
    reranker = ColBERTReranker(counted, open_store(counted.identity))
    reranker.score(QUERY, PASSAGES[:4])
    counted.encoded.clear()
    seen: list[tuple[int, int]] = []
    changed = [replace(PASSAGES[0], text="No waiting period."), *PASSAGES[1:]]
    reranker.score(QUERY, changed, progress=lambda *done: seen.append(done))
    assert sorted(counted.encoded) == sorted(["No waiting period.", *CORPUS[4:]])
    assert seen == [(3, 6), (6, 6)]


def test_without_an_index_the_last_used_are_kept_in_memory_up_to_a_size() -> None:
    # 10 vectors of 3 numbers of 2 bytes: 60 bytes a passage.
    store = MemoryTokenStore(limit_bytes=150)
    passages = [Passage(str(number), f"text {number}") for number in range(3)]
    query = unit_rows(2, 3, 0)
    store.write(passages[:2], [unit_rows(10, 3, 1), unit_rows(10, 3, 2)])
    assert set(store.max_sim(query, passages[:1])) == {"0"}
    store.write(passages[2:], [unit_rows(10, 3, 3)])
    assert set(store.max_sim(query, passages)) == {"0", "2"}
    assert store.max_sim(query, [replace(passages[0], text="changed")]) == {}
    store.delete(["0", "unknown"])
    assert store.max_sim(query, passages) == {"2": pytest.approx(max_sim(query, unit_rows(10, 3, 3)), abs=1e-5)}
    store.close()
    assert store.max_sim(query, passages) == {}


def test_a_long_passage_is_read_to_its_end(encoder: TokenEncoder) -> None:
    filler = "The insurer sends each letter by post. " * 200
    [with_end] = encoder.encode_passages([filler + CORPUS[0]])
    assert len(with_end) > 512
    query = encoder.encode_query(QUERY)
    [without] = encoder.encode_passages([filler])
    assert max_sim(query, with_end) > max_sim(query, without) + 1


def test_a_long_question_is_read_to_its_end(encoder: TokenEncoder) -> None:
    assert len(encoder.encode_query("waiting " * 700 + "ibuprofen")) > 600


@pytest.mark.parametrize("query", ["?", "...", "?! (;)"])
def test_a_question_without_words_leaves_the_order(encoder: TokenEncoder, query: str) -> None:
    relevances = ColBERTReranker(encoder).score(query, PASSAGES)
    assert {one.order for one in relevances} == {0.0}


def test_what_is_no_colbert_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no ColBERT checkpoint"):
        TokenEncoder.load(save_embedder(tmp_path / "tiny", "bert"))
    with pytest.raises(ModelUnavailable, match="models fetch some-org/colbert"):
        TokenEncoder.load("some-org/colbert")


def test_a_colbert_checkpoint_with_short_inputs_is_loaded_and_reads_everything(tmp_path: Path) -> None:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    save_embedder(tmp_path / "tiny", "bert")
    transformer = Transformer(
        str(tmp_path / "tiny-transformer"),
        query_length=16,
        document_length=24,
        query_expansion={"strategy": "fixed", "length": 16, "attend": False},
    )
    dense = Dense(32, 8, bias=False, activation_function=None, module_input_name="token_embeddings")
    modules = [transformer, dense, MultiVectorMask(), Normalize("token_embeddings")]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(tmp_path / "colbert"), create_model_card=False)
    encoder = TokenEncoder.load(tmp_path / "colbert", device="cpu")
    assert encoder.identity.dimension == 8
    assert encoder.encode_query("refund").shape == (16, 8)  # expanded by mask tokens, as ColBERT does
    assert len(encoder.encode_query("refund within seven days from receipt " * 5)) > 16
    short, long = encoder.encode_passages(["refund", " ".join(CORPUS)])
    assert len(short) < 24 < len(long)
    assert len(ColBERTReranker(encoder).score(QUERY, PASSAGES)) == len(PASSAGES)


def ingest(index: Index, embedder: SentenceTransformerEmbedder, title: str, texts: list[str], **more: object) -> None:
    chunks = chunks_of(title, texts)
    stored = StoredDocument(Document(title.lower(), title, f"{title}.pdf", len(texts)), "ingesting")
    index.begin_document(stored)
    index.add_chunks(chunks, embedder.embed_passages([chunk.passage for chunk in chunks]))
    index.publish_document(stored, **more)  # type: ignore[arg-type]


def stored_ids(index: TokenIndex, title: str, texts: list[str], dimension: int = 384) -> int:
    passages = [Passage(chunk.id, chunk.passage) for chunk in chunks_of(title, texts)]
    return len(index.tokens.max_sim(unit_rows(2, dimension, 0), passages))


def test_token_vectors_come_and_go_with_their_documents(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, reranker="colbert")
    index = open_index(settings, embedder.identity)
    assert isinstance(index, TokenIndex)
    ingest(index, embedder, "Contracts", CORPUS[:3])
    assert stored_ids(index, "Contracts", CORPUS[:3]) == 3
    ingest(index, embedder, "Leaflets", CORPUS[3:], replaces=["contracts"])
    assert stored_ids(index, "Contracts", CORPUS[:3]) == 0
    assert stored_ids(index, "Leaflets", CORPUS[3:]) == 3
    index.close()

    # Another reranker is named now: nothing new is made, but what goes, goes whole.
    index = open_index(Settings(_env_file=None, data_dir=tmp_path), embedder.identity)
    assert isinstance(index, TokenIndex)
    ingest(index, embedder, "Contracts", CORPUS[:3])
    assert stored_ids(index, "Contracts", CORPUS[:3]) == 0
    assert index.delete_document("leaflets") == 3
    assert stored_ids(index, "Leaflets", CORPUS[3:]) == 0
    index.close()


def test_a_reranker_opened_with_the_index_uses_what_ingestion_stored(
    tmp_path: Path, embedder: SentenceTransformerEmbedder
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, reranker="colbert", rerank_cache_mb=0)
    index = open_index(settings, embedder.identity)
    assert isinstance(index, TokenIndex)
    ingest(index, embedder, "Contracts", CORPUS)
    assert index.encoder is not None
    index.encoder.encode_passages = None  # type: ignore[method-assign, assignment]  # any encoding would now fail
    reranker, sentence_scorer = open_rerankers(settings, index=index)
    passages = [Passage(chunk.id, chunk.passage) for chunk in chunks_of("Contracts", CORPUS)]
    relevances = reranker.score(QUERY, passages)
    best_first = sorted(range(6), key=lambda number: -relevances[number].order)
    assert best_first[0] == 0
    # The embedded cross-encoder gates the best five.
    assert [relevances[number].score is None for number in best_first] == [False] * 5 + [True]
    assert sentence_scorer.info.name == EMBEDDED_RERANKER_FOLDER.name
    assert f"{EMBEDDED_RERANKER_FOLDER.name} scores its best 5" in reranker.info.why
    index.close()
