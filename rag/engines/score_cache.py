"""Scores remembered on disk: a repeated question costs no model run, a changed document only its own passages.

It serves rerankers whose score of a passage follows from query and passage alone, never listwise ones. Losing the cache
loses time only, so its own failures (a full disk, a damaged file) are logged and never reach a person.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rag.asker import asker
from rag.ports import KnowsAhead, Progress, Reranker
from rag.types import EngineInfo, Passage, Relevance

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
BUSY_LIMIT_S = 1.0
"""Longest wait for another process that writes; then the scores are computed, or not remembered."""
USED_RESOLUTION_S = 3600
"""A hit is noted as a use only if the last noted use is older, so that most questions only read."""
EVICTED_SHARE = 0.1
"""What part of a full cache makes room at a time: the part not used for longest."""
KEYS_PER_QUERY = 500
"""SQLite takes 999 variables at least."""

_Value = TypeVar("_Value")

_SCHEMA = (
    "CREATE TABLE scores (key BLOB PRIMARY KEY, sort REAL NOT NULL, score REAL, logit REAL, "
    "foretold INTEGER NOT NULL, used INTEGER NOT NULL) "
    "WITHOUT ROWID",
    "CREATE INDEX scores_used ON scores (used)",
)


class ScoreCache:
    """A table of scores in one SQLite file. Safe to use from several threads and processes.

    A key is a hash of reranker, revision, precision, query, asker and passage, so the file holds no text of anybody's.
    """

    def __init__(self, path: Path, *, limit_mb: float, clock: Callable[[], float] = time.time) -> None:
        """Name the file; it is opened at the first use.

        Args:
            path: The file; its folder is made.
            limit_mb: Size at which the scores not used for longest are forgotten, in megabytes.
            clock: Seconds since 1970.
        """
        self._path = path
        self._limit_bytes = limit_mb * 1e6
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened_by = 0

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Relevance]:
        """The remembered relevances, each marked as `cached`; keys that are not there are left out."""
        return self._done("read", lambda connection: self._read(connection, keys), {})

    def write(self, relevances: Mapping[bytes, Relevance]) -> None:
        """Remember relevances, and forget the least recently used ones if the file has grown to its limit."""
        now = int(self._clock())
        rows = [(key, one.order, one.score, one.logit, one.foretold, now) for key, one in relevances.items()]

        def write(connection: sqlite3.Connection) -> None:
            with _writing(connection):
                connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._evict(connection)

        self._done("written", write, None)

    def count(self) -> int:
        """How many scores are remembered."""
        return self._done("read", _count, 0)

    def used_bytes(self) -> int:
        """Size of what is remembered, without the space that forgotten scores left for new ones."""
        return self._done("read", _used_bytes, 0)

    def close(self) -> None:
        """Close the file. Idempotent; the next use opens it again."""
        with self._lock:
            self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._opened_by == os.getpid():
            connection.close()

    def _done(self, what: str, operation: Callable[[sqlite3.Connection], _Value], otherwise: _Value) -> _Value:
        """The operation's value, for one caller at a time. A failure is logged; a damaged file is made anew."""
        with self._lock:
            try:
                return operation(self._open())
            except (sqlite3.OperationalError, OSError) as error:
                log.warning("the score cache %s can't be %s (%s): scores are computed", self._path, what, error)
                self._close()
            except sqlite3.DatabaseError as error:
                log.warning("the score cache %s is damaged (%s): it starts anew", self._path, error)
                self._close()
                self._delete()
            return otherwise

    def _read(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Relevance]:
        found: dict[bytes, Relevance] = {}
        now = int(self._clock())
        stale: list[bytes] = []
        for start in range(0, len(keys), KEYS_PER_QUERY):
            some = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows = connection.execute(
                f"SELECT key, sort, score, logit, foretold, used FROM scores WHERE key IN ({marks})", some
            )
            for key, sort, score, logit, foretold, used in rows:
                relevance = _relevance(sort, score, logit, foretold)
                if relevance is None:
                    raise sqlite3.DatabaseError(f"it holds a score of {score!r}")
                found[key] = relevance
                if used < now - USED_RESOLUTION_S:
                    stale.append(key)
        if stale:
            try:
                with _writing(connection):
                    connection.executemany("UPDATE scores SET used = ? WHERE key = ?", [(now, key) for key in stale])
            except sqlite3.OperationalError as error:
                # What was read is good, whoever holds the file or fills the disk.
                log.info("the uses of the score cache %s were not noted: %s", self._path, error)
        return found

    def _open(self) -> sqlite3.Connection:
        # A connection must not cross a fork.
        if self._connection is None or self._opened_by != os.getpid():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            deadline = time.monotonic() + BUSY_LIMIT_S
            while self._connection is None or self._opened_by != os.getpid():
                try:
                    self._connection, self._opened_by = _connect(self._path), os.getpid()
                except sqlite3.OperationalError as error:
                    # SQLite doesn't wait for another process that turns a new file's log on.
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        return self._connection

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            try:
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            except OSError as error:
                log.warning("the damaged score cache %s can't be deleted: %s", self._path, error)

    def _evict(self, connection: sqlite3.Connection) -> None:
        if _used_bytes(connection) <= self._limit_bytes:
            return
        count = _count(connection)
        bytes_per_score = _used_bytes(connection) / max(count, 1)
        excess = count - self._limit_bytes * (1 - EVICTED_SHARE) / bytes_per_score
        with _writing(connection):
            connection.execute(
                "DELETE FROM scores WHERE key IN (SELECT key FROM scores ORDER BY used LIMIT ?)", (math.ceil(excess),)
            )


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, made ready for use by whoever comes first."""
    connection = sqlite3.connect(path, timeout=BUSY_LIMIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if _version(connection) != SCHEMA_VERSION:
            with _writing(connection):
                if _version(connection) != SCHEMA_VERSION:
                    connection.execute("DROP TABLE IF EXISTS scores")
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that writes: it waits for its turn at the start, where SQLite can wait."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    [(version,)] = connection.execute("PRAGMA user_version")
    return int(version)


def _count(connection: sqlite3.Connection) -> int:
    [(count,)] = connection.execute("SELECT count(*) FROM scores")
    return int(count)


def _used_bytes(connection: sqlite3.Connection) -> int:
    [(pages,)] = connection.execute("PRAGMA page_count")
    [(free,)] = connection.execute("PRAGMA freelist_count")
    [(page_bytes,)] = connection.execute("PRAGMA page_size")
    return int((pages - free) * page_bytes)


def _relevance(sort: object, score: object, logit: object, foretold: object) -> Relevance | None:
    """What was remembered, or None where it can't have been written by this program."""
    if not isinstance(sort, float) or not math.isfinite(sort):
        return None
    if not isinstance(score, float) or not 0 <= score <= 1:
        return None
    if logit is not None and not (isinstance(logit, float) and math.isfinite(logit)):
        return None
    return Relevance(sort, score, logit, cached=True, foretold=bool(foretold))


class CachedReranker:
    """A reranker that computes only what is not remembered. As safe to use from several threads as the one within.

    What one person's questions left is not found by another's: a score that is there already would tell that someone
    asked just this.
    """

    def __init__(self, inner: Reranker, cache: ScoreCache, *, scope: str = "") -> None:
        """Join them.

        Args:
            inner: Its relevance of a passage must follow from query and passage alone.
            cache: What remembers; several rerankers can share it.
            scope: Tells apart rerankers that have all of name, revision and precision in common, such as a service's
                address: a service need not name the revision of its model.
        """
        self._inner = inner
        self._cache = cache
        self._scope = scope

    @property
    def info(self) -> EngineInfo:
        """That of the reranker within."""
        return self._inner.info

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order; those that were remembered are marked as `cached`."""
        if not passages or not query.strip():
            return self._inner.score(query, passages, progress=progress)
        texts = list(dict.fromkeys(passage.text for passage in passages))
        keys = self._keys(query, texts)
        remembered = self._cache.read(list(keys.values()))
        relevances = {text: remembered[key] for text, key in keys.items() if key in remembered}
        missing = {passage.text: passage for passage in passages if passage.text not in relevances}
        n_remembered = sum(passage.text in relevances for passage in passages)
        if progress and n_remembered:
            progress(n_remembered, len(passages))
        if missing:
            shown = _shown_as_rest(progress, n_remembered, len(passages)) if progress else None
            computed = self._inner.score(query, list(missing.values()), progress=shown)
            relevances |= dict(zip(missing, computed, strict=True))
            # Hashed again: a service says only once it is asked which revision it runs.
            self._cache.write(
                {
                    key: relevances[text]
                    for text, key in self._keys(query, list(missing)).items()
                    if relevances[text].score is not None and relevances[text].scored_by is None
                }
            )
        return [relevances[passage.text] for passage in passages]

    def know(self, passages: Sequence[Passage]) -> bool:
        """As in `KnowsAhead`, by the reranker within."""
        return isinstance(self._inner, KnowsAhead) and self._inner.know(passages)

    def estimate_seconds(self, n_passages: int) -> float | None:
        """That of the reranker within: nobody knows what will be asked."""
        return self._inner.estimate_seconds(n_passages)

    def _keys(self, query: str, texts: Sequence[str]) -> dict[str, bytes]:
        info = self._inner.info
        told = json.dumps(
            [self._scope, info.name, info.revision, info.precision, query, *([asker()] if asker() else [])]
        )
        start = hashlib.sha256(told.encode())
        keys = {}
        for text in texts:
            # A hash of a hash, so that no query and passage run into each other.
            key = start.copy()
            key.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
            keys[text] = key.digest()
        return keys


def _shown_as_rest(progress: Progress, before: int, total: int) -> Progress:
    """Progress of the passages that are computed, as progress of all: a text can be that of several passages."""
    return lambda done, n_computed: progress(before + done * (total - before) // n_computed, total)
