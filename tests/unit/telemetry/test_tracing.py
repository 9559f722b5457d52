from collections.abc import Iterator

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from offloop import errors
from offloop.messages import Envelope
from offloop.telemetry import tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "vendor=1"), ("baggage", "tenant=seven"))


def envelope(headers: tuple[tuple[str, str], ...] = ()) -> Envelope:
    return Envelope(rid="r1", endpoint="read", payload=b"", deadline=9.0, request_id="mine", attempt=2, trace=headers)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    tracing.prepare()
    yield exporter
    monkeypatch.undo()
    tracing.prepare()
    provider.shutdown()


def test_without_an_sdk_and_without_headers_there_is_nothing_to_do() -> None:
    tracing.prepare()
    assert tracing.spans(envelope()) is None


def test_without_an_sdk_the_callers_context_still_reaches_the_node() -> None:
    before = context.get_current()
    span = tracing.spans(envelope(HEADERS))
    assert span is not None
    with span:
        assert baggage.get_baggage("tenant") == "seven"
        assert trace.get_current_span().get_span_context().trace_id == int(TRACE, 16)
    assert context.get_current() == before


def test_a_span_goes_on_with_the_callers_trace(exporter: InMemorySpanExporter) -> None:
    span = tracing.spans(envelope(HEADERS))
    assert span is not None
    with span:
        assert baggage.get_baggage("tenant") == "seven"
        with trace.get_tracer_provider().get_tracer("node").start_as_current_span("inner"):
            pass
    inner, outer = exporter.get_finished_spans()
    assert outer.name == "read"
    assert outer.kind is SpanKind.CONSUMER
    assert outer.context is not None
    assert outer.parent is not None
    assert format(outer.context.trace_id, "032x") == TRACE
    assert format(outer.parent.span_id, "016x") == PARENT
    assert outer.context.trace_state.get("vendor") == "1"
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(outer.attributes or {}) == {
        "offloop.endpoint": "read",
        "offloop.rid": "r1",
        "offloop.request_id": "mine",
        "offloop.attempt": 2,
        "offloop.outcome": "ok",
    }
    assert outer.status.status_code is StatusCode.UNSET


def test_without_headers_a_span_begins_a_trace_of_its_own(exporter: InMemorySpanExporter) -> None:
    span = tracing.spans(envelope())
    assert span is not None
    with span:
        pass
    (only,) = exporter.get_finished_spans()
    assert only.parent is None


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(ValueError("no"), "node-failed"), (errors.Cancelled(), "cancelled"), (KeyboardInterrupt(), "node-failed")],
)
def test_a_failure_is_recorded_and_goes_on(exporter: InMemorySpanExporter, failure: BaseException, reason: str) -> None:
    span = tracing.spans(envelope())
    assert span is not None
    with pytest.raises(type(failure)), span:
        raise failure
    (only,) = exporter.get_finished_spans()
    assert (only.attributes or {})["offloop.outcome"] == reason
    assert only.status.status_code is StatusCode.ERROR
    assert [event.name for event in only.events] == ["exception"]


def test_an_outcome_that_is_told_is_the_one(exporter: InMemorySpanExporter) -> None:
    span = tracing.spans(envelope())
    assert span is not None
    with span as request:
        request.end("no-reply")
    (only,) = exporter.get_finished_spans()
    assert (only.attributes or {})["offloop.outcome"] == "no-reply"
    assert only.status.description == "no-reply"


def test_headers_that_make_no_sense_are_passed_over(exporter: InMemorySpanExporter) -> None:
    span = tracing.spans(envelope((("traceparent", "nonsense"), ("baggage", ";;;"))))
    assert span is not None
    with span:
        pass
    (only,) = exporter.get_finished_spans()
    assert only.parent is None
