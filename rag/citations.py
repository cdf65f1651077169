r"""From an LLM's reply to an answer whose statements cite passages, or the reason why it is none. Pure.

It checks that a marker names a passage and finds the words there that fit the statement best; it doesn't judge whether
they prove it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rag.sentences import split_sentences
from rag.types import Answer, Citation, RankedChunk, RefusalReason

NO_ANSWER = "NO_ANSWER"
"""What the LLM is told to reply when the passages do not answer the question."""

_NUMBER = r"\d+"
_MARKER = re.compile(
    rf"""
      \\? [\[［【] {{1,2}} \s* \^? \s*
      (?: (?:passages?|sources?|documents?|docs?|refs?|citations?) \s* \#? \s* )?
      (?P<numbers> {_NUMBER} (?: \s* (?: , | ; | & | - | – | — | \band\b | \bund\b | 、 | ， ) \s* {_NUMBER} )* )
      (?: \s* , \s* pp?(?:ages?)? \.? \s* {_NUMBER} (?: \s* [-–] \s* {_NUMBER} )? )?
      (?: \s* † [^\]］】\n]{{0,80}} )?
      \s* \\? [\]］】] {{1,2}}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_RANGE = re.compile(rf"({_NUMBER})\s*[-–—]\s*({_NUMBER})|({_NUMBER})")
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`", re.DOTALL)
_WHOLE_FENCE = re.compile(r"\s*(```|~~~)[\w-]*\n(?P<inside>.*)\n\s*\1\s*", re.DOTALL)

_THINKING = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_SENTINEL = re.compile(r"\bNO\\?_ANSWER\b|\A\W*no answer\W*\Z", re.IGNORECASE)

_APOLOGY = r"(?:(?:i'?m|i am|we are|we're)\s+(?:very\s+)?sorry\b|sorry\b|unfortunately\b)[\s,.!:—–-]*(?:but\s+)?"
_NOT = r"(?:do(?:es)?\s+not|do(?:es)?n't|did\s+not|didn't|cannot|can\s?not|can't)"
_TELLING = (
    r"(?:\w+ly\s+)?(?:contain|mention|provide|include|answer|say|state|specify|address|give|offer|have|describe|discuss|"
    r"tell|indicate|support|allow)\b"
)
_FIRST_PERSON = (
    r"(?:i|we)\s+(?:(?:was|were|am|are)\s+(?:unable|not\s+able)\b|(?:could|can|do|did)(?:\s*n[o']t|not)\s+(?:\w+ly\s+)?"
    r"(?:find|answer|know|locate|see|have|help|assist|determine|provide)\b)"
)
_PASSAGES = (
    r"(?:based\s+on[^,]{1,60},\s*)?(?:the|these|none\s+of\s+the)?\s*(?:\w+\s+){0,2}(?:passages?|excerpts?|context)\b"
)
_PAPERS = r"(?:the|these)\s+(?:\w+\s+){0,2}(?:documents?|texts?|sources?|information)\b"
_NOTHING_SAID = re.compile(
    rf"(?:{_APOLOGY})?(?:{_FIRST_PERSON}|{_PASSAGES}[^.]{{0,40}}?\s(?:{_NOT}\s+{_TELLING}|(?:is|are)\s+not\b)"
    r"|there\s+(?:is|are)\s+no\s+(?:\w+\s+){0,3}(?:information|mention|answer|details?)\b[^.]*\b"
    r"(?:passages?|excerpts?|context)\b)",
    re.IGNORECASE,
)
_NOTHING_SAID_LOOSELY = re.compile(
    rf"(?:{_APOLOGY})?(?:{_PAPERS}[^.]{{0,40}}?\s{_NOT}\s+{_TELLING}"
    r"|there\s+(?:is|are)\s+no\s+(?:\w+\s+){0,3}(?:information|mention|answer|details?)\b)",
    re.IGNORECASE,
)
_ONLY_APOLOGY = re.compile(rf"(?:{_APOLOGY})", re.IGNORECASE)

_TARGET = r"\(\s*(?:<[^<>\n]*>|(?:[^()\n]|\([^()\n]*\))*)\s*\)"
_LABEL = r"[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*){0,8}"
_IMAGE = re.compile(rf"!\[{_LABEL}\](?:{_TARGET}|\[[^\[\]]*\])|<img\b[^>]*>?", re.IGNORECASE)
_LINK = re.compile(rf"\[(?P<label>{_LABEL})\]{_TARGET}")
_DEFINITION = re.compile(
    r"^[ \t>*+-]*\[[^\]\n]+\]:[ \t]*\n?[ \t]*<?(?:[a-z][a-z0-9+.-]*:|//|www\.|/)\S*.*$", re.I | re.M
)
_AFTER_SPACE = " \t\n.,;:!?)"
_DEFINITION_COLON = re.compile(r"^([ \t>*+-]*\[[^\]\n]+\]):", re.MULTILINE)
_AUTOLINK = re.compile(r"<((?:[a-z][a-z0-9+.-]{1,31}:)[^\s<>]*)>", re.IGNORECASE)
_URL = re.compile(r"\b(?:[a-z][a-z0-9+.-]{1,31}://|www\.)[^\s<>\"“”]*[^\s<>\"“”.,;:!?)\]}'’]", re.IGNORECASE)

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|[^\W_]+(?:[.,]\d+)*")

TWO_SENTENCE_GAIN = 1.15
"""How much better than the best single sentence two neighbouring ones must fit to be quoted together."""

LEAST_CLAUSE_TOKENS = 4
"""A clause between two markers that is shorter is understood only with its whole sentence."""


@dataclass(frozen=True, slots=True)
class Marker:
    """One bracket of passage numbers in a text."""

    start: int
    end: int
    numbers: tuple[int, ...]
    """As written, ranges expanded to their ends only where they are longer than 20."""


def find_markers(text: str, *, in_code: bool = False) -> tuple[Marker, ...]:
    """The markers of a text in order, in all the ways in which models write them; those in Markdown code on demand.

    >>> [marker.numbers for marker in find_markers("A [1]. B [2, 3]. C [4-6]. D 【7†source】 [Passage 8, p. 2] [p. 9]")]
    [(1,), (2, 3), (4, 5, 6), (7,), (8,)]
    >>> find_markers("`list[0]` and [see 3]")
    ()
    """
    code = [] if in_code else [match.span() for match in _CODE.finditer(text)]
    return tuple(
        Marker(match.start(), match.end(), tuple(_expanded(match["numbers"])))
        for match in _MARKER.finditer(text)
        if not any(start <= match.start() < end for start, end in code)
    )


def with_round_brackets(text: str) -> str:
    """The text with bracketed numbers in round brackets, so that a document's footnote [2] is not taken for passage 2.

    >>> with_round_brackets("Seen in four patients [2, 3], not in `a[i]`.")
    'Seen in four patients (2, 3), not in `a[i]`.'
    """
    pieces: list[str] = []
    position = 0
    for marker in find_markers(text, in_code=True):
        inside = text[marker.start : marker.end].strip("[]［］【】\\")
        pieces += [text[position : marker.start], f"({inside})"]
        position = marker.end
    return "".join([*pieces, text[position:]])


def _expanded(numbers: str) -> Iterator[int]:
    for match in _RANGE.finditer(numbers):
        if match[3]:
            yield _whole_number(match[3])
            continue
        first, last = sorted((_whole_number(match[1]), _whole_number(match[2])))
        yield from range(first, last + 1) if last - first <= 20 else (first, last)


def _whole_number(digits: str) -> int:
    """The number; a billion stands for all beyond, since Python refuses to read thousands of digits."""
    return int(digits) if len(digits) < 10 else 10**9


def cite(reply: str, passages: Sequence[RankedChunk]) -> Answer | RefusalReason:
    """Check a reply against the passages that its markers number, 1-based.

    The answer's text has every valid marker as `[n]` and no other marker; links lead nowhere and images are gone, since
    a passage could have talked the model into them. Each citation quotes its passage verbatim.

    Returns:
        An Answer of kind `written`; `model_declined` where the reply says that the passages do not answer; `uncited`
        where no marker of it names a passage.
    """
    text = without_thinking(reply)
    if fenced := _WHOLE_FENCE.fullmatch(text):
        text = fenced["inside"]
    if _SENTINEL.search(text):
        return "model_declined"
    text = _with_plain_markers(
        without_links(text, [ranked.chunk.passage for ranked in passages]), len(passages)
    ).strip()
    markers = find_markers(text)
    if _is_refusal(text, cites=bool(markers)):
        return "model_declined"
    citations = tuple(_citations(text, passages))
    return Answer(text, citations, "written") if citations else "uncited"


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of an answer that needs a citation, with those that it has."""

    text: str
    """Without markers."""
    cited: tuple[int, ...]
    """Numbers of the passages that its markers name, each once, in order."""
    start: int = 0
    """Where the sentence begins in the answer's text, its markers included."""
    end: int = 0


def claims(text: str) -> tuple[Claim, ...]:
    r"""The statements of an answer that a passage has to vouch for, in order.

    Headings, lines that end with a colon, and sentences that only say what the passages do not tell need none, and are
    left out unless they cite.

    >>> [claim.cited for claim in claims("It covers:\nRefunds [1], also on sale goods [1][2]. Postage is free.")]
    [(1, 2), ()]
    """
    return tuple(
        Claim(
            statement.text,
            tuple(dict.fromkeys(number for _, number in statement.clauses)),
            statement.start,
            statement.end,
        )
        for statement in _statements(text)
        if statement.clauses
        or (
            _tokens(statement.text)
            and not statement.text.startswith("#")
            and not statement.text.rstrip("*_ ").endswith((":", "："))
            and not _says_nothing(statement.text, cites=False)
        )
    )


def uncited_sentences(text: str) -> tuple[str, ...]:
    """The statements of an answer that no marker vouches for, of those that need one.

    >>> uncited_sentences("Refunds take 7 days [1]. Postage is free. The passages do not say who pays duty.")
    ('Postage is free.',)
    """
    return tuple(claim.text for claim in claims(text) if not claim.cited)


def without_thinking(reply: str) -> str:
    """The reply without the thoughts that some models put before it.

    >>> without_thinking("<think>Seven or eight?</think> Seven [1].")
    ' Seven [1].'
    """
    return _THINKING.sub("", reply)


def without_links(text: str, passages: Sequence[str] = ()) -> str:
    """Markdown with links reduced to their labels and without images, link definitions and foreign addresses.

    An image would be fetched as soon as it is shown and could carry words of the documents away in its address, so text
    from a model goes through this before it is shown, also while it streams. Addresses that stand in one of the
    `passages` are kept, as plain text.

    >>> without_links("See [the shop](http://evil.example/?q=secret) [1](http://a.example) ![x](http://evil.example/p.png)")
    'See the shop [1] '
    >>> without_links("Ask at https://a.example/help or https://b.example.", ["Write to https://a.example/help."])
    'Ask at https://a.example/help or (address removed).'
    """
    previous = None
    while previous != text:  # a label can hold an image, and what is left can form another link
        previous = text
        text = _IMAGE.sub("", text)
        text = _LINK.sub(lambda link: f"[{link['label']}]" if _is_marker_label(link["label"]) else link["label"], text)
        text = _DEFINITION.sub("", text)
        text = _AUTOLINK.sub(r"\1", text)
    text = _URL.sub(lambda url: url[0] if any(url[0] in passage for passage in passages) else "(address removed)", text)
    return text.replace("](", "] (").replace("![", "[")  # whatever the patterns above did not see


def _is_marker_label(label: str) -> bool:
    return _MARKER.fullmatch(f"[{label}]") is not None


def _with_plain_markers(text: str, n_passages: int) -> str:
    """Every marker as `[n]`, those that name no passage removed with the space before them."""
    pieces: list[str] = []
    position = 0
    for marker in find_markers(text):
        valid = dict.fromkeys(number for number in marker.numbers if 1 <= number <= n_passages)
        before = text[position : marker.start]
        glued = text[marker.end : marker.end + 1] not in _AFTER_SPACE
        pieces.append(before if valid or glued else before.rstrip(" \t"))
        pieces.extend(f"[{number}]" for number in valid)
        position = marker.end
    pieces.append(text[position:])
    # What was removed may have brought a bracket and an address together.
    return _DEFINITION_COLON.sub(r"\1 :", "".join(pieces).replace("](", "] ("))


def _says_nothing(sentence: str, *, cites: bool) -> bool:
    """Whether a sentence only says that the passages (or the model) can't tell."""
    plain = sentence.replace("’", "'").lstrip("*_>- ")
    return bool(_NOTHING_SAID.match(plain) or (not cites and _NOTHING_SAID_LOOSELY.match(plain)))


def _is_refusal(text: str, *, cites: bool) -> bool:
    """Whether the reply as a whole is one plain refusal, an apology before it aside."""
    sentences = [text[start:end] for start, end in split_sentences(text)]
    if len(sentences) == 2 and _ONLY_APOLOGY.fullmatch(sentences[0].replace("’", "'")):
        sentences = sentences[1:]
    return len(sentences) == 1 and _says_nothing(sentences[0], cites=cites)


@dataclass(frozen=True, slots=True)
class _Statement:
    """A sentence of an answer with the clauses that its markers end."""

    text: str
    """Without markers."""
    clauses: tuple[tuple[str, int], ...]
    """(words that a marker vouches for, number), in order."""
    start: int
    end: int


def _statements(text: str) -> list[_Statement]:
    """The sentences of an answer; a line of nothing but markers belongs to the sentence before it."""
    statements: list[_Statement] = []
    markers = find_markers(text)
    for start, end in split_sentences(text):
        inside = [marker for marker in markers if start <= marker.start < end]
        plain = _MARKER.sub("", text[start:end]).strip() if inside else text[start:end]
        if not _tokens(plain) and statements:
            before = statements[-1]
            added = tuple((before.text, number) for marker in inside for number in marker.numbers)
            statements[-1] = _Statement(before.text, before.clauses + added, before.start, end)
            continue
        clauses: list[tuple[str, int]] = []
        position, clause = start, plain
        for marker in inside:
            words = text[position : marker.start].strip(" \t,;.")
            if words:
                clause = words if len(_tokens(words)) >= LEAST_CLAUSE_TOKENS else plain
            clauses.extend((clause, number) for number in marker.numbers)
            position = marker.end
        statements.append(_Statement(plain, tuple(clauses), start, end))
    return statements


def _citations(text: str, passages: Sequence[RankedChunk]) -> Iterator[Citation]:
    """Citations in the order in which the markers first appear, each quote once."""
    clauses = [clause for statement in _statements(text) for clause in statement.clauses]
    weights = rarity(
        [ranked.chunk.text[start:end] for ranked in passages for start, end in split_sentences(ranked.chunk.text)]
    )
    for number in dict.fromkeys(number for _, number in clauses):
        chunk = passages[number - 1].chunk
        spans = dict.fromkeys(best_span(words, chunk.text, weights) for words, cited in clauses if cited == number)
        for span in spans:
            if span:
                quote = " ".join(chunk.text[span[0] : span[1]].split())
                yield Citation(number, chunk, quote, chunk.page_at(span[0]))


def rarity(sentences: Sequence[str]) -> Mapping[str, float]:
    """Weight of each token: `log(1 + n_sentences / n_sentences_with_it)`.

    >>> weights = rarity(["The period is 180 days.", "The period starts.", "The end."])
    >>> weights["the"] == math.log(1 + 3 / 3), weights["180"] == math.log(1 + 3 / 1)
    (True, True)
    """
    frequency = Counter(token for sentence in sentences for token in _tokens(sentence))
    return {token: math.log(1 + len(sentences) / count) for token, count in frequency.items()}


def support(statement: str, candidate: str, weights: Mapping[str, float]) -> float:
    """How well a candidate's words cover a statement's: the F1 of their token sets, each token weighted, in [0, 1].

    With `w` the sum of the tokens' weights and `both` the common tokens:
    `precision = w(both) / w(candidate)`, `recall = w(both) / w(statement)`,
    `F1 = 2 * precision * recall / (precision + recall) = 2 * w(both) / (w(statement) + w(candidate))`.
    Tokens are words in lower case without a plural s, or single characters of Chinese, Japanese and Korean; one without
    a weight counts 1.

    >>> support("It is 180 days", "180 days from the start", {})  # 2 common of 4 and 5
    0.4444444444444444
    >>> support("It is 180 days", "180 days from the start", {"180": 3.0})  # 2 * (3 + 1) / (6 + 7)
    0.6153846153846154
    """
    ours, theirs = _tokens(statement), _tokens(candidate)
    total = _weight(ours, weights) + _weight(theirs, weights)
    return 2 * _weight(ours & theirs, weights) / total if total else 0.0


def best_span(statement: str, text: str, weights: Mapping[str, float]) -> tuple[int, int] | None:
    """The sentence of a text, or the two neighbouring ones, with the most support for a statement.

    Two must fit better than one by the factor TWO_SENTENCE_GAIN. Ties: the earlier. No common word (an answer in
    another language): the first sentence. None where the text has no sentence.
    """
    spans = split_sentences(text)
    if not spans:
        return None

    def fit(span: tuple[int, int]) -> float:
        return support(statement, text[span[0] : span[1]], weights)

    single = max(spans, key=fit)
    pairs = [(first[0], second[1]) for first, second in zip(spans, spans[1:], strict=False)]
    pair = max(pairs, key=fit, default=single)
    return pair if fit(pair) > TWO_SENTENCE_GAIN * fit(single) else single


def _weight(tokens: frozenset[str], weights: Mapping[str, float]) -> float:
    return math.fsum(weights.get(token, 1.0) for token in tokens)


def _tokens(text: str) -> frozenset[str]:
    words = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    return frozenset(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words)
