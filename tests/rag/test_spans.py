"""Questions as OpenTelemetry spans: what a collector is told, and what it is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from rag.engines.spans import SpanSink
from rag.errors import BadInput
from rag.types import Answer, Failure, Refusal, StoredTrace
from tests.rag.traces import answer_to, refusal_of, trace_of

TRACE = trace_of()


def spans_of(outcome: Answer | Refusal | Failure, *, trace: object = TRACE, with_content: bool = False) -> dict:
    exporter = InMemorySpanExporter()
    sink = SpanSink(SimpleSpanProcessor(exporter), with_content=with_content)
    sink.send(StoredTrace(trace, outcome, "documents"))  # type: ignore[arg-type]
    sink.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def kind(span: ReadableSpan) -> object:
    return span.attributes["openinference.span.kind"]


def test_a_question_is_a_chain_with_its_stages_below() -> None:
    spans = spans_of(answer_to(TRACE))
    assert {name: kind(span) for name, span in spans.items()} == {
        "question": "CHAIN",
        "embed": "EMBEDDING",
        "recall": "RETRIEVER",
        "rerank": "RERANKER",
        "answer": "LLM",
    }
    question = spans.pop("question")
    assert question.parent is None
    assert question.status.status_code is StatusCode.OK
    assert question.attributes["rank37.outcome"] == "answer"
    assert question.attributes["rank37.floor"] == 0.4
    assert {span.parent.span_id for span in spans.values()} == {question.context.span_id}


def test_the_times_are_those_that_were_measured() -> None:
    spans = spans_of(answer_to(TRACE))
    for name, milliseconds in TRACE.timings_ms.items():
        span = spans["question" if name == "total" else name]
        assert span.end_time - span.start_time == pytest.approx(milliseconds * 1e6, abs=1)
    stages = [spans[name] for name in ("embed", "recall", "rerank", "answer")]
    assert stages[0].start_time == spans["question"].start_time
    assert all(second.start_time == first.end_time for first, second in zip(stages, stages[1:], strict=False))
    assert stages[-1].end_time <= spans["question"].end_time


def test_the_reranker_span_has_its_documents_in_both_orders() -> None:
    attributes = spans_of(answer_to(TRACE))["rerank"].attributes
    assert attributes["reranker.model_name"] == "small"
    assert attributes["reranker.top_k"] == 4
    for number, candidate in enumerate(TRACE.candidates):
        assert attributes[f"reranker.input_documents.{number}.document.id"] == candidate.chunk.id
        assert attributes[f"reranker.input_documents.{number}.document.score"] == candidate.score
    for number, ranked in enumerate(TRACE.ranked):
        assert attributes[f"reranker.output_documents.{number}.document.id"] == ranked.chunk.id
        assert attributes.get(f"reranker.output_documents.{number}.document.score") == ranked.score


def test_all_of_a_hundred_documents_are_told() -> None:
    trace = trace_of(scores=[1 - n / 100 for n in range(100)])
    attributes = spans_of(answer_to(trace), trace=trace)["rerank"].attributes
    ids = [attributes[f"reranker.output_documents.{number}.document.id"] for number in range(100)]
    assert ids == [ranked.chunk.id for ranked in trace.ranked]


def everything_told(spans: dict) -> str:
    return "\n".join(span.to_json() for span in spans.values())


def test_texts_are_told_only_where_they_are_asked_for() -> None:
    bare = everything_told(spans_of(answer_to(TRACE)))
    for text in ("waiting period", "as agreed", "It is 7 days", "Contract", "Cite."):
        assert text not in bare, text
    full = spans_of(answer_to(TRACE), with_content=True)
    assert full["question"].attributes["input.value"] == TRACE.question
    assert full["question"].attributes["output.value"] == "It is 7 days [1]."
    assert full["embed"].attributes["embedding.embeddings.0.embedding.text"] == TRACE.query
    assert full["rerank"].attributes["reranker.query"] == TRACE.query
    best = TRACE.ranked[0].chunk
    assert full["rerank"].attributes["reranker.output_documents.0.document.content"] == best.passage
    assert full["answer"].attributes["llm.input_messages.1.message.content"] == TRACE.prompt[1].content
    assert full["answer"].attributes["llm.output_messages.0.message.content"] == TRACE.reply


def test_a_refusal_is_no_error_and_an_outage_is() -> None:
    refused = spans_of(refusal_of(TRACE))["question"]
    assert refused.status.status_code is StatusCode.OK
    assert (refused.attributes["rank37.outcome"], refused.attributes["rank37.reason"]) == ("refusal", "below_floor")
    down = spans_of(Failure("LLMTimeout", "no reply within 60 s"))
    assert down["question"].status.status_code is StatusCode.ERROR
    assert down["question"].status.description == "LLMTimeout"
    assert {name for name, span in down.items() if span.status.status_code is StatusCode.ERROR} == {
        "question",
        "answer",
    }, "the stage that it came to"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, ExportTraceServiceRequest]]]]:
    received: list[tuple[str, ExportTraceServiceRequest]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def test_a_collector_receives_them_over_http(
    collector: tuple[str, list[tuple[str, ExportTraceServiceRequest]]],
) -> None:
    address, received = collector
    sink = SpanSink.over_http(address)
    sink.send(StoredTrace(TRACE, answer_to(TRACE), "documents"))
    sink.close()
    [(path, request)] = received
    assert path == "/v1/traces"
    spans = request.resource_spans[0].scope_spans[0].spans
    assert {span.name for span in spans} == {"question", "embed", "recall", "rerank", "answer"}


def test_an_address_that_is_none_is_bad_input() -> None:
    with pytest.raises(BadInput, match="RANK37_OTLP_ENDPOINT = 'localhost:4317'"):
        SpanSink.over_http("localhost:4317")
