"""Every kind of reranker: how its setting is opened, what it needs, and what it does with data.

Which of them is in use, and what stands in for it, is `rag.wiring`'s choice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.gated import GATED_PASSAGES, GatedReranker
from rag.engines.late_fusion import LateFusionReranker, cross_encoder_of, load_reranker
from rag.engines.score_cache import CachedReranker, ScoreCache
from rag.errors import BadInput, RerankerUnavailable
from rag.ports import LLM, Index, Reranker
from rag.settings import DEFAULT_RERANKER, DEFAULT_RERANKER_REVISION, EMBEDDED, Settings
from rag.types import Readiness, RerankerState

if TYPE_CHECKING:
    from rag.engines.colbert import TokenEncoder

CASCADE_DEPTH = 20
"""How many of the first reranker's best the second one of a `cascade:` reads."""

LOCAL_MODELS = (
    DEFAULT_RERANKER,
    "BAAI/bge-reranker-large",
    "cross-encoder/ms-marco-MiniLM-L-6-v2",
    "cross-encoder/ms-marco-MiniLM-L-12-v2",
    "cross-encoder/ettin-reranker-32m-v1",
    "cross-encoder/ettin-reranker-150m-v1",
    "jinaai/jina-reranker-v2-base-multilingual",
)
"""Cross-encoders that the list names; any other works by name or folder too."""
COLBERT_MODEL = "lightonai/GTE-ModernColBERT-v1"
"""The ColBERT model that the list names; any other works too."""

TEACHER_MEMORY_BYTES = 4 * 1024**3
"""What the embedded late interaction remembers as a teacher: some 40,000 passages of 130 tokens."""

CONNECT_LIMIT_S = 3.0
"""Longest wait for a rerank service at the start and for the list, where it only has to say who it is."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rerankers are opened with."""

    settings: Settings
    embedded: CrossEncoderReranker | LateFusionReranker
    cache: ScoreCache | None
    llm: Callable[[], LLM | None]
    """The configured LLM, opened when it is asked for."""
    index: Index | None
    """The collection, where there is one: it may keep token vectors."""

    def cached(self, reranker: Reranker, *, scope: str = "") -> Reranker:
        """The reranker, with its scores remembered unless the settings say otherwise."""
        return reranker if self.cache is None else CachedReranker(reranker, self.cache, scope=scope)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A reranker as it is, before what only orders is gated."""

    reranker: Reranker
    scores: bool = True
    """Whether its numbers can meet a floor."""
    quick: Reranker | None = None
    """What of it is quick enough for single sentences."""


def open_reranker(setting: str, around: Surroundings) -> tuple[Reranker, Reranker]:
    """The reranker of passages that a setting names, and the one for single sentences.

    Raises:
        BadInput: No reranker can be called that.
        ModelUnavailable: Its model is not on this machine.
        RerankerUnavailable: A key, an address or an LLM is missing.
    """
    opened, embedded = _open(setting, around), around.cached(around.embedded)
    depth = max(GATED_PASSAGES, around.settings.answer_limit)
    reranker = opened.reranker if opened.scores else GatedReranker(opened.reranker, embedded, depth)
    return reranker, around.cached(opened.quick or cross_encoder_of(around.embedded))


def open_teacher(setting: str, around: Surroundings) -> Reranker:
    """The reranker that a setting names, to be learnt from: without a gate, and nothing is remembered on disk.

    The embedded late interaction keeps many more passages' vectors than it does for questions. Raises as
    `open_reranker`.
    """
    if setting == "colbert":
        from rag.engines.colbert import ColBERTReranker, MemoryTokenStore, quick_token_encoder

        return ColBERTReranker(quick_token_encoder(), MemoryTokenStore(TEACHER_MEMORY_BYTES))
    return _open(setting, replace(around, cache=None)).reranker


def _open(setting: str, around: Surroundings) -> _Opened:
    kind, _, rest = setting.partition(":")
    opener = _OPENERS.get(kind)
    if opener and rest and kind not in _WITH_DETAILS:
        raise BadInput(f"reranker {setting!r}: {kind!r} stands alone; `python -m rag rerankers` lists what there is")
    return opener(rest, around) if opener else _open_cross_encoder(setting, around)


def _open_embedded(_rest: str, around: Surroundings) -> _Opened:
    return _Opened(around.cached(around.embedded))


def _open_cross_encoder(name: str, around: Surroundings) -> _Opened:
    model = load_reranker(name, around.settings.reranker_revision)
    return _Opened(around.cached(model), quick=cross_encoder_of(model) if model.on_gpu else None)


def _open_recall_order(_rest: str, _around: Surroundings) -> _Opened:
    from rag.engines.recall_order import RecallOrder

    return _Opened(RecallOrder(), scores=False)


def _open_api(name: Literal["cohere", "jina"]) -> Callable[[str, Surroundings], _Opened]:
    def opener(rest: str, around: Surroundings) -> _Opened:
        from rag.engines.rerank_api import COHERE, JINA, ApiReranker

        settings = around.settings
        api, key, url = {
            "cohere": (COHERE, settings.cohere_api_key, settings.cohere_url),
            "jina": (JINA, settings.jina_api_key, settings.jina_url),
        }[name]
        reranker = ApiReranker(api, key, url=url, model=rest or None, timeout_s=settings.rerank_timeout_s)
        if reranker.only_orders:
            return _Opened(reranker, scores=False)
        return _Opened(around.cached(reranker, scope=url))

    return opener


def _open_service(_rest: str, around: Surroundings) -> _Opened:
    from rag.engines.rerank_service import ServiceReranker

    settings = around.settings
    if not settings.rerank_url:
        raise RerankerUnavailable("the rerank service has no address: set RANK37_RERANK_URL")
    service = ServiceReranker(
        settings.rerank_url,
        key=settings.rerank_key,
        model=settings.rerank_model,
        scale=settings.rerank_scale,
        timeout_s=settings.rerank_timeout_s,
    )
    # What was remembered is found by the model's name. A service that is down now may be up at the first question.
    with suppress(RerankerUnavailable):
        service.connect(within_s=CONNECT_LIMIT_S)
    return _Opened(around.cached(service, scope=f"{service.address} {settings.rerank_scale}"))


def _open_colbert(rest: str, around: Surroundings) -> _Opened:
    from rag.engines.colbert import ColBERTReranker
    from rag.engines.token_index import TokenIndex

    if isinstance(around.index, TokenIndex) and around.index.encoder is not None:
        return _Opened(ColBERTReranker(around.index.encoder, around.index.tokens), scores=False)
    encoder = open_token_encoder(rest or EMBEDDED, around.settings.reranker_revision)
    return _Opened(ColBERTReranker(encoder), scores=False)


def _open_rank_gpt(_rest: str, around: Surroundings) -> _Opened:
    from rag.engines.rank_gpt import RankGPT

    llm = around.llm()
    if llm is None:
        raise RerankerUnavailable("RankGPT needs an LLM: set OPENAI_API_KEY, or OPENAI_BASE_URL for a local server")
    settings = around.settings
    return _Opened(RankGPT(llm, window=settings.rank_gpt_window, step=settings.rank_gpt_step), scores=False)


def _open_cascade(rest: str, around: Surroundings) -> _Opened:
    from rag.engines.cascade import CascadeReranker

    names = [name.strip() for name in rest.split(",")]
    if len(names) != 2 or not all(names) or any(name.startswith("cascade:") for name in names):
        raise BadInput(f"cascade:{rest} names no two rerankers: write it like cascade:{EMBEDDED},{DEFAULT_RERANKER}")
    # A revision in the settings is of one model.
    around = replace(around, settings=around.settings.model_copy(update={"reranker_revision": None}))
    first, second = (_open(name, around) for name in names)
    if not second.scores:
        raise BadInput(f"{names[1]} only orders, so it can't be the second of a cascade: put it first")
    depth = around.settings.rerank_depth or CASCADE_DEPTH
    return _Opened(CascadeReranker(first.reranker, second.reranker, depth))


_OPENERS: dict[str, Callable[[str, Surroundings], _Opened]] = {
    EMBEDDED: _open_embedded,
    "none": _open_recall_order,
    "cohere": _open_api("cohere"),
    "jina": _open_api("jina"),
    "service": _open_service,
    "colbert": _open_colbert,
    "rank-gpt": _open_rank_gpt,
    "cascade": _open_cascade,
}
"""By the word before the colon; anything else is a cross-encoder by name or folder."""
_WITH_DETAILS = ("cohere", "jina", "colbert", "cascade")


def open_token_encoder(name: str, revision: str | None) -> TokenEncoder:
    """The encoder of token vectors by name or folder; `embedded` is all-MiniLM-L6-v2."""
    from rag.engines.colbert import TokenEncoder

    return TokenEncoder.embedded() if name == EMBEDDED else TokenEncoder.load(name, revision)


_STAYS = "stays on this machine"


def reranker_states(settings: Settings) -> list[RerankerState]:
    """Every kind of reranker with its state. No model is loaded; a configured service is asked whether it answers."""
    named = settings.reranker or ""

    def row(setting: str, what: str, state: Readiness, remedy: str, data: str = _STAYS) -> RerankerState:
        kind = setting.partition(":")[0].removesuffix("[")
        is_named = named == setting or (kind in _OPENERS and named.partition(":")[0] == kind)
        return RerankerState(setting, what, state, remedy if state != "ready" else "", data, is_named)

    return [
        row(EMBEDDED, "the cross-encoder that the installation carries", "ready", ""),
        *(row(name, "local cross-encoder", *_local_state(name)) for name in LOCAL_MODELS),
        *_named_elsewhere(settings, row),
        row(
            "cohere[:model]",
            "Cohere Rerank API",
            "ready" if settings.cohere_api_key else "needs key",
            "set COHERE_API_KEY",
            _goes_to(settings.cohere_url),
        ),
        row(
            "jina[:model]",
            "Jina Reranker API",
            "ready" if settings.jina_api_key else "needs key",
            "set JINA_API_KEY",
            _goes_to(settings.jina_url),
        ),
        row("service", *_service_row(settings)),
        row("colbert", "late interaction, token vectors of all-MiniLM-L6-v2", "ready", ""),
        row(f"colbert:{COLBERT_MODEL}", "late interaction, a ColBERT model", *_local_state(COLBERT_MODEL)),
        row(
            "rank-gpt",
            f"{settings.openai_model} orders {settings.rank_gpt_window} passages at a time",
            "ready" if settings.openai_api_key or settings.openai_base_url else "needs LLM",
            "set OPENAI_API_KEY, or OPENAI_BASE_URL for a local server",
            _goes_to(settings.openai_base_url or "https://api.openai.com"),
        ),
        row("cascade:<first>,<second>", "the second reads the best of the first", "ready", "", "as of its two"),
        row("none", "recall order, to see the lift against", "ready", ""),
    ]


def _local_state(name: str) -> tuple[Readiness, str]:
    from rag.engines.local_models import is_on_this_machine

    here = is_on_this_machine(name, DEFAULT_RERANKER_REVISION if name == DEFAULT_RERANKER else None)
    return ("ready" if here else "needs hub"), f"python -m rag models fetch {name}"


def _named_elsewhere(settings: Settings, row: Callable[..., RerankerState]) -> list[RerankerState]:
    """A row for the model or folder that the settings name, where no other row is about it."""
    name = settings.reranker
    if name is None or name in LOCAL_MODELS or name.partition(":")[0] in _OPENERS:
        return []
    return [row(name, "local cross-encoder", *_local_state(name))]


def _service_row(settings: Settings) -> tuple[str, Readiness, str, str]:
    from rag.engines.rerank_service import ServiceReranker

    what = "self-hosted: TEI, Infinity, vLLM or another /rerank"
    if not settings.rerank_url:
        return what, "needs service", "set RANK37_RERANK_URL", "goes to the service"
    try:
        service = ServiceReranker(
            settings.rerank_url,
            key=settings.rerank_key,
            model=settings.rerank_model,
            scale=settings.rerank_scale,
        )
    except BadInput as error:
        return what, "needs service", str(error), "goes to the service"
    try:
        service.connect(within_s=CONNECT_LIMIT_S)
    except RerankerUnavailable as error:
        return what, "needs service", str(error), _goes_to(service.address)
    finally:
        service.close()
    return f"{what}: {service.info.name}", "ready", "", _goes_to(service.address)


def _goes_to(url: str) -> str:
    from rag.engines.rerank_http import remote_host

    host = remote_host(url)
    return f"goes to {host}" if host else _STAYS
