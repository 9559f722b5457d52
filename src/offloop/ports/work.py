"""Ports for work on its way to a worker.

Owns the two ends of the way out: `WorkSink` (web side) and `WorkSource` (worker side), with `Delivery`, what the
latter hands out. No implementation, no policy.
"""

from typing import Protocol

from offloop.messages import Envelope


class WorkSink(Protocol):
    """The web side's end. Called on one event loop only; never blocks, never awaits: what takes time is reported.

    An envelope that was put is either begun, withdrawn, refused or lost with its worker, and a report says so. After
    `close` every call is without effect.
    """

    def put(self, envelope: Envelope, worker: str | None) -> None:
        """Send it to that worker; None: to whichever takes it first. What lies in a buffer is still queued."""

    def withdraw(self, rid: str) -> bool | None:
        """Take it back. True: it will never begin. False: it has begun. None: a `Withdrawn` report follows.

        Beginning and withdrawing exclude each other, whichever side comes first.
        """

    def cancel(self, rid: str) -> None:
        """Tell the loop that runs it that nobody waits any more. Unknown ids are passed over."""

    def grant(self, rid: str, room: int) -> None:
        """Its caller has taken `room` bytes of its stream messages: as many more may be sent. As `cancel` otherwise."""

    def cut(self) -> None:
        """A drain's time is up, and all that is left is withdrawn next: nothing of it is to begin any more."""

    def settle(self) -> None:
        """Report at once what the worker side has made visible and not reported yet (evidence without a wake-up)."""


class Delivery(Protocol):
    """One envelope in a loop's hands."""

    envelope: Envelope

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more. Thread-safe, cheap, never goes back to False."""

    def begin(self) -> bool:
        """Claim it, once. False: it was withdrawn, and must not begin."""

    def spend(self, size: int, timeout: float) -> bool:
        """Wait until a stream message that counts for `size` bytes may be sent; blocks.

        `messages.WINDOW` bytes may be on their way to the caller. False: not within `timeout` seconds, nobody waits any
        more, or the caller takes no stream messages.
        """


class WorkSource(Protocol):
    """The worker side's end. Thread-safe; blocks; needs no event loop."""

    def get(self, timeout: float) -> Delivery | None:
        """The next one, first in, first out; None when idle for `timeout` seconds, woken, or closed."""
