"""What every store of API keys must do: a SQLite file and a PostgreSQL server."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.__main__ import main
from rag.engines.key_store import NAME_CHARACTERS, SqlKeyStore
from rag.errors import BadInput
from rag.ports import KeyStore
from tests.postgres import new_database


@pytest.fixture(
    params=[
        "sqlite",
        "postgres",
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    if request.param == "sqlite":
        opened = SqlKeyStore(tmp_path / "library.sqlite")
        yield opened
        opened.close()
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        opened = SqlKeyStore(url)
        yield opened
        opened.close()


def test_a_key_is_known_again_and_nothing_near_it_is(store: KeyStore) -> None:
    assert not store.exist()
    key, text = store.create("laptop", person="ann@example.org")
    _, other = store.create("server")
    assert store.exist()
    assert store.find(text) == key
    assert key.person == "ann@example.org"
    last = "A" if text[-1] != "A" else "B"
    id_of_other = other.split("-")[1]
    for wrong in ("", "r37", text[:-1], text[:-1] + last, text + "A", text.upper(), f"r37-{id_of_other}-{text[17:]}"):
        assert store.find(wrong) is None, wrong


def test_a_revoked_key_opens_nothing_and_still_counts(store: KeyStore) -> None:
    _, text = store.create("laptop")
    assert store.revoke("laptop").revoked_at
    assert store.find(text) is None
    assert store.exist()
    assert store.revoke("laptop") == store.listed()[0]
    store.forget("laptop")
    assert not store.exist()
    assert store.listed() == []


def test_names_that_can_not_be_used(store: KeyStore) -> None:
    store.create("laptop")
    for name, why in (
        ("laptop", "already"),
        ("  ", "needs a name"),
        ("x" * (NAME_CHARACTERS + 1), "limit is 60"),
        ("a\u200bb", "can't be seen"),
    ):
        with pytest.raises(BadInput, match=why):
            store.create(name)
    with pytest.raises(BadInput, match="no key 'phone'"):
        store.revoke("phone")


def test_the_database_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "library.sqlite"
    store = SqlKeyStore(path)
    _, text = store.create("laptop")
    store.close()
    with sqlite3.connect(path) as connection:
        written = "\n".join(connection.iterdump())
    connection.close()
    secret = text.split("-", 2)[2]
    assert "laptop" in written
    assert secret not in written
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_keys_at_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path)]
    assert main(["keys", "list", *where]) == 0
    assert "there is no key" in capsys.readouterr().out
    assert main(["keys", "create", "laptop", "--person", "ann", *where]) == 0
    printed = capsys.readouterr()
    text = printed.out.strip()
    assert "acts as ann" in printed.err
    store = SqlKeyStore(tmp_path / "library.sqlite")
    try:
        found = store.find(text)
        assert found is not None
        assert found.person == "ann"
        assert main(["keys", "list", *where]) == 0
        listed = capsys.readouterr().out
        assert "laptop" in listed
        assert text.split("-", 2)[2] not in listed
        assert main(["keys", "revoke", "laptop", *where]) == 0
        assert "nobody gets in" in capsys.readouterr().out
        assert store.find(text) is None
        assert main(["keys", "revoke", "laptop", "--forget", *where]) == 0
        assert "no key is left" in capsys.readouterr().out
        assert main(["keys", "revoke", "laptop", *where]) == 2
        assert "no key 'laptop'" in capsys.readouterr().err
    finally:
        store.close()
