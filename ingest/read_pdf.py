"""A PDF file to a Document and Pages: pypdfium2 reads text and boxes, pypdf metadata, outline and what pdfium can't.

It runs in the calling process, without any limit on time or memory: files from outside go through
`ingest.reader_process`. It recognises no letters in pictures: where OCR is handed in, it asks that for the pages on
which it finds no text.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

import pypdf
import pypdfium2
import pypdfium2.raw as pdfium

from ingest.hidden_text import Reason, tell_unseen
from ingest.kinds import PDF_HEADER_BYTES
from ingest.layout import OutlineEntry, PageLayout, PrintedLine, find_headings, lay_out
from ingest.mend import mend_plain, readability
from ingest.ocr import DOTS_AN_INCH, HOW_TO_INSTALL, MOST_PIXELS, Picture
from ingest.ocr import is_installed as ocr_is_installed
from ingest.ocr_pages import KeptOcr
from ingest.pdfium_page import read_page
from ingest.read_document import ReadDocument, mend_line, title_of
from rag.errors import FileRefused
from rag.types import Document, Page

PDFIUM_LOCK = threading.RLock()
"""pdfium is not safe to call from two threads of one process: hold this around every use of it, rendering too."""

_MAX_OUTLINE_ENTRIES = 10_000
_MILD_GARBLING = 0.03

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity that it works around


def document_id(data: bytes) -> str:
    """The content hash that identifies a document: the first 32 hexadecimal digits of its SHA-256.

    >>> document_id(b"%PDF-1.7")
    '86edbaa24831badfa0a8b04bb410141e'
    """
    return hashlib.sha256(data).hexdigest()[:32]


def check_is_pdf(path: Path, source: str) -> None:
    """Look for the header of a PDF, whatever the file is called. Raises FileRefused (not_a_pdf)."""
    with path.open("rb") as file:
        head = file.read(PDF_HEADER_BYTES)
    if b"%PDF" in head:
        return
    if not head:
        kind = "it is empty"
    elif head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        kind = "it is a web page: print it to a PDF first"
    elif head.startswith(b"PK\x03\x04"):
        kind = "it is a zip archive or an Office document: export it as PDF first"
    else:
        kind = f"its first {PDF_HEADER_BYTES} bytes hold no %PDF header: export it as PDF first"
    raise FileRefused("not_a_pdf", f"{source} is not a PDF: {kind}")


class PageOcr(Protocol):
    """What reads a page that is a picture: `ingest.ocr.Ocr`, or one with a limit on its time."""

    def read(self, number: int, picture: Picture, points_a_pixel: float) -> list[PrintedLine] | None:
        """The lines of page `number`, boxes in points; None if it took too long."""
        ...


def open_pdf(
    path: Path, *, source: str | None = None, max_pages: int | None = None, ocr: PageOcr | None = None
) -> PdfFile:
    """Open a file for reading in this process; use it as a context manager.

    Args:
        path: The file.
        source: Its name as the person gave it; None: the name of `path`.
        max_pages: Refuse a longer file.
        ocr: Reads pages without text; None: they stay without, unless they were read when the file was added.

    Raises:
        FileRefused: not_a_pdf, needs_password, damaged or too_many_pages.
    """
    return PdfFile(path, source or path.name, max_pages, ocr)


def read_pdf(
    path: Path,
    *,
    source: str | None = None,
    max_pages: int | None = None,
    words: bool = False,
    progress: Callable[[int, int], None] | None = None,
    ocr: PageOcr | None = None,
) -> ReadDocument:
    """Read a whole file in this process. Raises FileRefused."""
    with open_pdf(path, source=source, max_pages=max_pages, ocr=ocr) as pdf:
        pages = []
        for page in pdf.pages(words=words):
            pages.append(page)
            if progress:
                progress(page.number, pdf.document.page_count)
        return pdf.finish(pages)


class PdfFile:
    """An open PDF. Safe to use from several threads, one at a time gets in."""

    document: Document

    def __init__(self, path: Path, source: str, max_pages: int | None = None, ocr: PageOcr | None = None) -> None:
        self._path, self._source, self._ocr = path, source, ocr
        check_is_pdf(path, source)
        self._layouts: list[tuple[int, PageLayout]] = []
        self._without_text: list[int] = []
        self._unreadable: list[int] = []
        self._garbled: list[int] = []
        self._blank: list[int] = []
        self._partly: list[int] = []
        self._second_reader: list[int] = []
        self._unseen: dict[int, Counter[Reason]] = {}
        self._by_ocr: list[int] = []
        self._ocr_too_slow: list[int] = []
        self._pypdf: pypdf.PdfReader | None = None
        self._pypdf_failed = False
        with PDFIUM_LOCK:
            self._pdfium = self._open_pdfium()
            try:
                page_count = self._count_pages()
                if max_pages is not None and page_count > max_pages:
                    raise FileRefused(
                        "too_many_pages",
                        f"{source} has {page_count} pages, the limit is {max_pages}: split it, or raise "
                        "RANK37_MAX_PAGES",
                    )
                with path.open("rb") as file:
                    identity = hashlib.file_digest(file, "sha256").hexdigest()[:32]
                self.document = Document(identity, self._title(), source, page_count)
                self._kept_ocr = KeptOcr(path, identity)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the file."""
        with PDFIUM_LOCK:
            if self._pdfium is not None:
                self._pdfium.close()
                self._pdfium = None
            if self._pypdf is not None:
                self._pypdf.close()
                self._pypdf = None

    def pages(self, *, words: bool = False) -> Iterator[Page]:
        """Every page in order, one at a time; pages without readable text are empty."""
        for number in range(1, self.document.page_count + 1):
            yield self.page(number, words=words)

    def page(self, number: int, *, words: bool = False) -> Page:
        """Read one page.

        Args:
            number: 1-based.
            words: Whether to give word boxes, too. The text is the same either way. A page read by OCR has them always.
        """
        with PDFIUM_LOCK:
            layout, width, height = self._read(number, words)
        self._layouts.append((number, layout))
        boxes = layout.words if words or number in self._by_ocr else ()
        return Page(self.document.id, number, layout.text, boxes, width, height)

    def finish(self, pages: list[Page]) -> ReadDocument:
        """What was found, once all pages are read. Raises FileRefused (damaged, no_text_layer)."""
        count = self.document.page_count
        if len(self._unreadable) >= count:
            raise FileRefused(
                "damaged",
                f"{self._source}: none of its {count} pages can be read: open and save it with another program",
            )
        if len(self._without_text) >= count:
            told = [self._tell_missing_text(), tell_unseen(self._unseen, _name_pages)]
            raise FileRefused("no_text_layer", f"{self._source}: {'; '.join(part for part in told if part)}")
        warnings = []
        if self._without_text:
            warnings.append(self._tell_missing_text())
        if self._partly:
            warnings.append(f"some characters of {_name_pages(self._partly)} are unreadable and left out")
        if self._second_reader:
            warnings.append(
                f"text of {_name_pages(self._second_reader)} comes from the second reader: no boxes to highlight"
            )
        if self._by_ocr:
            has = "was" if len(self._by_ocr) == 1 else "were"
            warnings.append(
                f"{_name_pages(self._by_ocr)} {has} read from a picture by OCR: compare figures and names with the page"
            )
        if unseen := tell_unseen(self._unseen, _name_pages):
            warnings.append(unseen)
        if self._is_dynamic_form():
            warnings.append("it is an XFA form: only the placeholder page that viewers show is read; print it to a PDF")
        headings = find_headings(sorted(self._layouts, key=lambda item: item[0]), self._outline())
        return ReadDocument(
            self.document,
            tuple(pages),
            tuple(headings),
            tuple(sorted(self._without_text)),
            tuple(warnings),
            ocr_pages=tuple(sorted(self._by_ocr)),
        )

    def _tell_missing_text(self) -> str:
        parts = []
        explained = {*self._garbled, *self._unreadable, *self._blank, *self._ocr_too_slow}
        plain = [number for number in self._without_text if number not in explained]
        garbled = [number for number in self._garbled if number not in self._ocr_too_slow]
        if plain:
            has = "has" if len(plain) == 1 else "have"
            remedy = ", and OCR found no text there" if self._ocr else f": {_ocr_remedy('run OCR (such as ocrmypdf)')}"
            parts.append(f"{_name_pages(plain)} {has} no text layer{remedy}")
        if garbled:
            has = "has" if len(garbled) == 1 else "have"
            forced = _ocr_remedy("run OCR that replaces the text (such as ocrmypdf --force-ocr)")
            remedy = ", and OCR found no text there" if self._ocr else f": {forced}"
            parts.append(
                f"{_name_pages(garbled)} {has} a garbled text layer (a font without a usable Unicode map){remedy}"
            )
        if self._ocr_too_slow:
            parts.append(
                f"OCR of {_name_pages(self._ocr_too_slow)} took too long: raise RANK37_OCR_PAGE_LIMIT_S and add the "
                "file again"
            )
        if self._blank:
            parts.append(f"{_name_pages(self._blank)} {'is' if len(self._blank) == 1 else 'are'} blank")
        if self._unreadable:
            parts.append(f"{_name_pages(self._unreadable)} can't be read: open and save the file with another program")
        return "; ".join(parts)

    # Opening

    def _open_pdfium(self) -> Any:
        try:
            return pypdfium2.PdfDocument(self._path)
        except pypdfium2.PdfiumError as error:
            code = getattr(error, "err_code", None)
            reader = self._reader()
            if code == pdfium.FPDF_ERR_PASSWORD and (reader is None or reader.is_encrypted and not self._unlocked):
                raise FileRefused(
                    "needs_password",
                    f"{self._source} needs a password: save a copy without one and add that",
                ) from None
            if code == pdfium.FPDF_ERR_SECURITY and (reader is None or not self._unlocked):
                raise FileRefused(
                    "needs_password",
                    f"{self._source} is encrypted by a method other than a password: save a copy without encryption "
                    "and add that",
                ) from None
            if reader is None:
                raise FileRefused(
                    "damaged", f"{self._source} is damaged, no reader can open it: get it anew, or repair it"
                ) from None
            return None

    def _reader(self) -> pypdf.PdfReader | None:
        """The second reader, opened at first use; None where it can't open the file."""
        if self._pypdf is None and not self._pypdf_failed:
            self._unlocked = True
            try:
                self._pypdf = pypdf.PdfReader(self._path)
                if self._pypdf.is_encrypted:
                    self._unlocked = bool(self._pypdf.decrypt(""))
            except Exception:  # broken files make it raise errors of every kind
                self._pypdf_failed = True
        return self._pypdf

    def _count_pages(self) -> int:
        count = len(self._pdfium) if self._pdfium is not None else 0
        if not count and (reader := self._reader()) is not None:
            with suppress(Exception):
                count = len(reader.pages)
        if not count:
            raise FileRefused("damaged", f"{self._source} is damaged, it holds no page: get it anew, or repair it")
        return count

    def _title(self) -> str:
        titles: list[object] = []
        if (reader := self._reader()) is not None and self._unlocked:
            with suppress(Exception):
                titles.append(reader.metadata.title if reader.metadata else None)
        if self._pdfium is not None:
            with suppress(Exception):
                titles.append(self._pdfium.get_metadata_value("Title"))
        return title_of(titles, self._source)

    def _outline(self) -> list[OutlineEntry]:
        entries: list[OutlineEntry] = []
        reader = self._reader()
        if reader is None or not self._unlocked:
            return entries

        def walk(items: list[Any]) -> None:
            for item in items:
                if len(entries) >= _MAX_OUTLINE_ENTRIES:
                    return
                if isinstance(item, list):
                    walk(item)
                    continue
                with suppress(Exception):  # one broken bookmark spoils no other
                    index = reader.get_destination_page_number(item)
                    title = mend_line(str(item.title))
                    if index is None or index < 0 or not title:
                        continue
                    top = item.top
                    page = reader.pages[index]
                    distance = None
                    if isinstance(top, int | float) and not page.get("/Rotate"):
                        distance = float(page.cropbox.top) - float(top)
                    entries.append(OutlineEntry(index + 1, title, distance))

        with suppress(Exception):  # a broken outline is as good as none
            walk(reader.outline)
        return entries

    def _is_dynamic_form(self) -> bool:
        with suppress(Exception):
            reader = self._reader()
            return reader is not None and bool(reader.xfa) and self.document.page_count <= 2
        return False

    # Reading a page

    def _read(self, number: int, words: bool) -> tuple[PageLayout, float, float]:
        layout, width, height, bad_share = PageLayout("", (), ()), 0.0, 0.0, 0.0
        garbled = readable = is_blank = False
        if self._pdfium is not None:
            with suppress(pypdfium2.PdfiumError):
                page = read_page(self._pdfium, number - 1, self._source, words=words)
                layout, width, height, is_blank = page.layout, page.width, page.height, page.is_blank
                judged = readability(page.raw_text)
                garbled, bad_share, readable = judged.garbled, judged.bad_share, True
                self._unseen[number] = page.unseen
        # The second reader can't tell what a reader sees, so it is not asked for what was left out as unseen.
        if (garbled or not _has_text(layout.text)) and not self._unseen.get(number):
            second = self._read_with_pypdf(number)
            if second is not None:
                readable = True
                judged = readability(second)
                text = mend_plain(second)
                if not judged.garbled and _has_text(text):
                    layout, garbled, bad_share = PageLayout(text, (), ()), False, judged.bad_share
                    self._second_reader.append(number)
                elif judged.garbled:
                    garbled = True
        by_ocr = None
        if garbled or not _has_text(layout.text):
            layout = PageLayout("", (), ())
            by_ocr = self._read_by_ocr(number) if readable and not is_blank else None
        if by_ocr is not None:
            self._by_ocr.append(number)
            layout = by_ocr
        elif not layout.text:
            self._without_text.append(number)
            if not readable:
                self._unreadable.append(number)
            elif garbled:
                self._garbled.append(number)
            elif is_blank:
                self._blank.append(number)
        elif bad_share > _MILD_GARBLING:
            self._partly.append(number)
        return layout, width, height

    def _read_by_ocr(self, number: int) -> PageLayout | None:
        """The page as OCR sees it, now or when the file was added; None where it sees no text."""
        if (kept := self._kept_ocr.page(number)) is not None:
            return PageLayout(kept.text, kept.words, ())
        if self._ocr is None or self._pdfium is None:
            return None
        try:
            page = self._pdfium[number - 1]
            width, height = page.get_size()
            scale = min(DOTS_AN_INCH / 72, (MOST_PIXELS / max(1.0, width * height)) ** 0.5)
            picture = page.render(scale=scale).to_numpy()[:, :, :3]
            page.close()
        except pypdfium2.PdfiumError:
            return None
        lines = self._ocr.read(number, picture, 1 / scale)
        if lines is None:
            self._ocr_too_slow.append(number)
            return None
        layout = lay_out(lines)
        return layout if _has_text(layout.text) else None

    def _read_with_pypdf(self, number: int) -> str | None:
        """The raw text of a page; None where it can't be read. A page without fonts, such as a scan, isn't parsed."""
        reader = self._reader()
        if reader is None or not self._unlocked:
            return None
        try:
            page = reader.pages[number - 1]
            return page.extract_text() if _has_fonts(page.get("/Resources"), 4) else ""
        except Exception:  # broken files make it raise errors of every kind
            return None


def _has_fonts(resources: Any, depth: int) -> bool:
    resources = resources.get_object() if resources is not None else {}
    if resources.get("/Font"):
        return True
    forms = resources.get("/XObject")
    if depth and forms is not None:
        for form in forms.get_object().values():
            inner = form.get_object()
            if inner.get("/Subtype") == "/Form" and _has_fonts(inner.get("/Resources"), depth - 1):
                return True
    return False


def _has_text(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _ocr_remedy(otherwise: str) -> str:
    """What to do about a page without text where no OCR was run."""
    if ocr_is_installed():
        return f"{otherwise} and add the file again"
    return f"{HOW_TO_INSTALL}, or {otherwise}"


def _name_pages(numbers: list[int]) -> str:
    """Name pages, neighbours as a range.

    >>> _name_pages([3]), _name_pages([1, 2, 3, 7])
    ('page 3', 'pages 1-3 and 7')
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    names = [f"{first}-{last}" if last > first else str(first) for first, last in ranges]
    if len(names) > 20:
        names = [*names[:19], f"{len(names) - 19} more ranges"]
    listing = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return f"page{'s' if len(numbers) > 1 else ''} {listing}"
