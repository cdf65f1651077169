"""Questions as OpenTelemetry spans with OpenInference's attributes, sent over OTLP to whoever shows them.

Built from the finished trace, so that the pipeline knows nothing of it: the stages stand one after the other, with the
durations that were measured. Texts are left out unless they are asked for; ids, ranks and scores are always there.

Source: https://arize-ai.github.io/openinference/spec/semantic_conventions.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self

from rag.errors import BadInput
from rag.types import Answer, Candidate, Chunk, EngineInfo, Failure, RankedChunk, Refusal, StoredTrace

try:
    from openinference.semconv.trace import (
        DocumentAttributes,
        EmbeddingAttributes,
        MessageAttributes,
        OpenInferenceMimeTypeValues,
        OpenInferenceSpanKindValues,
        RerankerAttributes,
        SpanAttributes,
    )
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
except ModuleNotFoundError as missing:
    raise BadInput(
        f"RANK37_OTLP_ENDPOINT needs the package {missing.name}, which is not installed: "
        'install it (`pip install "rank37[otel]"`), or unset RANK37_OTLP_ENDPOINT'
    ) from None

TRACES_PATH = "/v1/traces"
"""Where a collector takes spans over HTTP. Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp-request"""
MOST_ATTRIBUTES = 20_000
"""Of one span: 1000 passages before and after reranking, each with four. The SDK drops all beyond 128 by itself."""
SEND_LIMIT_S = 5.0
"""Longest wait for the collector, in the background, and at the end for what is left."""

Attributes = dict[str, str | bool | int | float]


class SpanSink:
    """Sends each question as one CHAIN span with its stages below. Safe to use from several threads."""

    def __init__(self, processor: SpanProcessor, *, with_content: bool = False) -> None:
        """Name what takes the finished spans; `with_content` puts texts into them."""
        # Not the program's global provider: what other libraries record is not sent along.
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "rank37", "openinference.project.name": "rank37"}),
            span_limits=SpanLimits(max_span_attributes=MOST_ATTRIBUTES),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._with_content = with_content

    @classmethod
    def over_http(cls, endpoint: str, *, with_content: bool = False) -> Self:
        """Send to a collector in the background; an unreachable one is logged and costs no question anything.

        Raises: BadInput for what is no http address.
        """
        if not endpoint.startswith(("http://", "https://")):
            raise BadInput(
                f"RANK37_OTLP_ENDPOINT = {endpoint!r} is no http address: take one like http://localhost:6006"
            )
        address = endpoint.rstrip("/")
        if not address.endswith(TRACES_PATH):
            address += TRACES_PATH
        return cls(BatchSpanProcessor(_http_exporter(address)), with_content=with_content)

    def send(self, stored: StoredTrace) -> None:
        """Make and hand over the spans of one question; its end is now."""
        tracer = self._provider.get_tracer("rank37")
        _write_spans(tracer, stored, ended_ns=time.time_ns(), with_content=self._with_content)

    def close(self) -> None:
        """Send what is left. Idempotent."""
        self._provider.force_flush(int(SEND_LIMIT_S * 1000))
        self._provider.shutdown()


def _http_exporter(address: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=address, timeout=SEND_LIMIT_S)


def _write_spans(tracer: Tracer, stored: StoredTrace, *, ended_ns: int, with_content: bool) -> None:
    trace, outcome = stored.trace, stored.outcome
    durations_ns = {stage: int(ms * 1e6) for stage, ms in trace.timings_ms.items()}
    stages = [stage for stage in _ATTRIBUTES if stage in durations_ns]
    total_ns = max(durations_ns.get("total", 0), sum(durations_ns[stage] for stage in stages))
    started_ns = ended_ns - total_ns
    question = tracer.start_span(
        "question",
        kind=SpanKind.INTERNAL,
        start_time=started_ns,
        attributes=_of_question(stored, with_content),
    )
    inside = set_span_in_context(question)
    begins_ns = started_ns
    for number, stage in enumerate(stages):
        span = tracer.start_span(
            stage, context=inside, start_time=begins_ns, attributes=_ATTRIBUTES[stage](stored, with_content)
        )
        begins_ns += durations_ns[stage]
        if isinstance(outcome, Failure) and number == len(stages) - 1:
            span.set_status(Status(StatusCode.ERROR, outcome.error))
        span.end(end_time=begins_ns)
    if isinstance(outcome, Failure):
        told = f"{outcome.error}: {outcome.message}" if with_content else outcome.error
        question.set_status(Status(StatusCode.ERROR, told))
    else:
        question.set_status(Status(StatusCode.OK))
    question.end(end_time=ended_ns)


def _of_question(stored: StoredTrace, with_content: bool) -> Attributes:
    trace, outcome = stored.trace, stored.outcome
    attributes = _of_kind(OpenInferenceSpanKindValues.CHAIN)
    attributes |= {
        "rank37.trace_id": trace.id,
        "rank37.collection": stored.collection,
        "rank37.floor": trace.floor,
        "rank37.kept": len(trace.kept),
    }
    if trace.best_score is not None:
        attributes["rank37.best_score"] = trace.best_score
    match outcome:
        case Answer():
            attributes |= {"rank37.outcome": "answer", "rank37.reason": outcome.kind}
        case Refusal():
            attributes |= {"rank37.outcome": "refusal", "rank37.reason": outcome.reason}
        case Failure():
            attributes |= {"rank37.outcome": "failure", "rank37.reason": outcome.error}
    if with_content:
        attributes |= _text(SpanAttributes.INPUT_VALUE, SpanAttributes.INPUT_MIME_TYPE, trace.question)
        if isinstance(outcome, Answer):
            attributes |= _text(SpanAttributes.OUTPUT_VALUE, SpanAttributes.OUTPUT_MIME_TYPE, outcome.text)
    return attributes


def _of_rewrite(stored: StoredTrace, with_content: bool) -> Attributes:
    attributes = _of_kind(OpenInferenceSpanKindValues.LLM)
    attributes |= _model(SpanAttributes.LLM_MODEL_NAME, _engine(stored, "llm"))
    if with_content:
        attributes |= _text(SpanAttributes.INPUT_VALUE, SpanAttributes.INPUT_MIME_TYPE, stored.trace.question)
        attributes |= _text(SpanAttributes.OUTPUT_VALUE, SpanAttributes.OUTPUT_MIME_TYPE, stored.trace.query)
    return attributes


def _of_split(stored: StoredTrace, with_content: bool) -> Attributes:
    """A CHAIN: the parts can be found by a rule, and the trace does not say whether an LLM was asked."""
    attributes = _of_kind(OpenInferenceSpanKindValues.CHAIN)
    attributes["rank37.parts"] = len(stored.trace.parts)
    if with_content:
        parts = "\n".join(part.text for part in stored.trace.parts)
        attributes |= _text(SpanAttributes.INPUT_VALUE, SpanAttributes.INPUT_MIME_TYPE, stored.trace.query)
        attributes |= _text(SpanAttributes.OUTPUT_VALUE, SpanAttributes.OUTPUT_MIME_TYPE, parts)
    return attributes


def _of_embedding(stored: StoredTrace, with_content: bool) -> Attributes:
    attributes = _of_kind(OpenInferenceSpanKindValues.EMBEDDING)
    attributes |= _model(SpanAttributes.EMBEDDING_MODEL_NAME, _engine(stored, "embedder"))
    if with_content:
        key = f"{SpanAttributes.EMBEDDING_EMBEDDINGS}.0.{EmbeddingAttributes.EMBEDDING_TEXT}"
        attributes[key] = stored.trace.query
    return attributes


def _of_recall(stored: StoredTrace, with_content: bool) -> Attributes:
    attributes = _of_kind(OpenInferenceSpanKindValues.RETRIEVER)
    if with_content:
        attributes |= _text(SpanAttributes.INPUT_VALUE, SpanAttributes.INPUT_MIME_TYPE, stored.trace.query)
    recalled = ((one.chunk, one.score, _places(one)) for one in stored.trace.candidates)
    return attributes | _documents(SpanAttributes.RETRIEVAL_DOCUMENTS, recalled, with_content)


def _of_rerank(stored: StoredTrace, with_content: bool) -> Attributes:
    trace = stored.trace
    attributes = _of_kind(OpenInferenceSpanKindValues.RERANKER)
    attributes |= _model(RerankerAttributes.RERANKER_MODEL_NAME, _engine(stored, "reranker"))
    attributes |= {RerankerAttributes.RERANKER_TOP_K: len(trace.ranked), "rank37.cached": trace.n_cached}
    if with_content:
        attributes[RerankerAttributes.RERANKER_QUERY] = trace.query
    given = ((one.chunk, one.score, _places(one)) for one in trace.candidates)
    ordered = ((one.chunk, one.score, _places(one.candidate, one)) for one in trace.ranked)
    attributes |= _documents(RerankerAttributes.RERANKER_INPUT_DOCUMENTS, given, with_content)
    return attributes | _documents(RerankerAttributes.RERANKER_OUTPUT_DOCUMENTS, ordered, with_content)


def _of_answer(stored: StoredTrace, with_content: bool) -> Attributes:
    """An LLM span where one was called; else quotes were picked, which is a link of the chain like any other."""
    trace = stored.trace
    if not trace.prompt:
        return _of_kind(OpenInferenceSpanKindValues.CHAIN)
    attributes = _of_kind(OpenInferenceSpanKindValues.LLM)
    attributes |= _model(SpanAttributes.LLM_MODEL_NAME, _engine(stored, "llm"))
    if with_content:
        said = [(SpanAttributes.LLM_INPUT_MESSAGES, n, one.role, one.content) for n, one in enumerate(trace.prompt)]
        said.append((SpanAttributes.LLM_OUTPUT_MESSAGES, 0, "assistant", trace.reply))
        for key, number, role, content in said:
            attributes[f"{key}.{number}.{MessageAttributes.MESSAGE_ROLE}"] = role
            attributes[f"{key}.{number}.{MessageAttributes.MESSAGE_CONTENT}"] = content
    return attributes


_ATTRIBUTES: Mapping[str, Callable[[StoredTrace, bool], Attributes]] = {
    "rewrite": _of_rewrite,
    "split": _of_split,
    "embed": _of_embedding,
    "recall": _of_recall,
    "rerank": _of_rerank,
    "answer": _of_answer,
}
"""By stage, in the order in which they run."""


def _of_kind(kind: OpenInferenceSpanKindValues) -> Attributes:
    return {SpanAttributes.OPENINFERENCE_SPAN_KIND: kind.value}


def _engine(stored: StoredTrace, role: str) -> EngineInfo | None:
    return next((info for info in stored.trace.engines if info.role == role), None)


def _model(key: str, info: EngineInfo | None) -> Attributes:
    if info is None:
        return {}
    told: Attributes = {key: info.name}
    if info.revision:
        told["rank37.revision"] = info.revision
    if info.precision:
        told["rank37.precision"] = info.precision
    return told


def _text(key: str, key_of_type: str, text: str) -> Attributes:
    return {key: text, key_of_type: OpenInferenceMimeTypeValues.TEXT.value}


def _places(candidate: Candidate, ranked: RankedChunk | None = None) -> dict[str, int]:
    return {"recall_rank": candidate.rank} | ({"rank": ranked.rank} if ranked else {})


def _documents(
    key: str, documents: Iterable[tuple[Chunk, float | None, dict[str, int]]], with_content: bool
) -> Attributes:
    return dict(_document_attributes(key, documents, with_content))


def _document_attributes(
    key: str, documents: Iterable[tuple[Chunk, float | None, dict[str, int]]], with_content: bool
) -> Iterator[tuple[str, str | float]]:
    for number, (chunk, score, places) in enumerate(documents):
        start = f"{key}.{number}."
        yield start + DocumentAttributes.DOCUMENT_ID, chunk.id
        if score is not None:
            yield start + DocumentAttributes.DOCUMENT_SCORE, score
        told: dict[str, object] = {**places, "document_id": chunk.document_id, "page": chunk.first_page}
        if with_content:
            told["title"] = chunk.title
            yield start + DocumentAttributes.DOCUMENT_CONTENT, chunk.passage
        yield start + DocumentAttributes.DOCUMENT_METADATA, json.dumps(told)
