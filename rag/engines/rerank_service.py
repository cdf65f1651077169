"""Reranker: a self-hosted service, by URL: TEI, Infinity, vLLM, or any other with a Jina/Cohere-style `/rerank`.

It finds out at the first question which of them answers, and whether its numbers are logits or probabilities; it takes
no number whose scale it can't tell. It doesn't start or set up a service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from rag.engines.cross_encoder import sigmoid
from rag.engines.rerank_http import Pace, RerankConnection, check_probabilities, numbers_by_index
from rag.engines.token_counter import well_formed
from rag.errors import BadInput, RerankerUnavailable
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance

Scale = Literal["auto", "probability", "logit"]

BATCH_PASSAGES = 100
"""Passages of one request where the service names no limit: a usual question, and far below Infinity's 2,048."""

PROBE_QUERY = "What is the capital of France?"
PROBE_TEXTS = ("Paris is the capital of France.", "Bananas are rich in potassium.")
SAME = 1e-3
"""Numbers that differ by less are the same: half precision has three digits."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a service is spoken to."""

    name: str
    endpoint: str
    model: str
    """As the service calls it; empty where it wants none."""
    passages_field: str = "documents"
    number_field: str = "relevance_score"
    options: dict[str, object] = field(default_factory=dict)
    raw_options: dict[str, object] = field(default_factory=dict)
    """What asks for logits; empty where there is no such option."""
    activated_options: dict[str, object] = field(default_factory=dict)
    """What asks for their sigmoid."""
    batch_passages: int = BATCH_PASSAGES
    revision: str = ""
    precision: str = ""
    gives_logits: bool = False


class ServiceReranker:
    """A rerank service behind the `Reranker` port. Safe to use from several threads.

    Where the service gives raw logits, `order` and `logit` are the logit and `score` its sigmoid, in double precision;
    else all that there is is its number in [0, 1]. A passage longer than the service's model reads is cut by the
    service.
    """

    def __init__(
        self,
        url: str,
        *,
        key: SecretStr | None = None,
        model: str | None = None,
        scale: Scale = "auto",
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: Address of the service, with or without `/v1` or `/rerank` at its end.
            key: Sent as a bearer token; None: none is.
            model: Which of its models; None: the one that it serves.
            scale: What its numbers are. `auto` asks twice about two passages whose answer is known, with and without
                the option for raw logits, and compares.
            timeout_s: Longest wait for one `score`, retries included.
            sleep: Waits so many seconds before a retry.

        Raises:
            BadInput: The address can't be one.
        """
        self._connection = RerankConnection(
            url, key, setting="RANK37_RERANK_URL", key_setting="RANK37_RERANK_KEY", timeout_s=timeout_s, sleep=sleep
        )
        self._model = model
        self._scale = scale
        self._pace = Pace()
        self._finding = threading.Lock()
        self._dialect: _Dialect | None = None

    @property
    def info(self) -> EngineInfo:
        """The service's model and host, once it was asked; the host alone before."""
        dialect = self._dialect
        if dialect is None:
            name, revision, precision = "rerank service", "", ""
            why = f"named in the settings: {self._connection.host}, not asked yet"
        else:
            name = dialect.model or "rerank service"
            revision, precision = dialect.revision, dialect.precision
            why = f"named in the settings: {dialect.name} at {self._connection.host}"
        return EngineInfo("reranker", name, revision, precision, why=why, sends_data_to=self._connection.remote_host)

    @property
    def address(self) -> str:
        """The service's address, without any secret."""
        return self._connection.url

    def connect(self, *, within_s: float | None = None) -> None:
        """Find out what answers, so that `info` names it. The first `score` does so too.

        Args:
            within_s: Longest wait; None: as long as for a `score`.

        Raises:
            RerankerUnavailable: Nothing does, or nothing that is a reranker.
        """
        self._found(self._connection.deadline(within_s))

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order.

        Raises:
            BadInput: The query is empty.
            RerankerUnavailable: The service is down, slow, refuses the key or the request, answers nonsense, or gives
                numbers on an unknown scale.
        """
        if not query.strip():
            raise BadInput("the question is empty: type one")
        if not passages:
            return []
        try:
            return self._relevances(query, [well_formed(passage.text) for passage in passages], progress)
        except RerankerUnavailable:
            # Another service may come up in its place: who it is is asked anew.
            self._dialect = None
            raise

    def estimate_seconds(self, n_passages: int) -> float | None:
        """By the pace of earlier calls; None before the first."""
        return self._pace.estimate_seconds(n_passages)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._connection.close()

    def _relevances(self, query: str, texts: Sequence[str], progress: Progress | None) -> list[Relevance]:
        deadline = self._connection.deadline()
        dialect = self._found(deadline)
        started = time.monotonic()
        numbers: list[float] = []
        for start in range(0, len(texts), dialect.batch_passages):
            batch = texts[start : start + dialect.batch_passages]
            numbers += self._numbers(dialect, dialect.options, well_formed(query), batch, deadline)
            if progress:
                progress(start + len(batch), len(texts))
        self._pace.add(time.monotonic() - started, len(texts))
        if dialect.gives_logits:
            return [Relevance(order=logit, score=sigmoid(logit), logit=logit) for logit in numbers]
        check_probabilities(self._connection, numbers, _SCALE_REMEDY)
        return [Relevance(order=number, score=number) for number in numbers]

    def _found(self, deadline: float) -> _Dialect:
        with self._finding:
            if self._dialect is None:
                self._dialect = self._scaled(self._recognised(deadline), deadline)
            return self._dialect

    def _recognised(self, deadline: float) -> _Dialect:
        """Which service it is, by what it says of itself."""
        base, endpoints = _addresses(self._connection.url)
        info = self._connection.get(f"{base}/info", deadline)
        if isinstance(info, dict) and isinstance(info.get("model_type"), dict):
            return self._tei(info, endpoints[0])
        for path in ("/models", "/v1/models"):
            listed = self._connection.get(base + path, deadline)
            models = listed.get("data") if isinstance(listed, dict) else None
            if isinstance(models, list) and models and all(isinstance(model, dict) for model in models):
                owners = {str(model.get("owned_by", "")) for model in models}
                beside = base + path.replace("models", "rerank") if len(endpoints) > 1 else endpoints[0]
                if owners == {"infinity"}:
                    return self._infinity(models, beside)
                if owners == {"vllm"}:
                    return self._vllm(models, beside)
                return self._other(endpoints, deadline, str(models[0].get("id") or ""))
        return self._other(endpoints, deadline, "")

    def _tei(self, info: dict[str, object], endpoint: str) -> _Dialect:
        """Text Embeddings Inference.

        Source: https://huggingface.co/docs/text-embeddings-inference, router/src/http/types.rs.
        """
        model, model_type = str(info.get("model_id") or ""), info.get("model_type")
        if not isinstance(model_type, dict) or "reranker" not in model_type:
            raise RerankerUnavailable(
                f"the service at {self._connection.host} serves {model}, which is no reranker: check RANK37_RERANK_URL"
            )
        limit = info.get("max_client_batch_size")
        return _Dialect(
            "Text Embeddings Inference",
            endpoint,
            model,
            passages_field="texts",
            number_field="score",
            options={"truncate": True},
            raw_options={"raw_scores": True},
            activated_options={"raw_scores": False},
            batch_passages=limit if isinstance(limit, int) and limit > 0 else BATCH_PASSAGES,
            revision=str(info.get("model_sha") or ""),
            precision=str(info.get("model_dtype") or ""),
        )

    def _infinity(self, models: Sequence[dict[str, object]], endpoint: str) -> _Dialect:
        """Infinity. Source: https://michaelfeil.eu/infinity, libs/infinity_emb/infinity_emb/fastapi_schemas."""
        able = [model for model in models if "rerank" in (model.get("capabilities") or ["rerank"])]  # type: ignore[operator]  # a list where it is what the protocol says
        chosen = self._chosen(able)
        return _Dialect(
            "Infinity",
            endpoint,
            str(chosen["id"]),
            raw_options={"raw_scores": True},
            activated_options={"raw_scores": False},
            revision=str(chosen.get("revision") or ""),
            precision=str(chosen.get("dtype") or ""),
        )

    def _vllm(self, models: Sequence[dict[str, object]], endpoint: str) -> _Dialect:
        """Of vLLM; `activation` is an older name of the option. Source: https://docs.vllm.ai, entrypoints/pooling."""
        return _Dialect(
            "vLLM",
            endpoint,
            str(self._chosen(models)["id"]),
            options={"truncate_prompt_tokens": -1},
            raw_options={"use_activation": False, "activation": False},
            activated_options={"use_activation": True, "activation": True},
        )

    def _other(self, endpoints: Sequence[str], deadline: float, model: str) -> _Dialect:
        """A service that only has `/rerank`."""
        for endpoint in endpoints:
            dialect = _Dialect("a /rerank service", endpoint, self._model or model)
            if self._asked(dialect, {}, PROBE_QUERY, PROBE_TEXTS, deadline) is not None:
                return dialect
        raise self._connection.absent("/rerank, /v1/rerank or /v2/rerank")

    def _chosen(self, models: Sequence[dict[str, object]]) -> dict[str, object]:
        names = [str(model.get("id")) for model in models]
        if self._model is None and len(models) == 1:
            return models[0]
        if self._model in names:
            return models[names.index(self._model)]
        listed = ", ".join(names) or "none"
        wanted = f"not {self._model}" if self._model else "and none is named"
        raise RerankerUnavailable(
            f"the service at {self._connection.host} serves these rerankers: {listed}; {wanted}: "
            "set RANK37_RERANK_MODEL"
        )

    def _scaled(self, dialect: _Dialect, deadline: float) -> _Dialect:
        """The dialect with the options that get logits, or at least numbers in [0, 1]."""

        def probed(options: dict[str, object]) -> list[float]:
            return self._numbers(dialect, dialect.options | options, PROBE_QUERY, PROBE_TEXTS, deadline)

        if self._scale == "logit":
            return replace(dialect, options=dialect.options | dialect.raw_options, gives_logits=True)
        if self._scale == "probability":
            return replace(dialect, options=dialect.options | dialect.activated_options)
        activated = probed(dialect.activated_options)
        if dialect.raw_options:
            raw = probed(dialect.raw_options)
            # A version that does not know the option ignores it and gives probabilities twice; a model that is
            # configured to have no activation gives logits twice.
            honoured = _same([sigmoid(logit) for logit in raw], activated) and not _same(raw, activated)
            if honoured or (_same(raw, activated) and not all(0 <= number <= 1 for number in raw)):
                return replace(dialect, options=dialect.options | dialect.raw_options, gives_logits=True)
        check_probabilities(self._connection, activated, _SCALE_REMEDY)
        return replace(dialect, options=dialect.options | dialect.activated_options)

    def _numbers(
        self, dialect: _Dialect, options: dict[str, object], query: str, texts: Sequence[str], deadline: float
    ) -> list[float]:
        reply = self._asked(dialect, options, query, texts, deadline)
        if reply is None:
            raise self._connection.absent(f"{urlsplit(dialect.endpoint).path}, or no model {dialect.model!r}")
        results = reply.get("results") if isinstance(reply, dict) else reply
        return numbers_by_index(self._connection, results, len(texts), field=dialect.number_field)

    def _asked(
        self, dialect: _Dialect, options: dict[str, object], query: str, texts: Sequence[str], deadline: float
    ) -> object | None:
        body = {"query": query, dialect.passages_field: list(texts), **options}
        if dialect.model and dialect.passages_field == "documents":
            body["model"] = dialect.model
        return self._connection.post(dialect.endpoint, body, deadline)


_SCALE_REMEDY = "set RANK37_RERANK_SCALE=logit if the service gives raw logits, or have it apply the sigmoid"


def _same(some: Sequence[float], others: Sequence[float]) -> bool:
    return all(abs(one - other) < SAME for one, other in zip(some, others, strict=True))


def _addresses(url: str) -> tuple[str, list[str]]:
    """The service's base address, and where `/rerank` may be, most likely first.

    >>> _addresses("http://127.0.0.1:8080")
    ('http://127.0.0.1:8080', ['http://127.0.0.1:8080/rerank', 'http://127.0.0.1:8080/v1/rerank', \
'http://127.0.0.1:8080/v2/rerank'])
    >>> _addresses("https://gpu.example/models/a/v1")
    ('https://gpu.example/models/a', ['https://gpu.example/models/a/v1/rerank', 'https://gpu.example/models/a/rerank'])
    >>> _addresses("http://127.0.0.1:8080/v2/rerank")
    ('http://127.0.0.1:8080', ['http://127.0.0.1:8080/v2/rerank'])
    """
    if url.endswith("/rerank"):
        base = url.removesuffix("/rerank")
        return base.removesuffix("/v1").removesuffix("/v2"), [url]
    for version in ("/v1", "/v2"):
        if url.endswith(version):
            base = url.removesuffix(version)
            return base, [f"{url}/rerank", f"{base}/rerank"]
    return url, [f"{url}/rerank", f"{url}/v1/rerank", f"{url}/v2/rerank"]
