"""Text for the screen: escaped for HTML or Markdown, numbers and durations in words.

Every text that comes from a document, a file name, a person or an LLM passes through here before it is drawn. Nothing
here knows a widget.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from types import MappingProxyType

from rag.export import Kinds
from rag.types import Chunk, DocumentKind

ALL_PDF: Kinds = MappingProxyType({})
"""The kinds of documents of which nothing else is known."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>$~:^=&\"'])")
_OPENS_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
_CODE = re.compile(r"`([^`\n]+)`")
_CODE_OR_ADDRESS = re.compile(r"(`[^`\n]+`|\b(?:https?://|www\.)[^\s`]*[^\s`.,;:!?)])")


def readable(text: str) -> str:
    r"""The text on one line, without control and direction-changing characters, which can disguise what is written.

    >>> readable("invoice\u202egpj.pdf\n")
    'invoicegpj.pdf'
    """
    shown = (
        " " if character.isspace() else "" if unicodedata.category(character) in {"Cc", "Cf", "Cs"} else character
        for character in text
    )
    return " ".join("".join(shown).split())


def as_html(text: str) -> str:
    """The text as harmless HTML on one line.

    >>> as_html('<b>"Terms" & more</b>')
    '&lt;b&gt;&quot;Terms&quot; &amp; more&lt;/b&gt;'
    """
    return html.escape(readable(text))


def as_html_lines(text: str) -> str:
    r"""The text as harmless HTML that keeps its lines and spaces.

    >>> as_html_lines("a <b>\u202e \nc")
    'a &lt;b&gt; \nc'
    """
    shown = (
        character if character == "\n" else " " if character.isspace() else readable(character) for character in text
    )
    return html.escape("".join(shown))


def as_cell(text: str) -> str:
    """The text for a cell of a table that can be saved as CSV: a spreadsheet takes none for a formula.

    >>> as_cell("=HYPERLINK(A1)"), as_cell("Terms = conditions")
    ("'=HYPERLINK(A1)", 'Terms = conditions')
    """
    line = readable(text)
    return f"'{line}" if line.startswith(_OPENS_FORMULA) else line


def sentence(text: str) -> str:
    """A remark as a sentence on one line: with a capital and a full stop.

    >>> sentence("no connection"), sentence("Is it up?")
    ('No connection.', 'Is it up?')
    """
    line = readable(text)
    if not line:
        return ""
    return line[0].upper() + line[1:] + ("" if line[-1] in ".!?" else ".")


def sentence_html(text: str) -> str:
    """A remark as a sentence of harmless HTML, with `code` between backticks.

    >>> sentence_html("get it with `rag fetch`")
    'Get it with <code>rag fetch</code>.'
    """
    return _CODE.sub(r"<code>\1</code>", html.escape(sentence(text)))


def as_markdown(text: str) -> str:
    r"""The text as harmless Markdown on one line: nothing in it is markup, apart from `code` between backticks.

    Addresses become code as well, since Markdown would make links of them.

    >>> as_markdown("![x](y) costs $5: run `rag ask`")
    '\\!\\[x\\]\\(y\\) costs \\$5\\: run `rag ask`'
    >>> as_markdown("start http://localhost:11434/v1, then ask")
    'start `http://localhost:11434/v1`, then ask'
    """
    parts = _CODE_OR_ADDRESS.split(readable(text))
    return "".join(
        f"`{part.strip('`')}`" if index % 2 else _MARKDOWN.sub(r"\\\1", part) for index, part in enumerate(parts)
    )


def count(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun.

    >>> count(1, "page"), count(1200, "page"), count(2, "query", "queries")
    ('1 page', '1,200 pages', '2 queries')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def duration(seconds: float) -> str:
    """A duration as a person says it.

    >>> duration(0.012), duration(2.14), duration(75)
    ('12 ms', '2.1 s', '1 min 15 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def time_left(seconds: float) -> str:
    """How long something still takes, as roughly as it is known.

    >>> time_left(8), time_left(100), time_left(5000)
    ('less than a minute left', 'about 2 min left', 'about 1 h 23 min left')
    """
    minutes = round(seconds / 60)
    if seconds < 55:
        return "less than a minute left"
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60} min left"


def size(n_bytes: int) -> str:
    """A number of bytes as a person says it.

    >>> size(120), size(5_300), size(2_560_000)
    ('120 bytes', '5.2 KiB', '2.4 MiB')
    """
    if n_bytes < 1024:
        return count(n_bytes, "byte")
    return f"{n_bytes / 2**10:,.1f} KiB" if n_bytes < 2**20 else f"{n_bytes / 2**20:,.1f} MiB"


def floor_value(floor: float) -> str:
    """The floor with two decimals, or more where it has more.

    >>> floor_value(0.4), floor_value(0.425)
    ('0.40', '0.425')
    """
    short = f"{floor:.2f}"
    return short if float(short) == floor else f"{floor:g}"


def score_value(score: float) -> str:
    """A score with three decimals, rounded down: just under the floor never reads as the floor, nor 0.9996 as 1.

    >>> score_value(0.39996), score_value(0.4), score_value(0.9996)
    ('0.399', '0.400', '0.999')
    """
    return f"{math.floor(score * 1000 + 1e-9) / 1000:.3f}"


def shortfall(score: float, floor: float) -> str:
    """How far a score is below the floor, as the difference of what is shown of both.

    >>> shortfall(0.39996, 0.4), shortfall(0.31, 0.4)
    ('0.001', '0.090')
    """
    return f"{floor - float(score_value(score)):.3f}"


def unit(kind: DocumentKind) -> str:
    """What a document of a kind is counted in.

    >>> unit("pdf"), unit("docx")
    ('page', 'section')
    """
    return "page" if kind == "pdf" else "section"


def pages(first: int, last: int, kind: DocumentKind = "pdf") -> str:
    """A page or a range of pages; sections where the kind has no pages.

    >>> pages(4, 4), pages(4, 5), pages(2, 2, "html"), pages(2, 3, "text")
    ('p. 4', 'pp. 4–5', 'sec. 2', 'secs. 2–3')
    """
    one, several = ("p.", "pp.") if kind == "pdf" else ("sec.", "secs.")
    return f"{one} {first}" if first == last else f"{several} {first}–{last}"


def where(chunk: Chunk, kinds: Kinds) -> str:
    """The pages or sections on which a passage stands."""
    return pages(chunk.first_page, chunk.last_page, kinds.get(chunk.document_id, "pdf"))


def page_list(numbers: tuple[int, ...], limit: int = 12) -> str:
    """Page numbers with neighbours joined into ranges.

    >>> page_list((1, 2, 3, 7)), page_list(tuple(range(1, 40, 2)), limit=3)
    ('1–3, 7', '1, 3, 5 and 17 more')
    """
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    shown = [str(first) if first == last else f"{first}–{last}" for first, last in ranges[:limit]]
    left_out = sum(last - first + 1 for first, last in ranges[limit:])
    return ", ".join(shown) + (f" and {left_out} more" if left_out else "")


def snippet(text: str, limit: int) -> str:
    r"""The start of a text, cut at a word; its lines (headings, paragraphs, list items) are set apart by dots.

    >>> snippet("one two three", 9), snippet("one two", 9)
    ('one two …', 'one two')
    >>> snippet("Heading\nText", 99)
    'Heading · Text'
    """
    line = " · ".join(line for line in map(readable, text.splitlines()) if line)
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut) + " …"
