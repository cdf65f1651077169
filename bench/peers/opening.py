"""Opening peers: what can't run here is named with the reason instead of failing the run, and nothing calls home."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

Opened = TypeVar("Opened")

LONGEST_REASON = 300


class NotRunnable(Exception):
    """A peer that can't do the task on a local model folder, and why."""


def stay_offline() -> None:
    """Keep all libraries from the network; to be called before any of them is imported."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HAYSTACK_TELEMETRY_ENABLED="False",
        LANGSMITH_TRACING="false",
        TOKENIZERS_PARALLELISM="true",
    )


def open_all(openers: Mapping[str, Callable[[], Opened]]) -> tuple[dict[str, Opened], dict[str, str]]:
    """What each opener gives, by name; and for those that raise, the reason in words."""
    opened: dict[str, Opened] = {}
    not_run: dict[str, str] = {}
    for name, opener in openers.items():
        try:
            opened[name] = opener()
        except Exception as error:  # a library can fail in any way
            not_run[name] = reason(error)
    return opened, not_run


def reason(error: BaseException) -> str:
    """Why a peer did not run, in one line.

    >>> reason(NotRunnable("it takes no folder")), reason(ModuleNotFoundError("No module named 'x'", name="x"))
    ('it takes no folder', "not installed (No module named 'x')")
    >>> reason(ValueError("bad shape"))
    'ValueError: bad shape'
    """
    words = " ".join(str(error).split())[:LONGEST_REASON]
    if isinstance(error, NotRunnable):
        return words
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({words})"
    return f"{type(error).__name__}: {words}"
