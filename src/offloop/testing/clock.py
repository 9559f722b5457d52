"""Time that tests control: a clock that stands still, and timers that fire when it is moved.

Owns stand-ins for `clock.Clock` and `ports.service.Timers`. Nothing here reads the real time, and nothing runs by
itself: a callback is called inside `advance`, in the test's own thread.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class ManualClock:
    """A `Clock`: returns the seconds it was set to.

    Example:
        >>> clock = ManualClock(100.0)
        >>> clock.advance(2.5)
        >>> clock()
        102.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move it. Raises ValueError for a negative number: monotonic time never goes back."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot be moved back, by {seconds} s")
        self._now += seconds

    def move_to(self, instant: float) -> None:
        """Set it to an instant; one that has passed leaves it where it is."""
        self._now = max(self._now, instant)


class ManualTimer:
    """What `call_at` returns."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        """Whether it has neither fired nor been cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        """Call back, once; without effect after `cancel`."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class ManualTimers:
    """`Timers` over a `ManualClock`: move the time here, and what becomes due is called, earliest first.

    The clock stands at each timer's own instant while it is called, so what it sets in turn is due at the right time.

    Example:
        >>> clock = ManualClock()
        >>> timers = ManualTimers(clock)
        >>> timer = timers.call_at(2.0, lambda: print("called at", clock()))
        >>> timers.advance(5.0)
        called at 2.0
        >>> clock()
        5.0
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._order = count()

    def call_at(self, when: float, callback: Callable[[], None]) -> ManualTimer:
        """`when` is seconds as the clock tells them; what is due already is called by the next `advance`."""
        timer = ManualTimer(callback)
        heappush(self._timers, (when, next(self._order), timer))
        return timer

    @property
    def next_at(self) -> float | None:
        """The instant of the earliest pending timer; None where nothing is pending."""
        while self._timers and not self._timers[0][2].pending:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def advance(self, seconds: float = 0.0) -> None:
        """Move the clock by so much, from timer to timer. Equal instants fire in the order in which they were set."""
        end = self._clock() + seconds
        while (when := self.next_at) is not None and when <= end:
            self._clock.move_to(when)
            heappop(self._timers)[2].fire()
        self._clock.advance(end - self._clock())
