"""A chat as Markdown and as PDF: all that was said is there, nothing becomes markup, what can't be set is counted."""

from __future__ import annotations

from pathlib import Path

from ingest.read_pdf import read_pdf
from rag.export import chat_as_markdown
from rag.types import Answer, Check, Result
from tests.rag.traces import answer_to, refusal_of, trace_of
from ui.chat_export import chat_as_pdf


def chat() -> list[Result]:
    answered, refused = trace_of("t1"), trace_of("t2", (0.2, 0.1), question="Is <b>theft</b> *covered*?")
    answer = Answer(
        "It is 7 days [1]. It floats.",
        answer_to(answered).citations,
        "written",
        checks=(Check(0, 17, (1,), 0.9), Check(18, 28, (), None, "no_citation")),
    )
    return [Result(answer, answered), Result(refusal_of(refused), refused)]


def test_markdown_has_questions_answers_quotes_refusals_and_doubts() -> None:
    text = chat_as_markdown(chat(), title="My chat")
    assert text.startswith("# My chat\n")
    assert "## How long is the waiting period?" in text
    assert "It floats. [unsupported: it cites nothing]" in text
    assert "> “as agreed”" in text
    assert "*Contract, page 1*" in text
    assert "**Refused.** The documents do not answer this question" in text
    assert "## Is \\<b\\>theft\\</b\\> \\*covered\\*?" in text, "nobody's words become markup"


def test_the_pdf_says_the_same_and_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "chat.pdf"
    path.write_bytes(chat_as_pdf(chat(), title="My chat"))
    text = " ".join(" ".join(page.text for page in read_pdf(path).pages).split())
    for said in (
        "My chat",
        "How long is the waiting period?",
        "It floats. [unsupported: it cites nothing]",
        "“as agreed”",
        "[1] Contract, page 1",
        "Is <b>theft</b> *covered*?",
        "Refused. The documents do not answer this question",
    ):
        assert said in text


def test_what_no_font_has_is_counted_and_not_passed_over(tmp_path: Path) -> None:
    asked = trace_of(question="保険とは何ですか？ שלום")
    path = tmp_path / "chat.pdf"
    path.write_bytes(chat_as_pdf([Result(refusal_of(asked), asked)]))
    text = " ".join(page.text for page in read_pdf(path).pages)
    assert f"{len('保険とは何ですか？') + len('שלום')} characters could not be set" in text
    assert "保険とは何ですか" in chat_as_markdown([Result(refusal_of(asked), asked)])
