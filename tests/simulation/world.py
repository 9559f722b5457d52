"""Time, and what happens in it.

Owns the one clock of a history and the order of its happenings. What happens on the event loop waits while that is
blocked; what loops do goes on meanwhile. Real time, threads and asyncio never enter.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

INSTANT = 1e-7
"""Seconds between two readings of the clock: time never stands still."""
ENDLESS = 10_000
"""Happenings after which a history is taken to never end."""


class Happening:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("act", "cancelled", "web", "when")

    def __init__(self, when: float, act: Callable[[], None], *, web: bool) -> None:
        self.when = when
        self.act = act
        self.web = web
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """A clock and a calendar."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watch: Callable[[], None] = lambda: None
        self._calendar: list[tuple[float, int, Happening]] = []
        self._made = 0
        self._blocked_until = 0.0
        self.blocks: list[tuple[float, float]] = []

    def clock(self) -> float:
        self.now += INSTANT
        return self.now

    def at(self, when: float, act: Callable[[], None], *, web: bool = False) -> Happening:
        """`web`: on the event loop. Two at one instant happen in the order in which they were asked for."""
        happening = Happening(when, act, web=web)
        self._made += 1
        heappush(self._calendar, (when, self._made, happening))
        return happening

    def after(self, delay: float, act: Callable[[], None], *, web: bool = False) -> Happening:
        return self.at(self.now + delay, act, web=web)

    def block(self, seconds: float) -> None:
        """The event loop does nothing for so long."""
        self._blocked_until = max(self._blocked_until, self.now + seconds)
        self.blocks.append((self.now, self._blocked_until))

    def excused(self, when: float, bound: float) -> float:
        """The latest instant for what was due within `bound` seconds of `when`, given how the loop was blocked."""
        latest = when + bound
        for began, ended in self.blocks:
            if began <= latest and ended >= when:
                latest = max(latest, ended + bound)
        return latest

    def run(self) -> None:
        """Until nothing is left to happen."""
        calendar = self._calendar
        for _ in range(ENDLESS):
            if not calendar:
                return
            when, number, happening = heappop(calendar)
            if happening.cancelled:
                continue
            if happening.web and when < self._blocked_until:
                heappush(calendar, (self._blocked_until, number, happening))
                continue
            self.now = max(self.now, when)
            happening.act()
            if happening.web:
                self.watch()
        raise AssertionError("the history never ends")


class FakeTimers:
    """`ports.service.Timers`: a little early now and then, mostly a little late."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._set: dict[Happening, float] = {}

    def call_at(self, when: float, callback: Callable[[], None]) -> Happening:
        early, late = (0.0005, 0.0) if self._random.random() < 0.1 else (0.0, 0.001)
        inexact = when + self._random.uniform(-early, late)
        timer = self._world.at(max(inexact, self._world.now), lambda: self._fire(timer, callback), web=True)
        self._set[timer] = when
        return timer

    def _fire(self, timer: Happening, callback: Callable[[], None]) -> None:
        del self._set[timer]
        callback()

    @property
    def pending(self) -> list[float]:
        """The instants for which timers are set."""
        for timer in [timer for timer in self._set if timer.cancelled]:
            del self._set[timer]
        return list(self._set.values())
