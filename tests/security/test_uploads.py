"""Uploads: a name is a label and never a path or an option, and reading a file fetches and runs nothing."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pypdf
import pytest
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject, TextStringObject

from ingest.queue import IngestQueue
from ingest.reader_process import ReadLimits, read_document
from ingest.write import Ingester
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import FileRefused
from tests.security.attacks import NAMES
from tests.security.hostile_pdfs import FACT, pdf_with

LIMITS = ReadLimits(max_file_bytes=5_000_000, max_pages=20, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)

PATHS = (
    "../../escaped.pdf",
    "..\\..\\escaped.pdf",
    "/etc/cron.d/escaped.pdf",
    "C:\\Windows\\escaped.pdf",
    "\\\\server\\share\\escaped.pdf",
    "file:///etc/escaped.pdf",
    "..",
    ".",
    "",
    "/",
    "escaped.pdf\x00.txt",
    "..\x00/escaped.pdf",
    "line\nfeed\r.pdf",
    "CON.pdf",
    "nul",
    "COM1.pdf:stream",
    "~root.pdf",
    "$(touch escaped).pdf",
    "`touch escaped`;|&.pdf",
    "%2e%2e%2fescaped.pdf",
    "..\u2215..\uff0fescaped.pdf",
    "\u2024\u2024/escaped.pdf",
    "invoice\u202efdp.exe",
    "e\u0301" * 400 + ".pdf",
    "a" * 5000 + ".pdf",
    "\ud800lone.pdf",
    "--help.pdf",
    "-rf",
    " ",
)


def names_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.timeout(300)
def test_no_name_of_an_upload_is_ever_a_path(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> None:
    home = tmp_path / "home"
    index = EdgeIndex.open(home / "index", "manuals", embedder.identity)
    queue = IngestQueue(Ingester(embedder, index, home / "files", limits=LIMITS), home / "uploads")
    data = pdf_with(tmp_path / "a.pdf", "Keep it dry.").read_bytes()
    (tmp_path / "a.pdf").unlink()
    for name in (*PATHS, *NAMES.values()):
        queue.submit(name, data)
    for name in names_under(home / "uploads"):
        assert name.lstrip(".").split(".")[0].isalnum(), "the queue's own copies are named by number"
    assert queue.wait(240)
    jobs = queue.jobs()
    queue.close()
    (stored,) = index.documents()
    index.close()
    assert {job.outcome.status for job in jobs if job.outcome} == {"ingested", "unchanged"}
    for job in jobs:
        assert job.file not in ("", ".", "..")
        assert len(job.file) <= 255
        assert not any(character in job.file for character in "/\\\0\n\r\ud800")
    assert names_under(home / "files") == {f"{stored.document.id}.pdf"}
    assert names_under(home / "uploads") <= {"ended.jsonl"}, "no more than how the files ended"
    assert names_under(tmp_path) - {f"home/{name}" for name in names_under(home)} == {"home"}


@pytest.mark.parametrize("name", ["--help.pdf", "-rf.pdf", "--max-pages", "a\udcff.pdf"])
def test_no_name_is_an_option_of_the_process_that_reads(name: str, tmp_path: Path) -> None:
    path = pdf_with(tmp_path / "a.pdf", "Keep it dry.")
    read = read_document(path, source=name.replace("\udcff", "\ufffd"), limits=LIMITS)
    assert read.document.source == name.replace("\udcff", "\ufffd")
    assert read.document.page_count == 2


def test_the_limits_hold_whatever_a_name_says(tmp_path: Path) -> None:
    path = pdf_with(tmp_path / "a.pdf", "Keep it dry.")
    small = ReadLimits(max_file_bytes=5_000_000, max_pages=1, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)
    with pytest.raises(FileRefused) as refused:
        read_document(path, source="--max-pages=99.pdf", limits=small)
    assert refused.value.reason == "too_many_pages"
    tiny = ReadLimits(max_file_bytes=100, max_pages=20, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)
    with pytest.raises(FileRefused) as refused:
        read_document(path, source="a.pdf", limits=tiny)
    assert refused.value.reason == "too_large"


@contextmanager
def listening_server() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine, and who came to it."""
    visits: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output quiet."""

        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_error(404)

        do_POST = do_HEAD = do_PUT = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", visits
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def calling_pdf(path: Path, url: str, local: Path) -> Path:
    """A PDF that asks its reader to open addresses, programs and files in every way that PDF has."""
    writer = pypdf.PdfWriter(clone_from=pdf_with(path, "See the appendix."))

    def action(kind: str, **more: object) -> DictionaryObject:
        entries = {NameObject("/S"): NameObject(f"/{kind}")}
        return DictionaryObject(entries | {NameObject(f"/{key}"): value for key, value in more.items()})

    file = DictionaryObject({NameObject("/FS"): NameObject("/URL"), NameObject("/F"): TextStringObject(f"{url}/f.pdf")})
    actions = [
        action("URI", URI=TextStringObject(f"{url}/uri")),
        action("Launch", F=TextStringObject(f"{local}")),
        action("GoToR", F=file, D=ArrayObject([NumberObject(0), NameObject("/Fit")])),
        action("SubmitForm", F=file),
        action("ImportData", F=TextStringObject(str(local))),
        action("JavaScript", JS=TextStringObject(f"app.launchURL('{url}/js', true); this.getURL('{url}/js2');")),
    ]
    boxes = ArrayObject([NumberObject(value) for value in (72, 500, 200, 520)])
    annotations = [
        DictionaryObject(
            {NameObject("/Type"): NameObject("/Annot"), NameObject("/Subtype"): NameObject("/Link"),
             NameObject("/Rect"): boxes, NameObject("/A"): one}
        )
        for one in actions
    ]  # fmt: skip
    writer.pages[0][NameObject("/Annots")] = ArrayObject([writer._add_object(one) for one in annotations])
    writer.pages[0][NameObject("/AA")] = DictionaryObject({NameObject("/O"): actions[0]})
    writer._root_object[NameObject("/OpenAction")] = actions[5]
    writer.write(path)
    return path


def calling_page(path: Path, url: str, local: Path) -> Path:
    path.write_text(
        f"""<!doctype html><html><head><title>Lantern</title><base href="{url}/"><meta http-equiv=refresh
content="0;url={url}/refresh"><link rel=stylesheet href="{url}/a.css"><style>@import "{url}/b.css";</style>
<script src="{url}/a.js"></script></head><body background="{url}/bg.png"><img src="{url}/i.png"><img src="{local}">
<iframe src="{url}/frame"></iframe><object data="file://{local}"></object><svg><image href="{url}/s.png"/></svg>
<p>{FACT}</p></body></html>""",
        encoding="utf-8",
    )
    return path


def calling_word_file(path: Path, url: str, local: Path) -> Path:
    """A Word document with a picture elsewhere, and entities that name a file and an address."""
    office = "http://schemas.openxmlformats.org"
    doctype = f'<!DOCTYPE x [<!ENTITY own SYSTEM "file://{local}"><!ENTITY far SYSTEM "{url}/entity">]>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{office}/package/2006/content-types"><Default Extension="xml" ContentType="application/'
            'vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{office}/package/2006/relationships"><Relationship Id="r1" Type="{office}/'
            'officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/_rels/document.xml.rels",
            f'<Relationships xmlns="{office}/package/2006/relationships"><Relationship Id="p1" Type="{office}/'
            f'officeDocument/2006/relationships/image" Target="{url}/p.png" TargetMode="External"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml",
            f'<?xml version="1.0"?>{doctype}<w:document xmlns:w="{office}/wordprocessingml/2006/main" xmlns:a="{office}'
            f'/drawingml/2006/main" xmlns:r="{office}/officeDocument/2006/relationships"><w:body><w:p><w:r><w:t>{FACT}'
            '</w:t></w:r></w:p><w:p><w:r><w:drawing><a:blip r:link="p1"/></w:drawing></w:r></w:p><w:p><w:r><w:t>'
            "&own;&far;</w:t></w:r></w:p></w:body></w:document>",
        )
    return path


def calling_notes(path: Path, url: str, local: Path) -> Path:
    path.write_text(
        f"# Lantern\n\n{FACT}\n\n![x]({url}/m.png) [go]({url}/l) <{url}/auto>\n\n![y](file://{local})\n\n"
        f'<img src="{url}/h.png">\n\n[r]: {url}/ref "t"\n',
        encoding="utf-8",
    )
    return path


def text_or_refusal(path: Path, name: str) -> str:
    try:
        return "\n".join(page.text for page in read_document(path, source=name, limits=LIMITS).pages)
    except FileRefused as refusal:
        return f"refused: {refusal}"


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.pdf", calling_pdf), ("a.html", calling_page), ("a.docx", calling_word_file), ("a.md", calling_notes)],
    ids=["pdf", "html", "docx", "markdown"],
)
def test_reading_a_file_fetches_nothing_opens_no_other_file_and_runs_nothing(
    name: str, write: object, tmp_path: Path
) -> None:
    local = tmp_path / "private.txt"
    local.write_text("canary-of-this-machine", encoding="utf-8")
    assert callable(write)
    with listening_server() as (url, visits):
        path = write(tmp_path / name, url, local)
        text = text_or_refusal(path, name)
        assert visits == []
    assert FACT in text or (name == "a.docx" and text.startswith("refused")), "entities are reason enough to refuse"
    assert "canary-of-this-machine" not in text
