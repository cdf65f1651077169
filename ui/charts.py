"""The Quality page's charts, drawn from a report of `rag.evaluation.quality` in the colours of `style.css`.

They count and measure nothing: a value is drawn as the report holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import streamlit as st

from rag.floor_store import floor_text

BAR_PX = 230
LINE_PX = 300
TREND_PX = 210

KIND_WORDS = {
    "in_use": "in use",
    "best_answer": "best F1 of answers",
    "best_keep": "best F1",
    "conformal": "conformal",
    "default": "default",
}


@dataclass(frozen=True, slots=True)
class Colours:
    """As `style.css` has them, for the theme that the person chose."""

    kept: str
    floor: str
    muted: str
    line: str


LIGHT = Colours(kept="#0f7466", floor="#a85800", muted="#5c666b", line="#b9b2a2")
DARK = Colours(kept="#55c2ae", floor="#eda84b", muted="#9ba6ab", line="#6d6a60")


def colours() -> Colours:
    """Those of the theme in use."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def mark_words(kinds: Sequence[str]) -> str:
    """What a marked floor is.

    >>> mark_words(["in_use", "default"])
    'in use, default'
    """
    return ", ".join(KIND_WORDS[kind] for kind in kinds)


def replay_chart(report: Mapping[str, Any], tried: float) -> alt.LayerChart:
    """How many past questions have which best score, with the marked floors and the one that is tried."""
    colour = colours()
    layers: list[alt.Chart] = [_bars(report["histograms"]["best"], "questions", "best score of a question", colour)]
    layers += [_mark_rule(mark, colour) for mark in report["marks"]]
    layers.append(_rule(tried, f"{floor_text(tried)} tried", colour.kept, [], width=2.5))
    return alt.layer(*layers).properties(height=BAR_PX)


def histogram_chart(histogram: Mapping[str, Any], floor: float, *, is_good: bool) -> alt.LayerChart:
    """Scores of passages, with the floor in use."""
    colour = colours()
    bars = _bars(histogram, "passages", "reranker score", colour, colour.kept if is_good else colour.line)
    return alt.layer(bars, _rule(floor, f"{floor_text(floor)} floor in use", colour.floor, [])).properties(
        height=BAR_PX
    )


def precision_recall_chart(sweep: Mapping[str, Any], marks: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """Precision, recall and F1 of keeping passages over the floor, with the marked floors."""
    colour = colours()
    points = {point["floor"]: point["keep"] for point in (*sweep["grid"], sweep["best_keep"]["point"])}
    words = {"precision": "precision", "recall": "recall", "f1": "F1"}
    rows = [
        {"floor": floor, "measure": words[name], "share": points[floor][name]}
        for floor in sorted(points)
        for name in words
        if points[floor][name] is not None
    ]
    scale = alt.Scale(domain=list(words.values()), range=[colour.floor, colour.muted, colour.kept])
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2)
        .encode(
            x=_score_axis("floor:Q", "floor"),
            y=alt.Y("share:Q", title="share, 0 to 1", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            color=alt.Color("measure:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("floor:Q", format=".3f"),
                alt.Tooltip("measure:N"),
                alt.Tooltip("share:Q", format=".3f"),
            ],
        )
    )
    rules = [_mark_rule(mark, colour) for mark in marks if mark["kinds"] != ["default"]]
    return alt.layer(lines, *rules).properties(height=LINE_PX)


def trend_chart(
    points: Sequence[Mapping[str, Any]], name: str, title: str, *, is_share: bool = False
) -> alt.LayerChart:
    """One figure by day or week; periods without it are left out. `title` says the unit."""
    colour = colours()
    rows = [{"start": point["start"], "n": point["n"], "value": point[name]} for point in points]
    rows = [row for row in rows if row["value"] is not None]
    scale = alt.Scale(domain=[0, 1]) if is_share else alt.Scale(zero=True, nice=True)
    y = alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4, format="%" if is_share else ",~r"))
    base = alt.Chart(alt.Data(values=rows, format=alt.DataFormat(parse={"start": "utc:'%Y-%m-%d'"}))).encode(
        x=alt.X(
            "start:T",
            title=None,
            scale=alt.Scale(type="utc"),
            axis=alt.Axis(tickCount=4, format="%-d %b", labelOverlap=True),
        ),
        y=y,
        tooltip=[
            alt.Tooltip("start:T", title="from", format="%-d %b %Y"),
            alt.Tooltip("n:Q", title="questions"),
            alt.Tooltip("value:Q", title=title, format=".2%" if is_share else ",.3~r"),
        ],
    )
    return alt.layer(
        base.mark_line(color=colour.kept, strokeWidth=1.5), base.mark_point(color=colour.kept, filled=True, size=28)
    ).properties(height=TREND_PX)


def _bars(histogram: Mapping[str, Any], what: str, score: str, colour: Colours, fill: str | None = None) -> alt.Chart:
    edges = histogram["edges"]
    rows = [
        {"from": low, "to": high, "count": count, "range": f"{low:.2f} to {high:.2f}"}
        for low, high, count in zip(edges, edges[1:], histogram["counts"], strict=False)
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(color=fill or colour.line, binSpacing=1)
        .encode(
            x=_score_axis("from:Q", f"{score}, 0 to 1", bin="binned"),
            x2="to:Q",
            y=alt.Y("count:Q", title=what, axis=alt.Axis(tickCount=4, format="d", tickMinStep=1)),
            tooltip=[alt.Tooltip("range:N", title=score), alt.Tooltip("count:Q", title=what)],
        )
    )


def _mark_rule(mark: Mapping[str, Any], colour: Colours) -> alt.Chart:
    """The floor in use as a line, other marks dashed."""
    words = f"{floor_text(mark['floor'])} {mark_words(mark['kinds'])}"
    if "in_use" in mark["kinds"]:
        return _rule(mark["floor"], words, colour.floor, [])
    return _rule(mark["floor"], words, colour.muted, [3, 3])


def _rule(floor: float, words: str, colour: str, dash: Sequence[float], *, width: float = 1.5) -> alt.Chart:
    return (
        alt.Chart(alt.Data(values=[{"floor": floor, "words": words}]))
        .mark_rule(color=colour, strokeDash=list(dash), strokeWidth=width)
        .encode(x=_score_axis("floor:Q", None), tooltip=[alt.Tooltip("words:N", title="floor")])
    )


def _score_axis(field: str, title: str | None, bin: str | None = None) -> alt.X:
    scale, axis = alt.Scale(domain=[0, 1], nice=False), alt.Axis(tickCount=6, grid=False, format=".1f", labelFlush=True)
    if title is None:
        return alt.X(field, scale=scale)
    return alt.X(field, title=title, scale=scale, axis=axis, **({"bin": bin} if bin else {}))
