"""One frozen `Settings`, read from the environment (and `.env`) once; every value has a default that works offline.

It validates single values. What engines follow from them is decided in `rag.wiring`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from rag.errors import BadInput
from rag.saved_settings import read_saved
from rag.types import QueryPolicy

EMBEDDED = "embedded"
"""The setting that names the model carried by the installation itself."""
PROMOTED = "promoted"
"""The setting that names the trained reranker that `python -m rag train promote` let serve."""

OPTIMIZE_FROM = 50_000

DEFAULT_RERANKER = "BAAI/bge-reranker-v2-m3"
DEFAULT_RERANKER_REVISION = "953dc6f6f85a1b2dbfca4c34a2796e7dde08d41e"

SECRETS_FILE = Path(".streamlit/secrets.toml")
"""Read as well, relative to the folder that the program is started in; the environment and `.env` win."""

COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class Settings(BaseSettings):
    """Everything that can be configured. Variables are named `RANK37_<FIELD>` unless an alias is given."""

    model_config = SettingsConfigDict(
        env_prefix="RANK37_", env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    data_dir: Path = Path(".rank37")
    """Folder of the embedded index, the original files and the caches."""
    collection: str = "documents"

    qdrant_url: str | None = Field(None, validation_alias=AliasChoices("QDRANT_URL", "RANK37_QDRANT_URL"))
    """A Qdrant server; None: the embedded index in `data_dir`."""
    qdrant_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("QDRANT_API_KEY", "RANK37_QDRANT_API_KEY")
    )
    qdrant_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    qdrant_shards: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Into how many parts a new collection is cut on a cluster; None: one a node. This and the four below are for
    collections that are made from now on."""
    qdrant_replicas: Annotated[int, Field(ge=1, le=100)] | None = None
    """How many nodes hold each part; None: one."""
    qdrant_write_consistency: Annotated[int, Field(ge=1, le=100)] | None = None
    """How many nodes must have a write before it counts as done; None: one."""
    qdrant_quantization: Literal["none", "scalar", "binary"] = "none"
    """Short vectors in RAM for the first look, the full ones on disk for the second."""
    qdrant_on_disk: bool = False
    """Whether the server reads vectors and graph from disk instead of holding them in RAM."""

    optimize_from: Annotated[int, Field(ge=0)] = OPTIMIZE_FROM
    """From how many chunks that every search compares in full the app optimizes the embedded index; 0: never. Up to
    10,000 that gains less than a millisecond; at 50,000 it halves the time of a search."""

    embedder: str = EMBEDDED
    """`embedded` (all-MiniLM-L6-v2), or any sentence-transformers model by name or folder."""
    embedder_revision: str | None = None
    embedder_query_prompt: str | None = None
    """Put before queries, such as `query: ` for E5; None: the prompt that the model's own configuration names."""
    embedder_passage_prompt: str | None = None

    reranker: str | None = None
    """None: the promoted one where one was promoted, else bge-reranker-v2-m3 if it is on this machine, else the
    embedded one. Named: exactly that one, over all candidates. `embedded`, `promoted`, any cross-encoder by name or
    folder, `cohere[:model]`, `jina[:model]`, `service`, `colbert[:name or folder]`, `rank-gpt`, `none`,
    `cascade:<first>,<second>`; `python -m rag rerankers` lists them."""
    reranker_revision: str | None = None
    rerank_depth: Annotated[int, Field(ge=1)] | None = None
    """How many of the embedded reranker's best the large default reranker scores; None: 20 on a CPU, all on a GPU.
    The same for the second reranker of a `cascade:`; None: 20."""
    reranker_fallback: Literal["embedded"] | None = None
    """What stands in, visibly, for a reranker that is unavailable. None: nothing does, an outage is an error."""

    rerank_url: str | None = None
    """Address of a self-hosted rerank service (TEI, Infinity, vLLM or another with `/rerank`), for `service`."""
    rerank_key: SecretStr | None = None
    rerank_model: str | None = None
    """Which of the service's models; None: the one that it serves."""
    rerank_scale: Literal["auto", "probability", "logit"] = "auto"
    """What the service's scores are; `auto` asks for raw logits, and takes numbers in [0, 1] where it can't."""
    cohere_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("COHERE_API_KEY", "CO_API_KEY", "RANK37_COHERE_API_KEY")
    )
    cohere_url: str = Field("https://api.cohere.com", validation_alias=AliasChoices("CO_API_URL", "RANK37_COHERE_URL"))
    jina_api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("JINA_API_KEY", "RANK37_JINA_API_KEY"))
    jina_url: str = "https://api.jina.ai"
    rerank_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Longest wait for one reranking by an API or a service, all retries included."""
    rank_gpt_window: Annotated[int, Field(ge=2, le=100)] = 20
    """How many passages the LLM orders at a time."""
    rank_gpt_step: Annotated[int, Field(ge=1, le=100)] = 10
    """How far the window moves towards the top; at most the window."""
    rerank_cache_mb: Annotated[float, Field(ge=0)] = 64.0
    """Most disk space for remembered scores; 0: none are."""

    recall_limit: Annotated[int, Field(ge=1, le=1000)] = 100
    floor: Annotated[float, Field(ge=0, le=1)] = 0.4
    answer_limit: Annotated[int, Field(ge=1, le=20)] = 5
    split_questions: bool = True
    """Whether a question that asks several things is searched and scored part by part."""

    chunk_tokens: Annotated[int, Field(ge=32)] | None = None
    """Most tokens of a chunk, title and special tokens included; None: what the embedder reads whole."""
    chunk_overlap_tokens: Annotated[int, Field(ge=0)] = 32

    openai_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("OPENAI_API_KEY", "RANK37_OPENAI_API_KEY")
    )
    openai_base_url: str | None = Field(
        None, validation_alias=AliasChoices("OPENAI_BASE_URL", "RANK37_OPENAI_BASE_URL")
    )
    openai_model: str = Field("gpt-4o-mini", validation_alias=AliasChoices("OPENAI_MODEL", "RANK37_OPENAI_MODEL"))
    llm_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for the reply's start and between two pieces of it."""
    llm_retries: Annotated[int, Field(ge=0, le=10)] = 2
    prompt_tokens: Annotated[int, Field(ge=500)] = 6000
    answer_tokens: Annotated[int, Field(ge=50)] = 800

    database_url: SecretStr | None = None
    """SQLAlchemy URL of the database that keeps collections' titles and owners and the chats, such as
    `postgresql://user:password@host/database`; None: the file `library.sqlite` in `data_dir`."""

    auth: Literal["none", "password", "oidc"] = "none"
    """How people sign in to the app: not at all, with a password (`python -m rag people add NAME`), or at a provider
    (`[auth]` in Streamlit's file of secrets)."""
    quota_mb: Annotated[float, Field(gt=0)] | None = None
    """Most megabytes of original files in the collections of one person; None: no limit."""

    api_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where the app serves the HTTP API beside its pages; None: it does not. `python -m ui.api` serves it alone, at
    port 8737 if this is None."""
    api_host: str = "127.0.0.1"
    """The address that the HTTP API listens at. Beyond this machine it listens only once there is a key."""
    at_work: Annotated[int, Field(ge=1)] = 4
    """How many questions of the API are worked on at a time."""
    waiting: Annotated[int, Field(ge=0)] = 64
    """How many more can wait for their turn; those beyond are sent away."""
    allow_open: bool = False
    """Whether app and API may listen beyond this machine without sign-in or key: everyone who reaches them reads
    everything."""
    log_json: bool = False
    """Whether the log of `python -m ui.api` has one JSON object a line."""

    traces: bool = True
    """Whether questions are kept with their rankings, outcomes and labels."""
    traces_url: SecretStr | None = None
    """SQLAlchemy URL of the database that keeps them, such as `postgresql://user:password@host/database`; None: the
    file `traces.sqlite` in `data_dir`."""
    traces_days: Annotated[float, Field(ge=0)] = 90.0
    """How long a trace is kept; 0: for ever. Labels are kept until they are deleted."""
    traces_max: Annotated[int, Field(ge=0)] = 20_000
    """Most traces kept; 0: no limit."""
    otlp_endpoint: str | None = Field(
        None, validation_alias=AliasChoices("RANK37_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    """Where OpenTelemetry spans of each question are sent over HTTP, such as `http://localhost:6006`; None: nowhere."""
    otlp_content: bool = False
    """Whether spans hold texts: questions, passages, prompts and answers."""

    max_file_mb: Annotated[float, Field(gt=0)] = 100.0
    max_pages: Annotated[int, Field(ge=1)] = 5000
    max_upload_files: Annotated[int, Field(ge=1)] = 50
    file_time_limit_s: Annotated[float, Field(gt=0)] = 300.0
    """Longest time for reading one file; embedding is not counted."""
    file_memory_limit_mb: Annotated[int, Field(ge=256)] = 4096
    ocr_page_limit_s: Annotated[float, Field(ge=0)] = 60.0
    """Most processor time for OCR of one page without text, beside the file's own limit; 0: no OCR."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then `.env`, then Streamlit's file of secrets."""
        return init_settings, env_settings, dotenv_settings, _SecretsFile(settings_cls), file_secret_settings

    @field_validator("collection")
    @classmethod
    def _check_collection(cls, name: str) -> str:
        return check_collection_name(name)

    @property
    def collection_dir(self) -> Path:
        """Folder of the collection: `index/` (embedded engine only) and `files/` (the original files)."""
        return self.data_dir / "collections" / self.collection

    @property
    def policy(self) -> QueryPolicy:
        """The numbers that the pipeline needs."""
        return QueryPolicy(
            recall_limit=self.recall_limit,
            floor=self.floor,
            answer_limit=self.answer_limit,
            prompt_tokens=self.prompt_tokens,
            answer_tokens=self.answer_tokens,
            split_questions=self.split_questions,
        )


class _SecretsFile(EnvSettingsSource):
    """The lines `NAME = value` at the head of the file of secrets, as if they were set in the environment."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        try:
            text = SECRETS_FILE.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{SECRETS_FILE} can't be read ({type(error).__name__}): change its rights or write it anew"
            ) from None
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            place = re.search(r"line \d+", str(error))  # the rest of the message can quote a secret
            where = f" at {place[0]}" if place else ""
            raise BadInput(f'{SECRETS_FILE} is no TOML{where}: write lines such as OPENAI_API_KEY = "..."') from None
        return {name.lower(): str(value) for name, value in values.items() if not isinstance(value, dict | list)}


def check_collection_name(name: str) -> str:
    """Return the name if it can be a folder and a Qdrant collection. Raises BadInput."""
    if not COLLECTION_NAME.fullmatch(name):
        raise BadInput(
            f"collection name {name!r} can't be used: take 1 to 63 letters, digits, '-' or '_', "
            "starting with a letter or digit"
        )
    return name


def load_settings(**overrides: object) -> Settings:
    """Read the environment, then what was saved in the app; `overrides` that are not None win.

    Raises: BadInput naming variable, value and limit.
    """
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)
        saved = read_saved(settings.data_dir)
        added: dict[str, Any] = {name: value for name, value in saved.items() if name not in settings.model_fields_set}
        return Settings(**given, **added) if added else settings
    except ValidationError as error:
        lines = [
            f"setting {'.'.join(str(part) for part in issue['loc'])}{_shown(issue)}: {issue['msg']}"
            for issue in error.errors()
        ]
        raise BadInput(
            "; ".join(lines) + " (set RANK37_<NAME> in the environment or .env; README lists them)"
        ) from None


def set_in_environment() -> frozenset[str]:
    """The fields that the environment or `.env` names: what is saved in the app does not change them."""
    nothing: dict[str, Any] = {}  # mypy knows nothing of defaults that stand beside an alias
    return frozenset(Settings(**nothing).model_fields_set)


def _shown(issue: Mapping[str, Any]) -> str:
    """The value that is wrong, unless it can hold a key or a password."""
    name = "".join(str(part) for part in issue["loc"]).lower()
    return "" if not name or re.search("key|url|secret|password|token$", name) else f" = {issue.get('input')!r}"
