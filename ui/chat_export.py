"""A chat to take along: as Markdown, or as a PDF to print. Both hold answers, quotes, refusals and what is unsupported.

What is said in them is `rag.export`'s; here it is only set, and offered.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from xml.sax.saxutils import escape

import streamlit as st
from reportlab.lib.enums import TA_LEFT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer

from rag.export import Kinds, chat_as_markdown, checked_text, place_text, refusal_text, refused_part_text
from rag.types import Answer, Result
from ui.words import ALL_PDF, readable

_TEXT, _BOLD = "Vera", "VeraBd"
_MISSING = "\u25a1"


def show_chat_export(outcomes: Sequence[Result | None], *, title: str = "Chat", kinds: Kinds = ALL_PDF) -> None:
    """Two buttons; nothing for a chat without outcomes (None: a question that has none yet, or ended in an outage)."""
    results = [result for result in outcomes if result is not None]
    if not results:
        return
    with st.container(key="r37-chat-export", horizontal=True, gap="small"):
        st.download_button(
            "Chat as Markdown",
            lambda: chat_as_markdown(results, title=title, kinds=kinds),
            file_name="rank37-chat.md",
            mime="text/markdown",
            key="chat_markdown",
            type="tertiary",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "Chat as PDF",
            lambda: chat_as_pdf(results, title=title, kinds=kinds),
            file_name="rank37-chat.pdf",
            mime="application/pdf",
            key="chat_pdf",
            type="tertiary",
            icon=":material/download:",
            on_click="ignore",
        )


def chat_as_pdf(results: Sequence[Result], *, title: str = "Chat", kinds: Kinds = ALL_PDF) -> bytes:
    """The chat as pages to print.

    Latin letters are set; others, for which no font comes with the program, are boxes, and the last line says how many:
    the Markdown has them.
    """
    setter = _Setter()
    story: list[Flowable] = [setter.line(title, "title")]
    for result in results:
        trace, outcome = result.trace, result.outcome
        story += [setter.line(trace.question, "question"), setter.line(trace.asked_at, "small")]
        if isinstance(outcome, Answer):
            if outcome.kind == "quoted":
                story.append(setter.line("Quoted word for word from the documents; no LLM wrote any of it.", "small"))
            else:
                story += [setter.line(line, "text") for line in checked_text(outcome).split("\n") if line.strip()]
            for citation in outcome.citations:
                story.append(setter.line(f"“{citation.quote}”", "quote"))
                place = place_text(citation.page, citation.chunk.document_id, kinds)
                story.append(setter.line(f"[{citation.marker}] {citation.chunk.title}, {place}", "source"))
            for part in trace.parts:
                if not part.covered:
                    story.append(setter.line(refused_part_text(part, trace.floor), "text"))
        else:
            story.append(setter.line(f"Refused. {refusal_text(outcome, trace)}", "text"))
        story.append(Spacer(1, 10))
    if setter.n_missing:
        note = f"{setter.n_missing} characters could not be set and are shown as boxes: the Markdown export has them."
        story.append(setter.line(note, "small"))
    buffer = io.BytesIO()
    SimpleDocTemplate(buffer, pagesize=A4, title=readable(title), leftMargin=62, rightMargin=62).build(story)
    return buffer.getvalue()


class _Setter:
    """Sets lines of text in the fonts that come with the program."""

    def __init__(self) -> None:
        for font in {_TEXT, _BOLD} - set(pdfmetrics.getRegisteredFontNames()):
            pdfmetrics.registerFont(TTFont(font, f"{font}.ttf"))
        self.n_missing = 0
        self._glyphs = pdfmetrics.getFont(_TEXT).face.charToGlyph
        plain = ParagraphStyle("text", fontName=_TEXT, fontSize=9.5, leading=14, alignment=TA_LEFT, spaceAfter=5)
        self._styles = {
            "title": ParagraphStyle("title", plain, fontName=_BOLD, fontSize=16, leading=21, spaceAfter=10),
            "question": ParagraphStyle("question", plain, fontName=_BOLD, fontSize=11.5, leading=16, spaceBefore=8),
            "text": plain,
            "small": ParagraphStyle("small", plain, fontSize=8, leading=11, textColor="#5c666b"),
            "quote": ParagraphStyle("quote", plain, leftIndent=14, spaceAfter=1),
            "source": ParagraphStyle("source", plain, leftIndent=14, fontSize=8, leading=11, textColor="#0f7466"),
        }

    def line(self, text: str, style: str) -> Paragraph:
        return Paragraph("".join(self._set(character) for character in readable(text)), self._styles[style])

    def _set(self, character: str) -> str:
        if ord(character) in self._glyphs or character == " ":
            return escape(character)
        plain = {"→": "->", "−": "-", "\u2011": "-", "\u202f": " ", "\u2009": " "}.get(character)
        if plain is None:
            self.n_missing += 1
            return _MISSING if ord(_MISSING) in self._glyphs else "?"
        return escape(plain)
