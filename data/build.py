"""Builds the sample PDFs from `sources/*.md` and the labelled questions from `questions/*.jsonl`; see README.md.

It knows only the Markdown that the sources use, and it never writes text of its own into a document: what a PDF says is
what its source says, plus the running header and footer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import pypdfium2
from reportlab.lib.colors import Color, HexColor, white
from reportlab.lib.enums import TA_JUSTIFY, TA_LEFT
from reportlab.lib.pagesizes import A4, LETTER
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    HRFlowable,
    ListFlowable,
    ListItem,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
    TableStyle,
)

DATA = Path(__file__).parent

FRONT_MATTER_KEYS = {"title", "author", "date", "look", "paper", "summary"}
REQUIRED_KEYS = {"title", "author", "date"}
PAPERS = {"a4": A4, "letter": LETTER}
QUESTIONS = "questions.jsonl"
APART = "-desk"
"""How the name of a question file ends that is built into a file of its own, so that `QUESTIONS` stays as it is."""
ROOM_BELOW_HEADING = (92.0, 58.0, 54.0)
"""Points that must be left on a page for a heading of each level to stand there; paragraphs may cross the border."""


class SourceError(ValueError):
    """A source or a question row that can't be built; the message names it and the remedy."""


@dataclass(frozen=True)
class Look:
    """How a document is set."""

    body: str
    """Font of the running text; its bold and italic forms follow from its name."""
    heading: str
    size: float
    """Points, of the running text."""
    accent: Color
    justified: bool


LOOKS = {
    "contract": Look("Times-Roman", "Helvetica-Bold", 10.5, HexColor("#1f4e5f"), justified=True),
    "leaflet": Look("Helvetica", "Helvetica-Bold", 9.5, HexColor("#7a1f3d"), justified=False),
    "page": Look("Helvetica", "Helvetica-Bold", 10.0, HexColor("#30475e"), justified=False),
}


@dataclass(frozen=True)
class Source:
    """A parsed Markdown source."""

    name: str
    """File name without its extension; the PDF has the same."""
    fields: Mapping[str, str]
    """The front matter."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the topmost."""

    level: int
    text: str


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A bullet list, or a numbered one."""

    texts: tuple[str, ...]
    numbered: bool


@dataclass(frozen=True)
class Grid:
    """A table; the first row is its head."""

    rows: tuple[tuple[str, ...], ...]


Block = Heading | Prose | Items | Grid

HEADING = re.compile(r"(#{1,3}) (.+)")
BULLET = re.compile(r"[-*] (.+)")
NUMBERED = re.compile(r"\d+\. (.+)")
TABLE_RULE = re.compile(r"\|?[\s:|-]+\|?")


def read_source(path: Path) -> Source:
    """Parse a source. Raises SourceError where it isn't in the format of README.md."""
    text = path.read_text("utf-8")
    match = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    if not match:
        raise SourceError(f"{path.name}: must start with front matter between two lines '---'")
    fields = {}
    for line in match[1].splitlines():
        key, colon, value = line.partition(":")
        if not colon or key.strip() not in FRONT_MATTER_KEYS:
            raise SourceError(f"{path.name}: front matter line {line!r}: known keys are {sorted(FRONT_MATTER_KEYS)}")
        fields[key.strip()] = value.strip()
    if missing := REQUIRED_KEYS - fields.keys():
        raise SourceError(f"{path.name}: front matter lacks {sorted(missing)}")
    for key, known in (("look", LOOKS), ("paper", PAPERS)):
        if fields.setdefault(key, next(iter(known))) not in known:
            raise SourceError(f"{path.name}: {key} is {fields[key]!r}, known are {sorted(known)}")
    try:
        text.encode("cp1252")
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{path.name}: the standard PDF fonts lack {text[error.start : error.end]!r} in "
            f"{text[max(error.start - 30, 0) : error.end]!r}: write it in another way"
        ) from None
    return Source(path.stem, fields, tuple(_parse_blocks(match[2])))


def _parse_blocks(markdown: str) -> Iterator[Block]:
    """The blocks of a Markdown body: one heading, paragraph, list or table each."""
    for piece in re.split(r"\n\s*\n", markdown.strip()):
        lines = [line.strip() for line in piece.splitlines()]
        while lines and (heading := HEADING.fullmatch(lines[0])):
            yield Heading(len(heading[1]), heading[2].strip())
            lines = lines[1:]
        if not lines:
            continue
        if lines[0].startswith("|"):
            rows = [line.strip("|").split("|") for line in lines if not TABLE_RULE.fullmatch(line)]
            if len({len(row) for row in rows}) != 1:
                raise SourceError(f"the table rows below {lines[0]!r} have different numbers of cells")
            yield Grid(tuple(tuple(cell.strip() for cell in row) for row in rows))
            continue
        marker = next((kind for kind in (BULLET, NUMBERED) if kind.fullmatch(lines[0])), None)
        if marker is None:
            yield Prose(" ".join(lines))
            continue
        texts: list[str] = []
        for line in lines:
            if item := marker.fullmatch(line):
                texts.append(item[1])
            else:
                texts[-1] += " " + line
        yield Items(tuple(texts), numbered=marker is NUMBERED)


def _markup(text: str) -> str:
    """Markdown's bold and italics as the XML of reportlab's paragraphs.

    >>> _markup("**Waiting period** is < *30* days")
    '<b>Waiting period</b> is &lt; <i>30</i> days'
    """
    text = escape(text, quote=False)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\*(.+?)\*", r"<i>\1</i>", text)


class _Styles:
    """The paragraph styles of a look."""

    def __init__(self, look: Look) -> None:
        alignment = TA_JUSTIFY if look.justified else TA_LEFT
        self.body = ParagraphStyle(
            "body",
            fontName=look.body,
            fontSize=look.size,
            leading=look.size * 1.35,
            alignment=alignment,
            spaceAfter=6,
            allowWidows=0,
            allowOrphans=0,
        )
        self.item = ParagraphStyle("item", self.body, spaceAfter=2.5)
        self.cell = ParagraphStyle(
            "cell", self.body, fontSize=look.size - 1, leading=(look.size - 1) * 1.25, alignment=TA_LEFT, spaceAfter=0
        )
        self.cell_head = ParagraphStyle("cell_head", self.cell, fontName=look.heading, textColor=white)
        self.headings = tuple(
            ParagraphStyle(
                f"heading{level}",
                fontName=look.heading,
                fontSize=size,
                leading=size * 1.25,
                textColor=look.accent,
                spaceBefore=before,
                spaceAfter=after,
            )
            for level, (size, before, after) in enumerate(((16.0, 10, 6), (12.5, 6, 4), (10.8, 3, 3)), start=1)
        )
        self.title = ParagraphStyle(
            "title", fontName=look.heading, fontSize=24, leading=29, textColor=look.accent, spaceAfter=6
        )
        self.byline = ParagraphStyle("byline", fontName="Helvetica", fontSize=10, leading=14, spaceAfter=2)


class _Template(BaseDocTemplate):
    """Sets the pages: running header and footer, and an outline entry for each heading."""

    def __init__(self, target: BytesIO, source: Source) -> None:
        self._source = source
        self._look = LOOKS[source.fields["look"]]
        self._headings = 0
        fields = source.fields
        super().__init__(
            target,
            pagesize=PAPERS[fields["paper"]],
            leftMargin=25 * mm,
            rightMargin=25 * mm,
            topMargin=27 * mm,
            bottomMargin=24 * mm,
            title=fields["title"],
            author=fields["author"],
            subject=fields.get("summary", ""),
            creator="data/build.py",
            invariant=1,
        )
        frame = Frame(self.leftMargin, self.bottomMargin, self.width, self.height, 0, 0, 0, 0)
        self.addPageTemplates(PageTemplate("page", [frame], onPage=self._draw_running_lines))

    def _draw_running_lines(self, canvas: Canvas, _template: BaseDocTemplate) -> None:
        fields, right = self._source.fields, self.leftMargin + self.width
        top, bottom = self.pagesize[1] - 17 * mm, 14 * mm
        canvas.saveState()
        canvas.setFont("Helvetica", 8)
        canvas.setStrokeColor(self._look.accent)
        canvas.setFillColor(HexColor("#555555"))
        canvas.setLineWidth(0.5)
        if canvas.getPageNumber() > 1:
            canvas.drawString(self.leftMargin, top, fields["title"])
            canvas.drawRightString(right, top, fields["author"])
            canvas.line(self.leftMargin, top - 3, right, top - 3)
        canvas.line(self.leftMargin, bottom + 10, right, bottom + 10)
        canvas.drawString(self.leftMargin, bottom, fields["date"])
        canvas.drawRightString(right, bottom, f"Page {canvas.getPageNumber()}")
        canvas.restoreState()

    def afterFlowable(self, flowable: Flowable) -> None:  # reportlab calls it by this name
        """Give a heading its outline entry."""
        level = getattr(flowable, "heading_level", None)
        if level is None:
            return
        self._headings += 1
        key = f"heading-{self._headings}"
        self.canv.bookmarkPage(key)
        self.canv.addOutlineEntry(flowable.heading_text, key, level - 1, closed=False)


def render(source: Source) -> bytes:
    """The PDF of a source: the same bytes for the same source and reportlab version."""
    look = LOOKS[source.fields["look"]]
    styles = _Styles(look)
    target = BytesIO()
    template = _Template(target, source)
    story: list[Flowable] = [
        Paragraph(_markup(source.fields["title"]), styles.title),
        Paragraph(f"{_markup(source.fields['author'])} - {_markup(source.fields['date'])}", styles.byline),
    ]
    if summary := source.fields.get("summary"):
        story.append(Paragraph(f"<i>{_markup(summary)}</i>", styles.byline))
    story.append(HRFlowable(width="100%", thickness=1.5, color=look.accent, spaceBefore=6, spaceAfter=10))
    previous_level = 0
    for block in source.blocks:
        if isinstance(block, Heading):
            if block.level > previous_level + 1:
                raise SourceError(f"{source.name}.md: heading {block.text!r} skips a level")
            previous_level = block.level
            story += [CondPageBreak(ROOM_BELOW_HEADING[block.level - 1]), _heading(block, styles)]
        else:
            story.extend(_set_block(block, styles, look, template.width))
    template.build(story)
    return target.getvalue()


def _heading(block: Heading, styles: _Styles) -> Paragraph:
    paragraph = Paragraph(_markup(block.text), styles.headings[block.level - 1])
    paragraph.heading_level = block.level
    paragraph.heading_text = block.text.replace("*", "")
    return paragraph


def _set_block(block: Prose | Items | Grid, styles: _Styles, look: Look, width: float) -> list[Flowable]:
    """The flowables of a block that is no heading; width is the frame's, in points."""
    if isinstance(block, Prose):
        return [Paragraph(_markup(block.text), styles.body)]
    if isinstance(block, Items):
        items = [ListItem(Paragraph(_markup(text), styles.item)) for text in block.texts]
        kind = {"bulletType": "1", "bulletFormat": "%s."} if block.numbered else {"bulletType": "bullet", "start": "•"}
        listing = ListFlowable(
            items, leftIndent=18, bulletFontName=look.body, bulletFontSize=look.size, bulletDedent=14, **kind
        )
        return [listing, Spacer(1, 4)]
    head, *rows = block.rows
    cells = [[Paragraph(_markup(cell), styles.cell_head) for cell in head]]
    cells += [[Paragraph(_markup(cell), styles.cell) for cell in row] for row in rows]
    table = Table(cells, colWidths=_column_widths(block, styles, width), repeatRows=1, hAlign="LEFT")
    commands: list[tuple[Any, ...]] = [
        ("BACKGROUND", (0, 0), (-1, 0), look.accent),
        ("ROWBACKGROUNDS", (0, 1), (-1, -1), [white, HexColor("#f1f4f6")]),
        ("GRID", (0, 0), (-1, -1), 0.4, HexColor("#b5bec4")),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("TOPPADDING", (0, 0), (-1, -1), 3),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 4),
    ]
    table.setStyle(TableStyle(commands))
    return [Spacer(1, 2), table, Spacer(1, 9)]


def _column_widths(block: Grid, styles: _Styles, width: float) -> list[float]:
    """Points a column: in proportion to its longest cell, none below a sixth of an even share nor its longest word."""
    padding = 13
    longest, floors = [], []
    for column in zip(*block.rows, strict=True):
        font, size = styles.cell_head.fontName, styles.cell.fontSize
        longest.append(max(stringWidth(cell, font, size) for cell in column) + padding)
        floors.append(max(stringWidth(word, font, size) for cell in column for word in cell.split() or [""]) + padding)
    wanted = [min(length, width * 0.6) for length in longest]
    spare = width - sum(floors)
    if spare <= 0:
        return [floor * width / sum(floors) for floor in floors]
    extra = [max(want - floor, 1) for want, floor in zip(wanted, floors, strict=True)]
    return [floor + spare * share / sum(extra) for floor, share in zip(floors, extra, strict=True)]


def page_texts(pdf: bytes) -> list[str]:
    """The text of each page as pdfium reads it."""
    document = pypdfium2.PdfDocument(pdf)
    try:
        texts = []
        for index in range(len(document)):
            page = document[index]
            text_page = page.get_textpage()
            texts.append(text_page.get_text_range())
            text_page.close()
            page.close()
        return texts
    finally:
        document.close()


def fold(text: str) -> str:
    r"""Text for comparison: Markdown marks, table bars, line-end hyphens and differences of white space folded.

    >>> fold("| **Basic** | 30\r\ndays |") == fold("Basic 30 days")
    True
    >>> fold("reim\x02\r\nbursement")
    'reimbursement'
    """
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("(?:\x02|\ufffe|\u00ad)\\s*", "", text)
    return " ".join(re.sub(r"[*|]", " ", text).split())


def resolve_question(row: Mapping[str, Any], pages: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row of `questions.jsonl` from a source row.

    Args:
        row: See README.md.
        pages: Text of each page by PDF name.

    Raises:
        SourceError: If a field is missing, the evidence stands on no page, or an answer isn't within the evidence.
    """
    name = f"question {row.get('id')!r}"
    if not row.get("id") or not row.get("text"):
        raise SourceError(f"{name}: needs 'id' and 'text': {dict(row)}")
    if row.get("answerable", True) is False:
        if not row.get("why") or row.get("answers") or row.get("evidence"):
            raise SourceError(f"{name}: an unanswerable row needs 'why' and has neither answers nor evidence")
        return {"_id": row["id"], "text": row["text"], "answers": [], "evidence": [], "answerable": False} | {
            "why": row["why"]
        }
    if not row.get("answers") or not row.get("evidence") or not row.get("doc"):
        raise SourceError(f"{name}: an answerable row needs 'answers', 'doc' and 'evidence'")
    evidence = []
    for item in row["evidence"]:
        doc, text = (row["doc"], item) if isinstance(item, str) else (item["doc"], item["text"])
        if doc not in pages:
            raise SourceError(f"{name}: there is no document {doc!r}; known are {sorted(pages)}")
        folded = fold(text)
        found = [index for index, page in enumerate(pages[doc]) if folded in fold(page)]
        if not found:
            raise SourceError(
                f"{name}: evidence {folded!r} isn't on any page of {doc}: correct the words, or quote less of them "
                "if the passage crosses a page border"
            )
        evidence += [{"doc": doc, "page_index0": index, "text": folded} for index in found]
    for answer in row["answers"]:
        pattern = rf"(?<!\w){re.escape(fold(answer))}(?!\w)"
        if not any(re.search(pattern, item["text"]) for item in evidence):
            raise SourceError(f"{name}: answer {answer!r} isn't within the evidence")
    return {
        "_id": row["id"],
        "text": row["text"],
        "answers": list(row["answers"]),
        "doc": row["doc"],
        "evidence": evidence,
        "answerable": True,
    }


def read_questions(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The source rows of question files, in order. Raises SourceError on a broken line or an id used twice."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for path in paths:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SourceError(f"{path.name}, line {number}: {error}") from None
            if row.get("id") in seen:
                raise SourceError(f"{path.name}, line {number}: the id {row['id']!r} is used twice")
            seen.add(row.get("id"))
            rows.append(row)
    return rows


def build(data: Path = DATA, prefixes: Sequence[str] = ()) -> tuple[dict[str, bytes], dict[str, list[dict[str, Any]]]]:
    """All PDFs by file name, and the question rows by the name of the file that they belong in.

    Args:
        data: Folder that holds `sources/` and `questions/`.
        prefixes: Only files whose names start with one of these, and of their questions only those about documents that
            do; empty: all.

    Raises:
        SourceError: Naming the file or the row.
    """

    def chosen(folder: str, pattern: str) -> list[Path]:
        paths = sorted((data / folder).glob(pattern))
        return [path for path in paths if not prefixes or path.name.startswith(tuple(prefixes))]

    pdfs = {f"{path.stem}.pdf": render(read_source(path)) for path in chosen("sources", "*.md")}
    pages = {name: page_texts(pdf) for name, pdf in pdfs.items()}
    paths = chosen("questions", "*.jsonl")
    apart = [path for path in paths if path.stem.endswith(APART)]
    files = {QUESTIONS: [path for path in paths if path not in apart]} | {path.name: [path] for path in apart}
    read_questions(paths)  # refuses an id that two of the files use
    return pdfs, {
        name: [
            resolve_question(row, pages)
            for row in read_questions(own)
            if not prefixes or all(doc.startswith(tuple(prefixes)) for doc in _documents(row))
        ]
        for name, own in files.items()
    }


def _documents(row: Mapping[str, Any]) -> set[str]:
    """The documents that a source row names; none if nothing answers it."""
    quotes = {item["doc"] for item in row.get("evidence", []) if not isinstance(item, str)}
    return quotes | ({row["doc"]} if "doc" in row else set())


def main(arguments: Sequence[str] | None = None) -> int:
    """Build into `pdfs/` and `questions.jsonl` beside this file; exit status 1 names what can't be built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "prefix",
        nargs="*",
        help="build and check only the files that start with this, and leave the built questions as they are",
    )
    prefixes = parser.parse_args(arguments).prefix
    try:
        pdfs, questions = build(prefixes=prefixes)
    except SourceError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    folder = DATA / "pdfs"
    folder.mkdir(exist_ok=True)
    for name, pdf in pdfs.items():
        (folder / name).write_bytes(pdf)
    if not prefixes:
        for path in folder.glob("*.pdf"):
            if path.name not in pdfs:
                path.unlink()
        for name, of_file in questions.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in of_file]
            (DATA / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    rows = [row for of_file in questions.values() for row in of_file]
    answerable = sum(row["answerable"] for row in rows)
    pages = sum(len(page_texts(pdf)) for pdf in pdfs.values())
    print(f"{len(pdfs)} PDFs, {pages} pages; {answerable} answerable, {len(rows) - answerable} unanswerable questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
