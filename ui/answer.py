"""An outcome on the page: the answer with its citations, or the refusal in its own style.

Text of documents and LLMs is drawn as text: nothing in it becomes markup, a link or an image, apart from paragraphs,
lists and bold words of a written answer.
"""

from __future__ import annotations

import html
import re

import streamlit as st

from rag.types import Answer, Citation, Part, RankedChunk, Refusal, Result, Trace
from ui.labelling import Labelling, show_outcome_label
from ui.words import as_html, as_markdown, count, floor_value, pages, score_value, shortfall, snippet

_MARKERS = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s+(.*)")


def show_result(result: Result, labelling: Labelling | None) -> None:
    """The outcome, what a person should know about how it came about, and what they say of it."""
    if isinstance(result.outcome, Answer):
        st.html(answer_html(result.outcome))
        if result.outcome.refused_parts:
            st.html(refused_parts_html(result.trace))
    else:
        st.html(refusal_html(result.outcome, result.trace))
    show_notes(result.trace)
    if labelling is not None:
        show_outcome_label(result.trace, result.outcome, labelling)


def show_notes(trace: Trace) -> None:
    """The trace's notes, and the rewritten question where there is one."""
    if trace.query != trace.question:
        st.caption(f"Searched for: {as_markdown(trace.query)}")
    for note in trace.notes:
        st.caption(as_markdown(note))


def show_draft(text: str) -> None:
    """A reply that is still being written."""
    st.html(
        f'<div class="r37-answer r37-draft"><p class="r37-label">Draft: its citations are '
        f"checked when it is complete</p>{_prose(text, {})}</div>"
    )


def answer_html(answer: Answer) -> str:
    """The answer and below it each citation with its document, page and verbatim quote."""
    if answer.kind == "quoted":
        body = '<p class="r37-label">Quoted word for word from the documents; no LLM wrote any of it</p>'
        body += "".join(_citation(citation) for citation in answer.citations)
        return f'<div class="r37-answer" data-testid="answer">{body}</div>'
    sources: dict[int, Citation] = {}
    for citation in answer.citations:
        sources.setdefault(citation.marker, citation)
    quotes = "".join(_citation(citation) for citation in answer.citations)
    return f"""<div class="r37-answer" data-testid="answer">{_prose(answer.text, sources)}
<p class="r37-label">What it rests on, word for word</p>{quotes}</div>"""


def refusal_html(refusal: Refusal, trace: Trace) -> str:
    """The refusal: why, what was nearest and how far below the floor it was, and whether an LLM was asked."""
    nearest = trace.ranked[0] if trace.ranked else None
    parts = "".join(_refused_part(part, trace.floor) for part in trace.parts if not part.covered)
    return f"""<div class="r37-refusal" data-testid="refusal">
<p class="r37-headline">{_refusal_headline(refusal)}</p>
<p>{_refusal_reason(refusal, trace)}</p>{parts}{_nearest(nearest, trace.floor) if nearest else ""}
<p class="r37-source">{_llm_asked(trace)}</p></div>"""


def refused_parts_html(trace: Trace) -> str:
    """The parts of the question that no passage covers, each by name with its best score."""
    parts = "".join(_refused_part(part, trace.floor) for part in trace.parts if not part.covered)
    return f"""<div class="r37-refusal" data-testid="refused-parts">
<p class="r37-headline">Not found in your documents</p>{parts}</div>"""


def _refused_part(part: Part, floor: float) -> str:
    score = "No passage was given a score for it."
    if part.best_score is not None:
        below = shortfall(part.best_score, floor)
        score = (
            f"The best passage scored {score_value(part.best_score)}: {below} below the floor of {floor_value(floor)}."
        )
    return f"<p><b>{as_html(part.text)}</b> {score}</p>"


def _llm_asked(trace: Trace) -> str:
    if trace.prompt:
        return "An LLM was asked."
    if "split" in trace.timings_ms:
        return "No LLM was asked for an answer; one was asked for the parts of the question."
    return "No LLM was asked."


def _refusal_headline(refusal: Refusal) -> str:
    return {
        "no_candidates": "There is nothing to search",
        "below_floor": "The documents don’t answer this",
        "uncited": "No answer that cites its evidence",
        "model_declined": "The documents don’t answer this",
    }[refusal.reason]


def _refusal_reason(refusal: Refusal, trace: Trace) -> str:
    floor = floor_value(trace.floor)
    match refusal.reason:
        case "no_candidates":
            return "The collection holds no passage that could be compared with the question."
        case "below_floor" if refusal.best_score is not None:
            below = shortfall(refusal.best_score, trace.floor)
            return (
                f"Of {count(len(trace.ranked), 'passage')} compared with the question, the best scored "
                f"{score_value(refusal.best_score)}: {below} below the floor of {floor}. Evidence that weak is not "
                "made into an answer."
            )
        case "below_floor":
            return f"No passage was given a score, so none can reach the floor of {floor}."
        case "uncited":
            return (
                f"{count(len(trace.kept), 'passage')} reached the floor of {floor}, but the LLM’s reply cited none of "
                "them, so it is not shown as an answer."
            )
        case "model_declined":
            return (
                f"{count(len(trace.kept), 'passage')} reached the floor of {floor}. The LLM read "
                f"{'it' if len(trace.kept) == 1 else 'them'} and found no answer there."
            )


def _nearest(ranked: RankedChunk, floor: float) -> str:
    chunk = ranked.chunk
    score = "not scored" if ranked.score is None else f"score {score_value(ranked.score)}"
    if ranked.score is not None and ranked.score < floor:
        score += f", {shortfall(ranked.score, floor)} below the floor"
    return f"""<div class="r37-quote"><p class="r37-source"><span>Nearest: <b>{as_html(chunk.title)}</b>,
{pages(chunk.first_page, chunk.last_page)}</span> <span>{score}</span></p>
<blockquote>{as_html(snippet(chunk.text, 260))}</blockquote></div>"""


def _citation(citation: Citation) -> str:
    heading = citation.chunk.heading
    section = f" · {as_html(snippet(heading, 80))}" if heading else ""
    return f"""<div class="r37-quote" data-testid="citation"><blockquote>{as_html(citation.quote)}</blockquote>
<p class="r37-source"><b class="r37-marker">[{citation.marker}]</b> <b>{as_html(citation.chunk.title)}</b>,
page {citation.page}{section}</p></div>"""


def _prose(text: str, sources: dict[int, Citation]) -> str:
    """Paragraphs, lists and bold words; markers of known sources become chips that name their source."""
    blocks: list[str] = []
    items: list[str] = []
    ordered = False

    def end_list() -> None:
        if items:
            tag = "ol" if ordered else "ul"
            blocks.append(f"<{tag}>{''.join(items)}</{tag}>")
            items.clear()

    for line in text.splitlines():
        item = _LIST_ITEM.fullmatch(line)
        if item:
            is_ordered = line.lstrip()[0].isdigit()
            if is_ordered != ordered:
                end_list()
            ordered = is_ordered
            items.append(f"<li>{_inline(item[1], sources)}</li>")
        elif line.strip():
            end_list()
            blocks.append(f"<p>{_inline(line, sources)}</p>")
    end_list()
    return "".join(blocks)


def _inline(line: str, sources: dict[int, Citation]) -> str:
    def chips(match: re.Match[str]) -> str:
        markers = [int(number) for number in match[1].split(",")]
        if not all(marker in sources for marker in markers):
            return match[0]
        return "".join(
            f'<b class="r37-marker" title="{as_html(sources[marker].chunk.title)}, page {sources[marker].page}">'
            f"[{marker}]</b>"
            for marker in markers
        )

    return _MARKERS.sub(chips, _BOLD.sub(r"<b>\1</b>", html.escape(line.strip())))
