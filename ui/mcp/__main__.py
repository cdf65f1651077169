"""`python -m ui.mcp`: the MCP server over standard input and output, for a program that starts it itself.

It opens the collections in its own process. Where the app has an embedded one open already, use the app's `/mcp`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio

from ingest.library import Library
from rag.errors import BadInput
from rag.ports import KeyStore
from rag.settings import Settings, load_settings
from rag.wiring import open_key_store
from ui.api.access import Caller
from ui.api.line import Line
from ui.api.logs import set_up_logs
from ui.api.metrics import Metrics
from ui.api.service import Service
from ui.mcp.tools import make_server

EXIT_BAD_INPUT = 2


class _Opener:
    """Opens the library when it is first needed, so that the protocol's first reply need not wait for the models."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._service: Service | None = None

    def service(self) -> Service:
        """What serves; a failure is not remembered. Raises Rank37Error."""
        with self._lock:
            if self._service is None:
                keys: KeyStore = open_key_store(self._settings)
                line = Line(self._settings.at_work, self._settings.waiting)
                self._service = Service(Library(self._settings), keys, line, Metrics())
            return self._service

    def close(self) -> None:
        """Release the library."""
        with self._lock:
            if self._service is not None:
                self._service.library.close()
                self._service.keys.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input ends; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ui.mcp", description="The MCP server over stdin and stdout.")
    parser.add_argument("--data-dir", type=Path, help="folder of the index and the files (RANK37_DATA_DIR)")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(data_dir=options.data_dir)
    except BadInput as error:
        print(f"ui.mcp: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    set_up_logs(as_json=settings.log_json)
    opener = _Opener(settings)
    # At the other end of the pipe is who started this program: whoever may open the files may read them.
    server = make_server(opener.service, lambda request: Caller())
    try:
        anyio.run(server.run_stdio_async)
    finally:
        opener.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
