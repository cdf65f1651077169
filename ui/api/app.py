"""The API put together: routes, who gets in, limits, errors, OpenAPI, and MCP at /mcp."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from mcp.server.transport_security import TransportSecuritySettings
from starlette.exceptions import HTTPException

from ingest.library import Library
from rag.errors import Rank37Error
from rag.ports import KeyStore
from ui.api import collections, documents, health, openai_chat, questions, rerank, traces
from ui.api.access import VIEWER_CSS, VIEWER_JS, Caller, Guard
from ui.api.errors import NotSignedIn, error_body, reply_of
from ui.api.limits import MOST_BODY_BYTES, BodyLimit
from ui.api.line import Line
from ui.api.logs import RequestLog
from ui.api.metrics import Metrics
from ui.api.service import Service, caller_of
from ui.mcp.tools import make_server

_log = logging.getLogger(__name__)

DESCRIPTION = """Questions of your own documents: answers whose every statement cites a page, or an honest refusal.

Errors are `{"error": {"type", "message"}}`; on `/v1/chat/completions` and `/v1/models` they have OpenAI's shape."""

_KINDS = {404: "NotFound", 405: "MethodNotAllowed", 413: "TooLarge"}


def make_app(library: Library, keys: KeyStore, *, on_loopback: bool, allow_open: bool = False) -> FastAPI:
    """The ASGI app over an open library.

    Args:
        library: What answers; it stays its owner's to close.
        keys: Which keys there are.
        on_loopback: Whether only this machine reaches the server.
        allow_open: Whether others get in without a key where there is none.
    """
    settings = library.settings
    metrics = Metrics()
    # Made in the app's own event loop, as the line needs it.
    tools = make_server(lambda: app.state.service, _caller_of_tool)
    mcp_app = tools.streamable_http_app(
        stateless_http=True,  # no session that another caller could take over
        json_response=True,
        max_request_body_size=MOST_BODY_BYTES,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the guard's task
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(library, keys, Line(settings.at_work, settings.waiting), metrics)
        library.watchers.append(metrics.count_question)
        async with tools.session_manager.run():
            yield
        library.watchers.remove(metrics.count_question)

    key = HTTPBearer(auto_error=False, description="A key of `python -m rag keys create NAME`")
    app = FastAPI(
        title="Rank37",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its own page would load the viewer from another host
        redoc_url=None,
        dependencies=[Depends(key)],
    )
    _add_viewer(app)
    for part in (questions, documents, collections, rerank, traces, openai_chat, health):
        app.include_router(part.router)
    app.router.routes.extend(mcp_app.routes)
    app.add_exception_handler(Rank37Error, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_file_bytes=int(settings.max_file_mb * 2**20))
    people_sign_in = settings.auth != "none"
    app.add_middleware(Guard, keys=keys, on_loopback=on_loopback, allow_open=allow_open, people_sign_in=people_sign_in)
    app.add_middleware(RequestLog, metrics=metrics)
    return app


def _add_viewer(app: FastAPI) -> None:
    """The page /docs, with the files of its viewer from the machine itself: it tells no other host of a visit."""

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="Rank37: HTTP API",
            swagger_js_url=f"{root}{VIEWER_JS}",
            swagger_css_url=f"{root}{VIEWER_CSS}",
            swagger_favicon_url="data:,",  # none
            swagger_ui_parameters={"validatorUrl": "none"},  # it would send the description to a service
        )

    folder = VIEWER_JS.rpartition("/")[0]
    app.mount(folder, StaticFiles(packages=[("fastapi_offline", "static")]), name="viewer")


def _caller_of_tool(request: Request | None) -> Caller:
    """Who calls a tool over HTTP: the guard has seen every request."""
    if request is None:
        raise NotSignedIn("this call came with no request, so nobody knows whose it is")
    return caller_of(request)


async def _told(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Rank37Error)
    reply = reply_of(request.url.path, error)
    _log.info("replied %d: %s", reply.status_code, type(error).__name__)
    _log.debug("%s", error)
    return reply


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A request that does not fit its description: which fields, and why, without what was sent."""
    assert isinstance(error, RequestValidationError)
    issues = [f"{'.'.join(str(place) for place in one['loc'])}: {one['msg']}" for one in error.errors()[:5]]
    body = error_body(request.url.path, 400, "BadInput", "; ".join(issues) + " (GET /openapi.json describes requests)")
    return JSONResponse(body, 400)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: an unknown path, a method that it has not, a body too long."""
    assert isinstance(error, HTTPException)
    kind = _KINDS.get(error.status_code, "BadInput")
    body = error_body(request.url.path, error.status_code, kind, str(error.detail))
    return JSONResponse(body, error.status_code, error.headers)
