"""LLM servers that drip, never end or lie about their format; the other 22 kinds are in `tests/rag/test_openai_llm.py`.

Each ends in one error with a remedy, within a time that the settings bound, and nothing goes on in the background.
"""

from __future__ import annotations

import threading
import time

import pytest

from rag.engines import openai_llm
from rag.errors import LLMBadReply, LLMError, LLMTimeout
from tests.rag.faulty_llm_server import FaultyLLMServer, Mode
from tests.rag.test_openai_llm import REPLY, open_llm, reply_of


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "LLM reply"]


def wait_for_no_reader(limit_s: float = 5.0) -> bool:
    end = time.monotonic() + limit_s
    while reading_threads() and time.monotonic() < end:
        time.sleep(0.02)
    return not reading_threads()


def test_a_reply_that_drips_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert openai_llm.LONGEST_REPLY_IN_TIMEOUTS == 10  # ten minutes by default; here 2 * 1.5 s
    monkeypatch.setattr(openai_llm, "LONGEST_REPLY_IN_TIMEOUTS", 2)
    with FaultyLLMServer("drop " * 2000, piece_delay_s=0.02) as server:
        started = time.monotonic()
        pieces: list[str] = []
        with pytest.raises(LLMTimeout, match=r"not done after 3 s.*RANK37_LLM_TIMEOUT_S"):
            pieces.extend(open_llm(server.base_url, timeout_s=1.5).stream([], max_tokens=5000))
        assert time.monotonic() - started < 3 + 1.5 + 5  # the limit, at most one more wait, and a busy machine
        assert server.hung_up.wait(5), "the server is told to stop"
    assert pieces


@pytest.mark.parametrize("mode", ["endless_thinking", "endless_line", "only_keeps_alive"])
def test_a_reply_without_a_word_ends_and_so_does_its_reading(mode: Mode) -> None:
    with FaultyLLMServer(REPLY, mode=mode) as server:
        with pytest.raises(LLMTimeout, match="RANK37_LLM_TIMEOUT_S"):
            reply_of(open_llm(server.base_url, timeout_s=0.2))
        assert server.hung_up.wait(5), "nobody reads on in the background"
        assert wait_for_no_reader()


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("json_instead_of_stream", "application/json instead of a stream"),
        ("not_gzip", "OPENAI_BASE_URL"),
        ("not_utf8", "OPENAI_BASE_URL"),
    ],
)
def test_a_format_that_is_not_what_it_says_is_named(mode: Mode, said: str) -> None:
    with FaultyLLMServer(REPLY, mode=mode) as server, pytest.raises(LLMBadReply, match=said):
        reply_of(open_llm(server.base_url))


def test_a_stream_with_another_content_type_is_still_a_stream() -> None:
    with FaultyLLMServer(REPLY, mode="stream_as_text") as server:
        assert reply_of(open_llm(server.base_url)) == REPLY


def test_no_failure_leaves_a_thread_behind() -> None:
    for mode in ("breaks_off", "endless", "malformed_json", "drips_then_hangs", "hangs"):
        with FaultyLLMServer(REPLY, mode=mode) as server, pytest.raises(LLMError):  # type: ignore[arg-type]  # modes
            reply_of(open_llm(server.base_url, timeout_s=0.3))
    assert wait_for_no_reader()
