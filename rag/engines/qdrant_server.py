"""The index on a Qdrant server or cluster, by URL, through qdrant-client.

It keeps nothing in this process, so that several apps can share a collection, and it doesn't start or set up a server.
What a document goes through is in `rag.engines.qdrant_points`. A client in local mode (`QdrantClient(":memory:")`)
works too: the tests use it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from rag.engines.qdrant_points import (
    BATCH_POINTS,
    DENSE,
    INDEXED_FIELDS,
    QDRANT_RRF_CONSTANT,
    SPARSE,
    Hit,
    NewPoint,
    Payload,
    QdrantIndex,
    Selection,
    SparseWeights,
)
from rag.errors import BadInput, CollectionError, EmbedderMismatch, IndexUnavailable, Rank37Error
from rag.types import EmbedderIdentity, EngineInfo

Quantization = Literal["none", "scalar", "binary"]


Client = QdrantClient
"""What `connect` gives, for those that only pass it on."""


def connect(url: str, api_key: str | None, timeout_s: float) -> QdrantClient:
    """A client for the server at `url`; nothing is sent yet. `timeout_s` is rounded up to whole seconds.

    Raises:
        BadInput: `url` is no http or https address.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise BadInput(f"QDRANT_URL = {_public(url)!r} is no address: give one such as http://localhost:6333")
    with warnings.catch_warnings():
        # A key over plain http is what a server on the same machine or in the same container network has.
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection", UserWarning)
        try:
            # The compatibility check would ask the server in a thread of its own, and warn where it is down.
            return QdrantClient(url=url, api_key=api_key, timeout=timeout_s, check_compatibility=False)  # type: ignore[arg-type]  # annotated int, but fractions are rounded up
        except ValueError as error:
            raise BadInput(f"QDRANT_URL = {_public(url)!r} can't be used: {error}") from error


@dataclass(frozen=True, slots=True)
class ServerLayout:
    """How a new collection lies on the server. A collection that exists keeps the layout that it was made with."""

    shards: int | None = None
    """Parts that the nodes of a cluster share out; None: the server's default, one a node."""
    replicas: int | None = None
    """Nodes that hold each part; None: the server's default, one."""
    write_consistency: int | None = None
    """Nodes that must have a write before it counts as done; None: the server's default, one."""
    quantization: Quantization = "none"
    """scalar: 8 bits a number in RAM; binary: 1 bit. The full vectors are then on disk, and rescore what was found."""
    on_disk: bool = False
    """Vectors, graph and sparse index are read from disk through the page cache instead of being held in RAM."""

    @property
    def is_quantized(self) -> bool:
        """Whether search first looks at short vectors."""
        return self.quantization != "none"


HNSW_EF = 256
"""How many points a search of the graph keeps in view: with the server's usual 100 a recall of 100 found 95% of the
nearest (`python -m bench scaling`)."""
OVERSAMPLING = 3.0
"""How many times more candidates the quantized vectors give than are asked for; the full vectors choose among them.

Source: https://qdrant.tech/documentation/guides/quantization/#searching-with-quantization"""


def drop(client: QdrantClient, collections: Sequence[str]) -> None:
    """Delete collections, those that are there, and close the client. Raises IndexUnavailable."""
    try:
        for collection in collections:
            store = ServerStore(client, collection)
            with store._answered():
                if client.collection_exists(collection):
                    client.delete_collection(collection)
    finally:
        client.close()


class ServerIndex(QdrantIndex):
    """The port `Index` on a Qdrant server."""

    @classmethod
    def open(
        cls,
        client: QdrantClient,
        collection: str,
        embedder: EmbedderIdentity,
        layout: ServerLayout | None = None,
    ) -> Self:
        """Open the collection, or make a new one in that layout. `close` closes the client.

        Raises:
            IndexUnavailable: The server is down, slow, refuses the key or answers nonsense.
            EmbedderMismatch: Another embedder made the collection.
            CollectionError: The collection is another program's, or an incompatible version of this program made it.
        """
        store = ServerStore(client, collection, layout)
        store.prepare(embedder)
        info = EngineInfo(
            role="index",
            name="Qdrant server",
            revision=store.server_version(),
            why=f"a Qdrant server is configured: {store.address}",
            sends_data_to=store.remote_host,
        )
        return cls(store, collection, embedder, info)


class ServerStore:
    """A `PointStore` over one collection of a `QdrantClient`."""

    def __init__(self, client: QdrantClient, collection: str, layout: ServerLayout | None = None) -> None:
        self._client = client
        self._collection = collection
        self._layout = layout or ServerLayout()
        self._closed = False
        options = client.init_options
        url = options["url"] or options["host"]
        self._local = url is None
        self.address = _public(str(url or options["location"] or options["path"]))
        host = None if self._local else urlsplit(self.address if "//" in self.address else f"//{self.address}").hostname
        self.remote_host = "" if host is None or _is_this_machine(host) else host
        # Local mode is Python lists without locks; the remote client is safe by itself.
        self._taking_turns = threading.RLock() if self._local else None

    def prepare(self, embedder: EmbedderIdentity) -> None:
        """Make the collection and its payload indexes where they are missing, and check that its vectors fit."""
        with self._answered():
            if not self._client.collection_exists(self._collection):
                self._create(embedder.dimension)
            info = self._client.get_collection(self._collection)
            vectors = info.config.params.vectors
            dense = vectors.get(DENSE) if isinstance(vectors, dict) else None
            if dense is None or SPARSE not in (info.config.params.sparse_vectors or {}):
                raise CollectionError(
                    f"collection {self._collection!r} at {self.address} is not of this program: "
                    "choose another name (RANK37_COLLECTION)"
                )
            if dense.size != embedder.dimension and info.points_count == 0:
                raise EmbedderMismatch(
                    f"collection {self._collection!r} was made for vectors of dimension {dense.size}; this run embeds "
                    f"with {embedder.name} ({embedder.dimension}): ingest into another collection (RANK37_COLLECTION)"
                )
            if self._local:
                return
            for field in INDEXED_FIELDS:
                if field not in info.payload_schema:
                    self._client.create_payload_index(
                        self._collection, field, models.PayloadSchemaType.KEYWORD, wait=True
                    )

    def server_version(self) -> str:
        """Version of the server; empty in local mode."""
        if self._local:
            return ""
        with self._answered():
            return self._client.info().version

    def write(self, points: Sequence[NewPoint], *, only_new: bool = False) -> None:
        """As in `PointStore`."""
        with self._answered():
            self._client.upsert(
                self._collection,
                [_server_point(point) for point in points],
                wait=True,
                update_mode=models.UpdateMode.INSERT_ONLY if only_new else None,
            )

    def delete(self, point_ids: Sequence[str]) -> None:
        """As in `PointStore`."""
        with self._answered():
            self._client.delete(self._collection, models.PointIdsList(points=list(point_ids)), wait=True)

    def delete_selected(self, selection: Selection) -> None:
        """As in `PointStore`."""
        selector = models.FilterSelector(filter=_server_filter(selection) or models.Filter())
        with self._answered():
            self._client.delete(self._collection, selector, wait=True)

    def read(self, point_ids: Sequence[str]) -> dict[str, Payload]:
        """As in `PointStore`."""
        if not point_ids:
            return {}
        with self._answered():
            records = self._client.retrieve(self._collection, list(point_ids), with_payload=True, with_vectors=False)
            return {str(record.id): record.payload or {} for record in records}

    def scan(self, selection: Selection, *, with_payload: bool = True) -> Iterator[tuple[str, Payload]]:
        """As in `PointStore`."""
        condition = _server_filter(selection)
        offset: Any = None
        while True:
            with self._answered():
                records, offset = self._client.scroll(
                    self._collection,
                    scroll_filter=condition,
                    limit=BATCH_POINTS,
                    offset=offset,
                    with_payload=with_payload,
                    with_vectors=False,
                )
                page = [(str(record.id), record.payload or {}) for record in records]
            yield from page
            if offset is None:
                return

    def count(self, selection: Selection) -> int:
        """As in `PointStore`."""
        with self._answered():
            return self._client.count(self._collection, _server_filter(selection), exact=True).count

    def search(
        self, dense: list[float], sparse: SparseWeights | None, selection: Selection, *, limit: int
    ) -> list[Hit]:
        """As in `PointStore`."""
        condition = _server_filter(Selection(None, selection.within, selection.without))
        rescoring = (
            models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
            if self._layout.is_quantized
            else None
        )
        params = models.SearchParams(hnsw_ef=max(HNSW_EF, limit), quantization=rescoring)
        prefetches = [models.Prefetch(query=dense, using=DENSE, limit=limit, filter=condition, params=params)]
        if sparse is not None:
            terms = models.SparseVector(indices=sparse[0], values=sparse[1])
            prefetches.append(models.Prefetch(query=terms, using=SPARSE, limit=limit, filter=condition))
        with self._answered():
            response = self._client.query_points(
                self._collection,
                prefetch=prefetches,
                query=models.RrfQuery(rrf=models.Rrf(k=QDRANT_RRF_CONSTANT)),
                limit=limit * len(prefetches),
                with_payload=True,
            )
            return [(str(point.id), point.payload or {}, float(point.score)) for point in response.points]

    def flush(self) -> None:
        """Nothing to do: every write waits until the server has it in its log and applied."""

    def close(self) -> None:
        """As in `PointStore`."""
        if not self._closed:
            self._closed = True
            with self._answered(even_closed=True):
                self._client.close()

    def _create(self, dimension: int) -> None:
        try:
            self._client.create_collection(self._collection, **_layout_options(self._layout, dimension))
        except UnexpectedResponse:
            # Another process was faster.
            if not self._client.collection_exists(self._collection):
                raise

    @contextmanager
    def _answered(self, *, even_closed: bool = False) -> Iterator[None]:
        """Any failure of the client becomes an `IndexUnavailable`.

        The client's errors have no common base: beside its own there are pydantic's, httpx's and, for an answer of the
        wrong form, whatever Python raises on reading it.
        """
        if self._closed and not even_closed:
            raise CollectionError(f"collection {self._collection!r} at {self.address} is closed: open it again")
        if self._taking_turns is not None:
            self._taking_turns.acquire()
        try:
            yield
        except Rank37Error:
            raise
        except Exception as error:
            raise IndexUnavailable(self._explained(error)) from error
        finally:
            if self._taking_turns is not None:
                self._taking_turns.release()

    def _explained(self, error: Exception) -> str:
        server = f"the Qdrant server at {self.address}"
        if isinstance(error, UnexpectedResponse):
            status = error.status_code
            if status in (401, 403):
                return f"{server} refused the API key ({status}): set QDRANT_API_KEY to one that may read and write"
            if status == 404:
                return (
                    f"{server} has no collection {self._collection!r} any more, or is no Qdrant server (404): check "
                    "QDRANT_URL, or restart the app and ingest again"
                )
            return f"{server} answered with an error ({status} {error.reason_phrase}): look into its log and try again"
        source = getattr(error, "source", error)
        reason = type(source).__name__
        if "Timeout" in reason:
            return f"{server} didn't answer in time: try again, or raise RANK37_QDRANT_TIMEOUT_S"
        if "Connect" in reason or isinstance(source, OSError):
            return f"{server} can't be reached: start it (docker compose up), or check QDRANT_URL"
        return f"{server} didn't answer as a Qdrant server does ({reason}): check QDRANT_URL and the server's version"


def _layout_options(layout: ServerLayout, dimension: int) -> dict[str, Any]:
    """What `create_collection` takes. Quantized, the short vectors are held in RAM and the full ones are on disk."""
    on_disk = layout.on_disk or None
    quantization: Any = None
    if layout.quantization == "scalar":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        quantization = models.ScalarQuantization(scalar=scalar)
    elif layout.quantization == "binary":
        quantization = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return {
        "vectors_config": {
            DENSE: models.VectorParams(
                size=dimension,
                distance=models.Distance.COSINE,
                on_disk=True if layout.is_quantized else on_disk,
                hnsw_config=models.HnswConfigDiff(on_disk=True) if layout.on_disk else None,
                quantization_config=quantization,
            )
        },
        "sparse_vectors_config": {
            SPARSE: models.SparseVectorParams(
                modifier=models.Modifier.IDF,
                index=models.SparseIndexParams(on_disk=True) if layout.on_disk else None,
            )
        },
        "shard_number": layout.shards,
        "replication_factor": layout.replicas,
        "write_consistency_factor": layout.write_consistency,
    }


def _server_point(point: NewPoint) -> models.PointStruct:
    vector: dict[str, Any] = {}
    if point.dense is not None:
        vector[DENSE] = point.dense
    if point.sparse is not None:
        vector[SPARSE] = models.SparseVector(indices=point.sparse[0], values=point.sparse[1])
    return models.PointStruct(id=point.id, vector=vector, payload=point.payload)


def _server_filter(selection: Selection) -> models.Filter | None:
    must: list[models.Condition] = []
    must_not: list[models.Condition] = []
    if selection.kind is not None:
        must.append(models.FieldCondition(key="kind", match=models.MatchValue(value=selection.kind)))
    if selection.within is not None:
        must.append(models.FieldCondition(key="document_id", match=models.MatchAny(any=sorted(selection.within))))
    if selection.without:
        must_not.append(models.FieldCondition(key="document_id", match=models.MatchAny(any=sorted(selection.without))))
    return models.Filter(must=must or None, must_not=must_not or None) if must or must_not else None


def _public(url: str) -> str:
    """The address without user, password and query, which may hold secrets."""
    parts = urlsplit(url)
    if not parts.hostname:
        return url
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
