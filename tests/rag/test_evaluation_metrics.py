"""Metrics of single questions, written as their formulas, and how sure their means are."""

from math import log2

import pytest

from rag.evaluation.intervals import FLIPS, difference_of, mean_of, share_of
from rag.evaluation.rankings import measure
from rag.evaluation.sets import Question


def metrics(gold: dict[str, int], ranking: list[tuple[str, ...]], *, min_relevance: int = 1) -> dict[str, float]:
    [row] = measure([Question("q", "?", gold, min_relevance)], [ranking])
    return row


def padded(*items: str, length: int = 100) -> list[tuple[str, ...]]:
    """A ranking of passages with these items first and others after them."""
    return [(item,) for item in items] + [(f"other {n}",) for n in range(length - len(items))]


def test_gold_at_rank_two() -> None:
    assert metrics({"gold": 1}, padded("x", "gold")) == pytest.approx(
        {"R@100": 1, "nDCG@10": 1 / log2(3), "RR@10": 1 / 2, "P@5": 1 / 5, "R@5": 1, "R@10": 1}
    )


def test_gold_beyond_the_depth_of_a_metric_counts_nothing_there() -> None:
    at_eleven = [f"x{n}" for n in range(10)]
    assert metrics({"gold": 1}, padded(*at_eleven, "gold")) == pytest.approx(
        {"R@100": 1, "nDCG@10": 0, "RR@10": 0, "P@5": 0, "R@5": 0, "R@10": 0}
    )


def test_gold_that_recall_missed_counts_against_every_metric() -> None:
    assert set(metrics({"gold": 1}, padded("x", "y")).values()) == {0.0}
    half = metrics({"found": 1, "missed": 1}, padded("found"))
    assert half == pytest.approx(
        {"R@100": 1 / 2, "nDCG@10": 1 / (1 + 1 / log2(3)), "RR@10": 1, "P@5": 1 / 5, "R@5": 1 / 2, "R@10": 1 / 2}
    )


def test_an_empty_ranking_counts_nothing() -> None:
    assert set(metrics({"gold": 1}, []).values()) == {0.0}


def test_grades_are_gains_and_only_enough_of_them_is_relevant() -> None:
    row = metrics({"excellent": 3, "related": 1}, padded("related", "excellent"), min_relevance=2)
    assert row == pytest.approx(
        {
            "R@100": 1,
            "nDCG@10": (1 / log2(2) + 3 / log2(3)) / (3 / log2(2) + 1 / log2(3)),
            "RR@10": 1 / 2,
            "P@5": 1 / 5,
            "R@5": 1,
            "R@10": 1,
        }
    )


def test_a_page_that_several_chunks_stand_for_counts_once_but_each_chunk_is_precise() -> None:
    ranking = [("report page 4",), ("report page 4", "report page 5"), ("report page 9",), ("report page 4",)]
    row = metrics({"report page 4": 1, "report page 5": 1}, ranking)
    assert row["nDCG@10"] == pytest.approx(1), "both pages stand as high as they can, one a rank"
    assert row["R@5"] == 1
    assert row["P@5"] == 3 / 5
    again = metrics({"report page 4": 1}, [("report page 4",), ("report page 4",)])
    assert again["nDCG@10"] == 1, "never above 1"


@pytest.mark.parametrize("name", ["with space", "tab\tinside", "\0", "文档 12", "other 1", "gold 0", "", "None"])
def test_ids_can_be_any_text(name: str) -> None:
    assert metrics({name: 1}, [("x",), (name,)])["RR@10"] == 1 / 2


def test_questions_keep_their_own_figures() -> None:
    questions = [Question("same id", "?", {"a": 1}), Question("same id", "?", {"b": 1})]
    rows = measure(questions, [padded("a"), padded("x", "b")])
    assert [row["RR@10"] for row in rows] == [1, 1 / 2]
    assert measure([], []) == []


@pytest.mark.parametrize("values", [[0.0], [1.0], [0.125] * 7, [0.0] * 29 + [1.0], [0.0, 0.25, 0.5, 1.0] * 10])
def test_an_interval_holds_its_mean_and_is_the_same_every_time(values: list[float]) -> None:
    estimate = mean_of(values)
    assert estimate.mean == pytest.approx(sum(values) / len(values))
    assert min(values) <= estimate.low <= estimate.mean <= estimate.high <= max(values)
    assert mean_of(values) == estimate


def test_an_interval_is_as_wide_as_theory_says_and_narrows_with_more_questions() -> None:
    few, many = mean_of([0.0, 1.0] * 50), mean_of([0.0, 1.0] * 800)
    # Half a width of a share p of n is about 1.96 sqrt(p (1 - p) / n).
    assert few.high - few.low == pytest.approx(2 * 1.96 * (0.25 / 100) ** 0.5, rel=0.1)
    assert many.high - many.low == pytest.approx(2 * 1.96 * (0.25 / 1600) ** 0.5, rel=0.1)


def test_a_share_weighs_wholes_and_not_questions() -> None:
    assert share_of([1, 9], [1, 99]).mean == pytest.approx(10 / 100)
    assert share_of([0, 0], [0, 0]).mean is None, "of nothing there is no share"
    skewed = share_of([1] + [0] * 30, [1] + [0] * 30)
    assert (skewed.low, skewed.mean, skewed.high) == (1, 1, 1), "resamples without any whole say nothing"


def test_p_is_how_often_flipped_signs_do_as_much() -> None:
    # All ten differ the same way: of 2^10 ways to set signs, two reach the sum.
    same_way = difference_of([0.0] * 10, [0.5] * 10)
    assert same_way.mean == pytest.approx(0.5)
    assert same_way.p == pytest.approx(2 / 2**10, abs=0.001)
    # Six of one size, four up and two down: the sum is 2, and 44 of 64 ways reach it; equal ones change nothing.
    mixed = difference_of([0.0] * 4 + [0.1] * 2 + [0.7] * 20, [0.1] * 4 + [0.0] * 2 + [0.7] * 20)
    assert mixed.mean == pytest.approx(0.2 / 26)
    assert mixed.p == pytest.approx(44 / 64, abs=0.02)


def test_a_difference_turned_around_is_its_negative() -> None:
    before, after = [0.0, 0.2, 0.4, 0.9, 0.1], [0.3, 0.2, 0.9, 0.8, 0.6]
    there, back = difference_of(before, after), difference_of(after, before)
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p


def test_no_difference_and_no_questions() -> None:
    assert difference_of([0.3, 0.4], [0.3, 0.4]).p == 1
    assert difference_of([], []).p is None
    assert difference_of([0.0] * 40, [1.0] * 40).p == pytest.approx(1 / (FLIPS + 1)), "never zero: so few were tried"
