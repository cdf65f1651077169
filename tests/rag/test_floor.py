"""The gate: inclusive, in rank order, and never open to what has no score."""

from hypothesis import given
from hypothesis import strategies as st

from rag.floor import keep
from rag.types import Candidate, Chunk, PageSpan, RankedChunk

CHUNK = Chunk("c", "d", "Title", None, "text", (PageSpan(1, 0, 4),), 0, 5)


def ranked(scores: list[float | None]) -> list[RankedChunk]:
    return [RankedChunk(Candidate(CHUNK, rank, 0.0), rank, score) for rank, score in enumerate(scores, start=1)]


def test_the_floor_itself_is_kept_and_just_under_is_not() -> None:
    kept = keep(ranked([0.9, 0.4, 0.39999999]), floor=0.4, limit=5)
    assert [item.score for item in kept] == [0.9, 0.4]


def test_nothing_above_the_floor_keeps_nothing() -> None:
    assert keep(ranked([0.39, 0.2]), floor=0.4, limit=5) == ()
    assert keep([], floor=0.4, limit=5) == ()


def test_a_passage_that_no_model_scored_never_passes_even_a_floor_of_zero() -> None:
    assert [item.rank for item in keep(ranked([0.0, None]), floor=0.0, limit=5)] == [1]


def test_the_limit_cuts_after_the_floor() -> None:
    assert [item.rank for item in keep(ranked([0.9, 0.1, 0.8, 0.7]), floor=0.4, limit=2)] == [1, 3]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1))), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_floor_never_keeps_more(scores: list[float | None], low: float, high: float) -> None:
    low, high = sorted((low, high))
    everything = ranked(scores)
    assert set(keep(everything, floor=high, limit=99)) <= set(keep(everything, floor=low, limit=99))
