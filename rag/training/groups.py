"""Training data on disk: groups of one question with its passages and labels. Files only, no model.

A group's row is JSON: `{"query", "pos": [...], "neg": [...], "pos_scores"?, "neg_scores"?, "pos_ranks"?, "neg_ranks"?,
"order_only"?, "teacher"?}`. FlagEmbedding reads it as well. Scores are the relevance in [0, 1] that a model is to
learn; ranks are those that recall gave; a teacher's numbers are of all passages, positives first.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import BadInput
from rag.json_lines import open_text, read_rows
from rag.training.words import folded


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """A question with passages and the relevance in [0, 1] that each should get."""

    query: str
    positives: tuple[str, ...]
    """Empty: none of the negatives answers the question, it is to be refused."""
    negatives: tuple[str, ...]
    positive_scores: tuple[float, ...] = ()
    """Empty: all 1."""
    negative_scores: tuple[float, ...] = ()
    """Empty: all 0."""
    positive_ranks: tuple[int | None, ...] = ()
    """1-based rank at which recall gave each; None where it did not. Empty: unknown."""
    negative_ranks: tuple[int | None, ...] = ()
    order_only: bool = False
    """Whether the scores say only what comes before what: nothing is to be learnt from their size."""
    teacher: tuple[float, ...] = ()
    """What a teacher gives each of `passages`, comparable within the group only. Empty: none was asked."""

    @property
    def passages(self) -> tuple[str, ...]:
        """Positives, then negatives."""
        return self.positives + self.negatives

    @property
    def labels(self) -> tuple[float, ...]:
        """The relevance of each of `passages`."""
        positive = self.positive_scores or (1.0,) * len(self.positives)
        return positive + (self.negative_scores or (0.0,) * len(self.negatives))

    @property
    def ranks(self) -> tuple[int | None, ...]:
        """The recall rank of each of `passages`. Empty where ranks are not known."""
        return self.positive_ranks + self.negative_ranks


def read_groups(path: Path) -> list[TrainingGroup]:
    """Groups as `write_groups` wrote them, or FlagEmbedding's rows of query, pos and neg. Raises BadInput."""
    return [_group(row, path, number) for number, row in read_rows(path)]


def write_groups(groups: Iterable[TrainingGroup], path: Path) -> int:
    """Write groups as JSONL, whole or not at all; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(path)
    count = 0
    with open_text(unfinished, "w") as file:
        for group in groups:
            file.write(as_row(group) + "\n")
            count += 1
    os.replace(unfinished, path)  # noqa: PTH105  the file is one path, whatever its type
    return count


def unfinished_path(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name("unfinished-" + path.name)


def as_row(group: TrainingGroup) -> str:
    """A group as one line of JSON; what is empty or as usual is left out."""
    row: dict[str, Any] = {"query": group.query, "pos": group.positives, "neg": group.negatives}
    more = {
        "pos_scores": group.positive_scores,
        "neg_scores": group.negative_scores,
        "pos_ranks": group.positive_ranks,
        "neg_ranks": group.negative_ranks,
        "order_only": group.order_only,
        "teacher": group.teacher,
    }
    return json.dumps(row | {name: value for name, value in more.items() if value}, ensure_ascii=False)


def _group(row: dict[str, Any], path: Path, number: int) -> TrainingGroup:
    try:
        group = TrainingGroup(
            str(row["query"]),
            tuple(row["pos"]),
            tuple(row["neg"]),
            tuple(float(score) for score in row.get("pos_scores") or ()),
            tuple(float(score) for score in row.get("neg_scores") or ()),
            tuple(row.get("pos_ranks") or ()),
            tuple(row.get("neg_ranks") or ()),
            bool(row.get("order_only")),
            tuple(float(score) for score in row.get("teacher") or ()),
        )
    except KeyError as error:
        raise BadInput(f"{path}, line {number}: {error} is missing; a group needs query, pos and neg") from None
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}, line {number}: {error}; pos and neg are lists of texts, scores of numbers") from None
    if not all(isinstance(passage, str) for passage in group.passages) or not group.passages:
        raise BadInput(f"{path}, line {number}: pos and neg are lists of texts, at least one in all")
    if len(group.labels) != len(group.passages) or not all(0 <= label <= 1 for label in group.labels):
        raise BadInput(f"{path}, line {number}: needs one score in [0, 1] for each passage, or no scores")
    if group.ranks and len(group.ranks) != len(group.passages):
        raise BadInput(f"{path}, line {number}: needs one rank (a number or null) for each passage, or no ranks")
    if group.teacher and len(group.teacher) != len(group.passages):
        raise BadInput(f"{path}, line {number}: needs one number of the teacher for each passage, or none")
    return group


def question_digest(query: str) -> str:
    """16 hexadecimal digits that follow from the question's words: two spellings of one question are one.

    >>> question_digest("What is covered?") == question_digest("what  is covered")
    True
    """
    return hashlib.sha256(folded(query).encode()).hexdigest()[:16]


def split_by_question(
    groups: Sequence[TrainingGroup], n_held_out: int, seed: int
) -> tuple[list[TrainingGroup], list[TrainingGroup]]:
    """Groups to learn from and groups to hold out; all groups of one question are on the same side.

    `n_held_out` questions are held out, of those with and those without a positive in equal shares; at least one
    question stays on each side.
    """
    answerable = {question_digest(group.query) for group in groups if group.positives}
    choose = random.Random(seed)
    held_out: set[str] = set()
    questions = _distinct(groups)
    share = min(n_held_out, len(questions) - 1) / max(1, len(questions))
    for wanted in (True, False):
        of_kind = [question for question in questions if (question in answerable) is wanted]
        count = round(share * len(of_kind))
        if wanted and of_kind:
            count = max(1, min(count, len(of_kind) - 1))
        held_out.update(choose.sample(of_kind, count))
    shuffled = list(groups)
    choose.shuffle(shuffled)
    learnt = [group for group in shuffled if question_digest(group.query) not in held_out]
    return learnt, [group for group in shuffled if question_digest(group.query) in held_out]


def _distinct(groups: Iterable[TrainingGroup]) -> list[str]:
    return list(dict.fromkeys(question_digest(group.query) for group in groups))


def split_rows(
    rows: Sequence[dict[str, Any]], held_out_share: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of questions (`query`, `text` or `question`) to learn from and to hold out, split by question.

    Answerable and unanswerable questions are split in the same share. Order is kept.
    """
    unanswerable: dict[str, bool] = {}
    for row in rows:
        digest = question_digest(row_query(row))
        unanswerable[digest] = unanswerable.get(digest, True) and row.get("answerable") is False
    choose = random.Random(seed)
    held_out: set[str] = set()
    for kind in (False, True):
        of_kind = [digest for digest, is_unanswerable in unanswerable.items() if is_unanswerable is kind]
        held_out.update(choose.sample(of_kind, round(held_out_share * len(of_kind))))

    def side(wanted: bool) -> Iterator[dict[str, Any]]:
        return (row for row in rows if (question_digest(row_query(row)) in held_out) is wanted)

    return list(side(False)), list(side(True))


def row_query(row: dict[str, Any]) -> str:
    """The question of a labelled row, whatever its layout calls it; empty where it has none."""
    return next((str(row[name]) for name in ("query", "text", "question") if row.get(name)), "")
