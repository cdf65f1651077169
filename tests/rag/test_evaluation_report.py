"""Evaluations: the figures follow from what became of each question, and real engines over a small set give them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.recall_order import RecallOrder
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput
from rag.evaluation import passage_index
from rag.evaluation.command import engine_names, evaluate_set
from rag.evaluation.compare import comparison, pairs_of, pairs_within, read_reports
from rag.evaluation.depth import FirstOnly
from rag.evaluation.passage_index import CorpusPassage, as_chunks, beginning, write_passages
from rag.evaluation.rankings import Asked, Place
from rag.evaluation.report import report
from rag.evaluation.sets import LabelledSet, Question
from rag.evaluation.tables import as_markdown, comparison_tables, report_tables, summary_tables
from rag.ports import Embedder, Index, Progress, Vectors
from rag.rerank import order
from rag.settings import EMBEDDED, Settings
from rag.types import Candidate, EngineInfo, Passage, QueryPolicy, Relevance

ENGINES = [EngineInfo("reranker", "a-reranker", "1234567890abcdef")]
SET = LabelledSet("contracts", (), {"contracts": (CorpusPassage("a", "", "A passage."),)}, None, "")
FLOOR = QueryPolicy().floor


def asked(
    question: Question, before: Sequence[str], after: Sequence[str], scores: Sequence[float] = (), **changes: object
) -> Asked:
    """A question whose passages are its items by name; those whose score reaches the floor are kept."""
    scores = [*scores, *[0.0] * (len(after) - len(scores))]
    places = tuple(Place((item,), score) for item, score in zip(after, scores, strict=True))
    kept = tuple(place for place in places if place.score is not None and place.score >= FLOOR)[:5]
    row = Asked(
        question=question,
        before=tuple((item,) for item in before),
        after=places,
        kept=kept,
        best_score=max(scores, default=None),
        reason=None if kept else "below_floor",
        answer_in_text=None,
        n_cached=0,
        timings_ms={"rerank": 10.0, "total": 12.0},
    )
    return replace(row, **changes)


def figures(*rows: Asked, labelled: LabelledSet = SET) -> dict:
    value = report(labelled, rows, ENGINES, QueryPolicy(), depth=100, answers=False)
    assert json.loads(json.dumps(value, allow_nan=False)) == value, "plain JSON values"
    return value


OTHERS = [f"x{n}" for n in range(20)]


def test_rescued_and_buried_count_relevant_passages_among_those_that_could_be() -> None:
    question = Question("q", "?", {"a": 1, "b": 1, "c": 1, "lost": 1})
    # a: 7 -> 2 rescued. b: 8 -> 9 stays out. c: 1 -> 10 buried. lost: never recalled, neither could be.
    before = ["c", *OTHERS[:5], "a", "b", *OTHERS[5:]]
    after = ["x0", "a", "x1", "x2", "x3", "x4", "x5", "x6", "b", "c", *OTHERS[7:]]
    value = figures(asked(question, before, after))
    assert (value["rescued"]["count"], value["rescued"]["of"]) == (1, 2)
    assert (value["buried"]["count"], value["buried"]["of"]) == (1, 1)
    assert value["rescued"]["share"]["mean"] == 1 / 2
    assert value["before"]["R@100"]["mean"] == 3 / 4
    [row] = value["questions"]
    assert row["gold"]["a"] == {"before": 7, "after": 2}
    assert row["gold"]["lost"] == {"before": None, "after": None}


def test_noise_is_the_share_of_passages_that_are_not_relevant() -> None:
    first = asked(Question("1", "?", {"a": 1}), ["x0", "x1", "a"], ["a", "x0", "x1"], [0.9, 0.8, 0.1])
    second = asked(Question("2", "?", {"b": 1}), ["b"], ["b"], [0.7])
    noise = figures(first, second)["noise"]
    assert noise["recalled"]["mean"] == 2 / 4
    assert noise["reranked"]["mean"] == 2 / 4
    assert noise["kept"]["mean"] == 1 / 3, "x0 of a, x0 and b"


def test_nothing_kept_is_no_noise_and_no_division_by_zero() -> None:
    value = figures(asked(Question("1", "?", {"a": 1}), ["a"], ["a"], [0.1]))
    assert value["noise"]["kept"] == {"mean": None, "low": None, "high": None}
    assert value["kept_gold"]["mean"] == 0


def test_refusals_are_counted_by_what_should_have_been() -> None:
    rows = [
        asked(Question("1", "?", {"a": 1}), ["a"], ["a"], [0.9]),
        asked(Question("2", "?", {"a": 1}), ["a"], ["a"], [0.1]),
        asked(Question("3", "?", {"a": 1}), ["x"], ["x"], [0.1]),
        asked(Question("4", "?", {}, group="unanswerable"), ["x"], ["x"], [0.39999]),
        asked(Question("5", "?", {}, group="unanswerable_near"), ["x"], ["x"], [FLOOR]),
        asked(Question("6", "?", {}, group="unanswerable_near"), [], [], reason="no_candidates"),
    ]
    value = figures(*rows)
    refusals = value["refusals"]

    def counts(refused: dict) -> tuple[int, int]:
        return refused["count"], refused["of"]

    assert value["n"] == 3
    assert counts(refusals["answerable"]) == (2, 3)
    assert counts(refusals["answerable_gold_recalled"]) == (1, 2), "what recall missed is rightly refused"
    assert counts(refusals["unanswerable"]) == (2, 3)
    assert {name: counts(one) for name, one in refusals["unanswerable_by_file"].items()} == {
        "unanswerable": (1, 1),
        "unanswerable_near": (1, 2),
    }
    assert refusals["by_reason"] == {"below_floor": 3, "no_candidates": 1}


def test_lift_is_the_difference_of_the_means() -> None:
    rows = [asked(Question(str(n), "?", {"a": 1}), ["x", "a"], ["a", "x"], [0.9]) for n in range(10)]
    value = figures(*rows)
    lift = value["lift"]["RR@10"]
    assert lift["mean"] == 1 - 1 / 2
    assert lift["p"] == pytest.approx(2 / 2**10, abs=0.001)
    for name, difference in value["lift"].items():
        assert difference["mean"] == pytest.approx(value["after"][name]["mean"] - value["before"][name]["mean"])
    assert "R@100" not in value["lift"], "reranking finds nothing new"


def test_times_with_remembered_scores_say_nothing_of_the_model() -> None:
    rows = [
        asked(Question(str(n), "?", {"a": 1}), ["a"], ["a"], n_cached=cached, timings_ms={"embed": 5.0, "rerank": ms})
        for n, (ms, cached) in enumerate([(100.0, 0), (300.0, 0), (1.0, 1)])
    ]
    timings = figures(*rows)["timings_ms"]
    assert timings["rerank"] == {"median": 200, "p95": 290, "n": 2}
    assert timings["embed"]["n"] == 3


def test_a_pool_reports_each_of_its_sets() -> None:
    rows = [
        asked(Question("one/1", "?", {"one/a": 1}, set_name="one"), ["one/a"], ["one/a"], [0.9]),
        asked(Question("two/1", "?", {"two/a": 1}, set_name="two"), ["x", "two/a"], ["x", "two/a"], [0.9]),
    ]
    value = figures(*rows)
    assert value["after"]["RR@10"]["mean"] == (1 + 1 / 2) / 2
    assert {name: part["after"]["RR@10"]["mean"] for name, part in value["by_set"].items()} == {"one": 1, "two": 1 / 2}
    text = "\n".join(as_markdown(table) for table in report_tables(value))
    assert "| mean of the sets | 2 | 1.000 |" in text


def test_pages_are_hit_by_any_of_the_first_five_passages() -> None:
    pages = replace(SET, passages={}, pdfs=Path("pdfs"))
    question = Question("q", "?", {"cover page 1": 1})
    before = [*OTHERS[:5], "cover page 1"]
    value = figures(asked(question, before, [*OTHERS[:4], "cover page 1", "x4"]), labelled=pages)
    assert value["before"]["page_hit@5"]["mean"] == 0
    assert value["page_hit@5"] == value["after"]["page_hit@5"] == {"mean": 1, "low": 1, "high": 1}
    assert figures(asked(question, before, before))["page_hit@5"] is None, "passages have no pages"


def test_tables_show_the_report_and_nothing_else() -> None:
    row = asked(Question("q", "?", {"a": 1}), [*OTHERS[:6], "a"], ["a", *OTHERS[:6]], [0.9, 0.8])
    refused = asked(Question("u", "?", {}, group="unanswerable"), ["x"], ["x"])
    value = figures(row, refused)
    text = "\n".join(as_markdown(table) for table in report_tables(value))
    assert "| RR@10 | 0.143 [0.143, 0.143] | 1.000 [1.000, 1.000] | +0.857 [+0.857, +0.857] | 1.000 |" in text
    assert "rescued into the top 5 | 1 of 1 | 1.000" in text
    assert "| to be refused (unanswerable), refused | 1 of 1 |" in text
    assert "a-reranker (1234567890ab)" in text
    side_by_side = "\n".join(as_markdown(table) for table in summary_tables([value, value]))
    assert "| contracts | 1 | 1.000 | " in side_by_side
    assert "0.333 → 1.000" in side_by_side, "nDCG@10 of gold at rank 7 is 1 / log2(8)"


def pair() -> tuple[dict, dict]:
    """The same three questions before and after some change: one comes up, one goes down, one is refused now."""
    up, down = Question("up", "Up?", {"a": 1}), Question("down", "Down?", {"a": 1})
    other = Question("other", "Other?", {}, group="unanswerable")
    far = [*OTHERS[:6], "a"]
    first = figures(asked(up, far, far), asked(down, far, ["a", "x"], [0.9]), asked(other, ["x"], ["x"], [0.9]))
    second = figures(asked(up, far, ["a", "x"], [0.9]), asked(down, far, far), asked(other, ["x"], ["x"], [0.1]))
    return first, second


def test_a_comparison_names_the_questions_that_flipped() -> None:
    first, second = pair()
    value = comparison(first, second)
    flipped = {kind: [row["id"] for row in rows] for kind, rows in value["flipped"].items()}
    assert flipped == {
        "into_top": ["up"],
        "out_of_top": ["down"],
        "now_answered": ["up"],
        "now_refused": ["down", "other"],
        "now_right": [],
        "now_wrong": [],
    }
    assert value["flipped"]["into_top"][0]["ranks"] == [7, 1]
    assert value["n"] == 3
    # One from 1/7 to 1, one from 1 to 1/7.
    assert value["after"]["RR@10"]["difference"]["mean"] == pytest.approx(0)
    assert value["refused"]["unanswerable"] | {"first": 0, "second": 1} == value["refused"]["unanswerable"]
    text = "\n".join(as_markdown(table) for table in comparison_tables(value))
    assert "| Up? |  | 7 → 1 | 0.00 → 0.90 |" in text
    assert "| Other? | unanswerable | - → - | 0.90 → 0.10 |" in text


def test_only_questions_of_both_are_compared() -> None:
    first, second = pair()
    second = second | {"questions": second["questions"][1:]}
    value = comparison(first, second)
    assert (value["n"], value["only_first"], value["only_second"]) == (2, 1, 0)
    with pytest.raises(BadInput, match="no question in common"):
        comparison(first, second | {"questions": []})


def test_reports_are_read_one_an_object_or_one_a_line_and_paired(tmp_path: Path) -> None:
    first, second = pair()
    (tmp_path / "one.json").write_text(json.dumps(first, indent=1), encoding="utf-8")
    (tmp_path / "both.json").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n", encoding="utf-8")
    (tmp_path / "other.json").write_text('{"some": "thing"}', encoding="utf-8")
    [one], both = read_reports(tmp_path / "one.json"), read_reports(tmp_path / "both.json")
    assert one == first
    assert pairs_within(both) == [(first, second)]
    assert pairs_of([first], [second]) == [(first, second)]
    # Two rerankers of one set in each file: like is compared with like.
    renamed = [value | {"engines": [{"role": "reranker", "name": "b", "revision": ""}]} for value in (first, second)]
    assert pairs_of([first, renamed[0]], [renamed[1], second]) == [(first, second), (renamed[0], renamed[1])]
    with pytest.raises(BadInput, match="nothing to compare"):
        pairs_of([first], [second | {"set": "another"}])
    with pytest.raises(BadInput, match="two reports of each set"):
        pairs_within([first])
    with pytest.raises(BadInput, match="no report of this version"):
        read_reports(tmp_path / "other.json")
    with pytest.raises(BadInput, match="does not exist"):
        read_reports(tmp_path / "none.json")


def test_engines_are_named_with_commas_and_so_are_cascades() -> None:
    assert engine_names("embedded, cascade:none,embedded ,none") == ["embedded", "cascade:none,embedded", "none"]
    with pytest.raises(BadInput, match="empty name"):
        engine_names("embedded,,none")


# ---- real engines ----------------------------------------------------------------------------------------------

FILLER = "The committee met on Tuesdays and kept minutes of its meetings. " * 26
PASSAGES = (
    CorpusPassage("illness", "Critical illness cover", "The waiting period for critical illness is 180 days."),
    CorpusPassage("premiums", "Critical illness cover", "Premiums are due on the first day of each month."),
    CorpusPassage("dental", "Dental plan", "The waiting period for dental treatment is 30 days."),
    CorpusPassage("long", "Minutes", FILLER + "The zeppelin was sold to a museum in Friedrichshafen."),
    CorpusPassage("empty", "", ""),
)
CONTRACTS = LabelledSet(
    "contracts",
    (
        Question("1", "What is the waiting period for critical illness?", {"illness": 1}, set_name="contracts"),
        Question("2", "How long is the wait for dental treatment?", {"dental": 1}, set_name="contracts"),
        Question("3", "When must the first premium be paid?", {"elsewhere": 1}, set_name="contracts"),
        Question("4", "To which museum was the zeppelin sold?", {"long": 1}, set_name="contracts"),
        Question("5", "Who won the world cup in 1954?", {}, set_name="contracts", group="unanswerable"),
    ),
    {"contracts": PASSAGES},
    None,
    "content",
)


def no_pdfs(settings: Settings, embedder: Embedder, index: Index, folder: Path, show: object) -> None:
    raise AssertionError("this set has no PDFs")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("evaluation")
    return Settings(data_dir=folder, collection="evaluation", reranker=EMBEDDED)


@pytest.fixture(scope="module")
def evaluation(settings: Settings, embedder: SentenceTransformerEmbedder) -> dict:
    return evaluated(settings, embedder)


def evaluated(settings: Settings, embedder: Embedder, *, depth: int | None = None, answers: bool = False) -> dict:
    return evaluate_set(CONTRACTS, settings, embedder, depth=depth, answers=answers, ingest_pdfs=no_pdfs)


def test_real_engines_give_what_a_person_expects(evaluation: dict) -> None:
    value = evaluation
    rows = {row["id"]: row for row in value["questions"]}
    assert rows["1"]["gold"]["illness"]["after"] == 1
    assert rows["2"]["gold"]["dental"]["after"] == 1
    assert not rows["1"]["refused"]
    assert rows["3"]["before"]["R@100"] == rows["3"]["after"]["nDCG@10"] == 0, "its passage is not in the corpus"
    assert rows["4"]["gold"]["long"]["before"] is not None, "words beyond what the embedder reads are found by BM25"
    assert rows["5"]["refused"]
    assert rows["5"]["reason"] == "below_floor"
    assert rows["5"]["before"] is None
    assert value["n"] == 4
    assert value["before"]["R@100"]["mean"] == 3 / 4
    assert [info["role"] for info in value["engines"]] == ["embedder", "index", "reranker"]
    assert value["answers"] is False
    assert "answer" not in value["timings_ms"]


def test_the_index_is_built_once_and_reranking_is_side_by_side(
    evaluation: dict, settings: Settings, embedder: SentenceTransformerEmbedder
) -> None:

    class NoPassages:
        """The embedder, for questions only."""

        def __getattr__(self, name: str) -> object:
            if name == "embed_passages":
                raise AssertionError("a passage was embedded again")
            return getattr(embedder, name)

    second = evaluated(settings.model_copy(update={"reranker": "none"}), NoPassages())  # type: ignore[arg-type]  # the rest is the embedder's
    assert second["before"] == evaluation["before"]
    assert second["after"] == second["before"], "without a reranker nothing moves"
    assert all(difference["mean"] == 0 for difference in second["lift"].values())
    assert comparison(evaluation, second)["before"]["nDCG@10"]["difference"]["mean"] == 0


def test_answers_are_asked_for_only_where_wanted(settings: Settings, embedder: SentenceTransformerEmbedder) -> None:
    value = evaluated(settings, embedder, answers=True)
    rows = {row["id"]: row for row in value["questions"]}
    assert not rows["1"]["refused"]
    assert "answer" in value["timings_ms"]
    assert value["engines"][-1]["role"] == "llm"


def test_beyond_the_depth_recall_order_stays_and_nothing_has_a_score(
    embedded_reranker: CrossEncoderReranker, tmp_path: Path, embedder: SentenceTransformerEmbedder
) -> None:
    passages = [Passage(one.id, one.whole) for one in PASSAGES[:4]]
    relevances = FirstOnly(embedded_reranker, 2).score("Waiting period for dental treatment?", passages)
    assert [one.score is None for one in relevances] == [False, False, True, True]
    tied = [Relevance(0.5, 0.6)] * 2 + FirstOnly(RecallOrder(), 2).score("Anything?", passages)[2:]
    candidates = [
        Candidate(chunk, rank, 1 / rank)
        for rank, chunk in enumerate(as_chunks("contracts", PASSAGES[:4], embedder), start=1)
    ]
    assert [ranked.candidate.rank for ranked in order(candidates, relevances)][2:] == [3, 4]
    assert [ranked.candidate.rank for ranked in order(candidates, tied)] == [1, 2, 3, 4]


def test_depth_and_floor_are_what_the_report_says(settings: Settings, embedder: SentenceTransformerEmbedder) -> None:
    value = evaluated(settings.model_copy(update={"floor": 1.0}), embedder, depth=1)
    assert (value["depth"], value["floor"]) == (1, 1.0)
    assert value["before"]["R@100"]["mean"] == 3 / 4, "recall is measured whole"
    assert value["after"]["nDCG@10"] == value["before"]["nDCG@10"], "one passage can't be reordered"
    assert value["refusals"]["answerable"]["count"] == 4
    assert value["noise"]["kept"]["mean"] is None


def test_an_interrupted_index_is_finished_without_embedding_twice(
    tmp_path: Path, embedder: SentenceTransformerEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage_index, "WRITE_BATCH", 2)

    class StopsAtSecondBatch:
        batches = 0

        def __getattr__(self, name: str) -> object:
            return getattr(embedder, name)

        def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
            self.batches += 1
            if self.batches == 2:
                raise KeyboardInterrupt
            return embedder.embed_passages(texts, progress=progress)

    index = EdgeIndex.open(tmp_path / "index", "contracts", embedder.identity)
    with pytest.raises(KeyboardInterrupt):
        write_passages({"contracts": PASSAGES}, StopsAtSecondBatch(), index)  # type: ignore[arg-type]  # the rest is the embedder's
    assert index.count_chunks() == 0, "nothing of a half set is searchable"
    index.close()

    index = EdgeIndex.open(tmp_path / "index", "contracts", embedder.identity)
    progress: list[tuple[int, int]] = []
    written = write_passages(
        {"contracts": PASSAGES}, embedder, index, progress=lambda done, total: progress.append((done, total))
    )
    assert len(written) == 3
    assert progress[-1] == (3, 3)
    assert index.count_chunks() == len(PASSAGES)
    assert write_passages({"contracts": PASSAGES}, embedder, index) == []
    index.close()


def test_a_passage_stays_one_chunk_however_long(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> None:
    index = EdgeIndex.open(tmp_path / "index", "contracts", embedder.identity)
    written = write_passages({"contracts": PASSAGES}, embedder, index)
    index.close()
    chunks = {chunk.position: chunk for chunk, _ in written}
    assert len(chunks) == len(PASSAGES)
    assert chunks[3].text == PASSAGES[3].text
    assert chunks[3].n_tokens > embedder.max_tokens
    head = beginning(chunks[3].passage, embedder)
    assert chunks[3].passage.split()[: len(head.split())] == head.split()
    assert embedder.max_tokens - 5 < embedder.count_passage_tokens([head])[0] <= embedder.max_tokens


@pytest.mark.parametrize("text", ["等待期" * 400, "A" * 4000, "one " + "x" * 4000, "short"])
def test_a_beginning_is_always_short_enough(text: str, embedder: SentenceTransformerEmbedder) -> None:
    head = beginning(text, embedder)
    assert head
    assert embedder.count_passage_tokens([head])[0] <= embedder.max_tokens
    assert "".join(text.split()).startswith("".join(head.split()))


def test_a_passage_id_twice_is_named(tmp_path: Path, embedder: SentenceTransformerEmbedder) -> None:
    index = EdgeIndex.open(tmp_path / "index", "contracts", embedder.identity)
    with pytest.raises(BadInput, match="'dental' occurs twice"):
        write_passages({"contracts": [PASSAGES[2], PASSAGES[2]]}, embedder, index)
    index.close()
