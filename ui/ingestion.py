"""How the ingestion queue stands: one line while files are on their way, and the full list with every outcome.

It draws what the queue says; files are brought in by `ingest.queue`'s own thread, so that asking goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ingest.kinds import claimed_kind
from ingest.queue import ENDED, JobView
from ingest.time_left import time_left_s
from rag.errors import Rank37Error
from ui.problems import problems_shown, show_problem
from ui.words import as_html, as_markdown, count, duration, page_list, sentence_html, time_left, unit
from ui.workspace import Workspace

REFRESH_S = 1.0
FINISHED_SHOWN = 200
WAITING_SHOWN = 20

_STAGES = {
    "read": ("reading", "page"),
    "chunk": ("cutting into passages", "passage"),
    "embed": ("embedding", "passage"),
    "write": ("storing", "passage"),
}


def n_unfinished(workspace: Workspace) -> int:
    """How many files wait or are in work."""
    return sum(1 for job in workspace.queue.jobs() if job.state not in ENDED)


def show_ingestion_strip(workspace: Workspace, *, n_ready: int) -> None:
    """One line with a bar while files are on their way; nothing otherwise.

    `n_ready` is the number of documents that the page was drawn with: when there are more, it is drawn anew.
    """
    if n_unfinished(workspace):
        _strip(workspace, n_ready)


@st.fragment(run_every=REFRESH_S)
def _strip(workspace: Workspace, n_ready: int) -> None:
    jobs = [job for job in workspace.queue.jobs() if not job.earlier]
    active = [job for job in jobs if job.state not in ENDED]
    if not active:
        st.rerun()
    with problems_shown():
        if _n_ready(workspace) != n_ready:
            st.rerun()
        running = next((job for job in active if job.state == "running"), None)
        over = len(jobs) - len(active)
        share = (over + (_share(running) if running else 0.0)) / len(jobs)
        text = f"Adding documents: {over} of {len(jobs)} done"
        if running:
            text += f" · {as_markdown(running.file)}: {_stage_text(running)}"
        if (left := time_left_s(jobs)) is not None:
            text += f" · {time_left(left)}"
        if n_ready:
            text += " · you can ask already"
        st.progress(min(share, 1.0), text)


def show_queue(workspace: Workspace) -> None:
    """Every file of the queue with its progress or outcome, and what can be done about it."""
    if not workspace.queue.jobs():
        return
    if n_unfinished(workspace):
        _live_queue(workspace)
    else:
        _queue(workspace)


@st.fragment(run_every=REFRESH_S)
def _live_queue(workspace: Workspace) -> None:
    ended = sum(1 for job in workspace.queue.jobs() if job.state in ENDED)
    if not n_unfinished(workspace) or st.session_state.get("ended_jobs", ended) != ended:
        st.session_state["ended_jobs"] = ended
        st.rerun()
    st.session_state["ended_jobs"] = ended
    with problems_shown():
        _queue(workspace)


def _queue(workspace: Workspace) -> None:
    jobs = workspace.queue.jobs()
    finished = [job for job in jobs if job.state in ENDED]
    st.space("small")
    head = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom")
    active = [job for job in jobs if job.state == "running"] + [job for job in jobs if job.state == "waiting"]
    head.subheader("Being added" if active else "Added lately", anchor=False, width="content")
    if active and (left := time_left_s(jobs)) is not None:
        head.html(f'<p class="r37-detail" data-testid="time-left">{as_html(time_left(left))}</p>', width="content")
    if finished:
        head.button("Clear finished", key="clear_finished", type="tertiary", on_click=workspace.queue.clear_finished)

    for job in active[:WAITING_SHOWN]:
        _job_with_button(job, "Cancel", workspace)
    if len(active) > WAITING_SHOWN:
        st.caption(f"and {count(len(active) - WAITING_SHOWN, 'more file')} waiting")
    for job in finished:
        if job.state == "failed":
            _job_with_button(job, "Try again", workspace)
    settled = [job for job in reversed(finished) if job.state != "failed"]
    if recent := [job for job in settled if not job.earlier]:
        st.html(finished_html(recent[:FINISHED_SHOWN]))
    if earlier := [job for job in settled if job.earlier]:
        n_refused = sum(1 for job in earlier if job.outcome and job.outcome.status == "refused")
        refused = f", {n_refused:,} of them refused" if n_refused else ""
        with st.expander(f"Before the last start: {count(len(earlier), 'file')}{refused}"):
            st.html(finished_html(earlier[:FINISHED_SHOWN]))


def _job_with_button(job: JobView, action: str, workspace: Workspace) -> None:
    row, button = st.columns([5, 1], vertical_alignment="center")
    row.html(f"{job_html(job)}")
    button.button(action, key=f"{action} {job.id}", type="tertiary", on_click=_act, args=(action, job.id, workspace))


def _act(action: str, job_id: str, workspace: Workspace) -> None:
    try:
        if action == "Cancel":
            workspace.queue.cancel(job_id)
        else:
            workspace.queue.retry(job_id)
    except Rank37Error as error:
        show_problem(error)


def job_html(job: JobView) -> str:
    """One file: its name, how it stands, and a bar while it is in work."""
    bar = ""
    if job.state == "running":
        bar = f'<div class="r37-bar"><i style="width:{_share(job) * 100:.1f}%"></i></div>'
    state, text = _state(job)
    detail = f'<p class="r37-detail">{text}</p>' if text else ""
    return f"""<div class="r37-job" data-testid="job"><p><b class="r37-file">{as_html(job.file)}</b>
<span class="r37-pill {state}">{state}</span></p>{bar}{detail}</div>"""


def finished_html(jobs: Sequence[JobView]) -> str:
    """The files that were dealt with, in a list that scrolls."""
    listed = "".join(job_html(job) for job in jobs)
    return f'<div class="r37-jobs" tabindex="0" role="region" aria-label="Files that were dealt with">{listed}</div>'


def _state(job: JobView) -> tuple[str, str]:
    """A word for how it stands, and a sentence of HTML."""
    outcome = job.outcome
    match job.state:
        case "waiting":
            return "waiting", ""
        case "running":
            return "running", sentence_html(f"{_stage_text(job)}, {duration(job.seconds)} so far")
        case "failed":
            return "failed", as_html(job.error or "")
        case "cancelled":
            return "cancelled", "nothing of it was kept"
        case "done" if outcome is None:
            return "done", ""
        case "done":
            return outcome.status, _outcome_html(job)


def _outcome_html(job: JobView) -> str:
    outcome = job.outcome
    assert outcome is not None
    if outcome.status == "refused":
        reason = (outcome.reason or "refused").replace("_", " ").replace("pdf", "PDF")
        return f"<b>{as_html(reason)}</b>: {as_html(outcome.message)}"
    if outcome.status == "unchanged":
        return as_html(outcome.message)
    pages = count(outcome.pages, _unit(job))
    parts = [f"{pages}, {count(outcome.chunks, 'chunk')} in {duration(outcome.seconds)}"]
    if outcome.status == "replaced":
        parts.append("in place of the earlier version")
    lines = [as_html(" ".join(parts))]
    if outcome.pages_without_text:
        lines.append(
            as_html(f"No readable text on page {page_list(outcome.pages_without_text)}: it can’t be found there")
        )
    lines += [sentence_html(warning) for warning in outcome.warnings]
    return "<br>".join(lines)


def _stage_text(job: JobView) -> str:
    if job.stage is None:
        return "starting"
    doing, thing = _STAGES[job.stage]
    thing = _unit(job) if job.stage == "read" else thing
    return f"{doing} {job.done} of {count(job.total, thing)}" if job.total else doing


def _unit(job: JobView) -> str:
    """What the file is counted in, by what its name says that it is."""
    return unit(claimed_kind(job.file) or "pdf")


def _share(job: JobView) -> float:
    """How much of the file's work is done, roughly: reading is a quarter of it."""
    done = job.done / job.total if job.total else 0.0
    match job.stage:
        case "read":
            return 0.25 * done
        case "embed":
            return 0.25 + 0.7 * done
        case "write":
            return 0.95
        case _:
            return 0.25 if job.stage == "chunk" else 0.0


def _n_ready(workspace: Workspace) -> int:
    return sum(1 for stored in workspace.index.documents() if stored.state == "ready")
