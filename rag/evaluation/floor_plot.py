"""A sweep as a chart: for a file, or for the page. It draws what `rag.evaluation.floor_report` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from rag.errors import BadInput
from rag.floor_store import floor_text

FORMATS = ("svg", "png", "html")

_MEASURES = {"precision": "precision", "recall": "recall", "f1": "F1"}
_KINDS = {"answer": "Answer or refuse", "keep": "Keep or drop a passage"}
_COLOURS = alt.Scale(domain=list(_MEASURES.values()), range=["#9a6700", "#1f6feb", "#1a7f37"])
_WIDTH, _HEIGHT = 360, 220


def sweep_chart(report: Mapping[str, Any]) -> alt.HConcatChart:
    """Precision, recall and F1 over the floor, of answers and of passages, with the best floor and the one in use."""
    title = alt.TitleParams(
        f"{report['set']}: floors for {report['scorer']['name']}",
        subtitle=f"{report['n']} questions; green line: best F1, dashed: in use",
        anchor="start",
    )
    panels = [_panel(report, kind) for kind in _KINDS]
    return alt.hconcat(*panels, title=title)


def save_chart(reports: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the sweeps, one below the other, into a file; its ending says in which format. Raises BadInput."""
    check_plot_path(path)
    chart = alt.vconcat(*(sweep_chart(report) for report in reports))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        chart.save(str(path), inline=True)  # with its scripts, so that it opens without a network
    else:
        chart.save(str(path), scale_factor=2.0 if path.suffix == ".png" else 1.0)


def check_plot_path(path: Path) -> None:
    """Raise BadInput, before hours of scoring, for a file in which nothing can be drawn."""
    if path.suffix.removeprefix(".") not in FORMATS:
        raise BadInput(f"--plot {path}: the file's ending must be one of {', '.join(FORMATS)}")


def _panel(report: Mapping[str, Any], kind: str) -> alt.LayerChart | alt.FacetChart:
    best, in_use = report[f"best_{kind}"]["point"], report["in_use"]
    points = {point["floor"]: point for point in (*report["grid"], best, in_use)}
    rows = [
        {"floor": floor, "measure": words, "value": point[kind][name]}
        for floor, point in sorted(points.items())
        for name, words in _MEASURES.items()
        if point[kind][name] is not None
    ]
    floor = alt.X("floor:Q", title="floor", scale=alt.Scale(domain=[0, 1]))
    lines = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=20))
        .encode(
            x=floor,
            y=alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("measure:N", title=None, scale=_COLOURS),
            tooltip=["floor:Q", "measure:N", "value:Q"],
        )
    )
    rules = [
        alt.Chart(alt.InlineData(values=[{"floor": point["floor"]}]))
        .mark_rule(color=colour, strokeDash=dash)
        .encode(x=floor)
        for point, colour, dash in ((best, "#1a7f37", [1, 0]), (in_use, "#57606a", [4, 4]))
    ]
    heading = f"{_KINDS[kind]}: best {floor_text(best['floor'])}, F1 {best[kind]['f1']:.3f}"
    return alt.layer(lines, *rules).properties(width=_WIDTH, height=_HEIGHT, title=heading)
