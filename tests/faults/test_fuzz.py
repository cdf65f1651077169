"""Mutated real PDFs through the reader's process: each ends as a document or a refusal, in time, and nothing else does.

RANK37_TEST_MUTANTS sets how many there are, RANK37_TEST_MUTANT_SEED which.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest

from ingest.chunk import chunk_document
from ingest.reader_process import ReadLimits, read_document
from rag.errors import FileRefused, RefusedReason
from tests.ingest.test_chunk import count_passage_tokens, count_tokens

PDFS = sorted((Path(__file__).parents[2] / "data" / "pdfs").glob("*.pdf"))
MUTANTS = int(os.environ.get("RANK37_TEST_MUTANTS", "60"))
SEED = int(os.environ.get("RANK37_TEST_MUTANT_SEED", "37"))
LIMITS = ReadLimits(max_file_bytes=10_000_000, max_pages=200, time_limit_s=60.0, memory_limit_bytes=2**31)
NUMBERS = (b"0", b"-1", b"4294967296", b"99999999999999999999", b"0.0000001", b"1e400")


def flipped(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 40)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def truncated(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(8, len(data))])


def without_a_piece(data: bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(8, len(data))
    del data[start : start + chance.randint(1, 4000)]
    return bytes(data)


def repeated(data: bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    piece = data[start : start + chance.randint(1, 4000)]
    return bytes(data[:start] + piece * chance.randint(2, 30) + data[start:])


def with_other_numbers(data: bytearray, chance: random.Random) -> bytes:
    """Lengths, counts, references, positions in the cross-reference table."""
    numbers = list(re.finditer(rb"(?<![\w.])\d{1,10}(?![\w.])", data))
    for found in sorted(chance.sample(numbers, min(len(numbers), 8)), key=lambda one: -one.start()):
        data[found.start() : found.end()] = chance.choice(NUMBERS)
    return bytes(data)


def with_broken_streams(data: bytearray, chance: random.Random) -> bytes:
    for found in re.finditer(rb"stream\r?\n", bytes(data)):
        if chance.random() < 0.5 and found.end() + 50 < len(data):
            at = found.end() + chance.randrange(50)
            data[at : at + 4] = chance.randbytes(4)
    return bytes(data)


def spliced(data: bytearray, chance: random.Random) -> bytes:
    other = chance.choice(PDFS).read_bytes()
    return bytes(data[: chance.randrange(8, len(data))]) + other[chance.randrange(len(other)) :]


MUTATIONS = (flipped, truncated, without_a_piece, repeated, with_other_numbers, with_broken_streams, spliced)


def what_became_of(path: Path) -> str:
    """Read and cut a file as ingestion does; raises only what ingestion would."""
    try:
        read = read_document(path, source=path.name, limits=LIMITS)
    except FileRefused as refusal:
        return refusal.reason if path.name in str(refusal) else f"refused without its name: {refusal}"
    assert [page.number for page in read.pages] == list(range(1, read.document.page_count + 1))
    chunks = chunk_document(
        read.document,
        read.pages,
        read.headings,
        count_tokens=count_tokens,
        count_passage_tokens=count_passage_tokens,
        max_tokens=200,
        overlap_tokens=20,
    )
    for chunk in chunks:
        pages = [read.pages[span.page - 1].text[span.start : span.end] for span in chunk.spans]
        assert chunk.text == "\n".join(pages)
        chunk.text.encode()  # it can be stored
    return "read" if chunks else "no text"


@pytest.mark.timeout(900)
def test_mutated_pdfs_end_as_documents_or_refusals(tmp_path: Path) -> None:
    assert PDFS
    mutants = []
    for number in range(MUTANTS):
        chance = random.Random(f"{SEED} {number}")
        source = chance.choice(PDFS)
        mutation = MUTATIONS[number % len(MUTATIONS)]
        path = tmp_path / f"{number}-{mutation.__name__}-{source.name}"
        path.write_bytes(mutation(bytearray(source.read_bytes()), chance))
        mutants.append(path)
    with ThreadPoolExecutor(2) as pool:
        ended = Counter(pool.map(what_became_of, mutants))
    print(dict(ended))
    assert set(ended) <= {"read", "no text", *get_args(RefusedReason)}
    assert sum(ended.values()) == MUTANTS
    assert ended["read"] > 0, "a parser that mends files is worth having"
    assert sum(count for reason, count in ended.items() if reason != "read") > 0
