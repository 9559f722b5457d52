"""Timers on asyncio. Owns the one difference between its clock and ours."""

import asyncio
from collections.abc import Callable

from offloop.clock import Clock
from offloop.ports.service import Timer


class LoopTimers:
    """`ports.service.Timers` on an event loop.

    The delay is told from our clock at the moment of the call: an event loop's own time may lag behind it by a turn,
    or be cut to milliseconds (uvloop).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(max(0.0, when - self._clock()), callback)
