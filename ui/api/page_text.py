"""The text of one page, put together from the chunks of its document. Pure; no PDF is opened."""

from __future__ import annotations

from collections.abc import Iterable

from rag.types import SPAN_SEPARATOR, Chunk


def page_text(chunks: Iterable[Chunk], number: int) -> str:
    r"""What the chunks hold of the page with the 1-based number, each character once; empty where they hold nothing.

    What lies between two chunks is white space: a line feed stands for it.

    >>> from rag.types import PageSpan
    >>> def chunk(text, *spans):
    ...     return Chunk("c", "d", "t", None, text, spans, 0, 3)
    >>> chunks = [
    ...     chunk("Keep dry.\nStore", PageSpan(1, 0, 9), PageSpan(2, 0, 5)),
    ...     chunk("Store cold. Do", PageSpan(2, 0, 14)),
    ...     chunk("not freeze.", PageSpan(2, 15, 26)),
    ... ]
    >>> page_text(chunks, 2), page_text(chunks, 3)
    ('Store cold. Do\nnot freeze.', '')
    """
    pieces: list[tuple[int, str]] = []
    for chunk in chunks:
        offset = 0
        for span in chunk.spans:
            length = span.end - span.start
            if span.page == number:
                pieces.append((span.start, chunk.text[offset : offset + length]))
            offset += length + len(SPAN_SEPARATOR)
    text, position = "", 0
    for start, piece in sorted(pieces):
        if text and start > position:
            text += "\n"
        text += piece[max(0, position - start) :]
        position = max(position, start + len(piece))
    return text
