"""Tracing: the caller's trace goes on through the loop, by OpenTelemetry's API.

Owns the span around one request's nodes and the context that the caller's headers bring (`traceparent`, `tracestate`,
`baggage`; W3C Trace Context and W3C Baggage). It never sets up an SDK or an exporter: that is the application's. Where
there is neither a tracer provider nor a header, there is nothing to do, and `spans` says so by None.
"""

from types import TracebackType

from opentelemetry import context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from offloop.errors import OffloopError
from offloop.messages import Envelope

_propagator = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
_tracer: Tracer | None = None


def prepare() -> None:
    """Look whether the application has set up tracing. Called at a start; what is set up later is seen at the next."""
    global _tracer  # noqa: PLW0603 - as global as OpenTelemetry's own provider
    provider = trace.get_tracer_provider()
    _tracer = None if isinstance(provider, ProxyTracerProvider) else provider.get_tracer("offloop")


def spans(envelope: Envelope) -> "RequestSpan | None":
    """What is to be entered around the request's nodes, in their own thread; None where nobody traces it."""
    if _tracer is None and not envelope.trace:
        return None
    return RequestSpan(envelope, _tracer)


class RequestSpan:
    """The caller's context, attached; in it a span, if there is a tracer.

    The outcome is what `end` is told; without it, it is read from the exception that leaves the block.
    """

    __slots__ = ("_envelope", "_reason", "_span", "_token", "_tracer")

    def __init__(self, envelope: Envelope, tracer: Tracer | None) -> None:
        self._envelope = envelope
        self._tracer = tracer
        self._span: Span | None = None
        self._reason = ""

    def __enter__(self) -> "RequestSpan":
        envelope = self._envelope
        caller = _propagator.extract(dict(envelope.trace))
        if self._tracer is not None:
            self._span = self._tracer.start_span(
                envelope.endpoint,
                caller,
                SpanKind.CONSUMER,
                {
                    "offloop.endpoint": envelope.endpoint,
                    "offloop.rid": envelope.rid,
                    "offloop.request_id": envelope.request_id,
                    "offloop.attempt": envelope.attempt,
                },
            )
            caller = trace.set_span_in_context(self._span, caller)
        self._token = context.attach(caller)
        return self

    def end(self, reason: str) -> None:
        """The outcome: `ok` or a reason."""
        self._reason = reason

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context.detach(self._token)
        span = self._span
        if span is None:
            return
        if failure is not None:
            reason = self._reason or (failure.reason if isinstance(failure, OffloopError) else "node-failed")
            span.record_exception(failure)
        else:
            reason = self._reason or "ok"
        span.set_attribute("offloop.outcome", reason)
        if reason != "ok":
            span.set_status(Status(StatusCode.ERROR, reason))
        span.end()
