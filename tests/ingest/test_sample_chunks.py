"""The samples are cut exactly as before: what makes reading or cutting faster must change no chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from ingest.chunk import chunk_document
from ingest.read_pdf import read_pdf
from ingest.samples import SAMPLES_DIR

DIGESTS = {
    "appliance-dishwasher": "023d7cf4e8ddb3a5",
    "insurance-claims-handbook": "9853af60a29b73af",
    "insurance-critical-illness": "06ea9ad36efcf96d",
    "insurance-dental-care": "8cd0be49a8da52ff",
    "insurance-hospital-cash": "f4dfb6b002e871d6",
    "insurance-household-contents": "e4ffba0218b224aa",
    "insurance-income-protection": "780203fa7125d134",
    "insurance-private-medical": "9867d0eac1dba7dc",
    "insurance-travel": "35eaa53f7eeda978",
    "medicine-acetaminophen-children": "be5b03d368807391",
    "medicine-allergy-tablets": "7c3635a2abf72f1c",
    "medicine-ibuprofen-adults": "bfa7c63535062e6b",
    "medicine-ibuprofen-children": "ed56a9d4d4f0b2d1",
    "medicine-ibuprofen-mechanism": "c0d16fa3f1cb1e0c",
    "shop-gift-cards-and-loyalty": "fb5d69b859c79eb2",
    "shop-privacy": "364b9532da55f97f",
    "shop-returns-and-refunds": "813099e7945f4d28",
    "shop-shipping": "10aef718de83cde3",
    "shop-warranty-and-repairs": "02e4230d48e9fa46",
}
"""First digits of the SHA-256 of each sample's chunks. Who changes on purpose what a chunk holds takes them anew."""


def count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer that no model's update can change."""
    return [len(text.split()) for text in texts]


def test_every_sample_has_its_digest() -> None:
    assert sorted(DIGESTS) == sorted(path.stem for path in SAMPLES_DIR.glob("*.pdf"))


@pytest.mark.parametrize("name", DIGESTS)
def test_a_samples_chunks_are_the_same_to_the_letter(name: str) -> None:
    read = read_pdf(SAMPLES_DIR / f"{name}.pdf")
    chunks = chunk_document(
        read.document,
        read.pages,
        read.headings,
        count_tokens=count_words,
        count_passage_tokens=count_words,
        max_tokens=120,
        overlap_tokens=24,
    )
    told = repr((read.headings, read.warnings, [(chunk.id, chunk.passage, chunk.spans) for chunk in chunks]))
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == DIGESTS[name]
