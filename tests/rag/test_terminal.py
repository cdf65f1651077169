"""The ranking at a terminal: rank before and after, what became of each passage, and of search's own favourite."""

from __future__ import annotations

import io

from rich.console import Console

from rag.terminal import ROWS_SHOWN, print_ranking
from rag.types import Trace
from tests.rag.traces import trace_of


def printed(trace: Trace) -> list[str]:
    console = Console(file=io.StringIO(), width=140)
    print_ranking(trace, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_each_row_says_what_became_of_the_passage() -> None:
    lines = printed(trace_of(scores=[0.9, 0.5, 0.3999, None]))
    rows = [line for line in lines if "Contract" in line]
    # Recalled in the reverse order: of four passages the first one stood at rank 4.
    assert "1 │   4 │    ▲3 │ 0.900 │" in rows[0]
    for row, fate in zip(rows, ("kept", "kept", "below floor", "not scored"), strict=True):
        assert f" {fate} " in row
    assert not any("search had" in line for line in lines)


def test_a_favourite_of_search_that_is_out_of_sight_is_named() -> None:
    n = ROWS_SHOWN + 3
    lines = printed(trace_of(scores=[0.9 - 0.05 * place for place in range(n)]))
    assert any(line.startswith("search had Contract") and f"at rank {n} now" in line for line in lines)
