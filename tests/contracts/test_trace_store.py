"""What every store of traces must do: a SQLite file and a PostgreSQL server."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sql

from rag.engines.trace_store import DELETED_ANSWER, DELETED_TITLE, SCHEMA_VERSION, Retention, SqlTraceStore
from rag.errors import BadInput, TracesUnavailable
from rag.ports import TraceStore
from rag.types import Answer, Failure, StoredTrace, Trace
from tests.postgres import new_database
from tests.rag.traces import ENGINES, answer_to, chunk, refusal_of, trace_of

NOON = 1_772_366_400.0
"""2026-03-01T12:00:00 UTC, in seconds since 1970."""
DAY_S = 86400.0

Open = Callable[..., SqlTraceStore]


@pytest.fixture(
    params=[
        "sqlite",
        "postgres",
    ]
)
def database(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[sql.URL]:
    if request.param == "sqlite":
        yield sql.URL.create("sqlite", database=f"{tmp_path}/data/traces.sqlite")
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        yield url


@pytest.fixture
def open_store(database: sql.URL) -> Iterator[Open]:
    opened: list[SqlTraceStore] = []

    def open_one(retention: Retention | None = None, now: float = NOON) -> SqlTraceStore:
        opened.append(SqlTraceStore.open(database, retention, clock=lambda: now))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> TraceStore:
    return open_store()


def add_answered(store: TraceStore, trace: Trace, collection: str = "documents") -> StoredTrace:
    store.add(trace, answer_to(trace), collection=collection)
    return StoredTrace(trace, answer_to(trace), collection)


def n_rows(database: sql.URL, table: str) -> int:
    engine = sql.create_engine(database)
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT count(*) FROM {table}")
        [(count,)] = cursor.fetchall()
    engine.dispose()
    return int(count)


def test_what_is_kept_comes_back_equal(store: TraceStore) -> None:
    answered = add_answered(store, trace_of("answered"))
    refused, down, empty = trace_of("refused", (0.1,)), trace_of("down"), trace_of("empty", ())
    store.add(refused, refusal_of(refused), collection="documents")
    store.add(down, Failure("LLMTimeout", "no reply within 60 s: ask again"), collection="other")
    store.add(empty, refusal_of(empty), collection="documents")
    assert store.trace("answered") == answered
    assert store.trace("refused") == StoredTrace(refused, refusal_of(refused), "documents")
    failure = Failure("LLMTimeout", "no reply within 60 s: ask again")
    assert store.trace("down") == StoredTrace(down, failure, "other")
    assert store.trace("empty") == StoredTrace(empty, refusal_of(empty), "documents")
    assert store.trace("unknown") is None


def test_an_outage_before_reranking_keeps_what_was_recalled(store: TraceStore) -> None:
    trace = replace(trace_of(), ranked=(), kept=(), prompt=(), reply="")
    store.add(trace, Failure("RerankerUnavailable", "down"), collection="documents")
    stored = store.trace("t1")
    assert stored is not None
    assert stored.trace == trace
    assert len(stored.trace.candidates) == 4


def test_traces_come_newest_first_and_can_be_narrowed(store: TraceStore) -> None:
    for day in (2, 1, 3):
        trace = trace_of(f"day {day}", asked_at=f"2026-03-0{day}T12:00:00+00:00")
        add_answered(store, trace, "b" if day == 2 else "a")
    assert [one.trace.id for one in store.traces()] == ["day 3", "day 2", "day 1"]
    assert [one.trace.id for one in store.traces(limit=1)] == ["day 3"]
    assert [one.trace.id for one in store.traces(collection="a")] == ["day 3", "day 1"]
    assert [one.id for one in store.summaries(since="2026-03-02")] == ["day 3", "day 2"]
    # 13:00 at one hour east of Greenwich is 12:00 UTC: `since` is inclusive.
    assert [one.id for one in store.summaries(since="2026-03-02T13:00:00+01:00")] == ["day 3", "day 2"]
    assert (store.count(), store.count(collection="b")) == (3, 1)
    with pytest.raises(BadInput, match="2026-01-31"):
        store.summaries(since="yesterday")


def test_more_traces_than_are_read_at_a_time_all_come(store: TraceStore) -> None:
    expected = [add_answered(store, trace_of(f"t{number}", (0.5,))) for number in range(45)]
    assert list(store.traces()) == expected[::-1], "asked in the same second: the last kept comes first"


def test_a_summary_replays_the_floor_without_texts(store: TraceStore) -> None:
    trace = trace_of(scores=(0.9, 0.5, 0.3, None))
    add_answered(store, trace)
    store.label("t1", "wrong", chunk_id=trace.ranked[1].chunk.id)
    [summary] = store.summaries()
    assert summary.scores == (0.9, 0.5, 0.3, None)
    assert summary.recall_ranks == (4, 3, 2, 1)
    assert (summary.outcome, summary.reason, summary.best_score) == ("answer", "written", 0.9)
    assert (summary.engines, summary.timings_ms) == (ENGINES, trace.timings_ms)
    [label] = summary.labels
    assert (label.verdict, label.rank, label.score, label.passage) == ("wrong", 2, 0.5, None)


@pytest.mark.parametrize(
    ("outcome", "kind", "reason"),
    [(refusal_of(trace_of()), "refusal", "below_floor"), (Failure("LLMTimeout", "late"), "failure", "LLMTimeout")],
)
def test_a_summary_tells_refusals_and_outages_apart(
    store: TraceStore, outcome: Failure, kind: str, reason: str
) -> None:
    store.add(trace_of(), outcome, collection="documents")
    [summary] = store.summaries()
    assert (summary.outcome, summary.reason) == (kind, reason)


def test_labels_are_replaced_and_taken_back(store: TraceStore) -> None:
    trace = trace_of()
    add_answered(store, trace)
    passage = trace.ranked[0].chunk
    store.label("t1", "wrong", chunk_id=passage.id)
    right = store.label("t1", "right", chunk_id=passage.id)
    good = store.label("t1", "good_answer")
    assert right.question == trace.query
    assert (right.passage, right.rank, right.score) == (passage.passage, 1, 0.9)
    assert right.given_at == "2026-03-01T12:00:00+00:00"
    assert store.labels() == [right, good]
    stored = store.trace("t1")
    assert stored is not None
    assert stored.labels == (right, good)
    store.unlabel("t1", chunk_id=passage.id)
    assert store.labels(collection="documents") == [good]
    assert store.labels(collection="other") == []


@pytest.mark.parametrize(
    ("verdict", "chunk_id", "problem"),
    [
        ("right", None, "name its chunk"),
        ("right", "of another question", "was not recalled"),
        ("wrongly_refused", None, "ended in answer"),
        ("good_answer", "contract-term 0", "name no chunk"),
        ("perfect", None, "is no verdict"),
    ],
)
def test_a_verdict_that_does_not_fit_is_named(
    store: TraceStore, verdict: str, chunk_id: str | None, problem: str
) -> None:
    add_answered(store, trace_of())
    with pytest.raises(BadInput, match=problem):
        store.label("t1", verdict, chunk_id=chunk_id)  # type: ignore[arg-type]  # what a page could send
    assert store.labels() == []


def test_a_label_or_feedback_for_an_unknown_trace_is_bad_input(store: TraceStore) -> None:
    with pytest.raises(BadInput, match="no trace 'gone'"):
        store.label("gone", "good_answer")
    with pytest.raises(BadInput, match="no trace 'gone'"):
        store.write_feedback("gone", "nice")


def test_feedback_is_kept(store: TraceStore) -> None:
    add_answered(store, trace_of())
    store.write_feedback("t1", "It missed the second part.")
    stored = store.trace("t1")
    assert stored is not None
    assert stored.feedback == "It missed the second part."


def test_a_passage_is_kept_once_for_all_questions(store: TraceStore, database: sql.URL) -> None:
    for number in range(5):
        add_answered(store, trace_of(f"t{number}"))
    assert n_rows(database, "trace_passages") == len(trace_of().candidates)
    assert n_rows(database, "trace_engines") == 1
    store.delete("t0")
    assert store.trace("t1") == StoredTrace(trace_of("t1"), answer_to(trace_of("t1")), "documents")
    store.delete_all()
    assert n_rows(database, "trace_passages") == n_rows(database, "trace_engines") == 0


def test_deleting_takes_labels_along(store: TraceStore) -> None:
    for day, collection in ((1, "a"), (2, "a"), (3, "b"), (4, "b")):
        add_answered(store, trace_of(f"day {day}", asked_at=f"2026-02-0{day}T12:00:00+00:00"), collection)
        store.label(f"day {day}", "good_answer")
    assert store.delete("day 1")
    assert not store.delete("day 1")
    assert store.delete_before("2026-02-03", collection="b") == 0
    assert store.delete_before("2026-02-03") == 1
    assert [label.trace_id for label in store.labels()] == ["day 3", "day 4"]
    assert store.delete_all(collection="a") == 0
    assert store.delete_all() == 2
    assert (store.count(), store.labels()) == (0, [])


def test_old_traces_are_let_go_of_and_labels_stay(open_store: Open) -> None:
    first = open_store(Retention(days=90))
    trace = trace_of("old", asked_at="2026-03-01T12:00:00+00:00")
    add_answered(first, trace)
    first.label("old", "right", chunk_id=trace.ranked[0].chunk.id)
    just_within = open_store(Retention(days=90), now=NOON + 90 * DAY_S)
    assert just_within.count() == 1
    later = open_store(Retention(days=90), now=NOON + 90 * DAY_S + 1)
    assert later.count() == 0, "at the start, though nothing was asked"
    [label] = later.labels()
    assert label.passage == trace.ranked[0].chunk.passage, "what a person gave on purpose stays"


def test_without_a_limit_nothing_is_let_go_of(open_store: Open) -> None:
    add_answered(open_store(), trace_of(asked_at="1999-01-01T00:00:00+00:00"))
    assert open_store(Retention(days=0, limit=0), now=NOON + 9999 * DAY_S).count() == 1


def test_the_oldest_make_room(open_store: Open, database: sql.URL) -> None:
    store = open_store(Retention(limit=10))
    for minute in range(11):
        asked_at = f"2026-03-01T12:{minute:02}:00+00:00"
        add_answered(store, trace_of(f"t{minute}", asked_at=asked_at, passages=[chunk(f"n{minute}")], scores=(0.9,)))
    # The 11th is one too many; a tenth of 10 goes with it, so that not every question deletes.
    assert [one.id for one in store.summaries()] == [f"t{minute}" for minute in range(10, 1, -1)]
    assert n_rows(database, "trace_passages") == 9, "their passages went with them"


def test_a_deleted_document_leaves_no_word_of_it_behind(store: TraceStore) -> None:
    cited = trace_of("cited", documents=("secret", "public"))
    recalled = trace_of("recalled", (0.9, 0.1), documents=("public", "secret"))
    elsewhere = trace_of("elsewhere", documents=("secret",))
    untouched = trace_of("untouched", documents=("public",))
    add_answered(store, cited)
    kept_answer = add_answered(store, recalled).outcome
    in_other_collection = add_answered(store, elsewhere, "other")
    same = add_answered(store, untouched)
    store.label("cited", "right", chunk_id=cited.ranked[0].chunk.id)
    store.label("cited", "wrong", chunk_id=cited.ranked[1].chunk.id)

    assert store.forget_document("secret", collection="documents") == 2

    after = store.trace("cited")
    assert after is not None
    texts = {one.chunk.document_id: one.chunk.text for one in after.trace.candidates}
    assert texts["secret"] == ""
    assert texts["public"] != ""
    assert {one.chunk.title for one in after.trace.ranked} == {DELETED_TITLE, "Public"}
    assert (after.trace.prompt, after.trace.reply) == ((), "")
    assert isinstance(after.outcome, Answer)
    assert after.outcome.text == DELETED_ANSWER
    assert [citation.quote for citation in after.outcome.citations] == [""]
    assert "deleted" in after.trace.notes[-1]
    assert [one.score for one in after.trace.ranked] == [one.score for one in cited.ranked], "the floor can be replayed"
    assert [label.verdict for label in store.labels()] == ["wrong"], "the label on a passage of it is gone"

    stored = store.trace("recalled")
    assert stored is not None
    assert stored.outcome == kept_answer, "only recalled, never kept: the answer does not rest on it"
    assert stored.trace.candidates[0].chunk.text == ""
    assert store.trace("elsewhere") == in_other_collection, "another collection still holds it"
    assert store.trace("untouched") == same

    with pytest.raises(BadInput, match="was deleted"):
        store.label("cited", "right", chunk_id=cited.ranked[0].chunk.id)
    assert store.forget_document("secret", collection="documents") == 0, "again: nothing is left to forget"
    come_again = add_answered(store, trace_of("again", documents=("secret",)))
    assert store.trace("again") == come_again, "a document that comes back is kept like any other"


def test_many_threads_write_and_read_at_once(open_store: Open) -> None:
    stores = [open_store(Retention(limit=1000)) for _ in range(2)]
    problems: list[Exception] = []

    def work(number: int) -> None:
        store = stores[number % 2]
        try:
            for n in range(5):
                trace = trace_of(f"{number}-{n}")
                add_answered(store, trace)
                store.label(trace.id, "right", chunk_id=trace.ranked[0].chunk.id)
                assert len(store.summaries()) >= n + 1
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert stores[0].count() == 8 * 5
    assert len(stores[1].labels()) == 8 * 5
    assert all(one.trace.candidates for one in stores[1].traces())


def test_a_newer_database_is_refused_with_the_remedy(open_store: Open, database: sql.URL) -> None:
    store = open_store()
    engine = sql.create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE trace_schema SET version = {SCHEMA_VERSION + 1}")
    engine.dispose()
    for use in (open_store, lambda: add_answered(store, trace_of())):
        with pytest.raises(TracesUnavailable, match=r"newer version of Rank37 .* update Rank37"):
            use()


def test_characters_that_a_text_column_refuses_are_no_obstacle(store: TraceStore) -> None:
    trace = trace_of(question="a\0b \U0001f642 c")
    assert store.trace("t1") is None
    stored = add_answered(store, trace)
    assert store.trace("t1") == stored
    assert [one.question for one in store.summaries()] == ["ab \U0001f642 c"]
