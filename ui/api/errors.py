"""Errors as replies: a status, a kind and a message for a person; never a traceback.

What the errors say is written where they are raised. Replies on OpenAI's paths have OpenAI's shape.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import JSONResponse

from rag.errors import (
    BadInput,
    EngineFault,
    FileRefused,
    LLMError,
    LLMTimeout,
    Rank37Error,
    TooManyQuestions,
)

OPENAI_PATHS = ("/v1/chat/", "/v1/models")
TURN_RETRY_S = 10
"""How long a caller is told to stay away where people at the pages have taken all places: how long they take is not
known here."""


class NotSignedIn(Rank37Error):
    """The request has no key that is in force."""


class NotAllowed(Rank37Error):
    """The caller may see it, not do this to it; or the request comes from a foreign page."""


class NotHere(BadInput):
    """There is none of that name that the caller may use; which of both is not said."""


class TooLarge(BadInput):
    """The request's body is longer than it may be."""


class LineFull(Rank37Error):
    """So many questions wait already that no more are taken."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Fault(Rank37Error):
    """A fault of the program itself; its details are in the log."""


_STATUS: dict[type[Rank37Error], int] = {
    NotSignedIn: 401,
    NotAllowed: 403,
    NotHere: 404,
    TooLarge: 413,
    LineFull: 429,
    TooManyQuestions: 429,
    BadInput: 400,
    FileRefused: 400,
    Fault: 500,
    EngineFault: 502,
    LLMTimeout: 504,
    LLMError: 502,
    Rank37Error: 503,
}
"""By class; a subclass stands before its base. What is left is something that is not available now."""

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


def status_of(error: Rank37Error) -> int:
    """The HTTP status that an error is told with."""
    return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def error_body(path: str, status: int, kind: str, message: str) -> dict[str, Any]:
    """An error as JSON values, in the shape that clients of the path expect.

    >>> error_body("/v1/ask", 400, "BadInput", "the question is empty: type one")
    {'error': {'type': 'BadInput', 'message': 'the question is empty: type one'}}
    """
    if not path.startswith(OPENAI_PATHS):
        return {"error": {"type": kind, "message": message}}
    usual = "invalid_request_error" if status < 500 else "server_error"
    code = _OPENAI_CODES.get(status, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower())
    error = {"message": message, "type": _OPENAI_TYPES.get(status, usual), "param": None, "code": code}
    return {"error": error}


def body_of(path: str, error: Rank37Error) -> dict[str, Any]:
    """What is told of an error on a path."""
    return error_body(path, status_of(error), type(error).__name__, str(error))


def reply_of(path: str, error: Rank37Error) -> JSONResponse:
    """The whole reply."""
    headers = {}
    if isinstance(error, LineFull):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, TooManyQuestions):
        headers["Retry-After"] = str(TURN_RETRY_S)
    if isinstance(error, NotSignedIn):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(path, error), status_of(error), headers)
