"""A Qdrant server for tests, on a real socket: qdrant-client's local mode behind the part of the REST API that is used.

Requests and answers are qdrant-client's own, so what the program sends is read as a server would read it. It fails on
demand in the ways that a server between client and disk can. It is no judge of speed, durability or search quality.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models

Fault = Literal["error", "reset", "reset after it was done", "hang"]


class QdrantStandIn:
    """Serves one store, which outlives `stop` and `start` as a server's disk does."""

    def __init__(self) -> None:
        self._store = QdrantClient(":memory:")
        self._turn = threading.RLock()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0
        self.fault: Callable[[str, str], Fault | None] = lambda method, path: None
        """Asked for each request."""
        self.n_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                stand_in._answer(self)

            do_GET = do_PUT = do_POST = answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A connection that is cut is the point."""

        self._http = Server(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """As `kill -9` of a server: connections are refused, what was acknowledged is kept."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.n_requests += 1
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = request.path.partition("?")[0]
        fault = self.fault(request.command, path) if self._http is not None else "reset"
        if fault == "hang":
            time.sleep(2.5)
        if fault in ("hang", "reset"):
            request.close_connection = True
            request.connection.close()
            return
        if fault == "error":
            self._send(request, 500, {"status": {"error": "Service internal error"}, "time": 0.0})
            return
        with self._turn:
            status, result = self._done(request.command, path.strip("/").split("/"), body)
        if fault == "reset after it was done":
            request.close_connection = True
            request.connection.close()
            return
        self._send(request, status, result)

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _done(self, method: str, path: list[str], body: bytes) -> tuple[int, Any]:
        def ok(result: Any) -> tuple[int, Any]:
            return 200, {"result": _json(result), "status": "ok", "time": 0.0}

        def read(kind: Any) -> Any:
            return TypeAdapter(kind).validate_json(body)

        store = self._store
        match method, path:
            case "GET", [""]:
                return 200, {"title": "qdrant - stand-in", "version": "1.16.0", "commit": None}
            case "GET", ["collections", name, "exists"]:
                return ok({"exists": store.collection_exists(name)})
            case "GET", ["collections", name]:
                return ok(store.get_collection(name))
            case "PUT", ["collections", name]:
                made = read(models.CreateCollection)
                return ok(
                    store.create_collection(
                        name, vectors_config=made.vectors, sparse_vectors_config=made.sparse_vectors
                    )
                )
            case "PUT", ["collections", _, "index"]:
                return ok({"operation_id": 1, "status": "completed"})
            case "PUT", ["collections", name, "points"]:
                points = read(models.PointsList)
                mode = {"update_mode": points.update_mode} if getattr(points, "update_mode", None) else {}
                store.upsert(name, points.points, **mode)
                return ok({"operation_id": 1, "status": "completed"})
            case "POST", ["collections", name, "points"]:
                asked = read(models.PointRequest)
                return ok(store.retrieve(name, asked.ids, with_payload=asked.with_payload, with_vectors=False))
            case "POST", ["collections", name, "points", "delete"]:
                store.delete(name, read(models.PointsSelector))
                return ok({"operation_id": 1, "status": "completed"})
            case "POST", ["collections", name, "points", "scroll"]:
                asked = read(models.ScrollRequest)
                points, following = store.scroll(
                    name, asked.filter, asked.limit or 10, offset=asked.offset, with_payload=asked.with_payload
                )
                return ok({"points": points, "next_page_offset": following})
            case "POST", ["collections", name, "points", "count"]:
                return ok(store.count(name, read(models.CountRequest).filter))
            case "POST", ["collections", name, "points", "query"]:
                asked = read(models.QueryRequest)
                return ok(
                    store.query_points(
                        name,
                        query=asked.query,
                        prefetch=asked.prefetch,
                        limit=asked.limit or 10,
                        with_payload=bool(asked.with_payload),
                    )
                )
        return 404, {"status": {"error": f"no such path: {method} /{'/'.join(path)}"}, "time": 0.0}


def _json(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json")
