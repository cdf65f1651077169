"""The three questions of the welcome show what they promise, on the sample documents with the embedded engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ingest.library import Library, Workspace
from rag.settings import EMBEDDED, Settings
from rag.types import Answer, Refusal
from ui.welcome import SHOWPIECES

WAIT_S = 600.0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A first start: the sample documents are brought in."""
    library = Library(Settings(data_dir=tmp_path_factory.mktemp("first") / "data", reranker=EMBEDDED))
    workspace = library.open()
    assert workspace.queue.wait(WAIT_S)
    yield workspace
    library.close()


@pytest.mark.timeout(900)
def test_each_question_shows_what_its_card_says(workspace: Workspace) -> None:
    sources = {stored.document.id: stored.document.source for stored in workspace.engines.index.documents()}
    for piece in SHOWPIECES:
        assert set(piece.sources) <= set(sources.values()), "it is offered to whoever has the samples"
    buried, miss, refused = [workspace.ask(piece.question) for piece in SHOWPIECES]

    assert isinstance(buried.outcome, Answer)
    [explains] = [ranked for ranked in buried.trace.kept if ranked.chunk.heading == "Mechanism of action"]
    assert explains.candidate.rank > 10, "far down in what search finds"
    assert explains.rank <= 3, "lifted to the top"
    assert explains.chunk.id in {citation.chunk.id for citation in buried.outcome.citations}
    assert buried.trace.ranked[0].candidate.rank > 5

    assert isinstance(miss.outcome, Refusal)
    nearest = miss.trace.candidates[0]
    assert nearest.chunk.heading == "Newsletter"
    assert "points" not in nearest.chunk.text.lower()
    [after] = [ranked for ranked in miss.trace.ranked if ranked.chunk.id == nearest.chunk.id]
    assert after.score is not None
    assert 0.1 < after.score < miss.trace.floor

    assert isinstance(refused.outcome, Refusal)
    assert refused.outcome.best_score is not None
    assert refused.outcome.best_score < refused.trace.floor / 2
