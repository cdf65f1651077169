"""Short lives of the program, to be ended by `kill -9`: `python -m tests.faults.lives` loads the models once and forks.

Each line of its input is a life: `{"kind", "data_dir", "steps", "told", "countdown"}`. It answers with the life's
process id, and with its exit status once it has ended. What a life has done, it notes in the file `told`, a line each,
after the program has acknowledged it and never before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import rag.engines.late_fusion as late_fusion
from ingest.queue import IngestQueue
from ingest.write import Ingester
from rag.engines.qdrant_edge import EdgeStore
from rag.pipeline import answer_question
from rag.settings import Settings
from rag.wiring import open_embedder, open_engines, open_index, open_recorder
from tests.faults.folders import settings_of

WRITES = frozenset({"os.rename", "os.remove", "os.mkdir"})
"""Audit events of changes to files, as of Python's own."""

Tell = Callable[[object], None]


def main() -> None:
    """Fork a life for each line, and wait for its end."""
    torch.set_num_threads(1)  # threads of this process are not there in a fork
    embedder = open_embedder(settings_of(Path("unused")))
    reranker = late_fusion.embedded_reranker()
    late_fusion.embedded_reranker = lambda: reranker  # loaded once, for every life
    print("ready", flush=True)
    for line in sys.stdin:
        life: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            live(life, embedder)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


def live(life: dict[str, Any], embedder: Any) -> None:
    """One life; whatever goes wrong in it is told."""
    told = os.open(life["told"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(what: object) -> None:
        os.write(told, json.dumps(what).encode() + b"\n")

    if life["countdown"]:
        end_after(life["countdown"])
    try:
        settings = settings_of(Path(life["data_dir"]))
        {"ingest": ingest, "app": app}[life["kind"]](settings, embedder, life["steps"], tell)
        tell(["done"])
    except BaseException as error:
        tell(["error", f"{type(error).__name__}: {error}"])


def end_after(n_changes: int) -> None:
    """Kill this process before or after its nth change to a file or the index."""
    left = n_changes

    def one_less(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in WRITES or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            one_less()

    sys.addaudithook(heard)
    for name in ("write", "delete", "delete_selected", "flush"):
        setattr(EdgeStore, name, _between(one_less, getattr(EdgeStore, name)))


def _between(one_less: Callable[[], None], method: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*arguments: Any, **options: Any) -> Any:
        one_less()
        result = method(*arguments, **options)
        one_less()
        return result

    return changed


def ingest(settings: Settings, embedder: Any, steps: list[list[str]], tell: Tell) -> None:
    """What `python -m ingest` does, one file after the other, and deleting."""
    index = open_index(settings, embedder.identity)
    ingester = Ingester.from_settings(settings, embedder, index)
    for step in steps:
        if step[0] == "ingest":
            outcome = ingester.ingest(Path(step[1]), source=step[2])
            tell(["ingested", step[2], outcome.document_id, outcome.status, outcome.message])
        else:
            ingester.delete(step[1])
            tell(["deleted", step[2]])
    index.close()


def app(settings: Settings, embedder: Any, steps: list[list[str]], tell: Tell) -> None:
    """What the app does without its page: uploads are queued while questions are asked, recorded and labelled."""
    index = open_index(settings, embedder.identity)
    engines = open_engines(settings, embedder=embedder, index=index)
    queue = IngestQueue(Ingester.from_settings(settings, embedder, index), settings.collection_dir / "uploads")
    recorder = open_recorder(settings)
    for step in steps:
        if step[0] == "submit":
            queue.submit(step[2], Path(step[1]).read_bytes())
            tell(["submitted", step[2]])
        elif step[0] == "ask":
            result = recorder.answered(answer_question(step[1], engines, settings.policy))
            tell(["answered", result.trace.id, len(result.trace.ranked), list(result.trace.notes)])
            store = recorder.store()
            assert store is not None
            if result.trace.ranked:
                chunk_id = result.trace.ranked[0].chunk.id
                store.label(result.trace.id, "right", chunk_id=chunk_id)
                tell(["labelled", result.trace.id, chunk_id])
        elif step[0] == "wait":
            queue.wait(300)
        else:  # to the end, however often the uploads were begun before
            for job in queue.jobs():
                if job.state == "failed":
                    queue.retry(job.id)
            assert queue.wait(300)
            tell(["worked", [[job.file, job.state, job.error] for job in queue.jobs()]])
    queue.close()
    index.close()
    recorder.close()


if __name__ == "__main__":
    main()
