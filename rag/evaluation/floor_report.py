"""Sweeps and calibrations as JSON values and tables: what the commands print and the page shows.

Every figure is `rag.evaluation.floors`'; nothing is asked or printed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from rag.evaluation.floors import calibration, histogram, sweep, sweep_point, valley
from rag.evaluation.intervals import CONFIDENCE
from rag.evaluation.scored_questions import ScoredQuestions
from rag.evaluation.tables import Table, with_interval
from rag.floor_store import FloorMethod, FloorScope, StoredFloor, floor_text

BestOf = Literal["answer", "keep"]


def sweep_report(scored: ScoredQuestions) -> dict[str, Any]:
    """Everything about floors 0 to 1 over labelled questions. Raises BadInput where the labels show nothing.

    "grid" holds `SweepPoint`s, "in_use" that of the floor as it is, "best_answer" and "best_keep" `BestFloor`s.
    "histograms" are of each question's best score by whether it is answerable, and of all passages within the answer
    limit by whether they are relevant. "valley" is that of the best scores, without a look at the labels.
    """
    questions = scored.questions
    best = [question.best_score for question in questions]
    first = [passage for question in questions for passage in question.passages[: question.answer_limit]]
    return {
        **_about(scored),
        **asdict(sweep(questions)),
        "in_use": asdict(sweep_point(questions, scored.floor)),
        "histograms": {
            "best_answerable": asdict(
                histogram([question.best_score for question in questions if question.answerable])
            ),
            "best_unanswerable": asdict(
                histogram([question.best_score for question in questions if not question.answerable])
            ),
            "relevant": asdict(histogram([passage.score for passage in first if passage.relevant])),
            "not_relevant": asdict(histogram([passage.score for passage in first if not passage.relevant])),
        },
        "valley": asdict(valley(best)),
    }


def calibration_report(scored: ScoredQuestions, risk: float) -> dict[str, Any]:
    """The conformal floor, and what it does. Raises BadInput where there are fewer questions than the risk needs."""
    found = calibration(scored.questions, risk)
    return {
        **_about(scored),
        "floor": found.conformal.floor,
        **asdict(found),
        "in_use": asdict(sweep_point(scored.questions, scored.floor)),
    }


def _about(scored: ScoredQuestions) -> dict[str, Any]:
    return {
        "set": scored.name,
        "n": len(scored.questions),
        "reranker": asdict(scored.reranker),
        "scorer": asdict(scored.scorer),
        "collection": scored.scope.collection,
        "notes": list(scored.notes),
    }


def floor_of_sweep(report: Mapping[str, Any], scope: FloorScope, by: BestOf) -> StoredFloor:
    """The best floor of a sweep, to be stored."""
    best = report[f"best_{by}"]
    return _chosen(best["point"]["floor"], "sweep", report, scope, {"by": by, **best})


def floor_of_calibration(report: Mapping[str, Any], scope: FloorScope) -> StoredFloor:
    """The conformal floor, to be stored."""
    names = ("conformal", "answerable", "out_of_reach", "unanswerable_answered")
    return _chosen(report["floor"], "conformal", report, scope, {name: report[name] for name in names})


def floor_by_hand(value: float, scope: FloorScope) -> StoredFloor:
    """A floor that a person chose, to be stored. Raises BadInput for one outside [0, 1]."""
    return StoredFloor(scope, value, "by hand", _now())


def _chosen(
    value: float, how: FloorMethod, report: Mapping[str, Any], scope: FloorScope, figures: Mapping[str, Any]
) -> StoredFloor:
    return StoredFloor(scope, value, how, _now(), report["set"], {"n": report["n"], **figures})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- as tables -----------------------------------------------------------------------------------------------------


def sweep_tables(report: Mapping[str, Any]) -> list[Table]:
    """The grid with the floor in use and the best ones among it, then the best ones with their intervals."""
    points = {point["floor"]: point for point in report["grid"]}
    marks: dict[float, str] = {}
    for mark, point in (
        ("*", report["in_use"]),
        ("A", report["best_answer"]["point"]),
        ("P", report["best_keep"]["point"]),
    ):
        points[point["floor"]] = point
        marks[point["floor"]] = marks.get(point["floor"], "") + mark
    rows = tuple(_sweep_row(points[floor], report, marks.get(floor, "")) for floor in sorted(points))
    grid = Table(
        f"{report['set']}: {report['n']} questions, floors for {report['scorer']['name']}",
        ("floor", "kept: P R F1", "answered: P R F1", "answerable refused", "unanswerable answered"),
        rows,
        (
            f"* in use in {report['collection']}; A best F1 of answers; P best F1 of passages. kept: of the first "
            f"{report['answer_limit']} passages, right if relevant. answered: questions with anything kept, right if "
            "answerable and something relevant is kept. Recall (R) is of what some floor allows: "
            f"{report['reachable']} of {report['answerable']} answerable questions have a relevant passage that can be "
            "kept.",
            *(f"{note}." for note in report["notes"]),
        ),
    )
    best = [
        (
            words,
            floor_text(one["point"]["floor"]),
            f"{floor_text(one['above'])} to {floor_text(one['up_to'])}",
            f"{one['low']:.2f} to {one['high']:.2f}",
            with_interval(one["f1"]),
        )
        for words, one in (("answer or refuse", report["best_answer"]), ("keep or drop", report["best_keep"]))
    ]
    notes = [
        "decides the same: any floor above the one and up to the other. In brackets and under resampled: "
        f"{CONFIDENCE:.0%} bootstrap intervals over questions. The best floor of these questions does less well on "
        "others."
    ]
    if not report["unanswerable"]:
        notes.append("No question is to be refused, so nothing speaks for a high floor in the first row.")
    notes.append(f"Without labels: {report['valley']['why']} (best score of each question).")
    title = f"{report['set']}: best floors by F1"
    return [grid, Table(title, ("", "floor", "decides the same", "resampled", "F1"), tuple(best), tuple(notes))]


def _sweep_row(point: Mapping[str, Any], report: Mapping[str, Any], marks: str) -> tuple[str, ...]:
    kept, answered = (
        " ".join(
            "  -  " if point[kind][name] is None else f"{point[kind][name]:.3f}"
            for name in ("precision", "recall", "f1")
        )
        for kind in ("keep", "answer")
    )
    return (
        f"{floor_text(point['floor'])} {marks}".strip(),
        kept,
        answered,
        f"{point['answerable_refused']} of {report['answerable']}",
        f"{point['unanswerable_answered']} of {report['unanswerable']}",
    )


def calibration_tables(report: Mapping[str, Any]) -> list[Table]:
    """The conformal floor beside the one in use, and in words what is promised and what is not."""
    found, point, now = report["conformal"], report["point"], report["in_use"]
    answerable, bound = report["answerable"], report["unanswerable_answered"]
    reached = answerable - report["out_of_reach"]

    def column(one: Mapping[str, Any]) -> tuple[str, ...]:
        return (
            floor_text(one["floor"]),
            f"{one['answer']['right']} of {reached}",
            f"{one['answerable_refused']} of {answerable}",
            f"{one['unanswerable_answered']} of {bound['of']}",
            "-" if one["keep"]["precision"] is None else f"{one['keep']['precision']:.3f}",
        )

    names = (
        "floor",
        "right passage kept",
        "answerable, refused",
        "unanswerable, answered",
        "kept passages that are relevant",
    )
    rows = tuple(zip(names, column(now), column(point), strict=True))
    at_most = (
        f"An unanswerable question is answered with a probability of at most {bound['at_most']:.1%}, with 95% "
        f"confidence ({bound['count']} of {bound['of']} were; Clopper-Pearson)."
        if bound["of"]
        else "No question is to be refused, so nothing is known of how often an unanswerable one is answered."
    )
    notes = [
        f"The right passage of a further question survives with a probability of at least {1 - found['risk']:.1%}: the "
        f"floor is gold score {found['k']} from below of {found['n']} (a risk of {found['risk']:g} needs "
        f"{found['needed']} or more). With these very questions, of further ones {found['coverage_low']:.1%} to "
        f"{found['coverage_high']:.1%} survive, with 90% confidence.",
        at_most,
        "Both hold for questions of the same kind as these, and if the reranker has not learnt from these.",
    ]
    if report["out_of_reach"]:
        notes.append(
            f"Of {report['out_of_reach']} of the {answerable} answerable questions no floor keeps a right passage, "
            "since recall missed it or rerank put it too low: the promise is not about these."
        )
    notes += [f"{note}." for note in report["notes"]]
    title = f"{report['set']}: conformal floor for {report['scorer']['name']}"
    return [Table(title, ("", f"in use in {report['collection']}", "conformal"), rows, tuple(notes))]
