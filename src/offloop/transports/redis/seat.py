"""A loop's seat at the broker, as the loop has it: asked for, given, left.

Owns that, whether those that sit keep up with what comes, and whether the work that the loop did lately waited for
something else than a CPU. Who gets a seat is for the supervisor to say (`core/seats`).
"""

import math
import resource
import threading
from collections.abc import Callable

from offloop.core.durations import AHEAD

THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)
"""None where it cannot be known how often one thread waited (macOS): every loop asks without a seat there."""

SMOOTH = 8
"""So many of the last requests say whether work waits."""
OFTEN = 0.5
"""Waits in a request from which on more loops than CPUs are of use."""
LAIN = AHEAD / 1e6
"""Seconds that a request may lie at the broker: as long as it may lie behind another in a loop."""
CROWDED_AFTER = 0.02
"""Seconds for which all that comes has lain there longer: a loop may have been without its CPU for almost so long."""
AGAIN = 0.1
"""Seconds until the same is said again: one more of them shows by then."""


class Seat:
    """Of one loop. `give`, `wake` and `leave` are for any thread, the rest for the loop's.

    Args:
        asks, leaves: called with the number of the turn; None: there are seats enough for all.
        crowded: called when those that sit are too few.
    """

    def __init__(
        self,
        asks: Callable[[int], object] | None,
        leaves: Callable[[int], object],
        crowded: Callable[[], object] = lambda: None,
    ) -> None:
        self._asks = asks if THREAD is not None else None
        self._leaves = leaves
        self._crowded = crowded
        self._late_since = math.inf
        self._said_at = -math.inf
        self._turn = 0
        self._asked = False
        self._given = threading.Event()
        self._changing = threading.Lock()

    @property
    def matters(self) -> bool:
        """Whether there are fewer seats than loops."""
        return self._asks is not None

    @property
    def taken(self) -> bool:
        return self._given.is_set()

    def wait(self, timeout: float) -> bool:
        """Ask for it, once, and wait. Whether it is taken now."""
        with self._changing:
            asks = not self._asked
            if asks:
                self._asked = True
                self._turn += 1
        if asks and self._asks is not None:
            self._asks(self._turn)
        return self._given.wait(timeout)

    def give(self, turn: int) -> None:
        """The supervisor has given it, for that turn."""
        with self._changing:
            if self._asked and turn == self._turn:
                self._given.set()

    def stand(self, turn: int) -> None:
        """The supervisor wants it back, of that turn."""
        if turn == self._turn:
            self.leave()

    def lain(self, seconds: float, now: float) -> None:
        """What has come, while it was taken, had lain at the broker for so long."""
        if seconds <= LAIN:
            self._late_since = math.inf
        elif self._late_since > now:
            self._late_since = now
        elif now - self._late_since > CROWDED_AFTER:
            self.crowded(now)

    def crowded(self, now: float) -> None:
        """Somebody else is to sit as well. Only said now and then."""
        if now - self._said_at > AGAIN:
            self._said_at = now
            self._crowded()

    def wake(self) -> None:
        """Whoever waits for it is to look up."""
        self._given.set()

    def leave(self) -> None:
        """It is another's. Without effect for who has none and has not asked."""
        with self._changing:
            asked, self._asked = self._asked, False
            self._given.clear()
            self._late_since = math.inf
        if asked:
            self._leaves(self._turn)


class Waits:
    """How often a request's work lets go of the CPU of its own accord, lately. Of the calling thread."""

    def __init__(self) -> None:
        self._often = 1.0  # until it is known: more loops than are of use cost a little, fewer cost answers
        self._before = 0

    @property
    def often(self) -> bool:
        return self._often > OFTEN

    def begin(self) -> None:
        """From here on it counts."""
        if THREAD is not None:
            self._before = resource.getrusage(THREAD).ru_nvcsw

    def passes_over(self) -> None:
        """One wait that is the loop's own affair, and none of the work."""
        self._before += 1

    def end(self, requests: int) -> None:
        """Up to here, so many were done."""
        if requests and THREAD is not None:
            each = (resource.getrusage(THREAD).ru_nvcsw - self._before) / requests
            self._often += (each - self._often) * min(1.0, requests / SMOOTH)
