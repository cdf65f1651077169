"""The LLM behind any server that speaks OpenAI's streaming chat protocol: OpenAI, Ollama, vLLM, llama.cpp and the like.

It never delivers a broken-off reply as a whole one, and it knows nothing of passages and citations.
"""

from __future__ import annotations

import ipaddress
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import cast
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from rag.engines.token_count import TokenCounter
from rag.errors import LLMBadReply, LLMError, LLMRateLimited, LLMRejected, LLMTimeout, LLMUnavailable
from rag.types import EngineInfo, Message

OPENAI_URL = "https://api.openai.com/v1"

NO_KEY = "none"
"""Sent as the key where none is configured: the client insists on one, local servers ignore it."""

LONGEST_RETRY_WAIT_S = 20.0
"""A server that asks for a longer pause is not waited for: the person sees the error and decides."""

FIRST_RETRY_WAIT_S = 0.5
"""Doubles with each retry, where the server does not say how long to wait."""

LONGEST_REPLY_IN_TIMEOUTS = 10
"""A whole reply may take this many times the longest wait: one that drips, or thinks without end, is given up."""

MOST_CHARACTERS_PER_TOKEN = 40
"""A reply longer than this for each allowed token shows that the server ignores the limit: it is cut off. Prose has
4 to 5; runs of spaces or dashes have far more."""


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str


@dataclass(frozen=True, slots=True)
class _Alive:
    """The model thinks: a sign of life without text."""


@dataclass(frozen=True, slots=True)
class _End:
    finish_reason: str | None
    content_type: str


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class OpenAILLM:
    """Streams replies through the official openai client.

    Args:
        model: The model's name as the server knows it.
        api_key: None where the server wants none.
        base_url: Such as `http://127.0.0.1:11434/v1`; None: OpenAI's own.
        timeout_s: Longest wait for the reply's start and between two pieces of it. Comment lines that merely keep the
            connection open do not count as pieces.
        retries: How often a request is sent again after 429, 5xx or a failed connection, as long as no piece has come.
        count_tokens_offline: Counts tokens by a tokenizer that is on this machine, for models without a tiktoken table.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 2,
        count_tokens_offline: Callable[[str], int],
    ) -> None:
        self._model = model
        self._timeout_s = timeout_s
        self._retries = retries
        self._url = base_url or OPENAI_URL
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LLMRejected(
                f"OPENAI_BASE_URL = {base_url!r} is no web address: write it like http://127.0.0.1:11434/v1"
            )
        self._host = parts.hostname + (f":{parts.port}" if parts.port else "")
        self._secret = api_key or ""
        self._client = openai.OpenAI(api_key=api_key or NO_KEY, base_url=self._url, timeout=timeout_s, max_retries=0)
        self._count = TokenCounter(model, count_tokens_offline)
        self._request_options: dict[str, object] = {"temperature": 0}
        self._limit_name = "max_tokens"
        self._info = EngineInfo(
            "llm",
            model,
            why="named in the settings" if base_url else "OPENAI_API_KEY is set",
            sends_data_to="" if _is_loopback(parts.hostname) else self._host,
        )

    @property
    def info(self) -> EngineInfo:
        """The model and the host that prompts go to."""
        return self._info

    def count_tokens(self, text: str) -> int:
        """Length of a text as the model counts it, or an upper estimate of it."""
        return self._count(text)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()

    def stream(self, messages: Sequence[Message], *, max_tokens: int) -> Iterator[str]:
        """The reply in pieces, none of them empty.

        Closing the iterator closes the connection at the next piece, so that the server stops writing.

        Raises:
            LLMError: One of its kinds, with a remedy; at any point, also after pieces have come.
        """
        started = False
        for attempt in range(self._retries + 1):
            try:
                with closing(self._attempt(messages, max_tokens)) as pieces:
                    for piece in pieces:
                        started = True
                        yield piece
                return
            except openai.APIError as error:
                wait_s = None if started or attempt == self._retries else _retry_wait_s(error, attempt)
                if wait_s is None:
                    # The cause is left out where its text shows the key.
                    cause = None if self._secret and self._secret in str(error) else error
                    raise self._translated(error, started=started) from cause
                time.sleep(wait_s)

    def _attempt(self, messages: Sequence[Message], max_tokens: int) -> Generator[str, None, None]:
        """Send the request once. A thread reads, so that silence of any kind, name lookup included, has a limit."""
        happenings: queue.SimpleQueue[_Piece | _Alive | _End | _Failed] = queue.SimpleQueue()
        abandoned = threading.Event()
        opened: list[openai.Stream[ChatCompletionChunk]] = []
        arguments = (messages, max_tokens, happenings.put, abandoned, opened)
        threading.Thread(target=self._read, args=arguments, name="LLM reply", daemon=True).start()
        n_characters = 0
        longest_s = self._timeout_s * LONGEST_REPLY_IN_TIMEOUTS
        deadline = time.monotonic() + longest_s
        try:
            while True:
                try:
                    happening = happenings.get(timeout=self._timeout_s)
                except queue.Empty:
                    raise self._silence(started=n_characters > 0) from None
                if time.monotonic() > deadline and not isinstance(happening, _End):
                    raise LLMTimeout(
                        f"the reply of the LLM at {self._host} was not done after {longest_s:g} s: check the server, "
                        "raise RANK37_LLM_TIMEOUT_S, or use a quicker model (OPENAI_MODEL)"
                    )
                match happening:
                    case _Piece(text):
                        n_characters += len(text)
                        if n_characters > max_tokens * MOST_CHARACTERS_PER_TOKEN:
                            raise LLMBadReply(
                                f"the LLM at {self._host} wrote more than {n_characters} characters although "
                                f"{max_tokens} tokens are the limit: this server ignores the limit, use another"
                            )
                        yield text
                    case _End():
                        return self._check_end(happening, n_characters, max_tokens)
                    case _Failed(openai.APIError() as error):
                        raise error
                    case _Failed(error):
                        raise LLMBadReply(
                            f"the reply of {self._host} is not what OpenAI's protocol says ({type(error).__name__}: "
                            f"{self._shown(str(error))}): check OPENAI_BASE_URL = {self._url_shown}"
                        ) from error
        finally:
            abandoned.set()
            for stream in opened:  # what never becomes a piece would keep the thread reading
                with suppress(Exception):  # it may be in the middle of a read
                    stream.close()

    def _read(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        put: Callable[[_Piece | _Alive | _End | _Failed], None],
        abandoned: threading.Event,
        opened: list[openai.Stream[ChatCompletionChunk]],
    ) -> None:
        """In a thread of its own: put what happens until the reply ends or nobody listens any more."""
        try:
            reason = None
            with self._open(messages, max_tokens) as chunks:
                opened.append(chunks)
                for chunk in chunks:
                    if abandoned.is_set():
                        return
                    for choice in chunk.choices or ():
                        # A model that declines may say so in a field of its own: that is its reply.
                        text = choice.delta.content or choice.delta.refusal
                        put(_Piece(_well_formed(text)) if text else _Alive())
                        reason = choice.finish_reason or reason
            put(_End(reason, chunks.response.headers.get("content-type", "")))
        except Exception as error:  # carried to the caller's thread, where each kind is translated
            put(_Failed(error))

    def _open(self, messages: Sequence[Message], max_tokens: int) -> openai.Stream[ChatCompletionChunk]:
        """Start the reply, leaving out or renaming options that the model says it does not take."""
        while True:
            options: dict[str, object] = {self._limit_name: max_tokens, **self._request_options}
            try:
                return self._client.chat.completions.create(
                    model=self._model,
                    messages=cast("list[ChatCompletionMessageParam]", [asdict(message) for message in messages]),
                    stream=True,
                    extra_body=options,
                )
            except openai.BadRequestError as error:
                if not self._adapts_to(error, options):
                    raise

    def _adapts_to(self, error: openai.BadRequestError, options: Mapping[str, object]) -> bool:
        """Whether a rejected option could be changed; the change holds for later requests too."""
        message = _said(error)
        if "max_tokens" in options and "max_completion_tokens" in message:
            self._limit_name = "max_completion_tokens"
            return True
        if "temperature" in options and (error.param == "temperature" or "'temperature'" in message):
            self._request_options = {}
            return True
        return False

    def _check_end(self, end: _End, n_characters: int, max_tokens: int) -> None:
        """Raise LLMBadReply unless the reply is whole."""
        if end.finish_reason == "length":
            raise LLMBadReply(
                f"the LLM's reply was cut at {max_tokens} tokens: raise RANK37_ANSWER_TOKENS, or take a model "
                "that thinks less before it answers (OPENAI_MODEL)"
            )
        if end.finish_reason == "content_filter":
            raise LLMBadReply(
                f"the content filter of {self._host} cut the reply: ask differently, or set another OPENAI_MODEL"
            )
        if end.finish_reason is None and not n_characters and "event-stream" not in end.content_type:
            raise LLMBadReply(
                f"{self._host} answers with {end.content_type or 'an unknown type'} instead of a stream of events: "
                f"check OPENAI_BASE_URL = {self._url_shown} (for most servers it ends in /v1)"
            )
        if end.finish_reason is None:
            raise LLMBadReply(f"the LLM's reply broke off: {self._host} closed the stream before its end: ask again")
        if not n_characters:
            raise LLMBadReply(
                f"the LLM {self._model!r} at {self._host} sent an empty reply (finish_reason {end.finish_reason!r}): "
                "ask again, or use another model (OPENAI_MODEL)"
            )

    def _silence(self, *, started: bool) -> LLMTimeout:
        return LLMTimeout(
            f"no {'further piece of the reply' if started else 'reply'} from the LLM at {self._host} for "
            f"{self._timeout_s:g} s: check the server, or raise RANK37_LLM_TIMEOUT_S"
        )

    def _translated(self, error: openai.APIError, *, started: bool) -> LLMError:
        """The error as a person should read it."""
        match error:
            case openai.APITimeoutError():
                return self._silence(started=started)
            case openai.APIConnectionError():
                return self._translated_connection(error, started=started)
            case openai.APIStatusError():
                return self._translated_status(error)
        report = f"the LLM at {self._host} reports an error"
        if started:
            return LLMBadReply(f"{report} in the middle of its reply: {self._shown(error.message)}: ask again")
        return LLMUnavailable(f"{report}: {self._shown(error.message)}: look into the server's log")

    def _translated_connection(self, error: openai.APIConnectionError, *, started: bool) -> LLMError:
        causes = list(_causes(error))
        reason = self._shown(str(causes[-1]) or type(causes[-1]).__name__)
        if started:
            return LLMBadReply(
                f"the LLM's reply broke off: the connection to {self._host} was lost ({reason}): ask again"
            )
        setting = f"check OPENAI_BASE_URL = {self._url_shown}"
        if any(type(cause).__name__ == "DecodingError" for cause in causes):
            return LLMBadReply(f"the reply of {self._host} is not compressed as it says ({reason}): {setting}")
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return LLMUnavailable(
                f"the LLM's host {self._host} has no known address ({reason}): {setting} and the network"
            )
        # By name, since the client's transport is httpx or httpx2.
        if any(type(cause).__name__ == "ConnectError" for cause in causes):
            return LLMUnavailable(
                f"no connection to the LLM at {self._host} ({reason}): start the server, or {setting}"
            )
        return LLMUnavailable(
            f"the LLM at {self._host} hung up before it replied ({reason}): look into the server's log"
        )

    def _translated_status(self, error: openai.APIStatusError) -> LLMError:
        status, said = error.status_code, self._shown(_said(error))
        match status:
            case 401 | 403:
                # What the server says is left out: it may repeat the key.
                return LLMRejected(
                    f"{self._host} refuses the key for the LLM {self._model!r} (status {status}): "
                    f"{'check' if self._secret else 'set'} OPENAI_API_KEY and what it may use"
                )
            case 404:
                return LLMRejected(
                    f"{self._host} knows no model {self._model!r}, or no such address (status 404, {said}): "
                    f"check OPENAI_MODEL and OPENAI_BASE_URL = {self._url_shown}"
                )
            case 429 if error.code == "insufficient_quota":
                return LLMRateLimited(f"the quota at {self._host} is used up ({said}): top it up, or use another LLM")
            case 429:
                return LLMRateLimited(
                    f"{self._host} gets too many requests (status 429 after {self._retries} retries, {said}): wait a "
                    "little and ask again, or raise RANK37_LLM_RETRIES"
                )
            case _ if _is_too_long(error):
                return LLMRejected(
                    f"the prompt is too long for the LLM {self._model!r} ({said}): lower RANK37_PROMPT_TOKENS or "
                    "RANK37_ANSWER_TOKENS"
                )
            case _ if status >= 500 or status == 408:
                return LLMUnavailable(f"the LLM at {self._host} fails (status {status}, {said}): try again later")
        return LLMRejected(
            f"{self._host} refuses the request (status {status}, {said}): check OPENAI_MODEL = {self._model!r}"
        )

    @property
    def _url_shown(self) -> str:
        """The base URL without user name and password."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{self._host}{parts.path}"

    def _shown(self, text: str) -> str:
        """What a server says, in one line of at most 300 characters, without the key."""
        text = " ".join(text.split())
        if self._secret:
            text = text.replace(self._secret, "(key)")
        return text if len(text) <= 300 else text[:299] + "…"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the origin last."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _said(error: openai.APIError) -> str:
    """The server's own words: OpenAI's `message`, FastAPI's `detail`, or plain text; a web page is no words."""
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail")
    text = str(body or "")
    return text if text and not text.lstrip().startswith("<") else "no reason given"


def _is_too_long(error: openai.APIStatusError) -> bool:
    said = _said(error).lower()
    return error.status_code == 413 or (
        error.status_code in (400, 422)
        and (
            error.code == "context_length_exceeded"
            or ("context" in said and any(word in said for word in ("length", "window", "size")))
        )
    )


def _retry_wait_s(error: openai.APIError, attempt: int) -> float | None:
    """Seconds to wait before the request is sent again; None: it would not help.

    A timeout is not tried again: the person has waited for `timeout_s` already.
    """
    own_wait_s = FIRST_RETRY_WAIT_S * 2.0**attempt * random.uniform(0.75, 1.25)
    if isinstance(error, openai.APITimeoutError):
        return None
    if isinstance(error, openai.APIConnectionError):
        return own_wait_s
    if not isinstance(error, openai.APIStatusError) or error.code == "insufficient_quota":
        return None
    if error.status_code not in (408, 429) and error.status_code < 500:
        return None
    wait_s = _asked_wait_s(error.response.headers)
    if wait_s is None:
        return own_wait_s
    return wait_s if wait_s <= LONGEST_RETRY_WAIT_S else None


def _asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, or None.

    >>> _asked_wait_s({"retry-after": "7"}), _asked_wait_s({"retry-after-ms": "250"})
    (7.0, 0.25)
    >>> _asked_wait_s({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}), _asked_wait_s({"retry-after": "soon"})
    (0.0, None)
    """
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        asked = headers.get("retry-after")
        if asked is None:
            return None
        if asked.replace(".", "", 1).isdigit():
            return float(asked)
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return None


def _well_formed(text: object) -> str:
    """The text with half surrogates replaced, which no file or page can hold. Raises TypeError for what is no text."""
    if not isinstance(text, str):
        raise TypeError(f"a piece of the reply is {type(text).__name__}, not text")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_loopback(host: str) -> bool:
    """Whether a host name means this machine.

    >>> [_is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "192.168.0.5", "api.openai.com")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
