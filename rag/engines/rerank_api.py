"""Reranker: the hosted APIs of Cohere (v2) and Jina, over plain HTTP.

Questions and passages leave the machine for them, which `info` says; keys come from the settings and go nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from rag.engines.rerank_http import Pace, RerankConnection, check_probabilities, numbers_by_index
from rag.engines.token_counter import well_formed
from rag.errors import BadInput, RerankerUnavailable
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance


@dataclass(frozen=True, slots=True)
class RerankApi:
    """What differs between the hosted APIs."""

    name: str
    path: str
    default_model: str
    batch_passages: int
    """Most passages of one request."""
    key_setting: str
    url_setting: str
    options: dict[str, object] = field(default_factory=dict)
    """Sent with every request."""
    order_only: tuple[str, ...] = ()
    """Models whose numbers are no probabilities of relevance, or depend on the other passages: they only order."""


COHERE = RerankApi(
    "Cohere",
    "/v2/rerank",
    "rerank-v4.0-pro",
    # "For optimal performance we recommend against sending more than 1,000 documents in a single request".
    batch_passages=1000,
    key_setting="COHERE_API_KEY",
    url_setting="CO_API_URL",
    # The API's own default, named so that it can't change under us: what is beyond it in a passage is not read.
    options={"max_tokens_per_doc": 4096},
)
"""Source: https://docs.cohere.com/v2/reference/rerank."""

JINA = RerankApi(
    "Jina",
    "/v1/rerank",
    "jina-reranker-v2-base-multilingual",
    batch_passages=2048,
    key_setting="JINA_API_KEY",
    url_setting="RANK37_JINA_URL",
    options={"return_documents": False},
    # v3 reads all passages in one window and gives cosine similarities; ColBERT gives MaxSim.
    order_only=("jina-reranker-v3", "jina-colbert"),
)
"""Sources: https://api.jina.ai/redoc, https://jina.ai/news/jina-reranker-v3-0-6b-listwise-reranker-for-sota-multilingual-retrieval."""


class ApiReranker:
    """A hosted rerank API behind the `Reranker` port. Safe to use from several threads.

    `score` is the API's `relevance_score`, and `order` too; there is no logit. Of a model that only orders, `score` is
    None: `rag.engines.gated` has its best scored.
    """

    def __init__(
        self,
        api: RerankApi,
        key: SecretStr | None,
        *,
        url: str,
        model: str | None = None,
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is sent yet.

        Args:
            api: Which one.
            key: Its key.
            url: Its address, without the path of the request.
            model: The model's name as the API knows it; None: the API's default one here.
            timeout_s: Longest wait for one `score`, retries included.
            sleep: Waits so many seconds before a retry.

        Raises:
            RerankerUnavailable: There is no key.
            BadInput: The address can't be one.
        """
        if key is None or not key.get_secret_value().strip():
            raise RerankerUnavailable(f"the {api.name} reranker needs a key: set {api.key_setting}")
        self._api = api
        self._model = model or api.default_model
        self._connection = RerankConnection(
            url, key, setting=api.url_setting, key_setting=api.key_setting, timeout_s=timeout_s, sleep=sleep
        )
        self._pace = Pace()
        self._info = EngineInfo(
            "reranker",
            f"{api.name} {self._model}",
            why="named in the settings",
            sends_data_to=self._connection.remote_host,
        )

    @property
    def info(self) -> EngineInfo:
        """Which API and model, and the host that passages go to. The model's name is all that tells its revision."""
        return self._info

    @property
    def only_orders(self) -> bool:
        """Whether the model's numbers can't meet a floor."""
        return self._model.startswith(self._api.order_only) if self._api.order_only else False

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order.

        Raises:
            BadInput: The query is empty.
            RerankerUnavailable: The API is down, slow, refuses the key or the request, or answers nonsense.
        """
        if not query.strip():
            raise BadInput("the question is empty: type one")
        started, deadline = time.monotonic(), self._connection.deadline()
        numbers: list[float] = []
        for start in range(0, len(passages), self._api.batch_passages):
            batch = passages[start : start + self._api.batch_passages]
            numbers += self._numbers(query, batch, deadline)
            if progress:
                progress(start + len(batch), len(passages))
        if passages:
            self._pace.add(time.monotonic() - started, len(passages))
        if self.only_orders:
            return [Relevance(order=number, score=None) for number in numbers]
        check_probabilities(self._connection, numbers, f"name another model than {self._model}")
        return [Relevance(order=number, score=number) for number in numbers]

    def estimate_seconds(self, n_passages: int) -> float | None:
        """By the pace of earlier calls; None before the first."""
        return self._pace.estimate_seconds(n_passages)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._connection.close()

    def _numbers(self, query: str, passages: Sequence[Passage], deadline: float) -> list[float]:
        body = {
            "model": self._model,
            "query": well_formed(query),
            "documents": [well_formed(passage.text) for passage in passages],
            "top_n": len(passages),
            **self._api.options,
        }
        reply = self._connection.post(self._connection.url + self._api.path, body, deadline)
        if reply is None:
            raise self._connection.absent(f"{self._api.path}, or no model {self._model!r}")
        results = reply.get("results") if isinstance(reply, dict) else None
        return numbers_by_index(self._connection, results, len(passages), field="relevance_score")
