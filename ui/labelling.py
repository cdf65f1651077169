"""Labels where they cost nothing: right or wrong on a passage, wrongly refused, good or bad on an answer.

It draws the controls and hands each click to the store. What follows from labels is not its job: `rag.training` learns
from them, `rag.evaluation` chooses floors by them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import streamlit as st

from rag.errors import Rank37Error
from rag.export import Kinds, place_text
from rag.ports import TraceStore
from rag.record import Recorder, was_kept
from rag.training.groups import question_digest
from rag.types import Answer, Chunk, Document, DocumentKind, Label, Refusal, StoredDocument, Trace, Verdict
from ui.problems import problems_shown, show_problem
from ui.words import ALL_PDF, as_html, as_markdown, count, readable, score_value, snippet, unit, where

ENOUGH_QUESTIONS = 20
"""From so many questions with a right passage on, a floor can be chosen by them at a risk of 0.05."""
N_FIRST = 5
"""How many passages have their buttons without being looked for: the kept ones, filled up with the next."""
ROW_CHARACTERS = 180
OPTION_CHARACTERS = 70

Judgement = Literal["right", "wrong"]

_WORDS: dict[Verdict, str] = {
    "right": ":material/check: Right",
    "wrong": ":material/close: Wrong",
    "good_answer": ":material/thumb_up: Good answer",
    "bad_answer": ":material/thumb_down: Bad answer",
    "wrongly_refused": ":material/report: Wrongly refused",
}
_PROBLEM = "label problem"
"""Where the session keeps the error of a click until the page is drawn."""

_Key = tuple[str, str]
"""What is one judgement: a question and a passage, a question and "refusal", or a trace and "answer"."""

_log = logging.getLogger(__name__)


class Labelling:
    """What people said of the questions of a collection, as it was when the page was last drawn.

    A question that is asked again is the same question: what was said of a passage of it, or of its refusal, still
    holds. What was said of an answer holds for that answer alone.
    """

    def __init__(self, store: TraceStore, collection: str) -> None:
        """Read the labels. Raises TracesUnavailable."""
        self._store = store
        self._collection = collection
        self.labels: list[Label] = []
        self._read()

    def of_passage(self, trace: Trace, chunk_id: str) -> Judgement | None:
        """What was said last of a passage, or None."""
        found = self._latest.get(_passage_key(trace.query, chunk_id))
        return None if found is None else "wrong" if found.verdict == "wrong" else "right"

    def of_outcome(self, trace: Trace, outcome: Answer | Refusal) -> Verdict | None:
        """What was said last of an answer or a refusal, or None."""
        found = self._latest.get(_outcome_key(trace, outcome))
        return None if found is None else found.verdict

    def judge_passage(self, trace: Trace, chunk_id: str, verdict: Judgement | None) -> None:
        """Note it in place of what was said before, or take it back. Raises BadInput or TracesUnavailable."""
        self._note(_passage_key(trace.query, chunk_id), trace, verdict, chunk_id)

    def judge_outcome(self, trace: Trace, outcome: Answer | Refusal, verdict: Verdict | None) -> None:
        """Note it in place of what was said before, or take it back. Raises BadInput or TracesUnavailable."""
        self._note(_outcome_key(trace, outcome), trace, verdict, None)

    def note_page(self, trace: Trace, document: Document, page: int, kind: DocumentKind = "pdf") -> None:
        """Keep as a remark that the answer is on a page of which no passage was recalled. Raises as judging does."""
        place = f"{unit(kind)} {page} of {document.title} ({document.source}, {document.id})"
        self._store.write_feedback(trace.id, f"The answer is on {place}; no passage of that {unit(kind)} was recalled.")

    def _note(self, key: _Key, trace: Trace, verdict: Verdict | None, chunk_id: str | None) -> None:
        earlier = [label for label in self.labels if _key(label) == key]
        if verdict is not None:
            self._store.label(trace.id, verdict, chunk_id=chunk_id)
        for label in earlier:
            if verdict is None or label.trace_id != trace.id:
                self._store.unlabel(label.trace_id, chunk_id=label.chunk_id)
        self._read()

    def _read(self) -> None:
        self.labels = self._store.labels(collection=self._collection)
        self._latest = {_key(label): label for label in self.labels}


def open_labelling(recorder: Recorder, collection: str) -> Labelling | None:
    """The labels of a collection, or None where no questions are kept. Raises BadInput or TracesUnavailable."""
    store = recorder.store()
    return None if store is None else Labelling(store, collection)


def show_outcome_label(
    trace: Trace,
    outcome: Answer | Refusal,
    labelling: Labelling,
    documents: Callable[[], Sequence[StoredDocument]] | None = None,
) -> None:
    """Good or bad beneath an answer, "wrongly refused" beneath a refusal; nothing where the question was not kept.

    `documents` are those of the collection, of which the one with the answer to a refused question can be chosen.
    """
    if not was_kept(trace):
        return
    verdicts: Sequence[Verdict] = ("good_answer", "bad_answer") if isinstance(outcome, Answer) else ("wrongly_refused",)
    key = f"outcome {trace.id}"
    given = labelling.of_outcome(trace, outcome)
    st.session_state[key] = given  # what the store holds, also after a reload or a click that failed
    st.pills(
        "Your judgement of the answer" if isinstance(outcome, Answer) else "Your judgement of the refusal",
        verdicts,
        format_func=_WORDS.__getitem__,
        key=key,
        label_visibility="collapsed",
        on_change=_judge_outcome,
        args=(labelling, trace, outcome, key),
    )
    if given == "wrongly_refused" and trace.candidates:
        st.caption(
            "Noted. Which passage answers it? Mark it **right** in the ranking below: then the floor can be measured, "
            "and a reranker can learn, from this question."
        )
    if given == "wrongly_refused" and documents is not None:
        _show_answer_page(trace, labelling, documents)
    _show_problem_of(trace)


@st.fragment
def _show_answer_page(trace: Trace, labelling: Labelling, documents: Callable[[], Sequence[StoredDocument]]) -> None:
    """On which page of which document the answer to a refused question is."""
    with problems_shown():
        everything = [stored for stored in documents() if stored.state == "ready"]
        ready = {stored.document.id: stored.document for stored in everything}
        if not ready:
            return
        kinds = {stored.document.id: stored.kind for stored in everything}
        places = _places(trace)
        nearest = next((place.chunk for place in places if place.chunk.document_id in ready), None)
        ids = list(ready)
        with st.container(key=f"r37-answer-page-{trace.id}", border=True, gap="small"):
            st.markdown("**The answer is in …**")
            with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
                chosen = st.selectbox(
                    "Document",
                    ids,
                    index=ids.index(nearest.document_id) if nearest else 0,
                    format_func=lambda document_id: readable(ready[document_id].title),
                    key=f"answer document {trace.id}",
                    width=340,
                )
                thing = unit(kinds[chosen])
                page = st.number_input(
                    thing.capitalize(),
                    1,
                    max(1, ready[chosen].page_count),
                    min(nearest.first_page if nearest and chosen == nearest.document_id else 1, _last(ready[chosen])),
                    key=f"answer page {trace.id} {chosen}",
                    width=110,
                )
            on_page = [
                place
                for place in places
                if place.chunk.document_id == chosen and any(span.page == page for span in place.chunk.spans)
            ]
            passage = on_page[0] if on_page else None
            if len(on_page) > 1:
                passage = st.selectbox(
                    f"Which passage of that {thing}?",
                    on_page,
                    format_func=lambda place: _option(place, kinds),
                    key=f"answer passage {trace.id} {chosen} {page}",
                )
            if passage is None:
                st.caption(f"No passage of that {thing} was recalled for this question: that is kept as a remark.")
            else:
                st.caption(f"“{as_markdown(snippet(passage.chunk.text, 200))}”")
            st.button(
                f"Yes, {thing} {page} answers it",
                key=f"answer says {trace.id}",
                icon=":material/check:",
                on_click=_say_where,
                args=(trace, labelling, ready[chosen], int(page), passage, kinds),
            )
            if said := st.session_state.get(_SAID_WHERE.format(trace.id)):
                st.html(f'<p class="r37-said-where" data-testid="said-where">{as_html(said)}</p>')


_SAID_WHERE = "answer said {}"


def _last(document: Document) -> int:
    return max(1, document.page_count)


def _say_where(
    trace: Trace, labelling: Labelling, document: Document, page: int, passage: _Place | None, kinds: Kinds
) -> None:
    place = f"{place_text(page, document.id, kinds)} of {document.title}"
    with _problem_kept(trace):
        if passage is None:
            labelling.note_page(trace, document, page, kinds.get(document.id, "pdf"))
            said = f"Kept as a remark: the answer is on {place}."
        else:
            labelling.judge_passage(trace, passage.chunk.id, "right")
            said = f"Kept: the passage at rank {passage.rank}, on {place}, is right."
        st.session_state[_SAID_WHERE.format(trace.id)] = said


@dataclass(frozen=True, slots=True)
class _Place:
    """A passage with its place in the ranking; where there is no ranking, in recall."""

    chunk: Chunk
    rank: int
    score: float | None
    marker: int | None
    """Its n among the kept ones; None where it was not kept."""


@st.fragment
def show_passage_labels(trace: Trace, labelling: Labelling, kinds: Kinds = ALL_PDF) -> None:
    """Right or wrong on the kept passages, on the next few, and on any other one that is looked for."""
    if not was_kept(trace):
        st.caption("This question was not kept, so that its passages can’t be labelled.")
        return
    places = {place.chunk.id: place for place in _places(trace)}
    given = {chunk_id: labelling.of_passage(trace, chunk_id) for chunk_id in places}
    first = sorted(places.values(), key=lambda place: (place.marker is None, place.rank))[
        : max(N_FIRST, len(trace.kept))
    ]
    shown = {place.chunk.id for place in first} | {chunk_id for chunk_id in places if given[chunk_id]}
    others = {chunk_id: place for chunk_id, place in places.items() if chunk_id not in shown}
    chooser = f"label another {trace.id}"
    opened = st.session_state.get(chooser)
    with st.container(key=f"r37-labels-{trace.id}", gap="xsmall"):
        st.html(
            '<p class="r37-labels-head"><b>Is the passage right for this question?</b> '
            f'<span data-testid="label-count">{count_line(labelling.labels)}</span></p>'
        )
        for place in sorted(places.values(), key=lambda place: place.rank):
            if place.chunk.id in shown or place.chunk.id == opened:
                _show_row(trace, place, given[place.chunk.id], labelling, chooser, kinds)
        if others:
            st.selectbox(
                "Label another passage",
                list(others),
                index=None,
                format_func=lambda chunk_id: _option(others[chunk_id], kinds) if chunk_id in others else "",
                key=chooser,
                placeholder=f"Label another of {len(places)} passages",
                label_visibility="collapsed",
            )
    _show_problem_of(trace)


def count_line(labels: Iterable[Label]) -> str:
    """How many labels there are, and whether they are enough to measure with.

    >>> count_line([Label("t", "Why?", "right", "", "c"), Label("t", "Why?", "wrong", "", "d")])
    '2 labels; 1 question has a right passage, enough to measure from 20 on'
    """
    said = list(labels)
    if not said:
        return f"Right passages for {ENOUGH_QUESTIONS} questions are enough to measure with"
    n = len({question_digest(label.question) for label in said if label.chunk_id and label.verdict != "wrong"})
    right = f"{count(n, 'question') if n else 'no question'} {'have' if n > 1 else 'has'} a right passage"
    enough = "" if n >= ENOUGH_QUESTIONS else f" from {ENOUGH_QUESTIONS} on"
    return f"{count(len(said), 'label')}; {right}, enough to measure{enough}"


def _places(trace: Trace) -> list[_Place]:
    """All passages that can be labelled, each once: those of deleted documents have no words any more."""
    markers = {ranked.chunk.id: marker for marker, ranked in enumerate(trace.kept, start=1)}
    ranking = [(ranked.chunk, ranked.rank, ranked.score) for ranked in trace.ranked]
    ranking = ranking or [(candidate.chunk, candidate.rank, None) for candidate in trace.candidates]
    return [_Place(chunk, rank, score, markers.get(chunk.id)) for chunk, rank, score in ranking if chunk.text]


def _show_row(
    trace: Trace, place: _Place, given: Judgement | None, labelling: Labelling, chooser: str, kinds: Kinds
) -> None:
    key = f"passage {trace.id} {place.chunk.id}"
    st.session_state[key] = given  # what the store holds, also after a reload or a click that failed
    row = f"r37-label-row-{trace.id}-{place.chunk.id}"
    with st.container(key=row, horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.html(_row_html(place, kinds))
        st.segmented_control(
            f"Passage {place.rank}: {as_markdown(snippet(place.chunk.title, ROW_CHARACTERS))}",
            ("right", "wrong"),
            format_func=lambda verdict: _WORDS[verdict],
            key=key,
            label_visibility="collapsed",
            on_change=_judge_passage,
            args=(labelling, trace, place.chunk.id, key, chooser),
        )


def _row_html(place: _Place, kinds: Kinds) -> str:
    chunk = place.chunk
    chip = f'<b class="r37-chip">[{place.marker}]</b> ' if place.marker else ""
    score = "" if place.score is None else f"<span>{score_value(place.score)}</span>"
    text = as_html(snippet(chunk.text, 400))
    return f"""<p class="r37-label-row" title="{text}"><span class="r37-rank">{place.rank}</span>
<span class="r37-said">{chip}<b>{as_html(chunk.title)}</b> {where(chunk, kinds)}
<small>{as_html(snippet(chunk.text, ROW_CHARACTERS))}</small></span>{score}</p>"""


def _option(place: _Place, kinds: Kinds) -> str:
    chunk = place.chunk
    start = f"{place.rank} · {readable(chunk.title)}, {where(chunk, kinds)}"
    return f"{start} · {snippet(chunk.text, OPTION_CHARACTERS)}"


def _judge_passage(labelling: Labelling, trace: Trace, chunk_id: str, key: str, chooser: str) -> None:
    verdict = st.session_state[key]
    with _problem_kept(trace):
        labelling.judge_passage(trace, chunk_id, verdict)
        st.session_state[chooser] = chunk_id if verdict is None else None  # taken back: it stays in sight


def _judge_outcome(labelling: Labelling, trace: Trace, outcome: Answer | Refusal, key: str) -> None:
    with _problem_kept(trace):
        labelling.judge_outcome(trace, outcome, st.session_state[key])


@contextmanager
def _problem_kept(trace: Trace) -> Iterator[None]:
    """A click's error is shown when the page is drawn after it, where it was clicked."""
    try:
        yield
    except Rank37Error as error:
        _log.warning("not labelled: %s", error)
        st.session_state[_PROBLEM] = (trace.id, error)


def _show_problem_of(trace: Trace) -> None:
    trace_id, error = st.session_state.get(_PROBLEM, ("", None))
    if error is not None and trace_id == trace.id:
        del st.session_state[_PROBLEM]
        show_problem(error)


def _key(label: Label) -> _Key:
    if label.chunk_id is not None:
        return _passage_key(label.question, label.chunk_id)
    if label.verdict == "wrongly_refused":
        return question_digest(label.question), "refusal"
    return label.trace_id, "answer"


def _passage_key(question: str, chunk_id: str) -> _Key:
    return question_digest(question), chunk_id


def _outcome_key(trace: Trace, outcome: Answer | Refusal) -> _Key:
    return (trace.id, "answer") if isinstance(outcome, Answer) else (question_digest(trace.query), "refusal")
