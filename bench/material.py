"""What is measured with: the sample PDFs and their questions, or a set in BEIR's layout. It measures nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingest.chunk import chunk_document
from ingest.read_pdf import read_pdf
from rag.errors import BadInput
from rag.evaluation.sets import LabelledSet, read_set
from rag.ports import Embedder
from rag.types import Chunk, Passage

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "data"

OVERLAP_TOKENS = 32
LEAST_TOKENS, MOST_TOKENS = 65, 305
"""Lengths of the passages that rerankers are timed with: from a short section to a long chunk."""


@dataclass(frozen=True, slots=True)
class RerankCase:
    """One question and the passages to be ordered for it."""

    question: str
    passages: tuple[Passage, ...]

    @property
    def texts(self) -> list[str]:
        """The passages as peers take them."""
        return [passage.text for passage in self.passages]


def labelled_set(folder: Path) -> LabelledSet:
    """The questions, with PDFs or passages. Raises BadInput."""
    return read_set(folder)


def pdfs_of(folder: Path) -> list[Path]:
    """The PDFs of a set, in order. Raises BadInput where it has none."""
    files = sorted((folder / "pdfs").rglob("*.pdf"))
    if not files:
        raise BadInput(f"{folder} has no PDFs in pdfs/: name a folder such as data")
    return files


def copies_of(files: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """So many files made of these in turn: the same work, another content and name each, so that all are ingested.

    Each has a comment after its end, which readers of PDFs pass over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for number in range(count):
        original = files[number % len(files)]
        copy = folder / f"{number + 1:03}-{original.name}"
        copy.write_bytes(original.read_bytes() + f"\n% copy {number + 1}\n".encode())
        copies.append(copy)
    return copies


def questions_of(folder: Path, count: int, *, seed: int = 37) -> list[str]:
    """So many different questions of a set, the same ones every time; all of them where it has fewer."""
    texts = sorted({question.text for question in labelled_set(folder).questions})
    random.Random(seed).shuffle(texts)
    return texts[:count]


def chunks_of(files: Sequence[Path], embedder: Embedder, *, max_tokens: int | None = None) -> list[Chunk]:
    """The files' chunks as ingestion cuts them."""
    chunks: list[Chunk] = []
    for file in files:
        read = read_pdf(file)
        chunks += chunk_document(
            read.document,
            read.pages,
            read.headings,
            count_tokens=embedder.count_tokens,
            count_passage_tokens=embedder.count_passage_tokens,
            max_tokens=max_tokens or embedder.max_tokens,
            overlap_tokens=OVERLAP_TOKENS,
        )
    return chunks


def texts_of(folder: Path, embedder: Embedder) -> list[str]:
    """All passages of a set, as models see them: chunks of its PDFs, or a corpus's rows."""
    labelled = labelled_set(folder)
    if labelled.pdfs is not None:
        return [chunk.passage for chunk in chunks_of(pdfs_of(folder), embedder)]
    return [passage.whole for passages in labelled.passages.values() for passage in passages]


def long_passages(
    texts: Sequence[str],
    count_tokens: Callable[[Sequence[str]], list[int]],
    *,
    count: int,
    seed: int = 37,
) -> list[Passage]:
    """Passages of `LEAST_TOKENS` to `MOST_TOKENS` tokens, their lengths spread evenly over that range.

    A text that is too short is read on into those that follow it; none is cut. The same input gives the same passages.

    Args:
        texts: In reading order.
        count_tokens: Length of each text.
        count: How many passages.
        seed: Chooses where they start.

    Raises:
        BadInput: The texts don't suffice.
    """
    lengths = count_tokens(texts)
    chosen = random.Random(seed)
    starts = list(range(len(texts)))
    chosen.shuffle(starts)
    wanted = np.linspace(LEAST_TOKENS, MOST_TOKENS, count + 1).astype(int).tolist()
    passages: list[Passage] = []
    for start in starts:
        if len(passages) == count:
            break
        least, most = wanted[len(passages)], MOST_TOKENS
        end, total = start, 0
        while end < len(texts) and total < least and total + lengths[end] <= most:
            total += lengths[end]
            end += 1
        if total >= least:
            passages.append(Passage(f"passage-{len(passages)}", "\n".join(texts[start:end])))
    if len(passages) < count:
        raise BadInput(
            f"only {len(passages)} passages of {LEAST_TOKENS} to {MOST_TOKENS} tokens could be made, {count} are "
            "needed: name a larger set, or fewer passages"
        )
    return passages


def recalled_cases(
    texts: Sequence[str], questions: Sequence[str], embedder: Embedder, *, count: int
) -> list[RerankCase]:
    """For each question the `count` passages nearest by cosine, exactly: what a reranker meets in earnest."""
    vectors = embedder.embed_passages([_readable(text, embedder) for text in texts])
    cases = []
    for question in questions:
        nearest = np.argsort(-(vectors @ embedder.embed_query(question)), kind="stable")[:count]
        cases.append(RerankCase(question, tuple(Passage(f"text-{number}", texts[number]) for number in nearest)))
    return cases


def _readable(text: str, embedder: Embedder) -> str:
    from rag.evaluation.passage_index import beginning

    return beginning(text, embedder)
