"""Pages to chunks, cut on section, paragraph and sentence borders to a token budget. Pure.

It doesn't read files, doesn't embed, and knows no tokenizer: the embedder's counts are handed in.
"""

from __future__ import annotations

import re
import uuid
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rag.sentences import split_sentences
from rag.types import SPAN_SEPARATOR, Chunk, Document, Page, PageSpan

CountTokens = Callable[[Sequence[str]], list[int]]
"""Token counts of texts, in input order: the signature of `rag.ports.Embedder.count_tokens`."""

CHARACTERS_PER_TOKEN = 20
"""A chunk never holds more characters than this times its token budget: a tokenizer may count a word of a million
characters as one unknown token, and a chunk must stay fit to be stored and shown."""

_NAMESPACE = uuid.UUID("6f2c6f0e-2b5d-5c1c-9d0a-37a1d5a1c037")
_EDGE_LINES = 3
_LEAST_REPEATS = 4
_REPEATED_SHARE = 0.4
_PARAGRAPH_SHARE = 2 / 3
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True, order=True)
class Heading:
    """A section heading: the section reaches from there to the next heading."""

    page: int
    """1-based page number."""
    start: int
    """Where its line begins, an index into `Page.text`; 0 where it is known only by its page."""
    text: str
    """One line; as the document's outline has it, or verbatim from the page."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """The smallest unit of a chunk: a sentence, or a part of one too long for a chunk."""

    page: int
    start: int
    end: int
    section: int
    """Index into the list of sections."""
    opens_paragraph: bool
    cost: int
    """Tokens, by which pieces are packed."""


@dataclass(frozen=True, slots=True)
class _Section:
    heading: str | None
    prefix_cost: int
    """Tokens of title, heading, prompt and special tokens."""


@dataclass(frozen=True, slots=True)
class _Draft:
    overlap: tuple[_Piece, ...]
    fresh: tuple[_Piece, ...]

    @property
    def pieces(self) -> tuple[_Piece, ...]:
        return self.overlap + self.fresh


def chunk_document(
    document: Document,
    pages: Sequence[Page],
    headings: Sequence[Heading],
    *,
    count_tokens: CountTokens,
    count_passage_tokens: CountTokens,
    max_tokens: int,
    overlap_tokens: int,
) -> list[Chunk]:
    """Cut the pages of a document into chunks, in reading order.

    - `Chunk.passage` (title, heading, text, prompt and special tokens) is never longer than `max_tokens`. A sentence
      too long for that is cut between words, a word too long between characters; a title or heading that alone takes
      more than an eighth of the budget is shortened with an ellipsis.
    - A heading starts a new chunk, unless the section before it has less than an eighth of the budget: then that
      stays together with what follows.
    - The chunks together hold all text but running heads and feet (see `running_lines`), verbatim.
    - A chunk begins with at most `overlap_tokens` of whole sentences that end the chunk before it, if both are of one
      section and the first of its new sentences still fits.
    - The same input gives the same chunks with the same ids.

    Args:
        document: Its title stands before every passage.
        pages: In page order.
        headings: In any order; those on running lines are ignored.
        count_tokens: Without special tokens and prompt.
        count_passage_tokens: With special tokens and prompt. Both are called a few times with many texts.
        max_tokens: At least 16.
        overlap_tokens: 0 for none; at most half of `max_tokens` is used.

    Raises:
        ValueError: `max_tokens` is too small for even one character of the text.
    """
    if max_tokens < 16:
        raise ValueError(f"chunks of {max_tokens} tokens are too small: take at least 16")
    text_of = {page.number: page.text for page in pages}
    ruler = _Ruler(count_tokens, count_passage_tokens)
    least_tokens = max_tokens // 8
    title = ruler.shorten([document.title], least_tokens)[0]

    left_out, repeated_starts = _running_lines(pages)
    headings = [heading for heading in headings if (heading.page, heading.start) not in repeated_starts]
    borders, sections = _sections(headings, title, least_tokens, ruler)
    pieces = _pieces(pages, left_out, borders, sections, max_tokens, ruler)
    drafts = _pack(pieces, sections, text_of, max_tokens, min(overlap_tokens, max_tokens // 2), ruler)
    return _finish(document, title, drafts, sections, text_of, max_tokens, ruler)


def running_lines(pages: Sequence[Page]) -> set[tuple[int, int, int]]:
    """Running heads and feet: lines among the first or last three of a page that repeat on most pages.

    Such a line stands on at least 4 pages and 40% of all, word for word but for numbers that count with the pages.
    The first of each kind is kept unless it is a bare page number, so that nothing is lost that was said only there.
    Only lines at the very edge count: the text between them is one unbroken span of the page.

    Returns:
        `(page number, start, end)` of the lines to leave out.
    """
    dropped, _ = _running_lines(pages)
    return dropped


def _running_lines(pages: Sequence[Page]) -> tuple[set[tuple[int, int, int]], set[tuple[int, int]]]:
    """The lines to leave out, and the starts `(page, start)` of all that repeat, the kept first ones too."""
    edges: list[tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]] = []
    text_of = {page.number: page.text for page in pages}
    groups: dict[tuple[bool, str], list[tuple[int, int, int]]] = defaultdict(list)
    for page in pages:
        lines = _line_spans(page)
        top = lines[:_EDGE_LINES]
        bottom = lines[::-1][:_EDGE_LINES]
        edges.append((top, bottom))
        for at_top, edge in ((True, top), (False, bottom)):
            for line in edge:
                groups[at_top, _shape(text_of[line[0]][line[1] : line[2]])].append(line)

    least = max(_LEAST_REPEATS, _REPEATED_SHARE * sum(bool(top) for top, _ in edges))
    repeated: dict[bool, set[tuple[int, int, int]]] = {True: set(), False: set()}
    kept_first: set[tuple[int, int, int]] = set()
    for (at_top, shape), lines in groups.items():
        counted = _counting_with_pages(lines, text_of)
        if len({page for page, _, _ in counted}) < least:
            continue
        has_words = any(character.isalpha() for character in shape)
        if not has_words and shape.count("#") != 1:
            continue  # a row of figures, not a page number
        repeated[at_top].update(counted)
        if has_words:
            kept_first.add(min(counted))

    dropped: set[tuple[int, int, int]] = set()
    for top, bottom in edges:
        for at_top, edge in ((True, top), (False, bottom)):
            for line in edge:
                if line not in repeated[at_top] or line in kept_first:
                    break
                dropped.add(line)
    starts = {(page, start) for lines_of in repeated.values() for page, start, _ in lines_of}
    return dropped, starts


def _line_spans(page: Page) -> list[tuple[int, int, int]]:
    spans = []
    start = 0
    for line in page.text.split("\n"):
        if line.strip():
            spans.append((page.number, start, start + len(line)))
        start += len(line) + 1
    return spans


def _shape(line: str) -> str:
    """The line with every number as `#`, lower case, white space folded."""
    return " ".join(_NUMBER.sub("#", line).casefold().split())


def _counting_with_pages(lines: list[tuple[int, int, int]], text_of: dict[int, str]) -> list[tuple[int, int, int]]:
    """Those of the lines whose every number is the same on all of them, or grows by one a page.

    An invoice number at the head of each page says something else on each, and is no running head.
    """
    numbers = {line: [int(n[:18]) for n in _NUMBER.findall(text_of[line[0]][line[1] : line[2]])] for line in lines}
    for place in range(len(numbers[lines[0]])):
        values = Counter(numbers[line][place] for line in lines)
        offsets = Counter(numbers[line][place] - line[0] for line in lines)
        (value, same), (offset, growing) = values.most_common(1)[0], offsets.most_common(1)[0]
        if growing >= same:
            lines = [line for line in lines if numbers[line][place] - line[0] == offset]
        else:
            lines = [line for line in lines if numbers[line][place] == value]
    return lines


class _Ruler:
    """Measures and shortens texts by the embedder's tokenizer."""

    def __init__(self, count_tokens: CountTokens, count_passage_tokens: CountTokens) -> None:
        self._count_tokens = count_tokens
        self._count_passage_tokens = count_passage_tokens

    def costs(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, and at least one for every `CHARACTERS_PER_TOKEN` characters."""
        if not texts:
            return []
        counts = self._count_tokens(texts)
        return [max(1, n, -(-len(text) // CHARACTERS_PER_TOKEN)) for text, n in zip(texts, counts, strict=True)]

    def passage_tokens(self, passages: Sequence[str]) -> list[int]:
        return list(self._count_passage_tokens(passages)) if passages else []

    def shorten(self, lines: Sequence[str], limit: int) -> list[str]:
        """Each line with white space folded, and cut with an ellipsis where it costs more than `limit`."""
        folded = [" ".join(line.split()) for line in lines]
        long = {line for line, cost in zip(folded, self.costs(folded), strict=True) if cost > limit}
        shortened = {line: self._shorten_one(line, limit) for line in long}
        return [shortened.get(line, line) for line in folded]

    def _shorten_one(self, line: str, limit: int) -> str:
        line = line[: limit * CHARACTERS_PER_TOKEN]
        between_words = [match.start() for match in re.finditer(" ", line)]
        for cuts in (between_words, range(1, len(line))):
            prefixes = [line[:cut].rstrip(" ,;:-–—") + "…" for cut in cuts]
            fitting = [text for text, cost in zip(prefixes, self.costs(prefixes), strict=True) if cost <= limit]
            if fitting:
                return fitting[-1]
        return ""

    def cut(self, text: str, start: int, end: int, limit: int) -> list[tuple[int, int, int]]:
        """Cut `text[start:end]` into parts `(start, end, cost)` within the limit: between words, else characters."""
        parts = [(start + match.start(), start + match.end()) for match in _WORD.finditer(text[start:end])]
        costs = self.costs([text[first:last] for first, last in parts])
        while any(cost > limit and last - first > 1 for (first, last), cost in zip(parts, costs, strict=True)):
            finer: list[tuple[int, int]] = []
            for (first, last), cost in zip(parts, costs, strict=True):
                # eighths of the limit, so that packing them again wastes little
                step = max(1, (last - first) * limit // (8 * cost)) if cost > limit else last - first
                finer += [(at, min(at + step, last)) for at in range(first, last, step)]
            parts = finer
            costs = self.costs([text[first:last] for first, last in parts])
        packed: list[tuple[int, int, int]] = []
        for (first, last), cost in zip(parts, costs, strict=True):
            if packed and packed[-1][2] + cost <= limit:
                packed[-1] = (packed[-1][0], last, packed[-1][2] + cost)
            else:
                packed.append((first, last, cost))
        return packed


def _sections(
    headings: Sequence[Heading], title: str, limit: int, ruler: _Ruler
) -> tuple[list[tuple[int, int]], list[_Section]]:
    """Where sections begin, and the sections; the first one is what stands before any heading."""
    ordered = sorted((heading for heading in headings if heading.text.strip()), key=lambda h: (h.page, h.start))
    names: list[str | None] = [None]
    for name in ruler.shorten([heading.text for heading in ordered], limit):
        names.append(name if name and name.casefold() != title.casefold() else None)
    prefixes = {name: "\n".join(line for line in (title, name) if line) for name in names}
    cost_of = dict(zip(prefixes, ruler.passage_tokens(list(prefixes.values())), strict=True))
    borders = [(0, 0)] + [(heading.page, heading.start) for heading in ordered]
    return borders, [_Section(name, cost_of[name]) for name in names]


def _pieces(
    pages: Sequence[Page],
    left_out: set[tuple[int, int, int]],
    borders: list[tuple[int, int]],
    sections: list[_Section],
    max_tokens: int,
    ruler: _Ruler,
) -> list[_Piece]:
    """The sentences outside of running lines; those too long for a chunk in parts."""
    skipped_of: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, start, end in left_out:
        skipped_of[number].append((start, end))
    sentences: list[tuple[Page, int, int, bool]] = []
    for page in pages:
        last_end = None
        for start, end in split_sentences(page.text):
            if any(first <= start < last for first, last in skipped_of[page.number]):
                continue
            # a paragraph may go on from the page before
            opens = not page.text[start].islower() if last_end is None else "\n" in page.text[last_end:start]
            sentences.append((page, start, end, opens))
            last_end = end

    pieces: list[_Piece] = []
    costs = ruler.costs([page.text[start:end] for page, start, end, _ in sentences])
    for (page, start, end, opens), cost in zip(sentences, costs, strict=True):
        section = bisect_right(borders, (page.number, start)) - 1
        limit = max(1, max_tokens - sections[section].prefix_cost)
        parts = [(start, end, cost)] if cost <= limit else ruler.cut(page.text, start, end, limit)
        for first, last, part_cost in parts:
            pieces.append(_Piece(page.number, first, last, section, opens and first == start, part_cost))
    return pieces


def _pack(
    pieces: Sequence[_Piece],
    sections: list[_Section],
    text_of: dict[int, str],
    max_tokens: int,
    overlap_tokens: int,
    ruler: _Ruler,
) -> list[_Draft]:
    """Fill chunks one after the other, closing each at a section, a paragraph or at least a sentence."""
    least_tokens = max_tokens // 8
    drafts: list[_Draft] = []
    overlap: list[_Piece] = []
    fresh: list[_Piece] = []

    def room() -> int:
        first = (overlap + fresh)[0]
        return max_tokens - sections[first.section].prefix_cost - _cost(overlap) - _cost(fresh)

    def close(n_fresh: int) -> None:
        """Make a chunk of the first `n_fresh` pieces; the others open the next one."""
        nonlocal overlap, fresh
        drafts.append(_Draft(tuple(overlap), tuple(fresh[:n_fresh])))
        overlap, fresh = [], fresh[n_fresh:]

    waiting = list(reversed(pieces))
    while waiting:
        piece = waiting.pop()
        if fresh and piece.section != fresh[-1].section and _cost(fresh) >= least_tokens:
            close(len(fresh))
        if fresh and piece.cost > room():
            if _cost(fresh) < least_tokens:
                if overlap:
                    overlap = []  # what is new goes before what is repeated
                    waiting.append(piece)
                    continue
                # a heading never stands alone: it takes along what fits of the long sentence after it
                if room() > 0 and piece.end - piece.start > 1:
                    parts = ruler.cut(text_of[piece.page], piece.start, piece.end, room())
                    if parts[0][2] <= room():
                        waiting += [
                            replace(piece, start=first, end=last, cost=cost, opens_paragraph=first == piece.start)
                            for first, last, cost in reversed(parts)
                        ]
                        fresh.append(waiting.pop())
                        continue
            close(_best_cut(fresh, piece, room(), least_tokens))
        if not fresh and drafts:
            overlap = _overlap(drafts[-1].fresh, piece, overlap_tokens)
            if piece.cost > max_tokens - sections[piece.section].prefix_cost - _cost(overlap):
                overlap = []
        fresh.append(piece)
    if fresh:
        close(len(fresh))
    return drafts


def _cost(pieces: Iterable[_Piece]) -> int:
    return sum(piece.cost for piece in pieces)


def _best_cut(fresh: Sequence[_Piece], following: _Piece, room: int, least_tokens: int) -> int:
    """How many pieces the chunk keeps: up to the last section border, or paragraph border in its last third."""
    total = _cost(fresh)
    if following.opens_paragraph:
        return len(fresh)
    for wanted in ("section", "paragraph"):
        tail = 0
        for at in range(len(fresh) - 1, 0, -1):
            tail += fresh[at].cost
            if following.cost > room + total - tail:
                break
            if wanted == "section" and fresh[at].section != fresh[at - 1].section and total - tail >= least_tokens:
                return at
            if wanted == "paragraph" and fresh[at].opens_paragraph and total - tail >= _PARAGRAPH_SHARE * total:
                return at
    return len(fresh)


def _overlap(before: Sequence[_Piece], piece: _Piece, limit: int) -> list[_Piece]:
    """The last pieces of the chunk before that are of the same section and within the limit; never all of them."""
    overlap: list[_Piece] = []
    for earlier in reversed(before[1:]):
        if earlier.section != piece.section or _cost(overlap) + earlier.cost > limit:
            break
        overlap.insert(0, earlier)
    return overlap


def _finish(
    document: Document,
    title: str,
    drafts: Sequence[_Draft],
    sections: list[_Section],
    text_of: dict[int, str],
    max_tokens: int,
    ruler: _Ruler,
) -> list[Chunk]:
    """Measure the real passages, divide the few that are too long after all, and give out ids.

    Packing adds up the tokens of single sentences. With most tokenizers the sum is exact or a little too high; only
    the measured passage counts.
    """
    measured: dict[_Draft, tuple[Chunk, bool]] = {}
    while unmeasured := [draft for draft in drafts if draft not in measured]:
        chunks = [_chunk(document, title, draft, sections, text_of) for draft in unmeasured]
        for draft, chunk, n_tokens in zip(
            unmeasured, chunks, ruler.passage_tokens([chunk.passage for chunk in chunks]), strict=True
        ):
            fits = n_tokens <= max_tokens and len(chunk.text) <= CHARACTERS_PER_TOKEN * max_tokens
            measured[draft] = (replace(chunk, n_tokens=n_tokens), fits)
        drafts = [
            part
            for draft in drafts
            for part in ([draft] if measured[draft][1] else _divide(draft, text_of, max_tokens))
        ]

    chunks = []
    for position, draft in enumerate(drafts):
        chunk = measured[draft][0]
        name = f"{document.id}/{position}/{chunk.spans!r}/{chunk.passage}"
        chunks.append(replace(chunk, id=str(uuid.uuid5(_NAMESPACE, name)), position=position))
    return chunks


def _chunk(document: Document, title: str, draft: _Draft, sections: list[_Section], text_of: dict[int, str]) -> Chunk:
    """The chunk of a draft, without id, position and length."""
    spans: list[PageSpan] = []
    for piece in draft.pieces:
        if spans and spans[-1].page == piece.page:
            spans[-1] = replace(spans[-1], end=piece.end)
        else:
            spans.append(PageSpan(piece.page, piece.start, piece.end))
    text = SPAN_SEPARATOR.join(text_of[span.page][span.start : span.end] for span in spans)
    heading = sections[draft.pieces[0].section].heading
    return Chunk("", document.id, title, heading, text, tuple(spans), 0, 0)


def _divide(draft: _Draft, text_of: dict[int, str], max_tokens: int) -> list[_Draft]:
    """A draft too long after all: first without its overlap, then in halves."""
    if draft.overlap:
        return [_Draft((), draft.fresh)]
    middle = len(draft.fresh) // 2
    if middle:
        return [_Draft((), draft.fresh[:middle]), _Draft((), draft.fresh[middle:])]
    piece = draft.fresh[0]
    text = text_of[piece.page]
    if piece.end - piece.start < 2:
        raise ValueError(
            f"{text[piece.start : piece.end]!r} alone, with its title and prompt, is longer than {max_tokens} tokens: "
            "take larger chunks or a shorter prompt"
        )
    spaces = [match.start() for match in re.finditer(r"(?<=\S)\s", text[piece.start : piece.end])]
    length = piece.end - piece.start
    cut = piece.start + (min(spaces, key=lambda at: abs(at - length // 2)) if spaces else length // 2)
    following = cut + len(text[cut : piece.end]) - len(text[cut : piece.end].lstrip())
    return [
        _Draft((), (replace(piece, end=cut, cost=1),)),
        _Draft((), (replace(piece, start=following, cost=1, opens_paragraph=False),)),
    ]
