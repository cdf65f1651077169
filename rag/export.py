"""A result as plain JSON values, the form that `python -m rag ask --json` prints, and a ranking as a table. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rag.replay import states
from rag.types import Answer, Candidate, Chunk, DocumentKind, Part, RankedChunk, Refusal, Result, Trace

Kinds = Mapping[str, DocumentKind]
"""Which kind each document is, by its id; one that is not among them is taken for a PDF."""

DOUBT_TEXTS = {
    "no_citation": "unsupported: it cites nothing",
    "other_figure": "unsupported: a figure of it is not in the passages that it cites",
    "not_verbatim": "unsupported: it was put in quotation marks, but is no quote",
    "not_supported": "unsupported: the passages that it cites don’t say so",
}
"""Why a statement is not supported, in words, by `rag.types.Doubt`."""

REFUSAL_TEXTS = {
    "no_candidates": "The collection holds nothing that could be searched for this question.",
    "below_floor": "The documents do not answer this question: no passage reaches the floor.",
    "uncited": "The written answer cited none of the passages, so it is not shown.",
    "model_declined": "The passages that were found do not answer this question.",
}
"""A refusal in words, by reason."""


def result_as_json(result: Result, files: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The result as JSON values; ranks are 1-based, scores in [0, 1], candidates' scores fused recall scores.

    `files` names the file of each document id; `document` is the document's title.
    """
    outcome, trace = result.outcome, result.trace
    files = files or {}
    return {
        "outcome": "answer" if isinstance(outcome, Answer) else "refusal",
        "kind": outcome.kind if isinstance(outcome, Answer) else None,
        "text": outcome.text if isinstance(outcome, Answer) else refusal_text(outcome, trace),
        "reason": outcome.reason if isinstance(outcome, Refusal) else None,
        "best_score": trace.best_score,
        "refused_parts": list(outcome.refused_parts) if isinstance(outcome, Answer) else [],
        "citations": [
            {
                "marker": citation.marker,
                "document": citation.chunk.title,
                "file": files.get(citation.chunk.document_id),
                "page": citation.page,
                "quote": citation.quote,
                "chunk_id": citation.chunk.id,
            }
            for citation in (outcome.citations if isinstance(outcome, Answer) else ())
        ],
        "checks": [asdict(check) for check in outcome.checks] if isinstance(outcome, Answer) else [],
        **trace_as_json(trace, files),
    }


def trace_as_json(trace: Trace, files: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The trace as JSON values, with both full rankings; `files` as for `result_as_json`."""
    files = files or {}
    return {
        "id": trace.id,
        "asked_at": trace.asked_at,
        "question": trace.question,
        "query": trace.query,
        "candidates": [_candidate(candidate, files) for candidate in trace.candidates],
        "ranked": [_ranked(ranked, files) for ranked in trace.ranked],
        "kept": [_ranked(ranked, files) for ranked in trace.kept],
        "parts": [asdict(part) for part in trace.parts],
        "floor": trace.floor,
        "answer_limit": trace.answer_limit,
        "engines": [asdict(info) for info in trace.engines],
        "notes": list(trace.notes),
        "n_cached": trace.n_cached,
        "timings_ms": {stage: round(value, 2) for stage, value in trace.timings_ms.items()},
    }


def doubt_text(doubt: str) -> str:
    """Why a statement is not supported, in words.

    >>> doubt_text("no_citation")
    'unsupported: it cites nothing'
    """
    return DOUBT_TEXTS.get(doubt, "unsupported")


def checked_text(answer: Answer) -> str:
    """The answer's text with what is not supported marked in words.

    >>> from rag.types import Check
    >>> checks = (Check(15, 25, (), None, "no_citation"),)
    >>> checked_text(Answer("It floats [1]. It shines.", (), "written", checks=checks))
    'It floats [1]. It shines. [unsupported: it cites nothing]'
    """
    text = answer.text
    for check in sorted(answer.checks, key=lambda check: -check.end):
        if check.doubt is not None:
            text = f"{text[: check.end]} [{doubt_text(check.doubt)}]{text[check.end :]}"
    return text


def place_text(number: int, document_id: str, kinds: Kinds | None = None) -> str:
    """A page of a document, or a section where its kind has no pages.

    >>> place_text(3, "a", {"a": "docx"}), place_text(3, "b")
    ('section 3', 'page 3')
    """
    return f"{'page' if (kinds or {}).get(document_id, 'pdf') == 'pdf' else 'section'} {number}"


def answer_with_sources(answer: Answer, kinds: Kinds | None = None) -> str:
    """The answer as plain text with its citations below, to be pasted somewhere else."""
    lines = [checked_text(answer), ""]
    for citation in answer.citations:
        where = f"{citation.chunk.title}, {place_text(citation.page, citation.chunk.document_id, kinds)}"
        lines.append(f"[{citation.marker}] {where}: “{citation.quote}”")
    return "\n".join(lines)


def chat_as_markdown(results: Sequence[Result], *, title: str = "Chat", kinds: Kinds | None = None) -> str:
    """Questions with their answers, quotes and refusals, in order; what is not supported is marked in words."""
    lines = [f"# {_markdown(title)}", ""]
    for result in results:
        trace, outcome = result.trace, result.outcome
        lines += [f"## {_markdown(trace.question)}", "", f"*{trace.asked_at}*", ""]
        if isinstance(outcome, Answer):
            if outcome.kind == "quoted":
                lines += ["Quoted word for word from the documents; no LLM wrote any of it.", ""]
            else:
                lines += [_markdown_lines(checked_text(outcome)), ""]
            for citation in outcome.citations:
                where = f"{citation.chunk.title}, {place_text(citation.page, citation.chunk.document_id, kinds)}"
                lines += [f"> {_markdown(citation.quote)}", ">", f"> \\[{citation.marker}\\] *{_markdown(where)}*", ""]
            for part in trace.parts:
                if not part.covered:
                    lines += [f"**{_markdown(refused_part_text(part, trace.floor))}**", ""]
        else:
            lines += [f"**Refused.** {_markdown(refusal_text(outcome, trace))}", ""]
        kept = ", ".join(
            f"{ranked.candidate.rank} → {ranked.rank}" + (f" ({ranked.score:.3f})" if ranked.score is not None else "")
            for ranked in trace.kept
        )
        lines += [f"Floor {trace.floor:g}; recalled {len(trace.candidates)}; kept by rank: {kept or 'none'}.", ""]
    return "\n".join(lines)


_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|!~])")
_KEPT_MARKUP = re.compile(r"([\\`_{}<>|!~])")


def _markdown(text: str) -> str:
    """The text on one line, harmless in Markdown."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _markdown_lines(text: str) -> str:
    """An LLM's reply: its lists and bold words stay, nothing else of it is markup."""
    return "\n".join(_KEPT_MARKUP.sub(r"\\\1", line) for line in text.split("\n"))


RANKING_COLUMNS = (
    *("rank", "recall_rank", "rank_change", "score", "logit", "foretold", "first_score", "fused_score", "state"),
    *("marker", "same_as_rank", "part", "floor", "document", "pages", "heading", "chunk_id", "text"),
)
"""Of `ranking_csv`."""


def ranking_csv(trace: Trace) -> str:
    r"""Every ranked passage as a row of a table, in rank order, with what became of it; those not ranked follow.

    A text that a spreadsheet would take for a formula has an apostrophe before it.

    >>> ranking_csv(Trace("1", "", "q", "q", 0.4, 5, ())).startswith("rank,recall_rank,rank_change,score")
    True
    """
    output = io.StringIO()
    table = csv.DictWriter(output, RANKING_COLUMNS, lineterminator="\r\n")
    table.writeheader()
    state_of = states(trace)
    for ranked in trace.ranked:
        state = state_of[ranked.chunk.id]
        table.writerow(
            {
                "rank": ranked.rank,
                "recall_rank": ranked.candidate.rank,
                "rank_change": ranked.rank_change,
                "score": ranked.score,
                "logit": ranked.logit,
                "foretold": int(ranked.foretold),
                "first_score": ranked.first_score,
                "fused_score": ranked.candidate.score,
                "state": state.name,
                "marker": state.marker,
                "same_as_rank": state.same_as,
                "part": ranked.part,
                "floor": trace.floor,
                **_cells(ranked.chunk),
            }
        )
    placed = {ranked.chunk.id for ranked in trace.ranked}
    for candidate in trace.candidates:
        if candidate.chunk.id not in placed:
            row = {"recall_rank": candidate.rank, "fused_score": candidate.score, "state": "not ranked"}
            table.writerow(row | _cells(candidate.chunk))
    return output.getvalue()


def _cells(chunk: Chunk) -> dict[str, object]:
    cells = {"document": chunk.title, "heading": chunk.heading or "", "text": chunk.text}
    numbers = " ".join(str(span.page) for span in chunk.spans)
    return {**{name: _cell(text) for name, text in cells.items()}, "pages": numbers, "chunk_id": chunk.id}


def _cell(text: str) -> str:
    """The text, harmless in a spreadsheet.

    >>> _cell("=1+1"), _cell("1 + 1")
    ("'=1+1", '1 + 1')
    """
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


def refusal_text(refusal: Refusal, trace: Trace) -> str:
    """The refusal in words; below the floor it says what was nearest and how far it fell short.

    >>> from rag.types import Refusal, Trace
    >>> refusal_text(Refusal("no_candidates", None), Trace("1", "", "q", "q", 0.4, 5, ()))
    'The collection holds nothing that could be searched for this question.'
    """
    text = REFUSAL_TEXTS[refusal.reason]
    if refusal.reason != "below_floor":
        return text
    scored = [ranked for ranked in trace.ranked if ranked.score is not None]
    if not scored:
        return text
    nearest = max(scored, key=lambda ranked: ranked.score or 0.0)
    short = trace.floor - (nearest.score or 0.0)
    return (
        f"{text} Nearest was {nearest.chunk.title}, {pages_text(nearest.chunk)}, with {nearest.score:.2f}: "
        f"{short:.2f} below the floor of {trace.floor:.2f}."
    )


def refused_part_text(part: Part, floor: float) -> str:
    """A part of a question that is refused, by name, with its best score and how far it fell short.

    >>> refused_part_text(Part("What does it cost?", 0.21, False), 0.4)
    'Not found in your documents: What does it cost? The best passage scored 0.21: 0.19 below the floor of 0.40.'
    """
    text = f"Not found in your documents: {part.text}"
    if part.best_score is None:
        return text
    short = floor - part.best_score
    return f"{text} The best passage scored {part.best_score:.2f}: {short:.2f} below the floor of {floor:.2f}."


def pages_text(chunk: Chunk) -> str:
    r"""Where a chunk stands, in words.

    >>> from rag.types import PageSpan
    >>> pages_text(Chunk("c", "d", "t", None, "x", (PageSpan(3, 0, 1),), 0, 3))
    'page 3'
    >>> pages_text(Chunk("c", "d", "t", None, "x\ny", (PageSpan(3, 0, 1), PageSpan(4, 0, 1)), 0, 3))
    'pages 3-4'
    """
    if chunk.first_page == chunk.last_page:
        return f"page {chunk.first_page}"
    return f"pages {chunk.first_page}-{chunk.last_page}"


def _where(chunk: Chunk, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "document": chunk.title,
        "document_id": chunk.document_id,
        "file": files.get(chunk.document_id),
        "pages": [span.page for span in chunk.spans],
        "chunk_id": chunk.id,
        "heading": chunk.heading,
        "text": chunk.text,
    }


def _candidate(candidate: Candidate, files: Mapping[str, str]) -> dict[str, Any]:
    return {"rank": candidate.rank, "score": candidate.score, **_where(candidate.chunk, files)}


def _ranked(ranked: RankedChunk, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "rank": ranked.rank,
        "recall_rank": ranked.candidate.rank,
        "score": ranked.score,
        "logit": ranked.logit,
        "foretold": ranked.foretold,
        "first_score": ranked.first_score,
        "cached": ranked.cached,
        "part": ranked.part,
        **_where(ranked.chunk, files),
    }
