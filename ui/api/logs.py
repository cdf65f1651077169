"""The server's log: one line a request, as text or as JSON, without texts, questions or keys.

Errors are logged by their kind; their messages, which can name what a person typed, only at level DEBUG.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.api.errors import Fault, reply_of
from ui.api.metrics import Metrics

_log = logging.getLogger(__name__)

UNKNOWN_ROUTE = "(none)"
MCP_PATH = "/mcp"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_LEFT = 499
"""What is logged for a request whose caller did not wait for the reply."""


class JsonLines(logging.Formatter):
    """A record as one JSON object; what a record was given as `fields` stands beside the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        row = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False)


def set_up_logs(*, as_json: bool) -> None:
    """Log to stderr from now on, the program's own parts from INFO, the others from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("rag", "ingest", "ui"):
        logging.getLogger(name).setLevel(logging.INFO)


class RequestLog:
    """ASGI middleware, the outermost: logs and counts each request, and turns a fault into a plain reply."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except OSError:
            status = CLIENT_LEFT
        except Exception as error:
            _log.exception("a request met a fault")
            if not status:
                fault = Fault(
                    f"Rank37 met a fault of its own ({type(error).__name__}): the server's log has the details"
                )
                await reply_of(scope["path"], fault)(scope, receive, send_noting)
        finally:
            self._note(scope, status or CLIENT_LEFT, (time.perf_counter() - started) * 1000)

    def _note(self, scope: Scope, status: int, milliseconds: float) -> None:
        # The path itself can hold ids, and anything at all where there is no such route.
        unknown = scope["path"] if scope["path"] == MCP_PATH else UNKNOWN_ROUTE
        route = getattr(scope.get("route"), "path", unknown)
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        caller = scope.get("state", {}).get("caller")
        key_name = caller.key_name if caller else ""
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(milliseconds, 1),
            "key": key_name,
        }
        self._metrics.count_request(method, route, status)
        _log.info(
            "%s %s %d %.0f ms%s",
            method,
            route,
            status,
            milliseconds,
            f" [{key_name}]" if key_name else "",
            extra={"fields": fields},
        )
