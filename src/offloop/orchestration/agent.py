"""`offloop worker`: the workers of one host, from the first that is started to the last that has ended.

Owns signals, the budget of a drain, what probes are told, and whether it went well. Workers, leases and the broker are
the supervisor's; nothing is printed here: whoever shows how things stand is called.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Any, Protocol

from offloop.clock import Clock
from offloop.orchestration.probes import Page, listening
from offloop.orchestration.supervisor import Standing
from offloop.telemetry.worker_metrics import CONTENT_TYPE, render

log = logging.getLogger("offloop")

TAKEN = (signal.SIGTERM, signal.SIGINT)
SAME_WITHIN = 2.0
"""Seconds in which a further signal is the first once more: supervisors repeat what a terminal sent to the group."""
LEAST_STOP = 0.25
"""Seconds that workers have to end even where the budget is smaller."""
SHOW_EVERY = 0.2
"""Seconds between two looks at how things stand, where somebody watches."""


class State(StrEnum):
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Staff(Protocol):
    """The workers, and who answers for them: a `supervisor.Supervisor`."""

    async def start(self) -> None: ...
    async def stop(self, timeout: float) -> int: ...
    def standing(self) -> Standing: ...


Show = Callable[[State, Standing], None]


class Agent:
    """One life. Used on one event loop, in the main thread.

    Args:
        drain_timeout: seconds that workers may go on after the first signal.
        health: (host, port) where probes are answered; port 0 is the system's choice; None: nowhere.
        show: called every `SHOW_EVERY` seconds, and at the end.
    """

    def __init__(
        self,
        staff: Staff,
        *,
        drain_timeout: float,
        clock: Clock,
        health: tuple[str, int] | None = None,
        show: Show | None = None,
    ) -> None:
        self.state = State.STARTING
        self._staff = staff
        self._drain_timeout = drain_timeout
        self._clock = clock
        self._health = health
        self._show = show
        self._asked_at: float | None = None
        self._asked = asyncio.Event()
        self._hurried = asyncio.Event()

    async def run(self) -> bool:
        """Until the workers have ended as a signal asked; says whether all of them did so by themselves.

        Raises:
            StartError: a worker said why it cannot start, or the port for probes cannot be had. Nothing is left.
        """
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for signum in TAKEN:
                signal.signal(signum, lambda *_: loop.call_soon_threadsafe(self.signalled))
                # Not given back: whoever sends one more is not to change how it ends, now that it has.
                stack.callback(signal.signal, signum, signal.SIG_IGN)
            if self._health is not None:
                pages = {"/livez": self._live, "/readyz": self._ready, "/metrics": self._metrics}
                await stack.enter_async_context(listening(*self._health, pages))
            if self._show is not None:
                showing = loop.create_task(self._showing(self._show))
                stack.callback(showing.cancel)
            if await self._started():
                self.state = State.SERVING
                await self._asked.wait()
            return await self._drained()

    def signalled(self) -> None:
        """The first begins the drain; one that comes later than a repetition of it would ends all at once."""
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
            self._asked.set()
        elif now - self._asked_at >= SAME_WITHIN:
            self._hurried.set()

    async def _started(self) -> bool:
        """Whether they are there; False where a signal came first."""
        starting = asyncio.ensure_future(self._staff.start())
        if await _ends_before(starting, self._asked):
            starting.result()
            return True
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False

    async def _drained(self) -> bool:
        self.state = State.DRAINING  # from here on nobody is to count on this host
        began = self._clock()
        log.info(
            "draining: %d workers run requests, for %g s at most", self._staff.standing().busy, self._drain_timeout
        )
        stopping = asyncio.ensure_future(self._staff.stop(max(LEAST_STOP, self._drain_timeout)))
        if await _ends_before(stopping, self._hurried):
            killed = stopping.result()
        else:
            log.warning("a second signal: workers are not waited for any more")
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
            killed = await self._staff.stop(0.0)
        log.info("drained in %.1f s: %d workers killed", self._clock() - began, killed)
        return not killed

    # ---- what others see

    @property
    def ready(self) -> bool:
        """Whether requests are taken now: somebody is there to take them, and the broker to take them from."""
        now = self._staff.standing()
        return self.state is not State.DRAINING and now.linked and now.idle + now.busy > 0

    def _live(self) -> Page:
        return Page(200, b"alive\n")

    def _ready(self) -> Page:
        if self.ready:
            return Page(200, b"ready\n")
        now = self._staff.standing()
        why = self.state if self.state is State.DRAINING else "no worker is ready" if now.linked else "no broker"
        return Page(503, f"{why}\n".encode())

    def _metrics(self) -> Page:
        now = self._staff.standing()
        workers = {"idle": now.idle, "busy": now.busy, "absent": now.absent}
        text = render(
            linked=now.linked, ready=self.ready, workers=workers, requests=now.requests, lost=now.lost,
            refused=now.refused,
        )  # fmt: skip
        return Page(200, text, CONTENT_TYPE)

    async def _showing(self, show: Show) -> None:
        while True:
            show(self.state, self._staff.standing())
            await asyncio.sleep(SHOW_EVERY)


async def _ends_before(task: "asyncio.Future[Any]", event: asyncio.Event) -> bool:
    """Whether it has ended, by itself or by an exception, before the event came."""
    told = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
    return task.done()
