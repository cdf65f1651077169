r"""Mends text as PDF readers give it: ligatures, line-end hyphens, control characters; and tells garbled text. Pure.

It doesn't translate garbled text back, correct spelling or guess missing spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from rag.invisible import without_invisible

_INVISIBLE = "\u00ad\u200b\u2060\ufeff\ufffe\uffff"
"""Soft hyphen, zero-width space, word joiner, byte order mark, and two that are no characters. The zero-width joiners
stay: Persian and Hindi are written with them."""

_PRESENTATION_FORM = re.compile(
    "["
    "\ufb00-\ufb4f"  # Latin, Armenian and Hebrew ligatures
    "\ufb50-\ufdff\ufe70-\ufefc"  # Arabic letters by position
    "\u2e80-\u2fd5\uf900-\ufaff"  # CJK radicals and compatibility ideographs
    "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff65-\uff9f"  # full-width letters and digits, half-width kana
    "\U0001d400-\U0001d7ff"  # mathematical letters
    "]+"
)

_LEADER = re.compile(r"([.·…_=*~-])\1{3,}")
CJK_RANGES = "\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60\U00020000-\U0003ffff"
"""For a class of a regular expression: Chinese and Japanese characters but their space."""
FIRST_CJK = "\u3000"
"""No character before it is Chinese or Japanese."""
_CJK = re.compile(f"[\u3000{CJK_RANGES}]")

_KEEPS_HYPHEN_AFTER = frozenset(["self", "non", "cross", "year", "third", "half", "e"])
_KEEPS_HYPHEN_BEFORE = frozenset(
    [
        "term",
        "based",
        "related",
        "looking",
        "specific",
        "owned",
        "wide",
        "free",
        "held",
        "backed",
        "year",
        "month",
        "day",
    ]
    + ["hour", "party", "risk", "quality", "sensitive", "end", "up", "time", "sized", "style", "like", "only"]
)

_BULLET = re.compile(r"[•●○◦▪■□▸►▶‣⁃∙·◆◇✓✔➢❖–—*-]$|[•●◦▪■▸►▶‣⁃◆✓✔➢❖]")
_GLYPH_NAME = re.compile(r"/(?:g|G|C|c|cid|uni|glyph|index|a)\d{1,5}(?![A-Za-z])|\(cid:\d+\)")
_CONTROL_OR_BAD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
_PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff]")
_SYMBOL_FONT_BULLET = re.compile("[\uf06c\uf06e\uf076\uf0a7\uf0a8\uf0b7\uf0d8\uf0e0\uf0fc]")
_COMMON_WORD = re.compile(
    r"\b(?:the|of|and|to|in|is|for|with|this|de|la|les|el|der|die|und|von|di|il|che|que|para|een|het|van|och|att)\b"
)
_TERMINAL = (".", "!", "?", ":", ";", "。", "！", "？", ".”", ".)", '."')


def is_cjk(character: str) -> bool:
    """Whether the character belongs to a script written without spaces (Chinese, Japanese)."""
    return character >= FIRST_CJK and _CJK.match(character) is not None


def mend_word(raw: str) -> str:
    r"""One word without ligatures, control and invisible characters; empty if nothing readable is left.

    Only forms that merely *look* different are replaced (NFKC of ligatures, Arabic presentation forms, CJK radicals,
    full-width letters and digits, mathematical letters). NFKC as a whole would turn m² into m2, ½ into 1⁄2 and ！
    into !, and is not applied. Accents are composed (NFC). A line of dots, dashes or the like is cut to three.

    >>> [mend_word(word) for word in ("\ufb01rst", "m²", "e\u0301t\xe9", "\x03", "Ｒ２", "co\xadop", "........")]
    ['first', 'm²', 'été', '', 'R2', 'coop', '...']
    """
    if raw.isascii() and raw.isprintable():  # most words: nothing else of what follows can befall them
        return raw if raw.isalnum() else _LEADER.sub(r"\1\1\1", raw).strip()
    if any("\ud800" <= character <= "\udfff" for character in raw):  # pdfium gives UTF-16 units
        raw = raw.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    word = "".join(
        character
        for character in raw
        if character not in _INVISIBLE and (character >= " ") and not "\x7f" <= character <= "\x9f"
    )
    word = _PRIVATE_USE.sub("", _SYMBOL_FONT_BULLET.sub("•", without_invisible(word)))
    word = _PRESENTATION_FORM.sub(lambda match: unicodedata.normalize("NFKC", match[0]), word)
    return _LEADER.sub(r"\1\1\1", unicodedata.normalize("NFC", word)).strip()


def joins_with_hyphen(first: str, second: str, others: Collection[str] = ()) -> bool:
    """Whether a word that is broken at a line's end with a hyphen keeps it when the halves are joined.

    `others` are the words of the same page: a form that stands there decides. Else the hyphen stays before a capital
    or a digit, and in a few usual compounds.

    >>> joins_with_hyphen("inter", "national"), joins_with_hyphen("COVID", "19"), joins_with_hyphen("long", "term")
    (False, True, True)
    >>> joins_with_hyphen("co", "payment", {"co-payment"})
    True
    """
    core, tail = first.lstrip("([{\"'“‘").lower(), second.rstrip(".,;:!?)]}\"'”’").lower()
    if core + tail in others:
        return False
    if f"{core}-{tail}" in others:
        return True
    if not second[:1].islower() or not first[-1:].isalpha():
        return True
    return core in _KEEPS_HYPHEN_AFTER or tail in _KEEPS_HYPHEN_BEFORE or "-" in core


def is_bullet(word: str) -> bool:
    """Whether a line that starts with this word is a list item by its bullet.

    >>> [is_bullet(word) for word in ("•", "-", "●First", "-5", "Item")]
    [True, True, True, False, False]
    """
    return _BULLET.match(word) is not None


def ends_sentence(text: str) -> bool:
    """Whether the line ends with a mark that can end a paragraph."""
    return text.rstrip().endswith(_TERMINAL)


@dataclass(frozen=True, slots=True)
class Readability:
    """How much of a page's raw text is readable."""

    garbled: bool
    """Too little of it to be used at all."""
    bad_share: float
    """Share of characters that are surely wrong, in [0, 1]."""


def readability(raw: str) -> Readability:
    r"""Judge the raw text of a page, before it is mended.

    Garbled is a text of which a quarter or more are control characters, replacement characters or glyph names, or half
    with those of private use (a symbol font within a formula is not that much); or whose Latin letters hold too few
    vowels for any language and no usual word, as happens where a font's codes are taken for letters.

    >>> readability("The quick brown fox jumps over the lazy dog.").garbled
    False
    >>> [readability(raw).garbled for raw in ("\x03\x1c\x1d\x1e a", "/g18/g152/g3/g44", "\ue012\ue013\ue014 of")]
    [True, True, True]
    >>> readability("".join(chr(ord(letter) - 29) for letter in "Theinsurancecoversthecostofalltreatment" * 8)).garbled
    True
    """
    names = _GLYPH_NAME.findall(raw)
    solid = _GLYPH_NAME.sub("", raw).replace("\x02", "")
    n_solid = len("".join(solid.split()))
    n_bad = len(_CONTROL_OR_BAD.findall(solid)) + len(names)
    n_private = len(_PRIVATE_USE.findall(_SYMBOL_FONT_BULLET.sub("", solid)))
    total = max(1, n_solid + len(names))
    garbled = n_bad >= 0.25 * total or n_bad + n_private >= 0.5 * total or _lacks_vowels(solid)
    return Readability(garbled, (n_bad + n_private) / total)


def _lacks_vowels(text: str) -> bool:
    plain = unicodedata.normalize("NFD", text.lower())
    n_letters = sum(map(plain.count, "abcdefghijklmnopqrstuvwxyz"))
    n_vowels = sum(map(plain.count, "aeiouy"))
    if n_letters < 120 or n_vowels >= 0.2 * n_letters:
        return False
    all_letters = sum(character.isalpha() for character in text)
    return n_letters >= 0.9 * all_letters and len(_COMMON_WORD.findall(text)) < 2


def mend_plain(raw: str) -> str:
    r"""Text in lines, without any geometry, to the form of `rag.types.Page.text`.

    A line is joined to the one before if that is nearly as long as the longest ones and doesn't end a sentence, or if
    it starts in lower case.

    >>> mend_plain("The bene\ufb01ts of inter-\nnational cover\n\n1. Keep dry.\n2. Keep cool.")
    'The benefits of international cover\n1. Keep dry.\n2. Keep cool.'
    """
    lines = [[word for word in map(mend_word, line.split()) if word] for line in raw.split("\n")]
    lengths = sorted(sum(map(len, words)) + len(words) for words in lines if words)
    usual = lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0
    others = {word.lower() for words in lines for word in words}
    paragraphs: list[str] = []
    open_ended = adjacent = False
    for words in lines:
        if not words:
            open_ended = adjacent = False
            continue
        line = " ".join(words)
        before = paragraphs[-1] if paragraphs else ""
        if adjacent and before.endswith("-") and before[-2:-1].isalpha() and line[0].isalnum():
            first = before[:-1].rsplit(" ", 1)[-1]
            keeps = joins_with_hyphen(first, words[0], others)
            paragraphs[-1] = (before if keeps else before[:-1]) + line
        elif before and not is_bullet(words[0]) and (line[0].islower() or (open_ended and not ends_sentence(before))):
            space = "" if is_cjk(before[-1]) and is_cjk(line[0]) else " "
            paragraphs[-1] = before + space + line
        else:
            paragraphs.append(line)
        open_ended, adjacent = len(line) >= 0.7 * usual, True
    return "\n".join(paragraphs)
