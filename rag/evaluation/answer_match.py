"""Whether an answer says what the gold answer says: by SQuAD's measures, by containment, and number by number. Pure.

It compares words and numbers, never meanings: a long gold answer in free text is mostly left unjudged.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

SHORT_GOLD_WORDS = 5
"""Up to this length the gold answer's own words or its number are expected in the answer; a longer one is free text."""

IMPLIED_UNIT_DIGITS = 3
"""A number without unit stands for one with a scale only if it is written with so many digits (or a currency sign)."""

COARSEST_DIGITS = 2
"""Rounding is forgiven down to so many significant digits: 8.7 for 8.738, not 9."""

UNIT_WITHIN_WORDS = 3
"""How far behind its number a unit may stand: 180 calendar days."""

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|[^\W_]+(?:[.,'’][^\W_]+)*")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

_SCALES = {
    **dict.fromkeys(("thousand", "thousands", "k"), 10**3),
    **dict.fromkeys(("million", "millions", "mio", "mln", "mn", "mm", "m"), 10**6),
    **dict.fromkeys(("billion", "billions", "bln", "bn", "b"), 10**9),
    **dict.fromkeys(("trillion", "trillions", "tn"), 10**12),
}
_CURRENCIES = {
    **dict.fromkeys(("$", "usd", "dollar", "dollars"), "$"),
    **dict.fromkeys(("€", "eur", "euro", "euros"), "€"),
    **dict.fromkeys(("£", "gbp", "pound", "pounds"), "£"),
    **dict.fromkeys(("¥", "jpy", "yen"), "¥"),
}
_NUMBER = re.compile(
    r"""
    (?<![\w.,])
    (?: (?P<sign>[$€£¥]) | (?P<code>USD|EUR|GBP|JPY)\b )? \s* [-−(]? (?P<sign_inside>[$€£¥])? \s?
    (?P<digits> \d{1,3}(?:,\d{3})+ (?:\.\d+)? | \d+ (?:\.\d+)? | \.\d+ )
    (?! [\d] ) (?![.,]\d) \)?
    (?: \s? (?P<percent>%|per\s?cent\b|percent\b|percentage\s+points?\b)
      | (?: \s|- )? (?P<scale>thousands?|millions?|billions?|trillions?|mio|mln|mn|bln|bn|tn)\b
      | \s?(?P<suffix>mm|[kmb])\b )?
    (?: \s? (?P<currency>dollars?|euros?|pounds?|yen|USD|EUR|GBP|JPY|€|£)(?!\w) )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ASKED_SCALE = re.compile(
    r"\bin\s+(?:(?:units?\s+of\s+)?(?:US\$?|USD|U\.S\.|EUR|GBP|\$|€|£)?\s*(?:dollars?\s+)?(?:in\s+)?)"
    r"(?P<scale>thousands?|millions?|billions?|trillions?)\b",
    re.IGNORECASE,
)


def exact_match(gold: Sequence[str], text: str) -> bool:
    """Whether the answer is one of the gold answers, normalised as SQuAD does it.

    >>> exact_match(["180 days"], "The 180 days."), exact_match(["180 days"], "It is 180 days.")
    (True, False)
    """
    return any(_squad_normalised(text) == _squad_normalised(one) for one in gold)


def token_f1(gold: Sequence[str], text: str) -> float:
    """The highest F1 of the answer's words with those of a gold answer, by SQuAD's definition, in [0, 1].

    Without articles the answer below has 3 words and the gold answer 2, both of which it has:
    `2 * (2/3 * 2/2) / (2/3 + 2/2)`.

    >>> token_f1(["180 days"], "About 180 days.")
    0.8

    Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
    https://arxiv.org/abs/1606.05250, and its script evaluate-v1.1.py.
    """

    def f1(one: str) -> float:
        ours, theirs = _squad_normalised(text).split(), _squad_normalised(one).split()
        common = sum((Counter(ours) & Counter(theirs)).values())
        if not common:
            return 0.0
        precision, recall = common / len(ours), common / len(theirs)
        return 2 * precision * recall / (precision + recall)

    return max(map(f1, gold), default=0.0)


def contains(gold: Sequence[str], text: str) -> bool:
    """Whether the words of one of the gold answers stand in the answer, in a row.

    Case, articles, punctuation between words and commas in thousands do not count; a decimal point does.

    >>> contains(["£15,000"], "It pays up to £15000 a year."), contains(["95 l"], "It uses 9.5 l.")
    (True, False)
    """
    words = _words(text)
    for one in gold:
        wanted = _words(one)
        if wanted and any(words[start : start + len(wanted)] == wanted for start in range(len(words))):
            return True
    return False


def agrees(gold: Sequence[str], text: str, *, question: str = "") -> bool | None:
    """Whether an answer agrees with one of the gold answers; None where words and numbers can't tell.

    True: the gold answer stands in it (`contains`; not where it is digits alone), or each of its numbers does
    (`same_number`). A gold answer of at most SHORT_GOLD_WORDS words that is not found is a False. A longer one, or one
    that begins with yes or no, is free text: it agrees where all its amounts (numbers with a currency, percent sign,
    scale or fraction) are found, and is not judged otherwise.

    `question` may name the unit of a gold number, as in "in USD millions".

    >>> texts = ("Purchases of PP&E 1,577", "It was $1.577 billion.", "1,578")
    >>> [agrees(["$1577.00"], text, question="What was the capital expenditure (in USD millions)?") for text in texts]
    [True, True, False]
    >>> agrees(["No, it manages its assets well."], "Assets fell.") is None
    True
    """
    if not gold:
        return None
    asked = _asked_scale(question)
    verdicts = [_agrees_with(one, text, asked) for one in gold]
    if True in verdicts:
        return True
    return None if None in verdicts else False


def _agrees_with(gold: str, text: str, asked_scale: int | None) -> bool | None:
    if any(map(str.isalpha, gold)) and contains([gold], text):  # digits alone: 30.8 is not 30.8%
        return True
    numbers, found = find_numbers(gold), find_numbers(text)
    words = _words(gold)
    short = len(words) <= SHORT_GOLD_WORDS and words[:1] not in (["yes"], ["no"])
    wanted = numbers if short else [number for number in numbers if number.is_amount]
    if wanted and all(any(same_number(one, other, asked_scale=asked_scale) for other in found) for one in wanted):
        return True
    return False if short else None


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written, without its sign: a loss of 370 is the (370) of a table."""

    value: Fraction
    """What the digits say: 1.577 of "1.577 billion"."""
    decimals: int
    """Digits behind the point, zeros at the end left out: 1577.00 has none."""
    n_digits: int
    """All digits, as written."""
    scale: int | None = None
    """1,000,000 of "million"; None where none is written."""
    percent: bool = False
    currency: str = ""
    unit: tuple[str, ...] = ()
    """Up to UNIT_WITHIN_WORDS words after it, in lower case without plural s."""

    @property
    def is_amount(self) -> bool:
        """Whether it is more than a bare whole number, which could be a year, a count or the number of a note."""
        return bool(self.scale or self.percent or self.currency or self.decimals)

    @property
    def significant_digits(self) -> int:
        """Without zeros at either end: 2 of 8.70, 1 of 400."""
        return len(str(self.value * 10**self.decimals).strip("0"))


def find_numbers(text: str) -> list[Number]:
    """The numbers of a text, in order; those inside words (Q2, FY2018, H3) are none.

    >>> numbers = find_numbers("$1.5 bn, 30.8%, (1,577) in FY18")
    >>> [(float(one.value), one.scale, one.percent, one.currency) for one in numbers]
    [(1.5, 1000000000, False, '$'), (30.8, None, True, ''), (1577.0, None, False, '')]
    """
    text = unicodedata.normalize("NFKC", text)
    numbers = []
    for match in _NUMBER.finditer(text):
        digits = match["digits"].replace(",", "")
        fraction = digits.partition(".")[2].rstrip("0")
        sign = match["sign"] or match["sign_inside"] or match["code"] or match["currency"] or ""
        scale = match["scale"] or (match["suffix"] if sign else None)  # without currency, 40 m is a length
        end = match.start("suffix") if match["suffix"] and not sign else match.end()
        following = [word.rstrip("s") for word in _words(text[end : end + 60])]
        numbers.append(
            Number(
                value=Fraction(digits),
                decimals=len(fraction),
                n_digits=sum(map(str.isdigit, digits)),
                scale=_SCALES[scale.lower()] if scale else None,
                percent=bool(match["percent"]),
                currency=_CURRENCIES.get(sign.lower(), ""),
                unit=tuple(following[:UNIT_WITHIN_WORDS]),
            )
        )
    return numbers


def same_number(gold: Number, other: Number, *, asked_scale: int | None = None) -> bool:
    """Whether a number of an answer is the gold one.

    - Rounding: the more precise one, rounded to the last digit of the other, is the other; which then needs
      COARSEST_DIGITS significant digits (2018 is not 2019; 1.6 billion is 1,577 million; 2 billion is not).
    - A percentage is only ever a percentage; two currencies are never the same; a gold number with nothing but words
      behind it (180 days) needs the first of them within UNIT_WITHIN_WORDS words.
    - A scale is the one written, or the one that the question asks for. Where the gold number has one, a number without
      counts as written out, or as in thousands, millions or billions (the head of a table says so, its cells do not),
      the latter only with IMPLIED_UNIT_DIGITS digits or a currency sign.
    """
    if gold.percent != other.percent or (gold.currency and other.currency and gold.currency != other.currency):
        return False
    plain = not (gold.percent or gold.currency or gold.scale or asked_scale)
    if plain and gold.unit and gold.unit[0] not in other.unit:
        return False
    if gold.percent:
        return _equal(gold, 1, other, 1)
    gold_scale = gold.scale or asked_scale or 1
    if other.scale is not None:
        return _equal(gold, gold_scale, other, other.scale)
    if _equal(gold, gold_scale, other, 1):
        return True
    if gold_scale == 1 or not (other.currency or other.n_digits >= IMPLIED_UNIT_DIGITS):
        return False
    return any(_equal(gold, gold_scale, other, implied) for implied in (10**3, 10**6, 10**9))


def _equal(one: Number, one_scale: int, other: Number, other_scale: int) -> bool:
    """Whether two scaled numbers are the same but for rounding."""
    first, second = one.value * one_scale, other.value * other_scale
    if first == second:
        return True
    first_unit, second_unit = Fraction(one_scale, 10**one.decimals), Fraction(other_scale, 10**other.decimals)
    coarser, unit = (one, first_unit) if first_unit >= second_unit else (other, second_unit)
    return coarser.significant_digits >= COARSEST_DIGITS and abs(first - second) <= unit / 2


def _asked_scale(question: str) -> int | None:
    """The scale in which a question wants its answer.

    >>> [_asked_scale(text) for text in ("Answer in USD billions.", "cash (in millions)?", "In which year?")]
    [1000000000, 1000000, None]
    """
    match = _ASKED_SCALE.search(question)
    return _SCALES[match["scale"].lower()] if match else None


def _words(text: str) -> list[str]:
    """Words and numbers in lower case, without articles; single characters of Chinese, Japanese and Korean."""
    folded = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold()).replace("’", "'")
    return [word for word in _WORD.findall(folded) if word not in ("a", "an", "the")]


def _squad_normalised(text: str) -> str:
    """In lower case, without punctuation and articles, white space folded: SQuAD's `normalize_answer`."""
    lowered = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", lowered).split())
