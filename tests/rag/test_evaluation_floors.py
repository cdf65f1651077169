"""Floors from measurements: figures follow from few scores by hand, and hold for any scores."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import BadInput
from rag.evaluation.floors import (
    GRID,
    LEAST_SCORES,
    Decisions,
    ScoredPassage,
    ScoredQuestion,
    calibration,
    conformal_floor,
    histogram,
    questions_needed,
    replay,
    replays,
    sweep,
    sweep_point,
    upper_bound,
    valley,
)
from rag.floor import keep
from rag.types import Candidate, Chunk, PageSpan, RankedChunk


def question(*passages: tuple[float | None, bool], answerable: bool = True, limit: int = 5) -> ScoredQuestion:
    return ScoredQuestion("?", answerable, tuple(ScoredPassage(*passage) for passage in passages), limit)


R, N = True, False
TWO_ANSWERED_ONE_NOT = [
    question((0.9, R), (0.6, N), (0.3, R)),
    question((0.8, N), (0.5, R)),
    question((0.7, N), (0.2, N), answerable=False),
]


def test_a_floor_is_counted_by_passages_and_by_questions() -> None:
    point = sweep_point(TWO_ANSWERED_ONE_NOT, 0.5)
    # Kept: 0.9 R, 0.6 N; 0.8 N, 0.5 R; 0.7 N. Relevant in all: 0.9, 0.3, 0.5.
    assert point.keep == Decisions(right=2, made=5, wanted=3, precision=2 / 5, recall=2 / 3, f1=2 * 2 / (5 + 3))
    # All three are answered, both answerable ones with a relevant passage kept.
    assert point.answer == Decisions(right=2, made=3, wanted=2, precision=2 / 3, recall=1.0, f1=2 * 2 / (3 + 2))
    assert (point.answerable_refused, point.unanswerable_answered) == (0, 1)
    # At 0.75: 0.9 R; 0.8 N. The second is answered from a passage that is not relevant: not right.
    point = sweep_point(TWO_ANSWERED_ONE_NOT, 0.75)
    assert (point.answer.right, point.answer.made) == (1, 2)
    assert (point.answerable_refused, point.unanswerable_answered) == (0, 0)
    assert sweep_point(TWO_ANSWERED_ONE_NOT, 0.95).answer.precision is None, "nothing is answered"


def test_the_best_floors_of_few_questions() -> None:
    found = sweep(TWO_ANSWERED_ONE_NOT)
    # Answers: up to 0.5 F1 = 4/5; from 0.5 to 0.7 right 1 of 3: 2/5; to 0.8: 2/4; to 0.9: 2/3.
    assert found.best_answer.f1.mean == pytest.approx(4 / 5)
    assert (found.best_answer.above, found.best_answer.up_to) == (0.0, 0.5)
    # Passages: to 0.2 of 7 kept 3: 6/10; to 0.3 of 6 3: 6/9; to 0.5 of 5 2: 4/8; to 0.9 of 1 1: 2/4. So up to 0.3.
    assert found.best_keep.f1.mean == pytest.approx(6 / 9)
    assert (found.best_keep.above, found.best_keep.floor, found.best_keep.up_to) == (0.2, 0.25, 0.3)
    assert [point.floor for point in found.grid] == list(GRID)
    assert found.grid[10] == sweep_point(TWO_ANSWERED_ONE_NOT, 0.5)
    assert (found.questions, found.answerable, found.reachable, found.unanswerable) == (3, 2, 2, 1)


def test_the_floor_itself_is_inclusive_and_just_above_it_is_not() -> None:
    one = [question((0.4, R))]
    assert sweep_point(one, 0.4).keep.made == 1
    assert sweep_point(one, math.nextafter(0.4, 1)).keep.made == 0


def test_what_no_floor_can_keep_is_no_floor_s_fault() -> None:
    beyond_limit = question((0.9, N), (0.8, R), limit=1)
    missed = question((0.9, N))
    unscored = question((0.9, N), (None, R))
    found = sweep([question((0.9, R)), beyond_limit, missed, unscored])
    assert (found.answerable, found.reachable) == (4, 1)
    assert found.grid[0].keep.wanted == 1
    with pytest.raises(BadInput, match="none of the 3 questions has a relevant passage"):
        sweep([beyond_limit, missed, unscored])


def test_of_equally_good_floors_the_one_nearest_to_the_usual_is_taken() -> None:
    # Two answerable questions at 0.9 and 0.1, one unanswerable at 0.5: F1 is 2/(1+2) above 0.5, 4/(3+2) up to 0.1.
    # With a second unanswerable at 0.2 and one at 0.15: up to 0.1 it is 4/(5+2) = 4/7 < 2/3.
    found = sweep([question((0.9, R)), question((0.1, R)), *[question((x, N), answerable=False) for x in (0.5, 0.2)]])
    # up to 0.1: 4/(4+2) = 2/3; above 0.5: 2/(1+2) = 2/3.
    assert (found.best_answer.above, found.best_answer.up_to) == (0.5, 0.9), "0.5 is nearer to 0.4 than 0.1"
    again = sweep(
        [question((0.9, R)), question((0.1, R)), *[question((x, N), answerable=False) for x in (0.5, 0.2)]], usual=0.2
    )
    assert (again.best_answer.above, again.best_answer.up_to) == (0.0, 0.1)


def test_intervals_hold_the_figure_and_shrink_with_questions() -> None:
    few, many = sweep(TWO_ANSWERED_ONE_NOT * 3), sweep(TWO_ANSWERED_ONE_NOT * 60)
    for found in (few, many):
        best = found.best_answer
        assert best.f1.low <= best.f1.mean <= best.f1.high
        assert best.low <= best.floor <= best.high
    assert many.best_answer.f1.high - many.best_answer.f1.low < few.best_answer.f1.high - few.best_answer.f1.low
    assert sweep(TWO_ANSWERED_ONE_NOT * 3) == few, "the same questions give the same intervals"


scores = st.one_of(st.none(), st.sampled_from([n / 10 for n in range(11)]), st.floats(0, 1))
passages = st.lists(st.tuples(scores, st.booleans()), max_size=8)


@st.composite
def questions(draw: st.DrawFn, ordered: bool) -> ScoredQuestion:
    answerable = draw(st.booleans())
    rows = [(score, relevant and answerable) for score, relevant in draw(passages)]
    if ordered:
        rows.sort(key=lambda row: -1 if row[0] is None else row[0], reverse=True)
    return question(*rows, answerable=answerable, limit=draw(st.integers(1, 4)))


def kept_by_the_product(one: ScoredQuestion, floor: float) -> list[bool]:
    """The relevance of the passages that `rag.floor.keep` keeps."""
    chunks = [Chunk(str(place), "d", "t", None, "x", (PageSpan(1, 0, 1),), 0, 3) for place in range(len(one.passages))]
    ranked = [
        RankedChunk(Candidate(chunk, rank, 0.0), rank, passage.score)
        for rank, (chunk, passage) in enumerate(zip(chunks, one.passages, strict=True), start=1)
    ]
    return [one.passages[kept.rank - 1].relevant for kept in keep(ranked, floor=floor, limit=one.answer_limit)]


@settings(max_examples=80, deadline=None)
@given(st.lists(questions(ordered=False), min_size=1, max_size=5))
def test_the_sweep_s_best_is_that_of_trying_every_floor_with_the_product_s_own_gate(
    asked: list[ScoredQuestion],
) -> None:
    tried = sorted({0.0, 1.0, *(one.score for own in asked for one in own.passages if one.score is not None)})
    kept = {floor: [kept_by_the_product(one, floor) for one in asked] for floor in tried}
    reachable = sum(any(any(rows[place]) for rows in kept.values()) for place in range(len(asked)))
    if not reachable:
        with pytest.raises(BadInput):
            sweep(asked)
        return
    wanted = 0
    for place, one in enumerate(asked):
        chosen = {(n, passage) for n, passage in enumerate(one.passages) if passage.relevant}
        wanted += sum(
            any(n in [rank for rank in range(len(one.passages)) if is_kept(one, rank, floor)] for floor in tried)
            for n, _ in chosen
        )
        assert (one.gold_floor is not None) == any(any(rows[place]) for rows in kept.values())

    def keep_f1(floor: float) -> float:
        return 2 * sum(map(sum, kept[floor])) / (sum(map(len, kept[floor])) + wanted)

    def answer_f1(floor: float) -> float:
        return 2 * sum(map(any, kept[floor])) / (sum(map(bool, kept[floor])) + reachable)

    found = sweep(asked)
    assert found.reachable == reachable
    assert found.best_keep.point.keep.f1 == pytest.approx(max(map(keep_f1, tried)))
    assert found.best_answer.point.answer.f1 == pytest.approx(max(map(answer_f1, tried)))
    for floor in tried:
        point = sweep_point(asked, floor)
        assert (point.keep.made, point.keep.right) == (sum(map(len, kept[floor])), sum(map(sum, kept[floor])))
        assert point.unanswerable_answered == sum(
            bool(rows) for one, rows in zip(asked, kept[floor], strict=True) if not one.answerable
        )


def is_kept(one: ScoredQuestion, place: int, floor: float) -> bool:
    """Whether the product keeps the passage at that place, told by marking it alone as relevant."""
    marked = [replace(passage, relevant=n == place) for n, passage in enumerate(one.passages)]
    return any(kept_by_the_product(replace(one, passages=tuple(marked)), floor))


@settings(max_examples=100, deadline=None)
@given(st.lists(questions(ordered=True), min_size=1, max_size=6))
def test_a_higher_floor_never_recalls_more(asked: list[ScoredQuestion]) -> None:
    points = [sweep_point(asked, floor) for floor in GRID]
    for lower, higher in zip(points, points[1:], strict=False):
        assert higher.keep.right <= lower.keep.right
        assert higher.answer.right <= lower.answer.right
        assert higher.answerable_refused >= lower.answerable_refused
        assert higher.unanswerable_answered <= lower.unanswerable_answered
    assert points[0].keep.recall in (None, 1.0), "without a floor nothing that can be kept is dropped"


# ---- conformal floors and bounds -----------------------------------------------------------------------------------


def test_the_conformal_floor_is_the_kth_smallest_gold_score() -> None:
    gold = [n / 100 for n in range(1, 20)]
    found = conformal_floor(gold, 0.05)  # k = floor(0.05 * (19 + 1)) = 1
    assert (found.floor, found.k, found.n, found.needed) == (0.01, 1, 19, 19)
    assert conformal_floor(gold[::-1], 0.1).floor == 0.02  # k = 2
    assert conformal_floor([n / 100 for n in range(99)], 0.29).k == 29, "0.29 * 100 is 28.999999999999996 in floats"


def test_a_conformal_floor_says_how_many_questions_it_needs() -> None:
    assert [questions_needed(risk) for risk in (0.5, 0.1, 0.05, 0.01)] == [1, 9, 19, 99]
    with pytest.raises(BadInput, match=r"needs at least 19 .* there are 18: label 1 more, or take a risk of 0\.06"):
        conformal_floor([0.5] * 18, 0.05)
    with pytest.raises(BadInput, match="there are 0: label 19 more$"):
        conformal_floor([], 0.05)
    for risk in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(BadInput, match="above 0 and below 1"):
            conformal_floor([0.5], risk)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 60))
def test_the_right_passage_of_a_further_question_survives_as_promised(seed: int, risk: float, more: int) -> None:
    n = questions_needed(risk) + more
    choose = np.random.default_rng(seed)
    trials = 3000
    drawn = choose.beta(2, 1, size=(trials, n + 1))  # exchangeable: independent, of one kind
    survived = sum(row[n] >= conformal_floor(row[:n].tolist(), risk).floor for row in drawn)
    promised = 1 - math.floor(round(risk * (n + 1), 9)) / (n + 1)  # exactly, for scores without ties
    assert promised >= 1 - risk
    # Five standard errors: once in 3.5 million trials.
    assert abs(survived / trials - promised) < 5 * math.sqrt(promised * (1 - promised) / trials)


def test_with_questions_as_they_are_the_share_of_survivors_lies_where_it_says() -> None:
    # The share of further scores above the k-th smallest of n uniform ones is Beta(n + 1 - k, k); for k = 1 and n = 19
    # its distribution function is x^19.
    found = conformal_floor([n / 20 for n in range(19)], 0.05)
    assert found.coverage_low == pytest.approx(0.05 ** (1 / 19))
    assert found.coverage_high == pytest.approx(0.95 ** (1 / 19))


def test_the_bound_on_a_share_is_where_so_low_a_count_becomes_too_rare() -> None:
    bound = upper_bound(2, 30)
    p = bound.at_most
    as_low = sum(math.comb(30, count) * p**count * (1 - p) ** (30 - count) for count in range(3))
    assert as_low == pytest.approx(0.05)
    assert bound.share == 2 / 30
    assert upper_bound(30, 30).at_most == 1
    assert upper_bound(0, 0).share is None
    with pytest.raises(BadInput, match="31 of 30"):
        upper_bound(31, 30)


def test_a_calibration_counts_what_the_promise_is_not_about() -> None:
    reached = [question(((n + 1) / 10, R)) for n in range(9)]
    found = calibration([*reached, question((0.9, N)), question((0.1, N), answerable=False)], 0.2)
    assert found.conformal.floor == 0.2  # k = floor(0.2 * 10) = 2
    assert (found.answerable, found.out_of_reach) == (10, 1)
    assert found.point.answer.right == 8
    assert (found.unanswerable_answered.count, found.unanswerable_answered.of) == (0, 1)
    assert found.unanswerable_answered.at_most == pytest.approx(0.95), "1 - 0.05^(1/1): one case says little"


# ---- without labels ------------------------------------------------------------------------------------------------


def sigmoid(logits: np.ndarray) -> list[float]:
    return (1 / (1 + np.exp(-logits))).tolist()


def test_a_valley_lies_between_padding_and_evidence() -> None:
    choose = np.random.default_rng(1)
    found = valley(sigmoid(np.concatenate([choose.normal(-4, 1, 150), choose.normal(3, 1, 100)])))
    assert found.floor is not None
    assert found.padding == pytest.approx(sigmoid(np.array([-4.0]))[0], abs=0.02)
    assert found.evidence == pytest.approx(sigmoid(np.array([3.0]))[0], abs=0.05)
    # Equal densities: 150 exp(-(x + 4)^2 / 2) = 100 exp(-(x - 3)^2 / 2) at x = -0.5 + ln(1.5) / 7 = -0.44, score 0.39.
    assert 0.2 < found.floor < 0.6
    assert found.chance is not None
    assert found.chance < 0.05
    assert "rarest" in found.why


@pytest.mark.parametrize("seed", range(5))
def test_one_hump_has_no_valley_and_says_so(seed: int) -> None:
    found = valley(sigmoid(np.random.default_rng(seed).normal(-1, 2, 200)))
    assert found.floor is None
    assert found.why.startswith("no valley")


def test_few_or_equal_scores_have_no_valley() -> None:
    assert f"{LEAST_SCORES} are needed" in valley([0.1, 0.9] * 5).why
    assert "all scores are the same" in valley([0.5] * 100).why
    assert valley([None] * 100).n == 0
    assert valley([0.0, 1.0] * 50).floor == pytest.approx(0.5, abs=0.05), "scores at the ends are no infinite logits"


def test_a_histogram_counts_every_score_once() -> None:
    found = histogram([0.0, 0.04, 0.05, 0.999, 1.0, None])
    assert found.counts[0] == 2
    assert found.counts[1] == 1
    assert found.counts[-1] == 2
    assert sum(found.counts) == 5


def test_a_replay_names_the_questions_that_flip() -> None:
    best, floors = [0.9, 0.5, 0.3, None, 0.45], [0.4, 0.4, 0.4, 0.4, 0.5]
    higher = replay(best, floors, 0.6)
    assert (higher.now_stopped, higher.now_passed) == ((1,), ())
    lower = replay(best, floors, 0.3)
    assert (lower.now_stopped, lower.now_passed) == ((), (2, 4))
    assert (lower.passed, lower.stopped) == (4, 1)
    assert replays(best, floors)[6] == replay(best, floors, 0.3)
