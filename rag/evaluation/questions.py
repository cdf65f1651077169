"""Labelled questions over PDFs: a folder with `pdfs/` and `questions.jsonl[.gz]`.

A row: `{"_id", "text", "answers": [...], "evidence": [{"doc", "page_index0"}]}`; a question that the documents do not
answer has no evidence. Reading only; nothing is measured here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag.errors import BadInput


@dataclass(frozen=True, slots=True)
class GoldPage:
    """A page that holds the evidence for a question."""

    source: str
    """File name of the document, without folder and extension."""
    number: int
    """1-based."""


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question whose right pages are known."""

    id: str
    text: str
    answers: tuple[str, ...]
    gold: tuple[GoldPage, ...]
    """Any of these pages is a hit; empty: the documents do not answer the question."""

    @property
    def answerable(self) -> bool:
        """Whether the documents answer the question."""
        return bool(self.gold)


def read_questions(folder: Path) -> list[LabelledQuestion]:
    """The questions of a folder, in file order. Raises BadInput naming the file and line that can't be used."""
    for path in (folder / "questions.jsonl", folder / "questions.jsonl.gz"):
        if path.is_file():
            return [_question(row, path, number) for number, row in _rows(path)]
    raise BadInput(
        f"{folder} has no questions.jsonl or questions.jsonl.gz: name a folder with one, and pdfs/ beside it"
    )


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}, line {number}: not a JSON object ({error.msg})") from None


def _question(row: Any, path: Path, number: int) -> LabelledQuestion:
    try:
        gold = tuple(GoldPage(Path(item["doc"]).stem, int(item["page_index0"]) + 1) for item in row.get("evidence", ()))
        answers = tuple(str(answer) for answer in row.get("answers", ()))
        return LabelledQuestion(str(row["_id"]), str(row["text"]), answers, gold)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{path}, line {number}: needs _id, text and evidence of doc and page_index0 ({error!r})"
        ) from None
