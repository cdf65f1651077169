"""The answer without an LLM: the best sentences of the kept passages, verbatim, each with its citation.

It picks and orders whole sentences; it never shortens, joins across gaps or rephrases one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rag.citations import rarity, support, with_round_brackets
from rag.ports import Reranker
from rag.sentences import split_sentences
from rag.types import Answer, Chunk, Citation, Part, Passage, RankedChunk, Relevance

MOST_SCORED = 60
"""Most sentences that are scored, to bound the time; those with the most words of the question are preferred."""

MOST_QUOTES = 3

LEAST_SHARE = 0.6
"""Least score of a further quote, as a share of the best one's.

Measured with the embedded reranker on 38 labelled questions of the sample documents whose answer stands in a kept
passage: one quote holds the answer of 32, up to three of 35, whatever the share between 0.3 and 0.8; a fourth adds
none. Scored without the lines above it, the best sentences hold only 29."""

NEAR_DUPLICATE = 0.8
"""Support (see `rag.citations.support`) from which on two quotes say the same."""

LEAST_WORDS = 4
"""A shorter line is a fragment, not a sentence."""

STANDALONE_WORDS = 6
"""A shorter sentence is read, and quoted, with the one before it."""

MOST_HEADING_WORDS = 12

MOST_LIST_WORDS = 80
"""A list item is quoted from the list's lead-in on; one that ends further away than this is not quoted."""

_LEANING = re.compile(
    r"(?:it|its|this|that|these|those|they|their|he|she|such|then|however|otherwise|in (?:this|that|such) case|"
    r"the same)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…。！？؟।][”’»\"')\]」』】）》]*(?:\s*\[\d{1,3}\])*$")
_SECTION_NUMBER = re.compile(
    r"^(?:(?:section|chapter|part|article|§)\s*)?(?:\d+(?:\.\d+)*[.)]?|[A-Z][.)])\s+", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+(?:['’.,-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class _Quotable:
    """A sentence, or two neighbouring ones, that could be quoted."""

    number: int
    """1-based position of its passage among the kept ones."""
    start: int
    end: int
    read: str
    """What the scorer reads: document, heading and lead-in, as a reader of the page sees them, then the sentence."""
    text: str
    """Verbatim, white space folded; of an item of a list, all from the lead-in on."""


def quote_answer(query: str, kept: Sequence[RankedChunk], scorer: Reranker) -> Answer:
    """Quote one to three sentences of the kept passages, one a list item.

    The sentence with the best score comes first; others follow, in order of passage and position, if they come near
    its score and say something else. A scorer without scores gets its best one quoted alone.

    Args:
        query: The standalone question.
        kept: At least one passage; the n-th is cited as [n].
        scorer: Scores single sentences, each with its document, heading and lead-in before it.
    """
    if not kept:
        raise ValueError("an answer needs at least one passage to quote")
    return _answer(_quotes(query, kept, range(1, len(kept) + 1), scorer), kept)


def quote_parts(parts: Sequence[Part], kept: Sequence[RankedChunk], scorer: Reranker) -> Answer:
    """Quote one to three sentences for each covered part of a question, in the order of the parts, each quote once.

    Args:
        parts: At least one is covered; the others are passed over.
        kept: The n-th is cited as [n]; each part is answered from those that were kept for it.
        scorer: As for `quote_answer`.
    """
    chosen: list[_Quotable] = []
    for part in parts:
        own = [number for number, ranked in enumerate(kept, start=1) if ranked.chunk.id in part.kept_ids]
        for quote in _quotes(part.text, kept, own, scorer) if own else ():
            if not any(quote.text in earlier.text for earlier in chosen):
                chosen.append(quote)
    if not chosen:
        raise ValueError("an answer needs a part that is covered")
    return _answer(chosen, kept)


def _quotes(query: str, kept: Sequence[RankedChunk], numbers: Sequence[int], scorer: Reranker) -> list[_Quotable]:
    """The quotes from the passages of those numbers: the best first, the others in order of passage and position."""
    candidates = _most_promising(query, [each for number in numbers for each in _quotables(number, kept[number - 1])])
    if not candidates:
        return [_opening(numbers[0], kept[numbers[0] - 1])]
    passages = [Passage(f"{kept[each.number - 1].chunk.id}:{each.end}", each.read) for each in candidates]
    chosen = _chosen(candidates, scorer.score(query, passages), kept)
    return [chosen[0], *sorted(chosen[1:], key=lambda each: (each.number, each.start))]


def _answer(chosen: Sequence[_Quotable], kept: Sequence[RankedChunk]) -> Answer:
    citations = tuple(
        Citation(each.number, chunk, each.text, chunk.page_at(each.start))
        for each in chosen
        for chunk in [kept[each.number - 1].chunk]
    )
    text = "\n".join(f"- “{with_round_brackets(citation.quote)}” [{citation.marker}]" for citation in citations)
    return Answer(text, citations, "quoted")


def _chosen(
    candidates: Sequence[_Quotable], relevances: Sequence[Relevance], kept: Sequence[RankedChunk]
) -> list[_Quotable]:
    """The quotes: the best, then what comes near it and adds to it; overlapping and touching ones are one."""
    by_relevance = sorted(zip(candidates, relevances, strict=True), key=lambda pair: -pair[1].order)
    best_score = by_relevance[0][1].score
    weights = rarity([candidate.text for candidate in candidates])
    chosen: list[_Quotable] = []
    for candidate, relevance in by_relevance:
        if chosen:
            if best_score is None or relevance.score is None or relevance.score < LEAST_SHARE * best_score:
                continue
            neighbour = next((each for each in chosen if _touch(each, candidate, kept[each.number - 1].chunk)), None)
            if neighbour:
                chosen[chosen.index(neighbour)] = _joined(neighbour, candidate, kept[neighbour.number - 1].chunk)
                continue
            if len(chosen) == MOST_QUOTES or any(_says_the_same(each, candidate, weights) for each in chosen):
                continue
        chosen.append(candidate)
    return chosen


def _touch(one: _Quotable, other: _Quotable, chunk: Chunk) -> bool:
    """Whether two quotes of a chunk overlap or follow each other within a paragraph."""
    if one.number != other.number:
        return False
    first, second = sorted((one, other), key=lambda each: each.start)
    between = chunk.text[first.end : second.start]
    return first.end > second.start or (not between.strip() and "\n" not in between)


def _joined(one: _Quotable, other: _Quotable, chunk: Chunk) -> _Quotable:
    start, end = min(one.start, other.start), max(one.end, other.end)
    return _Quotable(one.number, start, end, one.read, _folded(chunk.text[start:end]))


def _says_the_same(one: _Quotable, other: _Quotable, weights: Mapping[str, float]) -> bool:
    return one.text in other.text or other.text in one.text or support(one.text, other.text, weights) >= NEAR_DUPLICATE


def _quotables(number: int, ranked: RankedChunk) -> Iterator[_Quotable]:
    """The sentences of a passage in order; headings, lead-ins and short sentences go with what they belong to."""
    chunk = ranked.chunk
    heading = chunk.heading or ""
    lead_in = ""
    lead_in_start = 0
    before: tuple[int, int] | None = None
    for start, end in split_sentences(chunk.text):
        text = _folded(chunk.text[start:end])
        on_new_line = before is None or "\n" in chunk.text[before[1] : start]
        before, previous = (start, end), before
        if text in (chunk.heading, chunk.title):
            continue
        if _is_heading(text) and on_new_line and (end == len(chunk.text) or chunk.text[end] == "\n"):
            heading, lead_in = text, ""
            continue
        if text.endswith((":", "：")):
            lead_in, lead_in_start = text, start
            continue
        if _SENTENCE_END.search(text) and on_new_line and not _is_list_item(text):
            lead_in = ""
        if previous and not on_new_line and (_n_words(text) < STANDALONE_WORDS or _LEANING.match(text)):
            start = previous[0]
            text = _folded(chunk.text[start:end])
        if _n_words(text) < LEAST_WORDS:
            continue
        read = "\n".join(line for line in (chunk.title, heading, lead_in, text) if line)
        if lead_in:
            # "Do not take it if you:" turns the meaning of its items around: none is quoted without it.
            start = lead_in_start
            text = _folded(chunk.text[start:end])
            if _n_words(text) > MOST_LIST_WORDS:
                continue
        yield _Quotable(number, start, end, read, text)


def _is_heading(line: str) -> bool:
    """Whether a line by itself is a heading.

    >>> [_is_heading(line) for line in ("3.2 Waiting periods", "Dental care", "It is 180 days.", "- fever", "Age 3: 5")]
    [True, True, False, False, False]
    """
    words = _SECTION_NUMBER.sub("", line)
    return (
        words[:1].isupper()
        and not _SENTENCE_END.search(words)
        and not words.endswith((":", ";", ","))
        and not any(character.isdigit() or character in "|\t=" for character in words)
        and _n_words(words) <= MOST_HEADING_WORDS
    )


def _is_list_item(line: str) -> bool:
    return line.startswith(("-", "–", "•", "*", "·", "▪", "◦")) or _SECTION_NUMBER.match(line) is not None


def _n_words(text: str) -> int:
    """Words, or every third character of a script without spaces."""
    words = _WORD.findall(text)
    return sum(1 if word.isascii() else max(1, len(word) // 12, _n_wide(word) // 3) for word in words)


def _n_wide(word: str) -> int:
    return sum("\u3040" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af" for character in word)


def _most_promising(query: str, quotables: Sequence[_Quotable]) -> list[_Quotable]:
    """At most MOST_SCORED of them, in order, each text once, those with the most support for the question."""
    distinct = list({quotable.text: quotable for quotable in reversed(quotables)}.values())[::-1]
    if len(distinct) <= MOST_SCORED:
        return distinct
    weights = rarity([quotable.text for quotable in distinct])
    best = sorted(distinct, key=lambda each: -support(query, each.read, weights))[:MOST_SCORED]
    return sorted(best, key=lambda each: (each.number, each.start))


def _opening(number: int, ranked: RankedChunk) -> _Quotable:
    """What the best passage begins with, where nothing of the kept passages is a sentence."""
    text = ranked.chunk.text
    start, end = next(iter(split_sentences(text)), (0, len(text)))
    return _Quotable(number, start, end, "", _folded(text[start:end]))


def _folded(text: str) -> str:
    return " ".join(text.split())
