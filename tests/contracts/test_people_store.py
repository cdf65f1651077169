"""What every store of people must do: a SQLite file and a PostgreSQL server."""

import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from rag.__main__ import main
from rag.engines.people_store import LEAST_PASSWORD, MINUTE_S, SESSION_S, TRIES_A_MINUTE, SqlPeopleStore
from rag.errors import BadInput, SignInRefused
from tests.postgres import new_database

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"


class Clock:
    """A clock that a test sets."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[SqlPeopleStore]:
    if request.param == "sqlite":
        opened = SqlPeopleStore(tmp_path / "library.sqlite", clock=clock, hasher=QUICK)
        yield opened
        opened.close()
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        opened = SqlPeopleStore(url, clock=clock, hasher=QUICK)
        yield opened
        opened.close()


def test_the_first_is_an_administrator_and_names_differ_by_more_than_case(store: SqlPeopleStore) -> None:
    assert store.add("Ann@Example.org", PASSWORD).is_admin
    assert not store.add("bob", PASSWORD).is_admin
    assert store.add("cleo", None, is_admin=True).is_admin
    assert [person.name for person in store.listed()] == ["ann@example.org", "bob", "cleo"]
    with pytest.raises(BadInput, match="already"):
        store.add("ANN@example.org", PASSWORD)
    found = store.person("Ann@example.org ")
    assert found is not None
    assert found.has_password


def test_a_session_lasts_until_it_ends_or_is_ended(store: SqlPeopleStore, clock: Clock) -> None:
    store.add("ann", PASSWORD)
    token = store.sign_in("Ann", PASSWORD)
    other = store.sign_in("ann", PASSWORD)
    assert token != other
    person = store.signed_in(token)
    assert person is not None
    assert person.name == "ann"
    for wrong in ("", token[:-1], token + "A", token.swapcase()):
        assert store.signed_in(wrong) is None
    store.sign_out(token)
    assert store.signed_in(token) is None
    assert store.signed_in(other) is not None
    clock.now += SESSION_S
    assert store.signed_in(other) is None


def test_nothing_tells_a_wrong_password_from_an_unknown_name(store: SqlPeopleStore) -> None:
    store.add("ann", PASSWORD)
    store.add("cleo", None)
    said = set()
    for name, password in (("ann", "wrong password"), ("nobody", PASSWORD), ("cleo", ""), ("", ""), ("ann", "")):
        with pytest.raises(SignInRefused) as raised:
            store.sign_in(name, password)
        said.add(str(raised.value))
    assert len(said) == 1


def test_an_unknown_name_costs_as_many_hashes_as_a_known_one(tmp_path: Path) -> None:
    class Counting(PasswordHasher):
        n_verified = 0

        def verify(self, hash: str | bytes, password: str | bytes) -> bool:
            self.n_verified += 1
            return super().verify(hash, password)

    hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
    store = SqlPeopleStore(tmp_path / "library.sqlite", hasher=hasher)
    store.add("ann", PASSWORD)
    store.add("cleo", None)
    for number, name in enumerate(("ann", "cleo", "nobody"), start=1):
        with pytest.raises(SignInRefused):
            store.sign_in(name, "not the password")
        assert hasher.n_verified == number
    store.close()


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_tries_a_minute_are_bounded_for_each_name(store: SqlPeopleStore, clock: Clock, name: str) -> None:
    store.add("ann", PASSWORD)
    store.add("bob", PASSWORD)
    for _ in range(TRIES_A_MINUTE):
        with pytest.raises(SignInRefused, match="don’t fit"):
            store.sign_in(name, "not the password")
    clock.now += 10
    with pytest.raises(SignInRefused, match=f"the limit is {TRIES_A_MINUTE}: try again in {MINUTE_S - 10:.0f} seconds"):
        store.sign_in(name.upper(), PASSWORD)
    assert store.sign_in("bob", PASSWORD), "others get in meanwhile"
    clock.now += MINUTE_S - 10
    if name == "ann":
        assert store.sign_in("ann", PASSWORD)


def test_who_is_removed_or_has_another_password_is_signed_out(store: SqlPeopleStore) -> None:
    for name in ("ann", "bob"):
        store.add(name, PASSWORD)
    tokens = [store.sign_in(name, PASSWORD) for name in ("ann", "bob")]
    store.set_password("ann", "another long password")
    store.remove("bob")
    assert [store.signed_in(token) for token in tokens] == [None, None]
    with pytest.raises(SignInRefused):
        store.sign_in("ann", PASSWORD)
    assert store.sign_in("ann", "another long password")


def test_the_last_administrator_stays(store: SqlPeopleStore) -> None:
    store.add("ann", PASSWORD)
    store.add("bob", PASSWORD)
    with pytest.raises(BadInput, match="only administrator"):
        store.remove("ann")
    store.remove("bob")
    store.remove("ann")
    assert store.listed() == []


def test_passwords_and_names_that_can_not_be_used(store: SqlPeopleStore) -> None:
    for name, password, why in (
        ("ann", "x" * (LEAST_PASSWORD - 1), f"has {LEAST_PASSWORD - 1} characters, the least is {LEAST_PASSWORD}"),
        ("ann", "x" * 1001, "limit is 1000"),
        ("ann.of.the.harbour", "Ann.of.the.harbour", "the name itself"),
        ("", PASSWORD, "needs a name"),
        ("a\u200bnn", PASSWORD, "can't be seen"),
        ("x" * 321, PASSWORD, "limit is 320"),
    ):
        with pytest.raises(BadInput, match=why):
            store.add(name, password)
    assert store.listed() == []


def test_the_file_has_no_password_and_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "library.sqlite"
    store = SqlPeopleStore(path, hasher=QUICK)
    store.add("ann", PASSWORD)
    token = store.sign_in("ann", PASSWORD)
    store.close()
    with sqlite3.connect(path) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert "$argon2id$" in dump
    assert PASSWORD not in dump
    assert token not in dump


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    where = ["--data-dir", str(tmp_path)]

    def run(*arguments: str, typed: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = main(["people", *arguments, *where])
        out = capsys.readouterr()
        return status, out.out + out.err

    assert "nobody may sign in yet" in run("list")[1]
    assert run("add", "Ann", typed=f"{PASSWORD}\n") == (0, "ann may sign in, as an administrator\n")
    assert run("add", "bob", "--without-password") == (0, "bob may sign in\n")
    status, said = run("add", "cleo", typed="short\n")
    assert status == 2
    assert f"has 5 characters, the least is {LEAST_PASSWORD}" in said
    assert run("add", "ann", typed=PASSWORD)[0] == 2
    listed = run("list")[1]
    assert "ann" in listed
    assert "provider" in listed
    assert PASSWORD not in listed
    assert run("password", "ann", typed="another long password\n")[0] == 0
    assert run("password", "zoe", typed="another long password\n")[0] == 2
    assert run("remove", "bob")[0] == 0
    assert "bob" not in run("list")[1]
