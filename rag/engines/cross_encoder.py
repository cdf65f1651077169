"""Reranker: any cross-encoder that sentence-transformers loads, giving raw logits and their sigmoid.

It only scores (order, ties, ranks and the floor are `rag.rerank` and `rag.floor`), never downloads, never truncates.
"""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from rag.engines.local_models import LocalModel, bf16_is_quick, content_revision, find_model
from rag.engines.packed_encoder import PACK_SEQUENCES, PACK_TOKENS, Tokens, filled_up
from rag.engines.packed_models import PackedPairs
from rag.engines.shared_batches import SharedBatches
from rag.engines.token_counter import TokenCounter, longest_input_tokens, well_formed
from rag.errors import BadInput, EngineFault, ModelUnavailable
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance

Precision = Literal["float32", "bfloat16", "float16"]

EMBEDDED_RERANKER_FOLDER = Path(__file__).resolve().parents[1] / "models" / "minilm-reranker-v1"
"""The cross-encoder that the project trained and ships."""

BATCH_PASSAGES = 8
"""Small batches of pairs of like length waste little on padding: 1.6x the speed of unsorted batches of 32 on a CPU."""
GPU_BATCH_PASSAGES = 32

LONGEST_PAIR_TOKENS = 1024
"""Most tokens of query and passage together where the model would read more: chunks are shorter, and attention over
8,192 tokens is seldom what a cross-encoder was trained for (bge-reranker-v2-m3 names 1,024 as its own)."""

TYPICAL_PAIR_TOKENS = 200
"""Mean length of query and passage together, for an estimate before anything was scored."""

WINDOW_TOKENS = 256
"""Longest window of a passage that must be cut: about what cross-encoders are trained on. In a longer one an answer of
two sentences is drowned by what stands around it."""

_BOUNDARY_TOKENS = 8
"""A text cut out of another can have a few tokens more than it had inside."""


class _Speed:
    """What scoring took, the past fading: half of the weight is on the last 25 batches (two questions).

    By token, because the same model scores passages and single sentences.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._tokens = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        fading = 0.5 ** (1 / 25)
        self._seconds = fading * self._seconds + seconds
        self._tokens = fading * self._tokens + tokens

    @property
    def seconds_per_token(self) -> float | None:
        return self._seconds / self._tokens if self._tokens else None


@dataclass(frozen=True, slots=True)
class _Window:
    """A text that is read at once: a passage, or a piece of one."""

    passage: str
    text: str
    encoding: Encoding
    """Without special tokens."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A question and a text, as the model reads them together."""

    query: str
    text: str
    n_tokens: int
    """With the special tokens."""
    tokens: Tokens | None
    """What the packed form reads; None where there is no packed form."""


class CrossEncoderReranker:
    """A cross-encoder behind the `Reranker` port. Safe to use from several threads.

    First come is first served; on a GPU the pairs of those who wait share batches.

    A passage that does not fit beside the query is read in windows of at most `WINDOW_TOKENS` that overlap by a
    quarter, and its logit is the highest of theirs: a passage is as relevant as its best part. Windows after the first
    lack the title that the passage starts with.
    """

    def __init__(
        self,
        model: Any,
        local: LocalModel,
        *,
        max_tokens: int | None = None,
        precision: Precision = "float32",
        why: str = "",
        stands_in_for: str = "",
    ) -> None:
        """Wrap a loaded `CrossEncoder`; `embedded` and `load` are the ways to get one.

        Args:
            model: A `sentence_transformers.CrossEncoder` with one or two labels.
            local: What it was loaded from.
            max_tokens: See `load`.
            precision: Number format of its weights.
            why: One sentence for the screen.
            stands_in_for: Name of the reranker that it replaces, if any.
        """
        import torch

        self._model = model
        self._identity_function = torch.nn.Identity()
        self._lock = threading.Lock()
        self._counter = TokenCounter(model.tokenizer)
        self._name = local.name
        self.folder = local.folder
        """Where its files lie."""
        self._prompt = model.prompts.get(model.default_prompt_name or "")
        if model.num_labels not in (1, 2):
            raise BadInput(
                f"{local.name} has {model.num_labels} labels; a reranker has 1, or 2 of which the second means "
                "relevant: name another"
            )
        self._max_tokens = _max_tokens(model, local.name, max_tokens)
        model.max_seq_length = self._max_tokens
        self._packed = None if self._prompt else PackedPairs.of(model, self._counter)
        self._batch_passages = GPU_BATCH_PASSAGES if self.on_gpu else BATCH_PASSAGES
        self._batches: SharedBatches[_Pair] = SharedBatches(
            self._compute,
            lambda pair: filled_up(pair.n_tokens),
            most=None if self._packed is None else PACK_TOKENS,
            most_items=self._batch_passages if self._packed is None else PACK_SEQUENCES,
            # A GPU is fast by full batches. On a CPU a question fills its own, and in bfloat16 logits move by up to
            # 0.002 with what else is in a batch, so that who else asks would show in the scores.
            are_shared=self.on_gpu,
        )
        self._precision = precision
        self._speed = _Speed()
        self._guessed_seconds_per_token: float | None = None
        self._info = EngineInfo(
            "reranker", local.name, local.revision, precision=precision, why=why, stands_in_for=stands_in_for
        )

    @classmethod
    def embedded(
        cls,
        *,
        precision: Precision | None = None,
        device: str | None = None,
        why: str = "it comes with the installation",
        stands_in_for: str = "",
    ) -> CrossEncoderReranker:
        """Load the small cross-encoder that the installation carries.

        Args:
            precision: See `load`.
            device: See `load`.
            why: One sentence for the screen.
            stands_in_for: Name of the configured reranker that it replaces while that one is unavailable.

        Raises:
            ModelUnavailable: Its files are missing or damaged.
        """
        folder = EMBEDDED_RERANKER_FOLDER
        if not (folder / "model.safetensors").is_file():
            raise ModelUnavailable(
                f"the embedded reranker {folder.name} is missing from the installation (rag/models): reinstall it"
            )
        local = LocalModel(folder.name, folder, content_revision(folder))
        return cls._loaded(local, None, precision, device, why, stands_in_for)

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        precision: Precision | None = None,
        max_tokens: int | None = None,
        why: str = "named in the settings",
        stands_in_for: str = "",
    ) -> CrossEncoderReranker:
        """Load a cross-encoder that is on this machine, without any network.

        Args:
            name_or_folder: A folder, or a name on the hub that the local cache holds.
            revision: Branch, tag or commit on the hub.
            device: Such as `cpu` or `cuda:1`; None takes the GPU if there is one.
            precision: Number format to compute in. None is bfloat16 on a CPU that has instructions for it (3 times as
                quick there, 5 times as slow elsewhere) and else float32; on a GPU bfloat16 for weights that were
                published so, whose range float16 may not hold, and else float16. The last layer and the sigmoid are
                always computed in float32.
            max_tokens: Most tokens of query and passage together; None is what the model reads, but at most
                `LONGEST_PAIR_TOKENS`.
            why: One sentence for the screen.
            stands_in_for: Name of the configured reranker that it replaces while that one is unavailable.

        Raises:
            ModelUnavailable: It isn't on this machine, or can't be loaded.
            BadInput: It is no cross-encoder, has other than 1 or 2 labels, or reads fewer tokens than asked for.
        """
        local = find_model(name_or_folder, revision, organization="cross-encoder")
        _refuse_other_models(local)
        return cls._loaded(local, max_tokens, precision, device, why, stands_in_for)

    @classmethod
    def _loaded(
        cls,
        local: LocalModel,
        max_tokens: int | None,
        precision: Precision | None,
        device: str | None,
        why: str,
        stands_in_for: str,
    ) -> CrossEncoderReranker:
        # Imported here because it takes seconds, which looking for a model need not cost.
        import torch
        from sentence_transformers import CrossEncoder
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it without annotations
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        precision = precision or _precision_for(device, local.folder)
        try:
            model = CrossEncoder(
                str(local.folder),
                device=device,
                local_files_only=True,
                # Some checkpoints ask for another activation, or none: we take the logit and its sigmoid ourselves.
                activation_fn=torch.nn.Identity(),
                model_kwargs={"dtype": getattr(torch, precision)},
            ).eval()
            _score_in_float32(model)
        except Exception as error:  # the libraries raise anything from OSError to SafetensorError for a damaged folder
            raise ModelUnavailable(
                f"the reranker {local.name} can't be loaded ({type(error).__name__}: {error}): fetch it again, or name "
                "another"
            ) from error
        return cls(model, local, max_tokens=max_tokens, precision=precision, why=why, stands_in_for=stands_in_for)

    @property
    def info(self) -> EngineInfo:
        """Which model is in use, in which precision, and why."""
        return self._info

    @property
    def max_tokens(self) -> int:
        """Most tokens of query and passage together, special tokens included."""
        return self._max_tokens

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return bool(self._model.device.type != "cpu")

    def standing_in(self, name: str, *, why: str) -> CrossEncoderReranker:
        """The same loaded model, whose `info` says that it stands in for the reranker `name`, and why."""
        stand_in = copy.copy(self)
        stand_in._info = replace(self._info, why=why, stands_in_for=name)
        return stand_in

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order: `order` and `logit` are the logit, `score` its sigmoid.

        Args:
            query: At most half of `max_tokens`, so that there is room for a passage beside it.
            passages: In any order; scores do not depend on it, nor on what else is scored.
            progress: Called after each batch with the number of passages scored so far.

        Raises:
            BadInput: The query is empty or too long.
            EngineFault: The model gave a logit that is not a number.
        """
        if not query.strip():
            raise BadInput("the question is empty: type one")
        query = well_formed(query)
        room = self._room_beside(query)
        if not passages:
            return []
        texts = [well_formed(passage.text) for passage in passages]
        logits = self._logits(query, texts, room, progress)
        return [Relevance(order=logit, score=sigmoid(logit), logit=logit) for logit in logits]

    def estimate_seconds(self, n_passages: int) -> float | None:
        """Expected duration of `score`: by the speed of earlier calls, before any by a matrix product's speed."""
        seconds_per_token = self._speed.seconds_per_token
        if seconds_per_token is None:
            if self._guessed_seconds_per_token is None:
                self._guessed_seconds_per_token = self._guess_seconds_per_token()
            seconds_per_token = self._guessed_seconds_per_token
        return n_passages * min(TYPICAL_PAIR_TOKENS, self._max_tokens) * seconds_per_token

    def _room_beside(self, query: str) -> int:
        """Tokens that are left for a passage. Raises BadInput for a query that takes more than half."""
        [query_tokens] = self._counter.count([query])
        limit = self._max_tokens // 2
        if query_tokens > limit:
            raise BadInput(
                f"the question has {query_tokens} tokens, {self._name} takes questions of at most {limit}: shorten it"
            )
        with self._lock:
            features = self._model.preprocess([(query, "a")], prompt=self._prompt)
        return self._max_tokens - int(features["attention_mask"].sum()) + self._counter.count(["a"])[0]

    def _logits(self, query: str, texts: Sequence[str], room: int, progress: Progress | None) -> list[float]:
        passages_of: dict[str, list[int]] = {}
        for number, text in enumerate(texts):
            passages_of.setdefault(text, []).append(number)
        windows = [
            window
            for text, encoding in zip(passages_of, self._counter.encode(list(passages_of)), strict=True)
            for window in self._read_at_once(text, encoding, room)
        ]
        unread = {text: 0 for text in passages_of}
        for window in windows:
            unread[window.passage] += 1
        best = np.full(len(texts), -math.inf)
        done = 0
        with closing(self._batches.rows(self._pairs(query, windows, self._max_tokens - room))) as batches:
            for scored, rows in batches:
                for number, logit in zip(scored, self._checked(rows), strict=True):
                    text = windows[number].passage
                    numbers = passages_of[text]
                    best[numbers] = np.maximum(best[numbers], logit)
                    unread[text] -= 1
                    done += len(numbers) if unread[text] == 0 else 0
                if progress:
                    progress(done, len(texts))
        return [float(logit) for logit in best]

    def _read_at_once(self, text: str, encoding: Encoding, room: int) -> list[_Window]:
        """The passage itself if it fits, else its windows."""
        if len(encoding) <= room:
            return [_Window(text, text, encoding)]
        pieces = list(self._windows(text, min(room, WINDOW_TOKENS)))
        return [_Window(text, *piece) for piece in zip(pieces, self._counter.encode(pieces), strict=True)]

    def _pairs(self, query: str, windows: Sequence[_Window], overhead: int) -> list[_Pair]:
        """Each window with the question, which takes `overhead` tokens together with the special ones."""
        if self._packed is None:
            return [_Pair(query, window.text, len(window.encoding) + overhead, None) for window in windows]
        [question] = self._counter.encode([query])
        tokens = [self._packed.tokens(question, window.encoding) for window in windows]
        return [_Pair(query, window.text, len(pair), pair) for window, pair in zip(windows, tokens, strict=True)]

    def _compute(self, pairs: Sequence[_Pair]) -> NDArray[np.float64]:
        """Logits of pairs that fit into one batch, `(n_pairs, n_labels)`."""
        with self._lock:
            started = time.perf_counter()
            read = [pair.tokens for pair in pairs if pair.tokens is not None]
            if self._packed is None or len(read) < len(pairs):
                logits = self._predict([(pair.query, pair.text) for pair in pairs])
            else:
                logits = np.empty((len(pairs), self._model.num_labels))
                for numbers, rows in self._packed.logits(read):
                    logits[list(numbers)] = rows
            self._speed.add(time.perf_counter() - started, sum(pair.n_tokens for pair in pairs))
        return logits

    def _predict(self, pairs: list[tuple[str, str]]) -> NDArray[np.float64]:
        """Logits of pairs by the library, `(n_pairs, n_labels)`."""
        outputs = self._model.predict(
            pairs,
            prompt=self._prompt,
            batch_size=len(pairs),
            activation_fn=self._identity_function,
            show_progress_bar=False,
        )
        return np.asarray(outputs, dtype=np.float64).reshape(len(pairs), -1)

    def _checked(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(n_pairs, n_labels)` to `(n_pairs,)`. Of two labels it is the second's logit minus the first's.

        The softmax over two labels is the sigmoid of that difference.
        """
        logits = logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
        if not np.isfinite(logits).all():
            raise EngineFault(
                f"{self._name} gave a logit that is not a number in {self._precision}: compute in float32, or fetch "
                "the model again"
            )
        return logits

    def _windows(self, text: str, room: int) -> Iterator[str]:
        """Pieces of a text of at most `room` tokens that overlap by a quarter and together cover it."""
        spans = self._counter.spans(text)
        length = max(room - _BOUNDARY_TOKENS, 1)
        step = max(length - length // 4, 1)
        for start in range(0, len(spans), step):
            end = min(start + length, len(spans))
            yield text[spans[start][0] : spans[end - 1][1]]
            if end == len(spans):
                return

    def _guess_seconds_per_token(self) -> float:
        """2 floating point operations a weight and token, at the speed of a matrix product of the model's width."""
        import torch

        weights = sum(parameter.numel() for parameter in self._model.parameters())
        for module in self._model.modules():
            if isinstance(module, torch.nn.Embedding):
                weights -= module.weight.numel()
        width = int(getattr(self._model.config, "hidden_size", 768))
        kind = {"device": self._model.device, "dtype": getattr(torch, self._precision)}
        tokens = self._batch_passages * TYPICAL_PAIR_TOKENS
        left, right = torch.ones(tokens, width, **kind), torch.ones(width, 4 * width, **kind)
        fastest = math.inf
        for _ in range(3):
            started = time.perf_counter()
            float((left @ right)[0, 0])  # reading a number waits for the GPU
            fastest = min(fastest, time.perf_counter() - started)
        return float(weights * fastest / (tokens * width * 4 * width))


def sigmoid(logit: float) -> float:
    """1 / (1 + e^-logit), without overflow, in double precision.

    >>> [sigmoid(0.0), round(sigmoid(2.0), 4), sigmoid(-1000.0), sigmoid(1000.0)]
    [0.5, 0.8808, 0.0, 1.0]
    """
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1.0 + odds)


def _max_tokens(model: Any, name: str, wanted: int | None) -> int:
    readable = longest_input_tokens(model.transformers_model, model.tokenizer)
    if wanted is None:
        return min(readable, LONGEST_PAIR_TOKENS)
    if not 0 < wanted <= readable:
        raise BadInput(f"max_tokens = {wanted}: {name} reads 1 to {readable} tokens; take a number in between")
    return wanted


def _precision_for(device: str, folder: Path) -> Precision:
    if not device.startswith("cuda"):
        return "bfloat16" if bf16_is_quick() else "float32"
    config = json.loads((folder / "config.json").read_text())
    return "bfloat16" if config.get("dtype", config.get("torch_dtype")) == "bfloat16" else "float16"


def _score_in_float32(model: Any) -> None:
    """Have the last layer computed in float32: a logit of 5 in bfloat16 has steps of 0.03, and passages would tie."""
    import torch

    layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == model.num_labels
    ]
    if layers and layers[-1].weight.dtype != torch.float32:
        layers[-1].float()
        layers[-1].register_forward_pre_hook(lambda _, inputs: tuple(value.float() for value in inputs))


def _refuse_other_models(local: LocalModel) -> None:
    """Any encoder would load as a cross-encoder, with a random head; any LLM, by its logits of yes and no."""
    st_config = local.folder / "config_sentence_transformers.json"
    if st_config.is_file() and json.loads(st_config.read_text()).get("model_type") == "CrossEncoder":
        return
    architectures = json.loads((local.folder / "config.json").read_text()).get("architectures") or ["no architecture"]
    if not architectures[0].endswith("ForSequenceClassification"):
        raise BadInput(
            f"{local.name} is no cross-encoder ({architectures[0]} has no scoring head): name one, such as "
            "BAAI/bge-reranker-v2-m3"
        )
