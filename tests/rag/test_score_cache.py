"""Remembered scores: what costs a model run and what doesn't, and what happens to the file."""

import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.recall_order import RecallOrder
from rag.engines.score_cache import CachedReranker, ScoreCache
from rag.errors import BadInput
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance
from tests.contracts.tiny_models import CORPUS

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]


class Counted:
    """A real reranker that writes down which passages it was asked to read."""

    def __init__(self, inner: CrossEncoderReranker) -> None:
        self._inner = inner
        self.info: EngineInfo = inner.info
        self.read: list[str] = []

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        self.read += [passage.text for passage in passages]
        return self._inner.score(query, passages, progress=progress)

    def estimate_seconds(self, n_passages: int) -> float | None:
        return self._inner.estimate_seconds(n_passages)


@pytest.fixture
def counted(embedded_reranker: CrossEncoderReranker) -> Counted:
    return Counted(embedded_reranker)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "scores.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[ScoreCache]:
    cache = ScoreCache(path, limit_mb=1)
    yield cache
    cache.close()


def keys(n: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(32) for number in range(start, start + n)]


def relevance(score: float = 0.5) -> Relevance:
    return Relevance(order=1.5, score=score, logit=1.5)


def test_a_repeated_question_costs_no_model_run(cache: ScoreCache, counted: Counted) -> None:
    first = CachedReranker(counted, cache).score(QUERY, PASSAGES)
    assert counted.read == CORPUS
    assert not any(one.cached for one in first)
    counted.read.clear()
    again = CachedReranker(counted, cache).score(QUERY, list(reversed(PASSAGES)))
    assert counted.read == []
    assert [replace(one, cached=False) for one in reversed(again)] == first  # to the last digit
    assert all(one.cached for one in again)


def test_it_outlives_the_process_s_cache(path: Path, counted: Counted) -> None:
    for _ in range(2):
        cache = ScoreCache(path, limit_mb=1)
        CachedReranker(counted, cache).score(QUERY, PASSAGES)
        cache.close()
    assert counted.read == CORPUS


def test_a_changed_passage_costs_only_itself(cache: ScoreCache, counted: Counted) -> None:
    reranker = CachedReranker(counted, cache)
    reranker.score(QUERY, PASSAGES)
    counted.read.clear()
    changed = [replace(PASSAGES[0], text=PASSAGES[0].text + " From 2027 on it is 90."), *PASSAGES[1:]]
    relevances = reranker.score(QUERY, changed)
    assert counted.read == [changed[0].text]
    assert [one.cached for one in relevances] == [False, True, True, True, True, True]


def test_the_same_text_under_another_id_is_remembered(cache: ScoreCache, counted: Counted) -> None:
    reranker = CachedReranker(counted, cache)
    reranker.score(QUERY, [*PASSAGES, Passage("twin", PASSAGES[0].text)])
    assert counted.read == CORPUS
    assert reranker.score(QUERY, [Passage("moved", PASSAGES[0].text)])[0].cached


@pytest.mark.parametrize("change", ["name", "revision", "precision"])
def test_another_reranker_revision_or_precision_knows_nothing_of_it(
    cache: ScoreCache, counted: Counted, change: str
) -> None:
    CachedReranker(counted, cache).score(QUERY, PASSAGES)
    counted.info = replace(counted.info, **{change: "another"})
    assert not any(one.cached for one in CachedReranker(counted, cache).score(QUERY, PASSAGES))


def test_another_question_or_scope_knows_nothing_of_it(cache: ScoreCache, counted: Counted) -> None:
    CachedReranker(counted, cache, scope="http://one").score(QUERY, PASSAGES)
    assert not CachedReranker(counted, cache, scope="http://one").score(QUERY + "!", PASSAGES[:1])[0].cached
    assert not CachedReranker(counted, cache, scope="http://two").score(QUERY, PASSAGES[:1])[0].cached


def test_what_has_no_score_or_stood_in_is_not_remembered(cache: ScoreCache, counted: Counted) -> None:
    CachedReranker(RecallOrder(), cache).score(QUERY, PASSAGES)
    assert cache.count() == 0


def test_no_text_is_written_to_the_disk(cache: ScoreCache, path: Path, counted: Counted) -> None:
    CachedReranker(counted, cache).score(QUERY, PASSAGES)
    cache.close()
    content = path.read_bytes()
    assert b"waiting" not in content
    assert b"buprofen" not in content


def test_progress_counts_remembered_and_computed_passages(cache: ScoreCache, counted: Counted) -> None:
    reranker = CachedReranker(counted, cache)
    reranker.score(QUERY, PASSAGES[:4])
    seen: list[tuple[int, int]] = []
    reranker.score(QUERY, PASSAGES, progress=lambda *done: seen.append(done))
    assert seen == [(4, 6), (6, 6)]


def test_a_bad_question_is_the_reranker_s_to_refuse(cache: ScoreCache, counted: Counted) -> None:
    reranker = CachedReranker(counted, cache)
    with pytest.raises(BadInput, match="empty"):
        reranker.score("  ", PASSAGES)
    with pytest.raises(BadInput, match="shorten"):
        reranker.score("how long " * 2000, PASSAGES)
    assert cache.count() == 0


def test_the_size_is_bounded_and_the_least_recently_used_go_first(path: Path) -> None:
    now = 0.0
    cache = ScoreCache(path, limit_mb=0.2, clock=lambda: now)
    cache.write(dict.fromkeys(keys(100), relevance()))
    for batch in range(1, 40):
        now += 7200
        assert len(cache.read(keys(10))) == 10  # used again and again
        cache.write(dict.fromkeys(keys(100, 100 * batch), relevance()))
        assert cache.used_bytes() <= 0.2e6 + 20_000
    assert 500 < cache.count() < 3000
    assert len(cache.read(keys(10))) == 10
    assert cache.read(keys(90, 10)) == {}
    assert len(cache.read(keys(100, 3900))) == 100
    cache.close()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 1e6


def test_more_keys_than_a_query_takes(cache: ScoreCache) -> None:
    cache.write({key: relevance(score=0.25) for key in keys(2500)})
    found = cache.read(keys(3000))
    assert len(found) == 2500
    assert set(found.values()) == {replace(relevance(0.25), cached=True)}


@pytest.mark.parametrize("damage", ["text", "half", "empty", "zeros inside"])
def test_a_damaged_file_starts_anew_and_nobody_sees_an_error(
    path: Path, counted: Counted, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = ScoreCache(path, limit_mb=1)
    cache.write({key: relevance() for key in keys(500)})
    cache.close()
    content = path.read_bytes()
    path.write_bytes(
        {
            "text": b"this is no database" * 1000,
            "half": content[: len(content) // 2],
            "empty": b"",
            "zeros inside": content[:4096] + bytes(len(content) - 4096),
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        some = [CachedReranker(counted, cache).score(QUERY, PASSAGES[4:]) for _ in range(3)]
    assert [[one.score for one in relevances] for relevances in some[1:]] == [[one.score for one in some[0]]] * 2
    assert some[2][0].cached
    assert damage == "empty" or "damaged" in caplog.text
    cache.close()


def test_a_remembered_score_that_can_t_be_one_is_not_believed(path: Path, counted: Counted) -> None:
    cache = ScoreCache(path, limit_mb=1)
    reranker = CachedReranker(counted, cache)
    first = reranker.score(QUERY, PASSAGES)
    cache.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE scores SET score = 7")
    connection.close()
    assert reranker.score(QUERY, PASSAGES) == first
    cache.close()


def test_a_place_that_can_t_be_written_is_logged_and_scores_are_computed(
    tmp_path: Path, counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    reranker = CachedReranker(counted, ScoreCache(tmp_path / "cache" / "scores.sqlite", limit_mb=1))
    with caplog.at_level(logging.WARNING):
        assert len(reranker.score(QUERY, PASSAGES)) == len(PASSAGES)
    assert "can't be" in caplog.text


def test_a_file_that_another_process_holds_is_not_waited_for(path: Path, counted: Counted) -> None:
    cache = ScoreCache(path, limit_mb=1)
    reranker = CachedReranker(counted, cache)
    reranker.score(QUERY, PASSAGES[:3])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        relevances = reranker.score(QUERY, PASSAGES)  # reads beside the writer, can't write
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert [one.cached for one in relevances] == [True, True, True, False, False, False]
    cache.close()


def test_many_threads_share_it(cache: ScoreCache) -> None:
    failures: list[str] = []

    def work(worker: int) -> None:
        for turn in range(30):
            mine = keys(20, 20 * ((worker + turn) % 8))
            cache.write({key: relevance((worker % 8) / 8) for key in mine})
            if len(cache.read(mine)) != 20:
                failures.append(f"{worker} {turn}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert failures == []
    assert cache.count() == 160


FILL = """
import sys, time
from pathlib import Path
from rag.engines.score_cache import ScoreCache
from rag.types import Relevance
path, worker, start = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
cache = ScoreCache(path, limit_mb=1)
time.sleep(max(0, start - time.time()))
for turn in range(30):
    keys = [(1000 * worker + 20 * turn + number).to_bytes(32, "big") for number in range(20)]
    cache.write({key: Relevance(1.5, 0.5, 1.5) for key in keys})
    assert len(cache.read(keys)) == 20
cache.close()
"""


def test_several_processes_share_it(path: Path) -> None:
    start = str(time.time() + 3)
    workers = [subprocess.Popen([sys.executable, "-c", FILL, str(path), str(worker), start]) for worker in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    cache = ScoreCache(path, limit_mb=1)
    assert cache.count() == 3 * 30 * 20
    cache.close()
