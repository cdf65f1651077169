"""The whole way of a question, with the real embedder, the real reranker and a real index."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rag.engines.cross_encoder import CrossEncoderReranker
from rag.engines.openai_llm import OpenAILLM
from rag.engines.qdrant_edge import EdgeIndex
from rag.engines.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import BadInput, LLMError, LLMUnavailable
from rag.export import result_as_json
from rag.pipeline import answer_question
from rag.ports import Engines
from rag.terminal import print_result
from rag.types import (
    Answer,
    Chunk,
    Document,
    Event,
    PageSpan,
    QueryPolicy,
    RankingReady,
    Refusal,
    ReplyText,
    RerankProgress,
    StageStarted,
    StoredDocument,
    Turn,
)
from tests.rag.faulty_llm_server import FaultyLLMServer

POLICY = QueryPolicy()

TEXTS = {
    "Critical illness": [
        "The waiting period for critical illness is 180 days from the date on which the contract begins.",
        "The benefit is paid once, as a lump sum, within thirty days after the diagnosis was confirmed.",
    ],
    "Dental care": [
        "The waiting period for basic dental treatment is 30 days, and for crowns and bridges twelve months.",
        "Cleaning by a hygienist is paid twice in each calendar year.",
    ],
    "Hospital cash": [
        "There is no waiting period after an accident; for illness the waiting period is 14 days.",
        "The daily amount is paid from the first night in hospital, for at most a year.",
    ],
}


def chunks_of(title: str, texts: list[str]) -> list[Chunk]:
    return [
        Chunk(
            id=f"00000000-0000-4000-8000-{abs(hash_of(title)):06d}{position:06d}",
            document_id=title.lower(),
            title=title,
            heading=None,
            text=text,
            spans=(PageSpan(position + 1, 0, len(text)),),
            position=position,
            n_tokens=40,
        )
        for position, text in enumerate(texts)
    ]


def hash_of(title: str) -> int:
    return sum(ord(letter) for letter in title)


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory,
    embedder: SentenceTransformerEmbedder,
    embedded_reranker: CrossEncoderReranker,
) -> Iterator[Engines]:
    folder: Path = tmp_path_factory.mktemp("pipeline") / "index"
    index = EdgeIndex.open(folder, "contracts", embedder.identity)
    for title, texts in TEXTS.items():
        stored = StoredDocument(Document(title.lower(), title, f"{title}.pdf", len(texts)), "ingesting")
        chunks = chunks_of(title, texts)
        index.begin_document(stored)
        index.add_chunks(chunks, embedder.embed_passages([chunk.passage for chunk in chunks]))
        index.publish_document(replace(stored, state="ready", n_chunks=len(chunks)))
    yield Engines(embedder, index, embedded_reranker, embedded_reranker, None)
    index.close()


def with_llm(engines: Engines, server: FaultyLLMServer) -> Engines:
    llm = OpenAILLM(
        "scripted",
        api_key="secret-key",
        base_url=server.base_url,
        timeout_s=2,
        retries=1,
        count_tokens_offline=lambda text: engines.embedder.count_tokens([text])[0],
    )
    return replace(engines, llm=llm)


def test_the_right_passage_is_quoted_with_its_page(engines: Engines) -> None:
    result = answer_question("How long is the waiting period for critical illness?", engines, POLICY)
    assert isinstance(result.outcome, Answer)
    assert result.outcome.kind == "quoted"
    assert "180 days" in result.outcome.text
    first = result.outcome.citations[0]
    assert (first.chunk.title, first.page) == ("Critical illness", 1)
    assert first.quote in first.chunk.text


def test_the_trace_holds_both_full_rankings(engines: Engines) -> None:
    trace = answer_question("How long is the waiting period for critical illness?", engines, POLICY).trace
    n_chunks = sum(len(texts) for texts in TEXTS.values())
    assert [item.rank for item in trace.candidates] == list(range(1, n_chunks + 1))
    assert {item.chunk.id for item in trace.ranked} == {item.chunk.id for item in trace.candidates}
    assert [item.rank for item in trace.ranked] == list(range(1, n_chunks + 1))
    assert all(item.score is not None and item.score >= POLICY.floor for item in trace.kept)
    assert set(trace.timings_ms) == {"embed", "recall", "rerank", "answer", "total"}
    assert [info.role for info in trace.engines] == ["embedder", "index", "reranker", "llm"]


def test_what_no_document_answers_is_refused_without_calling_the_llm(engines: Engines) -> None:
    with FaultyLLMServer("It boils at 100 degrees [1].") as server:
        result = answer_question("At which temperature does water boil on Mars?", with_llm(engines, server), POLICY)
        assert isinstance(result.outcome, Refusal)
        assert result.outcome.reason == "below_floor"
        assert result.outcome.best_score == max(item.score for item in result.trace.ranked if item.score is not None)
        assert server.requests == []
    assert result.trace.prompt == ()
    assert len(result.trace.ranked) == len(result.trace.candidates) > 0


def test_no_documents_in_scope_is_a_refusal_and_no_crash(engines: Engines) -> None:
    result = answer_question("What is the waiting period?", engines, POLICY, document_ids=[])
    assert result.outcome == Refusal("no_candidates", None)


def test_scope_restricts_recall_to_the_documents_asked_for(engines: Engines) -> None:
    result = answer_question("What is the waiting period?", engines, POLICY, document_ids=["dental care"])
    assert {item.chunk.title for item in result.trace.candidates} == {"Dental care"}


def test_a_written_answer_cites_the_passage_it_was_given(engines: Engines) -> None:
    with FaultyLLMServer("The waiting period is 180 days [1].") as server:
        result = answer_question("Waiting period for critical illness?", with_llm(engines, server), POLICY)
        sent = server.requests[0]["messages"]
    assert isinstance(result.outcome, Answer)
    assert result.outcome.kind == "written"
    assert result.outcome.citations[0].chunk == result.trace.kept[0].chunk
    assert "180 days" in result.outcome.citations[0].quote
    assert [message["role"] for message in sent] == ["system", "user"]
    assert "180 days" not in sent[0]["content"], "a passage reached the system message"
    assert result.trace.reply == "The waiting period is 180 days [1]."


def test_an_answer_without_a_valid_citation_is_never_an_answer(engines: Engines) -> None:
    for reply in ("The waiting period is 180 days.", "The waiting period is 180 days [0] [99]."):
        with FaultyLLMServer(reply) as server:
            result = answer_question("Waiting period for critical illness?", with_llm(engines, server), POLICY)
        assert isinstance(result.outcome, Refusal)
        assert result.outcome.reason == "uncited"


def test_a_model_that_declines_is_a_refusal(engines: Engines) -> None:
    with FaultyLLMServer("NO_ANSWER") as server:
        result = answer_question("Waiting period for critical illness?", with_llm(engines, server), POLICY)
    assert isinstance(result.outcome, Refusal)
    assert result.outcome.reason == "model_declined"


@pytest.mark.parametrize("mode", ["breaks_off", "server_error", "hangs", "rate_limited", "html", "empty"])
def test_an_outage_is_an_error_that_still_holds_the_ranking(engines: Engines, mode: str) -> None:
    with FaultyLLMServer(mode=mode) as server, pytest.raises(LLMError) as raised:  # type: ignore[arg-type]  # parametrised
        answer_question("Waiting period for critical illness?", with_llm(engines, server), POLICY)
    assert raised.value.trace is not None
    assert len(raised.value.trace.ranked) == len(raised.value.trace.candidates) > 0
    assert raised.value.trace.kept
    assert "secret-key" not in str(raised.value)


def test_a_follow_up_is_searched_as_a_standalone_question(engines: Engines) -> None:
    history = [Turn("What is the waiting period for basic dental treatment?", "It is 30 days [1].")]
    with FaultyLLMServer(
        "What is the waiting period for critical illness?", "The waiting period is 180 days [1]."
    ) as server:
        result = answer_question("And for critical illness?", with_llm(engines, server), POLICY, history=history)
        rewriting, answering = server.requests
    assert result.trace.question == "And for critical illness?"
    assert result.trace.query == "What is the waiting period for critical illness?"
    assert isinstance(result.outcome, Answer)
    assert "It is 30 days" in json.dumps(rewriting["messages"])
    assert "It is 30 days" not in json.dumps(answering["messages"]), "chat history became evidence"


def test_without_an_llm_the_follow_up_is_searched_as_typed_and_says_so(engines: Engines) -> None:
    history = [Turn("What is the waiting period for dental treatment?", "It is 30 days [1].")]
    trace = answer_question("And for critical illness?", engines, POLICY, history=history).trace
    assert trace.query == "And for critical illness?"
    assert len(trace.notes) == 1
    assert "as typed" in trace.notes[0]


def test_a_refusal_is_not_bypassed_by_chat_history(engines: Engines) -> None:
    history = [Turn("At which temperature does water boil on Mars?", "At 10 degrees, says the handbook [1].")]
    result = answer_question("At which temperature does water boil on Mars?", engines, POLICY, history=history)
    assert isinstance(result.outcome, Refusal)


def test_an_llm_outage_while_rewriting_is_an_error(engines: Engines) -> None:
    with FaultyLLMServer() as server:
        gone = with_llm(engines, server)
    with pytest.raises(LLMUnavailable):
        answer_question("And for dental?", gone, POLICY, history=[Turn("Waiting period?", "14 days [1].")])


def test_events_tell_the_story_in_order(engines: Engines) -> None:
    events: list[Event] = []
    with FaultyLLMServer("The waiting period is 180 days [1].") as server:
        answer_question("Waiting period for critical illness?", with_llm(engines, server), POLICY, listen=events.append)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["embed", "recall", "rerank", "answer"]
    progress = [event for event in events if isinstance(event, RerankProgress)]
    assert progress[-1].done == progress[-1].total
    ready = next(position for position, event in enumerate(events) if isinstance(event, RankingReady))
    text = [position for position, event in enumerate(events) if isinstance(event, ReplyText)]
    assert ready < min(text)
    assert "".join(events[position].text for position in text) == "The waiting period is 180 days [1]."  # type: ignore[union-attr]  # selected above


@pytest.mark.parametrize("question", ["", "   \n"])
def test_an_empty_question_is_refused_by_name(engines: Engines, question: str) -> None:
    with pytest.raises(BadInput, match="empty"):
        answer_question(question, engines, POLICY)


def test_an_over_long_question_names_its_length_and_the_limit(engines: Engines) -> None:
    with pytest.raises(BadInput, match=r"\d+ tokens"):
        answer_question("waiting period " * 2000, engines, POLICY)


CRITICAL = "How long is the waiting period for critical illness?"
CLEANING = "How often is cleaning by a hygienist paid?"
MARS = "At which temperature does water boil on Mars?"


def test_both_parts_of_a_question_are_answered_each_from_its_own_passage(engines: Engines) -> None:
    result = answer_question(f"{CRITICAL} {CLEANING}", engines, POLICY)
    assert isinstance(result.outcome, Answer)
    assert "180 days" in result.outcome.text
    assert "twice in each calendar year" in result.outcome.text
    assert result.outcome.refused_parts == ()
    assert [part.text for part in result.trace.parts] == [CRITICAL, CLEANING]
    assert all(part.covered for part in result.trace.parts)


def test_a_part_scores_as_it_does_when_it_is_asked_alone(engines: Engines) -> None:
    alone = [answer_question(question, engines, POLICY).trace for question in (CRITICAL, CLEANING)]
    trace = answer_question(f"{CRITICAL} {CLEANING}", engines, POLICY).trace
    assert [part.best_score for part in trace.parts] == pytest.approx([one.best_score for one in alone], abs=1e-4)
    assert trace.best_score == pytest.approx(max(one.best_score or 0.0 for one in alone), abs=1e-4)


def test_the_part_that_no_document_answers_is_refused_by_name(engines: Engines) -> None:
    for question in (f"{CRITICAL} {MARS}", f"{MARS} {CRITICAL}"):
        result = answer_question(question, engines, POLICY)
        assert isinstance(result.outcome, Answer)
        assert result.outcome.refused_parts == (MARS,)
        assert "180 days" in result.outcome.text
        assert "Mars" not in result.outcome.text
        [refused] = [part for part in result.trace.parts if not part.covered]
        assert refused.best_score is not None
        assert refused.best_score < POLICY.floor
        assert refused.kept_ids == ()


def test_when_no_part_is_covered_all_is_refused_without_calling_the_llm_for_an_answer(engines: Engines) -> None:
    question = f"{MARS} Who won the chess tournament of the village?"
    with FaultyLLMServer(question.replace("? ", "?\n")) as server:
        result = answer_question(question, with_llm(engines, server), POLICY)
        assert len(server.requests) == 1, "for the parts"
    assert isinstance(result.outcome, Refusal)
    assert result.outcome.reason == "below_floor"
    assert result.trace.prompt == ()
    assert [part.covered for part in result.trace.parts] == [False, False]
    assert "split" in result.trace.timings_ms


def test_the_llm_splits_and_then_is_asked_for_the_covered_part_alone(engines: Engines) -> None:
    question = f"What boils on Mars, and {CRITICAL[0].lower()}{CRITICAL[1:]}"
    with FaultyLLMServer(f"What boils on Mars?\n{CRITICAL}", "It is 180 days [1].") as server:
        result = answer_question(question, with_llm(engines, server), POLICY)
        splitting, answering = server.requests
    assert question in splitting["messages"][1]["content"]
    assert f"<question>\n{CRITICAL}\n</question>" in answering["messages"][1]["content"]
    assert "Mars" not in json.dumps(answering["messages"])
    assert isinstance(result.outcome, Answer)
    assert result.outcome.refused_parts == ("What boils on Mars?",)


def test_an_llm_that_cannot_split_does_not_keep_the_ranking_from_a_person(engines: Engines) -> None:
    with FaultyLLMServer(mode="server_error") as server, pytest.raises(LLMError) as raised:
        answer_question(f"{CRITICAL} {CLEANING}", with_llm(engines, server), POLICY)
    trace = raised.value.trace
    assert trace is not None
    assert [part.text for part in trace.parts] == [CRITICAL, CLEANING], "by the rule"
    assert "failed" in trace.notes[0]
    assert trace.kept


def test_one_thing_asked_costs_what_it_did_whether_questions_are_split_or_not(engines: Engines) -> None:
    outcomes = []
    for policy in (POLICY, replace(POLICY, split_questions=False)):
        with FaultyLLMServer("The waiting period is 180 days [1].") as server:
            result = answer_question(CRITICAL, with_llm(engines, server), policy)
            assert len(server.requests) == 1
        assert result.trace.parts == ()
        assert {item.part for item in result.trace.ranked} == {None}
        assert "split" not in result.trace.timings_ms
        outcomes.append((result.outcome, result.trace.candidates, [item.score for item in result.trace.ranked]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "policy", [replace(POLICY, split_questions=False), replace(POLICY, answer_limit=1)], ids=["off", "no room for both"]
)
def test_a_question_is_left_whole_where_the_settings_say_so(engines: Engines, policy: QueryPolicy) -> None:
    trace = answer_question(f"{CRITICAL} {CLEANING}", engines, policy).trace
    assert trace.parts == ()
    assert len(trace.kept) <= policy.answer_limit


def test_progress_of_several_parts_is_that_of_all_of_them(engines: Engines) -> None:
    events: list[Event] = []
    trace = answer_question(f"{CRITICAL} {CLEANING}", engines, POLICY, listen=events.append).trace
    progress = [event for event in events if isinstance(event, RerankProgress)]
    total = sum(len(part.candidate_ids) for part in trace.parts)
    assert {event.total for event in progress} == {total}
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert progress[-1].done == total
    assert [event.stage for event in events if isinstance(event, StageStarted)] == [
        "embed", "recall", "rerank", "answer",
    ]  # fmt: skip


def test_parts_are_in_the_json_and_at_the_terminal(engines: Engines) -> None:
    result = answer_question(f"{CRITICAL} {MARS}", engines, POLICY)
    value = json.loads(json.dumps(result_as_json(result)))
    assert value["refused_parts"] == [MARS]
    assert [(part["text"], part["covered"]) for part in value["parts"]] == [(CRITICAL, True), (MARS, False)]
    assert {row["part"] for row in value["ranked"]} <= {1, 2}
    console = Console(record=True, width=160, file=io.StringIO())
    print_result(result, console)
    shown = console.export_text()
    assert f"Not found in your documents: {MARS} The best passage scored" in shown
    assert f"part 1: {CRITICAL}" in shown


def test_the_result_as_json_is_json_with_every_key(engines: Engines) -> None:
    answer = answer_question("How long is the waiting period for critical illness?", engines, POLICY)
    value = json.loads(json.dumps(result_as_json(answer)))
    assert value["outcome"] == "answer"
    assert value["citations"][0].keys() >= {"marker", "document", "page", "quote"}
    assert value["candidates"][0].keys() >= {"rank", "score", "document", "pages", "chunk_id"}
    assert value["ranked"][0].keys() >= {"rank", "recall_rank", "score", "document", "pages", "chunk_id"}
    assert [row["chunk_id"] for row in value["kept"]] == [item.chunk.id for item in answer.trace.kept]
    refusal = result_as_json(answer_question("At which temperature does water boil on Mars?", engines, POLICY))
    assert refusal["outcome"] == "refusal"
    assert refusal["reason"] == "below_floor"
    assert "below the floor of 0.40" in refusal["text"]
