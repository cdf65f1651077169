"""Labelled sets as they lie in folders: BEIR's layout, or PDFs with questions. Reading only; nothing is measured here.

    BEIR          corpus.jsonl, queries.jsonl, qrels.tsv (or qrels/test.tsv)
    PDF set       pdfs/, questions.jsonl: {"_id", "text", "answers", "evidence": [{"doc", "page_index0"}]}
    either        unanswerable*.jsonl: {"_id", "text", "source"?}, questions to be refused

Every JSONL file can be zipped (`.jsonl.gz`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rag.errors import BadInput
from rag.evaluation.passage_index import CorpusPassage, read_passages
from rag.json_lines import plain_or_zipped, read_rows

UNANSWERABLE = "unanswerable"
"""Beginning of the names of files of questions to be refused, and the name for such questions among labelled ones."""

LANGUAGE_CODES = frozenset(
    {"ar", "de", "el", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "tr", "vi", "zh"}
)
"""Folder names that say too little: the name of the folder above is put before them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose right passages or pages are known, or known not to be there."""

    id: str
    text: str
    gold: Mapping[str, int]
    """Relevance of the judged items above 0, by item: a passage id, or a page as `page_item` names it."""
    min_relevance: int = 1
    """From which grade on an item is relevant. nDCG takes the grades as they are."""
    answers: tuple[str, ...] = ()
    set_name: str = ""
    group: str = ""
    """For a question to be refused, the file (without extension) that says so; empty for an answerable one."""
    source: str = ""
    """For a question to be refused, the set that it was taken from, where the file says so."""

    @property
    def answerable(self) -> bool:
        """Whether the documents answer the question."""
        return not self.group

    @property
    def relevant(self) -> frozenset[str]:
        """The items that answer the question."""
        return frozenset(item for item, grade in self.gold.items() if grade >= self.min_relevance)


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Questions, and the passages or PDFs that they are asked of."""

    name: str
    questions: tuple[Question, ...]
    passages: Mapping[str, tuple[CorpusPassage, ...]]
    """The corpora by set name: one, or several in one index where sets were pooled. Empty for a PDF set."""
    pdfs: Path | None
    """Folder of the PDFs, or None."""
    content: str
    """Hash of what is indexed: another content is another collection."""
    left_out: int = 0
    """Queries that can't be measured: without a relevant passage, or answerable from another set of the pool."""
    missing_gold: int = 0
    """Relevant passages that the labels name and the corpus lacks: they count as not found."""


def read_set(folder: Path, *, min_relevance: int = 1) -> LabelledSet:
    """Read a folder of either layout. Raises BadInput naming what can't be used."""
    if plain_or_zipped(folder, "questions.jsonl"):
        return _read_pdf_set(folder)
    if plain_or_zipped(folder, "corpus.jsonl"):
        return _read_beir(folder, min_relevance)
    raise BadInput(
        f"{folder} holds no labelled set: it needs corpus.jsonl, queries.jsonl and qrels.tsv (BEIR's layout), "
        "or pdfs/ and questions.jsonl; either can be .jsonl.gz"
    )


def set_name(folder: Path) -> str:
    """The folder's name; a folder named by a language code is a part of the set above it.

    >>> set_name(Path("/sets/nq")), set_name(Path("/sets/xquad/en"))
    ('nq', 'xquad-en')
    """
    folder = folder.resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name in LANGUAGE_CODES else folder.name


def pooled(sets: Sequence[LabelledSet]) -> LabelledSet:
    """Several BEIR sets in one index, ids prefixed by the set's name.

    A question to be refused that comes from another set of the pool is left out: its answer is in the index now.
    """
    names = [one.name for one in sets]
    if len(set(names)) < len(names):
        raise BadInput(f"sets to pool need different folder names, not {', '.join(names)}")
    if any(one.pdfs for one in sets):
        raise BadInput("a set of PDFs can't be pooled: evaluate it by itself")
    questions: dict[tuple[str, str], Question] = {}
    left_out = sum(one.left_out for one in sets)
    for one in sets:
        for question in one.questions:
            if not question.answerable and question.source in names:
                left_out += 1
            elif question.answerable:
                gold = {f"{one.name}/{item}": grade for item, grade in question.gold.items()}
                identity = f"{one.name}/{question.id}"
                questions["", identity] = replace(question, id=identity, gold=gold)
            else:
                questions.setdefault((question.group, question.id), question)
    return LabelledSet(
        name="+".join(names),
        questions=tuple(questions.values()),
        passages={
            name: tuple(replace(passage, id=f"{one.name}/{passage.id}") for passage in passages)
            for one in sets
            for name, passages in one.passages.items()
        },
        pdfs=None,
        content=_digest(*(one.name + one.content for one in sets)),
        left_out=left_out,
        missing_gold=sum(one.missing_gold for one in sets),
    )


def sampled(labelled: LabelledSet, limit: int | None, *, seed: int) -> LabelledSet:
    """The set with at most `limit` questions of each kind of each set, chosen at random, in file order.

    A smaller limit chooses among what a larger one does, so that figures of both can be compared.
    """
    if limit is None:
        return labelled
    kinds: dict[tuple[str, str], list[int]] = {}
    for place, question in enumerate(labelled.questions):
        kinds.setdefault((question.set_name, question.group), []).append(place)
    chosen: list[int] = []
    for (name, group), places in kinds.items():
        random.Random(f"{seed}/{name}/{group}").shuffle(places)
        chosen += places[:limit]
    return replace(labelled, questions=tuple(labelled.questions[place] for place in sorted(chosen)))


def page_item(document: str, number: int) -> str:
    """How a page is named as a judged item: file name without folder and extension, and the 1-based page number.

    >>> page_item("pdfs/3M_2018_10K.pdf", 60)
    '3M_2018_10K page 60'
    """
    name = Path(document).name
    return f"{name[:-4] if name.lower().endswith('.pdf') else name} page {number}"


def _read_beir(folder: Path, min_relevance: int) -> LabelledSet:
    name = set_name(folder)
    corpus = plain_or_zipped(folder, "corpus.jsonl")
    queries = plain_or_zipped(folder, "queries.jsonl")
    if corpus is None or queries is None:
        raise BadInput(f"{folder} lacks queries.jsonl[.gz]: a BEIR set needs corpus.jsonl, queries.jsonl and qrels.tsv")
    passages = tuple(read_passages(corpus))
    ids = {passage.id for passage in passages}
    judged = _read_qrels(folder)
    questions, left_out, missing = [], 0, 0
    for number, row in read_rows(queries):
        identity, text, answers = _asked(row, queries, number)
        question = Question(identity, text, judged.get(identity, {}), min_relevance, answers, name)
        if question.relevant:
            questions.append(question)
            missing += len(question.relevant - ids)
        else:
            left_out += 1
    if not questions:
        raise BadInput(
            f"{folder}: no query has a passage of relevance {min_relevance} or more in qrels.tsv: "
            "check the ids, or take a lower --min-relevance"
        )
    if missing == sum(len(question.relevant) for question in questions):
        raise BadInput(f"{folder}: qrels.tsv names no passage of the corpus: check its second column")
    content = _digest(*(f"{passage.id}\0{passage.title}\0{passage.text}" for passage in passages))
    return LabelledSet(
        name, (*questions, *_to_be_refused(folder, name)), {name: passages}, None, content, left_out, missing
    )


def _read_qrels(folder: Path) -> dict[str, dict[str, int]]:
    """Grades above 0 by query and passage. Three columns, or TREC's four; a first line of names is skipped."""
    path = next((path for path in (folder / "qrels.tsv", folder / "qrels" / "test.tsv") if path.is_file()), None)
    if path is None:
        raise BadInput(f"{folder} lacks qrels.tsv: lines of query id, passage id and relevance, separated by tabs")
    judged: dict[str, dict[str, int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.split("\t") if "\t" in line else line.split()
        if not cells or (number == 1 and not cells[-1].strip().lstrip("-").isdigit()):
            continue
        try:
            query, passage, grade = (cells[0], cells[-2], int(cells[-1])) if len(cells) in (3, 4) else ("", "", -1)
        except ValueError:
            query = ""
        if not query:
            raise BadInput(f"{path}, line {number}: needs query id, passage id and a whole number, not {line[:80]!r}")
        if grade > 0:
            judged.setdefault(query, {})[passage] = grade
    return judged


def _read_pdf_set(folder: Path) -> LabelledSet:
    name = set_name(folder)
    path = plain_or_zipped(folder, "questions.jsonl")
    pdfs = folder / "pdfs"
    if path is None or not pdfs.is_dir():
        raise BadInput(f"{folder} has questions but no folder pdfs/: put the PDFs there")
    questions = []
    for number, row in read_rows(path):
        identity, text, answers = _asked(row, path, number)
        try:
            gold = {page_item(item["doc"], int(item["page_index0"]) + 1): 1 for item in row.get("evidence") or ()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{path}, line {number}: each evidence needs doc and page_index0, a whole number ({error!r})"
            ) from None
        group = "" if gold else UNANSWERABLE
        questions.append(Question(identity, text, gold, answers=answers, set_name=name, group=group))
    files = sorted(pdfs.rglob("*.pdf"))
    content = _digest(*(f"{file.relative_to(pdfs)} {file.stat().st_size}" for file in files))
    return LabelledSet(name, (*questions, *_to_be_refused(folder, name)), {}, pdfs, content)


def _to_be_refused(folder: Path, name: str) -> list[Question]:
    questions = []
    for path in sorted(folder.glob(f"{UNANSWERABLE}*.jsonl*")):
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            continue
        group = path.name.removesuffix(".gz").removesuffix(".jsonl")
        for number, row in read_rows(path):
            identity, text, _ = _asked(row, path, number)
            source = str(row.get("source") or "").replace("/", "-")
            questions.append(Question(identity, text, {}, set_name=name, group=group, source=source))
    return questions


def _asked(row: Mapping[str, Any], path: Path, number: int) -> tuple[str, str, tuple[str, ...]]:
    """Id, text and answers of a question's row."""
    try:
        identity, text = str(row["_id"]), str(row["text"])
        answers = tuple(str(answer) for answer in row.get("answers") or ())
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path}, line {number}: a question needs _id and text ({error!r})") from None
    if not text.strip():
        raise BadInput(f"{path}, line {number}: the text of question {identity!r} is empty")
    return identity, text, answers


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
