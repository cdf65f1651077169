"""Training data: labelled pairs in, groups of one question with its passages out. Files only, no model.

A group's row is JSON: `{"query", "pos": [...], "neg": [...], "pos_scores": [...], "neg_scores": [...]}`, which
FlagEmbedding reads as well. Scores are the relevance that the model is to learn, in [0, 1].
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import BadInput
from rag.json_lines import open_text, read_rows


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A question and a passage that answers it."""

    query: str
    positive: str
    answers: tuple[str, ...] = ()
    """Strings that answer the question: a passage that contains one is no negative."""
    group: str = ""
    """Title of the passages within which alone the question can be understood: its negatives come from there."""
    title: str = ""
    """Title of the positive's document, where it has one that says something."""


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """A question with passages and the relevance in [0, 1] that each should get."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    positive_scores: tuple[float, ...] = ()
    """Empty: all 1."""
    negative_scores: tuple[float, ...] = ()
    """Empty: all 0."""

    @property
    def passages(self) -> tuple[str, ...]:
        """Positives, then negatives."""
        return self.positives + self.negatives

    @property
    def labels(self) -> tuple[float, ...]:
        """The relevance of each of `passages`."""
        positive = self.positive_scores or (1.0,) * len(self.positives)
        return positive + (self.negative_scores or (0.0,) * len(self.negatives))


def read_pairs(path: Path) -> list[LabelledPair]:
    """Rows of `{"query", "positive", "answers"?, "group"?, "title"?}`."""
    pairs = []
    for number, row in read_rows(path):
        try:
            pairs.append(
                LabelledPair(
                    str(row["query"]),
                    str(row["positive"]),
                    tuple(str(answer) for answer in row.get("answers") or ()),
                    str(row.get("group") or ""),
                    str(row.get("title") or ""),
                )
            )
        except KeyError as error:
            raise BadInput(f"{path}, line {number}: {error} is missing; a pair needs query and positive") from None
    return pairs


def read_groups(path: Path) -> list[TrainingGroup]:
    """Groups as `write_groups` wrote them, or FlagEmbedding's rows of query, pos and neg."""
    groups = []
    for number, row in read_rows(path):
        try:
            group = TrainingGroup(
                str(row["query"]),
                tuple(row["pos"]),
                tuple(row["neg"]),
                tuple(float(score) for score in row.get("pos_scores") or ()),
                tuple(float(score) for score in row.get("neg_scores") or ()),
            )
        except KeyError as error:
            raise BadInput(f"{path}, line {number}: {error} is missing; a group needs query, pos and neg") from None
        if len(group.labels) != len(group.passages) or not all(0 <= label <= 1 for label in group.labels):
            raise BadInput(f"{path}, line {number}: needs one score in [0, 1] for each passage, or no scores")
        groups.append(group)
    return groups


def write_groups(groups: Iterable[TrainingGroup], path: Path) -> int:
    """Write groups as JSONL, whole or not at all; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name("unfinished-" + path.name)
    count = 0
    with open_text(unfinished, "w") as file:
        for group in groups:
            row: dict[str, Any] = {"query": group.query, "pos": group.positives, "neg": group.negatives}
            if group.positive_scores:
                row["pos_scores"] = group.positive_scores
            if group.negative_scores:
                row["neg_scores"] = group.negative_scores
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(unfinished, path)  # noqa: PTH105  the file is one path, whatever its type
    return count
