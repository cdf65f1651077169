"""Each statement of a written answer held against the passages that it cites: figures, quoted words, relevance.

It finds statements that lean on nothing or on the wrong passage. It proves none: a passage that contradicts a statement
on its own subject, without another figure, can pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rag.citations import Claim, claims
from rag.ports import Reranker
from rag.types import Answer, Check, Doubt, Passage, RankedChunk

LEAST_QUOTED_WORDS = 2
"""Fewer words in quotation marks name a thing, such as a “schedule”."""

_QUOTED = re.compile(r"“([^“”\n]{3,400})”|„([^„“”\n]{3,400})[“”]|«([^«»\n]{3,400})»|\"([^\"\n]{3,400})\"")
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
_ORDINAL_OR_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_LETTERS = re.compile(r"[^\W_]+")
_NUMBER_WORDS = dict(
    zero=0, one=1, two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10, eleven=11, twelve=12,
    thirteen=13, fourteen=14, fifteen=15, sixteen=16, seventeen=17, eighteen=18, nineteen=19, twenty=20, thirty=30,
    forty=40, fifty=50, sixty=60, seventy=70, eighty=80, ninety=90,
)  # fmt: skip
_MULTIPLES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_HARDLY_FIGURES = frozenset(["0", "1"])
"""Where they are written as words: one of them, zero tolerance."""


def verify(answer: Answer, passages: Sequence[RankedChunk], scorer: Reranker, *, floor: float) -> Answer:
    """The answer with a check of each statement; words that stand in no cited passage lose their quotation marks.

    Args:
        answer: Of kind `written`; another one comes back as it is.
        passages: The n-th is cited as [n].
        scorer: Scores (statement, passage); without scores, relevance is not judged.
        floor: Least score with which a passage supports a statement.
    """
    if answer.kind != "written":
        return answer
    text, not_verbatim = _without_false_quotes(answer.text, passages)
    found = claims(text)
    scores: dict[tuple[str, int], float | None] = {}
    for claim in found:
        cited = [Passage(passages[number - 1].chunk.id, passages[number - 1].chunk.passage) for number in claim.cited]
        if cited:
            relevances = scorer.score(claim.text, cited)
            for number, relevance in zip(claim.cited, relevances, strict=True):
                scores[claim.text, number] = relevance.score
    checks = []
    for claim in found:
        given = [score for number in claim.cited if (score := scores[claim.text, number]) is not None]
        score = max(given, default=None)
        checks.append(
            Check(claim.start, claim.end, claim.cited, score, _doubt(claim, score, floor, passages, not_verbatim))
        )
    return replace(answer, text=text, checks=tuple(checks))


def _doubt(
    claim: Claim, score: float | None, floor: float, passages: Sequence[RankedChunk], not_verbatim: Sequence[str]
) -> Doubt | None:
    if not claim.cited:
        return "no_citation"
    if any(words in claim.text for words in not_verbatim):
        return "not_verbatim"
    texts = [passages[number - 1].chunk.passage for number in claim.cited]
    if figures(claim.text) - frozenset().union(*(figures(text) for text in texts)):
        return "other_figure"
    return "not_supported" if score is not None and score < floor else None


def figures(text: str) -> frozenset[str]:
    """The figures of a text, without marks between thousands, those written in words as well.

    >>> sorted(figures("1. It is 1,000 or 2.5 days, forty-one at most."))
    ['1000', '2.5', '41']
    >>> sorted(figures("- One hundred and eighty days, one thousand two hundred pounds"))
    ['1200', '180']
    """
    body = _ORDINAL_OR_ITEM.sub("", text)
    return frozenset({_plain(match[0]) for match in _FIGURE.finditer(body)} | (_in_words(body) - _HARDLY_FIGURES))


def _in_words(text: str) -> set[str]:
    """Numbers written in English words.

    >>> sorted(_in_words("Twenty five of one, two or three hundred"))
    ['1', '2', '25', '300']
    """
    found: set[str] = set()
    run: list[str] = []
    for word in [*re.findall(r"[^\W\d_]+|[^\w\s-]", text.casefold()), ""]:
        if word in _NUMBER_WORDS or word in _MULTIPLES or (word == "and" and run and run[-1] in _MULTIPLES):
            run.append(word)
        elif run:
            found.update(map(str, _values(run)))
            run = []
    return found


def _values(run: Sequence[str]) -> list[int]:
    """The numbers that number words in a row say: several where they can't be parts of one."""
    found: list[int] = []
    total, current = 0, -1
    for word in run:
        if word in _MULTIPLES:
            current = (1 if current < 0 else current) * _MULTIPLES[word]
            if _MULTIPLES[word] >= 1000:
                total, current = total + current, -1
        elif word in _NUMBER_WORDS:
            value = _NUMBER_WORDS[word]
            after_hundred = current >= 100 and current % 100 == 0
            after_ten = current >= 20 and current % 10 == 0 and 0 < value < 10
            if current >= 0 and not (after_hundred or after_ten):
                found.append(total + current)
                total, current = 0, -1
            current = max(0, current) + value
    return [*found, total + max(0, current)]


def _plain(figure: str) -> str:
    """A figure as it can be compared: `1,000` and `1.000` as 1000, `2,50` and `2.5` as 2.5.

    >>> [_plain(figure) for figure in ("1,000", "1.000.000", "2,50", "2.5", "007")]
    ['1000', '1000000', '2.5', '2.5', '7']
    """
    parts = re.split(r"[.,]", figure)
    if len(parts) > 1 and all(len(part) == 3 for part in parts[1:]):
        return "".join(parts).lstrip("0") or "0"
    whole = "".join(parts[:-1]) if len(parts) > 1 else parts[0]
    fraction = parts[-1].rstrip("0") if len(parts) > 1 else ""
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def _without_false_quotes(text: str, passages: Sequence[RankedChunk]) -> tuple[str, list[str]]:
    """The text with quotation marks around verbatim words only, and the words that lost theirs."""
    held = [_words(passage.chunk.passage) for passage in passages]
    lost: list[str] = []

    def checked(match: re.Match[str]) -> str:
        inside = next(group for group in match.groups() if group is not None)
        words = _words(inside)
        if words.count(" ") + 1 < LEAST_QUOTED_WORDS or any(f" {words} " in f" {passage} " for passage in held):
            return match[0]
        lost.append(inside.strip())
        return inside

    return _QUOTED.sub(checked, text), lost


def _words(text: str) -> str:
    return " ".join(_LETTERS.findall(text.casefold()))
