"""An outage of the configured reranker: an error, or a stand-in that everybody can see."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
from rag.engines.fallback import FallbackReranker
from rag.engines.rerank_api import COHERE, ApiReranker
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput, ModelUnavailable, RerankerUnavailable
from rag.export import result_as_json
from rag.pipeline import answer_question
from rag.ports import Engines, Index
from rag.rerank import stand_in
from rag.settings import Settings
from rag.terminal import print_result
from rag.types import Answer, Document, Passage, QueryPolicy, StoredDocument
from rag.wiring import open_engines, open_index, open_rerankers
from tests.contracts.tiny_models import CORPUS
from tests.rag.rerank_servers import KEY, MODEL, RerankServer
from tests.rag.test_pipeline import chunks_of

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]


@pytest.fixture
def server(embedded_reranker: CrossEncoderReranker) -> Iterator[RerankServer]:
    with RerankServer("cohere", embedded_reranker) as server:
        yield server


@pytest.fixture
def cohere(server: RerankServer) -> ApiReranker:
    return ApiReranker(COHERE, SecretStr(KEY), url=server.url, model=MODEL, sleep=lambda wait_s: None)


def settings_of(tmp_path: Path, server: RerankServer, **more: object) -> Settings:
    values = {"cohere_api_key": SecretStr(KEY), "cohere_url": server.url, "reranker": f"cohere:{MODEL}", **more}
    return Settings(_env_file=None, data_dir=tmp_path, rerank_timeout_s=5, **values)  # type: ignore[arg-type]


@pytest.fixture
def index(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> Iterator[Index]:
    index = open_index(Settings(_env_file=None, data_dir=tmp_path), embedder.identity)
    chunks = chunks_of("Contracts", CORPUS)
    stored = StoredDocument(Document("contracts", "Contracts", "contracts.pdf", 6), "ingesting")
    index.begin_document(stored)
    index.add_chunks(chunks, embedder.embed_passages([chunk.passage for chunk in chunks]))
    index.publish_document(stored)
    yield index
    index.close()


def engines_of(settings: Settings, embedder: SentenceTransformerEmbedder, index: Index) -> Engines:
    return open_engines(settings, embedder=embedder, index=index)


def test_the_stand_in_scores_and_says_that_it_did_and_why(
    server: RerankServer, cohere: ApiReranker, embedded_reranker: CrossEncoderReranker
) -> None:
    reranker = FallbackReranker(cohere, embedded_reranker)
    server.mode = "unauthorized"
    relevances = reranker.score(QUERY, PASSAGES)
    assert [one.score for one in relevances] == [one.score for one in embedded_reranker.score(QUERY, PASSAGES)]
    for one in relevances:
        assert one.scored_by is not None
        assert one.scored_by.name == embedded_reranker.info.name
        assert one.scored_by.stands_in_for == f"Cohere {MODEL}"
        assert "refused the key (401)" in one.scored_by.why


def test_it_lasts_for_one_question(
    server: RerankServer, cohere: ApiReranker, embedded_reranker: CrossEncoderReranker
) -> None:
    reranker = FallbackReranker(cohere, embedded_reranker)
    server.mode = "server_error"
    assert reranker.score(QUERY, PASSAGES)[0].scored_by is not None
    server.mode = "serves"
    assert reranker.score(QUERY, PASSAGES)[0].scored_by is None
    assert reranker.info == cohere.info


def test_a_question_that_can_t_be_used_is_no_outage(
    cohere: ApiReranker, embedded_reranker: CrossEncoderReranker
) -> None:
    with pytest.raises(BadInput, match="empty"):
        FallbackReranker(cohere, embedded_reranker).score(" ", PASSAGES)


def test_without_leave_to_fall_back_an_outage_is_an_error_with_the_trace(
    tmp_path: Path, server: RerankServer, embedder: SentenceTransformerEmbedder, index: Index
) -> None:
    engines = engines_of(settings_of(tmp_path, server), embedder, index)
    server.mode = "unauthorized"
    with pytest.raises(RerankerUnavailable, match="set COHERE_API_KEY") as caught:
        answer_question(QUERY, engines, QueryPolicy())
    assert caught.value.trace is not None
    assert len(caught.value.trace.candidates) == len(CORPUS)
    assert caught.value.trace.ranked == ()


def test_with_leave_the_trace_the_page_and_the_terminal_tell_it(
    tmp_path: Path, server: RerankServer, embedder: SentenceTransformerEmbedder, index: Index
) -> None:
    engines = engines_of(settings_of(tmp_path, server, reranker_fallback="embedded"), embedder, index)
    server.mode = "unauthorized"
    result = answer_question(QUERY, engines, QueryPolicy())
    assert isinstance(result.outcome, Answer)
    assert "180 days" in result.outcome.text
    [info] = [info for info in result.trace.engines if info.role == "reranker"]
    assert (info.name, info.stands_in_for) == (EMBEDDED_RERANKER_FOLDER.name, f"Cohere {MODEL}")
    [note] = result.trace.notes
    assert "stood in for" in note
    assert "refused the key" in note
    exported = json.dumps(result_as_json(result))
    assert "stood in for" in exported
    console = Console(width=200)
    with console.capture() as shown:
        print_result(result, console)
    assert "stood in for" in shown.get()
    assert KEY not in exported + shown.get()
    # The next question is the configured reranker's again.
    server.mode = "serves"
    trace = answer_question(QUERY + " Days?", engines, QueryPolicy()).trace
    [info] = [info for info in trace.engines if info.role == "reranker"]
    assert (info.name, info.stands_in_for) == (f"Cohere {MODEL}", "")
    assert trace.notes == ()
    assert stand_in(trace.ranked) is None


def test_a_repeated_question_is_answered_from_the_cache_through_an_outage(
    tmp_path: Path, server: RerankServer, embedder: SentenceTransformerEmbedder, index: Index
) -> None:
    engines = engines_of(settings_of(tmp_path, server), embedder, index)
    answer_question(QUERY, engines, QueryPolicy())
    n_requests = len(server.requests)
    server.mode = "server_error"
    trace = answer_question(QUERY, engines, QueryPolicy()).trace
    assert trace.n_cached == len(CORPUS)
    assert len(server.requests) == n_requests


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"cohere_api_key": None}, "set COHERE_API_KEY"),
        ({"reranker": "service"}, "set RANK37_RERANK_URL"),
        ({"reranker": "rank-gpt"}, "set OPENAI_API_KEY"),
        ({"reranker": "some-org/some-reranker"}, "models fetch some-org/some-reranker"),
        ({"reranker": "colbert:some-org/some-colbert"}, "models fetch some-org/some-colbert"),
    ],
)
def test_what_is_missing_at_the_start_is_an_error_or_a_visible_stand_in(
    tmp_path: Path, server: RerankServer, missing: dict[str, object], message: str
) -> None:
    with pytest.raises((RerankerUnavailable, ModelUnavailable), match=message):
        open_rerankers(settings_of(tmp_path, server, **missing))
    settings = settings_of(tmp_path, server, **missing, reranker_fallback="embedded")
    info = open_rerankers(settings)[0].info
    assert info.name == EMBEDDED_RERANKER_FOLDER.name
    assert info.stands_in_for == settings.reranker
    assert message in info.why
