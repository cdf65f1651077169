"""The cascade: who reads what, and which numbers the floor may meet. The rerankers here count letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rag.engines.cascade import CascadeReranker
from rag.engines.cross_encoder import sigmoid
from rag.errors import BadInput
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance


class CountingReranker:
    """Scores a passage by how often it holds a word; keeps what it was given to read."""

    def __init__(self, name: str, word: str, seconds_per_passage: float | None = 1.0) -> None:
        self.info = EngineInfo("reranker", name, f"{name}-revision", "float32", sends_data_to="")
        self.word = word
        self.seconds_per_passage = seconds_per_passage
        self.read: list[str] = []

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        relevances = []
        for number, passage in enumerate(passages, 1):
            self.read.append(passage.id)
            logit = float(passage.text.count(self.word))
            relevances.append(Relevance(order=logit, score=sigmoid(logit), logit=logit))
            if progress:
                progress(number, len(passages))
        return relevances

    def estimate_seconds(self, n_passages: int) -> float | None:
        return None if self.seconds_per_passage is None else n_passages * self.seconds_per_passage


PASSAGES = [
    Passage("none", "b"),
    Passage("three", "aaa"),
    Passage("one", "a bb"),
    Passage("two", "aa bbb"),
]


def cascade(depth: int | None) -> tuple[CascadeReranker, CountingReranker, CountingReranker]:
    quick, slow = CountingReranker("quick", "a"), CountingReranker("slow", "b", 10.0)
    return CascadeReranker(quick, slow, depth), quick, slow


def test_the_second_reads_the_firsts_best() -> None:
    reranker, quick, slow = cascade(2)
    reranker.score("q", PASSAGES)
    assert quick.read == ["none", "three", "one", "two"]
    assert slow.read == ["three", "two"]


def test_within_the_depth_the_seconds_numbers_count_and_the_firsts_are_kept() -> None:
    reranker, _, _ = cascade(2)
    _, three, _, two = reranker.score("q", PASSAGES)
    assert three == Relevance(order=0.0, score=sigmoid(0), logit=0.0, first_score=sigmoid(3))
    assert two == Relevance(order=3.0, score=sigmoid(3), logit=3.0, first_score=sigmoid(2))


def test_beyond_the_depth_no_score_can_pass_a_floor() -> None:
    reranker, _, _ = cascade(2)
    none, _, one, _ = reranker.score("q", PASSAGES)
    assert none == Relevance(order=0.0, score=None, first_score=sigmoid(0))
    assert one == Relevance(order=1.0, score=None, first_score=sigmoid(1))


def test_who_scored_and_what_was_remembered_is_passed_on() -> None:
    other = EngineInfo("reranker", "other")

    class Remembering(CountingReranker):
        def score(
            self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None
        ) -> list[Relevance]:
            return [replace(one, cached=True, scored_by=other) for one in super().score(query, passages)]

    [both] = CascadeReranker(Remembering("quick", "a"), Remembering("slow", "b"), 1).score("q", PASSAGES[:1])
    assert (both.cached, both.scored_by) == (True, other)
    [one] = CascadeReranker(CountingReranker("quick", "a"), Remembering("slow", "b"), 1).score("q", PASSAGES[:1])
    assert not one.cached, "the first reranker did run"


@pytest.mark.parametrize("depth", [None, 4, 1000])
def test_a_depth_of_all_leaves_nothing_unscored(depth: int | None) -> None:
    reranker, _, slow = cascade(depth)
    relevances = reranker.score("q", PASSAGES)
    assert sorted(slow.read) == sorted(passage.id for passage in PASSAGES)
    assert [relevance.logit for relevance in relevances] == [1.0, 0.0, 2.0, 3.0]


def test_ties_of_the_first_are_broken_by_the_given_order() -> None:
    reranker, _, slow = cascade(2)
    reranker.score("q", [Passage(str(number), "a") for number in range(5)])
    assert slow.read == ["0", "1"]


def test_progress_counts_the_readings_of_both() -> None:
    reranker, _, _ = cascade(2)
    seen: list[tuple[int, int]] = []
    reranker.score("q", PASSAGES, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 4 + 2) for number in range(1, 7)]


def test_nothing_to_score() -> None:
    assert cascade(2)[0].score("q", []) == []


def test_the_estimate_is_the_sum_of_both() -> None:
    reranker, _, _ = cascade(20)
    assert reranker.estimate_seconds(100) == 100 * 1.0 + 20 * 10.0
    assert reranker.estimate_seconds(5) == 5 * 1.0 + 5 * 10.0
    unknown = CascadeReranker(CountingReranker("a", "a"), CountingReranker("b", "b", None), 20)
    assert unknown.estimate_seconds(100) is None


def test_info_names_both_and_carries_the_seconds_revision() -> None:
    info = cascade(20)[0].info
    assert info.name == "slow after quick"
    assert info.revision == "slow-revision"
    assert "the best 20" in info.why


@pytest.mark.parametrize("depth", [0, -3])
def test_a_depth_below_one_is_refused(depth: int) -> None:
    with pytest.raises(BadInput, match=f"rerank_depth = {depth}"):
        cascade(depth)
