"""The ranking before and after rerank, side by side, as one block of HTML built from a `Trace`.

It computes no score and no order: what is drawn is what the trace holds. No script is involved; hovering a passage
marks it on both sides by style rules alone.
"""

from __future__ import annotations

import math

import streamlit as st

from rag.types import Candidate, RankedChunk, Trace
from ui.labelling import Labelling, show_passage_labels
from ui.words import as_html, count, duration, floor_value, pages, score_value, snippet

ROW_PX = 50
DIVIDER_PX = 30
HEAD_PX = 44
WIRES_PX = 64
SCROLL_PX = 520
SNIPPET_CHARACTERS = 150

_SIZES = (
    f"--r37-row:{ROW_PX}px;--r37-divider:{DIVIDER_PX}px;--r37-head:{HEAD_PX}px;--r37-wires:{WIRES_PX}px;"
    f"--r37-scroll:{SCROLL_PX}px"
)
"""Given to the style sheet, because the lines between the two sides are placed by them."""


def show_rank_panel(trace: Trace, *, expanded: bool, labelling: Labelling | None) -> None:
    """Draw the panel in an expander, and beneath it the labels. Nothing is drawn for a trace without candidates."""
    if not trace.candidates:
        return
    with st.expander("Ranking before and after rerank", expanded=expanded, icon=":material/swap_vert:"):
        st.html(panel_html(trace))
        if labelling is not None:
            show_passage_labels(trace, labelling)


def summary(trace: Trace) -> str:
    """One line on what recall, rerank and the floor did.

    Example: `Recall 100 → rerank → 3 kept of 12 at or above 0.40 · best moved 37 → 1 · rerank 2.1 s`.
    """
    passing = sum(1 for ranked in trace.ranked if _passes(ranked, trace.floor))
    parts = [f"Recall {len(trace.candidates)}"]
    if not trace.ranked:
        return f"{parts[0]} · not reranked"
    kept = f"{len(trace.kept)} kept of {passing}" if passing else "none"
    parts[0] += f" → rerank → {kept} at or above {floor_value(trace.floor)}"
    if trace.parts:
        parts.append(f"{sum(part.covered for part in trace.parts)} of {len(trace.parts)} parts covered")
    best = trace.ranked[0]
    parts.append(f"best moved {best.candidate.rank} → {best.rank}" if best.rank_change else "best stayed first")
    if "rerank" in trace.timings_ms:
        parts.append(f"rerank {duration(trace.timings_ms['rerank'] / 1000)}")
    return " · ".join(parts)


def panel_html(trace: Trace) -> str:
    """The panel as one self-contained block of HTML; every text from a document is escaped."""
    rank_after = {ranked.candidate.rank: ranked.rank for ranked in trace.ranked}
    kept = {ranked.rank: marker for marker, ranked in enumerate(trace.kept, start=1)}
    passing = {ranked.candidate.rank for ranked in trace.ranked if _passes(ranked, trace.floor)}
    kept_before = {ranked.candidate.rank for ranked in trace.kept}

    before = [
        _row_before(candidate, rank_after.get(candidate.rank), candidate.rank in kept_before, candidate.rank in passing)
        for candidate in trace.candidates
    ]
    after, wires = _after_and_wires(trace, kept)
    if trace.ranked:
        right = f"""<ol class="r37-after"><li class="r37-head"><b>After rerank</b>
            <span>relevance score, 0 to 1</span></li>{"".join(after)}</ol>"""
    else:
        right = """<ol class="r37-after"><li class="r37-head"><b>After rerank</b></li>
            <li class="r37-nothing">The reranker gave no order.</li></ol>"""
    return f"""<style>{_hover_rules(len(trace.candidates))}</style>
<div class="r37-panel" style="{_SIZES}">
<p class="r37-summary" data-testid="rank-summary">{as_html(summary(trace))}</p>{_parts(trace)}
<div class="r37-scroll" tabindex="0" role="region" aria-label="Passages before and after rerank"><div class="r37-grid">
<ol class="r37-before"><li class="r37-head"><b>Before: recall</b>
<span>fused score of meaning and words</span></li>{"".join(before)}</ol>
<div class="r37-wires" aria-hidden="true">{"".join(wires)}</div>
{right}
</div></div></div>"""


def _parts(trace: Trace) -> str:
    """What each part of the question is, and what came of it; nothing for a question without parts."""
    lines = []
    for number, part in enumerate(trace.parts, start=1):
        best = "no score" if part.best_score is None else f"best score {score_value(part.best_score)}"
        came = f"{len(part.kept_ids)} kept" if part.covered else "refused"
        lines.append(f"<b>Part {number}</b>: {as_html(part.text)} <small>{came}, {best}</small>")
    return f"""<p class="r37-summary" data-testid="rank-parts">{"<br>".join(lines)}</p>""" if lines else ""


def _after_and_wires(trace: Trace, kept: dict[int, int]) -> tuple[list[str], list[str]]:
    """The right column with its dividers, and the lines from each passage's place before to its place after."""
    last_passing = max((ranked.rank for ranked in trace.ranked if _passes(ranked, trace.floor)), default=0)
    scored = sum(1 for ranked in trace.ranked if ranked.score is not None)
    passing = sum(1 for ranked in trace.ranked if _passes(ranked, trace.floor))
    has_first_scores = any(ranked.first_score is not None for ranked in trace.ranked)
    kept_are_first = all(rank <= len(kept) for rank in kept)  # of several parts, each keeps its own best

    rows: list[str] = []
    wires: list[str] = []
    y_after = float(HEAD_PX)

    def divide(html: str) -> None:
        nonlocal y_after
        rows.append(html)
        y_after += DIVIDER_PX

    for ranked in trace.ranked:
        if ranked.rank == last_passing + 1:
            divide(_floor_divider(trace.floor, above=passing, below=scored - passing))
        elif ranked.rank == len(trace.kept) + 1 and passing > len(trace.kept) and kept_are_first:
            cut = passing - len(trace.kept)
            divide(
                f'<li class="r37-divider">{cut} more {"passes" if cut == 1 else "pass"} the floor; '
                f"an answer takes the best {trace.answer_limit}</li>"
            )
        if ranked.score is None and ranked.rank == scored + 1:
            divide(f'<li class="r37-divider">{_not_read(trace, len(trace.ranked) - scored)}</li>')
        rows.append(_row_after(ranked, kept.get(ranked.rank), _passes(ranked, trace.floor), has_first_scores))
        y_before = HEAD_PX + (ranked.candidate.rank - 1) * ROW_PX
        strength = "kept" if ranked.rank in kept else "passing" if _passes(ranked, trace.floor) else "below"
        wires.append(_wire(ranked.candidate.rank, y_before + ROW_PX / 2, y_after + ROW_PX / 2, strength))
        y_after += ROW_PX
    if last_passing == len(trace.ranked):
        divide(_floor_divider(trace.floor, above=passing, below=0))
    return rows, wires


def _row_before(candidate: Candidate, rank_after: int | None, kept: bool, passing: bool) -> str:
    now = f"now {rank_after}" if rank_after else "not ranked"
    return f"""<li class="r37-row {_strength(kept, passing)}" data-c="{candidate.rank}" {_tooltip(candidate)}>
<span class="r37-rank">{candidate.rank}</span>{_passage(candidate)}
<span class="r37-numbers"><span>{candidate.score:.4f}</span><small>{now}</small></span></li>"""


def _row_after(ranked: RankedChunk, marker: int | None, passing: bool, has_first_scores: bool) -> str:
    change = ranked.rank_change
    moved = f"▲{change}" if change > 0 else f"▼{-change}" if change < 0 else "="
    direction = "r37-up" if change > 0 else "r37-down" if change < 0 else ""
    if ranked.score is None:
        score = '<span class="r37-unread">not read</span>'
    else:
        bar = f'<i><i style="width:{ranked.score * 100:.1f}%"></i></i>'
        score = f'<span class="r37-score">{bar}{score_value(ranked.score)}</span>'
    first = ""
    if has_first_scores:
        value = "–" if ranked.first_score is None else score_value(ranked.first_score)
        first = f'<span class="r37-first"><small>first model</small>{value}</span>'
    chip = f'<b class="r37-chip" title="kept: cited as [{marker}]">[{marker}]</b>' if marker else ""
    part = (
        f'<span title="scored for part {ranked.part} of the question">part {ranked.part}</span>' if ranked.part else ""
    )
    strength = _strength(marker is not None, passing)
    return f"""<li class="r37-row {strength}" data-c="{ranked.candidate.rank}" {_tooltip(ranked.candidate)}>
<span class="r37-rank">{ranked.rank}</span>{_passage(ranked.candidate, chip, part)}{first}
<span class="r37-numbers">{score}
<small><b class="{direction}">{moved}</b> was {ranked.candidate.rank}</small></span></li>"""


def _passage(candidate: Candidate, chip: str = "", part: str = "") -> str:
    chunk = candidate.chunk
    return f"""<span class="r37-passage"><span class="r37-title">{chip}<b>{as_html(chunk.title)}</b>
<span>{pages(chunk.first_page, chunk.last_page)}</span>{part}</span>
<small>{as_html(snippet(chunk.text, SNIPPET_CHARACTERS))}</small></span>"""


def _tooltip(candidate: Candidate) -> str:
    chunk = candidate.chunk
    where = f"{chunk.title}, {pages(chunk.first_page, chunk.last_page)}"
    return f'title="{as_html(f"{where}: {snippet(chunk.text, 400)}")}"'


def _floor_divider(floor: float, *, above: int, below: int) -> str:
    return f"""<li class="r37-floor" data-testid="floor-line"><b>Floor {floor_value(floor)}</b>
<span>{count(above, "passage")} at or above, {below} below</span></li>"""


def _not_read(trace: Trace, unread: int) -> str:
    names = [engine.name for engine in trace.engines if engine.role == "reranker"]
    reader = as_html(names[0]) if names else "the reranker"
    return f"{count(unread, 'passage')} not read by {reader}: too far down in the first order"


def _wire(recall_rank: int, y_before: float, y_after: float, strength: str) -> str:
    """A straight line across the gutter: a thin bar, turned about its left end."""
    length = math.hypot(WIRES_PX, y_after - y_before)
    angle = math.atan2(y_after - y_before, WIRES_PX)
    style = f"top:{y_before:.0f}px;width:{length:.1f}px;transform:rotate({angle:.4f}rad)"
    return f'<i class="r37-wire {strength}" data-c="{recall_rank}" style="{style}"></i>'


def _hover_rules(n_candidates: int) -> str:
    """Hovering a passage on either side marks it, its line and its place on the other side."""
    rows = ",".join(
        f'.r37-panel:has([data-c="{rank}"]:hover) .r37-row[data-c="{rank}"]' for rank in range(1, n_candidates + 1)
    )
    wires = ",".join(
        f'.r37-panel:has([data-c="{rank}"]:hover) .r37-wire[data-c="{rank}"]' for rank in range(1, n_candidates + 1)
    )
    return f"{rows}{{background:var(--r37-hover);opacity:1}}{wires}{{background:var(--r37-floor);height:2px;opacity:1}}"


def _passes(ranked: RankedChunk, floor: float) -> bool:
    return ranked.score is not None and ranked.score >= floor


def _strength(kept: bool, passing: bool) -> str:
    return "kept" if kept else "passing" if passing else "below"
