"""Word documents, web pages, Markdown and plain text: what is read of them, and what is refused and why."""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.kinds import kind_of
from ingest.read_document import ReadDocument
from ingest.read_docx import MOST_PARTS, XML_BYTES, read_docx
from ingest.read_html import read_html
from ingest.read_markdown import read_markdown
from ingest.read_text import decode, read_text
from ingest.reader_process import ReadLimits, read_document
from ingest.sections import LEAST_CHARACTERS, MOST_CHARACTERS
from rag.errors import FileRefused
from tests.ingest.docx_files import docx, heading, paragraph, table
from tests.ingest.pdfs import text_pdf

LIMITS = ReadLimits(max_file_bytes=2**25, max_pages=500, time_limit_s=60, memory_limit_bytes=2**31)
READERS = {"docx": read_docx, "html": read_html, "markdown": read_markdown, "text": read_text}
Keep = Callable[[str, bytes | str], Path]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    def write(name: str, data: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def lines(read: ReadDocument) -> list[str]:
    return "\n".join(page.text for page in read.pages).split("\n")


def refusal(path: Path, source: str | None = None, limits: ReadLimits = LIMITS) -> FileRefused:
    with pytest.raises(FileRefused) as caught:
        read_document(path, source=source or path.name, limits=limits)
    return caught.value


# Which kind


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a", b"%PDF-1.7\n", "pdf"),
        ("notes.txt", b"%PDF-1.7\n", "pdf"),
        ("about.md", "The header `%PDF-1.7` begins a PDF.", "markdown"),
        ("page", "\ufeff<!-- saved -->\n<!DOCTYPE html><p>x", "html"),
        ("page.txt", "<html lang='en'><p>x", "html"),
        ("page.html", "Just text & no tags", "text"),
        ("part", "<div class='x'><p>x</p></div>", "html"),
        ("read.me", "# Title\n\nSee [there](http://example.com).\n", "markdown"),
        ("script", "# a comment\nx = 1\n", "text"),
        ("doc.md", "<p align='center'>Logo</p>\n\n# Title", "markdown"),
        ("letter", "Grüße".encode("cp1252"), "text"),
        ("wide", "Grüße aus Köln".encode("utf-16"), "text"),
    ],
)
def test_content_decides_the_kind(keep: Keep, name: str, data: bytes | str, kind: str) -> None:
    assert kind_of(keep(name, data), name) == kind


def test_a_word_document_is_known_whatever_it_is_called(keep: Keep) -> None:
    path = keep("contract", docx(paragraph("Terms")))
    assert kind_of(path, "contract") == "docx"
    assert kind_of(path, "contract.txt") == "docx"


@pytest.mark.parametrize(
    ("name", "data", "reason", "says"),
    [
        ("report.pdf", "<html>Log in", "not_a_pdf", "report.pdf is not a PDF: it is a web page"),
        ("report.pdf", b"MZ\x90\x00\x03", "not_a_pdf", "it is a program"),
        ("report.pdf", docx(paragraph("x")), "not_a_pdf", "Word document; if that is what you want, name it .docx"),
        ("report.docx", text_pdf(["x"]), "unsupported_type", "not a Word document: it is a PDF"),
        ("report.docx", "plain words", "unsupported_type", "not a Word document: it is plain text"),
        ("tool.txt", b"\x7fELF\x02\x01\x01\x00", "unsupported_type", "it is a program"),
        ("photo.md", b"\x89PNG\r\n\x1a\n\x00", "unsupported_type", "a picture (PNG): put it into a PDF"),
        ("noise.txt", bytes(range(256)) * 8, "unsupported_type", "it is no text"),
        ("feed.html", "<?xml version='1.0'?><rss><item/></rss>", "unsupported_type", "XML of an unknown kind"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 512, "unsupported_type", "save it as DOCX"),
        (
            "locked.docx",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "needs_password",
            "needs a password",
        ),
        ("empty.txt", b"", "no_text", "empty"),
        ("blank.md", "\n\n  \n", "no_text", "holds no text"),
        ("mail.mht", "MIME-Version: 1.0\nContent-Type: multipart/related", "unsupported_type", "web archive"),
    ],
)
def test_what_is_disguised_or_not_taken_is_refused_with_a_remedy(
    keep: Keep, name: str, data: bytes | str, reason: str, says: str
) -> None:
    path = keep(name, data)
    with pytest.raises(FileRefused) as caught:
        READERS[kind_of(path, name)](path, source=name)
    assert caught.value.reason == reason
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("member", "content", "says"),
    [
        ("[Content_Types].xml", "spreadsheetml.sheet.main+xml", "Excel"),
        ("[Content_Types].xml", "presentationml.presentation", "PowerPoint"),
        ("META-INF/container.xml", "", "EPUB"),
        ("readme.txt", "x", "a zip archive: unpack it"),
    ],
)
def test_other_archives_are_named(keep: Keep, member: str, content: str, says: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, content)
    for name, data, words in (("file", buffer.getvalue(), says), ("cut", buffer.getvalue()[:40], "damaged zip")):
        with pytest.raises(FileRefused, match=re.escape(words)):
            kind_of(keep(name, data), name)


# Plain text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_of_many_encodings(keep: Keep, encoding: str) -> None:
    said = "Die Wartezeit beträgt 180 Tage – für Brillen 90. Größere Schäden melden Sie möglichst früh."
    read = read_text(keep("a.txt", said.encode(encoding)), source="a.txt")
    assert lines(read) == [said]
    assert bool(read.warnings) == (encoding == "cp1252")


def test_hard_wrapped_lines_become_paragraphs_and_others_stay(keep: Keep) -> None:
    text = (
        "Terms of cover\n==============\n\n"
        "The waiting period for critical illness is one hundred and\neighty days, and it begins with "
        "the con-\ntract.\n\n"
        "- dental: 90 days\n- travel: none\n\nDay,Fee\n1,20\n\fAnnex"
    )
    read = read_text(keep("terms.txt", text), source="terms.txt")
    assert [page.text.split("\n") for page in read.pages] == [
        [
            "Terms of cover",
            "The waiting period for critical illness is one hundred and eighty days, and it begins with the contract.",
            "- dental: 90 days",
            "- travel: none",
            "Day,Fee",
            "1,20",
        ],
        ["Annex"],
    ]
    assert [(heading.page, heading.start, heading.text) for heading in read.headings] == [(1, 0, "Terms of cover")]
    assert (read.document.title, read.kind, read.document.page_count) == ("Terms of cover", "text", 2)


def test_no_text_is_none() -> None:
    assert decode(b"\x00\x01\x02" * 50) is None
    assert decode(b"plain \x00 with a stray zero") is None


# Sections


def test_sections_are_bounded_and_hold_everything_in_order(keep: Keep) -> None:
    words = [f"word{number}" for number in range(3000)]
    blocks = [" ".join(words[start : start + 60]) for start in range(0, 3000, 60)] + ["y" * (2 * MOST_CHARACTERS + 5)]
    read = read_text(keep("long.txt", "\n\n".join(blocks)), source="long.txt")
    assert all(0 < len(page.text) <= MOST_CHARACTERS for page in read.pages)
    assert [page.number for page in read.pages] == list(range(1, len(read.pages) + 1))
    assert " ".join(lines(read)).split()[:3000] == words
    assert "".join(lines(read)).count("y") == 2 * MOST_CHARACTERS + 5


def test_a_heading_begins_a_section_once_the_one_before_is_long_enough(keep: Keep) -> None:
    long = "x " * (LEAST_CHARACTERS // 2)
    read = read_markdown(keep("a.md", f"# One\n\nshort\n\n## Two\n\n{long}\n\n## Three\n\nend"), source="a.md")
    assert [(heading.page, heading.text) for heading in read.headings] == [(1, "One"), (1, "Two"), (2, "Three")]
    assert all(read.pages[heading.page - 1].text[heading.start :].startswith(heading.text) for heading in read.headings)


def test_too_many_sections_are_refused_with_the_setting(keep: Keep) -> None:
    with pytest.raises(FileRefused, match="RANK37_MAX_PAGES") as caught:
        read_text(keep("a.txt", "z" * (3 * MOST_CHARACTERS)), source="a.txt", max_pages=2)
    assert caught.value.reason == "too_many_pages"


# Web pages and Markdown

PAGE = """<!doctype html><html><head><meta charset="iso-8859-1"><title>Fees &amp; Terms</title>
<style>.x{}</style><script>var secret = "script";</script></head><body><nav>Home Shop</nav>
<h1>Fees</h1><p>The <b>fi</b>rst day<br>costs 5\x80.<!-- comment --></p><noscript>on</noscript>
<div hidden>unseen</div><p style="display: none">unseen</p><svg><text>unseen</text></svg>
<ol start="3"><li><p>three</p><p>more</p><li>four<ul><li>inner</ul></ol>
<table><caption>By day</caption><tr><th>Day<th>Fee<tr><td>1<br>2<td> 20 <p>EUR</p><tr><td><td></table>
<table><tr><td><h2>Left</h2><p>text<td><table><tr><td>a<td>b</table></table>
<pre>x = 1
  y = 2</pre><form><label>Name</label><input value="unseen"><select><option>unseen</select></form>tail</body>"""


def test_a_web_page_as_a_person_sees_it(keep: Keep) -> None:
    read = read_html(keep("fees.html", PAGE.encode("latin-1")), source="fees.html")
    assert lines(read) == [
        "Fees",
        "The first day",
        "costs 5€.",
        "3. three",
        "more",
        "4. four",
        "inner",
        "By day",
        "Day | Fee",
        "1 2 | 20 EUR",
        "Left",
        "text",
        "a | b",
        "x = 1",
        "y = 2",
        "Name",
        "tail",
    ]
    assert [heading.text for heading in read.headings] == ["Fees", "Left"]
    assert (read.document.title, read.kind, read.pages[0].words) == ("Fees & Terms", "html", ())


def test_markdown_as_it_reads_when_rendered(keep: Keep) -> None:
    text = (
        "---\ntitle: Warranty terms\n---\n# Cover\n\nTwo *years*,\nsee [the list](http://example.com/x).\n\n"
        "1. Call\n2. Send `it`\n\n| Part | Years |\n|---|---:|\n| Motor | 5 |\n\n<script>alert(1)</script>\n\n"
        "```\nmake run\n```\n![Logo](x.png)\n"
    )
    read = read_markdown(keep("w.md", text), source="w.md")
    assert lines(read) == [
        "Cover",
        "Two years, see the list.",
        "1. Call",
        "2. Send it",
        "Part | Years",
        "Motor | 5",
        "make run",
    ]
    assert read.document.title == "Warranty terms"


def test_deep_and_huge_pages_end_within_their_limits(keep: Keep) -> None:
    deep = keep("deep.html", "<html><body>" + "<div>" * 3000 + "bottom")
    assert lines(read_document(deep, source="deep.html", limits=LIMITS)) == ["bottom"]
    begun = time.monotonic()
    short = ReadLimits(max_file_bytes=2**25, max_pages=500, time_limit_s=3, memory_limit_bytes=2**31)
    assert refusal(keep("deeper.html", "<html><body>" + "<div>" * 2_000_000), limits=short).reason == "time_limit"
    assert time.monotonic() - begun < 15
    wide = keep("wide.html", "<html><body>" + "<p>word</p>" * 1_000_000)
    small = ReadLimits(max_file_bytes=2**25, max_pages=500, time_limit_s=60, memory_limit_bytes=300 * 2**20)
    assert refusal(wide, limits=small).reason in {"memory_limit", "too_many_pages"}


# Word documents


def test_a_word_document_with_headings_a_list_a_table_and_changes(keep: Keep) -> None:
    body = (
        heading(1, "Terms of sale")
        + paragraph("Returned within ", "<w:ins w:id='1'><w:r><w:t>30</w:t></w:r></w:ins>", " days")
        + "<w:p><w:del w:id='2'><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>"
        + heading(2, "Fees")
        + table([["Day", "Fee"], ["1", "20 EUR"]])
        + paragraph("A < B & C")
    )
    read = read_docx(keep("terms.docx", docx(body, title="Our terms")), source="terms.docx")
    assert lines(read) == ["Terms of sale", "Returned within 30 days", "Fees", "Day | Fee", "1 | 20 EUR", "A < B & C"]
    assert [heading.text for heading in read.headings] == ["Terms of sale", "Fees"]
    assert (read.document.title, read.kind) == ("Our terms", "docx")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_entities_are_refused_before_anything_is_parsed(keep: Keep, encoding: str) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY f SYSTEM "file:///etc/passwd">]><x>&a;&f;</x>'
    path = keep("bomb.docx", docx(paragraph("x"), extra={"word/styles.xml": bomb.encode(encoding)}))
    with pytest.raises(FileRefused, match="XML entities") as caught:
        read_docx(path, source="bomb.docx")
    assert caught.value.reason == "damaged"


def test_zip_bombs_are_refused_by_what_the_archive_says(keep: Keep) -> None:
    zeros = b" " * (XML_BYTES + 1)
    bomb = docx(paragraph("x"), extra={"word/comments.xml": zeros})
    assert len(bomb) < XML_BYTES / 500
    with pytest.raises(FileRefused, match="64 MiB") as caught:
        read_docx(keep("bomb.docx", bomb), source="bomb.docx")
    assert caught.value.reason == "too_large"


def test_an_archive_of_very_many_files_is_refused(keep: Keep) -> None:
    extra = {f"word/media/{number}": b"" for number in range(MOST_PARTS)}
    with pytest.raises(FileRefused, match="5,00") as caught:
        read_docx(keep("many.docx", docx(paragraph("x"), extra=extra)), source="many.docx")
    assert caught.value.reason == "too_large"


def test_deep_and_broken_word_documents_end_in_a_refusal(keep: Keep) -> None:
    deep = "<w:tbl><w:tr><w:tc>" * 1500 + paragraph("x") + "</w:tc></w:tr></w:tbl>" * 1500
    assert refusal(keep("deep.docx", docx(deep))).reason in {"damaged", "unreadable"}
    for body, reason in (("<w:p><w:r>", "damaged"), (paragraph(""), "no_text")):
        with pytest.raises(FileRefused) as caught:
            read_docx(keep("a.docx", docx(body)), source="a.docx")
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["a.md", "a.html", "a.txt", "a.docx"])
def test_the_separate_process_gives_what_reading_here_gives(keep: Keep, name: str) -> None:
    data = {"a.md": "# A\n\n*b*", "a.html": "<html><h1>A</h1>b", "a.txt": "A\n\nb", "a.docx": docx(paragraph("A"))}
    path = keep(name, data[name])
    assert read_document(path, source=name, limits=LIMITS, words=True) == READERS[kind_of(path, name)](
        path, source=name
    )
