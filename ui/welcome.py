"""What the Ask page shows before the first question: a short welcome, and questions that are worth asking.

It asks nothing: it gives back the question that was clicked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from ingest.suggestions import Suggested, Suggestions
from rag.types import Document
from ui.documents import show_upload
from ui.ingestion import n_unfinished
from ui.models import is_loaded
from ui.problems import problems_shown
from ui.words import as_markdown
from ui.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Showpiece:
    """A question of the sample documents that shows something; what it shows is true with the embedded engines."""

    question: str
    sources: tuple[str, ...]
    """The sample files without which it would show something else."""
    icon: str
    headline: str
    point: str


SHOWPIECES = (
    Showpiece(
        "How does ibuprofen work?",
        ("medicine-ibuprofen-mechanism.pdf", "medicine-ibuprofen-adults.pdf", "medicine-ibuprofen-children.pdf"),
        ":material/trending_up:",
        "A buried answer",
        "The section that explains it is far down in what search finds. Reading each passage with the question lifts "
        "it to the top, where the answer quotes it.",
    ),
    Showpiece(
        "How many points do I get for subscribing to the newsletter?",
        ("shop-privacy.pdf", "shop-gift-cards-and-loyalty.pdf"),
        ":material/trending_down:",
        "A near miss",
        "Search puts the section “Newsletter” first, but it says nothing of points. It scores below the floor, so it "
        "is not made into an answer.",
    ),
    Showpiece(
        "What was the shop’s revenue last year?",
        ("shop-privacy.pdf", "shop-returns-and-refunds.pdf"),
        ":material/block:",
        "An honest refusal",
        "No document says it. Rank37 says so, shows what came nearest, and asks no LLM to guess.",
    ),
)


def show_welcome(ready: Sequence[Document], workspace: Workspace) -> str | None:
    """Draw it; gives the question that was clicked in this run."""
    st.markdown(
        "Every answer quotes the words that it rests on. Where the documents don’t answer, Rank37 says so, and shows "
        "what came nearest."
    )
    if not ready:
        if not n_unfinished(workspace):
            st.info("The collection is empty. Add what you want to ask about:", icon=":material/description:")
            if show_upload(workspace):
                st.rerun()  # the line that tells how far they are stands above
        return None
    sources = {document.source for document in ready}
    showpieces = [piece for piece in SHOWPIECES if sources.issuperset(piece.sources)]
    if showpieces:
        return _showpieces(showpieces)
    return None if n_unfinished(workspace) else _suggestions(workspace)


def _showpieces(showpieces: Sequence[Showpiece]) -> str | None:
    chosen: str | None = None
    st.caption("Sample documents are in already: insurance terms, medicine leaflets, a shop’s terms, a manual. Try:")
    for column, piece in zip(st.columns(len(showpieces)), showpieces, strict=True):
        with column.container(border=True, height="stretch", key=f"r37-showpiece-{piece.headline}"):
            st.markdown(f"{piece.icon} **{piece.headline}**")
            if st.button(as_markdown(piece.question), key=f"suggest {piece.question}", width="stretch"):
                chosen = piece.question
            st.caption(piece.point)
    return chosen


@st.cache_resource
def _suggestions_of(folder: Path) -> Suggestions:
    return Suggestions(folder)


def _found(workspace: Workspace) -> Suggested | None:
    """What there is to suggest; None: it is being looked for, which takes the models."""
    if not is_loaded(workspace):
        return None
    return _suggestions_of(workspace.settings.collection_dir).get(workspace.engines, workspace.policy)


def _suggestions(workspace: Workspace) -> str | None:
    """Questions of the collection's own, by the LLM or from its headings, once they are found."""
    found = _found(workspace)
    if found is None:
        _await_suggestions(workspace)
        return None
    if found.questions:
        how = "Suggested by the LLM" if found.by == "llm" else "Made from the headings of your documents"
        st.caption(f"{how}; each has a passage at or above the floor:")
    chosen = [question for question in found.questions if st.button(as_markdown(question), key=f"suggest {question}")]
    return chosen[0] if chosen else None


@st.fragment(run_every=1.0)
def _await_suggestions(workspace: Workspace) -> None:
    with problems_shown():
        if _found(workspace) is None:
            st.caption("Looking for questions that your documents answer …")
            return
    st.rerun()
