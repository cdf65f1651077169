"""Stored floors: used for exactly what they were measured for, whole after any crash, and in the right order of say."""

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rag.engines.cascade import CascadeReranker
from rag.engines.fallback import FallbackReranker
from rag.engines.gated import GatedReranker
from rag.engines.recall_order import RecallOrder
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput, CollectionError
from rag.evaluation.depth import FirstOnly
from rag.floor_store import FloorScope, FloorStore, StoredFloor
from rag.ports import Progress, Reranker
from rag.settings import Settings
from rag.training.registry import PromotedReranker
from rag.types import EngineInfo, Passage, Relevance
from rag.wiring import floor_in_use, floor_scope, floor_store, policy_for, promoted_rerankers, scorer_of

SCOPE = FloorScope("manuals", "a-reranker", "1", "float32", None, 32, "an-embedder", "e")
NOON = "2026-01-02T12:00:00+00:00"


def floor(value: float, scope: FloorScope = SCOPE) -> StoredFloor:
    return StoredFloor(scope, value, "conformal", NOON, "questions.jsonl", {"risk": 0.05})


@pytest.fixture
def store(tmp_path: Path) -> FloorStore:
    return FloorStore(tmp_path / "data" / "floors.json")


def test_a_floor_is_found_for_exactly_its_scope(store: FloorStore) -> None:
    assert store.find(SCOPE) is None
    store.put(floor(0.3))
    assert FloorStore(store.path).find(SCOPE) == floor(0.3)
    for change in (
        {"collection": "other"},
        {"reranker": "b"},
        {"revision": "2"},
        {"precision": "bfloat16"},
        {"chunk_tokens": 128},
        {"chunk_overlap_tokens": 0},
        {"embedder": "c"},
        {"embedder_revision": "f"},
    ):
        other = replace(SCOPE, **change)
        assert store.find(other) is None, change
        assert len(other.differences(SCOPE)) == 1, change


def test_a_later_floor_replaces_that_of_its_scope_alone(store: FloorStore) -> None:
    other = replace(SCOPE, reranker="b")
    for one in (floor(0.3), floor(0.5, other), floor(0.2)):
        store.put(one)
    assert store.of_collection("manuals") == [floor(0.5, other), floor(0.2)], "the latest last"
    assert store.remove(SCOPE) == floor(0.2)
    assert store.remove(SCOPE) is None
    assert store.all() == [floor(0.5, other)]


def test_a_floor_that_no_score_can_meet_is_refused() -> None:
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadInput, match="0 to 1"):
            floor(value)


@pytest.mark.parametrize("text", ["{", "[]", '{"floors": [{}]}', '{"floors": [{"scope": {}, "value": 1}]}'])
def test_a_damaged_file_is_named_and_never_overwritten(store: FloorStore, text: str) -> None:
    store.path.parent.mkdir()
    store.path.write_text(text, encoding="utf-8")
    with pytest.raises(CollectionError, match=r"floors\.json can't be read"):
        store.find(SCOPE)
    with pytest.raises(CollectionError, match="mend it"):
        store.put(floor(0.3))
    assert store.path.read_text(encoding="utf-8") == text


def put_many(path: Path, name: str) -> None:
    for number in range(10):
        FloorStore(path).put(floor(0.3, replace(SCOPE, collection=f"{name}-{number}")))


def test_writers_in_several_processes_lose_nothing(store: FloorStore) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=put_many, args=(store.path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(store.all()) == 20
    assert [path.name for path in store.path.parent.glob("*.json")] == ["floors.json"], "nothing unfinished is left"
    assert json.loads(store.path.read_text(encoding="utf-8"))["floors"][0]["figures"] == {"risk": 0.05}


# ---- which floor is in use -----------------------------------------------------------------------------------------


class AnyReranker:
    """A reranker of any name that gives every passage the same score."""

    def __init__(self, name: str, revision: str = "1") -> None:
        self.info = EngineInfo("reranker", name, revision, precision="float32")

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        return [Relevance(0.0, 0.5) for _ in passages]

    def estimate_seconds(self, n_passages: int) -> float | None:
        return None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, collection="manuals")


def put(settings: Settings, reranker: Reranker, embedder: SentenceTransformerEmbedder, value: float) -> None:
    floor_store(settings).put(floor(value, floor_scope(settings, reranker, embedder)))


def test_the_order_of_say(settings: Settings, embedder: SentenceTransformerEmbedder) -> None:
    small = AnyReranker("small")
    found = floor_in_use(settings, small, embedder)
    assert (found.value, found.source, found.why, found.stale) == (0.4, "default", "the default", None)

    registry = promoted_rerankers(settings)
    model = settings.data_dir / "model"
    model.mkdir()
    registry.add(PromotedReranker("small", "1", 0.25, NOON), model)
    found = floor_in_use(settings, small, embedder)
    assert (found.value, found.source) == (0.25, "promotion")
    assert policy_for(settings, small).floor == 0.25, "no collection is meant: the promotion's still holds"

    put(settings, small, embedder, 0.31)
    found = floor_in_use(settings, small, embedder)
    assert (found.value, found.source) == (0.31, "stored")
    assert "questions.jsonl" in found.why
    assert "2026-01-02" in found.why
    assert policy_for(settings, small, embedder).floor == 0.31
    assert policy_for(settings, small).floor == 0.25

    named = settings.model_copy(update={"floor": 0.4})
    found = floor_in_use(named, small, embedder)
    assert (found.value, found.source) == (0.4, "setting"), "also where it names the default"
    assert found.stored is not None
    assert "overrides the floor of 0.31" in found.why
    assert policy_for(named, small, embedder).floor == policy_for(named, small).floor == 0.4


def test_after_a_change_the_floor_is_the_default_again_and_it_says_so(
    settings: Settings, embedder: SentenceTransformerEmbedder
) -> None:
    put(settings, AnyReranker("small"), embedder, 0.31)
    found = floor_in_use(settings, AnyReranker("large"), embedder)
    assert (found.value, found.source) == (0.4, "default")
    assert found.stale is not None
    assert found.stale.value == 0.31
    assert found.differences == ("the reranker small, not large",)
    assert "the floor of 0.31 was chosen for the reranker small, not large: calibrate again" in found.why
    chunked = settings.model_copy(update={"chunk_tokens": 128})
    assert floor_in_use(chunked, AnyReranker("small"), embedder).source == "default"
    elsewhere = settings.model_copy(update={"collection": "other"})
    assert floor_in_use(elsewhere, AnyReranker("small"), embedder).stale is None, "another collection's is no news"
    assert floor_in_use(settings, AnyReranker("small"), embedder).source == "stored", "and back"


def test_a_floor_belongs_to_the_engine_whose_scores_meet_it(
    settings: Settings, embedder: SentenceTransformerEmbedder
) -> None:
    small, large = AnyReranker("small"), AnyReranker("large")
    for composed, scores in (
        (CascadeReranker(small, large, 20), large),
        (GatedReranker(RecallOrder(), small), small),
        (FallbackReranker(CascadeReranker(small, large, 20), small), large),
        (FirstOnly(GatedReranker(RecallOrder(), small), 20), small),
        (small, small),
    ):
        assert scorer_of(composed) is scores
        assert floor_scope(settings, composed, embedder).reranker == scores.info.name
    put(settings, large, embedder, 0.31)
    assert policy_for(settings, CascadeReranker(small, large, 20), embedder).floor == 0.31
    assert policy_for(settings, GatedReranker(large, small), embedder).floor == 0.4
