"""`python -m rag quality`: what the Quality page shows, at a terminal. It parses and prints, and computes nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag.evaluation.tables import Table, print_table, with_interval
from rag.floor_store import floor_text
from rag.settings import load_settings

KIND_WORDS = {
    "in_use": "in use",
    "best_answer": "best F1 of answers",
    "best_keep": "best F1 of passages",
    "conformal": "conformal",
    "default": "default",
}
DECISION_WORDS = {
    "on": "keep it on here",
    "off": "turn it off here (RANK37_RERANKER=none): it gains less than 0.02",
    "unsure": "it gains on these questions, but chance alone could do that: label more",
    "unknown": "nobody has called a passage right yet: label some in the app",
    "none": "no reranker is in use: passages stay in recall order",
}


def add_quality_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `quality` to the commands of `python -m rag`."""
    parser = commands.add_parser(
        "quality",
        help="what past questions and people's labels say of the floor and the reranker",
        description="The figures of the app's Quality page, from the questions kept of a collection. No model runs.",
    )
    parser.add_argument("--data-dir", type=Path, help="folder of indexes, traces and floors (RANK37_DATA_DIR)")
    parser.add_argument("--collection", help="which collection (RANK37_COLLECTION)")
    parser.add_argument(
        "--risk", type=float, default=0.05, metavar="R", help="most often that the right passage is lost (0.05)"
    )
    parser.add_argument("--floor", type=float, metavar="F", help="which past questions this floor would flip")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_quality)


def _quality(options: argparse.Namespace) -> int:
    from rich.console import Console

    from rag.evaluation.quality import QUESTIONS_READ, flips, in_use, past_questions, quality_report
    from rag.wiring import open_collection_embedder, open_rerankers, open_trace_store

    settings = load_settings(data_dir=options.data_dir, collection=options.collection)
    # What was kept can be looked at though nothing is kept any more.
    store = open_trace_store(settings.model_copy(update={"traces": True}))
    assert store is not None
    try:
        summaries = store.summaries(collection=settings.collection, limit=QUESTIONS_READ)
    finally:
        store.close()
    now = in_use(settings, open_rerankers(settings)[0], open_collection_embedder(settings))
    past = past_questions(summaries, now)
    report = quality_report(past, now, collection=settings.collection, risk=options.risk)
    if options.floor is not None:
        report["replay"] = flips(past, report, options.floor)
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
        return 0
    for table in quality_tables(report):
        print_table(table, Console())
    return 0


# ---- as tables ------------------------------------------------------------------------------------------------------


def quality_tables(report: Mapping[str, Any]) -> list[Table]:
    """The report for a terminal: the floor over past questions, labels and floors, the reranker, the trend."""
    from rag.evaluation.floor_report import calibration_tables, sweep_tables

    tables = [_replay_table(report)]
    if "replay" in report:
        tables.append(_flips_table(report["replay"]))
    if report["sweep"]:
        tables += sweep_tables(report["sweep"])
    if report["calibration"]:
        tables += calibration_tables(report["calibration"])
    if report["n"]:
        tables += [_verdict_table(report["verdict"]), _trend_table(report["trend"])]
    return tables


def _replay_table(report: Mapping[str, Any]) -> Table:
    kinds = {mark["floor"]: ", ".join(KIND_WORDS[kind] for kind in mark["kinds"]) for mark in report["marks"]}
    rows = tuple(
        (
            f"{floor_text(one['floor'])} {kinds.get(one['floor'], '')}".strip(),
            *(str(one[name]) for name in ("passed", "stopped", "now_passed", "now_stopped")),
        )
        for one in report["replays"]
    )
    needs = report["needs"]
    notes = [f"The floor in use is {floor_text(report['floor']['value'])}: {report['floor']['why']}."]
    notes += [f"Left out: {one['n']}, {one['why']}." for one in report["left_out"]]
    notes.append(f"Without labels: {report['valley']['why']} (best score of each question).")
    if needs["missing"]:
        notes.append(
            f"A conformal floor at a risk of {needs['risk']:g} needs {needs['needed']} questions with a right passage "
            f"that can be kept; {needs['n']} have one."
        )
    columns = ("floor", "let through", "stopped", "refused then, let through", "let through then, stopped")
    return Table(f"{report['collection']}: {report['n']} past questions", columns, rows, tuple(notes))


def _flips_table(replay: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            one["question"],
            "-" if one["best_score"] is None else f"{one['best_score']:.3f}",
            floor_text(one["floor"]),
            now,
        )
        for name, now in (("now_passed", "let through"), ("now_stopped", "stopped"))
        for one in replay[name]
    )
    title = f"what a floor of {floor_text(replay['floor'])} would have flipped"
    return Table(title, ("question", "best score", "floor then", "now"), rows)


def _verdict_table(verdict: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    if "lift" in verdict:
        for name, lift in verdict["lift"].items():
            signed = f"{lift['mean']:+.3f} [{lift['low']:+.3f}, {lift['high']:+.3f}]"
            rows.append((name, with_interval(verdict["before"][name]), with_interval(verdict["after"][name]), signed))
    notes = [f"{DECISION_WORDS[verdict['decision']]}.".capitalize()]
    if verdict["rerank_ms"] is not None:
        notes.append(f"Reranking takes {verdict['rerank_ms']:.0f} ms (median of {verdict['n_timed']} questions).")
    for depth in verdict.get("depths", ()):
        time = "" if depth["ms"] is None else f", about {depth['ms']:.0f} ms"
        best = "; it pays best" if depth["depth"] == verdict["best_depth"] else ""
        figures = ", ".join(f"{name} {with_interval(depth[name])}" for name in verdict["lift"])
        notes.append(f"Reading {depth['depth']} passages: {figures}{time}{best}.")
    title = f"the reranker, by {verdict['n']} labelled questions"
    return Table(title, ("", "without rerank", "with rerank", "lift"), tuple(rows), tuple(notes))


def _trend_table(trend: Mapping[str, Any]) -> Table:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    rows = tuple(
        (
            one["start"],
            str(one["n"]),
            f"{one['refused']} of {one['ended']}",
            shown(one["lift"], "+.3f"),
            shown(one["total_ms"], ".0f"),
            shown(one["rerank_ms"], ".0f"),
        )
        for one in trend["points"]
    )
    columns = (trend["period"], "questions", "refused", "lift of nDCG@5", "ms in all", "ms of rerank")
    return Table(f"by {trend['period']}", columns, rows, ("Milliseconds are medians.",))
