"""Which kind of file it is: decided by what it holds, not by what it is called.

A name counts twice only: a file that is called a PDF or a Word document must be one, since a person who adds
`contract.pdf` wants that contract and not the login page that was saved under its name; and between Markdown and plain
text, which are both just text, `.md` decides. It reads no text: that is `ingest.read_<kind>`.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from ingest.files import SUFFIXES
from ingest.read_text import decode
from rag.errors import FileRefused
from rag.types import DocumentKind

KIND_NAMES: dict[DocumentKind, str] = {
    "pdf": "PDF",
    "docx": "Word document",
    "html": "web page",
    "markdown": "Markdown",
    "text": "plain text",
}
TAKEN = "PDF, Word (.docx), web page, Markdown and plain text are taken"

PDF_HEADER_BYTES = 1024
"""The header `%PDF` may stand this deep in a file, as Acrobat and both readers accept it."""

_HEAD_BYTES = 64 * 2**10
_CONTENT_TYPES_BYTES = 2**20
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MAGIC: dict[bytes, str] = {
    b"{\\rtf": "a rich text file (RTF): save it as DOCX or PDF",
    b"%!PS": "PostScript: make a PDF of it",
    b"\x89PNG": "a picture (PNG): put it into a PDF",
    b"\xff\xd8\xff": "a picture (JPEG): put it into a PDF",
    b"GIF8": "a picture (GIF): put it into a PDF",
    b"II*\x00": "a picture (TIFF): put it into a PDF",
    b"MM\x00*": "a picture (TIFF): put it into a PDF",
    b"BM": "a picture (BMP): put it into a PDF",
    b"MZ": "a program",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
}
_ODF = "an OpenDocument file: save it as DOCX or PDF"
_HTML = re.compile(
    r"(?:\s|<!--(?:[^-]|-(?!->))*-->|<\?xml[^>]*\?>)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE
)
_FRAGMENT = re.compile(
    r"\s*<(?:a|article|b|blockquote|center|div|dl|em|font|h[1-6]|header|i|main|ol|p|section|span|strong|table|ul)"
    r"(?:\s[^<>]*)?>",
    re.IGNORECASE,
)
_XML = re.compile(r"\s*<\?xml\b")
_MARKDOWN_SIGNS = (
    re.compile(r"^#{1,6} \S", re.MULTILINE),
    re.compile(r"^(?:```|~~~)", re.MULTILINE),
    re.compile(r"\[[^\]\n]{1,200}\]\([^)\s]{1,500}\)"),
    re.compile(r"^\|?(?: *:?-{3,}:? *\|)+ *(?::?-{3,}:?)? *$", re.MULTILINE),
    re.compile(r"\*\*\S[^*\n]{0,200}\*\*"),
)


def claimed_kind(source: str) -> DocumentKind | None:
    """What a file's name says that it is.

    >>> claimed_kind("Report.PDF"), claimed_kind("notes")
    ('pdf', None)
    """
    return SUFFIXES.get(Path(source).suffix.lower())


def kind_of(path: Path, source: str) -> DocumentKind:
    """What the file is.

    Args:
        path: The file. Of an archive the list of contents is read: files from outside go through
            `ingest.reader_process`.
        source: Its name as the person gave it.

    Raises:
        FileRefused: not_a_pdf, unsupported_type, needs_password, damaged or no_text.
    """
    claimed = claimed_kind(source)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if claimed == "pdf":
            if b"%PDF" in head[:PDF_HEADER_BYTES]:
                return "pdf"
            raise FileRefused("not_a_pdf", f"{source} is not a PDF: {_not_that(file, head)}")
        found, what = _look(file, head, claimed)
    if claimed == "docx" and found != "docx" and head:
        if what == _ENCRYPTED:
            raise FileRefused("needs_password", f"{source} needs a password: save a copy without one and add that")
        raise FileRefused(
            "unsupported_type", f"{source} is not a Word document: {f'it is {what}' if what else _rename(found)}"
        )
    if found is not None:
        return found
    if not head:
        raise FileRefused("no_text", f"{source} is empty: nothing to read")
    if what == _ENCRYPTED:
        raise FileRefused("needs_password", f"{source} needs a password: save a copy without one and add that")
    raise FileRefused("unsupported_type", f"{source} can't be read, it is {what}; {TAKEN}")


_ENCRYPTED = "an Office document with a password"


def _not_that(file: BinaryIO, head: bytes) -> str:
    if not head:
        return "it is empty"
    found, what = _look(file, head, None)
    return f"it is {what}" if what else _rename(found)


def _rename(found: DocumentKind | None) -> str:
    suffix = next((suffix for suffix, kind in SUFFIXES.items() if kind == found), "")
    name = KIND_NAMES[found] if found else "something else"
    article = "" if found in ("markdown", "text") else "a "
    return f"it is {article}{name}; if that is what you want, name it {suffix} and add it again"


def _look(file: BinaryIO, head: bytes, claimed: DocumentKind | None) -> tuple[DocumentKind | None, str]:
    """The kind; or None and what it is instead, with what can be done."""
    if head.lstrip()[:5] == b"%PDF-" or (claimed is None and b"%PDF-" in head[:PDF_HEADER_BYTES]):
        return "pdf", ""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _look_into_zip(file)
    if head.startswith(_OLE):
        file.seek(0)
        if "EncryptedPackage".encode("utf-16-le") in file.read():
            return None, _ENCRYPTED
        return None, "an Office document of before 2007: save it as DOCX or PDF"
    for magic, what in _MAGIC.items():
        if head.startswith(magic) and (len(magic) > 2 or b"\x00" in head):
            return None, what
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return None, "a picture (WebP): put it into a PDF"
    text = decode(head, partial=True)
    if text is None:
        return None, "no text: nothing tells what it is"
    return _look_at_text(text.text, claimed)


def _look_at_text(text: str, claimed: DocumentKind | None) -> tuple[DocumentKind | None, str]:
    if _HTML.match(text):
        return "html", ""
    if re.match(r"\s*MIME-Version:", text, re.IGNORECASE) and "multipart/related" in text[:2000]:
        return None, "a web archive (MHTML): save the page as HTML or PDF"
    if claimed == "markdown":
        return "markdown", ""
    if _XML.match(text):
        return None, "XML of an unknown kind: save it as PDF, DOCX or plain text"
    if (claimed == "html" and re.search(r"<[a-zA-Z!/][^<>]*>", text)) or (claimed is None and _FRAGMENT.match(text)):
        return "html", ""
    if sum(sign.search(text) is not None for sign in _MARKDOWN_SIGNS) >= 2:
        return "markdown", ""
    return "text", ""


def _look_into_zip(file: BinaryIO) -> tuple[DocumentKind | None, str]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.NameToInfo
            if "[Content_Types].xml" in names:
                with archive.open("[Content_Types].xml") as part:
                    types = part.read(_CONTENT_TYPES_BYTES)
                if b"wordprocessingml." in types or b"ms-word.document" in types:
                    return "docx", ""
                if b"spreadsheetml." in types:
                    return None, "an Excel workbook: save the sheets that matter as PDF"
                if b"presentationml." in types:
                    return None, "a PowerPoint presentation: save it as PDF"
            if "META-INF/container.xml" in names:
                return None, "an e-book (EPUB): save it as PDF"
            if "content.xml" in names and "META-INF/manifest.xml" in names:
                return None, _ODF
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError, UnicodeError):
        return None, "a damaged zip archive or Office document: get it anew"
    except Exception as error:  # zlib.error, lzma.LZMAError: what a broken part raises is not one family
        return None, f"a damaged zip archive or Office document ({type(error).__name__}): get it anew"
    return None, "a zip archive: unpack it"
