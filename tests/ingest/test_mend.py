"""Mending changes how text looks to a machine, never what a person reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.mend import joins_with_hyphen, mend_plain, mend_word, readability

text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=200)


@given(text)
def test_mended_words_hold_nothing_unprintable_and_mending_twice_changes_nothing(raw: str) -> None:
    for word in raw.split():
        mended = mend_word(word)
        assert mend_word(mended) == mended
        assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in mended)
        assert not any("\ue000" <= character <= "\uf8ff" or "\ufb00" <= character <= "\ufb06" for character in mended)


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        ("e\ufb03cient", "efficient"),
        ("\ufb02ow", "flow"),
        ("10\u00a0m²", "10\u00a0m²"),
        ("½", "½"),
        ("x₁", "x₁"),
        ("Ａ１！", "A1！"),
        ("⼈", "人"),
        ("\uf0b7", "•"),
        ("a\x00b\x1fc", "abc"),
        ("\ud83d\ude00", "😀"),
        ("\ud800", ""),
        ("______________", "___"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_words(raw: str, mended: str) -> None:
    assert mend_word(raw) == mended


@pytest.mark.parametrize(
    ("first", "second", "keeps"),
    [
        ("insur", "ance", False),
        ("long", "term,", True),
        ("self", "insured", True),
        ("Anglo", "American", True),
        ("2020", "21", True),
        ("state-of-the", "art", True),
    ],
)
def test_line_end_hyphens(first: str, second: str, keeps: bool) -> None:
    assert joins_with_hyphen(first, second) is keeps


def test_the_page_itself_decides_on_a_hyphen() -> None:
    assert joins_with_hyphen("re", "insurance", {"re-insurance"})
    assert not joins_with_hyphen("short", "term", {"shortterm"})


PROSE = (
    "The insurer pays the benefit after the waiting period has ended, unless the illness was known before the contract "
    "began. Claims are sent in writing within thirty days. "
)


@pytest.mark.parametrize(
    "readable",
    [
        PROSE * 3,
        "Revenue 1,234 5,678 9,012\nNet income (12) 45 67\n" * 10,
        "<table><tr><td>the</td></tr></table> <td> </td> for the " * 10,
        "Pojišťovna vyplatí pojistné plnění po uplynutí čekací lhůty, nejdříve však třicátý den. " * 5,
        "被保険者は待機期間が終了した後に給付金を受け取ります。" * 10,
        "u \uf02b \uf02b \uf03d OA OB OC " * 10,
        "",
    ],
)
def test_readable_text_is_not_taken_for_garbled(readable: str) -> None:
    assert not readability(readable).garbled


@pytest.mark.parametrize(
    "garbled",
    [
        "".join(chr(ord(c) - 29) if c.isalpha() else c for c in PROSE) * 2,
        "/g18/g152/g3/g44 /g18/g77" * 20,
        "(cid:18)(cid:44)" * 10,
        "\x01\x02\x03\x04 and \x05\x06\x07",
        "\ufffd\ufffd\ufffd a",
        "\ue001\ue002\ue003\ue004 a b",
    ],
)
def test_garbled_text_is_told(garbled: str) -> None:
    assert readability(garbled).garbled


def test_the_odd_bad_character_is_told_but_does_not_condemn_the_page() -> None:
    judged = readability(PROSE + "\x01" * 5)
    assert not judged.garbled
    assert judged.bad_share == pytest.approx(5 / (len("".join(PROSE.split())) + 5))


def test_plain_lines_become_paragraphs() -> None:
    raw = "A long first line that is as wide as the column\nand goes on here.\n\nNext para-\ngraph.\n• one\n• two"
    assert mend_plain(raw) == (
        "A long first line that is as wide as the column and goes on here.\nNext paragraph.\n• one\n• two"
    )
