"""Questions take turns in order of arrival; who gives up leaves the line, and who finds it full is told so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from ingest.turns import Turns
from rag.errors import TooManyQuestions
from rag.types import Event, Waiting

SOON_S = 10.0


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("allowed", [1, 2])
def test_turns_are_taken_in_order_and_no_more_than_allowed_at_a_time(allowed: int) -> None:
    turns = Turns(at_work=allowed, waiting=10)
    begun: list[int] = []
    told: dict[int, list[int]] = {}
    at_work, most = 0, 0
    lock = threading.Lock()
    go_on = threading.Event()

    def ask(number: int) -> None:
        nonlocal at_work, most

        def listen(event: Event) -> None:
            assert isinstance(event, Waiting)
            told.setdefault(number, []).append(event.ahead)

        with turns.taken(listen):
            with lock:
                begun.append(number)
                at_work += 1
                most = max(most, at_work)
            go_on.wait(SOON_S)
            with lock:
                at_work -= 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        until(
            lambda number=number: (
                len(begun) == number + 1 if number < allowed else turns.n_waiting == number + 1 - allowed
            )
        )
    waiting = list(range(allowed, len(threads)))
    until(lambda: sorted(told) == waiting)
    assert [told[number][0] for number in waiting] == [place + 1 for place in range(len(waiting))]
    go_on.set()
    for thread in threads:
        thread.join(SOON_S)
    assert sorted(begun) == list(range(len(threads)))
    if allowed == 1:  # of several that are let in together, any may be the first to say so
        assert begun == list(range(len(threads)))
    assert most == allowed
    assert turns.n_waiting == 0


def test_a_full_line_is_an_error_with_a_remedy() -> None:
    turns = Turns(at_work=1, waiting=0)
    full = pytest.raises(TooManyQuestions, match=r"1 questions are being answered and 0 wait.*RANK37_WAITING")
    with turns.taken(), full:
        turns.taken().__enter__()
    with turns.taken():
        pass


def test_who_gives_up_leaves_the_line() -> None:
    class GivenUp(Exception):
        pass

    def give_up(event: Event) -> None:
        raise GivenUp

    turns = Turns(at_work=1, waiting=1)
    with turns.taken():
        for _ in range(3):  # each leaves its place to the next
            with pytest.raises(GivenUp), turns.taken(give_up):
                raise AssertionError("it was not its turn")
        assert turns.n_waiting == 0


def test_a_turn_ends_with_a_failure() -> None:
    turns = Turns(at_work=1, waiting=0)
    with pytest.raises(ValueError, match="broken"), turns.taken():
        raise ValueError("broken")
    with turns.taken():
        pass
