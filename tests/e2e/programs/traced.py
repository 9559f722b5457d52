"""The app in a process that traces: each span is a line of JSON on its output."""

import json

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from tests.e2e.programs.app import app


def line(span: ReadableSpan) -> str:
    return f"span {json.dumps(json.loads(span.to_json()))}\n"


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
trace.set_tracer_provider(provider)

__all__ = ["app"]
