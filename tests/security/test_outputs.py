"""Names, titles and replies where they are shown: as text on the page, in tables, in exports and on a terminal."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from ingest.queue import JobView
from rag.export import result_as_json
from rag.terminal import print_result
from rag.types import (
    Answer,
    Candidate,
    Chunk,
    Citation,
    Document,
    PageSpan,
    RankedChunk,
    Refusal,
    Result,
    StoredDocument,
    Trace,
)
from tests.security.attacks import ATTACKS, NAMES
from ui.answer import answer_html, refusal_html
from ui.documents import document_table
from ui.ingestion import job_html
from ui.rank_panel import panel_html
from ui.words import as_cell, as_markdown

TEXTS = {**ATTACKS, **NAMES}


class _Tags(HTMLParser):
    """What markup a page would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


PLAIN_TAGS = {"div", "p", "b", "span", "small", "ol", "ul", "li", "i", "blockquote", "style", "br", "button"}
PLAIN_ATTRIBUTES = {"class", "title", "style", "tabindex", "role"}


def trace_about(text: str) -> tuple[Trace, Answer]:
    """A question whose only passage has the text as title, heading and content."""
    chunk = Chunk("c", "d", text, text, text, (PageSpan(1, 0, len(text)),), 0, 9)
    candidate = Candidate(chunk, 1, 0.5)
    ranked = RankedChunk(candidate, 1, 0.9)
    trace = Trace("t", "2026-01-01T00:00:00+00:00", text, text, 0.4, 5, (), (candidate,), (ranked,), (ranked,))
    return trace, Answer(f"{text} [1]", (Citation(1, chunk, text, 1),), "written")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_no_text_becomes_markup_in_answer_refusal_panel_or_queue(text: str) -> None:
    trace, answer = trace_about(text)
    pages = [
        answer_html(answer),
        answer_html(Answer(answer.text, answer.citations, "quoted")),
        refusal_html(Refusal("below_floor", 0.1), trace),
        panel_html(trace),
        job_html(JobView("j", text, "failed", error=text)),
    ]
    for html in pages:
        tags = _Tags(html)
        assert tags.names <= PLAIN_TAGS, tags.names
        assert {name for name in tags.attributes if not name.startswith("data-") and not name.startswith("aria-")} <= (
            PLAIN_ATTRIBUTES
        )


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_markdown_of_a_text_has_neither_links_nor_images_nor_codes(text: str) -> None:
    shown = as_markdown(text)
    outside_code = re.sub(r"`[^`]*`", "", shown)
    assert not re.search(r"(?<!\\)[\[\]<>$]|(?<!\\)!\[|(?<!\\):material", outside_code)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_no_cell_of_the_list_of_documents_is_a_formula_once_it_is_saved_as_csv(text: str) -> None:
    table = document_table([StoredDocument(Document("a" * 32, text, text, 1), "ready")])
    for line in table[["Title", "File"]].to_csv(index=False).splitlines()[1:]:
        assert not re.match(r'"?[=+\-@\t\r＝＋－＠]', line)
    assert not re.search("[\x00-\x1f\u202a-\u202e\U000e0000-\U000e007f]", table["Title"][0] + table["File"][0])


def test_a_cell_that_is_no_formula_is_left_alone() -> None:
    assert [as_cell(text) for text in ("Terms", "-5 °C", "a=b")] == ["Terms", "'-5 °C", "a=b"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_no_text_controls_a_terminal_or_is_rich_markup_there(text: str) -> None:
    trace, answer = trace_about(f"{text} \x1b]8;;https://collector.example\x1b\\go\x9b2J\r")
    out = io.StringIO()
    print_result(Result(answer, trace), Console(file=out, width=400, force_terminal=True, color_system=None))
    printed = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())  # rich's own bold and dim
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\U000e0000-\U000e007f]", printed)
    if "[bold" in text:
        assert "[bold red link=https://collector.example]here" in printed


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_the_export_as_json_holds_the_very_text_and_ends_nothing(text: str) -> None:
    trace, answer = trace_about(text)
    line = json.dumps(result_as_json(Result(answer, trace), {"d": text}))
    assert "\n" not in line
    assert json.loads(line)["citations"][0]["file"] == text
