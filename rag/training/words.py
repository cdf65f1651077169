"""Texts compared by their words: letter case, punctuation, white space and line breaks play no role. Pure."""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache


def words(text: str) -> list[str]:
    """Runs of letters and digits, case folded.

    >>> words("Waiting period: 30 days.")
    ['waiting', 'period', '30', 'days']
    """
    return "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()


@lru_cache(maxsize=20_000)  # mining compares the same passages with many questions
def folded(text: str) -> str:
    """The words, one space around each.

    >>> folded("30 days")
    ' 30 days '
    """
    return f" {' '.join(words(text))} "


def contains(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text` in this order, without others between them. No words: no.

    >>> contains("| Basic | 30 days |", "Basic 30 days"), contains("30 days", "0 days"), contains("x", "")
    (True, False, False)
    """
    return bool(words(part)) and folded(part) in folded(text)


def overlap(first: Set[str], second: Set[str]) -> float:
    """Share of the words of both sets that stand in both (Jaccard).

    >>> overlap({"a", "b", "c"}, {"b", "c", "d"})
    0.5
    """
    return len(first & second) / max(1, len(first | second))
