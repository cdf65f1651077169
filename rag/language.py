"""Whether a question is in a script that the models in use have not learnt to read: what a person should know.

It tells scripts apart, not languages: a question in Spanish passes, and the embedded models are not much worse at it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag.types import EngineInfo

ENGLISH_MODELS = ("all-MiniLM-", "minilm-reranker-", "ms-marco-MiniLM-")
"""Parts of the names of models that learnt from English."""

OTHER_SCRIPT_SHARE = 0.3
"""From which share of letters beyond the Latin ones on a question is taken to be in another script."""

_LAST_LATIN = "\u024f"


def is_in_another_script(text: str) -> bool:
    """Whether many of its letters are not Latin ones.

    >>> [is_in_another_script(text) for text in ("What is π?", "等待期是多久？", "¿Cuánto dura?", "42")]
    [False, True, False, False]
    """
    letters = [letter for letter in text if letter.isalpha()]
    return sum(letter > _LAST_LATIN for letter in letters) > OTHER_SCRIPT_SHARE * len(letters)


def language_note(question: str, engines: Sequence[EngineInfo]) -> str | None:
    """What to tell a person whose question the models in use can hardly read, or None."""
    if not is_in_another_script(question):
        return None
    names = [
        info.name
        for info in engines
        if info.role in ("embedder", "reranker") and any(part in info.name for part in ENGLISH_MODELS)
    ]
    if not names:
        return None
    return (
        f"{' and '.join(names)} learnt from English and can hardly read this script: passages may be missed, and "
        "scores mean little. Get the multilingual reranker with `python -m rag models fetch`, and set RANK37_EMBEDDER "
        "to a multilingual model."
    )
