"""A result as a person reads it at a terminal. It renders; it computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import markup
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from rag.export import pages_text, refusal_text, refused_part_text
from rag.invisible import without_invisible
from rag.types import Answer, RankedChunk, RerankerState, Result, Trace

_CONTROLS = {code: None for code in (*range(9), *range(11, 32), *range(127, 160))}
"""All but tab and line feed: an escape sequence could retitle, clear or fake what a terminal shows."""

ROWS_SHOWN = 10
"""How many rows of the ranking a terminal shows; --json has all."""


def print_result(result: Result, console: Console) -> None:
    """The answer with its citations, or the refusal, then what parts are refused and the top of both rankings."""
    outcome, trace = result.outcome, result.trace
    if isinstance(outcome, Answer):
        console.print(escape(outcome.text), highlight=False)
        console.print()
        for citation in outcome.citations:
            where = f"{citation.chunk.title}, page {citation.page}"
            console.print(
                f"  [bold]\\[{citation.marker}][/bold] {escape(where)}: “{escape(citation.quote)}”", highlight=False
            )
    else:
        console.print(f"[bold]No answer.[/bold] {escape(refusal_text(outcome, trace))}", highlight=False)
    for part in trace.parts:
        if not part.covered:
            console.print()
            console.print(escape(refused_part_text(part, trace.floor)), highlight=False)
    console.print()
    print_ranking(trace, console)
    for note in trace.notes:
        console.print(f"[dim]{escape(note)}[/dim]")


def print_ranking(trace: Trace, console: Console) -> None:
    """The first rows after reranking, each with its rank before, and a line for what else there is."""
    if trace.ranked:
        title = f"Reranked {len(trace.ranked)} of recall, floor {trace.floor:.2f}"
        # Expanded: else the columns that do not wrap share the lack of room, and numbers vanish.
        table = Table(title=title, title_justify="left", expand=True)
        for name in ("rank", "was", "moved", "score", *(["part"] if trace.parts else []), ""):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("passage", ratio=1, no_wrap=True, overflow="ellipsis")
        kept = {ranked.chunk.id for ranked in trace.kept}
        for ranked in trace.ranked[:ROWS_SHOWN]:
            table.add_row(*_row(ranked, kept=ranked.chunk.id in kept, floor=trace.floor))
        console.print(table)
        first = next((ranked for ranked in trace.ranked[ROWS_SHOWN:] if ranked.candidate.rank == 1), None)
        if first is not None:
            what = f"{first.chunk.title}, {pages_text(first.chunk)}"
            console.print(
                f"[dim]search had {escape(what)} first: it is at rank {first.rank} now[/dim]", highlight=False
            )
        for number, part in enumerate(trace.parts, start=1):
            console.print(f"[dim]part {number}: {escape(part.text)}[/dim]", highlight=False)
        if len(trace.ranked) > ROWS_SHOWN:
            console.print(f"[dim]… and {len(trace.ranked) - ROWS_SHOWN} more (--json prints all)[/dim]")
    for info in trace.engines:
        details = ", ".join(detail for detail in (info.precision, info.why) if detail)
        console.print(f"[dim]{info.role}: {escape(info.name)} ({escape(details)})[/dim]", highlight=False)
    seconds = trace.timings_ms.get("total", 0.0) / 1000
    cached = f", {trace.n_cached} of {len(trace.ranked)} scores from the cache" if trace.n_cached else ""
    rerank_ms = trace.timings_ms.get("rerank")
    rerank = f" (rerank {rerank_ms / 1000:.2f} s{cached})" if rerank_ms is not None else ""
    console.print(f"[dim]{seconds:.2f} s{rerank}[/dim]")


def print_rerankers(states: Sequence[RerankerState], console: Console) -> None:
    """One row a kind of reranker; the one that the settings name is marked."""
    table = Table(title="Rerankers (RANK37_RERANKER)", title_justify="left")
    for name in ("", "setting", "what it is", "state", "data"):
        table.add_column(name, overflow="fold")
    for row in states:
        state = "[green]ready[/green]" if row.state == "ready" else f"{row.state}: {escape(row.remedy)}"
        table.add_row("▶" if row.named else "", escape(row.setting), escape(row.what), state, escape(row.data))
    console.print(table)
    if not any(row.named for row in states):
        console.print(
            "None is named: it is BAAI/bge-reranker-v2-m3 if that is on this machine, else embedded.", highlight=False
        )


def _row(ranked: RankedChunk, *, kept: bool, floor: float) -> tuple[str, ...]:
    change = ranked.rank_change
    moved = f"[green]▲{change}[/green]" if change > 0 else f"[red]▼{-change}[/red]" if change < 0 else "="
    score = "-" if ranked.score is None else f"{ranked.score:.3f}"
    text = " ".join(ranked.chunk.text.split())
    passage = f"{ranked.chunk.title}, {pages_text(ranked.chunk)}: {text}"
    return (
        str(ranked.rank),
        str(ranked.candidate.rank),
        moved,
        score,
        *([str(ranked.part)] if ranked.part else []),
        "[green]kept[/green]" if kept else _why_not(ranked, floor),
        escape(passage),
    )


def _why_not(ranked: RankedChunk, floor: float) -> str:
    """Why a passage was not kept."""
    if ranked.score is None:
        return "[dim]not scored[/dim]"
    return "[dim]below floor[/dim]" if ranked.score < floor else "[dim]not needed[/dim]"


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr; what is yielded takes (what is being done, done, total) and keeps a bar for each."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name)
            progress.update(tasks[name], completed=done, total=total)

        yield show


def escape(text: str) -> str:
    """Text of a document, a person or an LLM as rich markup that is drawn as it stands, without control characters."""
    return markup.escape(without_invisible(text.translate(_CONTROLS)))
