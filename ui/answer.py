"""An outcome on the page: the answer with its citations, or the refusal in its own style.

Text of documents and LLMs is drawn as text: nothing in it becomes markup, a link or an image, apart from paragraphs,
lists and bold words of a written answer.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from rag.export import Kinds, answer_with_sources, doubt_text, place_text
from rag.pipeline import answer_from
from rag.replay import best_anyway
from rag.types import Answer, Citation, Part, RankedChunk, Refusal, Result, Trace
from rag.wiring import policy_for
from ui.labelling import Labelling, show_outcome_label
from ui.page_view import Sight, open_page
from ui.problems import problems_shown
from ui.words import ALL_PDF, as_html, as_markdown, count, floor_value, score_value, shortfall, snippet, where
from ui.workspace import Workspace

_MARKERS = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_CLICKS = Path(__file__).parent / "clicks.html"
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s+(.*)")


def show_result(
    result: Result, labelling: Labelling | None, workspace: Workspace | None = None, kinds: Kinds = ALL_PDF
) -> None:
    """The outcome, what a person should know about how it came about, and what they say of it.

    Without a workspace there are no pages to open.
    """
    trace = result.trace
    st.html(_CLICKS, unsafe_allow_javascript=True)
    if isinstance(result.outcome, Answer):
        _show_answer(result.outcome, trace.id, workspace, kinds)
        st.html(copy_html(result.outcome, kinds))
        if result.outcome.refused_parts:
            st.html(refused_parts_html(trace))
    else:
        st.html(refusal_html(result.outcome, trace, kinds))
        if trace.ranked and workspace is not None:
            nearest = trace.ranked[0].chunk
            _page_button(Sight(nearest, nearest.first_page), f"r37-nearest-{trace.id}", workspace, kinds)
            if result.outcome.reason == "below_floor" and best_anyway(trace).kept:
                _show_anyway(trace, workspace, kinds)
    show_notes(trace)
    if labelling is not None:
        documents = workspace.index.documents if workspace else None
        show_outcome_label(trace, result.outcome, labelling, documents)


@st.fragment
def _show_anyway(trace: Trace, workspace: Workspace, kinds: Kinds) -> None:
    """What an answer from the best passages would be, though none of them reaches the floor."""
    key = f"anyway {trace.id}"
    below = best_anyway(trace)
    with problems_shown():
        if key not in st.session_state:
            n = len(below.kept)
            label = f"Answer from the best {'passage' if n == 1 else count(n, 'passage')} anyway"
            if not st.button(label, key=f"answer anyway {trace.id}", icon=":material/warning:", type="tertiary"):
                return
            engines = workspace.engines
            policy = policy_for(workspace.settings, engines.reranker, engines.embedder)
            with st.spinner("Making an answer from what is below the floor …"):
                st.session_state[key] = answer_from(below, engines, policy)
            st.rerun(scope="fragment")  # without the button
        outcome: Answer | Refusal = st.session_state[key]
        with st.container(key=f"r37-anyway-{trace.id}"):
            st.html(anyway_html(outcome, below))
            if isinstance(outcome, Answer):
                _show_answer(outcome, f"{trace.id}-anyway", workspace, kinds)


def anyway_html(outcome: Answer | Refusal, below: Trace) -> str:
    """What stands above an answer from passages below the floor, so that nobody takes it for a usual one."""
    best = below.best_score or 0.0
    said = (
        f"The best of these passages scored {score_value(best)}: {shortfall(best, below.floor)} below the floor of "
        f"{floor_value(below.floor)}. They may be about something else."
    )
    if isinstance(outcome, Refusal):
        said = "The LLM read them and found no answer there either, or cited none of them. " + said
    return f"""<div class="r37-below" data-testid="anyway">
<p class="r37-headline">Below the floor: don’t rely on this</p>
<p>{said}</p></div>"""


def _show_answer(answer: Answer, name: str, workspace: Workspace | None, kinds: Kinds) -> None:
    """The answer, and below it each citation with what opens its page; `name` tells it from others on the screen."""
    st.html(answer_html(answer, name if workspace else None, kinds))
    for number, citation in enumerate(answer.citations):
        with st.container(key=f"r37-cited-{name}-{number}", gap=None):
            st.html(citation_html(citation, kinds))
            if workspace is not None:
                _page_button(Sight.of(citation), _press(name, number), workspace, kinds)


def _page_button(sight: Sight, key: str, workspace: Workspace, kinds: Kinds) -> None:
    label = f"Show {place_text(sight.page, sight.chunk.document_id, kinds)}"
    if st.button(label, key=key, icon=":material/description:", type="tertiary"):
        open_page(sight, workspace)


def _press(name: str, number: int) -> str:
    """Key of the button that opens a citation's page: what a click on its marker presses."""
    return f"r37-open-{name}-{number}"


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


def answer_html(answer: Answer, name: str | None = None, kinds: Kinds = ALL_PDF) -> str:
    """What the answer says, down to the line above its citations.

    With a name its markers are buttons: a click on one presses what opens the page of the marker's first citation.
    """
    if answer.kind == "quoted":
        label = "Quoted word for word from the documents; no LLM wrote any of it"
        return f'<div class="r37-answer" data-testid="answer"><p class="r37-label">{label}</p></div>'
    chips: dict[int, str] = {}
    for number, citation in enumerate(answer.citations):
        chips.setdefault(citation.marker, _chip(citation, _press(name, number) if name else None, kinds))
    doubted = sum(check.doubt is not None for check in answer.checks)
    warning = ""
    if doubted:
        which = f"{doubted} of {count(len(answer.checks), 'statement')} {'is' if doubted == 1 else 'are'}"
        warning = f"""<p class="r37-doubts" data-testid="doubts"><b>Careful:</b> {which} not supported by the
passages, and marked.</p>"""
    return f"""<div class="r37-answer" data-testid="answer">{warning}{_prose(with_doubts_marked(answer), chips)}
<p class="r37-label">What it rests on, word for word</p></div>"""


def _chip(citation: Citation, press: str | None, kinds: Kinds) -> str:
    place = f"{as_html(citation.chunk.title)}, {place_text(citation.page, citation.chunk.document_id, kinds)}"
    if press is None:
        return f'<b class="r37-marker" title="{place}">[{citation.marker}]</b>'
    return (
        f'<button type="button" class="r37-marker" data-r37-press="{press}" title="Show {place}">'
        f"[{citation.marker}]</button>"
    )


def refusal_html(refusal: Refusal, trace: Trace, kinds: Kinds = ALL_PDF) -> str:
    """The refusal: why, what was nearest and how far below the floor it was, and whether an LLM was asked."""
    nearest = trace.ranked[0] if trace.ranked else None
    parts = "".join(_refused_part(part, trace.floor) for part in trace.parts if not part.covered)
    return f"""<div class="r37-refusal" data-testid="refusal">
<p class="r37-headline">{_refusal_headline(refusal)}</p>
<p>{_refusal_reason(refusal, trace)}</p>{parts}{_nearest(nearest, trace.floor, kinds) if nearest else ""}
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


def _nearest(ranked: RankedChunk, floor: float, kinds: Kinds) -> str:
    chunk = ranked.chunk
    score = "not scored" if ranked.score is None else f"score {score_value(ranked.score)}"
    if ranked.score is not None and ranked.score < floor:
        score += f", {shortfall(ranked.score, floor)} below the floor"
    return f"""<div class="r37-quote"><p class="r37-source"><span>Nearest: <b>{as_html(chunk.title)}</b>,
{where(chunk, kinds)}</span> <span>{score}</span></p>
<blockquote>{as_html(snippet(chunk.text, 260))}</blockquote></div>"""


def citation_html(citation: Citation, kinds: Kinds = ALL_PDF) -> str:
    """A verbatim quote with its document and page."""
    place = place_text(citation.page, citation.chunk.document_id, kinds)
    heading = citation.chunk.heading
    section = f" · {as_html(snippet(heading, 80))}" if heading else ""
    return f"""<div class="r37-quote" data-testid="citation"><blockquote>{as_html(citation.quote)}</blockquote>
<p class="r37-source"><b class="r37-marker">[{citation.marker}]</b> <b>{as_html(citation.chunk.title)}</b>,
{place}{section}</p></div>"""


def copy_html(answer: Answer, kinds: Kinds = ALL_PDF) -> str:
    """A button that puts the answer with its citations on the clipboard, as plain text."""
    text = html.escape(answer_with_sources(answer, kinds)).replace("\n", "&#10;")
    return f'<button type="button" class="r37-copy" data-r37-copy="{text}">Copy with citations</button>'


def with_doubts_marked(answer: Answer) -> str:
    """The answer's text with marks that no text can hold around its unsupported statements, for `_prose`.

    A mark stands behind a list item's bullet, and each line of a statement has its own.
    """
    text = answer.text
    for check in sorted(answer.checks, key=lambda check: -check.start):
        if check.doubt is None:
            continue
        lines = text[check.start : check.end].split("\n")
        marked = []
        for number, line in enumerate(lines):
            item = _LIST_ITEM.fullmatch(line)
            begin = item.start(1) if item else 0
            end = f"{_DOUBT_WORDS_BEGIN}{check.doubt}{_DOUBT_END}" if number == len(lines) - 1 else _DOUBT_CUT
            marked.append(f"{line[:begin]}{_DOUBT_BEGIN}{line[begin:]}{end}" if line.strip() else line)
        text = text[: check.start] + "\n".join(marked) + text[check.end :]
    return text


_DOUBT_BEGIN, _DOUBT_WORDS_BEGIN, _DOUBT_END, _DOUBT_CUT = "\ue000", "\ue001", "\ue002", "\ue003"
_DOUBT = re.compile(f"{_DOUBT_WORDS_BEGIN}([a-z_]+){_DOUBT_END}")


def _doubts_as_html(line: str) -> str:
    line = line.replace(_DOUBT_BEGIN, '<span class="r37-unsupported" data-testid="unsupported">')
    line = _DOUBT.sub(lambda match: f' <b class="r37-doubt">{html.escape(doubt_text(match[1]))}</b></span>', line)
    return line.replace(_DOUBT_CUT, "</span>")


def _prose(text: str, chips: Mapping[int, str]) -> str:
    """Paragraphs, lists and bold words; markers that are known become their chips."""
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
            items.append(f"<li>{_inline(item[1], chips)}</li>")
        elif line.strip():
            end_list()
            blocks.append(f"<p>{_inline(line, chips)}</p>")
    end_list()
    return "".join(blocks)


def _inline(line: str, chips: Mapping[int, str]) -> str:
    def chip(match: re.Match[str]) -> str:
        markers = [int(number) for number in match[1].split(",")]
        if not all(marker in chips for marker in markers):
            return match[0]
        return "".join(chips[marker] for marker in markers)

    return _doubts_as_html(_MARKERS.sub(chip, _BOLD.sub(r"<b>\1</b>", html.escape(line.strip()))))
