"""Text for the screen: the worked examples hold, and nothing gets through as markup."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ui.words
from ui.words import as_html, as_markdown, readable


def test_worked_examples() -> None:
    tried = doctest.testmod(ui.words)
    assert tried.attempted > 10
    assert tried.failed == 0


@given(st.text())
def test_html_has_no_markup_left(text: str) -> None:
    shown = as_html(text)
    assert not set(shown) & set("<>\"'")
    assert "\n" not in shown


@pytest.mark.parametrize(
    "text",
    ["![x](http://example.org/x.png)", "[a](javascript:alert(1))", "<b>", "$x^2$", ":red[x]", "# big", "| a | b |"],
)
def test_markdown_has_no_unescaped_markup_left(text: str) -> None:
    shown = as_markdown(text)
    outside_code = shown.split("`")[::2]
    for part in outside_code:
        bare = part.replace("\\\\", "").split("\\")
        assert not set("![](<$:#|") & set(bare[0]), shown
        assert all(not set("![](<$:#|") & set(piece[1:]) for piece in bare[1:]), shown


def test_characters_that_disguise_a_name_are_left_out() -> None:
    assert readable("invoice\u202efdp.exe\u0000\n.pdf") == "invoicefdp.exe .pdf"
