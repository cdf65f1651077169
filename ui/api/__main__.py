"""`python -m ui.api`: the HTTP API alone, without the pages. Exit status: 1 an outage, 2 a bad argument or setting."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ingest.library import Library
from rag.errors import BadInput, Rank37Error
from rag.settings import load_settings
from rag.wiring import open_key_store
from ui.api.logs import set_up_logs
from ui.api.serve import DEFAULT_PORT, app_of, check_may_listen, open_listener, server_of

EXIT_OUTAGE = 1
EXIT_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except BadInput as error:
        print(f"ui.api: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Rank37Error as error:
        print(f"ui.api: {error}", file=sys.stderr)
        return EXIT_OUTAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ui.api", description="The HTTP API, without the pages.")
    parser.add_argument("--host", help="address to listen at (RANK37_API_HOST; 127.0.0.1)")
    parser.add_argument("--port", type=int, help=f"port (RANK37_API_PORT; {DEFAULT_PORT})")
    parser.add_argument("--data-dir", type=Path, help="folder of the index and the files (RANK37_DATA_DIR)")
    parser.add_argument("--log-json", action="store_true", help="log JSON lines (RANK37_LOG_JSON)")
    return parser


def _serve(options: argparse.Namespace) -> int:
    settings = load_settings(data_dir=options.data_dir, api_host=options.host, api_port=options.port)
    set_up_logs(as_json=options.log_json or settings.log_json)
    host, port = settings.api_host, settings.api_port or DEFAULT_PORT
    with closing(open_key_store(settings)) as keys:
        check_may_listen(host, keys, allow_open=settings.allow_open)
        with open_listener(host, port) as listener, closing(Library(settings)) as library:
            print(f"The API listens at http://{host}:{port} (its description: /docs)", file=sys.stderr, flush=True)
            server_of(app_of(library, keys, settings, host)).run([listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
