"""The only place that chooses parts: from a program and settings to a runtime that can be started and stopped.

Owns which transport, workforce and observers go together in a mode, and the order of a runtime's start and stop. No
part below knows which others were chosen.

It is longer than most files because the parts of every mode are to be compared in one place.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakSet

from offloop import errors
from offloop.clock import Clock, monotonic
from offloop.core.crew import Crew
from offloop.core.distant import Distant
from offloop.core.drain import Drain
from offloop.core.policy import Policy
from offloop.cpus import usable_cpus
from offloop.events import Events, Observer
from offloop.graph.endpoint import Endpoint
from offloop.graph.fingerprint import fingerprint
from offloop.graph.program import Program
from offloop.ingress.gateway import Gateway
from offloop.ingress.ids import epoch_of, rids
from offloop.ingress.timers import LoopTimers
from offloop.orchestration import interpreter
from offloop.orchestration.cluster import ClusterWorkforce
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

if TYPE_CHECKING:
    from offloop.orchestration.agent import Show
    from offloop.orchestration.supervisor import Supervisor
    from offloop.transports.redis.wire import Address

log = logging.getLogger("offloop")

REPLIES_WITHIN = 0.2
"""Seconds at least that decided outcomes have to leave the process before the loops are stopped: those of a cut."""
READ_AHEAD = 16
"""How many requests a worker process may be handed at most beyond those that its loops run."""
CELERYS = (
    "OFFLOOP_BROKER_URL names a broker of Celery's: its workers are started with `celery worker`, on an app that "
    "offloop.celery knows, and it keeps no dead letters"
)
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
    """What a mode is made of.

    Attributes:
        figures: what else the status tells.
    """

    transport: Transport
    workforce: Workforce
    crew: Crew | Distant
    figures: Callable[[], dict[str, int]] = dict


class Given(NamedTuple):
    """What parts are made from.

    Attributes:
        epoch: of this web process.
    """

    program: Program
    settings: Settings
    loop: asyncio.AbstractEventLoop
    events: Events
    clock: Clock
    epoch: str


def thread_parts(given: Given) -> Parts:
    """Loops in threads of this process."""
    program, settings, loop, events, clock, _ = given
    transport = MemoryTransport(loop.call_soon_threadsafe, loop.call_soon)
    services = program.services()
    threads = settings.threads_in("thread")

    def runner(name: str) -> SyncRunner:
        return SyncRunner(
            name, program, services, transport,
            clock=clock, events=events, max_reply=settings.max_reply, debug=settings.debug, spans=tracing.spans,
        )  # fmt: skip

    workforce = ThreadWorkforce(threads, transport, services, runner)
    return Parts(transport, workforce, Crew(shared=True, kill_grace=settings.kill_grace, spare=threads))


def process_parts(given: Given) -> Parts:
    """Loops in worker processes on this host.

    Raises:
        SettingsError: the program is in a module that no other process can import, or the system has no such processes.
    """
    if given.settings.broker_url is not None:
        return cluster_parts(given)
    program, settings, loop, events, clock, _ = given
    _check_processes(program)
    transport = LocalTransport(loop, events, settings.max_reply, clock)
    loops = settings.threads_in("process")
    setup = setup_of(program, settings, loops)
    workforce = ProcessWorkforce(
        settings.workers, loops, loops + READ_AHEAD, transport, setup, clock=clock,
        max_requests=settings.max_requests, leave_within=max(LEAST_STOP, settings.kill_grace),
    )  # fmt: skip
    return Parts(transport, workforce, Crew(shared=False, kill_grace=settings.kill_grace, read_ahead=READ_AHEAD))


def _check_processes(program: Program) -> None:
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "killpg"):
        raise errors.SettingsError("OFFLOOP_MODE=process needs a POSIX system, such as Linux or macOS")
    if "__main__" in program.packages:
        raise errors.SettingsError(
            "OFFLOOP_MODE=process: worker processes import the program, and nothing can import __main__. Put its "
            "nodes and endpoints into a module of their own, and name that in Offloop(...)"
        )


def setup_of(program: Program, settings: Settings, loops: int, endpoints: Iterable[str] = ()) -> Callable[[str], Setup]:
    """What a worker process is told, by its name. Without `endpoints`, it serves all."""
    served = tuple(endpoints) or tuple(program.endpoints)

    def setup(name: str) -> Setup:
        return Setup(
            program.packages, import_path(), name, served, loops, settings.max_reply,
            settings.gc_freeze, settings.debug, forwarding.levels(),
        )  # fmt: skip

    return setup


def import_path() -> tuple[bytes, ...]:
    """`sys.path`, without what imports pass over: what is not text, or cannot be a folder's name here."""
    found = []
    for entry in tuple(sys.path):
        if isinstance(entry, str):
            with suppress(UnicodeEncodeError):
                found.append(os.fsencode(entry))
    return tuple(found)


def cluster_parts(given: Given) -> Parts:
    """Loops behind a Redis: elsewhere, or in worker processes of this host that take from there as well.

    Raises:
        SettingsError: what a Redis needs is not installed, or its URL is none.
    """
    if (given.settings.broker_url or "").startswith("celery+"):
        return celery_parts(given)
    program, settings, loop, _, clock, epoch = given
    address = broker_of(settings)
    from offloop.transports.brokered import Target
    from offloop.transports.redis.names import POOL, Names
    from offloop.transports.redis.web import RedisTransport

    endpoints = program.endpoints.values()
    transport = RedisTransport(
        loop, address, Names(settings.namespace), epoch,
        {each.name: Target(each.pool, fingerprint(each), each.idempotent) for each in endpoints},
        bound=settings.queue_limit, keys=settings.signing_key, max_reply=settings.max_reply,
        max_body=max((each.max_body for each in endpoints), default=0), max_deliveries=settings.max_deliveries,
        clock=clock,
    )  # fmt: skip
    pools = {each.name: each.pool or POOL for each in endpoints}
    served = sorted(set(pools.values())) if settings.mode == "process" else ()
    local = [supervisor(program, settings, loop, pool, clock) for pool in served]
    crew = Distant(clock(), pools=pools)
    return Parts(
        transport, ClusterWorkforce(transport, local), crew,
        lambda: {"entries_refused": transport.refused + sum(one.refused for one in local)},
    )  # fmt: skip


def celery_parts(given: Given) -> Parts:
    """Loops in the pools of Celery workers.

    Raises:
        SettingsError: what the broker needs is not installed, its URL is none, or the mode is one with workers of ours.
    """
    program, settings, loop, _, clock, epoch = given
    if settings.mode != "cluster":
        raise errors.SettingsError(f"{CELERYS}. OFFLOOP_MODE is cluster then")
    try:
        from offloop.transports.brokered import Target
        from offloop.transports.celery.broker import broker_at
        from offloop.transports.celery.web import CeleryTransport
        from offloop.transports.parcels import OVERHEAD
    except ModuleNotFoundError as missing:
        raise errors.SettingsError(f"Celery needs {missing.name}: pip install 'offloop[celery]'") from None
    assert settings.broker_url is not None
    broker = broker_at(settings.broker_url, settings.namespace)
    warn_unsigned(settings, broker.local, str(broker))
    endpoints = program.endpoints.values()
    transport = CeleryTransport(
        loop,
        lambda user: broker.web_end(
            epoch, {each.pool for each in endpoints}, settings.signing_key, clock, user, settings.max_reply + OVERHEAD
        ),
        settings.namespace, f"{settings.namespace}:inbox:{epoch}",
        {each.name: Target(each.pool, fingerprint(each), each.idempotent) for each in endpoints},
        keys=settings.signing_key, max_reply=settings.max_reply,
        max_body=max((each.max_body for each in endpoints), default=0), max_deliveries=settings.max_deliveries,
        grace=settings.kill_grace, clock=clock,
    )  # fmt: skip
    return Parts(
        transport, ClusterWorkforce(transport), Distant(clock(), counted_there=False),
        lambda: {"entries_refused": transport.refused},
    )  # fmt: skip


def broker_of(settings: Settings) -> "Address":
    """Where the cluster meets. It is shown without credentials.

    Raises:
        SettingsError: nothing says where, this version does not serve it, or what it needs is not installed.
    """
    url = settings.broker_url
    if url is None:
        raise errors.SettingsError("OFFLOOP_BROKER_URL is not set: say where requests are, as redis://localhost:6379/0")
    if url.startswith("celery+"):
        raise errors.SettingsError(CELERYS)
    try:
        from offloop.transports.redis.wire import address_of
    except ModuleNotFoundError as missing:
        raise errors.SettingsError(f"a Redis as broker needs {missing.name}: pip install 'offloop[redis]'") from None
    address = address_of(url)
    warn_unsigned(settings, address.local, str(address))
    return address


def warn_unsigned(settings: Settings, local: bool, broker: str) -> None:
    """Where others may be able to write, too."""
    if not settings.signing_key and not local:
        log.warning(
            "requests on %s are not signed: whoever can write there can have workers run them, and forge replies. Set "
            "OFFLOOP_SIGNING_KEY",
            broker,
        )


def supervisor(
    program: Program, settings: Settings, loop: asyncio.AbstractEventLoop, pool: str, clock: Clock
) -> "Supervisor":
    """Worker processes of this host that take a pool's requests from a Redis.

    Raises:
        SettingsError: the program is in a module that no other process can import, or the system has no such processes.
    """
    from offloop.orchestration.supervisor import Supervisor

    _check_processes(program)
    assert settings.broker_url is not None
    loops = settings.threads_in("cluster")
    prints = {each.name: fingerprint(each) for each in in_pool(program, pool)}
    return Supervisor(
        settings.broker_url, settings.namespace, pool,
        LocalTransport(loop, Events(), settings.max_reply, clock), setup_of(program, settings, loops, prints), prints,
        keys=settings.signing_key, max_body=max((each.max_body for each in program.endpoints.values()), default=0),
        max_reply=settings.max_reply, max_deliveries=settings.max_deliveries, count=settings.workers, loops=loops,
        kill_grace=settings.kill_grace, max_requests=settings.max_requests, event_log=settings.event_log,
        cpus=usable_cpus(), clock=clock,
    )  # fmt: skip


def in_pool(program: Program, pool: str) -> list[Endpoint[Any, Any]]:
    """The endpoints whose requests go there."""
    from offloop.transports.redis.names import POOL

    return [each for each in program.endpoints.values() if (each.pool or POOL) == pool]


async def work(
    program: Program,
    settings: Settings,
    pool: str,
    *,
    health: tuple[str, int] | None = None,
    show: "Show | None" = None,
    clock: Clock = monotonic,
) -> bool:
    """Be `offloop worker`, until a signal ends it. Says whether all workers ended by themselves.

    Args:
        health: (host, port) for probes.
        show: called with how things stand.

    Raises:
        StartError: it cannot start; nothing is left running.
        SettingsError: as `supervisor`.
    """
    from offloop.orchestration.agent import Agent

    staff = supervisor(program, settings, asyncio.get_running_loop(), pool, clock)
    agent = Agent(staff, drain_timeout=settings.drain_timeout, clock=clock, health=health, show=show)
    return await agent.run()


PARTS = {"thread": thread_parts, "process": process_parts, "cluster": cluster_parts}


class Runtime:
    """One life of an Offloop, from its start to the end of its drain. Made on the event loop that it serves."""

    def __init__(
        self, program: Program, settings: Settings, observers: tuple[Observer, ...] = (), clock: Clock = monotonic
    ) -> None:
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
        rid = rids()
        epoch = epoch_of(rid())
        parts = PARTS[settings.mode](Given(program, settings, self.loop, self.events, clock, epoch))
        self._where: dict[str, Any] = {"mode": settings.mode}
        if isinstance(parts.crew, Distant):
            self._where = {"mode": "celery", "namespace": settings.namespace}
            if parts.crew.counted_there:
                pools = {each.pool for each in program.endpoints.values()}
                self._where |= {"mode": "cluster", "queues": len(pools)}
        self._transport, self.workforce, self._figures = parts.transport, parts.workforce, parts.figures
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
            reply_to=epoch,
            promise=self.loop.create_future,
            drained=self._on_drained,
            answered=self._answered.set,
        )
        self._transport.subscribe(self.gateway.receive)

    def _snapshot(self) -> dict[str, Any]:
        return self.gateway.snapshot() | {"lag": self._probe.worst}

    def status(self) -> dict[str, Any]:
        """What the gateway sees, and what is told besides. Plain values."""
        gateway = self.gateway
        return {**gateway.snapshot(), "refused": gateway.refused, "cut": gateway.cut, **self._figures()}

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
                **self._where,
            )  # fmt: skip
            await self.workforce.start()
        except BaseException as failure:
            if isinstance(failure, Exception):  # a start that was cancelled has no fault
                log.error("offloop could not start: %s", failure)
            await self.workforce.stop(0.0)
            self._transport.close()
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
            # A caller who takes its time has the rest of the budget. One that does not read at all is given up sooner,
            # by whoever sends to it.
            try:
                async with asyncio.timeout(max(REPLIES_WITHIN, gateway.budget_left())):
                    await self._answered.wait()
            except TimeoutError:
                log.warning("%d answers were still being sent when the drain ended", gateway.unsent)
        left = min(gateway.budget_left(), settings.kill_grace)
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
