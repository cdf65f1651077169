"""Small servers that speak the rerank protocols of hosted APIs and self-hosted services, and fail as servers fail.

Behind each is a real scorer: what they answer are the logits, or their sigmoids, of a cross-encoder. They know as much
of a protocol as its documentation says a client may rely on, and refuse what it says is refused.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self, get_args

from rag.engines.cross_encoder import sigmoid
from rag.ports import Reranker
from rag.types import Passage

Dialect = Literal[
    "cohere",  # POST /v2/rerank, a key; results[].relevance_score in [0, 1]
    "jina",  # POST /v1/rerank, a key; the same form
    "tei",  # GET /info, POST /rerank with `texts` and raw_scores; a bare list with `score`; at most 32 texts
    "infinity",  # GET /models, POST /rerank with raw_scores
    "vllm",  # GET /v1/models, POST /rerank, /v1/rerank, /v2/rerank with use_activation
    "vllm-old",  # before it knew that option: it is ignored, scores are sigmoids
    "vllm-identity",  # a checkpoint whose configuration asks for no activation
    "llama.cpp",  # POST /v1/rerank only, raw logits, no option, and nothing that says who it is
    "plain",  # the same path, sigmoids
]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

Mode = Literal[
    "serves",
    "breaks_off",  # half of the reply, then the connection is cut
    "hangs",  # accepts the request and never answers
    "drips",  # a byte now and then, for ever
    "rate_limited_twice",  # 429 with Retry-After for two requests, then it serves
    "rate_limited",  # 429 for ever
    "rate_limited_for_long",  # 429 with a Retry-After of an hour
    "unauthorized",  # 401 that repeats the key, as some APIs do
    "server_error",  # 500 for ever
    "server_error_once",  # 503 once, then it serves
    "bad_request",  # 400
    "redirects",  # 307 to another host
    "html",  # status 200 and a web page, as a captive portal or a wrong address gives
    "malformed",  # status 200 and broken JSON
    "no_results",  # status 200 and JSON without results
    "too_few",  # the last result is missing
    "twice",  # a result is there twice, another is missing
    "beyond",  # an index that no passage has
    "nan",  # a score that is not a number, as Python's JSON writes it
    "text_score",  # a score that is a string
    "null_score",
    "out_of_scale",  # probabilities that are none
]
KEY = "sk-rerank-7f3a9c"
MODEL = "minilm-reranker-v1"


class RerankServer:
    """Listens on a free loopback port while used as a context manager.

    Attributes:
        mode: How the next request for scores is answered; can be changed at any time.
        requests: Bodies of the requests for scores so far, with their `path` and the header `authorization`.
        asked: Paths of all requests, in order.
        models: Names of the models that it serves.
    """

    def __init__(
        self,
        dialect: Dialect,
        scorer: Reranker,
        *,
        mode: Mode = "serves",
        key: str | None = None,
        retry_after: str = "0.01",
        models: Sequence[str] = (MODEL,),
        most_texts: int = 32,
    ) -> None:
        self.dialect = dialect
        self.mode: Mode = mode
        self.key = KEY if key is None and dialect in ("cohere", "jina") else key
        self.retry_after = retry_after
        self.models = list(models)
        self.most_texts = most_texts
        self.requests: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.closing = threading.Event()
        self._scorer = scorer
        self._known: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(_RerankHandler):
            rerank_server = server

        self._http = _LoopbackServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Go down: the port refuses connections from then on."""
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def logits(self, query: str, texts: Sequence[str]) -> list[float]:
        """What the scorer gives; each pair is computed once."""
        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if (query, text) not in self._known]
            for text, one in zip(missing, self._scorer.score(query, [Passage("", t) for t in missing]), strict=True):
                assert one.logit is not None
                self._known[query, text] = one.logit
            return [self._known[query, text] for text in texts]

    def record(self, body: dict[str, Any]) -> int:
        """Keep a request for scores; returns how many there are now."""
        with self._lock:
            self.requests.append(body)
            return len(self.requests)


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up on a faulty server is expected."""


class _RerankHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rerank_server: RerankServer

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""

    def do_GET(self) -> None:
        server = self.rerank_server
        server.asked.append(f"GET {self.path}")
        if self._refused_without_key():
            return
        described = self._description()
        if described is None:
            self._send(404, {"detail": "Not Found"})
        else:
            self._send(200, described)

    def _description(self) -> dict[str, Any] | None:
        server = self.rerank_server
        match server.dialect, self.path:
            case "tei", "/info":
                return {
                    "model_id": server.models[0],
                    "model_sha": "a1b2c3",
                    "model_dtype": "float16",
                    "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
                    "max_input_length": 512,
                    "max_client_batch_size": server.most_texts,
                    "version": "1.8.0",
                }
            case "infinity", "/models":
                models = [
                    {
                        "id": name,
                        "object": "model",
                        "owned_by": "infinity",
                        "backend": "torch",
                        "capabilities": ["rerank"] if "embed" not in name else ["embed"],
                        "dtype": "float16",
                        "revision": None,
                    }
                    for name in server.models
                ]
                return {"data": models, "object": "list"}
            case (("vllm" | "vllm-old" | "vllm-identity"), "/v1/models"):
                models = [{"id": name, "object": "model", "owned_by": "vllm"} for name in server.models]
                return {"data": models, "object": "list"}
        return None

    def do_POST(self) -> None:
        server = self.rerank_server
        server.asked.append(f"POST {self.path}")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        n_requests = server.record({**body, "path": self.path, "authorization": self.headers.get("Authorization")})
        if self.path not in self._paths():
            return self._send(404, {"detail": "Not Found"})
        if self._refused_without_key():
            return None
        match server.mode:
            case "hangs":
                server.closing.wait()
                self.close_connection = True
            case "unauthorized":
                self._send(401, {"message": f"invalid api token {self.headers.get('Authorization')}"})
            case "rate_limited" | "rate_limited_for_long":
                self._limited("3600" if server.mode == "rate_limited_for_long" else server.retry_after)
            case "rate_limited_twice" if n_requests <= 2:
                self._limited(server.retry_after)
            case "server_error":
                self._send(500, {"error": "the model is on fire"})
            case "server_error_once" if n_requests == 1:
                self._send(503, {"error": "the model is loading"})
            case "bad_request":
                self._send(400, {"message": "query: must not be that long"})
            case "redirects":
                self._send(307, {}, {"Location": "http://192.0.2.1/v2/rerank"})
            case "html":
                self._send_bytes(200, b"<!doctype html><title>Sign in to the network</title>", "text/html")
            case "malformed":
                self._send_bytes(200, b'{"results": [{"index": 0, "relev')
            case "no_results":
                self._send(200, {"id": "1"})
            case _:
                self._rerank(body)
        return None

    def _paths(self) -> tuple[str, ...]:
        return {
            "cohere": ("/v2/rerank",),
            "jina": ("/v1/rerank",),
            "tei": ("/rerank",),
            "infinity": ("/rerank",),
            "llama.cpp": ("/v1/rerank",),
            "plain": ("/v1/rerank",),
        }.get(self.rerank_server.dialect, ("/rerank", "/v1/rerank", "/v2/rerank"))

    def _rerank(self, body: dict[str, Any]) -> None:
        server = self.rerank_server
        tei = server.dialect == "tei"
        texts = body["texts" if tei else "documents"]
        if not texts:
            return self._send(422, {"error": "`texts` cannot be empty"})
        if tei and len(texts) > server.most_texts:
            return self._send(
                413, {"error": f"batch size {len(texts)} > maximum allowed batch size {server.most_texts}"}
            )
        if not tei and server.dialect not in ("llama.cpp", "plain") and body.get("model") not in server.models:
            return self._send(404, {"message": f"model {body.get('model')!r} not found"})
        logits = server.logits(body["query"], texts)
        raw = {
            "tei": body.get("raw_scores", False),
            "infinity": body.get("raw_scores", False),
            "vllm": body.get("use_activation") is False,
            "vllm-identity": True,
            "llama.cpp": True,
        }.get(server.dialect, False)
        numbers: list[Any] = logits if raw else [sigmoid(logit) for logit in logits]
        match server.mode:
            case "nan":
                numbers[-1] = float("nan")
            case "text_score":
                numbers[-1] = str(numbers[-1])
            case "null_score":
                numbers[-1] = None
            case "out_of_scale":
                numbers = [5 * number for number in numbers]
        field = "score" if tei else "relevance_score"
        results: list[dict[str, Any]] = [{"index": index, field: number} for index, number in enumerate(numbers)]
        if server.mode not in ("nan", "text_score", "null_score"):
            results.sort(key=lambda result: -result[field])
        results = results[: body.get("top_n") or None]
        match server.mode:
            case "too_few":
                results.pop()
            case "twice":
                results[-1] = results[0]
            case "beyond":
                results[-1]["index"] = len(texts)
        reply = json.dumps(results if tei else {"id": "1", "results": results, "meta": {}}).encode()
        match server.mode:
            case "breaks_off" | "drips":
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                if server.mode == "breaks_off":
                    self.wfile.write(reply[: len(reply) // 2])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                for byte in reply:
                    if server.closing.wait(0.05):
                        break
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
            case _:
                self._send_bytes(200, reply)
        return None

    def _refused_without_key(self) -> bool:
        server = self.rerank_server
        if server.key is None or self.headers.get("Authorization") == f"Bearer {server.key}":
            return False
        self._send(401, {"message": "no api key supplied"})
        return True

    def _limited(self, retry_after: str) -> None:
        self._send(429, {"message": "You are past the per minute request limit."}, {"Retry-After": retry_after})

    def _send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(body).encode(), headers=headers)

    def _send_bytes(
        self, status: int, body: bytes, content_type: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
