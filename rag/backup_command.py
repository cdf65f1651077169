"""`python -m rag backup`, `restore` and `rebuild`: a data folder kept, brought back, and its index made again.

What each does is in `rag.backup` and `ingest.rebuild`; nothing here touches a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rag.settings import Settings, load_settings

EXIT_SOME_REFUSED = 3


def add_backup_commands(commands: Any, *, rebuild: Callable[[Settings, str | None], int]) -> None:
    """Add the three commands to the parser's; `rebuild` does the third, since ingestion stands above this package."""
    backup = commands.add_parser("backup", help="write documents, index, traces, floors and rerankers to one file")
    backup.add_argument("file", type=Path, help="the ZIP file to write, which must not exist yet")
    backup.add_argument("--data-dir", type=Path, help="folder to keep (RANK37_DATA_DIR)")
    backup.set_defaults(run=_back_up)

    bring_back = commands.add_parser("restore", help="check a backup and unpack it as the data folder")
    bring_back.add_argument("file", type=Path, help="what `backup` wrote")
    bring_back.add_argument("--data-dir", type=Path, help="folder to restore (RANK37_DATA_DIR)")
    bring_back.add_argument("--force", action="store_true", help="move a folder that is there aside")
    bring_back.set_defaults(run=_restore)

    again = commands.add_parser("rebuild", help="make a collection's index again from the kept original files")
    again.add_argument("--data-dir", type=Path, help="folder of the index and the files (RANK37_DATA_DIR)")
    again.add_argument("--collection", help="which collection (RANK37_COLLECTION)")
    again.add_argument(
        "--embedder", metavar="NAME", help="with this embedder, for this collection (as RANK37_EMBEDDER)"
    )
    again.set_defaults(
        run=lambda options: rebuild(
            load_settings(data_dir=options.data_dir, collection=options.collection), options.embedder
        )
    )


def _back_up(options: argparse.Namespace) -> int:
    from rag.backup import back_up

    settings = load_settings(data_dir=options.data_dir)
    content = back_up(settings.data_dir, options.file, hold=_holding(settings))
    packed = content.path.stat().st_size
    print(
        f"{content.path}: {content.n_files} files of {settings.data_dir}, {content.n_bytes / 2**20:,.1f} MiB packed "
        f"into {packed / 2**20:,.1f}; collections: {', '.join(content.collections) or 'none'}"
    )
    for name in content.left_out:
        print(f"rag: left out, no plain file: {name}", file=sys.stderr)
    if settings.qdrant_url:
        print(
            "rag: the index on the Qdrant server is not in it: take the server's own snapshots, or make it again from "
            "the originals, which are (`python -m rag rebuild`)",
            file=sys.stderr,
        )
    if settings.traces_url is not None:
        print("rag: the traces at RANK37_TRACES_URL are not in it: back that database up by itself", file=sys.stderr)
    return 0


def _restore(options: argparse.Namespace) -> int:
    from rag.backup import restore

    settings = load_settings(data_dir=options.data_dir)
    content, earlier = restore(options.file, settings.data_dir, hold=_holding(settings), force=options.force)
    print(
        f"{settings.data_dir}: {content.n_files} files as of {content.made_at}; "
        f"collections: {', '.join(content.collections) or 'none'}"
    )
    if earlier is not None:
        print(f"what was there is in {earlier} now: delete it when all is well")
    return 0


def _holding(settings: Settings) -> Callable[[str], AbstractContextManager[object]]:
    """Keeps a collection of the settings' data folder closed."""
    from rag.wiring import hold_collection

    # Of the folder, also where the settings name a server.
    return lambda name: hold_collection(settings.model_copy(update={"collection": name, "qdrant_url": None}))
