"""A PostgreSQL server of the tests' own, where Debian's package is installed: in a folder that goes with it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sql

URL_VARIABLE = "RANK37_TEST_POSTGRES_URL"
"""Names a server to use instead."""
START_LIMIT_S = 60


def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, of the newest version that is installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Start a server on a free port of this machine; gives its URL. It stops when the context ends."""
    where = binaries()
    assert where is not None
    data, password = folder / "data", folder / "password"
    password.write_text("only for these tests")
    user = _unprivileged(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _run(
        [where / "initdb", "-D", data, "-U", "rank37", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"],
        user,
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [where / "pg_ctl", "-D", data, "-w", "-t", str(START_LIMIT_S)]
    _run([*control, "-l", folder / "log", "-o", options, "start"], user)
    try:
        yield f"postgresql://rank37:{password.read_text().replace(' ', '%20')}@127.0.0.1:{port}/postgres"
    finally:
        _run([*control, "-m", "immediate", "stop"], user)


@contextmanager
def new_database(server_url: str) -> Iterator[sql.URL]:
    """A database of its own on a server; it is dropped when the context ends."""
    name = f"test_{uuid.uuid4().hex}"
    url = sql.make_url(server_url).set(drivername="postgresql+psycopg")
    server = sql.create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(database=name)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path: that of a socket may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="r37-pg-") as name:
        yield Path(name)


def _unprivileged(folder: Path) -> int | None:
    """PostgreSQL refuses to run as root: then it is the package's own user, who gets the folder."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam("postgres").pw_uid
    for path in (folder, *folder.iterdir()):
        os.chown(path, user, -1)
    return user


def _run(command: list[object], user: int | None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        user=user,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # not a pipe: the server would hold it open
        stderr=subprocess.DEVNULL,
        timeout=2 * START_LIMIT_S,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, f"{Path(str(command[0])).name} ended with status {done.returncode}"
