"""`python -m rag traces`: what is kept comes out whole, labels become training data, and deleting deletes."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rag.__main__ import EXIT_BAD_INPUT, main
from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.engines.trace_store import SqlTraceStore
from rag.errors import BadInput
from rag.pipeline import answer_question
from rag.ports import Engines
from rag.settings import load_settings
from rag.traces_command import read_export
from rag.training.groups import read_groups
from rag.types import Answer, Document, Failure, Part, QueryPolicy, Refusal, StoredDocument
from rag.wiring import open_recorder
from tests.rag.test_pipeline import TEXTS, chunks_of
from tests.rag.traces import answer_to, refusal_of, trace_of

NOW = datetime.now(UTC)
YESTERDAY = (NOW - timedelta(days=1)).isoformat(timespec="seconds")
LAST_MONTH = (NOW - timedelta(days=30)).isoformat(timespec="seconds")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlTraceStore]:
    with closing(SqlTraceStore.open_file(tmp_path / "traces.sqlite")) as store:
        yield store


@pytest.fixture
def full_store(store: SqlTraceStore) -> SqlTraceStore:
    answered = trace_of("aaaa1111", asked_at=YESTERDAY)
    store.add(answered, answer_to(answered), collection="documents")
    store.label("aaaa1111", "right", chunk_id=answered.ranked[0].chunk.id)
    store.label("aaaa1111", "wrong", chunk_id=answered.ranked[1].chunk.id)
    store.label("aaaa1111", "bad_answer")
    store.write_feedback("aaaa1111", "Half of it is missing.")
    refused = trace_of("aaaa2222", (0.1,), question="And for [accidents]?", asked_at=LAST_MONTH)
    store.add(refused, refusal_of(refused), collection="manuals")
    store.label("aaaa2222", "wrongly_refused")
    down = trace_of("bbbb3333", asked_at=YESTERDAY)
    store.add(down, Failure("LLMTimeout", "no reply within 60 s: ask again"), collection="manuals")
    return store


def traces(tmp_path: Path, *arguments: str) -> int:
    return main(["traces", *arguments, "--data-dir", str(tmp_path)])


@pytest.mark.parametrize("name", ["export.jsonl", "export.jsonl.gz"])
def test_an_export_reads_back_equal(full_store: SqlTraceStore, tmp_path: Path, name: str) -> None:
    odd = replace(
        trace_of("odd", (1.0, 1e-300), asked_at=YESTERDAY, question='\ud83d? "\\" \u2028 \0 — 保険'),
        parts=(Part("What is it?", 0.9, True, ("a", "b"), ("a",)), Part("And why?", None, False)),
        timings_ms={"rerank": math.pi * 1e5},
    )
    full_store.add(odd, replace(answer_to(odd), refused_parts=("And why?",)), collection="documents")
    kept = list(full_store.traces())
    assert len(kept) == 4
    assert traces(tmp_path, "export", "--out", str(tmp_path / name)) == 0
    assert list(read_export(tmp_path / name)) == kept
    if name.endswith(".gz"):
        assert gzip.decompress((tmp_path / name).read_bytes()).count(b"\n") == 4


def test_an_export_can_be_narrowed(
    full_store: SqlTraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    since = (NOW - timedelta(days=2)).date().isoformat()
    assert traces(tmp_path, "export", "--collection", "manuals", "--since", since) == 0
    [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["trace"]["id"] == "bbbb3333"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"format": 99}', "line 1: a kept trace of format 99 can't be read"),
        ('{"format": 1, "trace": {}}', "line 1: a kept trace needs 'chunks'"),
        (
            '{"format": 1, "collection": "c", "feedback": "", "labels": [], "chunks": [], "trace": {}, "outcome": {}}',
            "trace.id: Field required|trace.id: Missing",
        ),
        ("not JSON", "line 1: not a JSON object"),
    ],
)
def test_what_is_no_export_is_named_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "export.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=problem):
        list(read_export(tmp_path / "export.jsonl"))


def test_the_list_shows_the_newest_first(
    full_store: SqlTraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert traces(tmp_path, "list") == 0
    out = capsys.readouterr().out
    assert out.index("bbbb3333") < out.index("aaaa1111") < out.index("aaaa2222")
    assert "And for [accidents]?" in out
    assert "failure: LLMTimeout" in out
    assert "3 of 3 kept in" in out
    assert traces(tmp_path, "list", "--json", "--limit", "1") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["id"], row["outcome"], row["scores"]) == ("bbbb3333", "failure", [0.9, 0.5, 0.1 + 0.2, None])


def test_one_is_shown_by_the_beginning_of_its_id(
    full_store: SqlTraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert traces(tmp_path, "show", "aaaa1") == 0
    out = capsys.readouterr().out
    for words in ("It is 7 days", "searched as", "passage at rank 2", "bad answer", "Half of it is missing.", "0.90"):
        assert words in out, words
    assert traces(tmp_path, "show", "bbbb") == 0
    assert "LLMTimeout. no reply within 60 s" in capsys.readouterr().out
    assert traces(tmp_path, "show", "aaaa") == EXIT_BAD_INPUT
    assert "2 traces begin with 'aaaa'" in capsys.readouterr().err
    assert traces(tmp_path, "show", "zzzz") == EXIT_BAD_INPUT
    assert "no trace begins with 'zzzz'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--id", "aaaa1"], {"aaaa2222", "bbbb3333"}),
        (["--older-than", "7"], {"aaaa1111", "bbbb3333"}),
        (["--older-than", "7", "--collection", "documents"], {"aaaa1111", "aaaa2222", "bbbb3333"}),
        (["--all", "--collection", "manuals"], {"aaaa1111"}),
        (["--all"], set()),
    ],
)
def test_deleting(full_store: SqlTraceStore, tmp_path: Path, arguments: list[str], left: set[str]) -> None:
    assert traces(tmp_path, "delete", *arguments) == 0
    assert {one.id for one in full_store.summaries()} == left
    assert {label.trace_id for label in full_store.labels()} <= left


def test_deleting_works_where_nothing_is_kept_any_more(
    full_store: SqlTraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK37_TRACES", "off")
    assert traces(tmp_path, "delete", "--all") == 0
    assert full_store.count() == 0


def test_a_document_is_forgotten_by_its_id(
    full_store: SqlTraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert traces(tmp_path, "delete", "--document", "contract") == EXIT_BAD_INPUT
    assert "--collection" in capsys.readouterr().err
    assert traces(tmp_path, "delete", "--document", "contract", "--collection", "documents") == 0
    assert "1 traces lost the words" in capsys.readouterr().out
    stored = full_store.trace("aaaa1111")
    assert stored is not None
    assert {ranked.chunk.text for ranked in stored.trace.ranked} == {""}


def test_stats_count_what_is_kept(
    full_store: SqlTraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert traces(tmp_path, "stats", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "n": 3,
        "where": str(tmp_path / "traces.sqlite"),
        "first_asked_at": LAST_MONTH,
        "last_asked_at": YESTERDAY,
        "outcomes": {"failure: LLMTimeout": 1, "answer: written": 1, "refusal: below_floor": 1},
        "collections": {"manuals": 2, "documents": 1},
        "labels": {"right": 1, "wrong": 1, "bad_answer": 1, "wrongly_refused": 1},
        "median_total_ms": 25.0,
    }
    assert traces(tmp_path, "stats") == 0
    assert "labels: wrongly_refused: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["list", "--since", "yesterday"], ["list", "--limit", "-1"], ["delete", "--older-than", "-3"]]
)
def test_bad_values_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert traces(tmp_path, *arguments) == EXIT_BAD_INPUT
    assert arguments[-1] in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(
    full_store: SqlTraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert traces(tmp_path, "export", "--out", str(tmp_path / "nowhere" / "export.jsonl")) == EXIT_BAD_INPUT
    assert "name another file" in capsys.readouterr().err


@pytest.fixture
def engines(
    tmp_path: Path, embedder: SentenceTransformerEmbedder, embedded_reranker: CrossEncoderReranker
) -> Iterator[Engines]:
    folder = load_settings(data_dir=tmp_path, collection="contracts").collection_dir / "index"
    with closing(EdgeIndex.open(folder, "contracts", embedder.identity)) as index:
        for title, texts in TEXTS.items():
            stored = StoredDocument(Document(title.lower(), title, f"{title}.pdf", len(texts)), "ingesting")
            chunks = chunks_of(title, texts)
            index.begin_document(stored)
            index.add_chunks(chunks, embedder.embed_passages([chunk.passage for chunk in chunks]))
            index.publish_document(replace(stored, state="ready", n_chunks=len(chunks)))
        yield Engines(embedder, index, embedded_reranker, embedded_reranker, None)


def test_labels_given_in_the_app_become_training_groups(
    engines: Engines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "How long is the waiting period for critical illness?"
    never_above = QueryPolicy(floor=1.0)
    with closing(open_recorder(load_settings(data_dir=tmp_path, collection="contracts"))) as recorder:
        answered = recorder.answered(answer_question(asked, engines, QueryPolicy()))
        refused = recorder.answered(answer_question("What does the hygienist do?", engines, never_above))
        assert isinstance(answered.outcome, Answer)
        assert isinstance(refused.outcome, Refusal)
        store = recorder.store()
        assert store is not None
        assert [one.trace for one in store.traces()] == [refused.trace, answered.trace], "real traces come back equal"
        chunks = {ranked.chunk.text: ranked.chunk for ranked in answered.trace.ranked}
        right = next(chunk for text, chunk in chunks.items() if "180 days" in text)
        wrong = next(chunk for text, chunk in chunks.items() if "crowns and bridges" in text)
        hygienist = next(one.chunk for one in refused.trace.ranked if "hygienist" in one.chunk.text)
        store.label(answered.trace.id, "right", chunk_id=right.id)
        store.label(answered.trace.id, "wrong", chunk_id=wrong.id)
        store.label(answered.trace.id, "good_answer")
        store.label(refused.trace.id, "wrongly_refused", chunk_id=hygienist.id)
        store.label(refused.trace.id, "wrongly_refused")
    engines.index.close()

    labels, groups = str(tmp_path / "labels.jsonl"), tmp_path / "groups.jsonl"
    assert traces(tmp_path, "labels", "--collection", "contracts", "--out", labels) == 0
    assert "4 labels written" in capsys.readouterr().err
    mine = ["train", "mine", "--labels", labels, "--collection", "contracts", "--data-dir", str(tmp_path)]
    assert main([*mine, "--out", str(groups)]) == 0

    mined = {group.query: group for group in read_groups(groups)}
    assert mined.keys() == {asked, "What does the hygienist do?"}
    assert [one.endswith(right.text) for one in mined[asked].positives] == [True]
    assert any(one.endswith(wrong.text) for one in mined[asked].negatives), "the one that a person called wrong"
    assert [one.endswith(hygienist.text) for one in mined["What does the hygienist do?"].positives] == [True]
