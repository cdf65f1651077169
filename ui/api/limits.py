"""Limits on what a request may weigh: longer bodies are refused while they arrive."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.api.errors import TooLarge, reply_of

MOST_BODY_BYTES = 4 * 2**20
"""Of every request but an upload."""
FORM_BYTES = 2**16
"""What an upload may have around its file."""
UPLOAD_PATH = "/v1/documents"


class BodyLimit:
    """ASGI middleware: replies 413 to a body that is too long, by its declared length or by what came of it."""

    def __init__(self, app: ASGIApp, *, max_file_bytes: int) -> None:
        self._app = app
        self._max_file_bytes = max_file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] == UPLOAD_PATH and scope["method"] == "POST"
        limit = self._max_file_bytes + FORM_BYTES if is_upload else MOST_BODY_BYTES
        remedy = "split the file, or raise RANK37_MAX_FILE_MB" if is_upload else "send less at a time"
        message = f"the request is longer than {limit / 2**20:,.1f} MiB: {remedy}"
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await reply_of(scope["path"], TooLarge(message))(scope, receive, send)
            return
        n_bytes = 0

        async def receive_limited() -> Message:
            nonlocal n_bytes
            received = await receive()
            n_bytes += len(received.get("body", b""))
            if n_bytes > limit:
                raise HTTPException(413, message)
            return received

        await self._app(scope, receive_limited, send)
