"""The ranking before and after rerank, side by side, with what became of each passage; a floor to try, and downloads.

What is drawn is what the trace holds, or what `rag.replay` says of it at another floor: no score and no order is made
here. The ranking is one block of HTML; hovering a passage marks it on both sides by style rules alone.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection
from typing import Literal

import streamlit as st

from rag.deciding import Deciding, deciding_sentences
from rag.export import Kinds, place_text, ranking_csv, trace_as_json
from rag.replay import State, StateName, at_floor, states
from rag.types import Candidate, RankedChunk, Trace
from ui.labelling import Labelling, show_passage_labels
from ui.problems import problems_shown
from ui.words import ALL_PDF, as_html, count, duration, floor_value, score_value, snippet, where
from ui.workspace import Workspace

ROW_PX = 50
DIVIDER_PX = 30
HEAD_PX = 44
WIRES_PX = 64
SCROLL_PX = 520
SNIPPET_CHARACTERS = 150
FLOOR_STEP = 0.01
MAP_LABEL_SHARE = 0.08
"""Least distance of two ranks beside the lines of the overview, as a share of its height."""
FORETOLD = "by late interaction alone: the cross-encoder did not read it, because others were clearly better"

_SIZES = (
    f"--r37-row:{ROW_PX}px;--r37-divider:{DIVIDER_PX}px;--r37-head:{HEAD_PX}px;--r37-wires:{WIRES_PX}px;"
    f"--r37-scroll:{SCROLL_PX}px"
)
"""Given to the style sheet, because the lines between the two sides are placed by them."""

Strength = Literal["kept", "passing", "below"]
Choice = Literal["kept", "cut", "duplicate", "below"]

_CHOICES: dict[Choice, str] = {
    "kept": "Kept",
    "cut": "Cut by the limit",
    "duplicate": "Duplicates",
    "below": "Below the floor",
}


def show_rank_panel(
    trace: Trace,
    *,
    expanded: bool,
    labelling: Labelling | None,
    workspace: Workspace | None = None,
    kinds: Kinds = ALL_PDF,
) -> None:
    """Draw the panel in an expander, and beneath it the labels. Nothing is drawn for a trace without candidates.

    Without a workspace no sentence can be scored anew.
    """
    if not trace.candidates:
        return
    with st.expander("Ranking before and after rerank", expanded=expanded, icon=":material/swap_vert:"):
        _show_ranking(trace, workspace, kinds)
        if labelling is not None:
            show_passage_labels(trace, labelling, kinds)


@st.fragment
def _show_ranking(trace: Trace, workspace: Workspace | None, kinds: Kinds) -> None:
    """The ranking with what narrows it, tries another floor, explains and exports it."""
    with problems_shown():
        tried = trace.floor
        chosen: list[Choice] = []
        words = ""
        if trace.ranked:
            with st.container(key=f"r37-tools-{trace.id}", horizontal=True, vertical_alignment="bottom", gap="small"):
                words = st.text_input(
                    "Search the passages",
                    key=f"find {trace.id}",
                    placeholder="Search the passages",
                    label_visibility="collapsed",
                    icon=":material/search:",
                    width=200,
                )
                chosen = st.pills(
                    "Show only",
                    list(_CHOICES),
                    selection_mode="multi",
                    format_func=_CHOICES.__getitem__,
                    key=f"only {trace.id}",
                    label_visibility="collapsed",
                )
                with st.container(width=220):
                    tried = st.slider(
                        "Try another floor", 0.0, 1.0, trace.floor, FLOOR_STEP, key=f"floor {trace.id}", format="%.2f"
                    )
        if abs(tried - trace.floor) < FLOOR_STEP / 2:
            tried = trace.floor
        seen = at_floor(trace, tried)
        if seen is not trace:
            st.html(tried_html(trace, seen, kinds))
        st.html(panel_html(seen, shown(seen, chosen, words), kinds))
        if trace.ranked:
            _show_tools(trace, workspace, kinds)


def _show_tools(trace: Trace, workspace: Workspace | None, kinds: Kinds) -> None:
    """Why the kept ones were kept, and the whole ranking as a file."""
    key = f"deciding {trace.id}"
    with st.container(horizontal=True, gap="small", key=f"r37-takeaway-{trace.id}"):
        if workspace is not None and trace.kept and key not in st.session_state:
            st.button(
                "Which sentence decided it?",
                icon=":material/format_quote:",
                type="tertiary",
                key=f"decide {trace.id}",
                on_click=_decide,
                args=(trace, workspace, key),
            )
        for label, file_type, data in (
            ("CSV", "text/csv", lambda: "\ufeff" + ranking_csv(trace)),  # the mark tells Excel that it is UTF-8
            ("JSON", "application/json", lambda: json.dumps(trace_as_json(trace), ensure_ascii=False, indent=1)),
        ):
            st.download_button(
                f"Ranking as {label}",
                data,
                file_name=f"ranking-{trace.id[:8]}.{label.lower()}",
                mime=file_type,
                icon=":material/download:",
                type="tertiary",
                on_click="ignore",
                key=f"{label} {trace.id}",
            )
    if key in st.session_state:
        st.html(deciding_html(trace, st.session_state[key], kinds))


def _decide(trace: Trace, workspace: Workspace, key: str) -> None:
    with problems_shown(), st.spinner("Scoring single sentences …"):
        st.session_state[key] = deciding_sentences(trace, workspace.engines.sentence_scorer)


def shown(trace: Trace, chosen: Collection[Choice], words: str) -> frozenset[int] | None:
    """The recall ranks of the passages in those states that hold the words; None: all.

    Words are looked for in title, heading and text, all of them in any order.
    """
    wanted = words.casefold().split()
    if not chosen and not wanted:
        return None
    state_of = states(trace)
    found = set()
    for candidate in trace.candidates:
        chunk = candidate.chunk
        state = state_of.get(chunk.id)
        if chosen and (state is None or not _is_chosen(state, chosen)):
            continue
        text = f"{chunk.title} {chunk.heading or ''} {chunk.text}".casefold()
        if all(word in text for word in wanted):
            found.add(candidate.rank)
    return frozenset(found)


def _is_chosen(state: State, chosen: Collection[Choice]) -> bool:
    name: StateName = "below" if state.name == "unscored" else state.name
    return name in chosen or ("duplicate" in chosen and state.same_as is not None)


def tried_html(trace: Trace, seen: Trace, kinds: Kinds = ALL_PDF) -> str:
    """What another floor would keep, against what was kept."""
    before = {ranked.chunk.id for ranked in trace.kept}
    after = {ranked.chunk.id for ranked in seen.kept}
    new = [f"+ {_short(ranked, kinds)}" for ranked in seen.kept if ranked.chunk.id not in before]
    gone = [f"− {_short(ranked, kinds)}" for ranked in trace.kept if ranked.chunk.id not in after]
    would = f"an answer would rest on {count(len(after), 'passage')}" if after else "the question would be refused"
    was = f"it rested on {len(before)}" if before else "it was refused"
    changes = "; ".join([*new, *gone]) or "the same passages"
    return f"""<p class="r37-tried" data-testid="tried-floor"><b>At a floor of {floor_value(seen.floor)}</b> {would}; at
{floor_value(trace.floor)} {was}. <small>{as_html(changes)}</small></p>"""


def _short(ranked: RankedChunk, kinds: Kinds) -> str:
    chunk = ranked.chunk
    score = "" if ranked.score is None else f", {score_value(ranked.score)}"
    return f"{snippet(chunk.title, 40)} {where(chunk, kinds)}{score}"


def deciding_html(trace: Trace, found: Collection[Deciding], kinds: Kinds = ALL_PDF) -> str:
    """The best sentence of each kept passage, with its own score."""
    markers = {ranked.chunk.id: (marker, ranked) for marker, ranked in enumerate(trace.kept, start=1)}
    lines = []
    for deciding in found:
        marker, ranked = markers[deciding.chunk_id]
        alone = "" if deciding.score is None else f" · alone {score_value(deciding.score)}"
        whole = "" if ranked.score is None else f", whole passage {score_value(ranked.score)}"
        lines.append(
            f'<li><b class="r37-chip">[{marker}]</b> {as_html(deciding.text)} <small>{as_html(ranked.chunk.title)}, '
            f"{place_text(deciding.page, ranked.chunk.document_id, kinds)}{alone}{whole}</small></li>"
        )
    return f"""<div class="r37-deciding" data-testid="deciding"><p>The sentence of each kept passage that scores best by
itself</p><ul>{"".join(lines)}</ul></div>"""


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


def panel_html(trace: Trace, shown: Collection[int] | None = None, kinds: Kinds = ALL_PDF) -> str:
    """The panel as one self-contained block of HTML; every text from a document is escaped.

    `shown` are the recall ranks of the passages to list, None: all; the overview always has all of them.
    """
    rank_after = {ranked.candidate.rank: ranked.rank for ranked in trace.ranked}
    passing = {ranked.candidate.rank for ranked in trace.ranked if _passes(ranked, trace.floor)}
    kept_before = {ranked.candidate.rank for ranked in trace.kept}
    best_fused = max((candidate.score for candidate in trace.candidates), default=0.0)

    listed = [candidate for candidate in trace.candidates if shown is None or candidate.rank in shown]
    before = [
        _row_before(
            candidate,
            rank_after.get(candidate.rank),
            _strength(candidate.rank in kept_before, candidate.rank in passing),
            best_fused,
            kinds,
        )
        for candidate in listed
    ]
    places = {candidate.rank: place for place, candidate in enumerate(listed)}
    after, wires = _after_and_wires(trace, places, kinds)
    if trace.ranked:
        foretold = f'; <abbr title="{FORETOLD}">≈ foretold</abbr>' if any(one.foretold for one in trace.ranked) else ""
        right = f"""<ol class="r37-after"><li class="r37-head"><b>After rerank</b>
            <span>relevance score, 0 to 1{foretold}</span></li>{"".join(after)}</ol>"""
    else:
        right = """<ol class="r37-after"><li class="r37-head"><b>After rerank</b></li>
            <li class="r37-nothing">The reranker gave no order.</li></ol>"""
    narrowed = ""
    if shown is not None:
        narrowed = f"""<p class="r37-narrowed" data-testid="narrowed">{len(listed)} of
{count(len(trace.candidates), "passage")} shown</p>"""
    return f"""<style>{_hover_rules(trace.candidates)}</style>
<div class="r37-panel" style="{_SIZES}">
<p class="r37-summary" data-testid="rank-summary">{as_html(summary(trace))}</p>{_leap(trace, kinds)}{_parts(trace)}
{_overview(trace)}{narrowed}
<div class="r37-scroll" tabindex="0" role="region" aria-label="Passages before and after rerank"><div class="r37-grid">
<ol class="r37-before"><li class="r37-head"><b>Before: recall</b>
<span>fused score of meaning and words</span></li>{"".join(before)}</ol>
<div class="r37-wires" aria-hidden="true">{"".join(wires)}</div>
{right}
</div></div></div>"""


def _leap(trace: Trace, kinds: Kinds) -> str:
    """Where the best passage came from: what reranking was for."""
    if not trace.ranked:
        return ""
    best = trace.ranked[0]
    chunk = best.chunk
    kept = any(ranked.chunk.id == chunk.id for ranked in trace.kept)
    what = "moved to the top" if best.rank_change else "stayed at the top"
    place = f"<b>{as_html(chunk.title)}</b> {where(chunk, kinds)}"
    came = f"{place} {what}" + ("" if kept else ", and still is below the floor" if best.score is not None else "")
    furthest = max(trace.kept, key=lambda ranked: ranked.rank_change, default=best)
    if furthest.rank_change > max(best.rank_change, 0):
        name = as_html(snippet(furthest.chunk.heading or furthest.chunk.title, 60))
        came += f"; furthest up came <b>{name}</b>, {furthest.candidate.rank} → {furthest.rank}"
    return f"""<p class="r37-leap{" kept" if kept else ""}" data-testid="leap">
<b class="r37-leap-ranks">{best.candidate.rank} → {best.rank}</b><span>{came}</span></p>"""


def _overview(trace: Trace) -> str:
    """All passages at once: a line from each one's rank before to its rank after, the kept ones with their numbers."""
    n = len(trace.ranked)
    if n < 2:
        return ""
    kept = {ranked.chunk.id for ranked in trace.kept}
    n_before = len(trace.candidates)

    def height(rank: int, of: int) -> float:
        return 100 * (rank - 0.5) / of

    faint, strong = [], []
    for ranked in reversed(trace.ranked):
        strength = _strength(ranked.chunk.id in kept, _passes(ranked, trace.floor))
        y_before, y_after = height(ranked.candidate.rank, n_before), height(ranked.rank, n)
        path = f'<path class="{strength}" d="M0 {y_before:.1f} L100 {y_after:.1f}"/>'
        (strong if strength == "kept" else faint).append(path)
    marked = [ranked for ranked in trace.ranked if ranked.chunk.id in kept] or list(trace.ranked[:1])
    left = _labels({ranked.candidate.rank: height(ranked.candidate.rank, n_before) for ranked in marked})
    right = _labels({ranked.rank: height(ranked.rank, n) for ranked in marked})
    passing = sum(_passes(ranked, trace.floor) for ranked in trace.ranked)
    y_floor = 100 * passing / n
    # As a picture, since the page's own HTML may hold no drawing; its colours are legible on light and dark.
    picture = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" preserveAspectRatio="none"><style>
path{{fill:none;stroke:#86929a;stroke-width:1;vector-effect:non-scaling-stroke}}.passing{{opacity:.45}}.below{{opacity:.25}}
.kept{{stroke:#17917f;stroke-width:2.5}}.floor{{stroke:#c27314;stroke-width:1.5;stroke-dasharray:5 3}}</style>
{"".join(faint + strong)}<path class="floor" d="M62 {y_floor:.1f} L100 {y_floor:.1f}"/></svg>"""
    encoded = base64.b64encode(picture.encode()).decode()
    said = ", ".join(f"{ranked.candidate.rank} to {ranked.rank}" for ranked in marked)
    return f"""<div class="r37-map" role="img" data-testid="rank-map"
aria-label="Rank before and after rerank: {said}; the floor is after rank {passing}">
<div class="r37-map-ranks">{left}</div>
<div class="r37-map-lines"><img alt="" src="data:image/svg+xml;base64,{encoded}"></div>
<div class="r37-map-ranks after">{right}<span class="r37-map-floor" style="top:{y_floor:.1f}%">floor</span></div>
</div>"""


def _labels(heights: dict[int, float]) -> str:
    """Ranks at their heights in %, set apart where they would lie on each other."""
    placed: list[float] = []
    labels = []
    for rank, height in sorted(heights.items()):
        at = max(height, placed[-1] + 100 * MAP_LABEL_SHARE) if placed else height
        placed.append(at)
        labels.append(f'<b style="top:{at:.1f}%">{rank}</b>')
    return "".join(labels)


def _parts(trace: Trace) -> str:
    """What each part of the question is, and what came of it; nothing for a question without parts."""
    lines = []
    for number, part in enumerate(trace.parts, start=1):
        best = "no score" if part.best_score is None else f"best score {score_value(part.best_score)}"
        came = f"{len(part.kept_ids)} kept" if part.covered else "refused"
        lines.append(f"<b>Part {number}</b>: {as_html(part.text)} <small>{came}, {best}</small>")
    return f"""<p class="r37-summary" data-testid="rank-parts">{"<br>".join(lines)}</p>""" if lines else ""


def _after_and_wires(trace: Trace, places: dict[int, int], kinds: Kinds) -> tuple[list[str], list[str]]:
    """The right column with its dividers, and the lines from each passage's place before to its place after.

    `places` are the 0-based places on the left of the passages that are listed, by recall rank.
    """
    last_passing = max((ranked.rank for ranked in trace.ranked if _passes(ranked, trace.floor)), default=0)
    scored = sum(1 for ranked in trace.ranked if ranked.score is not None)
    passing = sum(1 for ranked in trace.ranked if _passes(ranked, trace.floor))
    has_first_scores = any(ranked.first_score is not None for ranked in trace.ranked)
    state_of = states(trace)
    # Of several parts, each keeps its own best.
    kept_are_first = all(state_of[ranked.chunk.id].name == "kept" for ranked in trace.ranked[: len(trace.kept)])

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
        place = places.get(ranked.candidate.rank)
        if place is None:
            continue
        state = state_of[ranked.chunk.id]
        rows.append(_row_after(ranked, state, trace, has_first_scores, kinds))
        y_before = HEAD_PX + place * ROW_PX
        strength = _strength(state.name == "kept", _passes(ranked, trace.floor))
        wires.append(_wire(ranked.candidate.rank, y_before + ROW_PX / 2, y_after + ROW_PX / 2, strength))
        y_after += ROW_PX
    if last_passing == len(trace.ranked):
        divide(_floor_divider(trace.floor, above=passing, below=0))
    return rows, wires


def _row_before(
    candidate: Candidate, rank_after: int | None, strength: Strength, best_fused: float, kinds: Kinds
) -> str:
    now = f"now {rank_after}" if rank_after else "not ranked"
    width = 100 * candidate.score / best_fused if best_fused > 0 else 0.0
    bar = f'<i class="r37-fused"><i style="width:{max(0.0, width):.0f}%"></i></i>'
    return f"""<li class="r37-row {strength}" data-c="{candidate.rank}" {_tooltip(candidate, kinds)}>
<span class="r37-rank">{candidate.rank}</span>{_passage(candidate, kinds)}
<span class="r37-numbers"><span class="r37-score">{bar}{candidate.score:.4f}</span><small>{now}</small></span></li>"""


def _row_after(ranked: RankedChunk, state: State, trace: Trace, has_first_scores: bool, kinds: Kinds) -> str:
    change = ranked.rank_change
    moved = f"▲{change}" if change > 0 else f"▼{-change}" if change < 0 else "="
    direction = "r37-up" if change > 0 else "r37-down" if change < 0 else ""
    if ranked.score is None:
        score = '<span class="r37-unread">not read</span>'
    else:
        bar = f'<i><i style="width:{ranked.score * 100:.1f}%"></i></i>'
        about = f'<abbr title="{FORETOLD}">≈</abbr> ' if ranked.foretold else ""
        score = f'<span class="r37-score">{bar}{about}{score_value(ranked.score)}</span>'
    first = ""
    if has_first_scores:
        value = "–" if ranked.first_score is None else score_value(ranked.first_score)
        first = f'<span class="r37-first"><small>first model</small>{value}</span>'
    marker = state.marker
    chip = f'<b class="r37-chip" title="kept: cited as [{marker}]">[{marker}]</b>' if marker else ""
    part = (
        f'<span title="scored for part {ranked.part} of the question">part {ranked.part}</span>' if ranked.part else ""
    )
    strength = _strength(marker is not None, _passes(ranked, trace.floor))
    return f"""<li class="r37-row {strength}" data-c="{ranked.candidate.rank}" {_tooltip(ranked.candidate, kinds)}>
<span class="r37-rank">{ranked.rank}</span>{_passage(ranked.candidate, kinds, chip, part + _state(state, trace))}{first}
<span class="r37-numbers">{score}
<small><b class="{direction}">{moved}</b> was {ranked.candidate.rank}</small></span></li>"""


def _state(state: State, trace: Trace) -> str:
    """What became of a passage, in a word or two."""
    said = {
        "kept": "kept",
        "cut": f"cut by top {trace.answer_limit}",
        "duplicate": "duplicate",
        "below": "below floor",
        "unscored": "not scored",
    }[state.name]
    if state.same_as is not None:
        said += f" of {state.same_as}" if state.name == "duplicate" else f", same words as {state.same_as}"
    return f'<span class="r37-state {state.name}">{said}</span>'


def _passage(candidate: Candidate, kinds: Kinds, chip: str = "", part: str = "") -> str:
    chunk = candidate.chunk
    return f"""<span class="r37-passage"><span class="r37-title">{chip}<b>{as_html(chunk.title)}</b>
<span>{where(chunk, kinds)}</span>{part}</span>
<small>{as_html(snippet(chunk.text, SNIPPET_CHARACTERS))}</small></span>"""


def _tooltip(candidate: Candidate, kinds: Kinds) -> str:
    chunk = candidate.chunk
    return f'title="{as_html(f"{chunk.title}, {where(chunk, kinds)}: {snippet(chunk.text, 400)}")}"'


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


def _hover_rules(candidates: Collection[Candidate]) -> str:
    """Hovering a passage on either side marks it, its line and its place on the other side."""
    ranks = [candidate.rank for candidate in candidates]
    rows = ",".join(f'.r37-panel:has([data-c="{rank}"]:hover) .r37-row[data-c="{rank}"]' for rank in ranks)
    wires = ",".join(f'.r37-panel:has([data-c="{rank}"]:hover) .r37-wire[data-c="{rank}"]' for rank in ranks)
    return f"{rows}{{background:var(--r37-hover);opacity:1}}{wires}{{background:var(--r37-floor);height:2px;opacity:1}}"


def _passes(ranked: RankedChunk, floor: float) -> bool:
    return ranked.score is not None and ranked.score >= floor


def _strength(kept: bool, passing: bool) -> Strength:
    return "kept" if kept else "passing" if passing else "below"
