r"""Where sentences begin and end: for cutting chunks, choosing quotes and checking that each statement is cited.

A rule, not a model: it knows common English abbreviations, initials, decimals, list numbers and the sentence marks of
Chinese, Japanese, Arabic and Hindi. It does not cut at semicolons or colons, and where an abbreviation may or may not
end a sentence it prefers one sentence too long to two broken ones.
"""

from __future__ import annotations

import re

_END = re.compile(
    r"""
      [。！？]++ [」』】）》”’"')\]]*+                # full-width marks need no space after them
    | (?<![.!?…؟।۔]) [.!?…؟।۔]++ [”’»"')\]]*+ (?: [ ]?\[\d{1,3}\] )*+ (?=\s|$)
    """,
    re.VERBOSE,
)


def _words(listing: str) -> frozenset[str]:
    return frozenset(listing.split())


_LAST_TOKEN = re.compile(r"\S+$")
_OPENING = "([{\"'“‘«„¿¡-–—•"

_NEVER_LAST = _words(
    "mr mrs ms mx messrs dr prof st rev hon gen col capt lt sgt sen rep gov e.g i.e eg ie cf vs v viz resp incl excl "
    "approx ca est dept univ assn bros z.b d.h bzw ggf vgl"
)
"""Abbreviations that hardly ever end a sentence."""

_BEFORE_NUMBER = _words(
    "no nos nr fig figs eq eqs sec secs sect art arts ch chap vol vols p pp par para pt ex exh app tab ref refs cl "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Abbreviations when a number, a bracket or a single capital follows; else words that can end a sentence."""

_MAYBE_LAST = _words("etc inc ltd co corp llc plc al jr sr bros a.m p.m am pm ph.d m.d b.a m.a b.sc m.sc")
"""Abbreviations that end a sentence only if a usual first word follows."""

_FIRST_WORDS = _words(
    "a after all although an and any as at because before both but by do does during each either every for from he "
    "her here his how however i if in it its many more most no not on once one or other our please she since so some "
    "such that the their then there these they this those though to under unless until upon we what when where which "
    "while who why with you your"
)
"""Words that usually begin a sentence when they are written with a capital after a full stop."""

_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_LIST_NUMBER = re.compile(r"[(\[]?(?:\d{1,3}(?:\.\d{1,3})*|[A-Za-z]|[ivxIVX]{1,5})")
_MONTH = re.compile(r"(?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember)\b")


def split_sentences(text: str) -> list[tuple[int, int]]:
    r"""Character spans `[start, end)` of the sentences, in order.

    The spans never overlap, start and end on a character that is no white space, and together hold every character
    that is none. A line feed always ends a sentence, since it separates paragraphs.

    >>> def sentences(text):
    ...     return [text[start:end] for start, end in split_sentences(text)]
    >>> sentences("Dr. Lee paid 3.2 million, e.g. for No. 5. Was it much? It was.")
    ['Dr. Lee paid 3.2 million, e.g. for No. 5.', 'Was it much?', 'It was.']
    >>> sentences("1. Keep dry. 2. Keep cool.")
    ['1. Keep dry.', '2. Keep cool.']
    >>> sentences("J. R. Smith of Acme Inc. Chicago left the U.S. in May. The rest stayed, etc. They wait.")
    ['J. R. Smith of Acme Inc. Chicago left the U.S. in May.', 'The rest stayed, etc.', 'They wait.']
    >>> sentences('"Stop!" he said. (See Fig. 3.) Is the answer no. Yes...')
    ['"Stop!" he said.', '(See Fig. 3.)', 'Is the answer no.', 'Yes...']
    >>> sentences("Heading\nA paragraph [1]. Another.[2] A third. [3] Last\n\n")
    ['Heading', 'A paragraph [1].', 'Another.[2]', 'A third. [3]', 'Last']
    >>> sentences("今日は雨です。傘が要りますか？はい！「そうです。」")
    ['今日は雨です。', '傘が要りますか？', 'はい！', '「そうです。」']
    >>> split_sentences(" \n ")
    []
    """
    spans: list[tuple[int, int]] = []
    line_start = 0
    for line in text.split("\n"):
        start = line_start
        for mark in _END.finditer(text, line_start, line_start + len(line)):
            if _is_end(text, start, mark.start(), mark.end(), line_start + len(line)):
                _add_trimmed(spans, text, start, mark.end())
                start = mark.end()
        line_start += len(line)
        _add_trimmed(spans, text, start, line_start)
        line_start += 1
    return spans


def _add_trimmed(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    if trimmed := piece.strip():
        start += len(piece) - len(piece.lstrip())
        spans.append((start, start + len(trimmed)))


def _is_end(text: str, start: int, mark: int, end: int, line_end: int) -> bool:
    """Whether the mark at `[mark, end)` ends the sentence that begins at `start`."""
    if text[mark] in "。！？":
        return True
    following = text[end : min(end + 40, line_end)].lstrip().lstrip(_OPENING).lstrip()
    if not following:
        return False  # what is left, if anything, is no sentence of its own
    if following[0].islower():
        return False
    if text[mark] != "." or text[mark : mark + 2] == "..":
        return True
    token_match = _LAST_TOKEN.search(text[max(start, mark - 40) : mark])
    if token_match is None:
        return False  # a dot that stands alone belongs to what follows
    if mark - start < 12 and _LIST_NUMBER.fullmatch(text[start:mark].lstrip()):
        return False  # "1." or "a." at the sentence's start numbers it
    token = token_match[0].lstrip(_OPENING)
    key = token.lower()
    first_word = re.split(r"[\s,;:.]", following, maxsplit=1)[0]
    starts_sentence = first_word.lower() in _FIRST_WORDS
    if key in _NEVER_LAST:
        return False
    if key in _BEFORE_NUMBER:
        return not (following[0].isdigit() or (len(first_word) == 1 and first_word not in "AI"))
    if key in _MAYBE_LAST or (_INITIALS.fullmatch(token) and (token[0].isupper() or "." in token)):
        return starts_sentence
    return not (token.isdigit() and len(token) <= 2 and _MONTH.match(following))
