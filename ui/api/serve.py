"""Where the API listens, and whether it may: alone in its process, or in a thread beside the app's pages."""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from ingest.library import Library
from rag.errors import BadInput
from rag.ports import KeyStore
from rag.settings import Settings
from rag.wiring import open_key_store
from ui.api.access import is_loopback
from ui.api.app import make_app

_log = logging.getLogger(__name__)

DEFAULT_PORT = 8737
LAST_WORDS_S = 5
"""How long requests at work may go on when the server stops."""


def check_may_listen(host: str, keys: KeyStore, *, allow_open: bool) -> None:
    """Raises BadInput where strangers could read everything: beyond this machine without a key."""
    if is_loopback(host) or allow_open or any(not key.revoked_at for key in keys.listed()):
        return
    raise BadInput(
        f"the API would listen at {host}, which other machines reach, and there is no key: make one with `python -m "
        "rag keys create NAME`, listen at 127.0.0.1, or set RANK37_ALLOW_OPEN=1 if everyone may read everything"
    )


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any free one. Raises BadInput where the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BadInput(
            f"the API can't listen at {host}:{port} ({error.strerror or error}): name another port or host "
            "(RANK37_API_PORT, RANK37_API_HOST)"
        ) from error
    return listener


def app_of(library: Library, keys: KeyStore, settings: Settings, host: str) -> FastAPI:
    """The app for a server that listens at the host."""
    return make_app(library, keys, on_loopback=is_loopback(host), allow_open=settings.allow_open)


def server_of(app: FastAPI) -> uvicorn.Server:
    """What serves the app. It logs nothing itself: the app does."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=LAST_WORDS_S,
        )
    )


@dataclass(frozen=True, slots=True)
class Serving:
    """A server in a thread of its own."""

    server: uvicorn.Server
    thread: threading.Thread
    port: int

    def stop(self) -> None:
        """Stop listening, and wait until requests at work have ended, or their time is up."""
        self.server.should_exit = True
        self.thread.join(LAST_WORDS_S + 5)


def serve_in_thread(app: FastAPI, listener: socket.socket) -> Serving:
    """Serve in this process beside whatever else it does. The thread does not keep the process from ending."""
    server = server_of(app)
    thread = threading.Thread(target=server.run, args=([listener],), name="rank37-http", daemon=True)
    thread.start()
    port = int(listener.getsockname()[1])
    _log.info("the HTTP API listens at port %d", port)
    return Serving(server, thread, port)


class LibraryWithApi(Library):
    """A library that the API serves as well, in this process, from the time it is open until it is closed."""

    def __init__(self, settings: Settings, *, models_later: bool = False) -> None:
        """Open it and begin to serve. Raises Rank37Error with the remedy, and leaves nothing open then."""
        host, port = settings.api_host, settings.api_port or DEFAULT_PORT
        self._serving: Serving | None = None
        self._keys = open_key_store(settings)
        try:
            check_may_listen(host, self._keys, allow_open=settings.allow_open)
            # Before anything is opened: a port that is taken should not take half a minute to be told.
            self._listener = open_listener(host, port)
        except BaseException:
            self._keys.close()
            raise
        super().__init__(settings, models_later=models_later)
        self._serving = serve_in_thread(app_of(self, self._keys, settings, host), self._listener)

    def close(self) -> None:
        """Stop serving, then release everything. Idempotent."""
        if self._serving is not None:
            self._serving.stop()
        self._listener.close()
        super().close()
        self._keys.close()
