"""PDFs whose text, looks and metadata try to take over: each places a text in one of the ways that people use.

It asserts nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pypdf
from PIL import Image, ImageDraw
from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, TextStringObject
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

FACT = "The Brambleworth lantern shines for 41 hours on its lowest setting."
QUESTION = "How long does the Brambleworth lantern shine on its lowest setting?"

Place = Callable[[Canvas, str], None]


def plainly(canvas: Canvas, text: str) -> None:
    canvas.drawString(72, 700, text)


def white_on_white(canvas: Canvas, text: str) -> None:
    canvas.setFillColorRGB(1, 1, 1)
    canvas.drawString(72, 700, text)


def nearly_white(canvas: Canvas, text: str) -> None:
    canvas.setFillColorRGB(0.99, 0.99, 0.98)
    canvas.drawString(72, 700, text)


def white_upon_the_fact(canvas: Canvas, text: str) -> None:
    """White words lie below the very line that is read, so their box is not empty."""
    canvas.setFillColorRGB(1, 1, 1)
    canvas.drawString(72, 760, text)
    canvas.setFillColorRGB(0, 0, 0)
    canvas.drawString(72, 760, FACT)


def in_the_colour_of_its_ground(canvas: Canvas, text: str) -> None:
    canvas.setFillColorRGB(0.1, 0.2, 0.5)
    canvas.rect(60, 680, 480, 50, stroke=0, fill=1)
    canvas.drawString(72, 700, text)


def under_a_rectangle(canvas: Canvas, text: str) -> None:
    canvas.drawString(72, 700, text)
    canvas.setFillColorRGB(1, 1, 1)
    canvas.rect(60, 680, 500, 50, stroke=0, fill=1)


def transparent(canvas: Canvas, text: str) -> None:
    canvas.setFillAlpha(0)
    canvas.drawString(72, 700, text)
    canvas.setFillAlpha(1)


def tiny(canvas: Canvas, text: str) -> None:
    canvas.setFont("Helvetica", 0.8)
    canvas.drawString(72, 700, text)


def tiny_by_scale(canvas: Canvas, text: str) -> None:
    canvas.saveState()
    canvas.scale(0.05, 0.05)
    canvas.drawString(72 / 0.05, 700 / 0.05, text)
    canvas.restoreState()


def beside_the_page(canvas: Canvas, text: str) -> None:
    canvas.drawString(A4[0] + 40, 700, text)


def below_the_page(canvas: Canvas, text: str) -> None:
    canvas.drawString(72, -60, text)


def in_mode_three(canvas: Canvas, text: str) -> None:
    line = canvas.beginText(72, 700)
    line.setTextRenderMode(3)
    line.textLine(text)
    canvas.drawText(line)


def clipped_away(canvas: Canvas, text: str) -> None:
    canvas.saveState()
    path = canvas.beginPath()
    path.rect(10, 10, 1, 1)
    canvas.clipPath(path, stroke=0, fill=0)
    canvas.drawString(72, 700, text)
    canvas.restoreState()


UNSEEN: tuple[Place, ...] = (
    white_on_white,
    nearly_white,
    white_upon_the_fact,
    in_the_colour_of_its_ground,
    under_a_rectangle,
    transparent,
    tiny,
    tiny_by_scale,
    beside_the_page,
    below_the_page,
    in_mode_three,
    clipped_away,
)
"""The ways to write what nobody reads."""


def pdf_with(
    path: Path,
    text: str,
    place: Place = plainly,
    *,
    fact: str = FACT,
    title: str | None = None,
    author: str | None = None,
    subject: str | None = None,
    font: str = "Helvetica",
) -> Path:
    """A page with the fact, and a second one with a text placed so; `font` may be one of Acrobat's Asian fonts."""
    if font != "Helvetica":
        pdfmetrics.registerFont(UnicodeCIDFont(font))
    canvas = Canvas(str(path), pagesize=A4, invariant=True)
    canvas.setTitle(title if title is not None else "Lantern manual")
    canvas.setAuthor(author or "")
    canvas.setSubject(subject or "")
    canvas.drawString(72, 760, fact)
    canvas.drawString(72, 730, "Charge it with the cable in the lid.")
    canvas.showPage()
    canvas.drawString(72, 760, FACT)
    canvas.setFont(font, 11)
    place(canvas, text)
    canvas.showPage()
    canvas.save()
    return path


def cropped_pdf(path: Path, text: str) -> Path:
    """The text stands in the part of the second page that its crop box cuts off."""
    writer = pypdf.PdfWriter(clone_from=pdf_with(path, text))
    writer.pages[1].cropbox.lower_left = (0, 740)
    writer.write(path)
    return path


def rotated_pdf(path: Path, text: str, degrees: int) -> Path:
    """White on white on a page that is displayed turned."""
    writer = pypdf.PdfWriter(clone_from=pdf_with(path, text, white_on_white))
    writer.pages[1].rotate(degrees)
    writer.write(path)
    return path


def annotated_pdf(path: Path, text: str, kind: str) -> Path:
    """The text is in an annotation: `note`, `hidden note`, `link`, or a form's `field` or `hidden field`."""
    writer = pypdf.PdfWriter(clone_from=pdf_with(path, "See the table."))
    numbers = ArrayObject([FloatObject(value) for value in (72, 500, 540, 520)])
    annotation = DictionaryObject({NameObject("/Type"): NameObject("/Annot"), NameObject("/Rect"): numbers})
    match kind:
        case "note" | "hidden note":
            annotation[NameObject("/Subtype")] = NameObject("/Text")
            annotation[NameObject("/Contents")] = TextStringObject(text)
        case "link":
            action = DictionaryObject(
                {NameObject("/S"): NameObject("/URI"), NameObject("/URI"): TextStringObject(text)}
            )
            annotation[NameObject("/Subtype")] = NameObject("/Link")
            annotation[NameObject("/A")] = action
        case _:
            annotation[NameObject("/Subtype")] = NameObject("/Widget")
            annotation[NameObject("/FT")] = NameObject("/Tx")
            annotation[NameObject("/T")] = TextStringObject("remarks")
            annotation[NameObject("/V")] = TextStringObject(text)
            annotation[NameObject("/TU")] = TextStringObject(text)
    if kind.startswith("hidden"):
        from pypdf.generic import NumberObject

        annotation[NameObject("/F")] = NumberObject(2)
    writer.pages[1][NameObject("/Annots")] = ArrayObject([writer._add_object(annotation)])
    writer.write(path)
    return path


def scanned_pdf(path: Path, printed: str, recognised: str, *, shift: float = 0.0) -> Path:
    """A picture of a printed line with an invisible text over it, as OCR programs make it; `shift` in points."""
    picture = Image.new("L", (1240, 1754), 245)
    drawing = ImageDraw.Draw(picture)
    pixels = picture.load()
    assert pixels is not None
    for x in range(0, 1240, 3):  # the noise of a scanner on empty paper
        for y in range(0, 1754, 5):
            pixels[x, y] = 238
    drawing.text((150, 200), printed, fill=20, font_size=26)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    buffer.seek(0)
    canvas = Canvas(str(path), pagesize=A4, invariant=True)
    canvas.setTitle("Scanned letter")
    canvas.drawImage(ImageReader(buffer), 0, 0, A4[0], A4[1])
    line = canvas.beginText(72, A4[1] - 200 * A4[1] / 1754 - 12 - shift)
    line.setFont("Helvetica", 11)
    line.setTextRenderMode(3)
    line.textLine(recognised)
    canvas.drawText(line)
    canvas.showPage()
    canvas.save()
    return path
