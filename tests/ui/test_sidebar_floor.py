"""The sidebar's line on the floor: which one is in use and why, without a browser. The engines are the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rag.evaluation.floor_report import floor_by_hand
from rag.ports import Engines
from rag.settings import EMBEDDED, Settings
from rag.wiring import floor_scope, floor_store, open_engines
from ui.sidebar import _floor

if TYPE_CHECKING:
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder


class OpenEngines:
    """What the sidebar needs of a workspace."""

    def __init__(self, settings: Settings, engines: Engines) -> None:
        self.settings, self.engines = settings, engines


@pytest.fixture
def workspace(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> Iterator[OpenEngines]:
    settings = Settings(data_dir=tmp_path, collection="manuals", reranker=EMBEDDED, rerank_cache_mb=0)
    engines = open_engines(settings, embedder=embedder)
    yield OpenEngines(settings, engines)
    engines.index.close()


def test_the_sidebar_says_which_floor_is_in_use_and_why(workspace: OpenEngines) -> None:
    settings, engines = workspace.settings, workspace.engines
    shown = _floor(workspace)  # type: ignore[arg-type]  # it takes no more of a workspace
    assert "Floor <b>0.40</b>" in shown
    assert "The default." in shown

    scope = floor_scope(settings, engines.reranker, engines.embedder)
    floor_store(settings).put(floor_by_hand(0.55, scope))
    shown = _floor(workspace)  # type: ignore[arg-type]
    assert "Floor <b>0.55</b>" in shown
    assert "Set by hand" in shown

    workspace.settings = settings.model_copy(update={"chunk_tokens": 128})
    shown = _floor(workspace)  # type: ignore[arg-type]
    assert "Floor <b>0.40</b>" in shown
    assert "calibrate again" in shown
