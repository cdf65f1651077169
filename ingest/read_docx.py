"""A Word document (.docx) to a document: mammoth reads its paragraphs, lists, tables, notes and headings by style.

Headers, footers, comments, deleted text, pictures and the numbers that Word computes for headings are left out.
Sections are those of `ingest.sections`: where Word would break pages stands in no file for certain.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mammoth

from ingest.read_document import ReadDocument
from ingest.read_html import html_blocks
from ingest.sections import as_document
from rag.errors import FileRefused

XML_BYTES = 64 * 2**20
"""Most bytes that the XML of a document may unpack to. A page of text takes about 10,000."""
MOST_PARTS = 5_000
"""Most files in the archive: a picture is one."""

_CORE_BYTES = 2**20
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name^='Heading 1'] => h1:fresh
p[style-name^='Heading 2'] => h2:fresh
p[style-name^='Heading 3'] => h3:fresh
"""


def read_docx(path: Path, *, source: str, max_pages: int | None = None) -> ReadDocument:
    """Read a Word document in this process. Raises FileRefused."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_parts(archive, source)
            title = _title(archive)
        with path.open("rb") as file:
            html = mammoth.convert_to_html(
                file, style_map=_STYLES, convert_image=mammoth.images.img_element(_no_picture)
            ).value
    except (FileRefused, MemoryError):
        raise
    except RecursionError:
        raise FileRefused(
            "damaged", f"{source} nests its parts too deeply to be read: save it anew with a word processor"
        ) from None
    except Exception as error:  # a broken part makes zipfile, expat and mammoth raise errors of every kind
        raise FileRefused(
            "damaged",
            f"{source} is damaged ({type(error).__name__}): open it in a word processor and save it anew, or as PDF",
        ) from error
    return as_document(path, source, "docx", html_blocks(html), titles=[title], max_pages=max_pages)


def _check_parts(archive: zipfile.ZipFile, source: str) -> None:
    """Refuse bombs before anything is unpacked. What zipfile unpacks of a part is never more than the archive says."""
    parts = archive.infolist()
    if len(parts) > MOST_PARTS:
        raise FileRefused(
            "too_large", f"{source} holds {len(parts):,} files, the limit is {MOST_PARTS:,}: save it without pictures"
        )
    markup = [part for part in parts if part.filename.lower().endswith((".xml", ".rels"))]
    unpacked = sum(part.file_size for part in markup)
    if unpacked > XML_BYTES:
        raise FileRefused(
            "too_large",
            f"{source} unpacks to {unpacked / 2**20:,.0f} MiB of text, the limit is {XML_BYTES // 2**20} MiB: split it",
        )
    for part in markup:
        with archive.open(part) as file:
            _refuse_entities(file.read(), source)


def _refuse_entities(xml: bytes, source: str) -> None:
    """No word processor declares entities; they are how a small file swells or reaches for other files."""
    for encoding in ("ascii", "utf-16-le", "utf-16-be"):
        if any(mark.encode(encoding) in xml for mark in ("<!DOCTYPE", "<!ENTITY")):
            raise FileRefused(
                "damaged",
                f"{source} declares XML entities, as no word processor does, and is not read: open it in a word "
                "processor and save it anew",
            )


def _title(archive: zipfile.ZipFile) -> str | None:
    """What the document's properties say."""
    try:
        with archive.open("docProps/core.xml") as part:
            return ElementTree.fromstring(part.read(_CORE_BYTES)).findtext(_TITLE)
    except (KeyError, ElementTree.ParseError):
        return None


def _no_picture(_image: Any) -> dict[str, str]:
    return {"src": ""}
