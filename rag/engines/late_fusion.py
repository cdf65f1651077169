"""Reranker: a cross-encoder's logit and late interaction, added with fitted weights to one calibrated score.

A small cross-encoder and the MaxSim of all-MiniLM-L6-v2's token vectors err on different passages, so that their sum
orders better than either. The weights lie in the model's folder; a folder without them is a cross-encoder as it is.
Vectors of passages are kept in memory, so that a passage is encoded once and not at every question. They come first and
foretell the sum, so that the cross-encoder reads only what can be among the best. Nothing is fitted here:
`python -m rag train calibrate --late-interaction` does that.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.engines.colbert import MemoryTokenStore, TokenEncoder, quick_token_encoder
from rag.engines.cross_encoder import CrossEncoderReranker, sigmoid
from rag.engines.qdrant_tokens import TokenVectors
from rag.engines.rerank_http import Pace
from rag.errors import ModelUnavailable
from rag.ports import Progress
from rag.types import EngineInfo, Passage, Relevance

FUSION_FILE = "late-interaction.json"
"""File of a model's folder that holds the weights."""

Features = NDArray[np.float64]
"""Numbers of passages."""


@dataclass(frozen=True, slots=True)
class Foretelling:
    """What late interaction alone says of the fused score: `max_sim * MaxSim + cosine * cosine + bias` is its logit.

    The cross-encoder reads the best `read` of a question by that, and whatever is foretold `below` or more.
    """

    max_sim: float
    cosine: float
    bias: float
    read: int
    below: float
    """Score."""

    def logits(self, features: Features) -> Features:
        """The foretold logits, `(n_passages,)`, of what `LateInteraction.features` gives."""
        logits: Features = features @ np.array([self.max_sim, self.cosine]) + self.bias
        return logits

    def unread(self, logits: Features) -> NDArray[np.bool_]:
        """Which passages the cross-encoder need not read, `(n_passages,)`."""
        left: NDArray[np.bool_] = logits < np.log(self.below / (1 - self.below))
        left[np.argsort(-logits, kind="stable")[: self.read]] = False
        return left


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """`logit * cross_encoder_logit + max_sim * MaxSim + cosine * cosine + bias` is the logit of the fused score."""

    encoder: str
    """Name of the token encoder."""
    encoder_revision: str
    logit: float
    max_sim: float
    """Of MaxSim over the number of the question's vectors, at most 1."""
    cosine: float
    """Of the cosine of both mean vectors."""
    bias: float
    foretelling: Foretelling | None = None
    """None: the cross-encoder reads every passage."""

    def write(self, folder: Path) -> None:
        """Leave them in a model's folder."""
        (folder / FUSION_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> FusionWeights | None:
    """The weights in a model's folder; None where there are none. Raises ModelUnavailable for a damaged file."""
    path = folder / FUSION_FILE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        foretelling = told.pop("foretelling", None)
        return FusionWeights(**told, foretelling=foretelling and Foretelling(**foretelling))
    except (TypeError, ValueError) as error:
        raise ModelUnavailable(f"{path} can't be read ({error}): calibrate the model again") from error


class LateInteraction:
    """MaxSim and the cosine of the means, of a question and passages. Safe to use from several threads."""

    def __init__(self, encoder: TokenEncoder, store: MemoryTokenStore | None = None) -> None:
        """Join them.

        Args:
            encoder: Makes the vectors.
            store: Keeps those of passages; None: a store of the usual size.
        """
        self.encoder = encoder
        self._store = store or MemoryTokenStore()

    @property
    def name_and_revision(self) -> tuple[str, str]:
        """Of the encoder."""
        return self.encoder.identity.name, self.encoder.identity.revision

    def features(self, query: str, passages: Sequence[Passage]) -> Features:
        """`(n_passages, 2)`: MaxSim and cosine, each at most 1; 0 for a question or a passage without any words."""
        of_query = self.encoder.encode_query(query)
        found = self._vectors(passages)
        return np.array([_compared(of_query, found[passage.id]) for passage in passages]).reshape(-1, 2)

    def know(self, passages: Sequence[Passage]) -> bool:
        """Make and keep the vectors of passages that are new. False where keeping them would push others out."""
        if self._store.is_full:
            return False
        self._vectors(passages)
        return True

    def _vectors(self, passages: Sequence[Passage]) -> dict[str, TokenVectors]:
        found = self._store.vectors(passages)
        missing = [passage for passage in passages if passage.id not in found]
        if missing:
            encoded = self.encoder.encode_passages([passage.text for passage in missing])
            self._store.write(missing, encoded)
            found |= {passage.id: matrix for passage, matrix in zip(missing, encoded, strict=True)}
        return found


def _compared(query: TokenVectors, passage: TokenVectors) -> tuple[float, float]:
    if not len(query) or not len(passage):
        return 0.0, 0.0
    means = query.mean(axis=0), passage.mean(axis=0)
    length = float(np.linalg.norm(means[0]) * np.linalg.norm(means[1]))
    cosine = float(means[0] @ means[1]) / length if length else 0.0
    return float((query @ passage.T).max(axis=1).mean()), cosine


class LateFusionReranker:
    """Both behind the `Reranker` port. Safe to use from several threads."""

    def __init__(self, cross_encoder: CrossEncoderReranker, late: LateInteraction, weights: FusionWeights) -> None:
        """Join them.

        Args:
            cross_encoder: Gives the logit.
            late: Gives MaxSim and cosine.
            weights: How much each counts.

        Raises:
            ModelUnavailable: The weights were fitted with another token encoder.
        """
        name, revision = late.name_and_revision
        if (name, revision) != (weights.encoder, weights.encoder_revision):
            raise ModelUnavailable(
                f"{cross_encoder.info.name} was fitted together with {weights.encoder} ({weights.encoder_revision}), "
                f"and here is {name} ({revision}): calibrate it again"
            )
        self.cross_encoder = cross_encoder
        self._late = late
        self._weights = weights
        told = {name: value for name, value in asdict(weights).items() if value is not None}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
        info = cross_encoder.info
        self._info = replace(info, revision=f"{info.revision}+late-{digest}")
        self._pace = Pace()
        self._lock = threading.Lock()

    @property
    def info(self) -> EngineInfo:
        """The cross-encoder's, with a revision of its own."""
        return self._info

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.cross_encoder.on_gpu

    def standing_in(self, name: str, *, why: str) -> LateFusionReranker:
        """The same loaded models, whose `info` says that they stand in for the reranker `name`, and why."""
        stand_in = copy.copy(self)
        stand_in._info = replace(self._info, why=why, stands_in_for=name)
        return stand_in

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        """One `Relevance` a passage, in input order: `order` and `logit` are the fused logit, `score` its sigmoid.

        Passages that the cross-encoder does not read have what is foretold of them, and are marked as `foretold`. Which
        these are depends on what else is scored; what is foretold, and the scores of the others, don't.

        Raises as `CrossEncoderReranker.score`.
        """
        self.cross_encoder.score(query, [])  # refuses a question that it can't read, before anything is computed
        if not passages:
            return []
        started = time.monotonic()
        features = self._late.features(query, passages)
        with self._lock:
            self._pace.add(time.monotonic() - started, len(passages))
        weights, foretelling = self._weights, self._weights.foretelling
        logits = np.full(len(passages), -np.inf) if foretelling is None else foretelling.logits(features)
        unread = np.zeros(len(passages), bool) if foretelling is None else foretelling.unread(logits)
        read = np.flatnonzero(~unread).tolist()
        n_unread = len(passages) - len(read)
        relevances = self.cross_encoder.score(
            query,
            [passages[number] for number in read],
            progress=(lambda done, _: progress(n_unread + done, len(passages))) if progress else None,
        )
        for number, relevance in zip(read, relevances, strict=True):
            max_sim, cosine = features[number]
            logits[number] = (
                weights.logit * relevance.order + weights.max_sim * max_sim + weights.cosine * cosine + weights.bias
            )
        return [
            Relevance(order=logit, score=sigmoid(logit), logit=logit, foretold=bool(left))
            for logit, left in zip(logits.tolist(), unread, strict=True)
        ]

    def know(self, passages: Sequence[Passage]) -> bool:
        """As in `KnowsAhead`: the vectors of passages that are new are made and kept."""
        return self._late.know(passages)

    def late_features(self, query: str, passages: Sequence[Passage]) -> Features:
        """As `LateInteraction.features`."""
        return self._late.features(query, passages)

    def reading_all(self) -> LateFusionReranker:
        """The same loaded models; the cross-encoder reads every passage."""
        return LateFusionReranker(self.cross_encoder, self._late, replace(self._weights, foretelling=None))

    def with_empty_memory(self) -> LateFusionReranker:
        """The same loaded models, to which every passage is new."""
        return LateFusionReranker(self.cross_encoder, LateInteraction(self._late.encoder), self._weights)

    def with_cross_encoder(self, cross_encoder: CrossEncoderReranker) -> LateFusionReranker:
        """The same with another cross-encoder, such as this one in another precision."""
        return LateFusionReranker(cross_encoder, self._late, self._weights)

    def estimate_seconds(self, n_passages: int) -> float | None:
        """The sum of both by the pace of earlier calls; before the first, a passage costs late interaction as much."""
        foretelling = self._weights.foretelling
        n_read = n_passages if foretelling is None else min(n_passages, foretelling.read)
        reading, alone = (self.cross_encoder.estimate_seconds(number) for number in (n_read, n_passages))
        if reading is None or alone is None:
            return None
        comparing = self._pace.estimate_seconds(n_passages)
        return reading + (alone if comparing is None else comparing)


def embedded_reranker() -> CrossEncoderReranker | LateFusionReranker:
    """The reranker that the installation carries. Raises ModelUnavailable."""
    return _fused(CrossEncoderReranker.embedded())


def load_reranker(
    name_or_folder: str | Path, revision: str | None = None, *, why: str = "named in the settings"
) -> CrossEncoderReranker | LateFusionReranker:
    """A cross-encoder that is on this machine, with late interaction where its folder says so.

    Raises as `CrossEncoderReranker.load`.
    """
    return _fused(CrossEncoderReranker.load(name_or_folder, revision, why=why))


def cross_encoder_of(reranker: CrossEncoderReranker | LateFusionReranker) -> CrossEncoderReranker:
    """The cross-encoder alone: quick enough for single sentences."""
    return reranker if isinstance(reranker, CrossEncoderReranker) else reranker.cross_encoder


def embedded_late_interaction() -> LateInteraction:
    """Late interaction by all-MiniLM-L6-v2's token vectors, in the number format that is quick here."""
    return LateInteraction(quick_token_encoder())


def _fused(model: CrossEncoderReranker) -> CrossEncoderReranker | LateFusionReranker:
    weights = read_weights(model.folder)
    return model if weights is None else LateFusionReranker(model, embedded_late_interaction(), weights)
