"""Worker processes on this host that take their work from a Redis: kept up, announced, and answered for.

Owns, for one pool, what workers cannot do for themselves while nodes run: renew the leases of what they have, hand on
cancels and credits, end what hangs, and answer at once for what a dead one had. It sees no request and decides about
none: who is ended is a matter of `KILL_GRACE`, and what becomes of what was lost, of `core/redelivery`.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec

from offloop.clock import Clock
from offloop.events import STOPPED
from offloop.messages import Report, WorkerGone, WorkerUp
from offloop.orchestration import seating
from offloop.orchestration.process import ProcessWorkforce, spread
from offloop.orchestration.seating import Seating
from offloop.transports.local import frames
from offloop.transports.local.frames import Asks, Cluster, Crowded, Disbelieved, Leaves, Setup
from offloop.transports.local.web import LocalTransport
from offloop.transports.parcels import LARGEST, Cancel, NotOurs, Order, Refusals, Seal, orders, parcels, returns
from offloop.transports.redis import scripts
from offloop.transports.redis.link import BEAT, Link
from offloop.transports.redis.names import GROUP, NOTHING, Names, consumer
from offloop.transports.redis.reaping import GRACE, Reaper
from offloop.transports.redis.staff import announcement, announcing
from offloop.transports.redis.wire import BrokerError, Command, Reply, ReplyError, address_of, passed_over

log = logging.getLogger("offloop")

LOOK_EVERY = 2
"""Beats between two looks at what other hosts' lost workers have left."""
LEAST_LEAVE = 0.25
"""Seconds that a recycled worker has to close its services, though nodes are given no grace."""
ORDERS_LIVE = 60.0
"""Seconds that what is to be told here outlives its reader."""


def supervisor_name() -> str:
    """One that nobody else has: where it is, and a number that is not drawn twice."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Standing(NamedTuple):
    """How things stand at one moment.

    Attributes:
        linked: whether the broker can be reached.
        idle, busy: workers that can take requests, and those that run some.
        absent: workers that are to be there, and are not ready.
        requests: how many they have, as the broker saw it at the last beat.
        lost: workers that are no more without having been stopped, by cause.
        refused: entries that were not believed, of requests and of orders.
    """

    linked: bool
    idle: int
    busy: int
    absent: int
    requests: int
    lost: Mapping[str, int]
    refused: int = 0


class Supervisor:
    """`ports.service.Workforce` for workers that share a pool with others.

    Args:
        url: the broker's.
        setup: what a worker is told, given its name; its `cluster` is filled in here.
        fingerprints: of the endpoints that these workers have.
        keys: that sign.
        max_body, max_reply: bytes.
        count, loops: how many workers, and how many loops in each.
        kill_grace: seconds past its deadline that a node may hold its loop.
        cpus: how many loops may wait at the broker where their work is quick.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        pool: str,
        local: LocalTransport,
        setup: Callable[[str], Setup],
        fingerprints: Mapping[str, str],
        *,
        keys: Sequence[str],
        max_body: int,
        max_reply: int,
        max_deliveries: int,
        count: int,
        loops: int,
        kill_grace: float,
        max_requests: int,
        event_log: str | None,
        cpus: int,
        clock: Clock,
    ) -> None:
        self.name = supervisor_name()
        self._names = Names(namespace)
        self._pool = pool
        self._requests = self._names.requests(pool)
        self._local = local
        self._count = count
        self._loops = loops
        self._kill_grace = kill_grace
        self._clock = clock
        self._random = Random()
        self._orders: Seal[Order] = orders(keys)
        self._refusals = Refusals("an order to this supervisor", clock)
        self._link = Link(address_of(url), clock, self)
        self._reaper = Reaper(
            self._names, pool, self.name, parcels(keys, LARGEST), returns(keys, max_reply),
            max_deliveries=max_deliveries, broker_now=lambda: self._link.broker_time(clock()),
        )  # fmt: skip
        self._cluster = Cluster(
            url, namespace, pool, "", tuple(keys), dict(fingerprints), max_body, max_requests, event_log,
            scarce=loops == 1 and count > cpus,
        )  # fmt: skip
        self._setup = setup
        self._requests_of: dict[str, int] = {}
        self._lost: Counter[str] = Counter()
        self._disbelieved = 0
        self._announced: set[str] = set()
        self._life: asyncio.Future[Any] | None = None
        self._leaving = False
        self.workforce = ProcessWorkforce(
            count, loops, loops, local, self._setup_of, clock=clock, leave_within=max(LEAST_LEAVE, kill_grace),
            elsewhere=self._said,
        )  # fmt: skip
        self._seating = Seating(cpus, local.tell, local.holds, self.workforce.halted)
        local.subscribe(self._reported)

    def _setup_of(self, worker: str) -> Setup:
        limit = spread(self._cluster.limit, self._random)
        cluster = msgspec.structs.replace(self._cluster, name=self._full_name(worker), limit=limit)
        return msgspec.structs.replace(self._setup(worker), cluster=cluster)

    def _full_name(self, worker: str) -> str:
        return f"{self.name}/{worker}"

    def _consumers(self, worker: str) -> list[str]:
        return [consumer(self._full_name(worker), loop) for loop in range(self._loops)]

    # ---- ports.service.Workforce

    async def start(self) -> None:
        """Bring the workers up, broker or not: it may be there later, as the parts of a cluster start in any order."""
        try:
            await self._link.connect()
        except BrokerError as fault:
            log.warning("the broker cannot be reached, and is tried again until it can: %s", fault)
        loop = asyncio.get_running_loop()
        self._life = asyncio.gather(*map(loop.create_task, (self._link.serve(), self._watch(), self._watch_seats())))
        try:
            await self.workforce.start()
        except BaseException:
            await self._leave()
            raise

    def replace(self, worker: str) -> None:
        self.workforce.replace(worker)

    def lose(self) -> int | None:
        return self.workforce.lose()

    async def stop(self, timeout: float) -> int:
        """Let the workers end what they have; the broker is told of the rest."""
        late = await self.workforce.stop(timeout)
        await self._leave()
        return late

    async def _leave(self) -> None:
        """Nobody is here any more, and what is for somebody here is for nobody."""
        if self._life is None:
            return
        self._leaving = True
        if self._link.is_up:
            told = asyncio.Event()
            commands: list[Command] = [("DEL", self.stream)]
            if self._announced:
                commands.append(("HDEL", self._names.workers(self._pool), *self._announced))
            self._link.ask_together(commands, lambda _: told.set())
            try:
                async with asyncio.timeout(1.0):
                    await told.wait()
            except TimeoutError:
                log.debug("the broker was not told that this supervisor leaves")
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)
        self._life = None

    def standing(self) -> Standing:
        living = self.workforce.living()
        busy = len(self._local.deadlines().keys() & set(living))
        requests = sum(self._requests_of.get(worker, 0) for worker in living)
        absent = max(0, self._count - len(living))
        return Standing(self._link.is_up, len(living) - busy, busy, absent, requests, dict(self._lost), self.refused)

    @property
    def refused(self) -> int:
        """Entries that its workers and it have not believed."""
        return self._disbelieved + self._refusals.count + self._reaper.refused

    # ---- link.User

    @property
    def stream(self) -> str:
        return self._names.orders(self.name)

    def opening(self) -> Sequence[Command]:
        return [
            *scripts.load(),
            ("XGROUP", "CREATE", self._requests, GROUP, "0", "MKSTREAM"),
            self._opens_orders(),
        ]

    def _opens_orders(self) -> Command:
        # The group is never used: it is how one makes an empty stream.
        return "XGROUP", "CREATE", self.stream, "owner", "$", "MKSTREAM"

    def up(self) -> None:
        log.info("the broker can be reached")
        self._upkeep()

    def down(self) -> None:
        if not self._leaving:
            log.warning("the broker cannot be reached: workers wait for it")

    def came(self, entries: Sequence[Reply]) -> None:
        for _, fields in entries:
            try:
                order = self._orders.read(self.stream, fields)
            except NotOurs as fault:
                self._refusals.add(fault)
                continue
            worker = order.worker.partition("/")[2]
            if isinstance(order, Cancel):
                self._local.tell(worker, frames.Cancel(order.rid))
            else:
                self._local.tell(worker, frames.Grant(order.rid, order.room))

    def beat(self, number: int) -> None:
        self._upkeep()
        if number % LOOK_EVERY == 0:
            if number * BEAT > GRACE:
                self._reaper.look(self._link.ask_together)
            self._link.ask(("XTRIM", self.stream, "MINID", self._link.last), passed_over)

    def _upkeep(self) -> None:
        """Renew what living workers have, and say that they are there."""
        living = self.workforce.living()
        self._link.ask(("PEXPIRE", self.stream, round(ORDERS_LIVE * 1000)), self._prolonged)
        if not living:
            return
        consumers = [one for worker in living for one in self._consumers(worker)]
        self._link.ask(scripts.renew(self._requests, consumers), lambda counts: self._announce(living, counts))

    async def _watch(self) -> None:
        """End those that hang, whether the broker can be reached or not."""
        while True:
            now = self._clock()
            for worker, deadline in self._local.deadlines().items():
                if now > deadline + self._kill_grace:
                    log.warning("worker %s is wedged: its node ran past its deadline and the grace after it", worker)
                    self.workforce.replace(worker)
            await asyncio.sleep(BEAT)

    async def _watch_seats(self) -> None:
        while self._cluster.scarce:
            await asyncio.sleep(seating.LOOK_EVERY)
            self._seating.look()

    def _said(self, worker: str, said: Asks | Leaves | Crowded | Disbelieved) -> None:
        if isinstance(said, Disbelieved):
            self._disbelieved += 1
        else:
            self._seating.said(worker, said)

    def _prolonged(self, reply: Reply) -> None:
        if reply == 0:  # the broker has lost it
            self._link.ask(self._opens_orders(), passed_over)

    def _announce(self, living: Sequence[str], held: Reply) -> None:
        if isinstance(held, ReplyError):
            log.warning("leases cannot be renewed: %s", held)
            return
        counts = [sum(held[at : at + self._loops]) for at in range(0, len(held), self._loops)]
        self._requests_of = dict(zip(living, counts, strict=True))
        now = self._link.broker_time(self._clock())
        said: list[str | bytes] = []
        for worker, count in zip(living, counts, strict=True):
            name = self._full_name(worker)
            self._announced.add(name)
            said += (name, announcement(now, self._loops, min(count, self._loops)))
        self._link.ask_together(announcing(self._names.workers(self._pool), said), lambda _: None)

    # ---- of the workers

    def _reported(self, reports: Sequence[Report]) -> None:
        for report in reports:
            if isinstance(report, WorkerGone):
                if report.cause != STOPPED:
                    self._lost[report.cause] += 1
                name = self._full_name(report.worker)
                self._announced.discard(name)
                self._link.ask(("HDEL", self._names.workers(self._pool), name), passed_over)
                self._seating.gone(report.worker)
                loops = enumerate(self._consumers(report.worker))
                marks = {name: report.marks.get(number, NOTHING) for number, name in loops}
                self._reaper.take_over(marks, self._link.ask_together)
            elif isinstance(report, WorkerUp):
                self._upkeep()
