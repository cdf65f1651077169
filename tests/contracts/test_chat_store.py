"""What every store of chats must do: a SQLite file and a PostgreSQL server."""

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sql

from rag.engines.chat_store import SCHEMA_VERSION, TITLE_CHARACTERS, SqlChatStore
from rag.errors import BadInput, LibraryUnavailable
from rag.ports import ChatStore
from rag.types import ChatQuestion
from tests.postgres import new_database


@pytest.fixture(
    params=[
        "sqlite",
        "postgres",
    ]
)
def database(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[sql.URL]:
    if request.param == "sqlite":
        yield sql.URL.create("sqlite", database=f"{tmp_path}/data/library.sqlite")
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        yield url


@pytest.fixture
def store(database: sql.URL) -> Iterator[SqlChatStore]:
    store = SqlChatStore(database)
    yield store
    store.close()


def begin(store: ChatStore, *questions: str, collection: str = "documents", owner: str = "") -> str:
    card = store.begin(questions[0], collection=collection, owner=owner)
    for question in questions:
        store.add_question(card.id, question)
    return card.id


def texts(store: ChatStore, chat_id: str) -> list[str]:
    chat = store.chat(chat_id)
    assert chat is not None
    return [question.text for question in chat.questions]


def test_a_chat_comes_back_with_its_questions_in_order(store: ChatStore) -> None:
    card = store.begin("How long is  the waiting period?", collection="contracts", owner="ann")
    first = store.add_question(card.id, "How long is  the waiting period?")
    second = store.add_question(card.id, "And for children?", document_ids=["d1", "d2"])
    store.set_trace(first.id, "t1")

    chat = store.chat(card.id)
    assert chat is not None
    assert (chat.card.title, chat.card.collection, chat.card.owner) == (
        "How long is the waiting period?",
        "contracts",
        "ann",
    )
    assert chat.card.changed_at > chat.card.created_at
    assert chat.questions == (
        ChatQuestion(first.id, "How long is  the waiting period?", (), "t1"),
        ChatQuestion(second.id, "And for children?", ("d1", "d2"), ""),
    )
    assert store.chat("unknown") is None


def test_the_chat_last_asked_stands_first_and_words_find_it(store: ChatStore) -> None:
    period = begin(store, "How long is the waiting period?", "Is it 100% sure?")
    dose = begin(store, "What is the dose of ibuprofen?")
    other = begin(store, "What does parking cost?", collection="town")
    assert [card.id for card in store.chats()] == [other, dose, period]
    store.add_question(period, "And for CHILDREN?")
    assert [card.id for card in store.chats()] == [period, other, dose]
    assert [card.id for card in store.chats(limit=1)] == [period]
    assert [card.id for card in store.chats(collection="town")] == [other]

    for words, found in (
        ("children", [period]),
        ("what  COST", [other]),
        ("what", [other, dose]),
        ("100%", [period]),
        ("%", [period]),
        ("_", []),
        ("waiting ibuprofen", []),
    ):
        assert [card.id for card in store.chats(words=words)] == found, words


def test_people_find_their_own(store: ChatStore) -> None:
    ann, bob = begin(store, "Ann asks", owner="ann"), begin(store, "Bob asks", owner="bob")
    assert [card.id for card in store.chats(owner="ann")] == [ann]
    assert {card.id for card in store.chats()} == {ann, bob}
    assert store.chats(owner="") == []


def test_dropped_questions_are_gone_and_a_late_trace_does_not_bring_them_back(store: ChatStore) -> None:
    card = store.begin("one", collection="documents")
    _one, two, three = [store.add_question(card.id, text) for text in ("one", "two", "three")]
    assert store.drop_from(card.id, two.id) == 2
    store.set_trace(three.id, "late")
    assert texts(store, card.id) == ["one"]
    assert store.drop_from(card.id, two.id) == 0
    store.add_question(card.id, "two, put better")
    assert texts(store, card.id) == ["one", "two, put better"]


def test_a_question_is_dropped_only_from_its_own_chat(store: ChatStore) -> None:
    mine, other = begin(store, "mine"), begin(store, "theirs")
    chat = store.chat(other)
    assert chat is not None
    assert store.drop_from(mine, chat.questions[0].id) == 0
    assert texts(store, other) == ["theirs"]


def test_titles_are_changed_and_checked(store: ChatStore) -> None:
    chat_id = begin(store, "word " * 100)
    [card] = store.chats()
    assert card.title.endswith("word …")
    assert len(card.title) <= TITLE_CHARACTERS
    store.rename(chat_id, "  Waiting \n periods ")
    assert store.chats()[0].title == "Waiting periods"
    with pytest.raises(BadInput, match="needs a title"):
        store.rename(chat_id, " \n")
    with pytest.raises(BadInput, match="limit is 120"):
        store.rename(chat_id, "x" * 121)


def test_a_deleted_chat_is_gone_and_takes_nothing_more(store: ChatStore, database: sql.URL) -> None:
    chat_id, other = begin(store, "a secret question"), begin(store, "another")
    assert store.delete(chat_id)
    assert not store.delete(chat_id)
    assert store.chat(chat_id) is None
    assert texts(store, other) == ["another"]
    for change in (lambda: store.add_question(chat_id, "more"), lambda: store.rename(chat_id, "New")):
        with pytest.raises(BadInput, match="deleted meanwhile"):
            change()
    if database.get_backend_name() == "sqlite":
        path = str(database.database)
        for name in (path, f"{path}-wal"):
            with open(name, "rb") as file:  # noqa: PTH123  # the log may hold what the file does not
                assert b"a secret question" not in file.read()


def test_the_chats_of_a_collection_go_with_it(store: ChatStore) -> None:
    begin(store, "one", collection="town")
    begin(store, "two", collection="town")
    kept = begin(store, "three")
    assert store.delete_all(collection="town") == 2
    assert [card.id for card in store.chats()] == [kept]


def test_two_windows_ask_in_one_chat_at_once(store: ChatStore, database: sql.URL) -> None:
    chat_id = store.begin("q", collection="documents").id
    other = SqlChatStore(database)

    def ask(through: ChatStore, name: str) -> None:
        for number in range(10):
            through.add_question(chat_id, f"{name}{number}")

    threads = [threading.Thread(target=ask, args=(one, name)) for one, name in ((store, "a"), (other, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = texts(store, chat_id)
    other.close()
    assert sorted(asked) == sorted(f"{name}{number}" for name in "ab" for number in range(10))
    for name in "ab":
        assert [text for text in asked if text[0] == name] == [f"{name}{number}" for number in range(10)]


def test_the_next_start_finds_them_and_a_newer_schema_is_refused(database: sql.URL) -> None:
    first = SqlChatStore(database)
    begin(first, "kept?")
    first.close()
    again = SqlChatStore(database)
    assert [card.title for card in again.chats()] == ["kept?"]
    again.close()

    engine = sql.create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE chat_schema SET version = {SCHEMA_VERSION + 1}")
    engine.dispose()
    with pytest.raises(LibraryUnavailable, match="newer version"):
        SqlChatStore(database)


def test_the_owner_of_a_question_is_known_by_its_trace(store: ChatStore) -> None:
    chat = store.begin("Why?", collection="documents", owner="ann")
    question = store.add_question(chat.id, "Why?")
    store.add_question(chat.id, "Why not?")
    assert store.owner_of_trace("") is None, "a question without a trace is not found by none"
    store.set_trace(question.id, "a-trace")
    assert store.owner_of_trace("a-trace") == "ann"
    assert store.owner_of_trace("another") is None
