"""The event loop's lag: how much later than asked for it calls back. Owns one timer, of no request."""

import asyncio
from collections import deque

from offloop.clock import Clock
from offloop.events import Events

INTERVAL = 0.1
"""Seconds between two looks."""
KEPT = 10
"""Looks over which the worst is told: about a second."""
WORTH_TELLING = 0.01
"""Lag from which on an event says so: the promises' bounds hold below it."""


class LagProbe:
    """Measures while it runs."""

    def __init__(self, clock: Clock, events: Events) -> None:
        self._clock = clock
        self._events = events
        self._recent: deque[float] = deque(maxlen=KEPT)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def worst(self) -> float:
        """Seconds; the worst of about the last second."""
        return max(self._recent, default=0.0)

    def start(self) -> None:
        """On the running event loop, until `stop`."""
        self._due = self._clock() + INTERVAL
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        now = self._clock()
        late = max(0.0, now - self._due)
        self._recent.append(late)
        if late >= WORTH_TELLING:
            self._events.emit(now, "lag", value=late)
        self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
