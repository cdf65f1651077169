"""Passages are read ahead while nobody asks, each once, and a question never waits for it."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ingest.ahead import BATCH_PASSAGES, ReadAhead
from ingest.library import Library
from ingest.samples import mark_samples_done
from rag.engines.cascade import CascadeReranker
from rag.engines.late_fusion import LateFusionReranker, cross_encoder_of, embedded_reranker
from rag.engines.recall_order import RecallOrder
from rag.engines.score_cache import CachedReranker, ScoreCache
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.evaluation.passage_index import CorpusPassage, write_passages
from rag.loading import Loading
from rag.ports import Index, KnowsAhead, Progress
from rag.settings import load_settings
from rag.types import EngineInfo, Passage, Relevance
from rag.wiring import open_index
from tests.ingest.pdfs import text_pdf

N_PASSAGES = BATCH_PASSAGES + 3


class Knowing:
    """A reranker that notes what it is shown."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.known: list[str] = []
        self.shown = threading.Event()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("reranker", "knowing", "1")

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        raise AssertionError("reading ahead asks no question")

    def estimate_seconds(self, n_passages: int) -> float | None:
        return None

    def know(self, passages: Sequence[Passage]) -> bool:
        if len(self.known) + len(passages) > self.room:
            self.shown.set()
            return False
        self.known += [passage.text for passage in passages]
        if len(self.known) >= N_PASSAGES:
            self.shown.set()
        return True


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, embedder: SentenceTransformerEmbedder) -> Iterator[Index]:
    settings = load_settings(data_dir=tmp_path_factory.mktemp("data"))
    index = open_index(settings, embedder.identity)
    passages = [CorpusPassage(str(n), "One document", f"Paragraph {n} of it.") for n in range(N_PASSAGES)]
    write_passages({"One document": passages}, embedder, index)
    yield index
    index.close()


def test_each_passage_is_shown_once(index: Index) -> None:
    reranker = Knowing()
    ahead = ReadAhead(lambda: reranker, lambda: [index], lambda: False)
    ahead.wake()
    assert reranker.shown.wait(30)
    reranker.shown.clear()
    ahead.wake()
    assert not reranker.shown.wait(0.5)
    ahead.close()
    assert len(reranker.known) == N_PASSAGES
    assert set(reranker.known) == {chunk.passage for d in index.documents() for chunk in index.chunks(d.document.id)}


def test_it_waits_while_someone_asks_and_stops_where_there_is_no_room(index: Index) -> None:
    reranker, busy = Knowing(room=BATCH_PASSAGES), threading.Event()
    busy.set()
    ahead = ReadAhead(lambda: reranker, lambda: [index], busy.is_set)
    ahead.wake()
    assert not reranker.shown.wait(0.5)
    assert reranker.known == []
    busy.clear()
    assert reranker.shown.wait(30)
    ahead.close()
    assert len(reranker.known) == BATCH_PASSAGES, "the second batch found no room"


def test_it_closes_at_once_while_someone_asks(index: Index) -> None:
    reranker = Knowing()
    ahead = ReadAhead(lambda: reranker, lambda: [index], lambda: True)
    ahead.wake()
    ahead.close(5)
    assert ahead._thread is not None
    assert not ahead._thread.is_alive()
    ahead.wake()
    assert reranker.known == []


def test_rerankers_that_gain_nothing_are_let_be(index: Index, tmp_path: Path) -> None:
    assert not isinstance(RecallOrder(), KnowsAhead)
    cached = CachedReranker(RecallOrder(), ScoreCache(tmp_path / "scores.sqlite", limit_mb=1))
    assert not cached.know([Passage("1", "x")])
    assert not CascadeReranker(RecallOrder(), RecallOrder(), None).know([Passage("1", "x")])
    fused = embedded_reranker()
    assert isinstance(fused, LateFusionReranker)
    assert not isinstance(cross_encoder_of(fused), KnowsAhead)
    assert CascadeReranker(CachedReranker(fused, ScoreCache(tmp_path / "s", limit_mb=1)), RecallOrder(), None).know(
        [Passage("1", "The waiting period is 180 days.")]
    )


def test_an_open_collection_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    settings.collection_dir.mkdir(parents=True)
    mark_samples_done(settings.collection_dir)
    library = Library(settings)
    try:
        reranker = Knowing()
        monkeypatch.setattr(reranker, "shown", threading.Event())
        library._rerankers = Loading.done((reranker, reranker))
        workspace = library.open()
        workspace.submit("manual.pdf", text_pdf(["The waiting period is 180 days, counted from the start."]))
        assert workspace.queue.wait(120)
        for _ in range(100):
            if reranker.known:
                break
            threading.Event().wait(0.1)
        assert ["180 days" in text for text in reranker.known] == [True]
    finally:
        library.close()
