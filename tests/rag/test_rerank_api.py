"""The hosted APIs, spoken to over loopback by servers of their protocols with the real cross-encoder behind them."""

import logging
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.rerank_api import COHERE, JINA, ApiReranker, RerankApi
from rag.errors import BadInput, RerankerUnavailable
from rag.types import Passage
from tests.contracts.tiny_models import CORPUS
from tests.rag.rerank_servers import KEY, MODEL, Mode, RerankServer

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]


@pytest.fixture(params=["cohere", "jina"])
def api_and_server(
    request: pytest.FixtureRequest, embedded_reranker: CrossEncoderReranker
) -> Iterator[tuple[RerankApi, RerankServer]]:
    with RerankServer(request.param, embedded_reranker) as server:
        yield {"cohere": COHERE, "jina": JINA}[request.param], server


@pytest.fixture
def server(embedded_reranker: CrossEncoderReranker) -> Iterator[RerankServer]:
    with RerankServer("cohere", embedded_reranker) as server:
        yield server


def client(
    server: RerankServer,
    api: RerankApi = COHERE,
    *,
    key: str = KEY,
    timeout_s: float = 5.0,
    waits: list[float] | None = None,
) -> ApiReranker:
    """Its waits before retries are written down and not waited."""
    waited = [] if waits is None else waits
    return ApiReranker(api, SecretStr(key), url=server.url, model=MODEL, timeout_s=timeout_s, sleep=waited.append)


def test_scores_are_the_model_s_by_index_whatever_the_order_of_results(
    api_and_server: tuple[RerankApi, RerankServer], embedded_reranker: CrossEncoderReranker
) -> None:
    api, server = api_and_server
    relevances = client(server, api).score(QUERY, PASSAGES)
    assert [one.score for one in relevances] == [one.score for one in embedded_reranker.score(QUERY, PASSAGES)]
    assert [one.order for one in relevances] == [one.score for one in relevances]
    [request] = server.requests
    assert request["path"] == api.path
    assert request["authorization"] == f"Bearer {KEY}"
    assert (request["model"], request["query"], request["top_n"]) == (MODEL, QUERY, len(PASSAGES))
    assert request["documents"] == CORPUS


def test_more_passages_than_a_request_takes_go_in_several(server: RerankServer) -> None:
    small = replace(COHERE, batch_passages=4)
    seen: list[tuple[int, int]] = []
    relevances = client(server, small).score(QUERY, PASSAGES, progress=lambda *done: seen.append(done))
    assert [len(request["documents"]) for request in server.requests] == [4, 2]
    assert seen == [(4, 6), (6, 6)]
    assert [one.score for one in relevances] == [one.score for one in client(server).score(QUERY, PASSAGES)]


def test_limits_are_those_that_the_apis_name() -> None:
    assert (COHERE.batch_passages, JINA.batch_passages) == (1000, 2048)


def test_without_a_key_nothing_is_opened() -> None:
    for key in (None, SecretStr(""), SecretStr(" ")):
        with pytest.raises(RerankerUnavailable, match="set COHERE_API_KEY"):
            ApiReranker(COHERE, key, url="https://api.cohere.com")


@pytest.mark.parametrize("key", ["two\nlines", "ké"])
def test_a_key_that_can_t_be_sent_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(BadInput, match="COHERE_API_KEY holds characters") as caught:
        ApiReranker(COHERE, SecretStr(key), url="https://api.cohere.com")
    assert key not in "".join(traceback.format_exception(caught.value))


def test_info_names_the_host_that_passages_go_to() -> None:
    hosted = ApiReranker(COHERE, SecretStr(KEY), url="https://api.cohere.com").info
    assert (hosted.name, hosted.sends_data_to) == ("Cohere rerank-v4.0-pro", "api.cohere.com")


def test_a_server_on_this_machine_is_no_other_host(server: RerankServer) -> None:
    assert client(server).info.sends_data_to == ""


@pytest.mark.parametrize("mode", ["rate_limited_twice", "server_error_once"])
def test_what_passes_is_waited_for(server: RerankServer, mode: Mode) -> None:
    server.mode = mode
    waits: list[float] = []
    assert len(client(server, waits=waits).score(QUERY, PASSAGES)) == len(PASSAGES)
    # Retry-After says 0.01 s, twice; without it the first pause is half a second, shortened by up to a half.
    assert waits == [0.01, 0.01] if mode == "rate_limited_twice" else 0.25 <= waits[0] <= 0.5


def test_pauses_double_and_retries_end(server: RerankServer) -> None:
    server.mode = "server_error"
    waits: list[float] = []
    with pytest.raises(RerankerUnavailable, match=r"failed \(500\).*model is on fire.*try again later"):
        client(server, waits=waits, timeout_s=60).score(QUERY, PASSAGES)
    assert len(server.requests) == 5
    assert all(0.25 * 2**attempt <= wait_s <= 0.5 * 2**attempt for attempt, wait_s in enumerate(waits))


def test_a_pause_of_an_hour_is_not_waited(server: RerankServer) -> None:
    server.mode = "rate_limited_for_long"
    waits: list[float] = []
    with pytest.raises(RerankerUnavailable, match=r"allows no more requests.*asks to wait 3600 s"):
        client(server, waits=waits).score(QUERY, PASSAGES)
    assert waits == []
    assert len(server.requests) == 1


def test_a_date_in_retry_after_is_understood(server: RerankServer) -> None:
    server.mode, server.retry_after = "rate_limited_twice", "Wed, 21 Oct 2015 07:28:00 GMT"
    waits: list[float] = []
    client(server, waits=waits).score(QUERY, PASSAGES)
    assert waits == [0, 0]  # it has passed


@pytest.mark.parametrize("mode", ["hangs", "drips"])
def test_the_time_limit_holds_for_a_server_that_never_finishes(server: RerankServer, mode: Mode) -> None:
    server.mode = mode
    started = time.monotonic()
    with pytest.raises(RerankerUnavailable, match=r"didn't answer in time \(RANK37_RERANK_TIMEOUT_S = 0.5 at most\)"):
        client(server, timeout_s=0.5).score(QUERY, PASSAGES)
    assert time.monotonic() - started < 3


def test_retries_stay_within_the_time_limit(server: RerankServer) -> None:
    server.mode = "rate_limited"
    server.retry_after = "2"
    waits: list[float] = []
    with pytest.raises(RerankerUnavailable, match="asks to wait 2 s"):
        client(server, waits=waits, timeout_s=1.5).score(QUERY, PASSAGES)
    assert waits == []


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("unauthorized", r"refused the key \(401\): set COHERE_API_KEY"),
        ("bad_request", r"refused the request \(400\).*must not be that long"),
        ("redirects", r"another address \(307\): set CO_API_URL"),
        ("html", "no JSON.*Sign in to the network"),
        ("malformed", "no JSON"),
        ("no_results", "no list of results"),
        ("too_few", "scored 5 of 6 passages"),
        ("twice", r"passage \d has two results"),
        ("beyond", "for none of the 6 passages"),
        ("nan", "nan of passage 5 is no number"),
        ("text_score", "of passage 5 is no number"),
        ("null_score", "None of passage 5 is no number"),
        ("out_of_scale", r"not in \[0, 1\]"),
    ],
)
def test_a_refusal_or_nonsense_is_an_outage_at_once(server: RerankServer, mode: Mode, message: str) -> None:
    server.mode = mode
    with pytest.raises(RerankerUnavailable, match=message):
        client(server).score(QUERY, PASSAGES)
    assert len(server.requests) == 1


def test_a_connection_that_breaks_is_taken_up_again_and_then_an_outage(server: RerankServer) -> None:
    server.mode = "breaks_off"
    with pytest.raises(RerankerUnavailable, match="can't be reached.*CO_API_URL"):
        client(server, timeout_s=30).score(QUERY, PASSAGES)
    assert len(server.requests) == 5


def test_a_server_that_is_down_is_named_with_the_remedy(embedded_reranker: CrossEncoderReranker) -> None:
    with RerankServer("cohere", embedded_reranker) as gone:
        reranker = client(gone, timeout_s=30)
    with pytest.raises(RerankerUnavailable, match=r"127.0.0.1:\d+ can't be reached.*check CO_API_URL"):
        reranker.score(QUERY, PASSAGES)


def test_a_model_that_is_not_there_is_named(server: RerankServer) -> None:
    unknown = ApiReranker(COHERE, SecretStr(KEY), url=server.url, model="rerank-v0")
    with pytest.raises(RerankerUnavailable, match="no model 'rerank-v0'"):
        unknown.score(QUERY, PASSAGES)


@pytest.mark.parametrize("mode", ["unauthorized", "server_error", "malformed", "hangs", "serves"])
def test_the_key_is_in_no_error_log_or_repr(server: RerankServer, mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    server.mode = mode
    caplog.set_level(logging.DEBUG)
    reranker = client(server, timeout_s=0.5)
    told = repr(reranker) + repr(vars(reranker)) + repr(vars(reranker._connection)["_client"].headers)
    try:
        reranker.score(QUERY, PASSAGES)
    except RerankerUnavailable as error:
        told += "".join(traceback.format_exception(error))
    told += "".join(record.getMessage() for record in caplog.records)
    assert KEY not in told


def test_models_that_give_no_probability_only_order(server: RerankServer) -> None:
    server.dialect, server.models = "jina", ["jina-reranker-v3"]
    reranker = ApiReranker(JINA, SecretStr(KEY), url=server.url, model="jina-reranker-v3")
    assert reranker.only_orders
    relevances = reranker.score(QUERY, PASSAGES)
    assert {one.score for one in relevances} == {None}
    assert max(range(6), key=lambda number: relevances[number].order) == 0


def test_an_estimate_follows_from_earlier_calls(server: RerankServer) -> None:
    reranker = client(server)
    assert reranker.estimate_seconds(100) is None
    reranker.score(QUERY, PASSAGES)
    few, many = reranker.estimate_seconds(10), reranker.estimate_seconds(100)
    assert few is not None
    assert many == pytest.approx(10 * few)


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("api.cohere.com", "ftp://api.cohere.com", "http://", "http://[::1"):
        with pytest.raises(BadInput, match="CO_API_URL is no web address"):
            ApiReranker(COHERE, SecretStr(KEY), url=url)
