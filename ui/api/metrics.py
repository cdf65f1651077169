"""What is counted, in Prometheus' text form: numbers only, no text of a question or a document, no name of a person.

It watches the questions of the whole process, the pages' too, and looks at queues when it is asked.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ingest.library import Library
from rag.types import Answer, Failure, Refusal, StoredTrace
from ui.api.line import Line

STAGE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._questions = Counter(
            "rank37_questions", "Questions by outcome: answer, refusal, failure", ["outcome"], registry=self._registry
        )
        self._refusals = Counter("rank37_refusals", "Refusals by reason", ["reason"], registry=self._registry)
        self._failures = Counter(
            "rank37_failures", "Questions that an outage ended, by error", ["error"], registry=self._registry
        )
        self._reranked = Counter("rank37_reranked", "Questions whose passages were reranked", registry=self._registry)
        self._top_changed = Counter(
            "rank37_rerank_changed_top",
            "Questions whose first passage after reranking was not the first of recall",
            registry=self._registry,
        )
        self._stages = Histogram(
            "rank37_stage_seconds", "Time by stage", ["stage"], buckets=STAGE_BUCKETS_S, registry=self._registry
        )
        self._requests = Counter(
            "rank37_http_requests", "Requests to the API", ["method", "route", "status"], registry=self._registry
        )
        self._queued = Gauge(
            "rank37_ingest_queue_files", "Files in the ingestion queues", ["state"], registry=self._registry
        )
        self._at_work = Gauge("rank37_questions_at_work", "Questions of the API at work", registry=self._registry)
        self._waiting = Gauge("rank37_questions_waiting", "Questions of the API in line", registry=self._registry)
        for outcome in ("answer", "refusal", "failure"):
            self._questions.labels(outcome)

    def count_question(self, stored: StoredTrace) -> None:
        """Count a question that is over."""
        match stored.outcome:
            case Answer():
                self._questions.labels("answer").inc()
            case Refusal(reason):
                self._questions.labels("refusal").inc()
                self._refusals.labels(reason).inc()
            case Failure(error):
                self._questions.labels("failure").inc()
                self._failures.labels(error).inc()
        trace = stored.trace
        if trace.ranked:
            self._reranked.inc()
            self._top_changed.inc(trace.ranked[0].candidate.rank != 1)
        for stage, milliseconds in trace.timings_ms.items():
            self._stages.labels(stage).observe(milliseconds / 1000)

    def count_request(self, method: str, route: str, status: int) -> None:
        """Count a request by its route, which holds no ids."""
        self._requests.labels(method, route, str(status)).inc()

    def as_text(self, library: Library, line: Line) -> bytes:
        """Everything, with queues and line as they are now."""
        states = [job.state for workspace in library.workspaces() for job in workspace.queue.jobs()]
        for state in ("waiting", "running", "failed"):
            self._queued.labels(state).set(states.count(state))
        self._at_work.set(line.n_at_work)
        self._waiting.set(line.n_waiting)
        return generate_latest(self._registry)
