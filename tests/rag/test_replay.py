"""A ranking seen again: what another floor keeps, and what became of each passage."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from rag.deciding import MOST_SENTENCES, deciding_sentences
from rag.engines.late_fusion import cross_encoder_of, embedded_reranker
from rag.export import RANKING_COLUMNS, ranking_csv, trace_as_json
from rag.floor import keep
from rag.merge import keep_for_parts, merge_candidates, merge_rankings
from rag.replay import at_floor, best_anyway, states
from rag.rerank import order
from rag.types import Candidate, Chunk, PageSpan, RankedChunk, Relevance, Trace
from tests.rag.traces import trace_of

SCORES = (0.9, 0.6, 0.5, 0.4, 0.39, None)


def passage(name: str, text: str, page: int = 1, title: str = "Manual") -> Chunk:
    return Chunk(name, "d", title, None, text, (PageSpan(page, 0, len(text)),), page, 9)


@pytest.mark.parametrize("floor", [0.0, 0.39, 0.3999, 0.4, 0.7, 0.95, 1.0])
def test_another_floor_keeps_what_the_gate_itself_would_keep(floor: float) -> None:
    trace = trace_of(scores=SCORES)
    seen = at_floor(trace, floor)
    assert seen.kept == keep(trace.ranked, floor=floor, limit=trace.answer_limit)
    assert seen.floor == floor
    assert (seen.ranked, seen.candidates) == (trace.ranked, trace.candidates)


def test_at_its_own_floor_a_trace_is_as_it_was() -> None:
    trace = trace_of(scores=SCORES)
    assert at_floor(trace, trace.floor) is trace


def of_parts(first: tuple[float, ...], second: tuple[float, ...], floor: float, limit: int = 3) -> Trace:
    """A trace of two parts that recalled different passages, at that floor."""
    recalled = [
        tuple(
            Candidate(passage(f"{part}{rank}", f"{part} {rank}"), rank, 1 / rank) for rank in range(1, len(scores) + 1)
        )
        for part, scores in (("a", first), ("b", second))
    ]
    rankings = [
        order(candidates, [Relevance(score, score) for score in scores])
        for candidates, scores in zip(recalled, (first, second), strict=True)
    ]
    candidates = merge_candidates(recalled)
    ranked = merge_rankings(rankings, candidates)
    kept, parts = keep_for_parts(("A?", "B?"), rankings, ranked, floor=floor, limit=limit)
    return Trace("t", "", "q", "q", floor, limit, (), candidates, ranked, kept, parts=parts)


@pytest.mark.parametrize("floor", [0.05, 0.3, 0.5, 0.75, 0.99])
def test_parts_are_kept_in_turn_at_another_floor_as_well(floor: float) -> None:
    scores = (0.9, 0.8, 0.7), (0.5, 0.1)
    seen, really = at_floor(of_parts(*scores, floor=0.4), floor), of_parts(*scores, floor=floor)
    assert seen.kept == really.kept
    assert [(part.covered, part.kept_ids) for part in seen.parts] == [
        (part.covered, part.kept_ids) for part in really.parts
    ]


def test_the_best_few_are_kept_anyway_and_the_floor_that_they_miss_is_still_named() -> None:
    trace = trace_of(scores=(0.3, 0.2, 0.1, None))
    assert trace.kept == ()
    seen = best_anyway(trace)
    assert [ranked.score for ranked in seen.kept] == [0.3, 0.2], "the limit of this trace is two"
    assert seen.floor == trace.floor
    assert best_anyway(trace_of(scores=(None, None))).kept == ()
    of_two = best_anyway(of_parts((0.3,), (0.2, 0.1), floor=0.4))
    assert [ranked.chunk.id for ranked in of_two.kept] == ["a1", "b1", "b2"]
    assert all(part.covered for part in of_two.parts)


def ranked_of(*texts_and_scores: tuple[str, float | None], limit: int = 2) -> Trace:
    ranked = tuple(
        RankedChunk(Candidate(passage(f"c{rank}", text), rank, 1 / rank), rank, score)
        for rank, (text, score) in enumerate(texts_and_scores, start=1)
    )
    candidates = tuple(one.candidate for one in ranked)
    return Trace(
        "t", "", "q", "q", 0.4, limit, (), candidates, ranked, keep(ranked, floor=0.4, limit=limit)
    )  # fmt: skip


def test_each_passage_has_the_state_that_it_ended_in() -> None:
    trace = ranked_of(
        ("The period is 180 days.", 0.9),
        ("It starts with the contract.", 0.8),
        ("THE PERIOD is 180 days!", 0.7),
        ("It never ends.", 0.4),
        ("It ends.", 0.399),
        ("It starts with the contract.", 0.1),
        ("Unread.", None),
    )
    found = [(state.name, state.marker, state.same_as) for state in states(trace).values()]
    assert found == [
        ("kept", 1, None),
        ("kept", 2, None),
        ("duplicate", None, 1),
        ("cut", None, None),
        ("below", None, None),
        ("below", None, 2),
        ("unscored", None, None),
    ]


def test_nearly_the_same_words_are_the_same_and_one_number_more_of_few_is_not() -> None:
    words = " ".join(f"word{n}" for n in range(40))
    same = states(ranked_of((words, 0.9), (f"{words} more", 0.8), ("180 days", 0.7), ("90 days", 0.6), limit=1))
    assert [state.same_as for state in same.values()] == [None, 1, None, None]  # 40 / 41 >= 0.9; 1 / 3 < 0.9


def test_the_table_has_every_passage_with_its_ranks_scores_and_state() -> None:
    trace = ranked_of(("=HYPERLINK(1)", 0.9), ("Line one.\nLine two, “quoted”.", 0.1), limit=1)
    rows = list(csv.DictReader(io.StringIO(ranking_csv(trace), newline="")))
    assert tuple(rows[0]) == RANKING_COLUMNS
    assert [(row["rank"], row["recall_rank"], row["score"], row["state"]) for row in rows] == [
        ("1", "1", "0.9", "kept"),
        ("2", "2", "0.1", "below"),
    ]
    assert rows[0]["text"] == "'=HYPERLINK(1)", "no spreadsheet takes it for a formula"
    assert rows[1]["text"] == "Line one.\nLine two, “quoted”."
    unranked = replace(trace, ranked=trace.ranked[:1])
    last = list(csv.DictReader(io.StringIO(ranking_csv(unranked), newline="")))[-1]
    assert (last["state"], last["recall_rank"], last["rank"]) == ("not ranked", "2", "")


def test_the_trace_as_json_names_both_rankings() -> None:
    trace = trace_of(scores=SCORES)
    row = trace_as_json(trace)
    assert len(row["candidates"]) == len(row["ranked"]) == len(SCORES)


def test_the_deciding_sentence_is_the_one_that_answers() -> None:
    texts = (
        "Contracts are kept in a drawer. The waiting period for critical illness is 180 days. Claims go by post.",
        "Payments are made monthly. Nobody waits longer than 180 days for critical illness cover. Bring a pen.",
    )
    trace = replace(
        ranked_of((texts[0], 0.9), (texts[1], 0.8)), query="How long is the waiting period for critical illness?"
    )
    found = deciding_sentences(trace, cross_encoder_of(embedded_reranker()))
    assert [deciding.chunk_id for deciding in found] == ["c1", "c2"]
    assert found[0].text == "The waiting period for critical illness is 180 days."
    assert found[1].text == "Nobody waits longer than 180 days for critical illness cover."
    assert all(deciding.score is not None and 0 <= deciding.score <= 1 for deciding in found)


def test_a_passage_of_very_many_sentences_is_read_so_far_only() -> None:
    class Counting:
        n = 0

        def score(self, query: str, passages: list[object], **_: object) -> list[Relevance]:
            self.n += len(passages)
            return [Relevance(0.0, None) for _ in passages]

    scorer = Counting()
    (deciding,) = deciding_sentences(ranked_of(("A word. " * 500, 0.9)), scorer)  # type: ignore[arg-type]  # only scores
    assert scorer.n == MOST_SENTENCES
    assert deciding.score is None
