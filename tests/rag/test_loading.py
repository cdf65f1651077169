"""A value that takes long to make: made once, the same for all who wait, or the same error; and anew after one."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from rag.errors import ModelUnavailable
from rag.loading import Loading
from tests.rag.traces import trace_of

WAITERS = 8
WAIT_S = 60.0


class Slow:
    """Makes a value, or fails, once it may; counts how often it was asked to."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.n_calls = 0

    def __call__(self) -> object:
        self.n_calls += 1
        self.begun.set()
        assert self.may_end.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return object()


def all_waiting(loading: Loading[object], slow: Slow, pool: ThreadPoolExecutor) -> list[Future[object]]:
    """Threads that want the value: one makes it, and the others wait for that already."""
    first = pool.submit(loading.get)
    assert slow.begun.wait(WAIT_S)
    waiting = [threading.Event() for _ in range(WAITERS)]
    others = [pool.submit(loading.get, event.set) for event in waiting]
    assert all(event.wait(WAIT_S) for event in waiting)
    return [first, *others]


def test_all_who_wait_get_the_same_value_which_is_made_once() -> None:
    slow = Slow()
    loading = Loading(slow)
    assert (loading.state, slow.n_calls) == ("not begun", 0)
    with ThreadPoolExecutor(1 + WAITERS) as pool:
        found = all_waiting(loading, slow, pool)
        assert loading.state == "loading"
        slow.may_end.set()
        values = {id(one.result(WAIT_S)) for one in found}
    assert len(values) == 1
    assert (loading.state, loading.error, slow.n_calls) == ("loaded", None, 1)
    assert id(loading.get()) in values


def test_all_who_wait_get_the_same_error_each_its_own_copy_and_the_next_one_tries_again() -> None:
    slow = Slow()
    slow.error = ModelUnavailable("the weights are missing: reinstall it")
    loading = Loading(slow)
    errors = []
    with ThreadPoolExecutor(1 + WAITERS) as pool:
        found = all_waiting(loading, slow, pool)
        slow.may_end.set()
        for one in found:
            error = one.exception(WAIT_S)
            assert isinstance(error, ModelUnavailable)
            assert str(error) == "the weights are missing: reinstall it"
            errors.append(error)
    assert len({id(error) for error in errors}) == 1 + WAITERS
    assert (loading.state, slow.n_calls) == ("failed", 1)
    errors[0].attach(trace_of())
    assert all(error.trace is None for error in errors[1:]), "what one question attaches is not another's"

    slow.error = None
    assert loading.get() is loading.get()
    assert (loading.state, loading.error, slow.n_calls) == ("loaded", None, 2)


def test_who_waits_can_give_up_and_the_value_is_made_all_the_same() -> None:
    slow = Slow()
    loading = Loading(slow)

    def give_up() -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(loading.get)
        assert slow.begun.wait(WAIT_S)
        with pytest.raises(KeyboardInterrupt):
            loading.get(give_up)
        slow.may_end.set()
        assert loading.get() is first.result(WAIT_S)


def test_a_value_that_is_there_already() -> None:
    loading = Loading.done(37)
    assert (loading.state, loading.get()) == ("loaded", 37)
