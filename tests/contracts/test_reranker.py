"""What every reranker owes the program, whatever model is behind it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.engines.cascade import CascadeReranker
from rag.engines.colbert import TokenEncoder
from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.late_fusion import FusionWeights, LateFusionReranker, LateInteraction
from rag.errors import BadInput
from rag.ports import Reranker
from rag.types import Passage, Relevance
from tests.contracts.tiny_models import CORPUS, FAMILIES, save_cross_encoder, save_language_model_reranker

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]

ENGINES = [
    "embedded",
    "embedded in float32",
    *FAMILIES,
    "two labels",
    "language model",
    "cascade of all",
    "cascade of three",
]


@pytest.fixture(scope="module", params=ENGINES)
def reranker(
    request: pytest.FixtureRequest,
    embedded_reranker: CrossEncoderReranker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Reranker:
    def tiny(family: str, labels: int = 1) -> CrossEncoderReranker:
        folder = tmp_path_factory.mktemp("model") / f"tiny-{family}-{labels}"
        return CrossEncoderReranker.load(
            save_cross_encoder(folder, family, labels=labels), device="cpu", precision="float32"
        )

    makers: dict[str, Callable[[], Reranker]] = {
        "embedded": lambda: embedded_reranker,
        "embedded in float32": lambda: CrossEncoderReranker.embedded(precision="float32"),
        "with late interaction": lambda: LateFusionReranker(
            tiny("bert"),
            late := LateInteraction(TokenEncoder.embedded()),
            FusionWeights(*late.name_and_revision, 0.5, 20.0, 3.0, -12.0),
        ),
        "two labels": lambda: tiny("bert", labels=2),
        "language model": lambda: CrossEncoderReranker.load(
            save_language_model_reranker(tmp_path_factory.mktemp("model") / "tiny-lm"),
            device="cpu",
            precision="float32",
        ),
        "cascade of all": lambda: CascadeReranker(tiny("bert"), tiny("xlm-roberta"), None),
        "cascade of three": lambda: CascadeReranker(embedded_reranker, tiny("modernbert"), 3),
    }
    return makers.get(request.param, lambda: tiny(request.param))()


def assert_same(one: Relevance, other: Relevance, reranker: Reranker) -> None:
    """Half precision rounds differently in batches of another size."""
    close = 1e-4 if reranker.info.precision == "float32" else 0.08
    assert one.order == pytest.approx(other.order, abs=close)
    assert one.score == (None if other.score is None else pytest.approx(other.score, abs=close))


def test_one_relevance_a_passage_and_scores_between_0_and_1(reranker: Reranker) -> None:
    relevances = reranker.score(QUERY, PASSAGES)
    assert len(relevances) == len(PASSAGES)
    scores = [relevance.score for relevance in relevances if relevance.score is not None]
    assert scores
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) > 1


def test_the_score_is_the_sigmoid_of_the_logit_and_the_order_is_the_logit(reranker: Reranker) -> None:
    for relevance in reranker.score(QUERY, PASSAGES):
        if relevance.score is not None:
            assert relevance.logit is not None
            assert relevance.order == relevance.logit
            assert relevance.score == pytest.approx(1 / (1 + math.exp(-relevance.logit)), abs=1e-12)


def test_scores_follow_the_passage_whatever_the_order_and_company(reranker: Reranker) -> None:
    straight = reranker.score(QUERY, PASSAGES)
    order = list(range(len(PASSAGES)))
    random.Random(7).shuffle(order)
    shuffled = reranker.score(QUERY, [PASSAGES[number] for number in order])
    for place, number in enumerate(order):
        assert_same(shuffled[place], straight[number], reranker)
    # The best of all is scored the same on its own, without padding to others' length.
    best = max(range(len(PASSAGES)), key=lambda number: (straight[number].score or 0, straight[number].order))
    [alone] = reranker.score(QUERY, [PASSAGES[best]])
    assert_same(alone, straight[best], reranker)


def test_nothing_to_score(reranker: Reranker) -> None:
    assert reranker.score(QUERY, []) == []


def test_the_same_text_twice_ties_exactly(reranker: Reranker) -> None:
    twice = [PASSAGES[0], Passage("again", PASSAGES[0].text)]
    first, second = reranker.score(QUERY, twice)
    assert first == second


@pytest.mark.parametrize("query", ["", "  \n\t "])
def test_an_empty_question_is_refused(reranker: Reranker, query: str) -> None:
    with pytest.raises(BadInput, match="empty"):
        reranker.score(query, PASSAGES)


def test_a_question_without_room_for_a_passage_is_refused_with_tokens_and_limit(reranker: Reranker) -> None:
    with pytest.raises(BadInput, match=r"has \d+ tokens.*at most \d+.*shorten"):
        reranker.score("how long " * 2000, PASSAGES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "等待期为180天。",
        "Délai d'attente: 180 jours — voilà",
        "👩‍⚕️💊",
        "\x00\ufffd",
        "lone \ud83d surrogate",
        "e\u0301",
    ],
)
def test_any_text_is_scored(reranker: Reranker, text: str) -> None:
    [relevance] = reranker.score(QUERY + text, [Passage("odd", text)])
    assert relevance.score is not None
    assert math.isfinite(relevance.order)


def test_a_passage_longer_than_the_model_reads_is_scored(reranker: Reranker) -> None:
    filler = "The insurer sends each letter by post. " * 100
    [relevance] = reranker.score(QUERY, [Passage("long", filler + PASSAGES[0].text)])
    assert relevance.score is not None
    assert math.isfinite(relevance.order)


def test_progress_rises_to_the_total_and_stays_in_the_calling_thread(reranker: Reranker) -> None:
    seen: list[tuple[int, int]] = []
    many = [Passage(str(number), f"{PASSAGES[number % 6].text} {number}") for number in range(20)]
    reranker.score(QUERY, many, progress=lambda done, total: seen.append((done, total)))
    done = [one for one, _ in seen]
    assert done == sorted(done)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1] >= len(many)
    assert len(seen) >= 2


def test_several_threads_get_what_one_gets(reranker: Reranker) -> None:
    queries = [QUERY, "ibuprofen for children", "refund", "Wartezeit in Tagen?"] * 2
    alone = {query: reranker.score(query, PASSAGES) for query in set(queries)}
    with ThreadPoolExecutor(4) as pool:
        for query, together in zip(queries, pool.map(lambda q: reranker.score(q, PASSAGES), queries), strict=True):
            for one, other in zip(together, alone[query], strict=True):
                assert_same(one, other, reranker)


def test_the_estimate_is_positive_and_grows_with_the_passages(reranker: Reranker) -> None:
    few, many = reranker.estimate_seconds(10), reranker.estimate_seconds(100)
    assert few is not None
    assert many is not None
    assert 0 < few < many


def test_info_names_role_model_revision_and_precision(reranker: Reranker) -> None:
    info = reranker.info
    assert info.role == "reranker"
    assert info.name
    assert info.revision
    assert info.precision in ("float32", "bfloat16")
    assert info.why
    assert info.sends_data_to == ""
