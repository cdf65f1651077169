"""Answers without an LLM: whole sentences, verbatim, picked by the real cross-encoder that the project ships."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.citations import uncited_sentences, with_round_brackets
from rag.engines.cross_encoder import CrossEncoderReranker
from rag.ports import Progress
from rag.quotes import MOST_QUOTES, MOST_SCORED, quote_answer, quote_parts
from rag.types import Answer, Candidate, Chunk, EngineInfo, PageSpan, Part, Passage, RankedChunk, Relevance

CRITICAL = (
    "3.2 Waiting periods\n"
    "Cover starts on the Start Date printed in the schedule. The waiting period for critical illness runs from there. "
    "It is 180 days. Premiums are due from the first month.\n"
    "3.3 Exclusions\n"
    "War and nuclear risks are excluded."
)
DENTAL = (
    "Dental Care Plan\nThe waiting period for dental prostheses is 90 days. Check-ups have none.\nYou can claim online."
)
SHOP = "Parcels are sent with the post. You get a tracking number by e-mail as soon as yours has left."
LEAFLET = (
    "Do not give this medicine if your child:\n"
    "- is younger than 3 months\n"
    "- has had an allergic reaction to ibuprofen\n"
    "- has a stomach ulcer\n"
    "Keep the bottle away from light and heat."
)


def kept(*texts: str, title: str = "Contract", heading: str | None = None) -> list[RankedChunk]:
    chunks = [
        Chunk(f"chunk-{number}", "doc", title, heading, text, (PageSpan(number * 10, 0, len(text)),), number, 50)
        for number, text in enumerate(texts, start=1)
    ]
    return [RankedChunk(Candidate(chunk, rank, 1 / rank), rank, 0.9) for rank, chunk in enumerate(chunks, start=1)]


class LexicalScorer:
    """Honours the port with scores that follow from a rule, where a test must know them."""

    info = EngineInfo("reranker", "lexical")

    def __init__(self, rule: Callable[[str], float | None]) -> None:
        self.rule = rule
        self.seen: list[str] = []

    def score(self, query: str, passages: Sequence[Passage], *, progress: Progress | None = None) -> list[Relevance]:
        self.seen += [passage.text for passage in passages]
        scores = [self.rule(passage.text) for passage in passages]
        return [Relevance(score if score is not None else -float(number), score) for number, score in enumerate(scores)]

    def estimate_seconds(self, n_passages: int) -> float | None:
        return 0.0


def quotes(answer: Answer) -> list[str]:
    return [citation.quote for citation in answer.citations]


def assert_verbatim_and_cited(answer: Answer, passages: Sequence[RankedChunk]) -> None:
    assert answer.kind == "quoted"
    assert 1 <= len(answer.citations) <= MOST_QUOTES
    for citation in answer.citations:
        assert citation.chunk is passages[citation.marker - 1].chunk
        assert citation.quote in " ".join(citation.chunk.text.split())
        assert citation.page == citation.chunk.first_page
    assert answer.text == "\n".join(
        f"- “{with_round_brackets(citation.quote)}” [{citation.marker}]" for citation in answer.citations
    )


def test_the_sentence_that_answers_is_quoted_with_what_it_leans_on(embedded_reranker: CrossEncoderReranker) -> None:
    passages = kept(DENTAL, CRITICAL)
    answer = quote_answer("How long is the waiting period for critical illness?", passages, embedded_reranker)
    assert_verbatim_and_cited(answer, passages)
    [quote] = [citation.quote for citation in answer.citations if citation.marker == 2]
    assert "The waiting period for critical illness runs from there. It is 180 days." in quote
    assert "War and nuclear" not in answer.text
    assert "3.2 Waiting periods" not in answer.text, "a heading is context, not a quote"


def test_what_has_nothing_to_do_with_the_question_is_left_out(embedded_reranker: CrossEncoderReranker) -> None:
    passages = kept(DENTAL, SHOP, title="Papers")
    answer = quote_answer("What is the waiting period for dental prostheses?", passages, embedded_reranker)
    assert quotes(answer)[0].startswith("The waiting period for dental prostheses is 90 days.")
    assert "tracking number" not in answer.text


def test_an_item_of_a_list_is_understood_by_its_lead_in(embedded_reranker: CrossEncoderReranker) -> None:
    passages = kept(LEAFLET, SHOP, title="Ibuprofen for children")
    answer = quote_answer("Can I give ibuprofen to a child with a stomach ulcer?", passages, embedded_reranker)
    assert_verbatim_and_cited(answer, passages)
    [quote] = quotes(answer)
    assert quote.startswith("Do not give this medicine if your child:"), "an item alone would say the opposite"
    assert quote.endswith("- has a stomach ulcer")
    assert uncited_sentences(answer.text) == ()


def test_the_same_sentence_in_overlapping_passages_is_quoted_once(embedded_reranker: CrossEncoderReranker) -> None:
    sentence = "The waiting period for critical illness is 180 days."
    passages = kept(f"{sentence} Claims are paid in euros.", f"Read all conditions. {sentence}", sentence)
    answer = quote_answer("How long is the waiting period for critical illness?", passages, embedded_reranker)
    assert answer.text.count("180 days") == 1
    assert answer.citations[0].marker == 1


def test_headings_and_lead_ins_are_read_with_what_follows_them() -> None:
    scorer = LexicalScorer(lambda text: 0.5)
    quote_answer("anything", kept(LEAFLET, CRITICAL, title="Leaflet"), scorer)
    assert "Leaflet\nDo not give this medicine if your child:\n- has a stomach ulcer" in scorer.seen
    assert "Leaflet\nKeep the bottle away from light and heat." in scorer.seen, "the list is over"
    assert "Leaflet\n3.3 Exclusions\nWar and nuclear risks are excluded." in scorer.seen
    assert not any(text.endswith(("child:", "Waiting periods", "Exclusions")) for text in scorer.seen)


def test_the_best_is_always_quoted_and_others_only_from_a_share_of_its_score_on() -> None:
    sentences = {
        f"Sentence {word} says something of its own about {word}.": 0.0 for word in ("oak", "elm", "ash", "yew")
    }
    scores = dict(zip(sentences, (0.3, 0.5, 0.299, 0.01), strict=True))
    scorer = LexicalScorer(lambda text: next(score for sentence, score in scores.items() if sentence in text))
    answer = quote_answer("trees", kept("\n".join(scores)), scorer)
    assert quotes(answer) == [list(scores)[1], list(scores)[0]], "0.5, and 0.3 = 0.6 * 0.5; 0.299 is less"


def test_the_best_quote_comes_first_the_others_in_order_of_passages_and_they_are_not_too_many() -> None:
    words = ("oak", "elm", "ash", "yew", "fir", "box", "fig", "bay")
    sentences = [f"A {word} stands alone near the {word} gate number {word}." for word in words]
    passages = kept("\n".join(sentences[:4]), "\n".join(sentences[4:]))
    ranking = [7, 2, 4, 1, 0, 3, 5, 6]  # best first
    scorer = LexicalScorer(
        lambda text: 0.9 - 0.01 * next(ranking.index(n) for n, sentence in enumerate(sentences) if sentence in text)
    )
    answer = quote_answer("trees", passages, scorer)
    best, *others = ranking[:MOST_QUOTES]
    assert quotes(answer) == [sentences[n] for n in [best, *sorted(others)]]
    assert [citation.marker for citation in answer.citations] == [2, 1, 2]
    assert_verbatim_and_cited(answer, passages)


def test_neighbours_in_a_paragraph_become_one_quote() -> None:
    scorer = LexicalScorer(lambda text: 0.1 if "sea" in text else 0.9)
    rivers = "Paris lies on the Seine river. Lyon lies on the Rhone too."
    text = f"{rivers} Nice lies at a blue sea. Metz lies on the green Moselle."
    assert quotes(quote_answer("rivers", kept(text), scorer)) == [
        rivers,
        "Metz lies on the green Moselle.",
    ]


def test_a_scorer_without_scores_gets_its_best_quoted_alone() -> None:
    answer = quote_answer("rivers", kept(DENTAL, SHOP), LexicalScorer(lambda text: None))
    assert quotes(answer) == ["The waiting period for dental prostheses is 90 days."]


@pytest.mark.parametrize("text", ["Price list", "Index\n\nA\nB", "x", "180 days"])
def test_a_passage_of_fragments_is_quoted_by_its_beginning(text: str) -> None:
    answer = quote_answer("prices", kept(text), LexicalScorer(lambda text: 0.5))
    assert quotes(answer) == [text.split("\n")[0]]


def test_a_mass_of_sentences_is_cut_to_those_with_words_of_the_question() -> None:
    filler = "\n".join(f"Row {number} is about something else entirely." for number in range(300))
    scorer = LexicalScorer(lambda text: 0.9 if "zebra" in text else 0.1)
    answer = quote_answer("Where does the zebra live?", kept(f"{filler}\nA zebra may live in a quiet house."), scorer)
    assert len(scorer.seen) == MOST_SCORED
    assert quotes(answer) == ["A zebra may live in a quiet house."]


def test_each_covered_part_is_quoted_from_its_own_passages(embedded_reranker: CrossEncoderReranker) -> None:
    passages = kept(CRITICAL, DENTAL, SHOP, title="Papers")
    parts = [
        Part("What is the waiting period for dental prostheses?", 0.9, True, kept_ids=("chunk-2",)),
        Part("How are stones cut?", 0.1, False),
        Part("How are parcels sent?", 0.8, True, kept_ids=("chunk-3",)),
    ]
    answer = quote_parts(parts, passages, embedded_reranker)
    assert quotes(answer)[0].startswith("The waiting period for dental prostheses is 90 days.")
    assert "Parcels are sent with the post." in " ".join(quotes(answer))
    markers = [citation.marker for citation in answer.citations]
    assert markers == sorted(markers), "part by part"
    assert set(markers) == {2, 3}
    for citation in answer.citations:
        assert citation.chunk is passages[citation.marker - 1].chunk
        assert citation.quote in " ".join(citation.chunk.text.split())


def test_what_answers_two_parts_is_quoted_once() -> None:
    parts = [Part(text, 0.9, True, kept_ids=("chunk-1",)) for text in ("Where is Lyon?", "On which river is Lyon?")]
    answer = quote_parts(parts, kept("Lyon lies on the Rhone."), LexicalScorer(lambda text: 0.5))
    assert quotes(answer) == ["Lyon lies on the Rhone."]


def test_a_documents_own_bracketed_numbers_are_not_taken_for_markers() -> None:
    answer = quote_answer("ulcer", kept("An ulcer was seen in four patients [2]."), LexicalScorer(lambda text: 0.5))
    assert quotes(answer) == ["An ulcer was seen in four patients [2]."]
    assert answer.text == "- “An ulcer was seen in four patients (2).” [1]"


@given(st.lists(st.text(min_size=1, max_size=120).filter(str.strip), min_size=1, max_size=4), st.text(max_size=30))
def test_whatever_the_passages_hold_quotes_are_verbatim(texts: list[str], query: str) -> None:
    passages = kept(*texts)
    answer = quote_answer(query, passages, LexicalScorer(lambda text: len(text) % 10 / 10))
    assert_verbatim_and_cited(answer, passages)
