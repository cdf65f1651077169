"""A small server of OpenAI's streaming chat protocol that replies as scripted, or fails in a way that servers fail.

It exists for the failures that a healthy server can't be made to show. It has no model: how a real server behaves is
tested against one.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self, get_args

Mode = Literal[
    "reply",  # streams the scripted reply, well-behaved
    "breaks_off",  # half of the reply, then the connection is cut inside the body
    "ends_early",  # half of the reply, then a clean end of the body, without finish_reason and [DONE]
    "error_in_stream",  # half of the reply, then an error object as an event
    "hangs",  # accepts the request and never answers
    "hangs_after_headers",  # status 200, then nothing
    "only_keeps_alive",  # status 200, then comment lines for ever: the connection lives, the reply does not
    "drips_then_hangs",  # half of the reply, then nothing
    "endless",  # pieces for ever, whatever max_tokens says
    "rate_limited_twice",  # 429 with Retry-After for two requests, then the reply
    "rate_limited",  # 429 for ever
    "rate_limited_for_long",  # 429 with a Retry-After of an hour
    "quota_used_up",  # 429 that no waiting cures
    "unauthorized",  # 401
    "forbidden",  # 403
    "unknown_model",  # 404
    "context_too_long",  # 400 with OpenAI's code context_length_exceeded
    "refuses_max_tokens",  # 400 until the limit is called max_completion_tokens, as OpenAI's reasoning models do
    "refuses_temperature",  # 400 while a temperature is given, as OpenAI's reasoning models do
    "server_error",  # 500 for ever
    "server_error_once",  # 500 once, then the reply
    "html",  # status 200 and a web page, as a captive portal or a wrong address gives
    "malformed_json",  # status 200, event stream, broken JSON in it
    "not_a_chunk",  # status 200, event stream, valid JSON that is no chunk
    "empty",  # a well-formed stream without text
    "length",  # the reply, cut by finish_reason "length"
    "content_filter",  # half of the reply, then finish_reason "content_filter"
    "endless_thinking",  # chunks without text for ever, as a model that never comes to its answer
    "endless_line",  # one event that never ends
    "json_instead_of_stream",  # the whole reply as one JSON object, as a server that can't stream
    "stream_as_text",  # the reply, well-behaved but for its content type
    "not_gzip",  # says that it is compressed, and is not
    "not_utf8",  # bytes that are no UTF-8 in the middle of a chunk
]
MODES: tuple[Mode, ...] = get_args(Mode)

Reply = str | Callable[[list[dict[str, Any]]], str]
"""A text, or what makes one of the messages of the request."""


class FaultyLLMServer:
    """Listens on a free loopback port while used as a context manager.

    Attributes:
        mode: How the next request is answered; can be changed at any time.
        replies: Texts for successive requests; the last one is repeated.
        requests: Bodies of the requests received so far, in order, with the header `Authorization` as key
            `authorization`.
        piece_delay_s: Pause before each piece of a reply.
        hung_up: Set once a client has closed the connection before the reply's end.

    >>> with FaultyLLMServer("Refunds take 7 days [1].") as server:
    ...     server.base_url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self,
        *replies: Reply,
        mode: Mode = "reply",
        retry_after_s: float = 0.05,
        piece_delay_s: float = 0.0,
    ) -> None:
        self.mode: Mode = mode
        self.replies: Sequence[Reply] = replies or ("Items can be returned within seven days of receipt [1].",)
        self.requests: list[dict[str, Any]] = []
        self.retry_after_s = retry_after_s
        self.piece_delay_s = piece_delay_s
        self.closing = threading.Event()
        self.hung_up = threading.Event()
        self._lock = threading.Lock()
        self._n_answered = 0
        server = self

        class Handler(_ChatHandler):
            llm_server = server

        self._http = _LoopbackServer(("127.0.0.1", 0), Handler)

    @property
    def base_url(self) -> str:
        """What `OPENAI_BASE_URL` would be."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def record(self, body: dict[str, Any]) -> int:
        """Keep a request; returns how many there are now."""
        with self._lock:
            self.requests.append(body)
            return len(self.requests)

    def next_reply(self, messages: list[dict[str, Any]]) -> str:
        """The text for the next request that is answered."""
        with self._lock:
            reply = self.replies[min(self._n_answered, len(self.replies) - 1)]
            self._n_answered += 1
        return reply(messages) if callable(reply) else reply


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on a faulty server is expected."""


class _ChatHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    llm_server: FaultyLLMServer

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body["authorization"] = self.headers.get("Authorization")
        server, mode = self.llm_server, self.llm_server.mode
        n_requests = server.record(body)
        if self.path != "/v1/chat/completions":
            return self._fail(404, f"no such path: {self.path}", "not_found")
        match mode:
            case "hangs":
                self._hang()
            case "rate_limited_twice" if n_requests <= 2:
                self._fail(429, "Slow down.", "rate_limit_exceeded", retry_after=server.retry_after_s)
            case "rate_limited":
                self._fail(429, "Slow down.", "rate_limit_exceeded", retry_after=server.retry_after_s)
            case "rate_limited_for_long":
                self._fail(429, "Slow down.", "rate_limit_exceeded", retry_after=3600)
            case "quota_used_up":
                self._fail(429, "You exceeded your current quota.", "insufficient_quota")
            case "unauthorized":
                self._fail(401, f"Incorrect API key provided: {body['authorization']}", "invalid_api_key")
            case "forbidden":
                self._fail(403, "Your project has no access.", "forbidden")
            case "unknown_model":
                self._fail(404, f"The model `{body['model']}` does not exist.", "model_not_found")
            case "context_too_long":
                self._fail(400, "This model's maximum context length is 512 tokens.", "context_length_exceeded")
            case "refuses_max_tokens" if "max_tokens" in body:
                self._fail(
                    400,
                    "Unsupported parameter: 'max_tokens' is not supported with this model. "
                    "Use 'max_completion_tokens' instead.",
                    "unsupported_parameter",
                    parameter="max_tokens",
                )
            case "refuses_temperature" if "temperature" in body:
                self._fail(
                    400,
                    "Unsupported value: 'temperature' does not support 0 with this model.",
                    "unsupported_value",
                    parameter="temperature",
                )
            case "server_error":
                self._fail(500, "The engine is on fire.", "internal_error")
            case "server_error_once" if n_requests == 1:
                self._fail(500, "The engine is on fire.", "internal_error")
            case "json_instead_of_stream":
                message = {"role": "assistant", "content": server.next_reply(body["messages"])}
                whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
                self._send(200, json.dumps(whole).encode(), "application/json")
            case "not_gzip":
                self._send(200, b"data: {}\n\n", "text/event-stream", {"Content-Encoding": "gzip"})
            case "html":
                self._send(200, b"<!doctype html><title>Sign in to the network</title>", "text/html")
            case _:
                try:
                    self._stream(mode, server.next_reply(body["messages"]))
                except ConnectionError:
                    server.hung_up.set()
                    self.close_connection = True
        return None

    def _stream(self, mode: Mode, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain" if mode == "stream_as_text" else "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        words = [word + " " for word in text.split(" ")]
        words[-1] = words[-1][:-1]
        half = words[: max(1, len(words) // 2)]
        match mode:
            case "hangs_after_headers":
                return self._hang()
            case "only_keeps_alive":
                while not self.llm_server.closing.wait(0.02):
                    self._write(b": still here\n\n")
                return None
            case "endless":
                while not self.llm_server.closing.is_set():
                    self._piece("more and more ")
                return None
            case "endless_thinking":
                while not self.llm_server.closing.wait(0.01):
                    self._event(_chunk({"role": "assistant"}, None))
                return None
            case "endless_line":
                self._write(b"data: ")
                while not self.llm_server.closing.wait(0.001):
                    self._write(b"x" * 1000)
                return None
            case "not_utf8":
                self._write(b'data: {"choices": [{"delta": {"content": "Re\xff\xfe"}}]}\n\n')
                return self._end()
            case "malformed_json":
                self._write(b'data: {"choices": [{"delta": {"content": "Ref\n\n')
                return self._end()
            case "not_a_chunk":
                self._write(b'data: ["surprise"]\n\n')
                return self._end()
            case "empty":
                self._finish("stop")
                return self._end()
            case "breaks_off" | "ends_early" | "error_in_stream" | "drips_then_hangs" | "content_filter":
                self._pieces(half)
            case _:
                self._pieces(words)
        match mode:
            case "breaks_off":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            case "ends_early":
                self._end()
            case "error_in_stream":
                self._event({"error": {"message": "out of memory", "type": "server_error", "code": 500}})
                self._end()
            case "drips_then_hangs":
                self._hang()
            case "length" | "content_filter":
                self._finish(mode)
                self._end()
            case _:
                self._finish("stop")
                self._end()
        return None

    def _pieces(self, pieces: Sequence[str]) -> None:
        for piece in pieces:
            if self.llm_server.closing.wait(self.llm_server.piece_delay_s):
                return
            self._piece(piece)

    def _piece(self, text: str) -> None:
        self._event(_chunk({"role": "assistant", "content": text}, None))

    def _finish(self, reason: str) -> None:
        self._event(_chunk({}, reason))
        self._write(b"data: [DONE]\n\n")

    def _event(self, data: object) -> None:
        self._write(b"data: " + json.dumps(data).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _hang(self) -> None:
        self.llm_server.closing.wait()
        self.close_connection = True

    def _fail(
        self, status: int, message: str, code: str, *, retry_after: float | None = None, parameter: str | None = None
    ) -> None:
        error = {"message": message, "type": "error", "code": code, "param": parameter}
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._send(status, json.dumps({"error": error}).encode(), "application/json", headers)

    def _send(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _chunk(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
