"""The rank panel as HTML: both rankings whole, the floor line in its place, no markup from documents."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from streamlit.testing.v1 import AppTest

from rag.deciding import Deciding
from rag.floor import keep
from rag.merge import keep_for_parts, merge_candidates, merge_rankings
from rag.replay import at_floor
from rag.rerank import order
from rag.types import Candidate, Chunk, EngineInfo, PageSpan, RankedChunk, Relevance, Trace
from ui.rank_panel import FORETOLD, deciding_html, panel_html, shown, summary, tried_html

FLOOR = 0.4


class Rows(HTMLParser):
    """Collects the list items: their class, their `data-c`, their text; and every tag that occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "li":
            given = dict(attributes)
            self.rows.append((given.get("class") or "", given.get("data-c") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.rows:
            kind, recall_rank, text = self.rows[-1]
            self.rows[-1] = (kind, recall_rank, f"{text} {data.strip()}".strip())


def parsed(trace: Trace) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """The rows before and after, dividers included, heads left out."""
    return parsed_html(panel_html(trace))


def parsed_html(html: str) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """The rows of a panel before and after."""
    before, after = html.split('class="r37-after"')
    sides = []
    for side in (before, after):
        parser = Rows()
        parser.feed(side)
        sides.append([row for row in parser.rows if "r37-head" not in row[0]])
    return sides[0], sides[1]


def trace_of(
    *scores: float | None, title: str = "Manual", text: str = "Words of the passage.", limit: int = 5
) -> Trace:
    """A trace whose candidate of recall rank n (1-based) got the n-th score."""
    candidates = tuple(
        Candidate(Chunk(f"c{rank}", "d", title, None, text, (PageSpan(rank, 0, 9),), rank, 9), rank, 1 / (60 + rank))
        for rank in range(1, len(scores) + 1)
    )
    relevances = [Relevance(order=-1.0 if score is None else score, score=score, first_score=None) for score in scores]
    ranked = order(candidates, relevances)
    engines = (EngineInfo("reranker", "large-model"),)
    return Trace(
        "t", "", "q", "q", FLOOR, limit, engines, candidates, ranked, keep(ranked, floor=FLOOR, limit=limit),
        timings_ms={"rerank": 2100.0},
    )  # fmt: skip


def told_apart(trace: Trace) -> Trace:
    """The trace with passages that don't say the same: the n-th recalled speaks of the number n."""
    names = ("one", "two", "three", "four", "five")
    chunks = {
        candidate.chunk.id: replace(candidate.chunk, text=f"This speaks of the number {names[candidate.rank - 1]}.")
        for candidate in trace.candidates
    }

    def told(ranked: RankedChunk) -> RankedChunk:
        return replace(ranked, candidate=replace(ranked.candidate, chunk=chunks[ranked.chunk.id]))

    return replace(
        trace,
        candidates=tuple(replace(one, chunk=chunks[one.chunk.id]) for one in trace.candidates),
        ranked=tuple(told(ranked) for ranked in trace.ranked),
        kept=tuple(told(ranked) for ranked in trace.kept),
    )


def test_both_sides_hold_all_passages_and_name_the_other_rank() -> None:
    trace = trace_of(*[rank / 100 for rank in range(1, 101)])
    before, after = parsed(trace)
    before_rows = [row for row in before if "r37-row" in row[0]]
    after_rows = [row for row in after if "r37-row" in row[0]]

    assert [row[1] for row in before_rows] == [str(rank) for rank in range(1, 101)]
    assert [row[1] for row in after_rows] == [str(rank) for rank in range(100, 0, -1)], "scores rise with recall rank"
    assert before_rows[36][2].endswith("now 64"), "recall rank 37 has the 64th best score"
    assert after_rows[63][2].endswith("▼27 was 37")
    assert after_rows[0][2].endswith("1.000 ▲99 was 100")


def test_floor_line_stands_between_the_last_passing_and_the_first_below() -> None:
    _, after = parsed(trace_of(0.39996, 0.9, 0.4, 0.1))
    kinds = [re.sub("r37-", "", row[0]) for row in after]
    assert kinds == ["row kept", "row kept", "floor", "row below", "row below"]
    assert "Floor 0.40 2 passages at or above, 2 below" in after[2][2]
    assert "0.399" in after[3][2], "just under the floor never reads as the floor"


def test_a_score_that_was_foretold_is_marked_as_such() -> None:
    trace = trace_of(0.9, 0.1, 0.2)
    assert "≈" not in panel_html(trace)
    foretold = tuple(replace(one, foretold=one.rank > 1) for one in trace.ranked)
    html = panel_html(replace(trace, ranked=foretold))
    _, after = parsed_html(html)
    rows = [row for row in after if "r37-row" in row[0]]
    assert ["≈" in row[2] for row in rows] == [False, True, True]
    assert "≈ 0.200" in rows[1][2]
    assert html.count(FORETOLD) == 3, "at both scores, and at the head of the column"


def test_passages_beyond_the_limit_are_set_apart() -> None:
    _, after = parsed(trace_of(0.9, 0.8, 0.7, 0.6, 0.1, limit=2))
    kinds = [re.sub("r37-", "", row[0]) for row in after]
    assert kinds == ["row kept", "row kept", "divider", "row passing", "row passing", "floor", "row below"]
    assert after[2][2] == "2 more pass the floor; an answer takes the best 2"


@pytest.mark.parametrize(
    ("scores", "place"),
    [((0.1, 0.2), 0), ((0.9, 0.8), 2)],
    ids=["nothing passes: the line is on top", "all pass: the line is at the end"],
)
def test_floor_line_is_always_there(scores: tuple[float, ...], place: int) -> None:
    _, after = parsed(trace_of(*scores))
    assert [index for index, row in enumerate(after) if "r37-floor" in row[0]] == [place]


def test_passages_that_no_scoring_model_read_say_so() -> None:
    _, after = parsed(trace_of(0.9, None, 0.2, None))
    assert [re.sub("r37-", "", row[0]) for row in after] == [
        "row kept", "floor", "row below", "divider", "row below", "row below",
    ]  # fmt: skip
    assert after[3][2].startswith("2 passages not read by large-model")
    assert "not read" in after[4][2]


def test_texts_of_documents_never_become_markup() -> None:
    nasty = '</small></li><script>alert(1)</script><img src=x onerror="alert(2)">'
    html = panel_html(trace_of(0.9, 0.1, title=nasty, text=nasty * 20))
    parser = Rows()
    parser.feed(html)
    assert "script" not in parser.tags
    assert html.count("<img") == html.count('<img alt="" src="data:image/svg+xml;base64,') == 1, "the overview alone"
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (
            trace_of(0.1, 0.5, 0.9),
            "Recall 3 → rerank → 2 kept of 2 at or above 0.40 · best moved 3 → 1 · rerank 2.1 s",
        ),
        (
            trace_of(0.3, 0.1),
            "Recall 2 → rerank → none at or above 0.40 · best stayed first · rerank 2.1 s",
        ),
    ],
)
def test_summary_says_what_happened(trace: Trace, line: str) -> None:
    assert summary(trace) == line


def test_without_a_rerank_the_recall_side_is_still_shown() -> None:
    whole = trace_of(0.9, 0.1)
    trace = Trace("t", "", "q", "q", FLOOR, 5, (), whole.candidates)
    before, after = parsed(trace)
    assert len([row for row in before if "r37-row" in row[0]]) == 2
    assert "gave no order" in after[0][2]


def test_score_bars_have_the_width_of_the_score() -> None:
    ranked: RankedChunk = trace_of(0.123).ranked[0]
    assert ranked.score == 0.123
    assert 'style="width:12.3%"' in panel_html(trace_of(0.123))


def trace_of_parts(first: tuple[float, ...], second: tuple[float, ...], *, limit: int) -> Trace:
    """A trace of two parts that recalled different passages."""
    recalled = [
        tuple(
            Candidate(
                Chunk(f"{part}{rank}", "d", "Manual", None, "Words.", (PageSpan(rank, 0, 6),), rank, 9), rank, 1 / rank
            )
            for rank in range(1, len(scores) + 1)
        )
        for part, scores in (("a", first), ("b", second))
    ]
    rankings = [
        order(candidates, [Relevance(score, score) for score in scores])
        for candidates, scores in zip(recalled, (first, second), strict=True)
    ]
    candidates = merge_candidates(recalled)
    ranked = merge_rankings(rankings, candidates)
    texts = ("What <i>is</i> A?", "What is B?")
    kept, parts = keep_for_parts(texts, rankings, ranked, floor=FLOOR, limit=limit)
    return Trace("t", "", "q", "q", FLOOR, limit, (), candidates, ranked, kept, parts=parts)


def test_a_passage_shows_for_which_part_it_was_scored_and_the_parts_are_named() -> None:
    trace = trace_of_parts((0.9, 0.8, 0.7), (0.5, 0.1), limit=2)
    _, after = parsed(trace)
    rows = [row[2] for row in after if "r37-row" in row[0]]
    assert ["part 1" in row for row in rows] == [True] * 3 + [False] * 2
    assert ["part 2" in row for row in rows] == [False] * 3 + [True] * 2
    html = panel_html(trace)
    assert "<b>Part 1</b>: What &lt;i&gt;is&lt;/i&gt; A? <small>1 kept, best score 0.900</small>" in html
    assert "2 of 2 parts covered" in summary(trace)


def test_kept_passages_of_parts_need_not_be_the_first_and_no_divider_says_so() -> None:
    _, after = parsed(trace_of_parts((0.9, 0.8, 0.7), (0.5, 0.1), limit=2))
    kinds = [re.sub("r37-", "", row[0]) for row in after]
    assert kinds == ["row kept", "row passing", "row passing", "row kept", "floor", "row below"], "a1 and b1 are kept"
    assert "[2]" in after[3][2]


def test_a_part_that_is_refused_says_so() -> None:
    html = panel_html(trace_of_parts((0.9,), (0.3, 0.1), limit=2))
    assert "<b>Part 2</b>: What is B? <small>refused, best score 0.300</small>" in html


def test_without_parts_nothing_speaks_of_parts() -> None:
    assert "part" not in re.sub(r"<style>.*?</style>|<[^>]*>", "", panel_html(trace_of(0.9, 0.1))).lower()


def test_every_passage_says_what_became_of_it() -> None:
    trace = told_apart(trace_of(0.9, 0.8, 0.7, 0.1, None, limit=2))
    _, after = parsed(trace)
    said = [row[2] for row in after if "r37-row" in row[0]]
    for text, state in zip(said, ("kept", "kept", "cut by top 2", "below floor", "not scored"), strict=True):
        assert state in text


def test_passages_that_say_the_same_as_a_better_one_are_called_duplicates() -> None:
    _, after = parsed(trace_of(0.9, 0.8, 0.7, 0.1, limit=2))
    said = [row[2] for row in after if "r37-row" in row[0]]
    assert "kept, same words as 1" in said[1]
    assert "duplicate of 1" in said[2]
    assert "below floor, same words as 1" in said[3]


def test_only_the_passages_that_were_asked_for_are_listed_and_the_overview_keeps_all() -> None:
    trace = trace_of(*[rank / 100 for rank in range(1, 101)])
    html = panel_html(trace, {37, 99, 100})
    before, after = parsed_html(html)
    assert [row[1] for row in before if "r37-row" in row[0]] == ["37", "99", "100"]
    assert [row[1] for row in after if "r37-row" in row[0]] == ["100", "99", "37"]
    assert any("r37-floor" in row[0] for row in after), "the floor line stays"
    drawing = re.search(r"data:image/svg\+xml;base64,([^\"]+)", html)
    assert drawing is not None
    assert base64.b64decode(drawing[1]).count(b"<path") == 101, "100 passages and the floor"
    assert "3 of\n100 passages shown" in html


def test_the_best_passage_s_way_is_told_in_large_figures() -> None:
    scores = [0.1] * 100
    scores[36] = 0.9
    assert '<b class="r37-leap-ranks">37 → 1</b>' in panel_html(trace_of(*scores))
    assert "still is below the floor" in panel_html(trace_of(0.1, 0.2))
    assert "stayed at the top" in panel_html(trace_of(0.9, 0.2))


def test_the_kept_passage_that_came_furthest_up_is_named_beside_the_best() -> None:
    # Recalled at 2, 9 and 30, ranked 1, 2 and 3: the best rose by 1, the third by 27.
    scores = {2: 0.9, 9: 0.8, 30: 0.7}
    html = panel_html(told_apart_each(*(scores.get(rank, 0.1) for rank in range(1, 40))))
    assert '<b class="r37-leap-ranks">2 → 1</b>' in html
    assert "; furthest up came <b>Manual</b>, 30 → 3" in html
    assert "furthest" not in panel_html(trace_of(0.1, 0.9, 0.8)), "the best itself, or one that rose no further"


def told_apart_each(*scores: float) -> Trace:
    """As `trace_of`, with passages that don't say the same, so that none is left out as a duplicate."""
    trace = trace_of(*scores)
    candidates = tuple(
        replace(one, chunk=replace(one.chunk, text=" ".join(f"w{one.rank}x{n}" for n in range(8))))
        for one in trace.candidates
    )
    relevances = [Relevance(order=score, score=score) for score in scores]
    ranked = order(candidates, relevances)
    return replace(trace, candidates=candidates, ranked=ranked, kept=keep(ranked, floor=FLOOR, limit=5))


def test_search_and_states_narrow_the_list() -> None:
    trace = told_apart(trace_of(0.9, 0.8, 0.7, 0.1, limit=2))
    assert shown(trace, [], "") is None
    assert shown(trace, [], "number THREE") == {3}
    assert shown(trace, ["kept"], "") == {1, 2}
    assert shown(trace, ["cut", "below"], "") == {3, 4}
    assert shown(trace, ["below"], "three") == frozenset()
    assert shown(trace_of(0.9, 0.8, 0.7, 0.1, limit=2), ["duplicate"], "") == {2, 3, 4}


def test_another_floor_tells_what_would_come_and_go() -> None:
    trace = told_apart(trace_of(0.9, 0.5, 0.35, 0.1))
    lower = tried_html(trace, at_floor(trace, 0.3))
    assert "At a floor of 0.30</b> an answer would rest on 3 passages" in lower
    assert "it rested on 2" in lower
    assert "+ Manual p. 3, 0.350" in lower
    higher = tried_html(trace, at_floor(trace, 0.95))
    assert "the question would be refused" in higher
    assert "− Manual p. 1, 0.900; − Manual p. 2, 0.500" in higher


def test_ranks_that_lie_close_are_set_apart_in_the_overview() -> None:
    html = panel_html(trace_of(0.9, 0.8, 0.7, *[0.1] * 97))
    tops = [float(top) for top in re.findall(r'<b style="top:([\d.]+)%">\d', html)]
    left = tops[: len(tops) // 2]
    assert len(left) == 3
    assert all(below - above >= 7.9 for above, below in zip(left, left[1:], strict=False))


def test_deciding_sentences_are_shown_as_text_with_both_scores() -> None:
    trace = trace_of(0.9, 0.1)
    html = deciding_html(trace, (Deciding("c1", "It is <b>180</b> days.", 1, 0.75),))
    assert "It is &lt;b&gt;180&lt;/b&gt; days." in html
    assert "alone 0.750, whole passage 0.900" in html


def drawn(trace: Trace) -> AppTest:
    def page(trace):  # type: ignore[no-untyped-def]  # its source is run without these imports
        from ui.rank_panel import show_rank_panel

        show_rank_panel(trace, expanded=True, labelling=None)

    app = AppTest.from_function(page, kwargs={"trace": trace}, default_timeout=60).run()
    assert not app.exception
    return app


def html_of(app: AppTest) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


def test_the_slider_shows_at_once_what_another_floor_keeps_and_the_search_narrows() -> None:
    app = drawn(told_apart(trace_of(0.9, 0.5, 0.35, 0.1)))
    assert "tried-floor" not in html_of(app)
    app.slider[0].set_value(0.3).run()
    assert "would rest on 3 passages" in html_of(app)
    assert "3 kept of 3 at or above 0.30" in html_of(app)
    app.text_input[0].set_value("three").run()
    assert "1 of\n4 passages shown" in html_of(app)
    app.slider[0].set_value(0.4).run()
    assert "tried-floor" not in html_of(app)
