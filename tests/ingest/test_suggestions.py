"""Suggested questions: only what the collection can answer, looked for once and kept. The engines are the real ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.library import Library, Workspace
from ingest.samples import SAMPLES_DIR, mark_samples_done
from ingest.suggestions import SUGGESTIONS_FILE, Suggestions, headings_of
from rag.settings import EMBEDDED, Settings
from rag.types import Chunk, PageSpan

WAIT_S = 120.0


def chunk(document: str, heading: str | None, position: int = 0) -> Chunk:
    return Chunk(
        f"{document}{position}", document, f"Title {document}", heading, "Text.", (PageSpan(1, 0, 5),), position, 9
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    settings = Settings(data_dir=tmp_path / "data", reranker=EMBEDDED)
    mark_samples_done(settings.collection_dir)
    library = Library(settings)
    yield library.open()
    library.close()


def looked_up(suggestions: Suggestions, workspace: Workspace) -> list[str]:
    end = time.monotonic() + WAIT_S
    while (found := suggestions.get(workspace.engines, workspace.policy)) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_every_document_gets_a_turn_and_only_good_headings_are_used() -> None:
    documents = [
        [
            chunk("a", "1.1 Fever", 0),
            chunk("a", "1.1 Fever", 1),
            chunk("a", "Doses and limits", 2),
            chunk("a", "Ice", 3),
        ],
        [chunk("b", None, 0), chunk("b", "Part 2: Claims", 1), chunk("b", "x" * 61, 2), chunk("b", "Title b", 3)],
        [],
        [chunk("c", "Notice", 0), chunk("c", "Arrears", 1)],
    ]
    assert [heading.question for heading in headings_of(documents)] == [
        "What does “Title a” say about “Fever”?",
        "What does “Title b” say about “Claims”?",
        "What does “Title c” say about “Notice”?",
        "What does “Title c” say about “Arrears”?",
    ]


def test_what_is_suggested_is_answered_from_that_section_and_kept(workspace: Workspace) -> None:
    folder = workspace.settings.collection_dir
    assert looked_up(Suggestions(folder), workspace) == [], "an empty collection answers nothing"
    sample = SAMPLES_DIR / "shop-shipping.pdf"
    workspace.queue.submit(sample.name, sample.read_bytes())
    assert workspace.queue.wait(WAIT_S)

    found = looked_up(Suggestions(folder), workspace)
    assert found
    for question in found:
        trace = workspace.ask(question).trace
        best = trace.ranked[0]
        assert best.score is not None
        assert best.score >= workspace.policy.floor
        assert best.chunk.heading is not None
        assert best.chunk.heading in question or question.split("“")[-1].rstrip("”?") in best.chunk.heading

    (folder / SUGGESTIONS_FILE).stat()
    assert Suggestions(folder).get(workspace.engines, workspace.policy) == found, "not looked for again"
