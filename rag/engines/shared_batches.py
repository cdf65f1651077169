"""Batches that several threads share: what one person's question leaves free of a batch, the next ones' fill.

It decides who computes and what with; what is computed is the caller's. It starts no thread of its own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Rows = NDArray[np.float64]


class _Order(Generic[Item]):
    """What one caller wants computed."""

    def __init__(self, items: Sequence[Item], sizes: Sequence[int]) -> None:
        self.items = items
        self.sizes = sizes
        self.largest_first = sorted(range(len(items)), key=lambda number: -sizes[number])
        self.n_taken = 0
        """How many of them, in that order, are computed or being computed."""
        self.computed: list[tuple[list[int], Rows]] = []
        """Numbers of items with their rows, not handed out yet."""
        self.is_alone = False
        """Whether it shares no batch, since one that it shared failed."""

    @property
    def left(self) -> list[int]:
        """Numbers of the items that nobody has taken."""
        return self.largest_first[self.n_taken :]


class SharedBatches(Generic[Item]):
    """Computes items in batches, first come first served. Safe to use from any number of threads.

    The caller who came first computes, in its own thread; what its items leave free of a batch is filled with those of
    the callers behind it, who get their rows without having computed. So a batch is full as long as anybody waits, and
    nobody waits longer than without the others' items. Where batches are not to be shared, callers only take turns.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Rows],
        size: Callable[[Item], int],
        *,
        most: int | None,
        most_items: int,
        are_shared: bool,
    ) -> None:
        """Say what is computed.

        Args:
            compute: A row for each item of a batch, in their order, `(n_items, n_columns)`. Called by one thread at a
                time.
            size: What an item takes of a batch.
            most: Size of a batch at most, though a single item may be larger; None: no limit but that of their number.
            most_items: Number of items of a batch at most.
            are_shared: Whether a batch may hold the items of several callers. Where a row depends on what else is in
                its batch, as by rounding, what one caller gets would depend on the others.
        """
        self._compute = compute
        self._size = size
        self._most = math.inf if most is None else most
        self._most_items = most_items
        self._are_shared = are_shared
        self._orders: list[_Order[Item]] = []
        """Those who have items that are not computed yet, first come first."""
        self._changed = threading.Condition()

    def rows(self, items: Sequence[Item]) -> Generator[tuple[list[int], Rows], None, None]:
        """Batch by batch: numbers of some items with their rows, `(n_items, n_columns)`. Largest items first.

        Close it if it is left before its end. Whatever `compute` raises for these items is raised here, and for no
        other caller's.
        """
        order = _Order(items, [self._size(item) for item in items])
        with self._changed:
            self._orders.append(order)
        n_given = 0
        try:
            while n_given < len(items):
                with self._changed:
                    self._changed.wait_for(lambda: order.computed or self._orders[0] is order)
                    computed, order.computed = order.computed, []
                if not computed:
                    self._compute_next(order)
                for numbers, rows in computed:
                    n_given += len(numbers)
                    yield numbers, rows
        finally:
            with self._changed:
                self._leave(order)

    def _compute_next(self, first: _Order[Item]) -> None:
        """A batch of the first caller's items and, where it has room, of those behind."""
        with self._changed:
            batch = self._next_batch()
        try:
            rows = self._compute([order.items[number] for order, numbers in batch for number in numbers])
        except BaseException:
            with self._changed:
                for order, numbers in batch:
                    order.n_taken -= len(numbers)
            if len(batch) == 1:
                raise
            first.is_alone = True  # so that it meets the error only if it is its own
            return
        with self._changed:
            start = 0
            for order, numbers in batch:
                order.computed.append((numbers, rows[start : start + len(numbers)]))
                start += len(numbers)
                if not order.left:
                    self._leave(order)
            self._changed.notify_all()

    def _next_batch(self) -> list[tuple[_Order[Item], list[int]]]:
        batch: list[tuple[_Order[Item], list[int]]] = []
        size = n_items = 0
        for order in self._orders:
            numbers: list[int] = []
            for number in order.left:
                if n_items and (size + order.sizes[number] > self._most or n_items == self._most_items):
                    break
                numbers.append(number)
                size += order.sizes[number]
                n_items += 1
            if numbers:
                order.n_taken += len(numbers)
                batch.append((order, numbers))
            if order.is_alone or not self._are_shared or size >= self._most or n_items == self._most_items:
                break
        return batch

    def _leave(self, order: _Order[Item]) -> None:
        if order in self._orders:
            self._orders.remove(order)
            self._changed.notify_all()
