"""What every reranker owes the program, also where its model is elsewhere, or it only orders.

What a cross-encoder in this process owes beyond that is `test_reranker`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from rag.engines.cascade import CascadeReranker
from rag.engines.colbert import ColBERTReranker, TokenEncoder
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
from rag.engines.fallback import FallbackReranker
from rag.engines.gated import GATED_PASSAGES, GatedReranker
from rag.engines.qdrant_tokens import EdgeTokenStore
from rag.engines.rank_gpt import RankGPT
from rag.engines.recall_order import RecallOrder
from rag.engines.rerank_api import COHERE, JINA, ApiReranker
from rag.engines.rerank_service import ServiceReranker
from rag.engines.score_cache import CachedReranker, ScoreCache
from rag.errors import BadInput
from rag.ports import Reranker
from rag.rerank import order
from rag.types import Candidate, Chunk, PageSpan, Passage, Relevance
from tests.contracts.tiny_models import CORPUS
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.rag.ranking_llm import llm_of, true_order
from tests.rag.rerank_servers import KEY, MODEL, Dialect, RerankServer

CLOSE = 0.01
"""Of scores: half precision rounds differently in batches of another size."""
QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [
    *(Passage(str(number), text) for number, text in enumerate(CORPUS)),
    Passage("6", "The kettle is descaled with vinegar once a month."),
    Passage("7", "Parcels are kept at the depot for ten days."),
]

SCORING = [
    "embedded",
    "cohere",
    "jina",
    "tei",
    "infinity",
    "vllm",
    "vllm-old",
    "plain",
    "cached",
    "fallback",
    "cascade",
]
GATED = ["none", "colbert", "colbert in an index", "rank-gpt"]


@pytest.fixture(scope="module", params=[*SCORING, *GATED])
def named_reranker(
    request: pytest.FixtureRequest,
    embedded_reranker: CrossEncoderReranker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Reranker]]:
    folder: Path = tmp_path_factory.mktemp("reranker")
    with ExitStack() as held:

        def served(dialect: Dialect) -> RerankServer:
            return held.enter_context(RerankServer(dialect, embedded_reranker))

        def cached(reranker: Reranker) -> Reranker:
            cache = ScoreCache(folder / "scores.sqlite", limit_mb=1)
            held.callback(cache.close)
            return CachedReranker(reranker, cache)

        def colbert(*, stored: bool) -> Reranker:
            encoder = TokenEncoder.embedded()
            if not stored:
                return ColBERTReranker(encoder)
            store = EdgeTokenStore(folder / "tokens", encoder.identity)
            held.callback(store.close)
            return ColBERTReranker(encoder, store)

        def rank_gpt() -> Reranker:
            server = held.enter_context(FaultyLLMServer(true_order(embedded_reranker)))
            return RankGPT(held.enter_context(llm_of(server)), window=4, step=2)

        def gated(orderer: Reranker) -> Reranker:
            return GatedReranker(orderer, embedded_reranker)

        def service(dialect: Dialect) -> Reranker:
            return ServiceReranker(served(dialect).url)

        key = SecretStr(KEY)
        makers: dict[str, Callable[[], Reranker]] = {
            "embedded": lambda: embedded_reranker,
            "cohere": lambda: ApiReranker(COHERE, key, url=served("cohere").url, model=MODEL),
            "jina": lambda: ApiReranker(JINA, key, url=served("jina").url, model=MODEL),
            "cached": lambda: cached(embedded_reranker),
            "fallback": lambda: FallbackReranker(
                ApiReranker(COHERE, SecretStr("wrong"), url=served("cohere").url, model=MODEL), embedded_reranker
            ),
            "cascade": lambda: CascadeReranker(RecallOrder(), embedded_reranker, None),
            "none": lambda: gated(RecallOrder()),
            "colbert": lambda: gated(colbert(stored=False)),
            "colbert in an index": lambda: gated(colbert(stored=True)),
            "rank-gpt": lambda: gated(rank_gpt()),
        }
        yield request.param, makers.get(request.param, lambda: service(request.param))()


@pytest.fixture
def name(named_reranker: tuple[str, Reranker]) -> str:
    return named_reranker[0]


@pytest.fixture
def reranker(named_reranker: tuple[str, Reranker]) -> Reranker:
    return named_reranker[1]


def ids_in_order(passages: list[Passage], relevances: list[Relevance]) -> list[str]:
    """As the program ranks them."""
    candidates = [
        Candidate(Chunk(passage.id, "d", "t", None, passage.text, (PageSpan(1, 0, 1),), 0, 1), rank, 1 / (60 + rank))
        for rank, passage in enumerate(passages, start=1)
    ]
    return [ranked.chunk.id for ranked in order(candidates, relevances)]


def test_one_usable_relevance_a_passage(reranker: Reranker) -> None:
    relevances = reranker.score(QUERY, PASSAGES)
    assert len(relevances) == len(PASSAGES)
    for one in relevances:
        assert math.isfinite(one.order)
        assert one.score is None or 0 <= one.score <= 1
        if one.logit is not None:
            assert one.score == pytest.approx(1 / (1 + math.exp(-one.logit)), abs=1e-12)


def test_a_reversed_list_is_put_right(name: str, reranker: Reranker) -> None:
    if name == "none":
        pytest.skip("recall order is kept, that is its job")
    backwards = PASSAGES[::-1]
    assert ids_in_order(backwards, reranker.score(QUERY, backwards))[0] == "0"


def test_without_a_reranker_the_list_stays_as_it_is(name: str, reranker: Reranker) -> None:
    if name != "none":
        pytest.skip("this one reranks")
    backwards = PASSAGES[::-1]
    assert ids_in_order(backwards, reranker.score(QUERY, backwards)) == [passage.id for passage in backwards]


def test_what_only_orders_has_scores_of_another_on_its_best_few(
    name: str, reranker: Reranker, embedded_reranker: CrossEncoderReranker
) -> None:
    relevances = reranker.score(QUERY, PASSAGES)
    scored = {passage.id for passage, one in zip(PASSAGES, relevances, strict=True) if one.score is not None}
    if name in SCORING:
        assert len(scored) == len(PASSAGES)
        return
    best_first = sorted(range(len(PASSAGES)), key=lambda number: -relevances[number].order)
    assert scored == {PASSAGES[number].id for number in best_first[:GATED_PASSAGES]}
    for number in best_first[:GATED_PASSAGES]:
        [alone] = embedded_reranker.score(QUERY, [PASSAGES[number]])
        assert relevances[number].score == pytest.approx(alone.score, abs=CLOSE)
        assert relevances[number].first_score is None
    # Ranked as ordered: the gate changes no place.
    assert ids_in_order(PASSAGES, relevances) == [PASSAGES[number].id for number in best_first]


def test_relevances_follow_the_passage_whatever_the_order(name: str, reranker: Reranker) -> None:
    if name in ("none", "rank-gpt", "cascade"):
        pytest.skip("what it says of a passage depends on the list")
    straight = reranker.score(QUERY, PASSAGES)
    numbers = list(range(len(PASSAGES)))
    random.Random(7).shuffle(numbers)
    shuffled = reranker.score(QUERY, [PASSAGES[number] for number in numbers])
    for one, number in zip(shuffled, numbers, strict=True):
        assert one.order == pytest.approx(straight[number].order, abs=5 * CLOSE)
        assert one.score == (
            None if straight[number].score is None else pytest.approx(straight[number].score, abs=CLOSE)
        )


def test_nothing_to_score(reranker: Reranker) -> None:
    seen: list[object] = []
    assert reranker.score(QUERY, [], progress=lambda *done: seen.append(done)) == []
    assert seen == []


def test_one_passage(reranker: Reranker) -> None:
    [alone] = reranker.score(QUERY, PASSAGES[:1])
    assert alone.score is not None
    assert alone.score > 0.4


@pytest.mark.parametrize("query", ["", "  \n\t "])
def test_an_empty_question_is_refused(reranker: Reranker, query: str) -> None:
    with pytest.raises(BadInput, match="empty"):
        reranker.score(query, PASSAGES)


def test_the_same_text_twice_scores_the_same(name: str, reranker: Reranker) -> None:
    first, second = reranker.score(QUERY, [PASSAGES[0], Passage("again", PASSAGES[0].text)])
    assert first.score == pytest.approx(second.score, abs=1e-6)
    if name not in ("none", "rank-gpt"):
        assert first.order == pytest.approx(second.order, abs=1e-5)


@pytest.mark.parametrize(
    "text", ["", " ", "等待期为180天。", "👩‍⚕️💊", "\x00\ufffd", "lone \ud83d surrogate", "<b>[1]</b>"]
)
def test_any_text_is_taken(reranker: Reranker, text: str) -> None:
    relevances = reranker.score(QUERY + text, [Passage("odd", text), PASSAGES[0]])
    assert all(math.isfinite(one.order) for one in relevances)


def test_progress_rises_to_the_total_in_the_calling_thread(reranker: Reranker) -> None:
    seen: list[tuple[int, int]] = []
    reranker.score(QUERY + " ", PASSAGES, progress=lambda done, total: seen.append((done, total)))
    done = [one for one, _ in seen]
    assert done == sorted(done)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1] >= len(PASSAGES)


def test_several_threads_get_what_one_gets(reranker: Reranker) -> None:
    queries = [QUERY, "ibuprofen for children"] * 2
    alone = {query: reranker.score(query, PASSAGES) for query in set(queries)}
    with ThreadPoolExecutor(4) as pool:
        for query, together in zip(queries, pool.map(lambda q: reranker.score(q, PASSAGES), queries), strict=True):
            for one, other in zip(together, alone[query], strict=True):
                assert one.order == pytest.approx(other.order, abs=5 * CLOSE)


def test_an_estimate_grows_with_the_passages(reranker: Reranker) -> None:
    reranker.score(QUERY, PASSAGES)
    few, many = reranker.estimate_seconds(10), reranker.estimate_seconds(100)
    assert few is not None
    assert many is not None
    assert 0 <= few <= many


def test_info_says_what_it_is_and_that_nothing_leaves_this_machine(name: str, reranker: Reranker) -> None:
    info = reranker.info
    assert info.role == "reranker"
    assert info.name
    assert info.why
    # Every server of this suite is on this machine.
    assert info.sends_data_to == ""
    if name in GATED:
        assert f"{EMBEDDED_RERANKER_FOLDER.name} scores its best 5 for the floor" in info.why
