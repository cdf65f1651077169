"""Reports and comparisons as tables: for a terminal, or as Markdown that a page can include as it is.

It words and rounds; every figure is the report's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from rag.evaluation.compare import reranker_name
from rag.evaluation.intervals import CONFIDENCE
from rag.evaluation.rankings import RECALL_METRIC, TOP
from rag.evaluation.report import STAGES

FLIPS_SHOWN = 20
"""How many flipped questions of a kind are printed; --json has all."""

INTERVALS = f"In brackets: {CONFIDENCE:.0%} bootstrap intervals over questions; p by a paired randomization test."


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words, and what has to be said below them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def print_table(table: Table, console: Console) -> None:
    """At a terminal: the first column to the left, figures to the right."""
    printed = RichTable(title=escape(table.title), title_justify="left")
    for number, column in enumerate(table.columns):
        printed.add_column(escape(column), justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        printed.add_row(*(escape(cell) for cell in row))
    console.print(printed)
    for note in table.notes:
        console.print(f"[dim]{escape(note)}[/dim]", highlight=False)
    console.print()


def as_markdown(table: Table) -> str:
    r"""As Markdown, with a heading line in bold and the notes as paragraphs.

    >>> print(as_markdown(Table("Two sets", ("set", "n"), (("a|b", "3"),), ("A note.",))))
    **Two sets**
    <BLANKLINE>
    | set | n |
    |---|--:|
    | a\|b | 3 |
    <BLANKLINE>
    A note.
    <BLANKLINE>
    """
    lines = [
        f"**{table.title}**",
        "",
        _line(table.columns),
        "|---|" + "--:|" * (len(table.columns) - 1),
        *map(_line, table.rows),
        "",
        *(part for note in table.notes for part in (note, "")),
    ]
    return "\n".join(lines)


def report_tables(report: Mapping[str, Any]) -> list[Table]:
    """One evaluation in full: ranking, then what reaches the answer."""
    names = [name for name in report["before"] if name != RECALL_METRIC]
    rows = [(RECALL_METRIC, with_interval(report["before"].get(RECALL_METRIC)), "", "", "")]
    for name in names:
        before, after, lift = report["before"][name], report["after"][name], report["lift"][name]
        rows.append((name, with_interval(before), with_interval(after), _signed(lift), _p(lift["p"])))
    ranking = Table(
        f"{report['set']}: {report['n']} questions{_of_passages(report)}",
        ("", "before rerank", "after rerank", "lift", "p"),
        tuple(rows),
        (INTERVALS,),
    )
    noise, refusals = report["noise"], report["refusals"]
    items = "passages" if report["n_passages"] else "pages"
    counts = [
        (f"relevant {items} at 6 to 100, rescued into the top {TOP}", *_counted(report["rescued"])),
        (f"relevant {items} in the top {TOP}, buried below it", *_counted(report["buried"])),
        ("questions that keep a relevant passage", "", with_interval(report["kept_gold"])),
        ("noise in the first passages of recall", "", with_interval(noise["recalled"])),
        ("noise in the first passages after rerank", "", with_interval(noise["reranked"])),
        ("noise in the passages that pass the floor", "", with_interval(noise["kept"])),
        ("context precision of those (Ragas, by labels)", "", with_interval(report.get("context_precision"))),
        ("answerable, refused", *_counted(refusals["answerable"])),
        ("answerable and recalled, refused", *_counted(refusals["answerable_gold_recalled"])),
    ]
    for group, refused in refusals["unanswerable_by_file"].items():
        counts.append((f"to be refused ({group}), refused", *_counted(refused)))
    if report["answer_in_text"]:
        counts.append(("answered: a gold answer stands in the text", *_counted(report["answer_in_text"])))
    gate = Table(
        f"{report['set']}: what reaches the answer, floor {report['floor']:.2f}",
        ("", "count", "share"),
        tuple(counts),
        tuple(_notes(report)),
    )
    tables = [ranking, gate, *answer_tables(report)]
    return [*tables, *(summary_tables([report]) if "by_set" in report else [])]


def answer_tables(report: Mapping[str, Any]) -> list[Table]:
    """What the answers are worth, and the table of right and wrong; none where no answer was asked for."""
    tables = []
    if report.get("answered"):
        answered = report["answered"]
        rows = [(words, str(answered["n"]), with_interval(answered[name])) for name, words in ANSWER_WORDS.items()]
        if answered["n_gold"]:
            judged = answered["n_gold"] - answered["n_unjudged"]
            rows += [
                (words, str(answered["n_gold"]), with_interval(answered[name])) for name, words in GOLD_WORDS.items()
            ]
            rows.append(("agrees with a gold answer", str(judged), with_interval(answered["agrees"])))
        notes = [judge_note(report["judge"]), INTERVALS]
        if answered["n_unclear"]:
            notes.insert(
                1, f"{answered['n_unclear']} statements had a verdict that is no yes and no no: counted as no."
            )
        if answered["n_unjudged"]:
            notes.append(f"Agreement of {answered['n_unjudged']} answers can't be told from words and numbers.")
        tables.append(
            Table(f"{report['set']}: what the answers are worth", ("", "of", "mean"), tuple(rows), tuple(notes))
        )
    if report.get("outcomes"):
        strict, by_page = report["outcomes"]["strict"], report["outcomes"]["by_page"]
        place = "passage" if report["n_passages"] else "page"
        outcomes = [
            (words.format(place=place), *_counted(strict[name]), *_counted(by_page[name]))
            for name, words in OUTCOME_WORDS.items()
        ]
        notes = [
            f"strict: a gold {place} is cited, and the answer agrees with a gold answer by words or numbers. "
            f"by {place}: a gold {place} is cited, whatever the answer says."
        ]
        if report.get("page_hit@5"):
            notes.append(f"page-hit@{TOP} after rerank: {with_interval(report['page_hit@5'])}.")
        columns = ("", "strict", "share", f"by {place}", "share")
        tables.append(
            Table(f"{report['set']}: right, wrong and refused", columns, tuple(outcomes), (*notes, INTERVALS))
        )
    return tables


ANSWER_WORDS = {
    "citation_recall": "citation recall (ALCE)",
    "citation_precision": "citation precision (ALCE)",
    "faithfulness": "faithfulness (Ragas)",
    "hallucination_rate": "answers with an unsupported statement (hallucination rate)",
}
GOLD_WORDS = {
    "exact_match": "exact match (SQuAD)",
    "token_f1": "F1 of words (SQuAD)",
    "contains_gold": "a gold answer's words stand in it",
}
OUTCOME_WORDS = {
    "right": "answerable: right",
    "unjudged": "answerable: gold {place} cited, answer not judged",
    "wrong": "answerable: wrong",
    "wrongly_refused": "answerable: wrongly refused",
    "rightly_refused": "to be refused: rightly refused",
    "wrongly_answered": "to be refused: answered",
}


def judge_note(judge: Mapping[str, Any]) -> str:
    """Who gave the verdicts, and what they are worth.

    >>> judge_note({"kind": "llm", "name": "a-model", "floor": None})
    'Judge: the LLM a-model.'
    """
    if judge["kind"] == "llm":
        return f"Judge: the LLM {judge['name']}."
    return (
        f"Judge: the score of {judge['name']} for (statement, passage), floor {judge['floor']:.2f}. It measures "
        "relevance, not entailment: a passage that contradicts the statement can pass."
    )


def summary_tables(reports: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Several evaluations, or the sets of a pool, a row each; means over sets weigh every set the same."""
    several = len({reranker_name(report) for report in reports}) > 1
    by_reranker: dict[str, list[Mapping[str, Any]]] = {}
    named: list[tuple[str, Mapping[str, Any]]] = []
    for report in reports:
        for set_name, part in (report.get("by_set") or {report["set"]: report}).items():
            by_reranker.setdefault(reranker_name(report), []).append(part)
            named.append((f"{set_name}, {reranker_name(report)}" if several else set_name, part))
    ranking = [_ranking_row(name, part) for name, part in named]
    gate = [_gate_row(name, part) for name, part in named]
    for name, parts in by_reranker.items():
        if len(parts) > 1:
            ranking.append(_ranking_mean(f"mean, {name}" if several else "mean of the sets", parts))
            gate.append(_gate_sum(f"all, {name}" if several else "all sets", parts))
    where = "all passages in one index" if any("by_set" in report for report in reports) else "each in its own index"
    by = "" if several else f", reranked by {reranker_name(reports[0])}"
    floors = ", ".join(dict.fromkeys(f"{report['floor']:.2f}" for report in reports))
    tables = [
        Table(
            f"Ranking before → after rerank, {where}{by}",
            ("set", "n", RECALL_METRIC, "nDCG@10", "lift", "p", "RR@10", "P@5", "R@10"),
            tuple(ranking),
            (INTERVALS,),
        ),
        Table(
            f"What reaches the answer, floor {floors}, {where}{by}",
            ("set", "rescued", "buried", "noise kept", "recalled, refused", "to be refused, refused", "rerank ms"),
            tuple(gate),
            (
                f"rescued: of the relevant passages that recall put at 6 to 100, those brought into the top {TOP}. "
                f"buried: of those in the top {TOP}, those moved below it. noise kept: share of the passages that pass "
                "the floor that are not relevant, at answerable questions. recalled, refused: of the answerable "
                "questions with a relevant passage recalled. rerank ms: median where no score was remembered.",
            ),
        ),
    ]
    return [*tables, *_answer_summary(named)]


def _answer_summary(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Table]:
    """What the answers of several evaluations are worth, a row each; none where no answer was asked for."""
    answered = [(name, part) for name, part in named if part.get("answered")]
    if not answered:
        return []
    rows = [
        (
            name,
            str(part["answered"]["n"]),
            *(with_interval(part["answered"][metric]) for metric in ANSWER_WORDS),
            _right(part, "strict"),
            _right(part, "by_page"),
        )
        for name, part in answered
    ]
    columns = ("set", "answers", "citation recall", "citation precision", "faithfulness", "hallucination rate")
    notes = (
        "Supported is what the judge says (for the relevance judge: relevant, not entailed). right: of the answerable "
        "questions, those whose answer cites a gold page or passage; strict: and agrees with a gold answer.",
        INTERVALS,
    )
    return [Table("What the answers are worth", (*columns, "right, strict", "right by page"), tuple(rows), notes)]


def _right(part: Mapping[str, Any], yardstick: str) -> str:
    return _of(part["outcomes"][yardstick]["right"]) if part.get("outcomes") else "-"


_SHOWN = ("nDCG@10", "RR@10", "P@5", "R@10")


def _ranking_row(name: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    before, after, lift = part["before"], part["after"], part["lift"].get("nDCG@10")
    ndcg, *others = (f"{_number(before.get(metric))} → {_number(after.get(metric))}" for metric in _SHOWN)
    change = (_signed(lift), _p(lift["p"])) if lift else ("-", "-")
    return (name, str(part["n"]), _number(before.get(RECALL_METRIC)), ndcg, *change, *others)


def _ranking_mean(name: str, parts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    measured = [part for part in parts if part["lift"]]
    means = {
        side: {
            metric: {"mean": _mean(part[side][metric]["mean"] for part in measured)}
            for metric in (RECALL_METRIC, *_SHOWN)
        }
        for side in ("before", "after")
    }
    lift = _mean(part["lift"]["nDCG@10"]["mean"] for part in measured)
    row = _ranking_row(name, {"n": sum(part["n"] for part in parts), **means, "lift": {}})
    return (*row[:4], "-" if lift is None else f"{lift:+.3f}", "", *row[6:])


def _gate_row(name: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        _of(part["rescued"]),
        _of(part["buried"]),
        _number(part["noise"]["kept"]),
        _of(part["refusals"]["answerable_gold_recalled"]),
        _of(part["refusals"]["unanswerable"]),
        _milliseconds(part["timings_ms"], "rerank"),
    )


def _gate_sum(name: str, parts: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    def added(counts: Iterable[Mapping[str, Any]]) -> str:
        both = [(one["count"], one["of"]) for one in counts]
        return _of({"count": sum(count for count, _ in both), "of": sum(of for _, of in both)})

    return (
        name,
        added(part["rescued"] for part in parts),
        added(part["buried"] for part in parts),
        "",
        added(part["refusals"]["answerable_gold_recalled"] for part in parts),
        added(part["refusals"]["unanswerable"] for part in parts),
        "",
    )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


def comparison_tables(value: Mapping[str, Any]) -> list[Table]:
    """A comparison: the figures side by side, then which questions flipped."""
    first, second = reranker_name(value["first"]), reranker_name(value["second"])
    rows = []
    for side, when in (("before", "before rerank"), ("after", "after rerank")):
        for name, figure in value[side].items():
            if side == "after" or figure["difference"]["low"] or figure["difference"]["high"]:
                rows.append((f"{name} {when}", *_compared(figure)))
    for kind, figure in value["refused"].items():
        if figure["first"] is not None:
            rows.append((f"{kind}, refused", *_compared(figure)))
    for name, figure in value["answered"].items():
        if figure["first"] is not None:
            rows.append(({**ANSWER_WORDS, **GOLD_WORDS}[name], *_compared(figure)))
    only = [
        f"{n} questions are only in the {which} report: left out."
        for which, n in (("first", value["only_first"]), ("second", value["only_second"]))
        if n
    ]
    engines = [
        f"{which}: {reranker_name(value[which])} {_revision(value[which])}, floor {value[which]['floor']:.2f}, "
        f"{value[which]['depth']} passages reranked."
        for which in ("first", "second")
    ]
    same = first == second
    tables = [
        Table(
            f"{value['set']}: {value['n']} questions asked of both",
            ("", "first" if same else first, "second" if same else second, "difference", "p"),
            tuple(rows),
            (*engines, *only, *_answered_notes(value), INTERVALS),
        )
    ]
    for kind, words in (
        ("into_top", f"a relevant passage comes into the top {TOP}"),
        ("out_of_top", f"no relevant passage stays in the top {TOP}"),
        ("now_answered", "refused before, answered now"),
        ("now_refused", "answered before, refused now"),
        ("now_right", "no gold page or passage cited before, one cited now"),
        ("now_wrong", "a gold page or passage cited before, none cited now"),
    ):
        flips = value["flipped"][kind]
        if flips:
            more = len(flips) - FLIPS_SHOWN
            tables.append(
                Table(
                    f"{len(flips)} questions: {words}",
                    ("question", "to be refused", "best rank", "best score"),
                    tuple(_flip_row(flip) for flip in flips[:FLIPS_SHOWN]),
                    (f"… and {more} more (--json has all).",) if more > 0 else (),
                )
            )
    return tables


def _answered_notes(value: Mapping[str, Any]) -> list[str]:
    if not value["n_answered"]:
        return []
    notes = [f"What answers are worth is of the {value['n_answered']} questions that both answered."]
    judges = [value[which]["judge"] for which in ("first", "second")]
    if judges[0] != judges[1]:
        return [*notes, "The two had different judges, so support and citations are not compared."]
    return [*notes, judge_note(judges[0])]


def _revision(report: Mapping[str, Any]) -> str:
    return " / ".join(info["revision"][:12] for info in report["engines"] if info["role"] == "reranker")


def _notes(report: Mapping[str, Any]) -> list[str]:
    notes = []
    for info in report["engines"]:
        details = ", ".join(detail for detail in (info["revision"][:12], info["precision"]) if detail)
        notes.append(f"{info['role']}: {info['name']}" + (f" ({details})" if details else "") + ".")
    times = [
        f"{stage} {_milliseconds(report['timings_ms'], stage)} ({report['timings_ms'][stage]['p95']:.0f})"
        for stage in STAGES
        if stage in report["timings_ms"]
    ]
    notes.append(f"Milliseconds a question, median (95th percentile): {', '.join(times)}.")
    cached = report["n_with_remembered_scores"]
    if cached:
        notes.append(f"{cached} questions had remembered scores; their rerank times are left out.")
    if report["left_out"]:
        notes.append(f"{report['left_out']} queries were left out: no relevant passage, or answered by another set.")
    if report["missing_gold"]:
        notes.append(f"{report['missing_gold']} relevant passages are not in the corpus: they count as not found.")
    return notes


def _of_passages(report: Mapping[str, Any]) -> str:
    passages = f" over {report['n_passages']} passages" if report["n_passages"] else ""
    return f"{passages}, the first {report['depth']} reranked by {reranker_name(report)}"


def with_interval(estimate: Mapping[str, Any] | None) -> str:
    """A mean with its interval.

    >>> with_interval({"mean": 0.5, "low": 0.25, "high": 0.75}), with_interval({"mean": None})
    ('0.500 [0.250, 0.750]', '-')
    """
    if estimate is None or estimate["mean"] is None:
        return "-"
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _signed(difference: Mapping[str, Any]) -> str:
    if difference["mean"] is None:
        return "-"
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def _p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _number(estimate: Mapping[str, Any] | None) -> str:
    return "-" if estimate is None or estimate["mean"] is None else f"{estimate['mean']:.3f}"


def _counted(value: Mapping[str, Any]) -> tuple[str, str]:
    return f"{value['count']} of {value['of']}", with_interval(value["share"])


def _of(value: Mapping[str, Any]) -> str:
    return f"{value['count']} of {value['of']}" + (f" ({value['count'] / value['of']:.0%})" if value["of"] else "")


def _milliseconds(timings_ms: Mapping[str, Any], stage: str) -> str:
    return f"{timings_ms[stage]['median']:.0f}" if stage in timings_ms else "-"


def _compared(figure: Mapping[str, Any]) -> tuple[str, str, str, str]:
    difference = figure["difference"]
    return f"{figure['first']:.3f}", f"{figure['second']:.3f}", _signed(difference), _p(difference["p"])


def _flip_row(flip: Mapping[str, Any]) -> tuple[str, ...]:
    ranks = " → ".join("-" if rank is None else str(rank) for rank in flip["ranks"])
    scores = " → ".join("-" if score is None else f"{score:.2f}" for score in flip["best_scores"])
    return flip["text"], flip["group"] or "", ranks, scores


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
