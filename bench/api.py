"""`api`: the HTTP API in a process of its own under load: sustained, in a spike, and through an hour's questions.

No peer takes part. Callers and server share this machine's cores. Every question is scored anew, none from memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import psutil

from bench.callers import (
    ASK,
    DOCUMENTS,
    MIX,
    QUESTIONS,
    STREAMED,
    Caller,
    Reply,
    client_of,
    errors_of,
    figures_of,
    percentiles,
)
from bench.machine import OWN_LIBRARIES, versions
from bench.material import SAMPLES, pdfs_of, questions_of
from bench.served import environment_of, filled_folder, free_port, served
from bench.words import count_of, figure, listed_versions, seconds_of
from rag.errors import BadInput, Rank37Error
from rag.evaluation.tables import Table

WARM_UP_SHARE = 1 / 3
"""How much of the soak is left out of the slope: what is kept once, such as models and pools, is there by then."""
LOOKS = 60
"""About how often memory is looked at in the soak."""
LOOK_S = 0.25
"""How often somebody looks at the documents while the spike is dealt with."""
WATCH_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench api`."""
    parser.add_argument("--set", type=Path, default=SAMPLES, help="folder with pdfs/ and questions.jsonl (data)")
    parser.add_argument("--askers", type=int, default=8, help="sustained: who calls again as soon as served (8)")
    parser.add_argument("--seconds", type=float, default=30, help="sustained: for how long (30)")
    parser.add_argument("--at-once", type=int, default=120, help="spike: questions at the same moment (120)")
    parser.add_argument("--waiting", type=int, default=64, help="the server's RANK37_WAITING: places in its line (64)")
    parser.add_argument("--compared", type=int, default=5, help="spike: questions asked alone before and after (5)")
    parser.add_argument("--questions", type=int, default=60, help="soak: questions one after the other (60)")


def kept_as(options: argparse.Namespace) -> str:
    """Name of the file that keeps the result."""
    return "api"


def measure(options: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    """The three loads one after the other on one server, which must stand them all."""
    for name in ("askers", "at_once", "compared", "questions"):
        if getattr(options, name) < 1:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(options, name)}: at least 1 is needed")
    questions = questions_of(options.set, 10_000)
    with tempfile.TemporaryDirectory(prefix="rank37-bench-") as name:
        folder, log = Path(name) / "data", Path(name) / "api.log"
        chunks = filled_folder(folder, pdfs_of(options.set))
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        module, settings = ["ui.api", "--port", str(port), "--log-json"], {"RANK37_WAITING": str(options.waiting)}
        with served(module, environment_of(folder) | settings, f"{url}/healthz", log) as process:
            documents = sorted({chunk.document_id for chunk in chunks})
            texts = [chunk.text for chunk in chunks]
            driven = asyncio.run(_driven(url, Watch(process.pid), options, show, questions, texts, documents))
        warnings = _warnings(log)
    return {
        "set": options.set.name,
        "chunks": len(chunks),
        "documents": len(documents),
        "waiting": options.waiting,
        **driven,
        "logged_warnings": warnings,
        "versions": versions([*OWN_LIBRARIES, "fastapi", "uvicorn", "httpx"]),
    }


@dataclass
class Watch:
    """What the server's process takes."""

    pid: int
    looks: list[dict[str, float]] = field(default_factory=list)

    def look(self, questions: int) -> dict[str, float]:
        """Note memory, open files and threads after so many questions."""
        process = psutil.Process(self.pid)
        with process.oneshot():
            seen = {
                "questions": questions,
                "memory_mb": process.memory_info().rss / 1e6,
                "files": process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
                "threads": process.num_threads(),
            }
        self.looks.append(seen)
        return seen

    def cpu_s(self) -> float:
        """Seconds of computing so far."""
        return float(sum(psutil.Process(self.pid).cpu_times()[:2]))


async def _driven(
    url: str,
    watch: Watch,
    options: argparse.Namespace,
    show: Callable[[str], None],
    questions: Sequence[str],
    texts: Sequence[str],
    documents: Sequence[str],
) -> dict[str, Any]:
    async with client_of(url) as client:
        caller = Caller(client, questions=questions, texts=texts, documents=documents)
        for kind in dict.fromkeys(MIX):  # models are loaded at the first question
            warm = await caller.call(kind)
            if not warm.is_right:
                raise Rank37Error(f"the API does not answer one caller alone: {warm.error or 'turned away'}")
        parts = {}
        parts["sustained"] = await _sustained(caller, watch, options.askers, options.seconds)
        show(f"sustained: {parts['sustained']['requests_a_second']:.2f} requests a second")
        parts["spike"] = await _spike(caller, watch, options.at_once, questions[: options.compared])
        show(f"spike: {parts['spike']['served']} served, {parts['spike']['turned_away']} turned away")
        parts["soak"] = await _soak(caller, Watch(watch.pid), options.questions)
        show(f"soak: {parts['soak']['questions']} questions, {parts['soak']['slope_kb_a_question']} kB a question")
    return parts


async def _sustained(caller: Caller, watch: Watch, askers: int, seconds: float) -> dict[str, Any]:
    """Each asker goes through the mix from another place, and calls again as soon as served."""
    end = time.perf_counter() + seconds

    async def asker(number: int) -> list[Reply]:
        replies: list[Reply] = []
        while time.perf_counter() < end:
            replies.append(await caller.call(MIX[(number + len(replies)) % len(MIX)]))
        return replies

    started, computed = time.perf_counter(), watch.cpu_s()
    async with _watching(watch) as looks:
        replies = [one for own in await asyncio.gather(*map(asker, range(askers))) for one in own]
    taken = time.perf_counter() - started
    right = [reply for reply in replies if reply.is_right]
    asked = sum(reply.kind in QUESTIONS for reply in right)
    return {
        "askers": askers,
        "seconds": taken,
        "requests": len(replies),
        "requests_a_second": len(right) / taken,
        "questions_a_second": asked / taken,
        "server_cpu_s": watch.cpu_s() - computed,
        "kinds": figures_of(replies),
        "turned_away": sum(reply.retry_after_s is not None for reply in replies),
        "errors": errors_of(replies),
        "most_memory_mb": max(look["memory_mb"] for look in looks),
        "most_threads": max(look["threads"] for look in looks),
    }


async def _spike(caller: Caller, watch: Watch, at_once: int, compared: Sequence[str]) -> dict[str, Any]:
    """All ask at the same moment, every other one streamed; somebody else goes on looking at the documents."""
    before = [await caller.call(ASK, question) for question in compared]
    async with _watching(watch) as looks:
        bystander = asyncio.create_task(_bystander(caller))
        replies = await asyncio.gather(*(caller.call((ASK, STREAMED)[number % 2]) for number in range(at_once)))
        bystander.cancel()
        meanwhile = await bystander
    # The same questions once more are answered from remembered scores: they tell whether the answers are the same, and
    # others how long an answer takes now.
    timed = [await caller.call(ASK, f"{question} (again)") for question in compared]
    after = [await caller.call(ASK, question) for question in compared]
    away = [reply for reply in replies if reply.retry_after_s is not None]
    right = [reply for reply in replies if reply.is_right]
    told = [reply.retry_after_s for reply in away if reply.retry_after_s is not None]
    return {
        "at_once": at_once,
        "served": len(right),
        "turned_away": len(away),
        "errors": errors_of([*before, *replies, *meanwhile, *timed, *after]),
        "served_times": percentiles([reply.seconds for reply in right]),
        "turned_away_times": percentiles([reply.seconds for reply in away]),
        "retry_after_s": [min(told), max(told)] if told else [],
        "documents_meanwhile": {"count": len(meanwhile), **percentiles([reply.seconds for reply in meanwhile])},
        "compared": len(compared),
        "before_median_s": median(reply.seconds for reply in before),
        "after_median_s": median(reply.seconds for reply in timed),
        "same_answers": sum(
            _answer(one) is not None and _answer(one) == _answer(other)
            for one, other in zip(before, after, strict=True)
        ),
        "most_memory_mb": max(look["memory_mb"] for look in looks),
        "most_threads": max(look["threads"] for look in looks),
    }


async def _soak(caller: Caller, watch: Watch, questions: int) -> dict[str, Any]:
    """One caller goes through the mix until so many questions were put."""
    every = max(1, questions // LOOKS)
    replies: list[Reply] = []
    asked = 0
    started, computed = time.perf_counter(), watch.cpu_s()
    watch.look(0)
    while asked < questions:
        reply = await caller.call(MIX[len(replies) % len(MIX)])
        replies.append(reply)
        if reply.kind in QUESTIONS:
            asked += 1
            if asked % every == 0 or asked == questions:
                watch.look(asked)
    third = len(replies) // 3
    return {
        "questions": asked,
        "requests": len(replies),
        "seconds": time.perf_counter() - started,
        "server_cpu_s": watch.cpu_s() - computed,
        "kinds": figures_of(replies),
        "turned_away": sum(reply.retry_after_s is not None for reply in replies),
        "errors": errors_of(replies),
        "first_third": figures_of(replies[:third]),
        "last_third": figures_of(replies[-third:] if third else []),
        "slope_kb_a_question": slope_kb(watch.looks, questions * WARM_UP_SHARE),
        "looks": watch.looks,
    }


def slope_kb(looks: Sequence[Mapping[str, float]], warm_up: float) -> float | None:
    """Kilobytes that memory grows by a question, by least squares over what was seen after the warm-up.

    None where fewer than three looks are left.

    >>> looks = [{"questions": n, "memory_mb": 500 + 0.002 * n} for n in range(0, 100, 10)]
    >>> slope_kb([{"questions": 0, "memory_mb": 100.0}, *looks], 10), slope_kb(looks[:2], 0)
    (2.0, None)
    """
    settled = [look for look in looks if look["questions"] >= warm_up]
    if len(settled) < 3:
        return None
    line = linear_regression([look["questions"] for look in settled], [look["memory_mb"] for look in settled])
    return round(line.slope * 1000, 3)


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result in words."""
    over = f"{result['documents']} documents of {result['set']}, {result['chunks']} chunks"
    sustained, spike, soak = result["sustained"], result["spike"], result["soak"]
    return [
        Table(
            f"Sustained: {sustained['askers']} callers, each again as soon as served, for {sustained['seconds']:.0f} s",
            KIND_COLUMNS,
            _kind_rows(sustained["kinds"]),
            (
                f"{over}. {sustained['requests_a_second']:.2f} requests a second, of which "
                f"{sustained['questions_a_second']:.2f} questions; {sustained['server_cpu_s']:.0f} s of computing "
                f"by the server. {_most(sustained)}",
                *_troubles(sustained),
            ),
        ),
        Table(
            f"Spike: {spike['at_once']} questions at the same moment",
            ("", "count", "p50", "p95", "most"),
            (
                _times_row("served", spike["served"], spike["served_times"]),
                _times_row(
                    f"turned away (429 or 503), told to come back after {_range(spike['retry_after_s'])}",
                    spike["turned_away"],
                    spike["turned_away_times"],
                ),
                _times_row(
                    "the list of documents meanwhile",
                    spike["documents_meanwhile"]["count"],
                    spike["documents_meanwhile"],
                ),
            ),
            (
                f"A question alone: {seconds_of(spike['before_median_s'])} before and "
                f"{seconds_of(spike['after_median_s'])} after (medians of {spike['compared']}); "
                f"{spike['same_answers']} of {spike['compared']} answers are the same after it. {_most(spike)}",
                *_errors(spike["errors"]),
            ),
        ),
        Table(
            f"Soak: {soak['questions']} questions, one after the other, with what goes with them",
            KIND_COLUMNS,
            _kind_rows(soak["kinds"]),
            (
                f"{soak['requests']} requests in {soak['seconds']:.0f} s, {soak['server_cpu_s']:.0f} s of computing by "
                f"the server. Median of an answer in the first third of it {_median(soak['first_third'])}, in the last "
                f"{_median(soak['last_third'])}.",
                *_troubles(soak),
            ),
        ),
        Table(
            "Soak: the server's process",
            ("after so many questions", "memory, MB", "open files", "threads"),
            tuple(
                (
                    count_of(look["questions"]),
                    figure(look["memory_mb"], digits=1),
                    count_of(look["files"]),
                    count_of(look["threads"]),
                )
                for look in _shown(soak["looks"])
            ),
            (
                f"Memory grows by {figure(soak['slope_kb_a_question'], digits=1) or 'so far unknown'} kB a question "
                "(least squares, the first third left out). Warnings in the server's log: "
                f"{_counted(result['logged_warnings'])}.",
            ),
        ),
        listed_versions(result["versions"]),
    ]


KIND_COLUMNS = ("", "count", "p50", "p95", "p99", "most", "first event, p95")


def _kind_rows(kinds: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            kind,
            count_of(times["count"]),
            *(seconds_of(times[name]) for name in ("p50_s", "p95_s", "p99_s", "most_s")),
            seconds_of(times.get("first_event_p95_s")),
        )
        for kind, times in kinds.items()
    )


def _times_row(what: str, count: int, times: Mapping[str, Any]) -> tuple[str, ...]:
    return (what, count_of(count), *(seconds_of(times[name]) for name in ("p50_s", "p95_s", "most_s")))


def _troubles(part: Mapping[str, Any]) -> tuple[str, ...]:
    away = (f"Turned away: {part['turned_away']}.",) if part["turned_away"] else ()
    return (*away, *_errors(part["errors"]))


def _errors(errors: Mapping[str, int]) -> tuple[str, ...]:
    return (f"Errors: {_counted(errors)}.",)


def _counted(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count} times {what}" for what, count in counts.items()) or "none"


def _range(seconds: Sequence[int]) -> str:
    if not seconds:
        return "no time"
    return f"{seconds[0]} s" if seconds[0] == seconds[-1] else f"{seconds[0]} to {seconds[-1]} s"


def _median(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    return seconds_of(kinds[ASK]["p50_s"]) if ASK in kinds else "unknown"


def _most(part: Mapping[str, Any]) -> str:
    return f"At most {count_of(part['most_memory_mb'])} MB and {part['most_threads']} threads."


def _shown(looks: Sequence[Mapping[str, float]], rows: int = 7) -> list[Mapping[str, float]]:
    """The first, the last, and some evenly between."""
    places = {round(number * (len(looks) - 1) / (rows - 1)) for number in range(rows)}
    return [looks[place] for place in sorted(places)]


def _answer(reply: Reply) -> tuple[str, str] | None:
    return (reply.body["outcome"], reply.body["text"]) if reply.is_right else None


async def _bystander(caller: Caller) -> list[Reply]:
    """Looks at the list of documents again and again until it is told to stop."""
    replies: list[Reply] = []
    with suppress(asyncio.CancelledError):
        while True:
            replies.append(await caller.call(DOCUMENTS))
            await asyncio.sleep(LOOK_S)
    return replies


class _watching:
    """Looks at the server again and again until the block ends."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def __aenter__(self) -> list[dict[str, float]]:
        looks = [self._watch.look(0)]

        async def go_on() -> None:
            while True:
                await asyncio.sleep(WATCH_S)
                looks.append(self._watch.look(0))

        self._task = asyncio.create_task(go_on())
        return looks

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def _warnings(log: Path) -> dict[str, int]:
    """What the server logged from WARNING on, and how often; a line that is none of its own counts as well."""
    counts: dict[str, int] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = {"level": "", "message": line}
        if row["level"] not in ("INFO", "DEBUG") and not row["message"].startswith("The API listens at"):
            counts[row["message"][:200]] = counts.get(row["message"][:200], 0) + 1
    return counts
