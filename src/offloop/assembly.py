"""The only place that chooses parts: from a program and settings to a runtime that can be started and stopped.

Owns which transport, workforce and observers go together in a mode, and the order of a runtime's start and stop. No
part below knows which others were chosen.
"""

import asyncio
import logging
import os
import socket
import sys
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from offloop import errors
from offloop.clock import Clock, monotonic
from offloop.core.crew import Crew
from offloop.core.drain import Drain
from offloop.core.policy import Policy
from offloop.events import Events, Observer
from offloop.graph.endpoint import Endpoint
from offloop.graph.program import Program
from offloop.ingress.gateway import Gateway
from offloop.ingress.ids import epoch_of, rids
from offloop.ingress.timers import LoopTimers
from offloop.orchestration import interpreter
from offloop.orchestration.process import ProcessWorkforce
from offloop.orchestration.thread import ThreadWorkforce
from offloop.ports.replies import ReplySource
from offloop.ports.service import Workforce
from offloop.ports.work import WorkSink
from offloop.runners.sync import SyncRunner
from offloop.settings import Settings
from offloop.telemetry import forwarding, logs, tracing
from offloop.telemetry.event_log import EventLog
from offloop.telemetry.lag import LagProbe
from offloop.telemetry.metrics import Metrics
from offloop.transports.local.frames import Setup
from offloop.transports.local.web import LocalTransport
from offloop.transports.memory import MemoryTransport

log = logging.getLogger("offloop")

REPLIES_WITHIN = 0.2
"""Seconds that decided outcomes have to leave the process before the loops are stopped."""
READ_AHEAD = 16
"""How many requests a worker process may be handed at most beyond those that its loops run."""
LEAST_STOP = 0.25
"""Seconds that loops have to end even when the drain has used up its budget."""

alive: "WeakSet[Runtime]" = WeakSet()
"""Every runtime between its start and its end, for tests that look for what they left behind. Nothing else reads it."""


def policy_of(endpoint: Endpoint[Any, Any]) -> Policy:
    """What the core needs to know of an endpoint."""
    return Policy(
        name=endpoint.name, timeout=endpoint.timeout, max_in_flight=endpoint.max_in_flight,
        max_body=endpoint.max_body, idempotent=endpoint.idempotent, finishes=endpoint.on_disconnect == "finish",
    )  # fmt: skip


class Transport(WorkSink, ReplySource, Protocol):
    """The web side's ends of a transport, and its end."""

    def close(self) -> None: ...


class Parts(NamedTuple):
    """What a mode is made of."""

    transport: Transport
    workforce: Workforce
    crew: Crew


def thread_parts(
    program: Program, settings: Settings, loop: asyncio.AbstractEventLoop, events: Events, clock: Clock
) -> Parts:
    """Loops in threads of this process."""
    transport = MemoryTransport(loop.call_soon_threadsafe, loop.call_soon)
    services = program.services()
    threads = settings.threads_in("thread")

    def runner(name: str) -> SyncRunner:
        return SyncRunner(
            name, program, services, transport, transport,
            clock=clock, events=events, max_reply=settings.max_reply, debug=settings.debug, spans=tracing.spans,
        )  # fmt: skip

    workforce = ThreadWorkforce(threads, transport, services, runner)
    return Parts(transport, workforce, Crew(shared=True, kill_grace=settings.kill_grace, spare=threads))


def process_parts(
    program: Program, settings: Settings, loop: asyncio.AbstractEventLoop, events: Events, clock: Clock
) -> Parts:
    """Loops in worker processes on this host.

    Raises:
        SettingsError: the program is in a module that no other process can import, or the system has no such processes.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "killpg"):
        raise errors.SettingsError("OFFLOOP_MODE=process needs a POSIX system, such as Linux or macOS")
    if "__main__" in program.packages:
        raise errors.SettingsError(
            "OFFLOOP_MODE=process: worker processes import the program, and nothing can import __main__. Put its "
            "nodes and endpoints into a module of their own, and name that in Offloop(...)"
        )
    transport = LocalTransport(loop, events, settings.max_reply, clock)
    loops = settings.threads_in("process")

    def setup(name: str) -> Setup:
        return Setup(
            program.packages, tuple(sys.path), name, tuple(program.endpoints), loops, settings.max_reply,
            settings.gc_freeze, settings.debug, forwarding.levels(),
        )  # fmt: skip

    workforce = ProcessWorkforce(
        settings.workers, loops, loops + READ_AHEAD, transport, setup, clock=clock, max_requests=settings.max_requests
    )
    return Parts(transport, workforce, Crew(shared=False, kill_grace=settings.kill_grace, read_ahead=READ_AHEAD))


PARTS = {"thread": thread_parts, "process": process_parts}


class Runtime:
    """One life of an Offloop, from its start to the end of its drain. Made on the event loop that it serves."""

    def __init__(
        self, program: Program, settings: Settings, observers: tuple[Observer, ...] = (), clock: Clock = monotonic
    ) -> None:
        if settings.mode not in PARTS:
            raise errors.SettingsError(
                f"OFFLOOP_MODE={settings.mode} is not served by this version of offloop; use {' or '.join(PARTS)}"
            )
        self.loop = asyncio.get_running_loop()
        self._settings = settings
        self._clock = clock
        self._drained = asyncio.Event()
        self._answered = asyncio.Event()
        self._finished = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None
        self.event_log = EventLog(settings.event_log) if settings.event_log else None
        self.metrics = Metrics(self._snapshot)
        logged: tuple[Observer, ...] = (self.event_log,) if self.event_log else ()
        self.events = Events((self.metrics, *logged, *observers))
        self._probe = LagProbe(clock, self.events)
        parts = PARTS[settings.mode](program, settings, self.loop, self.events, clock)
        self._transport, self.workforce = parts.transport, parts.workforce
        rid = rids()
        self.gateway = Gateway(
            {name: policy_of(endpoint) for name, endpoint in program.endpoints.items()},
            clock=clock,
            timers=LoopTimers(self.loop, clock),
            rid=rid,
            sink=self._transport,
            crew=parts.crew,
            workforce=self.workforce,
            drain=Drain(settings.drain_timeout, settings.drain_delay),
            events=self.events,
            queue_limit=settings.queue_limit,
            queue_bytes=settings.queue_bytes,
            max_deliveries=settings.max_deliveries,
            reply_to=epoch_of(rid()),
            promise=self.loop.create_future,
            drained=self._on_drained,
            answered=self._answered.set,
        )
        self._transport.subscribe(self.gateway.receive)

    def _snapshot(self) -> dict[str, Any]:
        return self.gateway.snapshot() | {"lag": self._probe.worst}

    async def start(self) -> None:
        """Bring everything up, or leave nothing running and raise."""
        settings = self._settings
        logs.install()
        tracing.prepare()
        # Worker processes hold no GIL of this one's.
        interpreter.tune(settings.switch_interval if settings.mode == "thread" else None)
        try:
            self.events.emit(
                self._clock(), "open", limit=settings.queue_limit, value=float(settings.max_deliveries),
                mode=settings.mode,
            )  # fmt: skip
            await self.workforce.start()
        except BaseException as failure:
            if isinstance(failure, Exception):  # a start that was cancelled has no fault
                log.error("offloop could not start: %s", failure)
            await self.workforce.stop(0.0)
            await self._release(frozen=False)
            raise
        self._transport.settle()
        if settings.gc_freeze:
            interpreter.freeze()
        self._probe.start()
        self.gateway.start()
        alive.add(self)

    def begin_drain(self) -> None:
        self.gateway.begin_drain()

    def _on_drained(self) -> None:
        self._finishing = self.loop.create_task(self._finish())

    async def wait_finished(self) -> None:
        """Until the drain has ended and nothing of this runtime is left."""
        await self._finished.wait()

    async def _finish(self) -> None:
        """The steps of a stop after the registry is empty; see `core/drain.ORDER`."""
        gateway, settings = self.gateway, self._settings
        if gateway.unsent:
            try:
                await asyncio.wait_for(self._answered.wait(), REPLIES_WITHIN)
            except TimeoutError:
                log.warning("%d answers were still being sent when the drain ended", gateway.unsent)
        left = min(gateway.drain.cut_at - self._clock(), settings.kill_grace)
        stuck = await self.workforce.stop(max(LEAST_STOP, left))
        self._transport.settle()
        self._transport.close()
        gateway.stop()
        log.info(
            "drained: %d cut, %d refused since the start, %d loops left behind", gateway.cut, gateway.refused, stuck
        )
        await self._release(frozen=settings.gc_freeze)
        self._finished.set()

    async def _release(self, *, frozen: bool) -> None:
        alive.discard(self)
        self._probe.stop()
        self.events.emit(self._clock(), "close")
        if self.event_log is not None:
            await self.loop.run_in_executor(None, self.event_log.close)
        interpreter.restore(frozen=frozen)
        logs.uninstall()
