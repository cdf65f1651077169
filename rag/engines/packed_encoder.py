"""A BERT encoder's forward pass over packed sequences: the tokens of many texts as one matrix, hardly any padding.

It computes with a loaded model's own weights, on a CPU, for the BERT and RoBERTa families; for another model, and for
one whose vectors it does not reproduce, there is none. It neither loads models nor makes tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rag.engines.side_by_side import Run

PACK_TOKENS = 2048
"""How many tokens are computed at once: a matrix product of that height is as quick as any."""
PACK_SEQUENCES = 16
"""How many sequences are computed at once at most, so that progress is seen with short ones too."""

ROW_TOKENS = 16
"""Sequences are filled up to a multiple of this. Matrix units work on tiles of 16 rows: attention over 237 tokens takes
1.7 times as long as over 240."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference from the model's own forward pass, relative to the length of a vector, by number format."""

SMALL_PACK_ROWS = 512
"""A half-precision pack of fewer rows is computed as it is, a larger one as `PACK_ROW_STEP`s: see `_rows`."""
PACK_ROW_STEP = 128

_PROBE_TOKENS = (3, 16, 31, 50)
"""Lengths of the sequences on which it is compared with the model."""

_Linear = Callable[[Tensor], Tensor]
_AddingLinear = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence as the model reads it, special tokens included."""

    ids: Sequence[int]
    types: Sequence[int]
    """Segment of each token: 0 for a single text; of a pair, BERT's second text has 1."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbours in a pack that are filled up to the same length."""

    n_sequences: int
    length: int
    mask: Tensor | None
    """`(n_sequences, 1, 1, length)`, added to attention's scores; None where nothing was filled up."""


@dataclass(frozen=True, slots=True)
class _Pack:
    """Sequences whose tokens are computed as one matrix, by falling length."""

    numbers: tuple[int, ...]
    """Which of the caller's sequences they are."""
    lengths: tuple[int, ...]
    """Without what was filled up."""
    starts: tuple[int, ...]
    """Row of the first token of each."""
    ids: Tensor
    places: Tensor
    """Row of each token's type and position."""
    groups: tuple[_Group, ...]
    n_unused: int
    """Rows after the last group, so that there are as many as in other packs; nothing is read of them."""


@dataclass(frozen=True, slots=True)
class _Layer:
    query_key_value: _Linear
    query: _Linear
    key_value: _Linear
    attended: _AddingLinear
    attention_norm: torch.nn.LayerNorm
    widened: _Linear
    narrowed: _AddingLinear
    norm: torch.nn.LayerNorm


class PackedEncoder:
    """The forward pass of a loaded model; `of` is the way to get one. It keeps no state between calls."""

    def __init__(self, model: Any) -> None:
        """Take the weights of a model that `of` has found to be of a known family."""
        config = model.config
        self._heads = int(config.num_attention_heads)
        self._width = int(config.hidden_size)
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight
        positions, types = embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight
        self._n_positions, self._n_types = len(positions), len(types)
        # One row for each pair of type and position, so that a token is the sum of two rows and not of three.
        self._places = (types.detach()[:, None] + positions.detach()[None]).flatten(0, 1)
        self._embedding_norm = embeddings.LayerNorm
        # RoBERTa and its kin start counting positions after the padding index.
        padding_index = embeddings.position_embeddings.padding_idx
        self._first_position = 0 if padding_index is None else padding_index + 1
        self._padding_id = int(config.pad_token_id or 0)
        self._layers = [_layer(layer) for layer in model.encoder.layer]
        self.dtype: torch.dtype = self._words.dtype
        """What it computes in."""

    @classmethod
    def of(cls, model: Any) -> PackedEncoder | None:
        """The packed form of a transformer, or None where it is of another family, on a GPU, or gives other vectors.

        Args:
            model: The bare encoder, without any head.
        """
        if not _is_known(model):
            return None
        packed = cls(model)
        return packed if packed._agrees_with(model) else None

    def token_vectors(self, sequences: Sequence[Tokens]) -> Iterator[tuple[int, Tensor]]:
        """The last layer's vectors of each sequence, `(n_tokens, width)`, with its number; longest first."""
        for pack in self._packs(sequences):
            hidden = self._all_through(pack)
            for number, start, length in zip(pack.numbers, pack.starts, pack.lengths, strict=True):
                yield number, hidden[start : start + length]

    def mean_vectors(self, sequences: Sequence[Tokens], run: Run = map) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Pack by pack: numbers of some sequences with the mean of their vectors, `(n_sequences, width)`, float32.

        `run` may work on several packs at a time: which sequences share one does not depend on it.
        """
        return run(self._means, self._packs(sequences))

    def first_vectors(self, sequences: Sequence[Tokens], run: Run = map) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Pack by pack: numbers of some sequences with the vectors of their first tokens, `(n_sequences, width)`.

        Nothing else is computed of the last layer than what the first tokens need. Longest sequences first.
        """
        return run(self._firsts, self._packs(sequences))

    # The mode is not held over a yield: it belongs to the thread, and would reach into the caller's code.
    @torch.inference_mode()
    def _means(self, pack: _Pack) -> tuple[tuple[int, ...], Tensor]:
        hidden = self._all_through(pack)
        means = [
            hidden[start : start + length].mean(dim=0, dtype=torch.float32)
            for start, length in zip(pack.starts, pack.lengths, strict=True)
        ]
        return pack.numbers, torch.stack(means)

    @torch.inference_mode()
    def _firsts(self, pack: _Pack) -> tuple[tuple[int, ...], Tensor]:
        hidden = self._embedded(pack)
        for layer in self._layers[:-1]:
            hidden = self._through(layer, hidden, pack)
        return pack.numbers, self._first_through(self._layers[-1], hidden, pack)

    @torch.inference_mode()
    def _all_through(self, pack: _Pack) -> Tensor:
        hidden = self._embedded(pack)
        for layer in self._layers:
            hidden = self._through(layer, hidden, pack)
        return hidden

    def _packs(self, sequences: Sequence[Tokens]) -> Iterator[_Pack]:
        longest_first = sorted(range(len(sequences)), key=lambda number: -len(sequences[number]))
        numbers: list[int] = []
        n_tokens = 0
        for number in longest_first:
            length = filled_up(len(sequences[number]))
            if numbers and (n_tokens + length > PACK_TOKENS or len(numbers) == PACK_SEQUENCES):
                yield self._pack(numbers, sequences)
                numbers, n_tokens = [], 0
            numbers.append(number)
            n_tokens += length
        if numbers:
            yield self._pack(numbers, sequences)

    def _pack(self, numbers: Sequence[int], sequences: Sequence[Tokens]) -> _Pack:
        ids: list[int] = []
        types: list[int] = []
        positions: list[Tensor] = []
        starts: list[int] = []
        groups: list[_Group] = []
        counted = torch.arange(self._first_position, self._first_position + filled_up(len(sequences[numbers[0]])))
        counted.clamp_(max=self._n_positions - 1)
        for length, members in groupby(numbers, key=lambda number: filled_up(len(sequences[number]))):
            lengths = []
            for number in members:
                sequence = sequences[number]
                fill = length - len(sequence)
                starts.append(len(ids))
                ids += [*sequence.ids, *[self._padding_id] * fill]
                types += [*sequence.types, *[0] * fill]
                positions.append(counted[:length])
                lengths.append(len(sequence))
            groups.append(_Group(len(lengths), length, self._mask(lengths, length)))
        n_unused = self._rows(len(ids)) - len(ids)
        ids += [self._padding_id] * n_unused
        types += [0] * n_unused
        positions.append(counted[:1].expand(n_unused))
        return _Pack(
            numbers=tuple(numbers),
            lengths=tuple(len(sequences[number]) for number in numbers),
            starts=tuple(starts),
            ids=torch.tensor(ids),
            places=torch.tensor(types).mul_(self._n_positions).add_(torch.cat(positions)),
            groups=tuple(groups),
            n_unused=n_unused,
        )

    def _rows(self, n_tokens: int) -> int:
        """How many rows so many tokens are computed as.

        oneDNN makes a program of its own for each height of a half-precision matrix product, and keeps up to 1,024 of
        them: each takes three to six times as long to make as to run once, and 0.6 to 2 MB. A layer has five, so with
        128 heights memory grew by hundreds of megabytes over some hundred questions. The order of sums, and scores with
        it, follow from the height where that is low: those stay as they are.
        """
        if self.dtype == torch.float32 or n_tokens < SMALL_PACK_ROWS:
            return n_tokens
        return -(-n_tokens // PACK_ROW_STEP) * PACK_ROW_STEP

    def _mask(self, lengths: Sequence[int], filled_up: int) -> Tensor | None:
        if all(length == filled_up for length in lengths):
            return None
        outside = torch.arange(filled_up) >= torch.tensor(lengths)[:, None]
        mask = torch.zeros(outside.shape, dtype=self.dtype).masked_fill_(outside, -torch.inf)
        return mask[:, None, None, :]

    def _embedded(self, pack: _Pack) -> Tensor:
        embedded = functional.embedding(pack.ids, self._words)
        embedded += functional.embedding(pack.places, self._places)
        return self._embedding_norm(embedded)  # type: ignore[no-any-return]  # a module's call is untyped

    def _through(self, layer: _Layer, hidden: Tensor, pack: _Pack) -> Tensor:
        query_key_value = layer.query_key_value(hidden)
        attended = []
        start = 0
        for group in pack.groups:
            end = start + group.n_sequences * group.length
            query, key, value = (
                query_key_value[start:end]
                .view(group.n_sequences, group.length, 3, self._heads, -1)
                .permute(2, 0, 3, 1, 4)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=group.mask)
            attended.append(mixed.transpose(1, 2).reshape(end - start, self._width))
            start = end
        if pack.n_unused:
            attended.append(hidden.new_zeros(pack.n_unused, self._width))
        return self._fed_forward(layer, attended[0] if len(attended) == 1 else torch.cat(attended), hidden)

    def _first_through(self, layer: _Layer, hidden: Tensor, pack: _Pack) -> Tensor:
        # Always as many, the last ones unused, for the reason that `_rows` tells.
        n_rows = len(pack.starts) if self.dtype == torch.float32 else PACK_SEQUENCES
        first = hidden.new_zeros(n_rows, self._width)
        first[: len(pack.starts)] = hidden[torch.tensor(pack.starts)]
        queries = layer.query(first).view(n_rows, 1, self._heads, -1).transpose(1, 2)
        key_value = layer.key_value(hidden)
        attended = []
        start = first_row = 0
        for group in pack.groups:
            end, last_row = start + group.n_sequences * group.length, first_row + group.n_sequences
            key, value = (
                key_value[start:end].view(group.n_sequences, group.length, 2, self._heads, -1).permute(2, 0, 3, 1, 4)
            )
            mixed = functional.scaled_dot_product_attention(
                queries[first_row:last_row], key, value, attn_mask=group.mask
            )
            attended.append(mixed.transpose(1, 2).reshape(group.n_sequences, self._width))
            start, first_row = end, last_row
        attended.append(hidden.new_zeros(n_rows - first_row, self._width))
        return self._fed_forward(layer, torch.cat(attended), first)[:first_row]

    @staticmethod
    def _fed_forward(layer: _Layer, attended: Tensor, hidden: Tensor) -> Tensor:
        hidden = layer.attention_norm(layer.attended(attended, hidden))
        return layer.norm(layer.narrowed(layer.widened(hidden), hidden))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _agrees_with(self, model: Any) -> bool:
        generator = torch.Generator().manual_seed(0)
        limit = min(self._n_positions - self._first_position, max(_PROBE_TOKENS))
        lengths = [min(length, limit) for length in _PROBE_TOKENS]
        sequences = []
        for length in lengths:
            ids = torch.randint(0, len(self._words), (length,), generator=generator)
            # Some models take the padding token for no token at all, wherever it stands.
            ids[ids == self._padding_id] = (self._padding_id + 1) % len(self._words)
            n_second = length // 2 if self._n_types > 1 else 0
            sequences.append(Tokens(ids.tolist(), [0] * (length - n_second) + [1] * n_second))
        tokens = dict(self.token_vectors(sequences))
        first = {
            number: row
            for numbers, rows in self.first_vectors(sequences)
            for number, row in zip(numbers, rows, strict=True)
        }
        for number, sequence in enumerate(sequences):
            expected = model(
                input_ids=torch.tensor([sequence.ids]),
                token_type_ids=torch.tensor([sequence.types]),
                attention_mask=torch.ones(1, len(sequence), dtype=torch.long),
            ).last_hidden_state[0]
            limits = TOLERANCE[self.dtype] * expected.float().norm(dim=1)
            if not ((tokens[number] - expected).float().norm(dim=1) <= limits).all():
                return False
            if not (first[number] - expected[0]).float().norm() <= limits[0]:
                return False
        return True


def filled_up(length: int) -> int:
    """A length, filled up to the next multiple of `ROW_TOKENS`: what a sequence takes of a pack."""
    return -(-length // ROW_TOKENS) * ROW_TOKENS


def _is_known(model: Any) -> bool:
    from transformers import BertModel, RobertaModel, XLMRobertaModel

    if type(model) not in (BertModel, RobertaModel, XLMRobertaModel) or model.device.type != "cpu":
        return False
    config = model.config
    weights = {parameter.dtype for parameter in model.encoder.parameters()} | {
        model.embeddings.word_embeddings.weight.dtype
    }
    # A subclass of Linear, such as an adapter's, computes more than a matrix product.
    linears = [module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear)]
    return (
        config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not config.is_decoder
        and weights in ({torch.float32}, {torch.bfloat16}, {torch.float16})
        and all(type(linear) is torch.nn.Linear for linear in linears)
        and len(linears) == 6 * len(model.encoder.layer)
    )


def _layer(layer: Any) -> _Layer:
    attention = layer.attention.self
    query, key, value = attention.query, attention.key, attention.value
    return _Layer(
        query_key_value=_linear(*_joined(query, key, value)),
        query=_linear(*_joined(query)),
        key_value=_linear(*_joined(key, value)),
        attended=_adding_linear(*_joined(layer.attention.output.dense)),
        attention_norm=layer.attention.output.LayerNorm,
        widened=_linear(*_joined(layer.intermediate.dense), gelu=True),
        narrowed=_adding_linear(*_joined(layer.output.dense)),
        norm=layer.output.LayerNorm,
    )


def _joined(*linears: torch.nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of linear maps that read the same, as of one."""
    return (
        torch.cat([linear.weight.detach() for linear in linears]),
        torch.cat([linear.bias.detach() for linear in linears]),
    )


def _linear(weight: Tensor, bias: Tensor, *, gelu: bool = False) -> _Linear:
    packed = _reordered(weight)
    if packed is None:
        if gelu:
            return lambda rows: functional.gelu(functional.linear(rows, weight, bias))
        return lambda rows: functional.linear(rows, weight, bias)
    operation = torch.ops.mkldnn._linear_pointwise
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    return lambda rows: operation(rows, packed, bias, name, [], algorithm)


def _adding_linear(weight: Tensor, bias: Tensor) -> _AddingLinear:
    """A linear map whose result is added to a second matrix."""
    packed = _reordered(weight)
    if packed is None:
        return lambda rows, added: functional.linear(rows, weight, bias).add_(added)
    operation = torch.ops.mkldnn._linear_pointwise.binary
    return lambda rows, added: operation(rows, added, packed, bias, "add")


def _reordered(weight: Tensor) -> Tensor | None:
    """A bfloat16 weight in the order in which oneDNN reads it, so that it is not reordered at each product.

    None where that is not to be had. PyTorch's own compiler calls the same operations; they have no public name.
    """
    if weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight, PACK_TOKENS)  # type: ignore[no-any-return]
    except (AttributeError, RuntimeError):
        return None
