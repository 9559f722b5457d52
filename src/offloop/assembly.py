"""The only place that chooses parts: from a program and settings to a runtime that can be started and stopped.

Owns which transport, workforce and observers go together in a mode, and the order of a runtime's start and stop. No
part below knows which others were chosen.
"""

import asyncio
import logging
from typing import Any
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
from offloop.orchestration.thread import ThreadWorkforce
from offloop.runners.sync import SyncRunner
from offloop.settings import Settings
from offloop.telemetry import logs, tracing
from offloop.telemetry.event_log import EventLog
from offloop.telemetry.lag import LagProbe
from offloop.telemetry.metrics import Metrics
from offloop.transports.memory import MemoryTransport

log = logging.getLogger("offloop")

REPLIES_WITHIN = 0.2
"""Seconds that decided outcomes have to leave the process before the loops are stopped."""
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


class Runtime:
    """One life of an Offloop, from its start to the end of its drain. Made on the event loop that it serves."""

    def __init__(
        self, program: Program, settings: Settings, observers: tuple[Observer, ...] = (), clock: Clock = monotonic
    ) -> None:
        if settings.mode != "thread":
            raise errors.SettingsError(
                f"OFFLOOP_MODE={settings.mode} is not served by this version of offloop; use OFFLOOP_MODE=thread"
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
        self._transport = MemoryTransport(self.loop.call_soon_threadsafe, self.loop.call_soon)
        rid = rids()
        threads = settings.threads_in(settings.mode)
        services = program.services()
        self._workforce = ThreadWorkforce(
            threads, self._transport, services, lambda name: self._runner(name, program, services)
        )
        self.gateway = Gateway(
            {name: policy_of(endpoint) for name, endpoint in program.endpoints.items()},
            clock=clock,
            timers=LoopTimers(self.loop, clock),
            rid=rid,
            sink=self._transport,
            crew=Crew(shared=True, kill_grace=settings.kill_grace, spare=threads),
            workforce=self._workforce,
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

    def _runner(self, name: str, program: Program, services: Any) -> SyncRunner:
        return SyncRunner(
            name, program, services, self._transport, self._transport,
            clock=self._clock, events=self.events, max_reply=self._settings.max_reply, debug=self._settings.debug,
            spans=tracing.spans,
        )  # fmt: skip

    def _snapshot(self) -> dict[str, Any]:
        return self.gateway.snapshot() | {"lag": self._probe.worst}

    async def start(self) -> None:
        """Bring everything up, or leave nothing running and raise."""
        settings = self._settings
        logs.install()
        tracing.prepare()
        interpreter.tune(settings.switch_interval)
        try:
            self.events.emit(
                self._clock(), "open", limit=settings.queue_limit, value=float(settings.max_deliveries),
                mode=settings.mode,
            )  # fmt: skip
            await self._workforce.start()
        except BaseException as failure:
            log.error("offloop could not start: %s", failure)
            await self._workforce.stop(0.0)
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
        stuck = await self._workforce.stop(max(LEAST_STOP, left))
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
