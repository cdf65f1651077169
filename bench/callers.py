"""Callers of the HTTP API: each kind of request, what a right reply to it is, and how long it took.

Who calls when, and what the times come to, is `bench.api`'s. A model server's speed is not judged here.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from bench.rounds import percentile

ASK, STREAMED, RETRIEVE, RERANK = "ask", "ask, streamed", "retrieve", "rerank"
DOCUMENTS, PAGE, TRACES, TRACE = "documents", "a page", "traces", "a trace"
QUESTIONS = (ASK, STREAMED, RETRIEVE)
"""The kinds that put a question to the documents."""
MIX = (ASK, DOCUMENTS, STREAMED, PAGE, RETRIEVE, ASK, TRACE, RERANK, STREAMED, TRACES)
"""What each caller asks for in turn."""

RERANKED = 20
"""How many passages one request to rerank holds."""
TURNED_AWAY = (429, 503)
REPLY_S = 300.0
"""Longest wait for a reply: a full line of 64 questions takes minutes on two busy cores."""
IDLE_S = 2.0
"""A connection that was idle for longer is not used again: the server hangs up after 5."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request."""

    kind: str
    seconds: float
    """Until the whole reply was here."""
    first_s: float | None = None
    """Until the first event; only where it was streamed."""
    body: Any = None
    """The reply's JSON; of a stream, that of its result."""
    error: str | None = None
    """Why it is no right reply; None: it is one, or a right refusal."""
    retry_after_s: int | None = None
    """Where the caller was turned away, and told for how long."""

    @property
    def is_right(self) -> bool:
        """Whether it has what was asked for."""
        return self.error is None and self.retry_after_s is None


class Caller:
    """Whoever uses the API of one server: no question is put twice, so that none is answered from memory."""

    def __init__(
        self, client: httpx.AsyncClient, *, questions: Sequence[str], texts: Sequence[str], documents: Sequence[str]
    ) -> None:
        """`texts` are passages to be reranked, `documents` the ids of all documents."""
        self._client = client
        self._questions, self._texts, self._documents = questions, texts, documents
        self._number = itertools.count()
        self._random = random.Random(37)
        self._traces: deque[str] = deque(maxlen=50)

    def question(self) -> str:
        """The next question; a number makes it another than those before."""
        number = next(self._number)
        return f"{self._questions[number % len(self._questions)]} ({number + 1})"

    async def call(self, kind: str, question: str | None = None) -> Reply:
        """Send one request and check what comes; a fault is a value, too."""
        started = time.perf_counter()
        try:
            return await self._called(kind, question or self.question(), started)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError) as error:
            words = " ".join(str(error).split())[:200]
            return Reply(kind, time.perf_counter() - started, error=f"{kind}: {type(error).__name__}: {words}")

    async def _called(self, kind: str, question: str, started: float) -> Reply:
        match kind:
            case "ask":
                reply = await self._sent(kind, "POST", "/v1/ask", started, {"question": question})
                return self._noted(reply, lambda body: body["outcome"] in ("answer", "refusal"))
            case "ask, streamed":
                reply = await self._streamed({"question": question, "stream": True}, started)
                return self._noted(reply, lambda body: body["outcome"] in ("answer", "refusal"))
            case "retrieve":
                reply = await self._sent(kind, "POST", "/v1/retrieve", started, {"question": question, "top_n": 10})
                return _checked(reply, lambda body: [one["rank"] for one in body["passages"]][:1] == [1])
            case "rerank":
                texts = self._random.sample(self._texts, min(RERANKED, len(self._texts)))
                asked = {"query": question, "documents": texts}
                reply = await self._sent(kind, "POST", "/v1/rerank", started, asked)
                return _checked(reply, lambda body: _in_order(body["results"], len(texts)))
            case "documents":
                reply = await self._sent(kind, "GET", "/v1/documents", started)
                return _checked(reply, lambda body: len(body["documents"]) == len(self._documents))
            case "a page":
                path = f"/v1/documents/{self._random.choice(self._documents)}/pages/1"
                return _checked(await self._sent(kind, "GET", path, started), lambda body: bool(body["text"]))
            case "traces":
                reply = await self._sent(kind, "GET", "/v1/traces?limit=20", started)
                return _checked(reply, lambda body: bool(body["traces"]))
            case _:
                trace_id = self._random.choice(self._traces)
                reply = await self._sent(kind, "GET", f"/v1/traces/{trace_id}", started)
                return _checked(reply, lambda body: body["id"] == trace_id)

    async def _sent(
        self, kind: str, method: str, path: str, started: float, body: Mapping[str, Any] | None = None
    ) -> Reply:
        reply = await self._client.request(method, path, json=body)
        return judged(kind, reply, time.perf_counter() - started)

    async def _streamed(self, body: Mapping[str, Any], started: float) -> Reply:
        async with self._client.stream("POST", "/v1/ask", json=body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                return judged(STREAMED, reply, time.perf_counter() - started)
            first_s, name, result = None, "", None
            async for line in reply.aiter_lines():
                if line.startswith("event: "):
                    first_s = first_s or time.perf_counter() - started
                    name = line.removeprefix("event: ")
                elif line.startswith("data: ") and name in ("result", "error"):
                    result = json.loads(line.removeprefix("data: "))
        taken = time.perf_counter() - started
        if name != "result":
            return Reply(STREAMED, taken, first_s, error=f"{STREAMED}: ended with {name or 'nothing'}: {result}"[:300])
        return Reply(STREAMED, taken, first_s, result)

    def _noted(self, reply: Reply, is_right: Callable[[Any], bool]) -> Reply:
        checked = _checked(reply, is_right)
        if checked.is_right:
            self._traces.append(checked.body["id"])
        return checked


def client_of(url: str) -> httpx.AsyncClient:
    """A client with as many connections as there are requests under way."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S)
    return httpx.AsyncClient(base_url=url, timeout=REPLY_S, limits=limits, trust_env=False)


def judged(kind: str, reply: httpx.Response, seconds: float) -> Reply:
    """A reply by its status: right, turned away in the right way, or an error."""
    if reply.status_code == 200:
        return Reply(kind, seconds, body=reply.json())
    told = reply.headers.get("retry-after", "")
    if reply.status_code in TURNED_AWAY and told.isdecimal():
        return Reply(kind, seconds, retry_after_s=int(told))
    return Reply(kind, seconds, error=f"{kind}: status {reply.status_code}: {reply.text}"[:300])


def figures_of(replies: Sequence[Reply]) -> dict[str, dict[str, Any]]:
    """Times of the right replies by kind, in the order of the mix; a kind that had none is left out."""
    kinds = [*dict.fromkeys(MIX)]
    return {
        kind: _times(of_kind) for kind in kinds if (of_kind := [r for r in replies if r.kind == kind and r.is_right])
    }


def errors_of(replies: Sequence[Reply]) -> dict[str, int]:
    """What went wrong, and how often."""
    return dict(Counter(reply.error for reply in replies if reply.error))


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """The usual ones and the most; None where nothing was measured."""
    shares = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99, "most_s": 1.0}
    return {name: percentile(seconds, share) if seconds else None for name, share in shares.items()}


def _times(replies: Sequence[Reply]) -> dict[str, Any]:
    firsts = [reply.first_s for reply in replies if reply.first_s is not None]
    found: dict[str, Any] = {"count": len(replies), **percentiles([reply.seconds for reply in replies])}
    return found | ({"first_event_p95_s": percentile(firsts, 0.95)} if firsts else {})


def _checked(reply: Reply, is_right: Callable[[Any], bool]) -> Reply:
    if not reply.is_right or is_right(reply.body):
        return reply
    return Reply(reply.kind, reply.seconds, error=f"{reply.kind}: not what was asked for: {reply.body}"[:300])


def _in_order(results: Sequence[Mapping[str, Any]], count: int) -> bool:
    scores = [one["relevance_score"] for one in results]
    return len(results) == count and scores == sorted(scores, reverse=True)
