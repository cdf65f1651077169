"""The Quality page: the floor replayed over past questions, whether reranking pays, scores, and trends.

Every figure is `rag.evaluation.quality`'s, which `python -m rag quality` prints as well; no model runs here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import streamlit as st

from rag.errors import Rank37Error
from rag.evaluation.quality import (
    LEAST_LIFT,
    QUESTIONS_READ,
    RISK,
    InUse,
    Past,
    flips,
    floor_to_store,
    in_use,
    past_questions,
    quality_report,
    state_key,
)
from rag.floor_store import StoredFloor, floor_text
from rag.wiring import floor_store
from ui.charts import histogram_chart, mark_words, precision_recall_chart, replay_chart, trend_chart
from ui.models import await_models
from ui.problems import problems_shown, show_problem
from ui.words import as_html, as_markdown, count, duration, score_value, sentence_html, snippet
from ui.workspace import Workspace, check_manages, may_manage, open_workspace

RISKS = (0.05, 0.1, 0.2)
FLIPS_SHOWN = 200
QUESTION_CHARACTERS = 110

_REASONS = {
    "written": "answered",
    "quoted": "answered",
    "below_floor": "refused",
    "no_candidates": "refused: nothing was found",
    "uncited": "refused: the LLM cited nothing",
    "model_declined": "refused by the LLM",
}


def show() -> None:
    """Draw the page."""
    workspace = open_workspace()
    st.title("Quality", anchor=False)
    with problems_shown(retry_key="read_again"):
        await_models(workspace)
        _page(workspace)


def _page(workspace: Workspace) -> None:
    settings, engines = workspace.settings, workspace.engines
    now = in_use(settings, engines.reranker, engines.embedder)
    if not may_manage(workspace):
        st.info(
            "The questions asked in this collection may be other people’s, so only its owner sees them here; where it "
            "has none, an administrator.",
            icon=":material/lock:",
        )
        return
    store = workspace.recorder.store()
    if store is None:
        _floor_in_use(workspace, now, None)
        st.info(
            "Questions are not kept (`RANK37_TRACES=off`), so there is nothing to measure with. Unset it, and this "
            "page fills as questions are asked.",
            icon=":material/visibility_off:",
        )
        return
    summaries = store.summaries(collection=settings.collection, limit=QUESTIONS_READ)
    past = past_questions(summaries, now)
    report: dict[str, Any] | None = None
    if past.questions:
        key = f"{settings.collection} {state_key(summaries)} {asdict(now)!r}"
        report = _report(key, st.session_state.get("risk", RISK), past, now, settings.collection)
    _floor_in_use(workspace, now, report)
    if report is None:
        if summaries:
            st.info(
                "None of the questions asked so far can be used: they were ranked by other engines than those in use. "
                "Ask some, and this page fills.",
                icon=":material/history:",
            )
            _left_out(past)
        else:
            st.info(
                "No question of this collection is kept yet. Ask some on the **Ask** page: each is kept with its "
                "scores, and this page shows what another floor would have done to it.",
                icon=":material/history:",
            )
        return
    _basis(report, len(summaries))
    _left_out(past)
    st.subheader("Floor replay", anchor=False)
    _replay(workspace, past, report, now)
    st.subheader("Does reranking pay here?", anchor=False)
    _verdict(report["verdict"])
    st.subheader("Scores", anchor=False)
    _scores(report)
    st.subheader("Over time", anchor=False)
    _trend(report["trend"])


@st.cache_data(max_entries=8, show_spinner="Working out the figures …")
def _report(key: str, risk: float, _past: Past, _now: InUse, _collection: str) -> dict[str, Any]:
    """The report; `key` stands for everything that it follows from, so that the same is worked out once."""
    return quality_report(_past, _now, collection=_collection, risk=risk)


# ---- the floor in use -----------------------------------------------------------------------------------------------


def _floor_in_use(workspace: Workspace, now: InUse, report: Mapping[str, Any] | None) -> None:
    floor = now.floor
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.html(
        f"""<div class="r37-inuse" data-testid="floor-in-use"><b>{floor_text(floor.value)}</b>
<p>is the floor of the collection “{as_html(workspace.settings.collection)}”, for scores of {as_html(now.scorer.name)}
<small>{sentence_html(floor.why)}</small></p></div>"""
    )
    if floor.stored is not None and right.button(
        "Reset to default",
        icon=":material/restart_alt:",
        width="stretch",
        help=f"Forget the floor of {floor_text(floor.stored.value)} that was stored for what is in use",
    ):
        _change(workspace, now, None)
    _changed(workspace, now)
    if floor.stale is not None:
        _stale(workspace, now, report)
    problem = st.session_state.pop("floor_problem", None)
    if problem is not None:
        show_problem(problem)


def _stale(workspace: Workspace, now: InUse, report: Mapping[str, Any] | None) -> None:
    """A floor that was measured for something else, and how to choose one for what is in use."""
    stale = now.floor.stale
    assert stale is not None
    differences = as_markdown(", ".join(now.floor.differences))
    text = (
        f"**The stored floor of {floor_text(stale.value)} is stale.** It was stored on {stale.chosen_at[:10]} for "
        f"{differences}. Scores mean something else now, so it is not used."
    )
    marks = {kind: mark["floor"] for mark in report["marks"] for kind in mark["kinds"]} if report else {}
    best = next((kind for kind in ("conformal", "best_answer", "best_keep") if kind in marks), None)
    with st.container(border=True):
        st.markdown(f":material/warning: {text}")
        if best:
            if st.button(f"Recalibrate: try {floor_text(marks[best])} ({mark_words([best])})", icon=":material/tune:"):
                st.session_state["floor_tried"] = marks[best]
            return
        collection = workspace.settings.collection
        st.markdown(
            "To recalibrate, label right passages of questions asked from now on. Or take the labels given so far, "
            "and have their questions ranked again at a terminal"
            + ("" if workspace.settings.qdrant_url else ", while the app is stopped")
            + ":"
        )
        st.code(
            f"python -m rag traces labels --collection {collection} --out labels.jsonl\n"
            f"python -m rag calibrate --labels labels.jsonl --collection {collection} --apply",
            language="bash",
        )


def _change(workspace: Workspace, now: InUse, chosen: StoredFloor | None, *, is_undo: bool = False) -> None:
    """Store a floor for what is in use (None: forget it) and draw the whole page anew, the sidebar included."""
    before = now.floor.stored
    try:
        check_manages(workspace)
        store = floor_store(workspace.settings)
        if chosen is None:
            store.remove(now.floor.scope)
        else:
            store.put(chosen)
    except Rank37Error as error:
        st.session_state["floor_problem"] = error
    else:
        st.session_state["floor_change"] = None if is_undo else (now.floor.scope, chosen, before, now.floor.value)
    st.rerun()


def _changed(workspace: Workspace, now: InUse) -> None:
    """What was just stored or forgotten, with the way back."""
    change = st.session_state.get("floor_change")
    if change is None:
        return
    scope, chosen, before, value = change
    if scope != now.floor.scope or now.floor.stored != chosen:
        st.session_state["floor_change"] = None  # something else was changed since
        return
    left, right = st.columns([4, 1], vertical_alignment="center")
    if chosen is None:
        left.success(f"The floor is {floor_text(now.floor.value)} again (it was {floor_text(value)}).")
    else:
        left.success(f"The floor is {floor_text(chosen.value)} from now on (it was {floor_text(value)}).")
    if right.button("Undo", icon=":material/undo:", width="stretch"):
        _change(workspace, now, before, is_undo=True)


def _basis(report: Mapping[str, Any], n_read: int) -> None:
    """How much the figures rest on."""
    first, last = report["first_asked_at"][:10], report["last_asked_at"][:10]
    when = f"on {first}" if first == last else f"between {first} and {last}"
    labelled = count(report["labelled"], "question")
    newest = f", the newest {QUESTIONS_READ:,}" if n_read >= QUESTIONS_READ else ""
    said = f"{labelled} with a passage that people called right" if report["labelled"] else "none of them labelled yet"
    st.caption(
        f"From {count(report['n'], 'question')} asked {when}{newest}; {said}. No model runs on this page; "
        "`python -m rag quality` prints the same figures."
    )
    for note in report["notes"]:
        st.caption(as_markdown(f"{note}."))


def _left_out(past: Past) -> None:
    """Questions that can't be compared, counted."""
    if past.left_out:
        n = sum(number for _, number in past.left_out)
        reasons = "; ".join(f"{number:,} {as_markdown(why)}" for why, number in past.left_out)
        st.caption(f"{count(n, 'question')} left out, since their scores can’t be compared: {reasons}.")


# ---- replay ---------------------------------------------------------------------------------------------------------


@st.fragment
def _replay(workspace: Workspace, past: Past, report: Mapping[str, Any], now: InUse) -> None:
    """The slider over past questions. A fragment: moving it draws nothing else anew."""
    with problems_shown():
        marks = {mark["floor"]: mark["kinds"] for mark in report["marks"]}
        floors = sorted({*(step / 100 for step in range(101)), *marks})
        # Set where it has to be and not at every run: a value that is set overwrites in the browser what a person
        # has moved the slider to meanwhile. Where labels come in a mark can move, and the nearest floor takes its
        # place; and the browser knows a floor by its words, which are others where it is marked now.
        if "floor_tried" not in st.session_state or st.session_state.get("floor_marks") != marks:
            tried = st.session_state.get("floor_tried", now.floor.value)
            st.session_state["floor_tried"] = min(floors, key=lambda floor: abs(floor - tried))
            st.session_state["floor_marks"] = marks
        _mark_buttons(report)
        tried = st.select_slider(
            "Floor to try",
            options=floors,
            format_func=lambda floor: (
                f"{floor_text(floor)} · {mark_words(marks[floor])}" if floor in marks else floor_text(floor)
            ),
            key="floor_tried",
        )
        replay = flips(past, report, tried)
        st.html(_replay_html(replay, report))
        _apply(workspace, report, now, tried)
        st.altair_chart(replay_chart(report, tried), width="stretch")
        st.caption(_marks_caption(report))
        _flips(replay)


def _mark_buttons(report: Mapping[str, Any]) -> None:
    """One button a marked floor, and the risk of the conformal one."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for mark in report["marks"]:
            st.button(
                f"{_first_capital(mark_words(mark['kinds']))}: {floor_text(mark['floor'])}",
                key=f"try {mark['floor']}",
                on_click=_try_floor,
                args=(mark["floor"],),
            )
        st.space("stretch")
        is_new = st.segmented_control(
            "Risk of losing the right passage",
            RISKS,
            default=RISK,
            format_func=lambda risk: f"{risk:.0%}",
            required=True,
            key="risk",
            help="A conformal floor keeps the right passage of a further question with a probability of at least 1 − "
            "risk.",
        )
    if is_new != report["needs"]["risk"]:
        st.rerun()  # another risk is another report: the whole page
    needs = report["needs"]
    if needs["missing"]:
        st.caption(
            f"A conformal floor at a risk of {needs['risk']:.0%} needs {needs['needed']} labelled questions whose "
            f"right passage can be kept; so far there {'is' if needs['n'] == 1 else 'are'} {needs['n']}. Label "
            f"{needs['missing']} more (right or wrong, beside a passage on the Ask page), or take a greater risk."
        )


def _first_capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _try_floor(floor: float) -> None:
    st.session_state["floor_tried"] = floor


def _replay_html(replay: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    survives = replay["right_survives"]
    facts = [
        (f"{replay['passed']:,} of {report['n']:,}", "pass the floor", ""),
        (f"{len(replay['now_passed']):,}", "refused then, let through now", "r37-up"),
        (f"{len(replay['now_stopped']):,}", "let through then, refused now", "r37-down"),
    ]
    if survives["of"]:
        facts.append((f"{survives['count']:,} of {survives['of']:,}", "labelled: the right passage is kept", ""))
    cells = "".join(
        f'<div><b class="{kind if value != "0" else ""}">{value}</b><span>{words}</span></div>'
        for value, words, kind in facts
    )
    return f'<div class="r37-figures" data-testid="replay" aria-live="polite">{cells}</div>'


def _apply(workspace: Workspace, report: Mapping[str, Any], now: InUse, tried: float) -> None:
    is_named, is_used = now.floor.source == "setting", tried == now.floor.value
    why = (
        "RANK37_FLOOR is set and overrides every stored floor: unset it first"
        if is_named
        else "This floor is in use"
        if is_used
        else f"Store it for {now.scorer.name} and this collection as they are"
    )
    if st.button(
        f"Apply {floor_text(tried)}",
        type="primary",
        icon=":material/check:",
        disabled=is_named or is_used,
        help=why,
        key="apply",
    ):
        _change(workspace, now, floor_to_store(tried, report, now))
    if is_named:
        st.caption(f"{why}.")


def _marks_caption(report: Mapping[str, Any]) -> str:
    """What the marked floors promise."""
    parts = [
        "Bars: past questions by the score of their best passage. Lines: the floor in use (solid), those measured "
        "(dashed), and the one to try (thick)."
    ]
    if report["sweep"]:
        f1 = report["sweep"]["best_keep"]["f1"]
        parts.append(
            f"The best F1 ({f1['mean']:.2f}, 95% interval {f1['low']:.2f} to {f1['high']:.2f}) separates right "
            "passages from the others best; a passage that nobody called right counts as not right."
        )
    if report["calibration"]:
        conformal = report["calibration"]["conformal"]
        parts.append(
            f"The conformal floor keeps the right passage of a further such question with a probability of at least "
            f"{1 - conformal['risk']:.0%}, from {count(conformal['n'], 'labelled question')}."
        )
    parts.append(f"Without labels: {report['valley']['why']}.")
    return as_markdown(" ".join(parts))


def _flips(replay: Mapping[str, Any]) -> None:
    """The questions that flip, newest first."""
    rows = [
        (one, now) for name, now in (("now_passed", "let through"), ("now_stopped", "refused")) for one in replay[name]
    ]
    if not rows:
        st.caption("No past question flips at this floor.")
        return
    shown = rows[:FLIPS_SHOWN]
    body = "".join(
        f"""<tr><td title="{as_html(one["question"])}">{as_html(snippet(one["question"], QUESTION_CHARACTERS))}</td>
<td>{one["asked_at"][:10]}</td><td>{"–" if one["best_score"] is None else score_value(one["best_score"])}</td>
<td>{floor_text(one["floor"])}</td><td>{as_html(_then(one))}</td>
<td class="{"r37-up" if now == "let through" else "r37-down"}">{now}</td></tr>"""
        for one, now in shown
    )
    st.html(
        f"""<div class="r37-tablebox" tabindex="0" role="region" aria-label="Questions that flip">
<table class="r37-table" data-testid="flips"><thead><tr><th>Question</th><th>Asked</th><th>Best score</th>
<th>Floor then</th><th>Then</th><th>At this floor</th></tr></thead><tbody>{body}</tbody></table></div>"""
    )
    if len(rows) > len(shown):
        st.caption(f"and {len(rows) - len(shown):,} more")
    st.caption("This is about the floor alone: an LLM can still refuse what is let through.")


def _then(row: Mapping[str, Any]) -> str:
    """What became of a question."""
    if row["outcome"] == "failure":
        return "ended by an outage"
    return _REASONS.get(row["reason"], row["outcome"])


# ---- the reranker ---------------------------------------------------------------------------------------------------


def _verdict(verdict: Mapping[str, Any]) -> None:
    headline, text = _verdict_words(verdict)
    st.html(
        f"""<div class="r37-verdict {verdict["decision"]}" data-testid="verdict"><b>{as_html(headline)}</b>
<p>{sentence_html(text)}</p></div>"""
    )
    if "lift" not in verdict:
        return
    left, right = st.columns(2, gap="large")
    rows = "".join(
        f"""<tr><td>{name}</td><td>{_interval(verdict["before"][name])}</td><td>{_interval(verdict["after"][name])}</td>
<td>{_interval(lift, signed=True)}</td></tr>"""
        for name, lift in verdict["lift"].items()
    )
    left.html(
        f"""<div class="r37-tablebox" tabindex="0" role="region" aria-label="With and without rerank"><table
class="r37-table r37-figs" data-testid="lift"><thead><tr><th></th>
<th>Without rerank</th><th>With rerank</th><th>Lift</th></tr></thead><tbody>{rows}</tbody></table></div>"""
    )
    depths = "".join(
        f"""<tr{' class="best"' if depth["depth"] == verdict["best_depth"] else ""}>
<td>{depth["depth"]}{" pays best" if depth["depth"] == verdict["best_depth"] else ""}</td>
{"".join(f"<td>{_interval(depth[name])}</td>" for name in verdict["lift"])}
<td>{"–" if depth["ms"] is None else duration(depth["ms"] / 1000)}</td></tr>"""
        for depth in verdict["depths"]
    )
    heads = "".join(f"<th>{name}</th>" for name in verdict["lift"])
    right.html(
        f"""<div class="r37-tablebox" tabindex="0" role="region" aria-label="By the number of passages read"><table
class="r37-table r37-figs" data-testid="depths"><thead><tr>
<th>Passages read</th>{heads}<th>Time</th></tr></thead><tbody>{depths}</tbody></table></div>"""
    )
    st.caption(
        "In brackets: 95% bootstrap intervals over questions. The time of a depth is in proportion to the passages "
        "read. People mostly label what reranking put on top, which flatters it: label passages further down as well."
    )


def _verdict_words(verdict: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict in a few words, and what it rests on."""
    n = count(verdict["n"], "labelled question")
    cost = ""
    if verdict["rerank_ms"] is not None:
        time = duration(verdict["rerank_ms"] / 1000)
        cost = f" Reranking adds {time} (median of {count(verdict['n_timed'], 'question')})."
    match verdict["decision"]:
        case "none":
            return "Reranking is off", "No reranker is in use: passages stay in the order of recall."
        case "unknown":
            return (
                "Not known yet",
                f"Nobody has called a passage right yet: label some on the Ask page.{cost}",
            )
    lift = verdict["lift"]
    gains = " and ".join(f"{name} by {one['mean'] * 100:+.1f} points" for name, one in lift.items())
    match verdict["decision"]:
        case "off":
            most = max(one["high"] for one in lift.values()) * 100
            return (
                "Turn it off here",
                f"It changes {gains} on {n}: under {LEAST_LIFT:.0%}, so it is not worth the wait (the interval "
                f"allows up to {most:+.1f} points).{cost} To turn it off, start the app with `RANK37_RERANKER=none`",
            )
        case "unsure":
            return (
                "Perhaps",
                f"It changes {gains} on {n}, and chance alone could do that: label more questions.{cost}",
            )
    return "Keep it on", f"It changes {gains} on {n}.{cost}"


def _interval(estimate: Mapping[str, float], *, signed: bool = False) -> str:
    """A mean with its interval."""
    form = "+.3f" if signed else ".3f"
    low, high = format(estimate["low"], form), format(estimate["high"], form)
    return f"{format(estimate['mean'], form)} <small>[{low}, {high}]</small>"


# ---- scores and trends ----------------------------------------------------------------------------------------------


def _scores(report: Mapping[str, Any]) -> None:
    floor = report["floor"]["value"]
    for column, (name, title) in zip(
        st.columns(3, gap="medium"),
        (("kept", "Kept passages"), ("dropped", "Dropped passages"), ("right", "Passages that people called right")),
        strict=True,
    ):
        with column:
            st.markdown(f"**{title}**")
            histogram = report["histograms"][name]
            if sum(histogram["counts"]):
                st.altair_chart(histogram_chart(histogram, floor, is_good=name != "dropped"), width="stretch")
            else:
                st.caption("None yet.")
    if report["sweep"]:
        st.markdown("**Keeping passages, by floor**")
        st.altair_chart(precision_recall_chart(report["sweep"], report["marks"]), width="stretch")
        st.caption(
            "Precision: of the passages kept, the share that people called right. Recall: of the right ones that a "
            "floor can keep, the share that is kept."
        )


def _trend(trend: Mapping[str, Any]) -> None:
    points: Sequence[Mapping[str, Any]] = trend["points"]
    by = trend["period"]
    if len(points) < 2:
        st.caption("All questions are of one day: a trend shows from the second day on.")
        return
    for column, (name, title, unit, is_share) in zip(
        st.columns(3, gap="medium"),
        (
            ("lift", f"Lift by {by}", "lift of nDCG@5", False),
            ("refused_share", f"Refusals by {by}", "share of questions", True),
            ("total_ms", f"Time by {by}", "milliseconds, median", False),
        ),
        strict=True,
    ):
        with column:
            st.markdown(f"**{title}**")
            if any(point[name] is not None for point in points):
                st.altair_chart(trend_chart(points, name, unit, is_share=is_share), width="stretch")
            else:
                st.caption("No labelled question yet.")
