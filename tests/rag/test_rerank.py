"""The second stage: reranking permutes and never invents, whatever a reranker says."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import EngineFault
from rag.ports import Progress
from rag.rerank import order, rerank
from rag.types import Candidate, Chunk, EngineInfo, PageSpan, Passage, Relevance


def candidates(texts: Sequence[str]) -> list[Candidate]:
    chunks = [
        Chunk(f"chunk-{n}", "manual", "Manual", None, text, (PageSpan(n + 1, 0, len(text)),), n, 9)
        for n, text in enumerate(texts)
    ]
    return [Candidate(chunk, rank, 1 / (60 + rank)) for rank, chunk in enumerate(chunks, start=1)]


class Fixed:
    """A reranker that gives what it is told to give."""

    info = EngineInfo("reranker", "fixed")

    def __init__(self, relevances: Sequence[Relevance]) -> None:
        self.relevances = list(relevances)
        self.calls = 0

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        self.calls += 1
        return self.relevances

    def estimate_seconds(self, n_passages: int) -> float | None:
        return None


finite = st.floats(-20, 20)
relevances = st.lists(
    st.builds(
        Relevance, order=st.one_of(finite, st.sampled_from([0.0, 1.0])), score=st.one_of(st.none(), st.floats(0, 1))
    ),
    max_size=30,
)


@given(relevances)
def test_reranking_permutes_and_never_invents(given_relevances: list[Relevance]) -> None:
    before = candidates([f"passage {n}" for n in range(len(given_relevances))])
    ranked = order(before, given_relevances)
    assert sorted(item.candidate.rank for item in ranked) == [item.rank for item in before]
    assert [item.rank for item in ranked] == list(range(1, len(before) + 1))
    for item in ranked:
        assert item.score == given_relevances[item.candidate.rank - 1].score


@given(relevances)
def test_what_no_model_scored_comes_after_all_that_one_did(given_relevances: list[Relevance]) -> None:
    ranked = order(candidates(["text"] * len(given_relevances)), given_relevances)
    has_score = [item.score is not None for item in ranked]
    assert has_score == sorted(has_score, reverse=True)


def test_ties_keep_the_recall_order() -> None:
    ranked = order(candidates(["a", "b", "c"]), [Relevance(1.0, 0.7), Relevance(2.0, 0.9), Relevance(1.0, 0.7)])
    assert [item.chunk.text for item in ranked] == ["b", "a", "c"]


def test_logits_order_what_the_sigmoid_can_not_tell_apart() -> None:
    ranked = order(candidates(["good", "better"]), [Relevance(40.0, 1.0, 40.0), Relevance(41.0, 1.0, 41.0)])
    assert [item.chunk.text for item in ranked] == ["better", "good"]


def test_rank_change_counts_places_up() -> None:
    ranked = order(candidates(["a", "b", "c"]), [Relevance(0.0, 0.1), Relevance(0.1, 0.2), Relevance(9.0, 0.9)])
    assert [(item.chunk.text, item.rank_change) for item in ranked] == [("c", 2), ("b", 0), ("a", -2)]


def test_an_empty_recall_costs_no_model_run() -> None:
    reranker = Fixed([])
    assert rerank("anything", [], reranker) == ()
    assert reranker.calls == 0


@pytest.mark.parametrize(
    ("given_relevances", "named"),
    [
        ([Relevance(0.5, 0.5)], "1 scores for 2 passages"),
        ([Relevance(0.5, 0.5), Relevance(0.5, 1.5)], "1.5"),
        ([Relevance(0.5, 0.5), Relevance(math.nan, 0.5)], "nan"),
        ([Relevance(0.5, 0.5), Relevance(0.5, math.nan)], "nan"),
        ([Relevance(0.5, 0.5), Relevance(math.inf, 1.0)], "inf"),
    ],
)
def test_what_is_no_score_is_a_fault_and_never_a_ranking(given_relevances: list[Relevance], named: str) -> None:
    with pytest.raises(EngineFault, match=named):
        rerank("anything", candidates(["a", "b"]), Fixed(given_relevances))
