"""One page of a PDF as a picture with its words, drawn in a process of its own that a hostile file can't outlast.

`python -m ingest.page_image` is the child: it writes one line of JSON and then the picture. This module paints no
highlight: where words stand is `ingest.locate`'s job, the screen draws them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pypdfium2
import pypdfium2.raw as pdfium

from ingest.read_pdf import PDFIUM_LOCK, open_pdf
from ingest.reader_process import EXIT_MEMORY, explain_death, limit_self, start_module
from rag.errors import BadInput, FileRefused
from rag.types import Box, Page, Word

SCALE = 2.0
"""Pixels a point: 144 dots an inch, sharp on a screen at the page's own size and legible at twice that."""
IMAGE_PIXELS = 4_000_000
"""Most pixels of a picture; a larger page is drawn at a smaller scale."""
PNG_BYTES = 2 * 2**20
"""A picture that is larger as PNG (a scan, a photograph) is sent as JPEG."""
JPEG_QUALITY = 85
OUTPUT_LIMIT_BYTES = 64 * 2**20
"""Most that a child may write about one page."""

ImageType = Literal["image/png", "image/jpeg"]


@dataclass(frozen=True, slots=True)
class DrawLimits:
    """What drawing one page may cost before it is given up."""

    time_limit_s: float = 20.0
    """Wall clock, from the start of the child."""
    memory_limit_bytes: int = 2048 * 2**20
    """Address space of the child, where the platform can limit it (Linux; macOS and Windows can't)."""


@dataclass(frozen=True, slots=True)
class PageImage:
    """A page as it is displayed, and what stands on it."""

    page: Page
    """With word boxes, in points of the page as displayed; without text where none can be read."""
    page_count: int
    image: bytes
    image_type: ImageType
    width_px: int
    height_px: int


def draw_page(path: Path, number: int, *, source: str, limits: DrawLimits | None = None) -> PageImage:
    """Draw a page in a separate process.

    Args:
        path: The PDF.
        number: 1-based page number.
        source: Name of the file as the person gave it, for what is said of it.
        limits: What it may cost; None: the defaults.

    Raises:
        FileRefused: It can't be drawn, with the reason.
        BadInput: There is no such page.
    """
    limits = limits or DrawLimits()
    if number < 1:
        raise BadInput(f"there is no page {number}: pages are counted from 1")
    if not path.is_file():
        raise FileRefused("unreadable", f"the kept copy of {source} is gone: add the file again")
    child = start_module(
        "ingest.page_image",
        *(f"--source={source}", "--page", str(number), "--memory-limit-bytes", str(limits.memory_limit_bytes)),
        *("--time-limit-s", str(limits.time_limit_s), "--", str(path.resolve())),
    )
    late = threading.Event()

    def give_up() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(limits.time_limit_s, give_up)
    timer.start()
    try:
        assert child.stdout is not None
        output = child.stdout.read(OUTPUT_LIMIT_BYTES + 1)
    finally:
        timer.cancel()
        if child.poll() is None:
            # What has been read whole is followed by the child's end; one that writes on is ended.
            with suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
            child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    if late.is_set():
        raise FileRefused("time_limit", f"{source}: page {number} was not drawn within {limits.time_limit_s:g} s")
    if len(output) > OUTPUT_LIMIT_BYTES:
        raise FileRefused(
            "too_large", f"{source}: page {number} takes more than {OUTPUT_LIMIT_BYTES // 2**20} MiB when drawn"
        )
    drawn = _read(output, number)
    if drawn is None:
        raise explain_death(child.returncode, source, f"on page {number}", 0, limits.memory_limit_bytes)
    return drawn


def _read(output: bytes, number: int) -> PageImage | None:
    """What the child said; None where it broke off. Raises FileRefused or BadInput where that is what it said."""
    head, _, image = output.partition(b"\n")
    try:
        said = json.loads(head)
    except ValueError:
        return None
    if said["kind"] == "refused":
        raise FileRefused(said["reason"], said["message"])
    if said["kind"] == "no_page":
        raise BadInput(f"there is no page {number}: the document has {said['page_count']}")
    if len(image) != said["image_bytes"]:
        return None
    words = tuple(Word(start, end, Box(*box)) for start, end, *box in said["words"])
    page = Page(said["document_id"], number, said["text"], words, said["width"], said["height"])
    kind: ImageType = "image/jpeg" if said["image_type"] == "image/jpeg" else "image/png"
    return PageImage(page, said["page_count"], image, kind, said["width_px"], said["height_px"])


# The child


def main() -> None:
    """Draw one page of a file to standard output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--page", type=int, required=True)
    parser.add_argument("--memory-limit-bytes", type=int, required=True)
    parser.add_argument("--time-limit-s", type=float, required=True)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    limit_self(options.memory_limit_bytes, options.time_limit_s)
    output = sys.stdout.buffer

    def tell(kind: str, image: bytes = b"", **fields: object) -> None:
        # ensure_ascii also carries a lone surrogate, which UTF-8 could not
        output.write(json.dumps({"kind": kind, "image_bytes": len(image), **fields}).encode() + b"\n" + image)
        output.flush()

    try:
        with open_pdf(options.path, source=options.source) as pdf:
            page_count = pdf.document.page_count
            if options.page > page_count:
                tell("no_page", page_count=page_count)
            else:
                page = pdf.page(options.page, words=True)
                image, image_type, width_px, height_px = _drawn(options.path, options.page, options.source)
                words = [
                    [word.start, word.end, word.box.left, word.box.top, word.box.right, word.box.bottom]
                    for word in page.words
                ]
                tell(
                    "page",
                    image,
                    document_id=page.document_id,
                    page_count=page_count,
                    text=page.text,
                    words=words,
                    width=page.width,
                    height=page.height,
                    image_type=image_type,
                    width_px=width_px,
                    height_px=height_px,
                )
    except FileRefused as refusal:
        tell("refused", reason=refusal.reason, message=str(refusal))
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except Exception as error:  # the parsers raise errors of every kind on broken files
        message = f"{options.source}: page {options.page} can't be drawn ({type(error).__name__})"
        tell("refused", reason="unreadable", message=message)
    output.flush()
    os._exit(0)  # pdfium's own clean-up can crash on a file that was read well


def _drawn(path: Path, number: int, source: str) -> tuple[bytes, ImageType, int, int]:
    """The picture with what was typed into form fields, its type, width and height in pixels."""
    with PDFIUM_LOCK:
        try:
            document = pypdfium2.PdfDocument(path)
            page = document[number - 1]
            if pdfium.FPDFPage_GetAnnotCount(page) > 0:
                pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY)  # as for reading, so that the boxes fit
                page = document[number - 1]
            width, height = page.get_size()
            if not (width > 0 and height > 0):
                raise FileRefused("damaged", f"{source}: page {number} has no size, so that it can't be drawn")
            scale = min(SCALE, (IMAGE_PIXELS / (width * height)) ** 0.5)
            picture = page.render(scale=scale).to_pil().convert("RGB")
        except pypdfium2.PdfiumError:
            raise FileRefused("damaged", f"{source}: page {number} is damaged and can't be drawn") from None
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    if buffer.tell() <= PNG_BYTES:
        return buffer.getvalue(), "image/png", picture.width, picture.height
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), "image/jpeg", picture.width, picture.height


if __name__ == "__main__":
    main()
