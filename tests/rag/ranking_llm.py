"""An LLM that ranks: a chat server whose replies order the passages of the prompt truly, by the real cross-encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rag.engines.openai_llm import OpenAILLM
from rag.ports import Reranker
from rag.types import Passage
from tests.rag.faulty_llm_server import FaultyLLMServer

_PASSAGE = re.compile(r'<passage id="\[(\d+)\]">\n(.*?)\n</passage>', re.DOTALL)
_QUESTION = re.compile(r"<question>\n(.*?)\n</question>", re.DOTALL)


def read_prompt(messages: list[dict[str, Any]]) -> tuple[str, dict[int, str]]:
    """The question and the passages by number, as a model would find them."""
    prompt = messages[-1]["content"]
    [question] = _QUESTION.findall(prompt)
    return question, {int(number): text for number, text in _PASSAGE.findall(prompt)}


def true_order(scorer: Reranker) -> Callable[[list[dict[str, Any]]], str]:
    """What replies with the order that the scorer gives; each pair is computed once."""
    known: dict[tuple[str, str], float] = {}

    def reply(messages: list[dict[str, Any]]) -> str:
        question, passages = read_prompt(messages)
        for text in passages.values():
            if (question, text) not in known:
                known[question, text] = scorer.score(question, [Passage("", text)])[0].order
        best_first = sorted(passages, key=lambda number: -known[question, passages[number]])
        return " > ".join(f"[{number}]" for number in best_first)

    return reply


@contextmanager
def llm_of(server: FaultyLLMServer, *, retries: int = 0) -> Iterator[OpenAILLM]:
    """The real client of that server."""
    llm = OpenAILLM(
        "scripted",
        api_key="secret-key",
        base_url=server.base_url,
        timeout_s=2,
        retries=retries,
        count_tokens_offline=lambda text: len(text),
    )
    try:
        yield llm
    finally:
        llm.close()
