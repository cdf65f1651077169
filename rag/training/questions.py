"""Labelled questions: which passages answer them, named by text, by document, page and quote, or by a person's click.

Three layouts of JSONL rows are read, told apart by their fields; a file may mix them:

    {"query", "positive", "answers"?, "group"?, "title"?}                           a passage by its text
    {"text", "answers"?, "evidence": [{"doc", "page_index0", "text"}], "answerable"?}     by document, page and quote
    {"question", "passage"?, "label": "right" | "wrong" | "wrongly_refused"}        labels that people gave in the app

Reading and looking up; nothing is recalled here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rag.errors import BadInput
from rag.evaluation.passage_index import CorpusPassage
from rag.json_lines import read_rows
from rag.ports import Index
from rag.training.groups import question_digest, row_query
from rag.training.words import contains, folded, words
from rag.types import Chunk

LABELS = ("right", "wrong", "wrongly_refused")

QUOTE_SHARE = 0.6
"""Least share of a quote's words that a chunk of its page must hold, where none holds it as it stands: a quote can be
cut by a chunk's border, and tables are written differently by different readers."""


@dataclass(frozen=True, slots=True)
class TrainingQuestion:
    """A question with what is known of its passages."""

    query: str
    positives: tuple[CorpusPassage, ...] = ()
    negatives: tuple[CorpusPassage, ...] = ()
    """Passages that a person called wrong."""
    answers: tuple[str, ...] = ()
    """Strings that answer the question: a passage that contains one is no negative."""
    group: str = ""
    """Title of the document within which alone the question can be understood: it is recalled from there."""
    answerable: bool | None = None
    """None: nobody has said whether the passages answer it, and no negatives may be inferred."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a question's answer stands."""

    source: str
    """File name of the document, without folder and extension."""
    page: int
    """1-based."""
    quote: str


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question as its row says it, before its passages are looked up."""

    question: TrainingQuestion
    evidence: tuple[Evidence, ...] = ()


@dataclass(slots=True)
class Unresolved:
    """Questions whose right passage was not found, and the reasons; filled by `resolve`."""

    reasons: list[str] = field(default_factory=list)


def read_questions(paths: Iterable[Path]) -> list[QuestionRow]:
    """The questions of the files, labels of the same question joined, in order of first appearance. Raises BadInput."""
    rows: list[QuestionRow] = []
    labelled: dict[str, int] = {}
    for path in paths:
        for number, row in read_rows(path):
            if "label" not in row:
                rows.append(_question_row(row, path, number))
                continue
            label = _labelled_row(row, path, number)
            key = question_digest(label.query)
            if key not in labelled:
                labelled[key] = len(rows)
                rows.append(QuestionRow(label))
            else:
                rows[labelled[key]] = QuestionRow(_joined(rows[labelled[key]].question, label))
    return rows


def _question_row(row: dict[str, Any], path: Path, number: int) -> QuestionRow:
    query = row_query(row)
    if not query.strip():
        raise BadInput(f"{path}, line {number}: no question; give it as query or text")
    answers = tuple(str(answer) for answer in row.get("answers") or ())
    try:
        evidence = tuple(
            Evidence(Path(item["doc"]).stem, int(item["page_index0"]) + 1, str(item.get("text") or ""))
            for item in row.get("evidence") or ()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}, line {number}: evidence needs doc and page_index0 ({error!r})") from None
    positives: tuple[CorpusPassage, ...] = ()
    if row.get("positive"):
        positives = (CorpusPassage("", str(row.get("title") or ""), str(row["positive"])),)
    answerable = row.get("answerable")
    if positives or evidence:
        answerable = True
    elif answerable is True:
        raise BadInput(f"{path}, line {number}: answerable, but without positive or evidence: name the passage")
    group = str(row.get("group") or "")
    return QuestionRow(TrainingQuestion(query, positives, (), answers, group, answerable), evidence)


def _labelled_row(row: dict[str, Any], path: Path, number: int) -> TrainingQuestion:
    query, passage, label = row_query(row), str(row.get("passage") or ""), row["label"]
    if label not in LABELS or not query.strip():
        raise BadInput(f"{path}, line {number}: needs question, and label {label!r} as one of {', '.join(LABELS)}")
    if label != "wrongly_refused" and not passage.strip():
        raise BadInput(f"{path}, line {number}: the label {label!r} needs passage, the text that it is about")
    passages = (CorpusPassage("", str(row.get("title") or ""), passage),) if passage.strip() else ()
    if label == "wrong":
        return TrainingQuestion(query, negatives=passages)
    return TrainingQuestion(query, passages, answerable=True if passages else None)


def _joined(first: TrainingQuestion, second: TrainingQuestion) -> TrainingQuestion:
    """Both labels; a passage called both right and wrong is neither."""
    right = dict.fromkeys(first.positives + second.positives)
    wrong = dict.fromkeys(first.negatives + second.negatives)
    positives = tuple(passage for passage in right if passage not in wrong)
    negatives = tuple(passage for passage in wrong if passage not in right)
    return replace(first, positives=positives, negatives=negatives, answerable=True if positives else None)


def resolve(rows: Sequence[QuestionRow], index: Index, unresolved: Unresolved) -> list[TrainingQuestion]:
    """The questions with the chunks of a collection that answer them.

    Evidence is looked up on its page. A passage given by its text is the chunks that contain that text, or it stays as
    it is where none does. Questions whose evidence is in no chunk are left out and reported.
    """
    collection = _Collection(index)
    questions = []
    for row in rows:
        found = {chunk.id: chunk for evidence in row.evidence for chunk in collection.with_evidence(evidence)}
        if row.evidence and not found:
            where = ", ".join(f"{evidence.source} page {evidence.page}" for evidence in row.evidence)
            unresolved.reasons.append(f"{row.question.query!r}: no chunk of {where} holds the evidence")
            continue
        right = [as_passage(chunk) for chunk in found.values()]
        right += [chunk for passage in row.question.positives for chunk in collection.with_text(passage)]
        wrong = [chunk for passage in row.question.negatives for chunk in collection.with_text(passage)]
        questions.append(
            replace(
                row.question,
                positives=tuple(dict.fromkeys(right)),
                negatives=tuple(passage for passage in dict.fromkeys(wrong) if passage not in right),
            )
        )
    return questions


def as_passage(chunk: Chunk) -> CorpusPassage:
    """A chunk whose `whole` is what a reranker reads of it."""
    heading = chunk.passage[: len(chunk.passage) - len(chunk.text)].rstrip("\n")
    return CorpusPassage(chunk.id, heading, chunk.text)


class _Collection:
    """Chunks of a collection's documents by file name, read once."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._documents: dict[str, list[str]] = {}
        for stored in index.documents():
            if stored.state == "ready":
                self._documents.setdefault(Path(stored.document.source).stem, []).append(stored.document.id)
        self._chunks: dict[str, list[Chunk]] = {}
        self._folded: list[tuple[str, Chunk]] | None = None

    def with_evidence(self, evidence: Evidence) -> list[Chunk]:
        """Chunks of the page that hold the whole quote, else the one that holds most of it; maybe none."""
        on_page = [
            chunk
            for document_id in self._documents.get(evidence.source, ())
            for chunk in self._of_document(document_id)
            if any(span.page == evidence.page for span in chunk.spans)
        ]
        quote = words(evidence.quote)
        if not quote:
            return on_page
        whole = [chunk for chunk in on_page if contains(chunk.text, evidence.quote)]
        if whole or not on_page:
            return whole
        shares = [len(set(quote) & set(words(chunk.text))) / len(set(quote)) for chunk in on_page]
        best = max(range(len(on_page)), key=lambda number: shares[number])
        return [on_page[best]] if shares[best] >= QUOTE_SHARE else []

    def with_text(self, passage: CorpusPassage) -> list[CorpusPassage]:
        """The chunks that contain the words of a passage, or the passage itself."""
        if self._folded is None:
            ids = [document_id for same_name in self._documents.values() for document_id in same_name]
            chunks = [chunk for document_id in ids for chunk in self._of_document(document_id)]
            self._folded = [(folded(chunk.passage), chunk) for chunk in chunks]
        wanted = folded(passage.text)
        return [as_passage(chunk) for text, chunk in self._folded if wanted in text] or [passage]

    def _of_document(self, document_id: str) -> list[Chunk]:
        if document_id not in self._chunks:
            self._chunks[document_id] = self._index.chunks(document_id)
        return self._chunks[document_id]
