"""Whether a service answers, in words: what works, what is down, and what answers nonsense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from rag.connections import RIGHT, try_llm, try_reranker, try_traces
from rag.errors import LLMUnavailable, TracesUnavailable
from rag.ports import Progress
from rag.types import EngineInfo, Message, Passage, Relevance


class WordLLM:
    """Replies with one text, or raises one error."""

    info = EngineInfo("llm", "word")

    def __init__(self, reply: str | Exception) -> None:
        self.reply = reply

    def stream(self, messages: Sequence[Message], *, max_tokens: int) -> Iterator[str]:
        if isinstance(self.reply, Exception):
            raise self.reply
        yield from self.reply

    def count_tokens(self, text: str) -> int:
        return len(text)


class FixedReranker:
    """Gives the passage that answers one score, the other another."""

    info = EngineInfo("reranker", "fixed")

    def __init__(self, right: float, wrong: float) -> None:
        self.right, self.wrong = right, wrong

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        scores = [self.right if passage.text == RIGHT else self.wrong for passage in passages]
        return [Relevance(score, score) for score in scores]

    def estimate_seconds(self, n_passages: int) -> float | None:
        return None


def test_an_llm_that_answers_one_that_is_down_and_none() -> None:
    up = try_llm(WordLLM("ready"))
    assert up.works
    assert "replied “ready”" in up.said
    down = try_llm(WordLLM(LLMUnavailable("no connection to localhost: start the server")))
    assert not down.works
    assert down.said == "no connection to localhost: start the server."
    none = try_llm(None)
    assert none.works
    assert "quotes" in none.said


def test_a_fault_is_told_without_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    fault = try_llm(WordLLM(KeyError("sk-secret")))
    assert not fault.works
    assert fault.said == "It failed (KeyError): the log has the details."


def test_a_reranker_that_orders_wrongly_is_seen() -> None:
    good = try_reranker(FixedReranker(0.93, 0.02))
    assert good.works
    assert "(0.93 against 0.02)" in good.said
    assert "can't be trusted" in try_reranker(FixedReranker(0.1, 0.9)).said


def test_a_database_that_is_down_and_one_that_is_off() -> None:
    def broken() -> None:
        raise TracesUnavailable("the traces can't be opened: see that the server runs")

    assert not try_traces(broken).works
    assert "keeps no questions" in try_traces(lambda: None).said
