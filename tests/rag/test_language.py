"""A question in a script that the models have not learnt is told so, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.language import language_note
from rag.pipeline import rank_passages
from rag.ports import Engines
from rag.types import EngineInfo, QueryPolicy

CHINESE = "重大疾病的等待期是多久？"
MULTILINGUAL = (
    EngineInfo("embedder", "intfloat/multilingual-e5-small"),
    EngineInfo("reranker", "BAAI/bge-reranker-v2-m3"),
)


@pytest.mark.parametrize("question", [CHINESE, "ما هي فترة الانتظار؟", "प्रतीक्षा अवधि कितनी है?", "Каков срок ожидания?"])
def test_the_trace_says_that_the_embedded_models_can_hardly_read_it(
    question: str, tmp_path: Path, embedder: SentenceTransformerEmbedder, embedded_reranker: CrossEncoderReranker
) -> None:
    index = EdgeIndex.open(tmp_path / "index", "documents", embedder.identity)
    engines = Engines(embedder, index, embedded_reranker, embedded_reranker, None)
    try:
        [note] = rank_passages(question, engines, QueryPolicy()).notes
        assert "all-MiniLM-L6-v2 and minilm-reranker-v1 learnt from English" in note
        assert "python -m rag models fetch" in note
        assert rank_passages("How long is the waiting period?", engines, QueryPolicy()).notes == ()
    finally:
        index.close()


def test_multilingual_models_need_no_note() -> None:
    assert language_note(CHINESE, MULTILINGUAL) is None
    half = (MULTILINGUAL[0], EngineInfo("reranker", "minilm-reranker-v1"))
    assert str(language_note(CHINESE, half)).startswith("minilm-reranker-v1 learnt")
