"""`python -m rag people`: who may sign in to the app.

A password is typed hidden, or read from standard input; it is on no command line. What people see is not decided here.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag.errors import BadInput
from rag.settings import load_settings

if TYPE_CHECKING:
    from rag.ports import PeopleStore


def add_people_command(commands: Any) -> None:
    """Add `people` and its actions to the parser's commands."""
    people = commands.add_parser("people", help="who may sign in to the app: add, list, remove, password")
    actions = people.add_subparsers(required=True, metavar="ACTION")

    add = actions.add_parser("add", help="let a person sign in; the first one is an administrator")
    add.add_argument("name", help="a name, or the e-mail address that a provider knows")
    add.add_argument("--admin", action="store_true", help="may change the settings that hold for all")
    add.add_argument("--without-password", action="store_true", help="signs in at a provider only (RANK37_AUTH=oidc)")
    _where(add)
    add.set_defaults(run=_add)

    listing = actions.add_parser("list", help="who may sign in")
    _where(listing)
    listing.set_defaults(run=_list)

    remove = actions.add_parser("remove", help="let a person in no more; their collections and chats stay")
    remove.add_argument("name")
    _where(remove)
    remove.set_defaults(run=_remove)

    password = actions.add_parser("password", help="give a person another password")
    password.add_argument("name")
    _where(password)
    password.set_defaults(run=_password)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="folder of the people's database (RANK37_DATA_DIR)")


def _open(options: argparse.Namespace) -> closing[PeopleStore]:
    from rag.wiring import open_people_store

    return closing(open_people_store(load_settings(data_dir=options.data_dir)))


def _add(options: argparse.Namespace) -> int:
    with _open(options) as store:
        if store.person(options.name) is not None:
            raise BadInput(f"there is a person {options.name!r} already: `people password` changes a password")
        password = None if options.without_password else _typed()
        person = store.add(options.name, password, is_admin=options.admin)
    print(f"{person.name} may sign in{', as an administrator' if person.is_admin else ''}")
    return 0


def _list(options: argparse.Namespace) -> int:
    with _open(options) as store:
        people = store.listed()
    if not people:
        print("nobody may sign in yet: `python -m rag people add NAME`")
        return 0
    table = Table()
    for name in ("name", "administrator", "signs in with", "added (UTC)"):
        table.add_column(name)
    for person in people:
        means = "password" if person.has_password else "provider"
        added = person.created_at[:16].replace("T", " ")
        table.add_row(escape(person.name), "yes" if person.is_admin else "", means, added)
    Console().print(table)
    return 0


def _remove(options: argparse.Namespace) -> int:
    with _open(options) as store:
        store.remove(options.name)
    print(
        f"{options.name} may not sign in any more; their collections and chats stay, and keys that act for them: "
        "`python -m rag keys revoke NAME`"
    )
    return 0


def _password(options: argparse.Namespace) -> int:
    with _open(options) as store:
        if store.person(options.name) is None:
            raise BadInput(f"there is no person {options.name!r}: `python -m rag people list` names those there are")
        store.set_password(options.name, _typed())
    print(f"{options.name} has another password, and is signed out everywhere")
    return 0


def _typed() -> str:
    """The password: typed twice at a terminal, else the first line of standard input. Raises BadInput."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise BadInput("the two passwords differ: nothing was changed, run it again")
    return password
