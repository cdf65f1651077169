"""Chunks are in order, verbatim, within the budget, and together hold all text but running heads and feet."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.chunk import CHARACTERS_PER_TOKEN, Heading, chunk_document, running_lines
from rag.ports import Embedder
from rag.types import Chunk, Document, Page

SPECIAL_TOKENS = 2
DOCUMENT = Document("d" * 32, "Manual", "manual.pdf", 1)


def count_tokens(texts: Sequence[str]) -> list[int]:
    """A small tokenizer: words in pieces of four letters, every other character by itself."""
    return [len(re.findall(r"\w{1,4}|[^\w\s]", text)) for text in texts]


def count_passage_tokens(texts: Sequence[str]) -> list[int]:
    return [n + SPECIAL_TOKENS for n in count_tokens(texts)]


def chunks_of(
    *texts: str,
    headings: Sequence[Heading] = (),
    max_tokens: int = 40,
    overlap_tokens: int = 0,
    title: str = "Manual",
) -> list[Chunk]:
    pages = [Page(DOCUMENT.id, number, text) for number, text in enumerate(texts, 1)]
    document = Document(DOCUMENT.id, title, "manual.pdf", len(pages))
    return chunk_document(
        document,
        pages,
        headings,
        count_tokens=count_tokens,
        count_passage_tokens=count_passage_tokens,
        max_tokens=max_tokens,
        overlap_tokens=overlap_tokens,
    )


def slices(chunk: Chunk, texts: Sequence[str]) -> str:
    return "\n".join(texts[span.page - 1][span.start : span.end] for span in chunk.spans)


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
anything = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=400)
prose = st.lists(
    st.one_of(
        words,
        st.sampled_from(
            [
                "The",
                "waiting",
                "period",
                "is",
                "180",
                "days.",
                "Really?",
                "今日は雨です。",
                "\n",
                "e.g.",
                "x" * 300,
                "  ",
            ]
        ),
    ),
    max_size=150,
).map(" ".join)
page_texts = st.lists(st.one_of(anything, prose), max_size=6)


@st.composite
def headed_pages(draw: st.DrawFn) -> tuple[list[str], list[Heading]]:
    texts = draw(page_texts)
    headings = []
    for number, text in enumerate(texts, 1):
        for start in [match.end() for match in re.finditer(r"^|\n", text)]:
            if draw(st.integers(0, 5)) == 0:
                line = text[start:].split("\n")[0]
                headings.append(Heading(number, start, draw(st.sampled_from([line, "Exclusions", "A " * 90]))))
    return texts, headings


@given(headed_pages(), st.integers(16, 80), st.integers(0, 60), st.one_of(st.just("Manual"), anything))
def test_any_input_gives_verbatim_chunks_in_order_within_the_budget(
    headed: tuple[list[str], list[Heading]], max_tokens: int, overlap_tokens: int, title: str
) -> None:
    texts, headings = headed
    options = {"headings": headings, "max_tokens": max_tokens, "overlap_tokens": overlap_tokens, "title": title}
    chunks = chunks_of(*texts, **options)  # type: ignore[arg-type]  # the values have the types of their names

    for position, chunk in enumerate(chunks):
        assert chunk.position == position
        assert chunk.text == slices(chunk, texts)
        assert chunk.text.strip()
        assert chunk.n_tokens == count_passage_tokens([chunk.passage])[0] <= max_tokens
        assert len(chunk.text) <= CHARACTERS_PER_TOKEN * max_tokens
        pages = [span.page for span in chunk.spans]
        assert pages == sorted(set(pages))
        assert all(span.start < span.end for span in chunk.spans)
    ends = [(chunk.spans[-1].page, chunk.spans[-1].end) for chunk in chunks]
    assert ends == sorted(set(ends)), "every chunk goes further than the one before"
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert chunks == chunks_of(*texts, **options)  # type: ignore[arg-type]  # as above

    covered = {(span.page, at) for chunk in chunks for span in chunk.spans for at in range(span.start, span.end)}
    left_out = running_lines([Page(DOCUMENT.id, number, text) for number, text in enumerate(texts, 1)])
    for number, text in enumerate(texts, 1):
        for at, character in enumerate(text):
            running = any(page == number and start <= at < end for page, start, end in left_out)
            assert character.isspace() or running != ((number, at) in covered)

    for before, after in zip(chunks, chunks[1:], strict=False):
        shared = [
            texts[span.page - 1][max(span.start, other.start) : min(span.end, other.end)]
            for span in after.spans
            for other in before.spans
            if span.page == other.page and max(span.start, other.start) < min(span.end, other.end)
        ]
        assert sum(count_tokens(shared)) <= overlap_tokens


SENTENCES = [f"Sentence number {n} speaks of cover {n}." for n in range(1, 21)]


def test_chunks_end_with_whole_sentences() -> None:
    chunks = chunks_of(" ".join(SENTENCES))
    assert len(chunks) > 1
    assert " ".join(chunk.text for chunk in chunks) == " ".join(SENTENCES)
    assert all(chunk.text.endswith(".") for chunk in chunks)


def test_overlap_is_the_last_whole_sentences_of_the_chunk_before() -> None:
    sentence_tokens = count_tokens(SENTENCES[:1])[0]
    chunks = chunks_of(" ".join(SENTENCES), max_tokens=5 * sentence_tokens, overlap_tokens=sentence_tokens)
    for before, after in zip(chunks, chunks[1:], strict=False):
        last = before.text.rsplit(". ", 1)[-1]
        assert after.text.startswith(last)
        assert after.text != last
    assert chunks_of(" ".join(SENTENCES), overlap_tokens=sentence_tokens - 1) == chunks_of(" ".join(SENTENCES))


def test_a_heading_starts_a_chunk_and_stands_in_its_passages() -> None:
    first = "1 Cover\n" + " ".join(SENTENCES[:6])
    second = "2 Exclusions\n" + " ".join(SENTENCES[6:12])
    text = f"{first}\n{second}"
    chunks = chunks_of(
        text, headings=[Heading(1, 0, "1 Cover"), Heading(1, len(first) + 1, "2 Exclusions")], overlap_tokens=13
    )
    assert [chunk.heading for chunk in chunks] == sorted(
        ["1 Cover"] * sum(chunk.heading == "1 Cover" for chunk in chunks)
        + ["2 Exclusions"] * sum(chunk.heading == "2 Exclusions" for chunk in chunks)
    )
    of_second = [chunk for chunk in chunks if chunk.heading == "2 Exclusions"]
    assert of_second[0].text.startswith("2 Exclusions\nSentence number 7")
    assert of_second[1].passage.startswith("Manual\n2 Exclusions\nSentence number")
    assert all("number 6" not in chunk.text for chunk in of_second), "no overlap across sections"


def test_a_heading_without_a_body_stays_with_what_follows() -> None:
    text = "Part II\n2.1 Waiting period\n" + SENTENCES[0]
    chunks = chunks_of(text, headings=[Heading(1, 0, "Part II"), Heading(1, 8, "2.1 Waiting period")], max_tokens=80)
    assert [chunk.text for chunk in chunks] == [text]

    long_sentence = "The insurer pays " + "and pays " * 30 + "at last."
    chunks = chunks_of(f"Part II\n{long_sentence}", headings=[Heading(1, 0, "Part II")])
    assert chunks[0].text.startswith("Part II\nThe insurer pays and pays")


def test_a_chunk_crosses_the_page_border_with_one_span_a_page() -> None:
    chunks = chunks_of("The waiting period", "is 180 days.")
    assert [(chunk.text, chunk.first_page, chunk.last_page) for chunk in chunks] == [
        ("The waiting period\nis 180 days.", 1, 2)
    ]


def test_a_long_title_and_heading_are_shortened() -> None:
    title, heading = "General conditions of " * 30, "Scope of " * 30
    chunk = chunks_of(SENTENCES[0], headings=[Heading(1, 0, heading)], title=title, max_tokens=64)[0]
    assert chunk.title.startswith("General")
    assert chunk.title.endswith("…")
    assert chunk.heading is not None
    assert chunk.heading.endswith("…")
    assert count_tokens([chunk.title])[0] <= 64 // 8 >= count_tokens([chunk.heading])[0]


def test_running_heads_and_page_numbers_are_left_out_but_the_first_head() -> None:
    texts = [f"General Conditions 2024\n{SENTENCES[7 - n]}\nPage {n + 11} of 20\n{n + 11}" for n in range(8)]
    chunks = chunks_of(*texts, max_tokens=80)
    whole = "\n".join(chunk.text for chunk in chunks)
    assert whole.count("General Conditions 2024") == 1
    assert len(re.findall(r"^\d+$", whole, re.MULTILINE)) == 0
    assert whole.count("Page ") == 1
    assert all(sentence in whole for sentence in SENTENCES[:8])


def test_a_heading_on_a_running_head_is_no_section() -> None:
    texts = [f"General Conditions\n{SENTENCES[n]}" for n in range(8)]
    chunks = chunks_of(*texts, headings=[Heading(n, 0, "General Conditions") for n in range(1, 9)], max_tokens=200)
    assert [chunk.heading for chunk in chunks] == [None]


def test_a_head_that_says_something_else_on_each_page_is_kept() -> None:
    numbers = [4711, 8315, 1207, 9946, 5521]
    whole = "\n".join(chunk.text for chunk in chunks_of(*[f"Invoice {n}\n{SENTENCES[0]}" for n in numbers]))
    assert all(f"Invoice {n}" in whole for n in numbers)


def test_figures_at_the_foot_of_a_page_are_no_page_number() -> None:
    whole = "\n".join(chunk.text for chunk in chunks_of(*[f"{SENTENCES[n]}\n100 200" for n in range(6)]))
    assert whole.count("100 200") == 6


def test_too_small_a_budget_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        chunks_of("Text.", max_tokens=15)
    with pytest.raises(ValueError, match="take larger chunks or a shorter prompt"):
        chunk_document(
            DOCUMENT,
            [Page(DOCUMENT.id, 1, "Text.")],
            [],
            count_tokens=count_tokens,
            count_passage_tokens=lambda texts: [100 for _ in texts],
            max_tokens=40,
            overlap_tokens=0,
        )


def test_a_tokenizer_whose_counts_do_not_add_up_still_gives_chunks_within_the_budget() -> None:
    def whole_is_more(texts: Sequence[str]) -> list[int]:
        return [n + n // 3 for n in count_passage_tokens(texts)]

    chunks = chunk_document(
        DOCUMENT,
        [Page(DOCUMENT.id, 1, " ".join(SENTENCES))],
        [],
        count_tokens=count_tokens,
        count_passage_tokens=whole_is_more,
        max_tokens=50,
        overlap_tokens=14,
    )
    assert max(whole_is_more([chunk.passage for chunk in chunks])) <= 50
    assert all(any(sentence in chunk.text for chunk in chunks) for sentence in SENTENCES)


def test_the_embedders_own_tokenizer_measures_the_chunks(embedder: Embedder) -> None:
    text = "\n".join(
        [
            " ".join(SENTENCES),
            "Selbstbeteiligungsklausel für Auslandskrankenversicherungsfälle. " * 20,
            "等待期为一百八十天。" * 60,
            "x" * 5000,
            "𝔘 ½ ㎡ 👩‍👩‍👧‍👦 " * 50,
        ]
    )
    n_calls = 0

    def counted(texts: Sequence[str]) -> list[int]:
        nonlocal n_calls
        n_calls += 1
        return embedder.count_tokens(texts)

    chunks = chunk_document(
        DOCUMENT,
        [Page(DOCUMENT.id, 1, text)],
        [Heading(1, 0, "Cover")],
        count_tokens=counted,
        count_passage_tokens=embedder.count_passage_tokens,
        max_tokens=embedder.max_tokens,
        overlap_tokens=32,
    )
    lengths = embedder.count_passage_tokens([chunk.passage for chunk in chunks])
    assert max(lengths) <= embedder.max_tokens
    assert lengths == [chunk.n_tokens for chunk in chunks]
    assert n_calls <= 12
