"""Counts and locates tokens exactly as a model's tokenizer does, from any number of threads.

It never truncates, pads or warns of length; feeding a model is the engines' part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer

from rag.errors import BadInput

UNLIMITED_TOKENS = 1_000_000
"""Tokenizers without a limit of their own state an absurdly large one (int(1e30))."""


class TokenCounter:
    """A private copy of a fast tokenizer.

    The model's own tokenizer sets its truncation and padding anew for each call and, used from two threads, fails with
    `RuntimeError: Already borrowed` (https://github.com/huggingface/tokenizers/issues/537). The copy is never changed
    after it is made, so it needs no lock.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise BadInput(
                f"the model's tokenizer ({type(tokenizer).__name__}) has no tokenizer.json form, which exact lengths "
                "need: name a model that ships tokenizer.json"
            )
        self._tokenizer = Tokenizer.from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, texts: Sequence[str], *, special_tokens: bool = False) -> list[int]:
        """Number of tokens of each text, with or without the special tokens that frame a single text."""
        return [len(encoding) for encoding in self.encode(texts, special_tokens=special_tokens)]

    def encode(self, texts: Sequence[str], *, special_tokens: bool = False) -> list[Encoding]:
        """The tokens of each text, with or without the special tokens that frame a single text; no offsets."""
        return self._tokenizer.encode_batch_fast(
            [well_formed(text) for text in texts], add_special_tokens=special_tokens
        )

    def framed(self, first: Encoding, second: Encoding) -> Encoding:
        """Two texts that were encoded without special tokens, as a pair with them."""
        return self._tokenizer.post_process(first, second)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters `[start, end)` of each token of a text, without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).offsets


def well_formed(text: str) -> str:
    r"""The text with lone surrogates replaced, which tokenizers reject.

    >>> well_formed("fee \ud83d?")
    'fee ??'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def longest_input_tokens(model: torch.nn.Module, tokenizer: Any) -> int:
    """How many tokens a transformer reads at once, special tokens included.

    The least of what its tokenizer states and of the positions that it has. RoBERTa and its kin (XLM-RoBERTa, MPNet)
    start counting positions after the padding index: 514 positions are 512 tokens.
    """
    limits = [int(getattr(tokenizer, "model_max_length", UNLIMITED_TOKENS))]
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - reserved)
    return min(limits)
