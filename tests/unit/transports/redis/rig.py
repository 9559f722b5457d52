"""A cluster without processes, over a real Redis: the loops of workers, in whichever thread calls them, and their host.

A worker here has a loop for every request that it is handed, so that a test may hold many. Nothing of `offloop` is
replaced but what supervisors and worker processes do around the sources.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from uuid import uuid4

from offloop.messages import Begun, Freed, Outcome, Report, Requeued, Withdrawn
from offloop.testing.conformance.suite import envelope
from offloop.transports.brokered import Target
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.parcels import LARGEST, Cancel, NotOurs, orders, parcels, returns
from offloop.transports.redis import scripts
from offloop.transports.redis.desk import READ_AHEAD, Desk, RedisDelivery
from offloop.transports.redis.link import Link
from offloop.transports.redis.names import GROUP, NOTHING, POOL, Mark, Names, consumer, mark_of
from offloop.transports.redis.reaping import Reaper
from offloop.transports.redis.seat import Seat
from offloop.transports.redis.web import RedisTransport
from offloop.transports.redis.wire import Address, Command, Reply, address_of
from offloop.transports.redis.worker import RedisSource
from tests.support.broker import Broker

MIB = 2**20
PRINT = "fingerprint"
ENDPOINTS = ("read", "documents.read", "again")
"""What every worker has; `again` is idempotent."""
BOUND = 10_000
LIMIT = 16 * MIB
DEADLINE = 10.0
QUICK = 1e-5
"""Seconds that a loop says it took."""


def enough(number: int) -> Seat:
    """One for everybody."""
    return Seat(None, lambda _: None)


class Worker:
    """The loops of one worker process, by its full name; `get` and `send` as one of them would, in any thread."""

    def __init__(
        self,
        address: Address,
        names: Names,
        name: str,
        keys: Sequence[str] = (),
        endpoints: Sequence[str] = ENDPOINTS,
        read_ahead: int = 0,
        seat: Callable[[int], Seat] = enough,
        max_body: int = LIMIT,
    ) -> None:
        self.name = name
        self.open: dict[str, ClaimedDelivery] = {}
        self.deadlines: dict[int, float] = {}
        self.marks: dict[int, Mark] = {}
        self.served = 0
        self._idle: deque[RedisSource] = deque()
        self._busy: dict[tuple[str, int], RedisSource] = {}
        self._every: list[RedisSource] = []
        self._changing = threading.Lock()
        self.desk = Desk(
            address, names, POOL, name, keys, dict.fromkeys(endpoints, PRINT), max_body, LIMIT, monotonic,
            opened=self.open.__setitem__, closed=self._closed, holds=self.deadlines.__setitem__,
            begins=self._begins, counted=self._count, idle=lambda: None, busy=threading.Event(),
            seat=seat, read_ahead=read_ahead,
        )  # fmt: skip

    def _closed(self, rid: str, delivery: ClaimedDelivery) -> None:
        if self.open.get(rid) is delivery:
            del self.open[rid]

    def _begins(self, number: int, id_: bytes) -> None:
        self.marks[number] = mark_of(id_)

    def _count(self) -> None:
        self.served += 1

    def consumers(self) -> dict[str, Mark]:
        """What its loops are called, and how far each has come."""
        numbers = range(max(1, len(self._every)))
        return {consumer(self.name, number): self.marks.get(number, NOTHING) for number in numbers}

    def source(self) -> RedisSource:
        """A loop that has nothing to do."""
        with self._changing:
            if self._idle:
                return self._idle.pop()
            source = RedisSource(self.desk, len(self._every))
            self._every.append(source)
            return source

    def get(self, timeout: float) -> RedisDelivery | None:
        until = monotonic() + timeout
        source = self.source()
        delivery = source.get(timeout)
        while delivery is None and (left := until - monotonic()) > 0:
            delivery = source.get(left)
        with self._changing:
            if delivery is None:
                self._idle.append(source)
            else:
                envelope = delivery.envelope
                self._busy[envelope.rid, envelope.attempt] = source
        return delivery

    def send(self, report: Report) -> None:
        key = report.rid, report.attempt  # type: ignore[union-attr]  # what a loop says is of an attempt
        with self._changing:
            source = self._busy.get(key)
        if source is None:
            source = self.source()  # of a request that it has no more
            ends = True
        else:
            ends = isinstance(report, Freed) or (isinstance(report, Outcome) and report.last)
        source.send(report)
        if ends:
            source._let_others()  # which otherwise goes out with the question for the next one
            with self._changing:
                self._busy.pop(key, None)
                self._idle.append(source)

    def die(self) -> None:
        """Its connections are gone, and what it had is where it was."""
        for source in self._every:
            source.stop()
            source._drop()

    def close(self) -> None:
        for source in self._every:
            source.stop()
            source.close()


class Host:
    """`link.User`: hands on what comes for the workers of one host, and takes over what they leave."""

    def __init__(self, address: Address, names: Names, name: str, keys: Sequence[str] = ()) -> None:
        self.name = name
        self.workers: dict[str, Worker] = {}
        self.renews = True
        self.refused = 0
        self._names = names
        self._orders = orders(keys)
        self.link = Link(address, monotonic, self)
        self.reaper = Reaper(
            names, POOL, name, parcels(keys, LARGEST), returns(keys, LIMIT), max_deliveries=3,
            broker_now=lambda: self.link.broker_time(monotonic()),
        )  # fmt: skip
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.link.connect()
        self._life = asyncio.get_running_loop().create_task(self.link.serve())

    async def stop(self) -> None:
        if self._life is not None:
            self._life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._life

    @property
    def stream(self) -> str:
        return self._names.orders(self.name)

    def opening(self) -> Sequence[Command]:
        return [
            *scripts.load(),
            ("XGROUP", "CREATE", self._names.requests(POOL), GROUP, "0", "MKSTREAM"),
            ("XGROUP", "CREATE", self.stream, "owner", "$", "MKSTREAM"),
        ]

    def up(self) -> None:
        self.beat(0)

    def down(self) -> None: ...

    def came(self, entries: Sequence[Reply]) -> None:
        for _, fields in entries:
            try:
                order = self._orders.read(self.stream, fields)
            except NotOurs:
                self.refused += 1
                continue
            delivery = self.workers[order.worker].open.get(order.rid)
            if delivery is None:
                continue
            if isinstance(order, Cancel):
                delivery.cancel()
            else:
                delivery.grant(order.room)

    def beat(self, number: int) -> None:
        if self.renews and self.workers:
            consumers = [one for worker in self.workers.values() for one in worker.consumers()]
            self.link.ask(scripts.renew(self._names.requests(POOL), consumers), lambda _: None)

    def lose(self, worker: Worker) -> None:
        """That worker is no more, and it is known at once. In the event loop's thread."""
        self.workers.pop(worker.name, None)
        self.reaper.take_over(worker.consumers(), self.link.ask_together)


class Cluster:
    """One web process, one host, and its workers. Opened and closed on the event loop of the web process."""

    def __init__(
        self, url: str, *, keys: Sequence[str] = (), bound: int = BOUND, namespace: str = "", epoch: str | None = None,
        pools: Mapping[str, str] | None = None, max_body: int = LIMIT,
    ) -> None:  # fmt: skip
        self.loop = asyncio.get_running_loop()
        self.names = Names(namespace or f"test-{uuid4().hex}")
        self.address = address_of(url)
        self.keys = keys
        self.epoch = uuid4().hex if epoch is None else epoch
        self.web = RedisTransport(
            self.loop, self.address, self.names, self.epoch,
            {name: Target((pools or {}).get(name, POOL), PRINT, name == "again") for name in ENDPOINTS},
            bound=bound, keys=keys, max_reply=LIMIT, max_body=max_body, max_deliveries=3, clock=monotonic,
        )  # fmt: skip
        self.host = Host(self.address, self.names, f"host-{uuid4().hex}", keys)

    async def start(self) -> None:
        await self.web.start()
        await self.host.start()

    def worker(self, number: int, **options: object) -> Worker:
        """One more; leases of what it has are renewed."""
        worker = Worker(self.address, self.names, f"{self.host.name}/worker-{number}", self.keys, **options)  # type: ignore[arg-type]
        self.host.workers[worker.name] = worker
        return worker

    async def stop(self) -> None:
        for worker in list(self.host.workers.values()):
            worker.close()
        lives = list(self.web._lives)
        self.web.close()
        await self.host.stop()
        await asyncio.gather(*lives, return_exceptions=True)
        for _ in range(5):  # connections that were dropped are closed a turn later
            await asyncio.sleep(0)


class Loop:
    """One loop of a worker that reads ahead, driven by hand, and all that its web process is told of requests."""

    def __init__(self, cluster: Cluster, redis: Broker, seat: Callable[[int], Seat] = enough) -> None:
        self.cluster = cluster
        self.redis = redis
        self.reports: list[Report] = []
        self._came = asyncio.Event()
        cluster.web.subscribe(self._hear)
        self.worker = cluster.worker(0, read_ahead=READ_AHEAD, seat=seat)
        self.source: RedisSource = self.worker.source()

    def _hear(self, reports: Sequence[Report]) -> None:
        kinds = Begun | Outcome | Requeued | Withdrawn
        self.reports += [report for report in reports if isinstance(report, kinds)]
        self._came.set()

    async def until(self, *rids: str, kind: type[Report] = Outcome) -> None:
        """Until that was told of each."""
        async with asyncio.timeout(DEADLINE):
            while not set(rids) <= {report.rid for report in self.reports if isinstance(report, kind)}:
                self._came.clear()
                await self._came.wait()

    def ended(self) -> list[str]:
        """Of which an outcome was told, in order."""
        return [report.rid for report in self.reports if isinstance(report, Outcome)]

    def put(self, number: int, endpoint: str = "read", **fields: object) -> list[str]:
        sent = [envelope(reply_to=self.cluster.epoch, endpoint=endpoint, **fields) for _ in range(number)]
        for each in sent:
            self.cluster.web.put(each, None)
        return [each.rid for each in sent]

    async def get(self) -> RedisDelivery:
        until = monotonic() + DEADLINE
        while monotonic() < until:
            if (delivery := await asyncio.to_thread(self.source.get, DEADLINE)) is not None:
                return delivery
        raise AssertionError("nothing came")

    def begin(self, delivery: RedisDelivery) -> None:
        assert delivery.begin()
        self.source.send(Begun(delivery.envelope.rid, 1, self.worker.name, monotonic()))

    async def run(self, delivery: RedisDelivery, took: float = QUICK) -> None:
        await asyncio.to_thread(self.begin, delivery)
        now = monotonic()
        outcome = Outcome(delivery.envelope.rid, begun_at=now - took, ended_at=now, worker=self.worker.name)
        await asyncio.to_thread(self.source.send, outcome)

    async def learn(self, endpoint: str = "read", took: float = QUICK) -> None:
        """Let it see what that endpoint takes."""
        rids = self.put(1, endpoint)
        await self.run(await self.get(), took)
        await asyncio.to_thread(self.source.get, 0.01)  # says so
        await self.until(*rids)
        self.reports.clear()

    def given(self) -> int:
        """How many it has, as the broker sees it."""
        asked = "XPENDING", self.cluster.names.requests(POOL), GROUP, "-", "+", 100
        return sum(len(self.redis.cli(*asked, name)) for name in self.worker.consumers())
