"""OpenAILLM against a server that fails in the ways servers fail; the real openai client and real sockets."""

import socket
import time
from collections.abc import Callable

import pytest

from rag.engines.openai_llm import OpenAILLM
from rag.errors import LLMBadReply, LLMError, LLMRateLimited, LLMRejected, LLMTimeout, LLMUnavailable
from rag.types import Message
from tests.rag.faulty_llm_server import FaultyLLMServer, Mode

QUESTION = (Message("system", "Answer briefly."), Message("user", "How long do refunds take?"))
REPLY = "Refunds take seven days [1]. They go back to the card [2]."
KEY = "sk-very-secret"


def open_llm(base_url: str, *, timeout_s: float = 5.0, retries: int = 0, api_key: str | None = KEY) -> OpenAILLM:
    return OpenAILLM(
        "scripted",
        api_key=api_key,
        base_url=base_url,
        timeout_s=timeout_s,
        retries=retries,
        count_tokens_offline=lambda text: len(text.split()),
    )


def reply_of(llm: OpenAILLM, max_tokens: int = 100) -> str:
    return "".join(llm.stream(QUESTION, max_tokens=max_tokens))


FAILURES: list[tuple[Mode, type[LLMError], list[str]]] = [
    ("breaks_off", LLMBadReply, ["broke off", "ask again"]),
    ("ends_early", LLMBadReply, ["broke off", "ask again"]),
    ("error_in_stream", LLMBadReply, ["out of memory", "ask again"]),
    ("hangs", LLMTimeout, ["no reply", "0.4 s", "RANK37_LLM_TIMEOUT_S"]),
    ("hangs_after_headers", LLMTimeout, ["no reply", "0.4 s", "RANK37_LLM_TIMEOUT_S"]),
    ("only_keeps_alive", LLMTimeout, ["no reply", "0.4 s", "RANK37_LLM_TIMEOUT_S"]),
    ("drips_then_hangs", LLMTimeout, ["no further piece", "0.4 s", "RANK37_LLM_TIMEOUT_S"]),
    ("endless", LLMBadReply, ["ignores the limit"]),
    ("rate_limited", LLMRateLimited, ["429", "RANK37_LLM_RETRIES"]),
    ("rate_limited_for_long", LLMRateLimited, ["429"]),
    ("quota_used_up", LLMRateLimited, ["quota"]),
    ("unauthorized", LLMRejected, ["401", "OPENAI_API_KEY"]),
    ("forbidden", LLMRejected, ["403", "OPENAI_API_KEY"]),
    ("unknown_model", LLMRejected, ["404", "'scripted'", "OPENAI_MODEL"]),
    ("context_too_long", LLMRejected, ["512 tokens", "RANK37_PROMPT_TOKENS"]),
    ("server_error", LLMUnavailable, ["500", "The engine is on fire."]),
    ("html", LLMBadReply, ["text/html", "OPENAI_BASE_URL", "/v1"]),
    ("malformed_json", LLMBadReply, ["OPENAI_BASE_URL"]),
    ("not_a_chunk", LLMBadReply, ["OPENAI_BASE_URL"]),
    ("empty", LLMBadReply, ["empty reply", "OPENAI_MODEL"]),
    ("length", LLMBadReply, ["100 tokens", "RANK37_ANSWER_TOKENS"]),
    ("content_filter", LLMBadReply, ["content filter"]),
]


@pytest.mark.parametrize(("mode", "kind", "words"), FAILURES, ids=[failure[0] for failure in FAILURES])
def test_a_failure_is_an_error_that_names_host_and_remedy_but_never_the_key(
    mode: Mode, kind: type[LLMError], words: list[str]
) -> None:
    timeout_s = 0.4 if kind is LLMTimeout else 5.0
    with FaultyLLMServer(REPLY, mode=mode) as server:
        llm = open_llm(server.base_url, timeout_s=timeout_s)
        started = time.monotonic()
        with pytest.raises(LLMError) as caught:
            reply_of(llm)
        assert time.monotonic() - started < 3.0
        assert len(server.requests) == 1
        llm.close()
    message = str(caught.value)
    assert type(caught.value) is kind
    for word in words:
        assert word in message
    if mode not in ("context_too_long", "length"):
        assert f"127.0.0.1:{server.base_url.split(':')[2].split('/')[0]}" in message
    assert KEY not in message
    assert KEY not in str(caught.value.__cause__)


def test_a_whole_reply_arrives_in_pieces_and_the_request_is_what_was_asked() -> None:
    with FaultyLLMServer(REPLY) as server:
        llm = open_llm(server.base_url)
        pieces = list(llm.stream(QUESTION, max_tokens=77))
    assert "".join(pieces) == REPLY
    assert len(pieces) > 5
    [request] = server.requests
    assert request["messages"] == [{"role": message.role, "content": message.content} for message in QUESTION]
    assert (request["max_tokens"], request["model"], request["stream"]) == (77, "scripted", True)
    assert request["authorization"] == f"Bearer {KEY}"


def test_pieces_are_delivered_while_the_reply_is_being_written() -> None:
    with FaultyLLMServer("one two three four five six", piece_delay_s=0.1) as server:
        arrivals = [time.monotonic() for _ in open_llm(server.base_url).stream(QUESTION, max_tokens=50)]
    assert arrivals[-1] - arrivals[0] > 0.3


def test_slow_pieces_are_no_timeout_as_long_as_they_keep_coming() -> None:
    with FaultyLLMServer("one two three four five six", piece_delay_s=0.2) as server:
        assert reply_of(open_llm(server.base_url, timeout_s=0.6)) == "one two three four five six"


def test_what_came_before_a_break_was_delivered_and_the_break_still_raises() -> None:
    with FaultyLLMServer(REPLY, mode="breaks_off") as server:
        pieces: list[str] = []
        with pytest.raises(LLMBadReply):
            pieces.extend(open_llm(server.base_url, retries=3).stream(QUESTION, max_tokens=50))
    assert REPLY.startswith("".join(pieces))
    assert pieces
    assert len(server.requests) == 1, "a reply that began is never asked for again: its text would come twice"


@pytest.mark.parametrize(("mode", "n_requests"), [("rate_limited_twice", 3), ("server_error_once", 2)])
def test_a_passing_failure_is_retried_unseen(mode: Mode, n_requests: int) -> None:
    with FaultyLLMServer(REPLY, mode=mode) as server:
        assert reply_of(open_llm(server.base_url, retries=2)) == REPLY
    assert len(server.requests) == n_requests


def test_retries_end() -> None:
    with FaultyLLMServer(REPLY, mode="rate_limited") as server:
        with pytest.raises(LLMRateLimited, match="after 2 retries"):
            reply_of(open_llm(server.base_url, retries=2))
        assert len(server.requests) == 3


def test_the_pause_is_the_one_that_the_server_asks_for() -> None:
    with FaultyLLMServer(REPLY, mode="rate_limited_twice", retry_after_s=0.3) as server:
        started = time.monotonic()
        assert reply_of(open_llm(server.base_url, retries=2)) == REPLY
    assert time.monotonic() - started > 2 * 0.3


@pytest.mark.parametrize("mode", ["rate_limited_for_long", "quota_used_up", "unauthorized", "hangs"])
def test_what_waiting_does_not_cure_is_not_retried(mode: Mode) -> None:
    with FaultyLLMServer(REPLY, mode=mode) as server:
        with pytest.raises(LLMError):
            reply_of(open_llm(server.base_url, retries=5, timeout_s=0.5))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("mode", "check"),
    [
        (
            "refuses_max_tokens",
            lambda request: request.get("max_completion_tokens") == 50 and "max_tokens" not in request,
        ),
        ("refuses_temperature", lambda request: "temperature" not in request),
    ],
)
def test_a_model_that_takes_other_options_gets_them_from_then_on(
    mode: Mode, check: Callable[[dict[str, object]], bool]
) -> None:
    with FaultyLLMServer(REPLY, mode=mode) as server:
        llm = open_llm(server.base_url)
        assert reply_of(llm, max_tokens=50) == REPLY
        assert reply_of(llm, max_tokens=50) == REPLY
    assert [check(request) for request in server.requests] == [False, True, True]


def test_connection_refused_names_the_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(LLMUnavailable, match=rf"127\.0\.0\.1:{port}.*refused.*OPENAI_BASE_URL"):
        reply_of(open_llm(f"http://127.0.0.1:{port}/v1"))


def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(LLMUnavailable, match=r"llm\.invalid has no known address.*OPENAI_BASE_URL"):
        reply_of(open_llm("http://llm.invalid/v1"))


def test_a_name_lookup_that_hangs_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_lookup(*arguments: object, **options: object) -> None:
        time.sleep(1.5)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
    started = time.monotonic()
    with pytest.raises(LLMTimeout):
        reply_of(open_llm("http://llm.invalid/v1", timeout_s=0.3))
    assert time.monotonic() - started < 1.2


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host/v1", "http://", "nonsense"])
def test_an_address_that_is_none_is_rejected_at_once(address: str) -> None:
    with pytest.raises(LLMRejected, match="OPENAI_BASE_URL"):
        open_llm(address)


def test_no_key_is_fine_for_a_server_that_wants_none() -> None:
    with FaultyLLMServer(REPLY) as server:
        assert reply_of(open_llm(server.base_url, api_key=None)) == REPLY
    assert server.requests[0]["authorization"] == "Bearer none"


def test_leaving_the_reply_ends_the_connection() -> None:
    with FaultyLLMServer("word " * 500, piece_delay_s=0.01) as server:
        pieces = open_llm(server.base_url).stream(QUESTION, max_tokens=5000)
        assert next(iter(pieces)) == "word "
        pieces.close()  # type: ignore[attr-defined]  # it is a generator
        assert server.hung_up.wait(3.0)


def test_data_leaves_the_machine_only_where_it_does() -> None:
    assert open_llm("http://localhost:11434/v1").info.sends_data_to == ""
    assert open_llm("http://[::1]:8000/v1").info.sends_data_to == ""
    assert open_llm("https://user:password@llm.example.com:8443/v1").info.sends_data_to == "llm.example.com:8443"
    hosted = OpenAILLM("gpt-4o-mini", api_key=KEY, count_tokens_offline=len)
    assert hosted.info.sends_data_to == "api.openai.com"
    assert hosted.info.name == "gpt-4o-mini"


def test_half_a_surrogate_is_replaced() -> None:
    with FaultyLLMServer("broken \ud83d here [1]. whole \ud83d\ude00 here") as server:
        assert reply_of(open_llm(server.base_url)) == "broken \ufffd here [1]. whole \U0001f600 here"
