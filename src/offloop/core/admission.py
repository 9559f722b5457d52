"""Admission: admit, or reject and why; and when to try again.

Owns the order of the refusals (section 5 of the contract) and the recent pace from which Retry-After is told. It
reads the counts that the registry and the backlog keep and holds none of its own, so that there is one count of each.
"""

from math import ceil

from offloop import errors
from offloop.core.backlog import Backlog
from offloop.core.crew import Crew
from offloop.core.distant import Distant
from offloop.core.lifecycle import ADMITS, ENDING, Lifecycle
from offloop.core.policy import Policy
from offloop.core.waiters import Waiters

WINDOW = 5.0
"""Seconds over which the pace is told; between one and two of them are looked at."""
SHORTEST, LONGEST = 1, 30
"""Bounds of Retry-After, in seconds."""

CAPACITY: frozenset[type[errors.OffloopError]] = frozenset({errors.EndpointBusy, errors.QueueFull})
"""Refusals that a report which has not been read yet may lift."""


class Pace:
    """How many requests ended lately: two windows of counts, the older one dropped as a new one begins."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._before = 0
        self._current = 0
        self._span_before = 0.0

    def ended(self, now: float) -> None:
        """One request has left the registry."""
        if now - self._since > WINDOW:
            self._turn(now)
        self._current += 1

    def _turn(self, now: float) -> None:
        span = now - self._since
        recent = span <= 2 * WINDOW  # after a long silence the old count says nothing
        self._before, self._span_before = (self._current, span) if recent else (0, 0.0)
        self._current, self._since = 0, now

    def retry_after(self, ahead: int, now: float) -> int:
        """Whole seconds until `ahead` requests will have ended, at the recent rate, from 1 to 30."""
        span = self._span_before + now - self._since
        rate = max(self._before + self._current, 1) / span if span > 0 else float("inf")
        return min(max(ceil(ahead / rate), SHORTEST), LONGEST)


class Admission:
    """Judges one arriving request."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        waiters: Waiters,
        backlog: Backlog,
        crew: Crew | Distant,
        *,
        queue_limit: int,
        queue_bytes: int,
        now: float,
    ) -> None:
        self._lifecycle = lifecycle
        self._waiters = waiters
        self._backlog = backlog
        self._crew = crew
        self.queue_limit = queue_limit
        self.queue_bytes = queue_bytes
        self.pace = Pace(now)

    def judge(
        self, policy: Policy, declared: int, acceptable: bool, now: float, crowded: bool = False
    ) -> type[errors.OffloopError] | None:
        """None to admit, else the first refusal that applies, in the contract's order.

        Args:
            policy: the endpoint's.
            declared: the body's declared bytes; 0 where it does not say.
            acceptable: whether the endpoint takes this media type.
            crowded: whether the caller has as many in flight as one may; that is for the caller's adapter to count.
        """
        closed = self.closed(now, policy.name)
        if closed is not None:
            return closed
        if not acceptable:
            return errors.UnsupportedMediaType
        if declared > policy.max_body:
            return errors.PayloadTooLarge
        if crowded or self._waiters.count(policy.name) >= policy.max_in_flight:
            return errors.EndpointBusy
        backlog = self._backlog
        if (
            len(backlog.places) - len(backlog.counted) >= self.queue_limit
            or backlog.bytes + declared > self.queue_bytes
        ):
            return errors.QueueFull
        return None

    def closed(self, now: float, endpoint: str) -> type[errors.OffloopError] | None:
        """What refuses every request to it that could come now: the first two rows. None: it depends on the request."""
        if self._lifecycle.state not in ADMITS:
            return errors.Draining if self._lifecycle.state in ENDING else errors.BackendUnavailable
        return None if self._crew.available(now, endpoint) else errors.BackendUnavailable

    def shut(self, policy: Policy, now: float) -> type[errors.OffloopError] | None:
        """What refuses every request to this endpoint that could come now, whatever it were.

        A full queue is not among it: that one is everybody's, and soon over.
        """
        closed = self.closed(now, policy.name)
        if closed is None and self._waiters.count(policy.name) >= policy.max_in_flight:
            return errors.EndpointBusy
        return closed

    def outgrown(self, policy: Policy, size: int, total: int) -> type[errors.OffloopError] | None:
        """None if a body for which `size` bytes are reserved may become `total` bytes, else what refuses it."""
        if total > policy.max_body:
            return errors.PayloadTooLarge
        return errors.QueueFull if self._backlog.bytes + total - size > self.queue_bytes else None

    def retry_after(self, refusal: type[errors.OffloopError], policy: Policy, now: float) -> int | None:
        """For Retry-After: on every 429 and 503, None for the rest."""
        if refusal.status not in (429, 503):
            return None
        busy = refusal is errors.EndpointBusy
        ahead = self._waiters.count(policy.name) if busy else self._backlog.depth
        return self.pace.retry_after(ahead, now)
