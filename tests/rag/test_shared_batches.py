"""Batches that threads share: they are filled up, and everybody gets what was asked for alone."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.packed_encoder import PACK_SEQUENCES
from rag.engines.shared_batches import SharedBatches
from rag.types import Passage

LONGEST_S = 20.0
"""Until a thread that waits for another one gives up."""


class Computing:
    """Squares numbers, and remembers the batches; the first one can be held until others have come."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, items: Sequence[int]) -> NDArray[np.float64]:
        self.batches.append(list(items))
        self.has_begun.set()
        assert self.may_go_on.wait(LONGEST_S)
        if 13 in items:
            raise ArithmeticError("13 can't be squared")
        return np.array([[item**2] for item in items], dtype=np.float64)


@pytest.fixture
def computing() -> Computing:
    return Computing()


@pytest.fixture
def people() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as people:
        yield people


def batches_of(
    computing: Computing, *, most: int | None = None, most_items: int = 4, are_shared: bool = True
) -> SharedBatches[int]:
    return SharedBatches(computing, lambda item: item, most=most, most_items=most_items, are_shared=are_shared)


def squares(batches: SharedBatches[int], items: Sequence[int]) -> list[float]:
    found = np.full(len(items), -1.0)
    with closing(batches.rows(items)) as computed:
        for numbers, rows in computed:
            assert rows.shape == (len(numbers), 1)
            found[numbers] = rows[:, 0]
    return found.tolist()


def come_in_turn(
    batches: SharedBatches[int], computing: Computing, people: ThreadPoolExecutor, *asked: Sequence[int]
) -> list[Future[list[float]]]:
    """Callers who come one after the other while the first one's first batch is computed; then all goes on."""
    computing.may_go_on.clear()
    callers = []
    for number, items in enumerate(asked, start=1):
        callers.append(people.submit(squares, batches, items))
        all_wait(batches, number)
        assert computing.has_begun.wait(LONGEST_S)
    computing.may_go_on.set()
    return callers


def all_wait(batches: SharedBatches[int], n_orders: int) -> None:
    """Until so many callers have come."""

    def have_come() -> bool:
        with batches._changed:
            return len(batches._orders) == n_orders

    until(have_come)


def until(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(LONGEST_S / 0.01)):
        if holds():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came about")


def test_one_caller_gets_full_batches_largest_first(computing: Computing) -> None:
    assert squares(batches_of(computing), [3, 9, 1, 4, 7, 2]) == [9, 81, 1, 16, 49, 4]
    assert computing.batches == [[9, 7, 4, 3], [2, 1]]


def test_a_batch_holds_no_more_than_its_size(computing: Computing) -> None:
    squares(batches_of(computing, most=10), [12, 6, 3, 2, 5])
    # 12 alone, though larger; 6 and then 5 do not fit together; 5 + 3 + 2 do.
    assert computing.batches == [[12], [6], [5, 3, 2]]


def test_nothing_asked_is_nothing_computed(computing: Computing) -> None:
    assert squares(batches_of(computing), []) == []
    assert computing.batches == []


def test_what_one_leaves_free_the_next_ones_fill(computing: Computing, people: ThreadPoolExecutor) -> None:
    batches = batches_of(computing)
    first, second, third = come_in_turn(batches, computing, people, [8, 6, 5, 4, 1], [9, 7], [3, 2])
    assert first.result(LONGEST_S) == [64, 36, 25, 16, 1]
    assert second.result(LONGEST_S) == [81, 49]
    assert third.result(LONGEST_S) == [9, 4]
    assert computing.batches == [[8, 6, 5, 4], [1, 9, 7, 3], [2]], "5 + 2 + 2 items in batches of 4, first come first"


def test_where_batches_are_not_shared_callers_take_turns(computing: Computing, people: ThreadPoolExecutor) -> None:
    batches = batches_of(computing, are_shared=False)
    first, second, third = come_in_turn(batches, computing, people, [8, 6, 5, 4, 1], [9, 7], [3, 2])
    assert [caller.result(LONGEST_S) for caller in (first, second, third)] == [[64, 36, 25, 16, 1], [81, 49], [9, 4]]
    assert computing.batches == [[8, 6, 5, 4], [1], [9, 7], [3, 2]], "nobody's items stand beside another's"


def test_an_error_reaches_only_those_whose_items_caused_it(computing: Computing, people: ThreadPoolExecutor) -> None:
    batches = batches_of(computing)
    first, second, third = come_in_turn(batches, computing, people, [8, 6, 5, 4, 1], [13], [2])
    assert first.result(LONGEST_S) == [64, 36, 25, 16, 1]
    with pytest.raises(ArithmeticError, match="13"):
        second.result(LONGEST_S)
    assert third.result(LONGEST_S) == [4]
    assert squares(batches, [3]) == [9], "and those who come later"


def test_whoever_gives_up_holds_up_nobody(computing: Computing, people: ThreadPoolExecutor) -> None:
    batches = batches_of(computing, most_items=1)
    with closing(batches.rows([5, 4, 3])) as computed:
        assert next(computed)[0] == [0]
        other = people.submit(squares, batches, [2])
        all_wait(batches, 2)
        assert not other.done(), "the first caller's turn is not over"
    assert other.result(LONGEST_S) == [4]
    assert [4] not in computing.batches, "nobody computes what nobody wants"


def test_many_at_once_get_what_they_asked_for(computing: Computing, people: ThreadPoolExecutor) -> None:
    batches = batches_of(computing, most=60, most_items=7)
    asked = [[(start * step) % 12 for step in range(1, 2 + start % 9)] for start in range(200)]
    answers = people.map(lambda items: squares(batches, items), asked)
    assert list(answers) == [[float(item**2) for item in items] for items in asked]
    assert sum(map(len, computing.batches)) == sum(map(len, asked)), "each item is computed once"
    assert not batches._orders


def test_questions_of_several_people_share_packs_and_keep_their_scores(
    people: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = CrossEncoderReranker.embedded(device="cpu", precision="float32")
    questions = [f"What does item {number} of the contract cost?" for number in range(8)]
    passages = [Passage(str(number), f"Item {number} costs {number * 7} EUR a month. " * 4) for number in range(5)]
    alone = [[relevance.order for relevance in reranker.score(question, passages)] for question in questions]

    batches: list[int] = []
    compute = reranker._compute
    together = threading.Barrier(len(questions) + 1)

    def held(pairs: Sequence[object]) -> NDArray[np.float64]:
        if not batches:
            until(lambda: len(reranker._batches._orders) == len(questions))
        batches.append(len({pair.query for pair in pairs}))  # type: ignore[attr-defined]
        return compute(pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(reranker._batches, "_compute", held)
    monkeypatch.setattr(reranker._batches, "_are_shared", True)  # as on a GPU

    def ask(question: str) -> list[float]:
        together.wait(LONGEST_S)
        return [relevance.order for relevance in reranker.score(question, passages)]

    answers = [people.submit(ask, question) for question in questions]
    together.wait(LONGEST_S)
    for answer, expected in zip(answers, alone, strict=True):
        np.testing.assert_allclose(answer.result(LONGEST_S), expected, atol=1e-4)
    n_pairs = len(questions) * len(passages)
    # The first pack holds one person's five, or what had come by then.
    assert len(batches) <= 1 + -(-n_pairs // PACK_SEQUENCES), f"{batches}: {n_pairs} pairs did not share packs"
    assert max(batches) > 1


def test_on_a_cpu_a_score_does_not_depend_on_who_else_asks(
    embedded_reranker: CrossEncoderReranker, people: ThreadPoolExecutor
) -> None:
    passages = [Passage(str(number), f"Item {number} costs {number * 7} EUR. " * (number + 1)) for number in range(12)]
    questions = [f"What does item {number} of the contract cost?" for number in range(8)]
    alone = [[relevance.order for relevance in embedded_reranker.score(one, passages)] for one in questions]
    together = people.map(lambda one: [each.order for each in embedded_reranker.score(one, passages)], questions)
    assert list(together) == alone, "to the last bit"
