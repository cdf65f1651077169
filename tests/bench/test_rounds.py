"""Turns are taken A B A B, and ratios are of times in the same round."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.rounds import Turns, cpu_ratios_of, percentile, ratios, ratios_of, spread, take_turns, times_of


def test_contestants_alternate_over_the_cases_and_the_warm_up_is_not_counted() -> None:
    done: list[str] = []
    ticks: Iterator[float] = iter(range(100))
    turns = take_turns(
        {"ours": lambda case: done.append(f"ours {case}"), "peer": lambda case: done.append(f"peer {case}")},
        ["one", "two"],
        3,
        warm_up="first",
        clock=lambda: next(ticks),
        cpu=lambda: 0.0,
    )
    assert done[:2] == ["ours first", "peer first"]
    assert done[2:] == ["ours one", "peer one", "ours two", "peer two", "ours one", "peer one"]
    # The clock ticks once before and once after each turn, and at no other time.
    assert turns["ours"].seconds == turns["peer"].seconds == (1, 1, 1)
    assert next(ticks) == 2 * 2 * 3


def test_a_slow_round_meets_both_alike() -> None:
    # The machine was five times as slow in the second round; the peer needs three times as long throughout.
    own = [1.0, 5.0, 1.0]
    assert ratios({"ours": own, "peer": [3 * taken for taken in own]}, "ours") == {"peer": 3.0}


def test_spread_and_percentiles() -> None:
    assert spread([4.0, 1.0, 2.0]) == {"median_s": 2.0, "least_s": 1.0, "most_s": 4.0, "seconds": [4.0, 1.0, 2.0]}
    # Of 20 values, 95% are 19: the 19th is the least that they do not exceed.
    assert percentile([float(number) for number in range(1, 21)], 0.95) == 19.0
    assert percentile([7.0], 0.5) == 7.0


def test_outcomes_are_those_of_the_counted_rounds() -> None:
    turns = take_turns({"ours": lambda case: case * 2}, [1, 2, 3], 2, warm_up=9)
    assert turns["ours"].outcomes == (2, 4)


@pytest.mark.parametrize("rounds", [1, 4])
def test_everybody_has_a_turn_in_every_round(rounds: int) -> None:
    turns = take_turns({name: lambda case: case for name in "abc"}, ["x"], rounds)
    assert {name: len(turn.seconds) for name, turn in turns.items()} == dict.fromkeys("abc", rounds)


def test_computing_is_told_apart_from_waiting() -> None:
    # Both computed as long; the peer waited for its turn at the processor in between.
    turns = {"ours": Turns((1.0, 2.0), (1.0, 1.0), (0, 0)), "peer": Turns((3.0, 8.0), (1.0, 2.0), (0, 0))}
    assert ratios_of(turns, "ours") == {"peer": (3.0 / 1.0 + 8.0 / 2.0) / 2}
    assert cpu_ratios_of(turns, "ours") == {"peer": (1.0 / 1.0 + 2.0 / 1.0) / 2}
    assert times_of(turns)["peer"]["cpu_median_s"] == (1.0 + 2.0) / 2
    assert cpu_ratios_of({"ours": Turns((1.0,), (0.0,), (0,)), "peer": turns["peer"]}, "ours") == {}
