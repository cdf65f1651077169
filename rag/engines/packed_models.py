"""What sentence-transformers models give, by `PackedEncoder`: logits of pairs, vectors of texts, vectors of tokens.

A model whose parts or whose results differ from what is computed here has no packed form (`of` returns None), and its
engine then asks the library as ever. Nothing is truncated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor
from torch.nn import functional

from rag.engines.packed_encoder import PackedEncoder, Tokens
from rag.engines.side_by_side import Run
from rag.engines.token_counter import TokenCounter

_PROBES = (
    ("How long is the waiting period?", "The waiting period is 180 days, counted from the start of the contract."),
    ("refund", " Return an item within seven days\nof receipt "),
)
"""Pairs on which a packed form is compared with its model; of different length, with white space at the ends."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest relative difference from the library's result, by number format. bfloat16 has 8 binary digits: two orders of
the same sums differ by some percent after a few layers."""


class PackedPairs:
    """Logits of a question with passages, by a BERT or RoBERTa cross-encoder on a CPU."""

    def __init__(self, encoder: PackedEncoder, model: Any, counter: TokenCounter, *, with_types: bool) -> None:
        """Join the parts; `of` is the way to get one."""
        self._encoder = encoder
        self._model = model.transformers_model
        self._counter = counter
        self._with_types = with_types

    @classmethod
    def of(cls, model: Any, counter: TokenCounter) -> PackedPairs | None:
        """The packed form of a sentence-transformers `CrossEncoder`, or None."""
        from sentence_transformers.base.modules import Transformer
        from transformers import (
            BertForSequenceClassification,
            RobertaForSequenceClassification,
            XLMRobertaForSequenceClassification,
        )

        known = (BertForSequenceClassification, RobertaForSequenceClassification, XLMRobertaForSequenceClassification)
        transformer = model.transformers_model
        if [type(part) for part in model.children()] != [Transformer] or type(transformer) not in known:
            return None
        encoder = PackedEncoder.of(transformer.base_model)
        if encoder is None:
            return None
        features = model.preprocess(list(_PROBES))
        packed = cls(encoder, model, counter, with_types="token_type_ids" in features)
        return packed if packed._agrees_with(model, features) else None

    def tokens(self, query: Encoding, passage: Encoding) -> Tokens:
        """A pair as the model reads it; both encoded without special tokens."""
        pair = self._counter.framed(query, passage)
        return Tokens(pair.ids, pair.type_ids if self._with_types else [0] * len(pair))

    def logits(self, pairs: Sequence[Tokens]) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
        """Pack by pack: numbers of some pairs with their logits, `(n_pairs, n_labels)`. Longest pairs first."""
        for numbers, first in self._encoder.first_vectors(pairs):
            with torch.inference_mode():
                yield numbers, self._headed(first).double().numpy()

    def _headed(self, first: Tensor) -> Tensor:
        # Both heads look at the first token of each sequence only.
        rows = first[:, None]
        pooler = getattr(self._model.base_model, "pooler", None)
        logits: Tensor = self._model.classifier(rows if pooler is None else pooler(rows))
        return logits

    def _agrees_with(self, model: Any, features: dict[str, Any]) -> bool:
        pairs = [self.tokens(*self._counter.encode(pair)) for pair in _PROBES]
        for number, pair in enumerate(pairs):
            inside = features["attention_mask"][number].bool()
            if features["input_ids"][number][inside].tolist() != pair.ids:
                return False
            if self._with_types and features["token_type_ids"][number][inside].tolist() != pair.types:
                return False
        expected = model.predict(list(_PROBES), activation_fn=torch.nn.Identity(), show_progress_bar=False)
        expected = torch.as_tensor(expected).reshape(len(pairs), -1).double()
        found = torch.empty_like(expected)
        for numbers, logits in self.logits(pairs):
            found[list(numbers)] = torch.from_numpy(logits)
        limit = _TOLERANCE[self._encoder.dtype] * max(1.0, float(expected.abs().max()))
        return bool(((found - expected).abs() <= limit).all())


class PackedTexts:
    """Unit vectors of texts, by a BERT or RoBERTa bi-encoder on a CPU that takes the mean or the first token."""

    def __init__(self, encoder: PackedEncoder, counter: TokenCounter, *, mean: bool) -> None:
        """Join the parts; `of` is the way to get one."""
        self._encoder = encoder
        self._counter = counter
        self._mean = mean

    @classmethod
    def of(cls, model: Any, counter: TokenCounter) -> PackedTexts | None:
        """The packed form of a sentence-transformers `SentenceTransformer`, or None."""
        from sentence_transformers.base.modules import Normalize, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        parts = list(model.children())
        kinds = [type(part) for part in parts]
        if kinds[:2] != [Transformer, Pooling] or kinds[2:] not in ([], [Normalize]):
            return None
        mode = parts[1].pooling_mode
        if mode not in ("mean", "cls") or not parts[1].include_prompt:
            return None
        encoder = PackedEncoder.of(model.transformers_model)
        if encoder is None:
            return None
        packed = cls(encoder, counter, mean=mode == "mean")
        return packed if packed._agrees_with(model) else None

    def vectors(
        self, encodings: Sequence[Encoding], run: Run = map
    ) -> Iterator[tuple[tuple[int, ...], NDArray[np.float32]]]:
        """Pack by pack: numbers of some texts with their unit vectors, `(n_texts, dimension)`. Longest texts first.

        Args:
            encodings: With special tokens and any prompt.
            run: What calls the model for each pack; it may do so for several at a time.
        """
        texts = [Tokens(encoding.ids, encoding.type_ids) for encoding in encodings]
        packs = self._encoder.mean_vectors(texts, run) if self._mean else self._encoder.first_vectors(texts, run)
        for numbers, rows in packs:
            with torch.inference_mode():
                yield numbers, functional.normalize(rows.float(), dim=1).numpy()

    def _agrees_with(self, model: Any) -> bool:
        texts = [text for pair in _PROBES for text in pair]
        expected = torch.as_tensor(model.encode(texts, normalize_embeddings=True, show_progress_bar=False)).float()
        found = torch.empty_like(expected)
        for numbers, rows in self.vectors(self._counter.encode(texts, special_tokens=True)):
            found[list(numbers)] = torch.from_numpy(rows)
        return bool(((found - expected).norm(dim=1) <= _TOLERANCE[self._encoder.dtype]).all())


class PackedTokenVectors:
    """Unit vectors of the tokens of texts, without those that a skip list names, by a BERT encoder on a CPU."""

    def __init__(self, encoder: PackedEncoder, counter: TokenCounter, skipped: Tensor) -> None:
        """Join the parts; `of` is the way to get one."""
        self._encoder = encoder
        self._counter = counter
        self._skipped = skipped

    @classmethod
    def of(cls, model: Any, counter: TokenCounter, skipped_words: Sequence[str]) -> PackedTokenVectors | None:
        """The packed form of a `MultiVectorEncoder` that is a transformer, a mask and a normalization, or None.

        Args:
            model: It has no prompts, projection or query expansion.
            counter: Of its tokenizer.
            skipped_words: Tokens that leave no vector, on both sides.
        """
        encoder = PackedEncoder.of(model.transformers_model)
        if encoder is None:
            return None
        packed = cls(encoder, counter, torch.tensor(model.tokenizer.convert_tokens_to_ids(list(skipped_words))))
        return packed if packed._agrees_with(model) else None

    def vectors(self, encodings: Sequence[Encoding]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The number of each text with its vectors, `(n_tokens, dimension)`. Longest texts first.

        Args:
            encodings: With special tokens.
        """
        texts = [Tokens(encoding.ids, encoding.type_ids) for encoding in encodings]
        for number, rows in self._encoder.token_vectors(texts):
            with torch.inference_mode():
                kept = ~torch.isin(torch.tensor(texts[number].ids), self._skipped)
                yield number, functional.normalize(rows[kept].float(), dim=1).numpy()

    def _agrees_with(self, model: Any) -> bool:
        texts = [text for pair in _PROBES for text in pair]
        found = dict(self.vectors(self._counter.encode(texts, special_tokens=True)))
        for encode in (model.encode_query, model.encode_document):
            matrices = encode(texts, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
            for number, matrix in enumerate(matrices):
                if matrix.shape != found[number].shape:
                    return False
                difference = np.linalg.norm(np.asarray(matrix, dtype=np.float32) - found[number], axis=1)
                if not (difference <= _TOLERANCE[self._encoder.dtype]).all():
                    return False
        return True
