"""Who calls: each request's key is looked up, and its caller noted, before anything else sees the request.

It decides who gets in. What is whose is `ingest.library`'s knowledge.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rag.errors import Rank37Error
from rag.ports import KeyStore
from ui.api.errors import NotAllowed, NotSignedIn, reply_of

VIEWER_JS, VIEWER_CSS = "/docs/viewer/swagger-ui-bundle.js", "/docs/viewer/swagger-ui.css"
"""What the page /docs is drawn with."""
OPEN_PATHS = frozenset({"/healthz", "/docs", VIEWER_JS, VIEWER_CSS, "/openapi.json"})
"""Tell nothing of anyone: no key is needed wherever the server listens."""
PROBE_PATHS = frozenset({"/readyz", "/metrics"})
"""Tell numbers: no key is needed on this machine."""


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is served."""

    person: str | None = None
    """None: no one in particular, who may use every collection."""
    key_name: str = ""
    """Empty: no key was needed."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at the host.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("[::1]"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware: lets a request in with its caller, or replies 401 or 403."""

    def __init__(
        self, app: ASGIApp, keys: KeyStore, *, on_loopback: bool, allow_open: bool, people_sign_in: bool = False
    ) -> None:
        """Guard an app; where people sign in to its pages, nobody gets in here without a key either."""
        self._app = app
        self._keys = keys
        self._on_loopback = on_loopback
        self._allow_open = allow_open
        self._people_sign_in = people_sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            look_up = partial(self._caller, Headers(scope=scope), scope["path"])
            caller = await anyio.to_thread.run_sync(look_up)
        except Rank37Error as error:
            await reply_of(scope["path"], error)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, headers: Headers, path: str) -> Caller:
        no_key_needed = path in OPEN_PATHS or (path in PROBE_PATHS and self._on_loopback)
        is_open = (self._on_loopback or self._allow_open) and not self._people_sign_in
        if not no_key_needed and (not is_open or self._keys.exist()):
            return self._holder(headers)
        self._refuse_foreign_pages(headers)
        return Caller()

    def _holder(self, headers: Headers) -> Caller:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise NotSignedIn(
                "this needs a key: send the header `Authorization: Bearer KEY`; `python -m rag keys create NAME` "
                "makes one"
            )
        key = self._keys.find(text.strip())
        if key is None:
            raise NotSignedIn("this key is unknown or was revoked: `python -m rag keys create NAME` makes another")
        return Caller(key.person or None, key.name)

    def _refuse_foreign_pages(self, headers: Headers) -> None:
        """Without a key, a page that the person's browser shows must not reach the documents through it.

        A page of another origin says so in `Origin`; one that gave its own name this machine's address, in `Host`.
        """
        host = headers.get("host", "")
        if self._on_loopback and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise NotAllowed(
                f"without a key this server answers as localhost only, not as {host!r}: make a key with `python -m "
                "rag keys create NAME`"
            )
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != host:
            raise NotAllowed(f"without a key, pages of {origin!r} are not let in: make one with `python -m rag keys`")
