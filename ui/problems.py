"""Errors on the page: what happened, the remedy, and a way to try again. Never a traceback.

What the errors say is written where they are raised.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from rag.errors import (
    BadInput,
    CollectionDamaged,
    CollectionLocked,
    EmbedderMismatch,
    EngineFault,
    IndexUnavailable,
    LLMBadReply,
    LLMError,
    LLMRateLimited,
    LLMRejected,
    LLMTimeout,
    ModelUnavailable,
    Rank37Error,
    SignInRefused,
    TracesUnavailable,
)
from ui.visitor import NotAllowed, NotSignedIn
from ui.words import as_markdown, sentence

_log = logging.getLogger(__name__)

_HEADLINES: dict[type[Rank37Error], str] = {
    BadInput: "That can’t be used",
    CollectionLocked: "The collection is open in another program",
    EmbedderMismatch: "The collection was made with another embedder",
    CollectionDamaged: "The collection can’t be read",
    IndexUnavailable: "The Qdrant server can’t be reached",
    ModelUnavailable: "A model is missing",
    EngineFault: "A model gave an unusable result",
    TracesUnavailable: "The traces can’t be used",
    SignInRefused: "That did not work",
    NotSignedIn: "Nobody is signed in",
    NotAllowed: "That is not yours to change",
    LLMTimeout: "The LLM took too long",
    LLMRateLimited: "The LLM’s rate limit is reached",
    LLMRejected: "The LLM refused the request",
    LLMBadReply: "The LLM’s reply broke off",
    LLMError: "The LLM can’t be reached",
    Rank37Error: "Something went wrong",
}
"""By class; a subclass stands before its base."""


def headline(error: Rank37Error) -> str:
    """What kind of problem it is, in a few words."""
    return next(text for kind, text in _HEADLINES.items() if isinstance(error, kind))


def show_problem(error: BaseException) -> None:
    """The problem and its remedy; of what nobody foresaw only where to read of it."""
    if isinstance(error, Rank37Error):
        st.error(f"**{headline(error)}.** {as_markdown(sentence(str(error)))}", icon=":material/error:")
        return
    st.error(
        f"**Rank37 met a fault of its own** ({as_markdown(type(error).__name__)}). The details are in the "
        "terminal’s log. Your documents are not touched by it.",
        icon=":material/error:",
    )


@contextmanager
def problems_shown(retry_key: str | None = None) -> Iterator[None]:
    """Show what the block raises instead of raising it, with a button that tries again if it is given a key.

    A fragment needs its own: when it runs alone, nothing around it does.
    """
    try:
        yield
    except Rank37Error as error:
        _log.warning("%s: %s", type(error).__name__, error)
        show_problem(error)
    except Exception as error:
        _log.exception("the page could not be drawn")
        show_problem(error)
    else:
        return
    if retry_key:
        st.button("Try again", icon=":material/refresh:", key=retry_key)
