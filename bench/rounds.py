"""Contestants that take turns on the same cases, and what their times come to: medians, percentiles, ratios.

It knows no model and no library: a contestant is a function.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Generic, TypeVar

Case = TypeVar("Case")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Turns(Generic[Outcome]):
    """What one contestant did, a turn a round."""

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    """Of all threads and of child processes that ended. On a busy machine it says more than `seconds`."""
    outcomes: tuple[Outcome, ...]


def cpu_clock() -> float:
    """Seconds of computing by this process and its ended children so far, to a hundredth."""
    return sum(os.times()[:4])


def take_turns(
    contestants: Mapping[str, Callable[[Case], Outcome]],
    cases: Sequence[Case],
    rounds: int,
    *,
    warm_up: Case | None = None,
    clock: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = cpu_clock,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Turns[Outcome]]:
    """Let all contestants do case after case, A B A B, so that what else the machine does meets each alike.

    Args:
        contestants: By name, in the order of their turns.
        cases: Round n does case n, starting again after the last.
        rounds: How often each has a turn, at least 1.
        warm_up: Done once by each before, and not counted; None: nothing is.
        clock: Seconds.
        cpu: Seconds of computing.
        show: Called with a line a turn.
    """
    if warm_up is not None:
        for contestant in contestants.values():
            contestant(warm_up)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in contestants}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in contestants}
    for number in range(rounds):
        case = cases[number % len(cases)]
        for name, contestant in contestants.items():
            computed, started = cpu(), clock()
            outcome = contestant(case)
            taken = clock() - started
            cpu_seconds[name].append(cpu() - computed)
            seconds[name].append(taken)
            outcomes[name].append(outcome)
            show(f"round {number + 1} of {rounds}, {name}: {taken:.3f} s")
    return {name: Turns(tuple(seconds[name]), tuple(cpu_seconds[name]), tuple(outcomes[name])) for name in contestants}


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, least and most of some durations, and all of them.

    >>> spread([3.0, 1.0, 2.0])
    {'median_s': 2.0, 'least_s': 1.0, 'most_s': 3.0, 'seconds': [3.0, 1.0, 2.0]}
    """
    return {
        "median_s": median(seconds),
        "least_s": min(seconds),
        "most_s": max(seconds),
        "seconds": list(seconds),
    }


def times_of(turns: Mapping[str, Turns[Any]]) -> dict[str, dict[str, Any]]:
    """`spread` of each contestant's seconds, with the median and all of its seconds of computing."""
    return {
        name: spread(turn.seconds)
        | {"cpu_median_s": median(turn.cpu_seconds), "cpu_seconds": [round(taken, 2) for taken in turn.cpu_seconds]}
        for name, turn in turns.items()
    }


def ratios_of(turns: Mapping[str, Turns[Any]], ours: str) -> dict[str, float]:
    """`ratios` by the clock on the wall."""
    return ratios({name: turn.seconds for name, turn in turns.items()}, ours)


def cpu_ratios_of(turns: Mapping[str, Turns[Any]], ours: str) -> dict[str, float]:
    """`ratios` by seconds of computing; none where ours took less than can be told."""
    if ours not in turns or min(turns[ours].cpu_seconds) <= 0:
        return {}
    return ratios({name: turn.cpu_seconds for name, turn in turns.items()}, ours)


def ratios(seconds: Mapping[str, Sequence[float]], ours: str) -> dict[str, float]:
    """How many times as long as ours each other contestant took: the median over rounds of both times in that round.

    Two times of one round met the same load of the machine, two medians may not have.

    >>> ratios({"ours": [1.0, 2.0, 1.0], "peer": [4.0, 8.0, 5.0]}, "ours")
    {'peer': 4.0}
    """
    return {
        name: median(theirs / own for theirs, own in zip(times, seconds[ours], strict=True))
        for name, times in seconds.items()
        if name != ours
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least `share` of all do not exceed (nearest rank), 0 < share <= 1.

    >>> [percentile([10.0, 20.0, 30.0, 40.0], share) for share in (0.25, 0.5, 0.95)]
    [10.0, 20.0, 40.0]
    """
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
