"""PDFs made for the tests of reading: each function writes one kind of file and returns its bytes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pypdf
from pypdf.generic import DecodedStreamObject, NameObject, RectangleObject
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

LINE_PT = 14
FONT_PT = 11


def drawn(draw: Callable[[Canvas], object], *, title: str | None = None) -> bytes:
    """A PDF of what `draw` draws; it calls `showPage` itself where it wants more than one page."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4)
    if title is not None:
        canvas.setTitle(title)
    canvas.setFont("Helvetica", FONT_PT)
    draw(canvas)
    canvas.save()
    return buffer.getvalue()


def lines(canvas: Canvas, texts: list[str], *, left: float = 72, top: float = 770, font: str = "Helvetica") -> None:
    """One line of text below the other."""
    canvas.setFont(font, FONT_PT)
    for at, text in enumerate(texts):
        canvas.drawString(left, top - at * LINE_PT, text)


def text_pdf(*pages: list[str], title: str | None = None) -> bytes:
    """Lines of text, one list a page."""

    def draw(canvas: Canvas) -> None:
        for page in pages:
            lines(canvas, page)
            canvas.showPage()

    return drawn(draw, title=title)


def changed(data: bytes, change: Callable[[pypdf.PdfWriter], object]) -> bytes:
    """The same PDF after a change by pypdf."""
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    change(writer)
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def rotated(data: bytes, degrees: int) -> bytes:
    """Every page turned clockwise, so that what was upright is shown turned."""
    return changed(data, lambda writer: [page.rotate(degrees) for page in writer.pages])


def cropped(data: bytes, left: float, bottom: float, right: float, top: float) -> bytes:
    """Every page with this crop box."""

    def crop(writer: pypdf.PdfWriter) -> None:
        for page in writer.pages:
            page.cropbox = RectangleObject((left, bottom, right, top))

    return changed(data, crop)


def encrypted(data: bytes, user_password: str) -> bytes:
    """AES-256, with an owner password that nobody is told."""
    return changed(data, lambda writer: writer.encrypt(user_password, "owner", algorithm="AES-256"))


def garbled_pdf(texts: list[str]) -> bytes:
    """Looks like text, but the font's Unicode map sends every character to a control character."""

    def spoil(writer: pypdf.PdfWriter) -> None:
        mapping = DecodedStreamObject()
        pairs = "\n".join(f"<{code:02x}> <{code % 24 + 1:04x}>" for code in range(33, 127))
        mapping.set_data(
            (
                "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /Bogus def /CMapType 2 def\n"
                f"1 begincodespacerange <00> <ff> endcodespacerange\n94 beginbfchar\n{pairs}\nendbfchar\n"
                "endcmap CMapName currentdict /CMap defineresource pop end end"
            ).encode()
        )
        reference = writer._add_object(mapping)
        for page in writer.pages:
            for font in page["/Resources"]["/Font"].values():  # type: ignore[index,union-attr]  # untyped PDF objects
                font.get_object()[NameObject("/ToUnicode")] = reference

    return changed(text_pdf(texts), spoil)


def image_pdf() -> bytes:
    """A page that is a picture only."""
    from PIL import Image

    picture = ImageReader(Image.new("RGB", (40, 40), (200, 30, 30)))
    return drawn(lambda canvas: canvas.drawImage(picture, 72, 500, 200, 200))


def form_pdf() -> bytes:
    """A form with a field that is filled in."""

    def draw(canvas: Canvas) -> None:
        lines(canvas, ["Name of the insured:"])
        canvas.acroForm.textfield(name="insured", value="Ada Lovelace", x=200, y=764, width=200, height=18)

    return drawn(draw)


def nested_page_tree(depth: int) -> bytes:
    """A page tree that is a chain `depth` nodes deep."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    for at in range(depth):
        parent = f"/Parent {at + 1} 0 R" if at else ""
        objects.append(f"<< /Type /Pages /Count 1 /Kids [{at + 3} 0 R] {parent} >>")
    objects.append(f"<< /Type /Page /Parent {depth + 1} 0 R /MediaBox [0 0 100 100] >>")
    return _assembled(objects)


def bomb(characters: int) -> bytes:
    """A small file whose one page draws very much text: a form that draws a form ten times, and so on."""
    levels = 0
    while 10**levels * 10 < characters:
        levels += 1
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 5 0 R /Resources << /XObject << /F 6 0 R >> "
        ">> >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        _stream("", "/F Do"),
    ]
    for level in range(levels):
        resources = f"/Resources << /XObject << /F {level + 7} 0 R >> >>"
        step = "q 1 0 0 1 1 7 cm /F Do Q\n"
        objects.append(_stream(f"/Type /XObject /Subtype /Form /BBox [0 0 9000 9000] {resources}", step * 10))
    resources = "/Resources << /Font << /T 4 0 R >> >>"
    text = "BT /T 9 Tf (abcd efghi) Tj ET"
    objects.append(_stream(f"/Type /XObject /Subtype /Form /BBox [0 0 9000 9000] {resources}", text))
    return _assembled(objects)


def _stream(entries: str, content: str) -> str:
    return f"<< {entries} /Length {len(content)} >>\nstream\n{content}\nendstream"


def _assembled(objects: list[str]) -> bytes:
    data = b"%PDF-1.7\n"
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    data += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>\n".encode()
    return data + f"startxref\n{data.rindex(b'xref' + bytes([10]) + b'0 ')}\n%%EOF".encode()
