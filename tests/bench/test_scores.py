"""Agreement of two rerankers: top 5, largest difference, decisions at the floor."""

from __future__ import annotations

import pytest

from bench.peers.rerankers import Ranked
from bench.scores import agreement


def ranked(*scores: float) -> Ranked:
    return Ranked(tuple(sorted(range(len(scores)), key=lambda number: -scores[number])), scores)


def test_equal_results_agree_in_everything() -> None:
    one = ranked(0.9, 0.1, 0.5)
    found = agreement([one, one], [one, one], floor=0.4).as_json()
    assert (found["same_top_5_share"], found["largest_difference"], found["flipped_share"]) == (1.0, 0.0, 0.0)
    assert found["decisions"] == 2 * 3


def test_a_passage_that_leaves_the_top_5_and_one_that_crosses_the_floor_are_counted() -> None:
    reference = ranked(0.9, 0.8, 0.7, 0.6, 0.41, 0.39)
    other = ranked(0.9, 0.8, 0.7, 0.6, 0.38, 0.395)
    found = agreement([reference], [other], floor=0.4).as_json()
    assert found["top_5_overlap"] == 4 / 5
    assert found["same_top_5"] == 0
    assert found["largest_difference"] == pytest.approx(0.41 - 0.38)
    assert (found["flipped"], found["flipped_share"]) == (1, 1 / 6)


def test_the_floor_is_inclusive() -> None:
    assert agreement([ranked(0.4)], [ranked(0.4001)], floor=0.4).flipped == 0
    assert agreement([ranked(0.4)], [ranked(0.3999)], floor=0.4).flipped == 1


def test_the_same_five_in_another_order_are_the_same_five() -> None:
    found = agreement([ranked(0.9, 0.8, 0.2)], [ranked(0.8, 0.9, 0.2)], floor=0.4)
    assert (found.same_top_5, found.top_5_overlap) == (1, 1.0)


def test_a_peer_without_scores_is_compared_by_order_alone() -> None:
    found = agreement([ranked(0.9, 0.1)], [Ranked((0, 1), None)], floor=0.4).as_json()
    assert (found["top_5_overlap"], found["largest_difference"], found["flipped_share"]) == (1.0, None, None)
