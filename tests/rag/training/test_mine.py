"""Hard negatives from a real collection: what recall ranks high and nobody can call right."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.qdrant_edge import EdgeIndex
from rag.errors import BadInput
from rag.evaluation.passage_index import CorpusPassage
from rag.ports import Embedder
from rag.training.mine import MiningPolicy, candidates, mine
from rag.training.pool import Pool
from rag.training.questions import TrainingQuestion
from rag.types import EngineInfo, Relevance
from tests.rag.training.training_data import PAGES, fill, passages

ALL = MiningPolicy(per_bucket=((1, 100, 100),), n_random=0, relative_margin=10.0, titled_share=1.0)
"""Takes every passage that may be taken."""

TITLE = "Critical Illness Cover"
WAITING = CorpusPassage("", TITLE, PAGES[("critical-illness", TITLE)][0])
QUESTION = TrainingQuestion("How long is the waiting period for critical illness?", (WAITING,), answerable=True)
DENTAL_TEXTS = PAGES[("dental-care", "Dental Care Plan")]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Iterator[Pool]:
    index = EdgeIndex.open(tmp_path_factory.mktemp("index"), "contracts", embedder.identity)
    fill(index, embedder)
    yield Pool(embedder, index)
    index.close()


def negatives(question: TrainingQuestion, pool: Pool, policy: MiningPolicy = ALL, **more) -> list[str]:
    return [passage for group in mine([question], pool, policy, **more) for passage in group.negatives]


def test_the_gold_passage_is_never_a_negative_and_the_rest_may_be(pool: Pool) -> None:
    [group] = mine([QUESTION], pool, ALL)
    assert group.positives == (WAITING.whole,)
    assert WAITING.whole not in group.negatives
    assert len(group.negatives) == 8  # nine passages less the gold one
    assert f"Dental Care Plan\n{DENTAL_TEXTS[0]}" in group.negatives


def test_a_near_duplicate_and_a_passage_around_the_gold_words_are_left_out(pool: Pool) -> None:
    almost = replace(WAITING, text=WAITING.text.replace("180 days", "180 whole days"))
    part = replace(WAITING, text="waiting period for critical illness is 180 days")
    for gold in (almost, part):
        assert WAITING.whole not in negatives(replace(QUESTION, positives=(gold,)), pool)


def test_a_passage_with_the_answer_is_left_out(pool: Pool) -> None:
    other = f"{TITLE}\n{PAGES[('critical-illness', TITLE)][2]}"
    assert other in negatives(QUESTION, pool)
    assert other not in negatives(replace(QUESTION, answers=("30 days",)), pool)
    assert other in negatives(replace(QUESTION, answers=("0 days",)), pool)  # only whole words count


def test_what_is_as_near_to_the_question_as_the_gold_passage_is_left_out(pool: Pool, embedder: Embedder) -> None:
    strict = replace(ALL, relative_margin=0.8)
    vector = pool.query_vector(QUESTION.query)
    bar = 0.8 * pool.cosine_to_text(vector, WAITING.whole)
    kept = negatives(QUESTION, pool, strict)
    assert kept
    assert all(pool.cosine_to_text(vector, passage) <= bar + 1e-5 for passage in kept)
    assert len(kept) < 8
    # The bar is the same where recall can't find the gold passage: it is not in the collection then.
    foreign = replace(QUESTION, positives=(replace(WAITING, text="An entirely different sentence on the moon."),))
    assert len(negatives(foreign, pool, strict)) < 8


def test_labels_of_negatives_grow_with_their_nearness_and_stay_low(pool: Pool) -> None:
    [group] = mine([QUESTION], pool, ALL)
    assert group.positive_scores == (1.0,)
    assert 0 < max(group.negative_scores) <= ALL.soft_label
    vector = pool.query_vector(QUESTION.query)
    by_cosine = sorted(zip(group.negatives, group.negative_scores, strict=True),
                       key=lambda row: pool.cosine_to_text(vector, row[0]))  # fmt: skip
    scores = [score for _, score in by_cosine]
    assert scores == sorted(scores)


def test_buckets_take_as_many_of_each_range_of_ranks_as_they_say(pool: Pool) -> None:
    policy = replace(ALL, per_bucket=((1, 4, 2), (5, 9, 1)))
    [ranked] = candidates([QUESTION], pool)
    ranks = dict(zip(ranked.passages, ranked.ranks, strict=True))
    taken = [ranks[passage] for passage in negatives(QUESTION, pool, policy)]
    assert sum(rank <= 4 for rank in taken) == 2
    assert sum(rank > 4 for rank in taken) == 1


def test_the_same_seed_gives_the_same_groups(pool: Pool) -> None:
    policy = MiningPolicy(seed=5)
    questions = [QUESTION, replace(QUESTION, query="waiting period illness days")]
    assert list(mine(questions, pool, policy)) == list(mine(questions, pool, policy))
    seeds = {tuple(group.negatives for group in mine(questions, pool, MiningPolicy(seed=seed))) for seed in range(5)}
    assert len(seeds) > 1


def test_a_question_of_one_document_gets_its_negatives_from_there(pool: Pool) -> None:
    gold = CorpusPassage("", "Dental Care Plan", DENTAL_TEXTS[1])
    question = TrainingQuestion("How long for braces?", (gold,), group="Dental Care Plan", answerable=True)
    found = negatives(question, pool, replace(ALL, n_random=5))
    assert sorted(found) == sorted(f"Dental Care Plan\n{text}" for text in (DENTAL_TEXTS[0], DENTAL_TEXTS[2]))


def test_of_an_unanswerable_question_all_that_is_recalled_is_wrong(pool: Pool) -> None:
    [group] = mine([TrainingQuestion("Who won the world cup in 1954?", answerable=False)], pool, ALL)
    assert group.positives == ()
    assert len(group.negatives) == 9
    assert set(group.labels) == {0.0}


def test_a_question_that_nobody_judged_has_no_negatives_but_those_a_person_named(pool: Pool) -> None:
    assert negatives(TrainingQuestion("Is shipping free?"), pool) == []
    wrong = CorpusPassage("x", "Returns and Refunds", "Gift cards cannot be returned or exchanged for money.")
    assert negatives(TrainingQuestion("Is shipping free?", negatives=(wrong,)), pool) == [wrong.whole]


def test_a_passage_called_wrong_is_always_in(pool: Pool) -> None:
    named = CorpusPassage("x", "Dental Care Plan", DENTAL_TEXTS[0])
    few = replace(ALL, per_bucket=((9, 9, 1),))
    [group] = mine([replace(QUESTION, negatives=(named,))], pool, few)
    assert named.whole in group.negatives
    assert group.labels[group.passages.index(named.whole)] == 0.0


def test_a_judge_takes_out_what_it_finds_as_relevant_as_the_gold_passage(
    pool: Pool, embedded_reranker: CrossEncoderReranker
) -> None:
    # The label names a passage of the contract that answers worse than one that is in the collection too.
    poor = CorpusPassage("", TITLE, PAGES[("critical-illness", TITLE)][2])
    question = replace(QUESTION, positives=(poor,))
    assert WAITING.whole in negatives(question, pool)
    judged = negatives(question, pool, judge=embedded_reranker)
    assert WAITING.whole not in judged
    assert judged


def test_a_judge_that_only_orders_is_refused(pool: Pool) -> None:
    class Orderer:
        info = EngineInfo("reranker", "orderer")

        def score(self, query, passages, *, progress=None):
            return [Relevance(order=-number, score=None) for number in range(len(passages))]

    with pytest.raises(BadInput, match="orderer gives no scores"):
        negatives(QUESTION, pool, judge=Orderer())


def test_candidates_are_all_that_recall_finds_in_its_order(pool: Pool) -> None:
    [group] = candidates([replace(QUESTION, answers=("30 days",))], pool)
    assert sorted(group.ranks) == list(range(1, 10))
    assert group.positives == (WAITING.whole,)
    # What contains the answer elsewhere counts as wrong here: nothing is left out of what is measured.
    assert len(group.negatives) == 8
    recalled = pool.recall(QUESTION.query, pool.query_vector(QUESTION.query))
    by_rank = [passage for _, passage in sorted(zip(group.ranks, group.passages, strict=True))]
    assert by_rank == [chunk.passage for chunk in recalled]


def test_a_gold_passage_that_recall_missed_is_counted_without_a_rank(pool: Pool) -> None:
    missed = CorpusPassage("", "", "An entirely different sentence on the moon.")
    [group] = candidates([replace(QUESTION, positives=(WAITING, missed))], pool, limit=3)
    assert dict(zip(group.positives, group.positive_ranks, strict=True))[missed.whole] is None
    assert len(group.negatives) == 2


def test_a_pool_of_passages_recalls_like_a_collection(
    tmp_path_factory: pytest.TempPathFactory, embedder: Embedder
) -> None:
    index = EdgeIndex.open(tmp_path_factory.mktemp("pool"), "pool", embedder.identity)
    try:
        pool = Pool.of_passages(passages(), embedder, index)
        assert WAITING.whole not in negatives(QUESTION, pool)
        assert len(negatives(QUESTION, pool)) == 8
        drawn = {chunk.text for seed in range(60) if (chunk := pool.random_chunk(random.Random(seed)))}
        assert len(drawn) == 9  # any passage of any document can be drawn
    finally:
        index.close()
