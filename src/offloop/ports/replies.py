"""Ports for what comes back: reports from the worker side to the web side. No implementation, no policy."""

from collections.abc import Callable, Sequence
from typing import Protocol

from offloop.messages import Report


class ReplySink(Protocol):
    """The worker side's end. Thread-safe; keeps the order of one thread's calls; may block briefly."""

    def send(self, report: Report) -> None:
        """Send it on. After close, and for a web process that is gone, it is dropped without an error.

        A `Begun` is visible to the web side when this returns, whatever becomes of this process; it need not wake
        the web side, which asks by `WorkSink.settle` before a decision that depends on it.
        """


class ReplySource(Protocol):
    """The web side's end."""

    def subscribe(self, receive: Callable[[Sequence[Report]], None]) -> None:
        """Call `receive` on the event loop with all that has come since the last call: many reports, one wake-up.

        Reports of one worker keep their order. A `Begun` may be left out where the same call has its last outcome,
        which says when it began and where. `receive` never raises; nothing may stop the reader.
        """
