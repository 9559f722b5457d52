"""The request that the current thread runs, for logs and spans.

Owns one context variable. It is set by a runner around its nodes and read by telemetry; no decision may depend on it.
"""

from contextvars import ContextVar

from offloop.messages import Envelope

running: ContextVar[Envelope | None] = ContextVar("offloop_running", default=None)
"""The envelope whose nodes run in this context; None outside of a node."""
