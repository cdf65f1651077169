"""`python -m ingest --ray ADDRESS`: files are read, cut and embedded on a Ray cluster, and written here.

All writing is `ingest.write.Ingester`'s, as without Ray: the collection ends up the same, chunk by chunk, and what Ray
runs twice after a worker was lost is written once. Ray Data moves the files through the stages and holds back what the
slower one can't take yet. A path must mean the same file on every node: a shared folder, or one machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import SecretStr

from ingest.files import bare_name, content_id
from ingest.read_document import ReadDocument
from ingest.write import Cutter, FileOutcome, Ingester, IngestProgress, Reporter, limits_of
from rag.errors import BadInput, FileRefused, IngestionStopped, RefusedReason
from rag.ports import Embedder, Index, Progress, Vectors
from rag.settings import Settings
from rag.types import Chunk
from rag.wiring import open_embedder

LOCAL = "local"
"""The address that means: start Ray on this machine, for this run only."""
CONNECT_LIMIT_S = 5.0
CPUS_A_STAGE = 0.5
"""A worker cuts one file while it embeds the one before."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file as the cluster gives it: what was read and cut with its vectors, or why it is refused."""

    document_id: str
    """Content hash of what was read; empty if that could not be read."""
    read: ReadDocument | None = None
    chunks: tuple[Chunk, ...] = ()
    vectors: Vectors | None = None
    """`(n_chunks, dimension)`, float32; None: not embedded yet."""
    refused: tuple[RefusedReason, str] | None = None
    """As `FileRefused` takes it: an error itself does not travel."""


class Cutting:
    """The first stage, in a worker process of its own: a file is read and cut."""

    def __init__(self, settings: Settings) -> None:
        """Load the embedder's tokenizer. Raises ModelUnavailable where the node lacks the model."""
        self._cutter = Cutter.from_settings(settings, open_embedder(settings))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Take `{"path": str}`, give `{"path": str, "prepared": bytes}`."""
        return {"path": row["path"], "prepared": pickle.dumps(self.prepare(Path(row["path"])))}

    def prepare(self, path: Path) -> Prepared:
        """One file; what is wrong with it is a value, since the cluster would try an error again."""
        document_id = ""
        try:
            document_id = content_id(path, max_bytes=self._cutter.limits.max_file_bytes)
            read, chunks = self._cutter(path, bare_name(path.name), Reporter(path.name, None, None))
        except FileRefused as refused:
            return Prepared(document_id, refused=(refused.reason, str(refused)))
        return Prepared(document_id, read, tuple(chunks))


class Embedding:
    """The second stage, in a worker process that loads the model once: the chunks of a file get their vectors."""

    def __init__(self, settings: Settings) -> None:
        """Load the configured embedder. Raises ModelUnavailable where the node lacks it."""
        self._embedder = open_embedder(settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Take and give what `Cutting` gives."""
        prepared: Prepared = pickle.loads(row["prepared"])
        if prepared.refused is None:
            vectors = self._embedder.embed_passages([chunk.passage for chunk in prepared.chunks])
            prepared = replace(prepared, vectors=vectors)
        return {"path": row["path"], "prepared": pickle.dumps(prepared)}


class PreparedFiles:
    """The files that were sent out, as they come back in whatever order; each is handed over once."""

    def __init__(self, paths: Collection[str], rows: Iterator[dict[str, Any]]) -> None:
        self._awaited = set(paths)
        self._rows = rows
        self._early: dict[str, Prepared] = {}

    def take(self, path: str) -> Prepared | None:
        """A file's own, waited for; None for one that was not sent out, or was handed over already.

        Raises IngestionStopped where the cluster is lost.
        """
        if path not in self._awaited:
            return None
        while path not in self._early:
            try:
                row = next(self._rows)
            except Exception as error:  # Ray's own, or StopIteration: none of them is for a person
                raise IngestionStopped(
                    f"the Ray cluster stopped before {path} was read ({type(error).__name__}: {_first_line(error)}): "
                    "see its log, and run the same command again, which continues"
                ) from error
            self._early[str(row["path"])] = pickle.loads(row["prepared"])
        self._awaited.discard(path)
        return self._early.pop(path)

    def close(self) -> None:
        """Want no more of them. The cluster is told, so it must be there still."""
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()


class RayIngester(Ingester):
    """An `Ingester` that is given files read, cut and embedded elsewhere.

    It does the work itself for a file that was not sent out, or that changed since.
    """

    def __init__(self, settings: Settings, embedder: Embedder, index: Index, files: PreparedFiles) -> None:
        """`files` come from the same settings' stages."""
        self._files = files
        self._given = _GivenVectors(embedder)
        self._given_cutter = _GivenChunks(embedder, settings, self._given)
        super().__init__(
            cast(Embedder, self._given),
            index,
            settings.collection_dir / "files",
            limits=limits_of(settings),
            cutter=self._given_cutter,
        )

    def ingest(
        self,
        path: Path,
        *,
        source: str | None = None,
        keep: Collection[str] = (),
        progress: Callable[[IngestProgress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> FileOutcome:
        """As `Ingester.ingest`; waits for the file to come back first."""
        self._given_cutter.prepared = self._files.take(str(path))
        return super().ingest(path, source=source, keep=keep, progress=progress, cancelled=cancelled)


class _GivenChunks(Cutter):
    def __init__(self, embedder: Embedder, settings: Settings, given: _GivenVectors) -> None:
        super().__init__(
            embedder,
            limits=limits_of(settings),
            chunk_tokens=settings.chunk_tokens,
            overlap_tokens=settings.chunk_overlap_tokens,
        )
        self.prepared: Prepared | None = None
        self._given = given

    def __call__(
        self, path: Path, name: str, report: Reporter, *, ahead: bool = False
    ) -> tuple[ReadDocument, list[Chunk]]:
        prepared = self.prepared
        self._given.vectors = {}
        if prepared is None or content_id(path, max_bytes=self.limits.max_file_bytes) != prepared.document_id:
            return super().__call__(path, name, report, ahead=ahead)
        if prepared.refused is not None:
            raise FileRefused(*prepared.refused)
        assert prepared.read is not None
        assert prepared.vectors is not None
        passages = (chunk.passage for chunk in prepared.chunks)
        self._given.vectors = dict(zip(passages, prepared.vectors, strict=True))
        return prepared.read, list(prepared.chunks)


class _GivenVectors:
    """The embedder, asked only for what the cluster did not embed."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.vectors: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        if any(text not in self.vectors for text in texts):
            return self._embedder.embed_passages(texts, progress=progress)
        if progress:
            progress(len(texts), len(texts))
        return np.stack([self.vectors[text] for text in texts])


@contextmanager
def open_ray_ingester(
    settings: Settings, embedder: Embedder, index: Index, files: Sequence[Path], *, address: str, workers: int
) -> Iterator[RayIngester]:
    """Send out the files that the collection does not hold yet, and open what brings them in.

    Args:
        settings: They reach the workers without any key or password in them.
        embedder: The settings'.
        index: The settings' collection.
        files: In the order in which they will be ingested.
        address: Of the cluster's head, such as `ray://head:10001`; `auto` for one on this machine; `local` for one that
            is started for this run.
        workers: How many files are cut, and as many embedded, at a time.

    Raises:
        BadInput: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput(f'--ray needs the extra "ray" ({error.name} is missing): pip install "rank37[ray]"') from error
    if workers < 1:
        raise BadInput(f"--ray-workers {workers}: at least 1 is needed")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what it does is not what a person asked for
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == LOCAL:
        # Ray's workers step back behind everything else on a machine (niceness 15): here they are what is waited for.
        os.environ.setdefault("RAY_worker_niceness", "0")
        options |= {"num_cpus": workers + 1, "include_dashboard": False}  # one for what moves files between them
    else:
        options["address"] = address
    _check_somebody_listens(address)
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _no_cluster(address, error) from error
    try:
        paths = [str(path) for path in files if not _is_in(path, settings, index)]
        rows = _sent_out(paths, settings, workers) if paths else iter(())
        prepared = PreparedFiles(paths, rows)
        try:
            yield RayIngester(settings, embedder, index, prepared)
        finally:
            prepared.close()
    finally:
        ray.shutdown()


def _sent_out(paths: Sequence[str], settings: Settings, workers: int) -> Iterator[dict[str, Any]]:
    """The stages over all paths; they run as their results are taken."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    stage: dict[str, Any] = {
        "fn_constructor_args": (_without_secrets(settings),),
        "compute": ray.data.ActorPoolStrategy(size=workers),
        "num_cpus": CPUS_A_STAGE,
    }
    # Ray's own annotations know no class as a stage.
    sent: Any = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths))
    return iter(sent.map(Cutting, **stage).map(Embedding, **stage).iter_rows())


def _check_somebody_listens(address: str) -> None:
    """Ray itself would look for minutes. Raises BadInput where a host and a port are named and nobody is there."""
    named = re.fullmatch(r"(?:ray://)?(?P<host>[^:/]+):(?P<port>\d{1,5})", address)
    if named is None:
        return
    try:
        socket.create_connection((named["host"], int(named["port"])), timeout=CONNECT_LIMIT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> BadInput:
    return BadInput(
        f"--ray {address}: no Ray cluster answers there ({_first_line(error)}); start one with `ray start --head`, or "
        f"take --ray {LOCAL}"
    )


def _is_in(path: Path, settings: Settings, index: Index) -> bool:
    """Whether the collection holds a file's content already, or the file can't be read: both cost no worker."""
    try:
        stored = index.document(content_id(path, max_bytes=limits_of(settings).max_file_bytes))
    except FileRefused:
        return True
    return stored is not None and stored.state == "ready"


def _without_secrets(settings: Settings) -> Settings:
    secret = [name for name in type(settings).model_fields if isinstance(getattr(settings, name), SecretStr)]
    return settings.model_copy(update=dict.fromkeys(secret))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
