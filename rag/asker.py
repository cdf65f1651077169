"""On whose behalf this thread works: what is remembered for one person is never shown to another.

It decides nothing about who may do what.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asker: ContextVar[str] = ContextVar("asker", default="")


def asker() -> str:
    """The person for whom this thread works; empty: no one in particular."""
    return _asker.get()


@contextmanager
def asked_by(person: str | None) -> Iterator[None]:
    """While the block runs, this thread works for the person. None: for no one in particular."""
    token = _asker.set(person or "")
    try:
        yield
    finally:
        _asker.reset(token)
