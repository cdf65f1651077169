"""Two evaluations of the same questions, question by question: what changed, how surely, and where.

It takes reports as `rag.evaluation.report` makes them; nothing is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag.errors import BadInput
from rag.evaluation.intervals import difference_of
from rag.evaluation.rankings import RECALL_METRIC, TOP
from rag.evaluation.report import FORMAT
from rag.json_lines import read_rows

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def read_reports(path: Path) -> list[Report]:
    """The reports in a file: one JSON object, or one a line. Raises BadInput."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist: write it with `python -m rag evaluate SET --json > {path.name}`")
    try:
        reports = [json.loads(path.read_text(encoding="utf-8"))]
    except ValueError:
        reports = [row for _, row in read_rows(path)]
    for report in reports:
        if not isinstance(report, dict) or report.get("format") != FORMAT or "questions" not in report:
            raise BadInput(f"{path} holds no report of this version: write it with `python -m rag evaluate SET --json`")
    return reports


def pairs_of(first: Sequence[Report], second: Sequence[Report]) -> list[tuple[Report, Report]]:
    """The reports to compare, set by set: of a set with one report in each, those; else those of the same reranker.

    Raises BadInput where there is nothing to compare.
    """
    pairs = []
    for report in first:
        others = [other for other in second if other["set"] == report["set"]]
        if len(others) > 1 or sum(other["set"] == report["set"] for other in first) > 1:
            others = [other for other in others if reranker_name(other) == reranker_name(report)]
        pairs += [(report, other) for other in others[:1]]
    if not pairs:
        raise BadInput(f"nothing to compare: {_listed(first)} in the first, {_listed(second)} in the second")
    return pairs


def pairs_within(reports: Sequence[Report]) -> list[tuple[Report, Report]]:
    """The two reports of each set in one file, in order. Raises BadInput where a set has not two."""
    by_set: dict[str, list[Report]] = {}
    for report in reports:
        by_set.setdefault(report["set"], []).append(report)
    if any(len(own) != 2 for own in by_set.values()):
        raise BadInput(f"a single file needs two reports of each set; it has {_listed(reports)}")
    return [(own[0], own[1]) for own in by_set.values()]


def reranker_name(report: Report) -> str:
    """The reranker of a report, by name; a folder by its last part."""
    names = [info["name"] for info in report["engines"] if info["role"] == "reranker"]
    return " / ".join(name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("/") else name for name in names)


def _listed(reports: Sequence[Report]) -> str:
    return ", ".join(f"{report['set']} by {reranker_name(report)}" for report in reports) or "no report"


def comparison(first: Report, second: Report) -> dict[str, Any]:
    """The second report against the first, over the questions that are in both; differences are second minus first.

    Raises BadInput if they share no question.
    """
    rows = {_key(row): row for row in second["questions"]}
    both = [(row, rows[_key(row)]) for row in first["questions"] if _key(row) in rows]
    if not both:
        raise BadInput(f"the two reports of {first['set']!r} have no question in common")
    answerable = [(a, b) for a, b in both if a["group"] is None]
    others = [(a, b) for a, b in both if a["group"] is not None]
    kept_keys = ("engines", "floor", "depth", "answers", "judge")
    value: dict[str, Any] = {
        "set": first["set"],
        "first": {key: first.get(key) for key in kept_keys},
        "second": {key: second.get(key) for key in kept_keys},
        "n": len(both),
        "only_first": len(first["questions"]) - len(both),
        "only_second": len(second["questions"]) - len(both),
    }
    for side in ("before", "after"):
        names = [name for name in answerable[0][0][side] if name in answerable[0][1][side]] if answerable else []
        if side == "after":
            names = [name for name in names if name != RECALL_METRIC]
        value[side] = {
            name: _paired(answerable, lambda row, name=name, side=side: float(row[side][name]))  # type: ignore[misc]  # the defaults bind the loop's values
            for name in names
        }
    value["refused"] = {
        "answerable": _paired(answerable, lambda row: float(row["refused"])),
        "unanswerable": _paired(others, lambda row: float(row["refused"])),
    }
    answered = [(a["answer"], b["answer"]) for a, b in both if a.get("answer") and b.get("answer")]
    value["n_answered"] = len(answered)
    value["answered"] = _answers_paired(answered, same_judge=first.get("judge") == second.get("judge"))
    value["flipped"] = {
        "into_top": _flips(answerable, lambda a, b: not _in_top(a) and _in_top(b)),
        "out_of_top": _flips(answerable, lambda a, b: _in_top(a) and not _in_top(b)),
        "now_answered": _flips(both, lambda a, b: a["refused"] and not b["refused"]),
        "now_refused": _flips(both, lambda a, b: not a["refused"] and b["refused"]),
        "now_right": _flips(answerable, lambda a, b: _cites_gold(a) is False and _cites_gold(b) is True),
        "now_wrong": _flips(answerable, lambda a, b: _cites_gold(a) is True and _cites_gold(b) is False),
    }
    return value


_JUDGED = {
    "citation_recall": "citation_recall",
    "citation_precision": "citation_precision",
    "faithfulness": "faithfulness",
    "hallucination_rate": "hallucinates",
}
"""Figures that rest on the judge, with the key in a row's answer."""
_MATCHED = {"exact_match": "exact_match", "token_f1": "token_f1", "contains_gold": "contains_gold"}


def _answers_paired(answered: Sequence[tuple[Row, Row]], *, same_judge: bool) -> dict[str, Any]:
    """What the answers to the same questions are worth; figures of two judges are not compared."""
    names = {**_JUDGED, **_MATCHED} if same_judge else _MATCHED
    return {
        name: _paired(
            [(a, b) for a, b in answered if a[key] is not None and b[key] is not None],
            lambda row, key=key: float(row[key]),  # type: ignore[misc]  # the default binds the loop's value
        )
        for name, key in names.items()
    }


def _cites_gold(row: Row) -> bool | None:
    """Whether the answer cites a gold page or passage; None where no answer was asked for, or none could be judged."""
    outcome = row.get("outcome")
    return outcome["by_page"] == "right" if outcome else None


def _key(row: Row) -> tuple[str, str, str]:
    return row["set"], row["group"] or "", row["id"]


def _paired(pairs: Sequence[tuple[Row, Row]], figure: Callable[[Row], float]) -> dict[str, Any]:
    first, second = [figure(a) for a, _ in pairs], [figure(b) for _, b in pairs]
    return {
        "first": sum(first) / len(first) if first else None,
        "second": sum(second) / len(second) if second else None,
        "difference": asdict(difference_of(first, second)),
    }


def _flips(pairs: Sequence[tuple[Row, Row]], flipped: Callable[[Row, Row], bool]) -> list[dict[str, Any]]:
    return [
        {
            **{key: a[key] for key in ("id", "set", "group", "text")},
            "ranks": [_best_rank(a), _best_rank(b)],
            "best_scores": [a["best_score"], b["best_score"]],
        }
        for a, b in pairs
        if flipped(a, b)
    ]


def _best_rank(row: Row) -> int | None:
    """The best rank after rerank of a relevant item."""
    return min((ranks["after"] for ranks in row["gold"].values() if ranks["after"]), default=None)


def _in_top(row: Row) -> bool:
    return (_best_rank(row) or TOP + 1) <= TOP
