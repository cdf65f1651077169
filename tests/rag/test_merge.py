"""Rankings of a question's parts made one: the best score wins, and each covered part keeps its best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.floor import keep
from rag.merge import keep_for_parts, merge_candidates, merge_rankings
from rag.rerank import order
from rag.types import Candidate, Chunk, PageSpan, Part, RankedChunk, Relevance

FLOOR = 0.4
TEXTS = ("What is A?", "What is B?")

Scores = dict[str, float | None]


def recalled(names: str) -> tuple[Candidate, ...]:
    """One candidate a letter, in that order."""
    return tuple(
        Candidate(Chunk(name, "d", "t", None, name, (PageSpan(1, 0, 1),), 0, 1), rank, 1 / (60 + rank))
        for rank, name in enumerate(names, start=1)
    )


def ranking(scores: Scores) -> tuple[RankedChunk, ...]:
    """The chunks, recalled in the order of `scores`, reranked by them."""
    candidates = recalled("".join(scores))
    return order(candidates, [Relevance(-1.0 if score is None else score, score) for score in scores.values()])


def merged(*parts: Scores, limit: int = 5) -> tuple[tuple[RankedChunk, ...], tuple[RankedChunk, ...], tuple[Part, ...]]:
    rankings = [ranking(scores) for scores in parts]
    candidates = merge_candidates([recalled("".join(scores)) for scores in parts])
    ranked = merge_rankings(rankings, candidates)
    return ranked, *keep_for_parts(TEXTS[: len(parts)], rankings, ranked, floor=FLOOR, limit=limit)


def ids(ranked: tuple[RankedChunk, ...]) -> str:
    return "".join(item.chunk.id for item in ranked)


def test_what_the_parts_recalled_comes_in_turn_each_chunk_once() -> None:
    candidates = merge_candidates([recalled("abc"), recalled("bdefa")])
    assert "".join(candidate.chunk.id for candidate in candidates) == "abdcef", "a b, b d, c e, f, a: each once"
    assert [candidate.rank for candidate in candidates] == [1, 2, 3, 4, 5, 6]


def test_a_chunk_has_its_best_score_over_the_parts_and_the_number_of_that_part() -> None:
    ranked, _, _ = merged({"a": 0.9, "b": 0.2, "c": 0.1}, {"b": 0.7, "d": 0.3, "a": 0.05})
    assert [(item.chunk.id, item.score, item.part) for item in ranked] == [
        ("a", 0.9, 1),
        ("b", 0.7, 2),
        ("d", 0.3, 2),
        ("c", 0.1, 1),
    ]
    assert [item.rank for item in ranked] == [1, 2, 3, 4]
    assert [item.candidate.rank for item in ranked] == [1, 2, 3, 4], "merged recall: a b, b d, c a"


def test_every_covered_part_keeps_its_best_however_strong_the_other_is() -> None:
    _, kept, parts = merged({"a": 0.9, "b": 0.89, "c": 0.88, "d": 0.87, "e": 0.86}, {"f": 0.41, "g": 0.4, "h": 0.39})
    assert ids(kept) == "afbgc", "in turn by rank within the part; h is below the floor"
    assert [part.kept_ids for part in parts] == [("a", "b", "c"), ("f", "g")]
    assert [part.best_score for part in parts] == [0.9, 0.41]


def test_a_part_without_anything_at_the_floor_is_not_covered_and_keeps_nothing() -> None:
    _, kept, parts = merged({"a": 0.9, "b": 0.5}, {"b": 0.3999, "c": 0.1})
    assert ids(kept) == "ab"
    assert [(part.text, part.covered, part.best_score) for part in parts] == [
        (TEXTS[0], True, 0.9),
        (TEXTS[1], False, 0.3999),
    ]
    assert parts[1].kept_ids == ()
    assert parts[1].candidate_ids == ("b", "c")


def test_a_chunk_that_serves_both_parts_is_kept_once_and_belongs_to_both() -> None:
    _, kept, parts = merged({"a": 0.9, "b": 0.8}, {"a": 0.6, "c": 0.5}, limit=3)
    assert ids(kept) == "abc"
    assert [part.kept_ids for part in parts] == [("a", "b"), ("a", "c")]


def test_what_no_scoring_model_read_comes_last_and_covers_nothing() -> None:
    ranked, kept, parts = merged({"a": None, "b": 0.2}, {"c": None})
    assert ids(ranked) == "bca", "of those not read, c is first of its part and a second"
    assert kept == ()
    assert [part.best_score for part in parts] == [0.2, None]


def test_a_part_that_recalled_nothing_is_not_covered() -> None:
    ranked, kept, parts = merged({"a": 0.9}, {})
    assert ids(ranked) == ids(kept) == "a"
    assert [part.covered for part in parts] == [True, False]


@pytest.mark.parametrize("scores", [{}, {"a": 0.2, "b": 0.9, "c": 0.4, "d": None}])
def test_one_question_comes_back_as_it_was(scores: Scores) -> None:
    ranked, kept, parts = merged(scores, limit=1)
    assert ranked == ranking(scores)
    assert kept == keep(ranked, floor=FLOOR, limit=1)
    assert parts == ()


some_scores = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1), max_size=8)


@given(st.lists(some_scores, min_size=2, max_size=2), st.integers(2, 6))
def test_merging_permutes_never_invents_and_covers_what_each_part_covered(parts: list[Scores], limit: int) -> None:
    ranked, kept, found = merged(*parts, limit=limit)
    assert sorted(ids(ranked)) == sorted({name for scores in parts for name in scores})
    assert [item.score for item in ranked] == sorted((item.score or 0.0 for item in ranked), reverse=True)
    assert len(set(ids(kept))) == len(kept) <= limit
    assert all((item.score or 0.0) >= FLOOR for item in kept)
    for scores, part in zip(parts, found, strict=True):
        best = max((score or 0.0 for score in scores.values()), default=None)
        assert part.best_score == best
        assert part.covered == (best is not None and best >= FLOOR) == bool(part.kept_ids)
