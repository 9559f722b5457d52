"""SIGTERM and SIGINT: the first begins the drain, and whoever handled it before hears of it when the drain has ended.

Owns when a signal is held back and when it is passed on (`Holding`, which decides), and the taking over of handlers
while a lifespan runs (`Relay`, which acts). What a drain does is not known here.

An ASGI server that hears of a signal closes its listener and waits for its connections before the lifespan ends: a
drain that starts there comes too late. What the servers do:

- uvicorn, by itself, with `--workers` or under gunicorn (`uvicorn-worker`) sets handlers before the lifespan starts:
  they are taken over. gunicorn's quick stop (SIGQUIT) is not.
- hypercorn gives its callbacks to the event loop, which no other handler can keep from them: nothing is taken over,
  and its stop ends with the lifespan, which drains.
- plain `asyncio.run`: after the drain SIGINT cancels the main task, and SIGTERM ends the process, as each would have.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from enum import Enum, auto
from types import FrameType
from typing import Any, Protocol

from offloop.clock import Clock, monotonic

log = logging.getLogger("offloop")

SAME_WITHIN = 2.0
"""Seconds in which a further signal is the first once more: supervisors repeat what a terminal sent to the group."""
TAKEN = (signal.SIGTERM, signal.SIGINT)


class Drains(Protocol):
    """The part of an Offloop that is told of signals."""

    def begin_drain(self) -> None: ...
    async def wait_drained(self) -> None: ...


class Verdict(Enum):
    BEGIN = auto()  # hold it back and begin the drain
    SAME = auto()  # nothing new
    PASS = auto()  # to whoever handled it before, at once


class Holding:
    """Decides, from signals and `now` in seconds; does nothing."""

    def __init__(self) -> None:
        self._first_at: float | None = None
        self._held: int | None = None

    @property
    def draining(self) -> bool:
        """Whether a signal has come at all."""
        return self._first_at is not None

    def arrived(self, signum: int, now: float) -> Verdict:
        if self._first_at is None:
            self._first_at, self._held = now, signum
            return Verdict.BEGIN
        if now - self._first_at < SAME_WITHIN:
            return Verdict.SAME
        self._held = None  # the later one stands for the first
        return Verdict.PASS

    def release(self) -> int | None:
        """The drain has ended: the signal to pass on; None where there is none, or no longer. Once."""
        held, self._held = self._held, None
        return held


class Relay:
    """Takes signals over for as long as anybody has joined. One for the process: signals are the process's."""

    def __init__(self, clock: Clock = monotonic) -> None:
        self._clock = clock
        self._members: dict[Drains, int] = {}
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int] = {}
        self._handler = self._on_signal  # one object, by which our own handler is known again
        self._holding = Holding()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Task[None] | None = None

    def join(self, off: Drains) -> None:
        """Hold signals back for `off`, which has started. Without effect off the main thread. Nested joins count."""
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._members:
            self._take_over()
        self._members[off] = self._members.get(off, 0) + 1
        if self._holding.draining:
            off.begin_drain()

    def leave(self, off: Drains) -> None:
        """`off` has ended. With the last one the handlers are given back, and a signal still held back is passed on."""
        if off not in self._members:
            return
        self._members[off] -= 1
        if self._members[off]:
            return
        del self._members[off]
        if self._members:
            return
        if self._waiting is not None:
            self._waiting.remove_done_callback(self._drained)
            self._waiting = None
        self._give_back()
        if (signum := self._holding.release()) is not None:
            signal.raise_signal(signum)

    def _take_over(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._holding = Holding()
        for signum in TAKEN:
            previous = signal.getsignal(signum)
            if previous is None or previous is signal.SIG_IGN or _of_the_loop(previous):
                continue
            self._previous[signum] = previous
            signal.signal(signum, self._handler)

    def _give_back(self) -> None:
        for signum, previous in self._previous.items():
            if signal.getsignal(signum) is self._handler:
                signal.signal(signum, previous)
        self._previous.clear()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._arrived, signum, self._clock())
        except RuntimeError:  # the loop was closed under us: nothing is left to drain
            self._pass_on(signum)

    def _arrived(self, signum: int, now: float) -> None:
        verdict = self._holding.arrived(signum, now)
        name = signal.Signals(signum).name
        if verdict is Verdict.PASS:
            log.warning("%s while draining: passed on at once", name)
            self._pass_on(signum)
        elif verdict is Verdict.BEGIN:
            log.info("%s: draining, then it is passed on", name)
            for off in self._members:
                off.begin_drain()
            assert self._loop is not None
            self._waiting = self._loop.create_task(self._all_drained())
            self._waiting.add_done_callback(self._drained)

    async def _all_drained(self) -> None:
        for off in tuple(self._members):
            await off.wait_drained()

    def _drained(self, waiting: "asyncio.Task[None]") -> None:
        # A callback of the loop and not a task: a handler may raise KeyboardInterrupt, which is to end the loop's run.
        if not waiting.cancelled() and (signum := self._holding.release()) is not None:
            self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        previous = self._previous.get(signum, signal.SIG_DFL)
        if callable(previous):
            previous(signum, None)
        else:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)


def _of_the_loop(handler: object) -> bool:
    """Whether it only stands in for a callback given to the event loop, which is called whatever handler is set."""
    module = getattr(handler, "__module__", None) or ""
    name = getattr(handler, "__name__", "")
    return module.startswith(("asyncio.", "uvloop.")) and name.strip("_").startswith("sighandler")


_relay = Relay()
join = _relay.join
leave = _relay.leave
