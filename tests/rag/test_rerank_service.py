"""One engine for all self-hosted services: which one answers, and what its numbers mean, it finds out by itself."""

import math
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.rerank_service import PROBE_QUERY, Scale, ServiceReranker
from rag.errors import BadInput, RerankerUnavailable
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS
from tests.rag.rerank_servers import MODEL, Dialect, Mode, RerankServer

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]


@pytest.fixture
def server(request: pytest.FixtureRequest, embedded_reranker: CrossEncoderReranker) -> Iterator[RerankServer]:
    dialect: Dialect = getattr(request, "param", "tei")
    with RerankServer(dialect, embedded_reranker) as server:
        yield server


def client(server: RerankServer, path: str = "", *, scale: Scale = "auto", timeout_s: float = 5.0) -> ServiceReranker:
    return ServiceReranker(server.url + path, scale=scale, timeout_s=timeout_s, sleep=lambda wait_s: None)


@pytest.mark.parametrize("server", ["tei", "infinity", "vllm", "vllm-identity"], indirect=True)
def test_raw_logits_are_asked_for_and_their_sigmoid_is_ours(
    server: RerankServer, embedded_reranker: CrossEncoderReranker
) -> None:
    relevances = client(server).score(QUERY, PASSAGES)
    expected = embedded_reranker.score(QUERY, PASSAGES)
    assert [one.logit for one in relevances] == [one.logit for one in expected]
    assert [one.score for one in relevances] == [one.score for one in expected]
    assert all(one.order == one.logit for one in relevances)


@pytest.mark.parametrize("server", ["vllm-old", "plain"], indirect=True)
def test_where_no_logits_are_to_be_had_the_probability_is_taken_as_it_is(
    server: RerankServer, embedded_reranker: CrossEncoderReranker
) -> None:
    relevances = client(server).score(QUERY, PASSAGES)
    # Not the sigmoid of a sigmoid, which lies between 0.5 and 0.73 and would pass any floor.
    assert [one.score for one in relevances] == [one.score for one in embedded_reranker.score(QUERY, PASSAGES)]
    assert {one.logit for one in relevances} == {None}


@pytest.mark.parametrize("server", ["llama.cpp"], indirect=True)
def test_numbers_on_an_unknown_scale_are_refused_until_the_scale_is_named(
    server: RerankServer, embedded_reranker: CrossEncoderReranker
) -> None:
    with pytest.raises(RerankerUnavailable, match=r"not in \[0, 1\].*RANK37_RERANK_SCALE=logit"):
        client(server).score(QUERY, PASSAGES)
    relevances = client(server, scale="logit").score(QUERY, PASSAGES)
    assert [one.score for one in relevances] == [one.score for one in embedded_reranker.score(QUERY, PASSAGES)]


@pytest.mark.parametrize(
    ("server", "path", "endpoint"),
    [
        ("tei", "", "/rerank"),
        ("tei", "/rerank", "/rerank"),
        ("infinity", "", "/rerank"),
        ("vllm", "", "/v1/rerank"),
        ("vllm", "/v1", "/v1/rerank"),
        ("vllm", "/v2/rerank", "/v2/rerank"),
        ("vllm", "/v1/rerank/", "/v1/rerank"),
        ("plain", "", "/v1/rerank"),
        ("plain", "/v1", "/v1/rerank"),
    ],
    indirect=["server"],
)
def test_the_address_can_be_written_in_many_ways(server: RerankServer, path: str, endpoint: str) -> None:
    assert len(client(server, path).score(QUERY, PASSAGES)) == len(PASSAGES)
    assert server.asked[-1] == f"POST {endpoint}"


def test_info_says_what_was_found_once_it_was_asked(server: RerankServer) -> None:
    reranker = client(server)
    assert "not asked yet" in reranker.info.why
    assert server.asked == []
    reranker.connect()
    info = reranker.info
    assert (info.name, info.revision, info.precision) == (MODEL, "a1b2c3", "float16")
    assert "Text Embeddings Inference at 127.0.0.1" in info.why
    assert info.sends_data_to == ""


def test_a_service_on_another_host_is_named_as_receiver() -> None:
    service = ServiceReranker("https://user:pass-word@gpu.example:8443/tei", key=SecretStr("secret-key"))
    assert service.info.sends_data_to == "gpu.example:8443"
    assert service.address == "https://gpu.example:8443/tei"
    assert not any(secret in repr(vars(service)) + str(service.info) for secret in ("pass-word", "secret-key"))


def test_who_it_is_is_asked_once(server: RerankServer) -> None:
    reranker = client(server)
    for _ in range(3):
        reranker.score(QUERY, PASSAGES)
    assert server.asked.count("GET /info") == 1
    assert [request["query"] for request in server.requests] == [PROBE_QUERY, PROBE_QUERY, QUERY, QUERY, QUERY]


def test_after_an_outage_who_it_is_is_asked_anew(server: RerankServer) -> None:
    reranker = client(server)
    reranker.score(QUERY, PASSAGES)
    server.mode = "bad_request"
    with pytest.raises(RerankerUnavailable):
        reranker.score(QUERY, PASSAGES)
    server.mode, server.dialect = "serves", "infinity"
    assert len(reranker.score(QUERY, PASSAGES)) == len(PASSAGES)
    assert "Infinity" in reranker.info.why


def test_batches_are_as_small_as_the_service_says(server: RerankServer) -> None:
    server.most_texts = 4
    seen: list[tuple[int, int]] = []
    relevances = client(server).score(QUERY, PASSAGES, progress=lambda *done: seen.append(done))
    assert [len(request["texts"]) for request in server.requests if request["query"] == QUERY] == [4, 2]
    assert seen == [(4, 6), (6, 6)]
    assert len(relevances) == len(PASSAGES)


@pytest.mark.parametrize("server", ["infinity"], indirect=True)
def test_of_several_models_one_that_reranks_is_chosen_or_asked_for(server: RerankServer) -> None:
    server.models = ["embed-small", MODEL]
    client(server).score(QUERY, PASSAGES)
    assert server.requests[-1]["model"] == MODEL
    server.models = ["other-reranker", MODEL]
    with pytest.raises(RerankerUnavailable, match=f"other-reranker, {MODEL}.*set RANK37_RERANK_MODEL"):
        client(server).score(QUERY, PASSAGES)
    named = ServiceReranker(server.url, model=MODEL, timeout_s=5)
    named.score(QUERY, PASSAGES)
    assert server.requests[-1]["model"] == MODEL
    with pytest.raises(RerankerUnavailable, match="not bge-reranker"):
        ServiceReranker(server.url, model="bge-reranker", timeout_s=5).score(QUERY, PASSAGES)


def test_a_key_is_sent_and_a_missing_one_is_asked_for(embedded_reranker: CrossEncoderReranker) -> None:
    with RerankServer("tei", embedded_reranker, key="service-key") as server:
        with pytest.raises(RerankerUnavailable, match=r"refused the key \(401\): set RANK37_RERANK_KEY"):
            client(server).score(QUERY, PASSAGES)
        with_key = ServiceReranker(server.url, key=SecretStr("service-key"), timeout_s=5)
        assert len(with_key.score(QUERY, PASSAGES)) == len(PASSAGES)


def test_what_is_no_rerank_service_is_said_to_be_none(embedded_reranker: CrossEncoderReranker) -> None:
    with RerankServer("cohere", embedded_reranker) as server:
        server.key = None
        with pytest.raises(RerankerUnavailable, match=r"no /v2/rerank|no /rerank, /v1/rerank or /v2/rerank"):
            client(server, "/elsewhere").score(QUERY, PASSAGES)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("nan", "is no number"),
        ("too_few", "scored 5 of 6"),
        ("no_results", "no list of results"),
        ("server_error", r"failed \(500\)"),
        ("hangs", "didn't answer in time"),
        ("html", "no JSON"),
    ],
)
def test_a_fault_at_question_time_is_an_outage(server: RerankServer, mode: Mode, message: str) -> None:
    reranker = client(server, timeout_s=1.0)
    reranker.connect()
    server.mode = mode
    with pytest.raises(RerankerUnavailable, match=message):
        reranker.score(QUERY, PASSAGES)


def test_what_passes_is_waited_for(server: RerankServer) -> None:
    reranker = client(server)
    reranker.connect()
    server.mode = "server_error_once"
    server.requests.clear()
    assert all(math.isfinite(one.order) for one in reranker.score(QUERY, PASSAGES))


def test_no_address_no_service() -> None:
    with pytest.raises(BadInput, match="RANK37_RERANK_URL is no web address"):
        ServiceReranker("gpu:8080")
