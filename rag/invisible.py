r"""Text without characters that nobody sees, but a model reads: tag characters, direction marks, fillers. Pure.

It judges single characters; whether a visible one is drawn where a reader sees it is `ingest.hidden_text`'s business.
"""

from __future__ import annotations

import re

_NEVER = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
"""Ignorable by Unicode's own list, with the blank of Braille. Among them the tag characters, which spell ASCII."""

_AFTER_A_LETTER = "\u180b-\u180d\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef"
"""Joiners and variation selectors: Persian, Hindi, Japanese names and emoji are written with them, one at a time."""

_INVISIBLE = re.compile(f"[{_NEVER}]+")
_SELECTORS = re.compile(f"(?P<before>[^{_AFTER_A_LETTER}]?)(?P<run>[{_AFTER_A_LETTER}]+)", re.DOTALL)


def without_invisible(text: str) -> str:
    r"""The text as a reader sees it; Source: https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point.

    >>> without_invisible("in\u200bvoice\u202egpj.\U000e0041\U000e0042pdf")
    'invoicegpj.pdf'
    >>> persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    >>> without_invisible(persian) == persian
    True
    >>> without_invisible("a\ufe01\ufe02b") + without_invisible("\u845b\U000e0100\U000e0101")
    'ab\u845b\U000e0100'
    """
    if text.isascii():
        return text
    return _SELECTORS.sub(_usual, _INVISIBLE.sub("", text))


def _usual(match: re.Match[str]) -> str:
    """What is usual of a run of selectors: one after a character that is not ASCII, and a joiner after an emoji's."""
    before, run = match["before"], match["run"]
    if not before or before.isascii():
        return before
    return before + run[: 2 if run.startswith("\ufe0f\u200d") else 1]
