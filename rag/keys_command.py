"""`python -m rag keys`: make, list and revoke the keys of the HTTP API.

A key is printed once, when it is made. What it opens is `ui.api`'s business.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag.settings import load_settings

if TYPE_CHECKING:
    from rag.ports import KeyStore


def add_keys_command(commands: Any) -> None:
    """Add `keys` and its actions to the parser's commands."""
    keys = commands.add_parser("keys", help="the keys of the HTTP API: create, list, revoke")
    actions = keys.add_subparsers(required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("name", help="what it is for, such as open-webui")
    create.add_argument("--person", default="", help="as whom it acts; without it: as no one, open to everything")
    _where(create)
    create.set_defaults(run=_create)

    listing = actions.add_parser("list", help="the keys there are, without the keys themselves")
    _where(listing)
    listing.set_defaults(run=_list)

    revoke = actions.add_parser("revoke", help="let a key open nothing from now on")
    revoke.add_argument("name")
    revoke.add_argument("--forget", action="store_true", help="take it off the list as well")
    _where(revoke)
    revoke.set_defaults(run=_revoke)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="folder of the keys' database (RANK37_DATA_DIR)")


def _open(options: argparse.Namespace) -> closing[KeyStore]:
    from rag.wiring import open_key_store

    return closing(open_key_store(load_settings(data_dir=options.data_dir)))


def _create(options: argparse.Namespace) -> int:
    with _open(options) as store:
        key, text = store.create(options.name, person=options.person)
    acts_as = f"acts as {key.person}" if key.person else "acts as no one in particular: it opens every collection"
    print(f"key {key.name!r} {acts_as}; it is not shown again:", file=sys.stderr)
    print(text)
    return 0


def _list(options: argparse.Namespace) -> int:
    with _open(options) as store:
        keys = store.listed()
    if not keys:
        print("there is no key: the API asks for none on this machine, and does not listen beyond it")
        return 0
    table = Table()
    for name in ("name", "id", "person", "made (UTC)", "revoked (UTC)"):
        table.add_column(name)
    for key in keys:
        dates = (moment[:16].replace("T", " ") for moment in (key.created_at, key.revoked_at))
        table.add_row(escape(key.name), key.id, escape(key.person) or "[dim]everything[/dim]", *dates)
    Console().print(table)
    return 0


def _revoke(options: argparse.Namespace) -> int:
    with _open(options) as store:
        key = store.revoke(options.name)
        if options.forget:
            store.forget(options.name)
        left = store.listed()
    print(f"key {key.name!r} opens nothing any more")
    if not left:
        print("no key is left on the list: on this machine the API now asks for none")
    elif not any(not other.revoked_at for other in left):
        print("no key is in force, so nobody gets in; `--forget` takes keys off the list, without any the API is open")
    return 0
