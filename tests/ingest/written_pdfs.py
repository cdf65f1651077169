"""Real PDFs for the tests, the same bytes at each run."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

WORDS = re.findall(
    r"\w+",
    """
    amber anchor basket beacon branch bridge candle canyon carpet castle cedar chapel circle copper cotton desert engine
    fabric falcon garden ginger glacier granite hammer harbor hollow island jacket kettle ladder lantern lemon marble
    meadow mirror morning mountain needle orchard oyster parcel pepper pillow planet pocket quarry ribbon river saddle
    shadow silver spruce station summer temple thunder timber tunnel valley velvet village walnut whistle window winter
    """,
)


def write_pdf(path: Path, pages: Sequence[str], *, password: str | None = None) -> Path:
    """A text PDF with one string a page, a paragraph a line; an empty string gives a page without text."""
    encryption = StandardEncryption(password) if password else None
    canvas = Canvas(str(path), pagesize=A4, invariant=True, encrypt=encryption)
    for page in pages:
        text = canvas.beginText(72, A4[1] - 72)
        text.setFont("Helvetica", 10)
        for paragraph in page.split("\n"):
            words = paragraph.split()
            for start in range(0, len(words), 12):
                text.textLine(" ".join(words[start : start + 12]))
            text.textLine("")
        canvas.drawText(text)
        if not page:
            canvas.rect(100, 100, 200, 200)
        canvas.showPage()
    canvas.save()
    return path


def sentences(seed: int, count: int) -> str:
    """That many different sentences of nine words."""
    chance = random.Random(seed)
    return " ".join(" ".join(chance.choices(WORDS, k=9)).capitalize() + "." for _ in range(count))


def long_pdf(path: Path, *, seed: int, pages: int, sentences_a_page: int = 20) -> Path:
    """A PDF of unmistakable pages: every sentence is its own."""
    return write_pdf(path, [sentences(seed * 1000 + page, sentences_a_page) for page in range(pages)])
