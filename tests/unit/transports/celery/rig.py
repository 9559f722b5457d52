"""A cluster over Celery without Celery: a worker's tasks, in whichever thread takes their messages, over a real Redis.

Messages are taken as kombu does it, from the list that is the queue; nothing of `offloop` is replaced but what a worker
process does around its desk. A hand-driven end stands for a broker where a test decides what it answers.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec

from offloop.messages import Begun, Envelope, Freed, Outcome, Report
from offloop.transports.brokered import Target
from offloop.transports.celery.ends import Claim
from offloop.transports.celery.letters import BESIDE, Letter, queue_of, unpacked
from offloop.transports.celery.redis import RedisBroker, RedisWorkerEnd
from offloop.transports.celery.web import CeleryTransport
from offloop.transports.celery.worker import CeleryDelivery, Desk
from offloop.transports.parcels import Order, Parcel, Returned, parcels, returns
from offloop.transports.redis.names import Names
from offloop.transports.redis.wire import Line

PRINT = "fingerprint"
ENDPOINTS = ("read", "documents.read", "again")
"""What every worker has; `again` is idempotent."""
LIMIT = 16 * 2**20
BEGINS = 12.25
"""The instant at which everything begins that a suite begins."""


def targets(pool: str | None = None) -> dict[str, Target]:
    return {name: Target(pool, PRINT, name == "again") for name in ENDPOINTS}


def parcel_of(letter: Letter | Mapping[str, Any], keys: Sequence[str] = ()) -> Parcel:
    """What is in a message."""
    queue, body = (letter.queue, letter.body) if isinstance(letter, Letter) else letter
    return parcels(keys, LIMIT).read(queue, unpacked(json.loads(body)[2][BESIDE]))


class OneInbox(Names):
    """Every id is of the same web process: the suite's ids name none."""

    def inbox(self, epoch: str) -> str:
        return super().inbox("suite")


class End(RedisWorkerEnd):
    """Whatever begins, begins at the suite's instant. Threads end here before their process does: lines are closed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: list[Line] = []

    def _line(self) -> Line:
        line = super()._line()
        if line not in self.lines:
            self.lines.append(line)
        return line

    def begin(self, parcel: Parcel, begun: Returned) -> str:
        return super().begin(parcel, msgspec.structs.replace(begun, at=self.broker_time(BEGINS)))


class Worker:
    """One process of a pool: `get` takes a message and opens it, `send` says what its loop says, in any thread."""

    def __init__(self, place: RedisBroker, name: str, keys: Sequence[str] = (), pool: str | None = None) -> None:
        self.name = name
        self.end = End(place, name, returns(keys, LIMIT), keys, monotonic)
        queue = queue_of(place.names.namespace, pool)
        self.desk = Desk(name, dict.fromkeys(ENDPOINTS, PRINT), {queue}, parcels(keys, LIMIT), self.end, monotonic)
        self._place = place
        self._queue = place.queue(queue)
        self._lines: list[Line] = []
        self._mine = threading.local()
        self._listens = threading.Thread(target=self.desk.listen, daemon=True)
        self._listens.start()

    def get(self, timeout: float) -> CeleryDelivery | None:
        until = monotonic() + timeout
        while True:
            left = until - monotonic()
            # As kombu does it; 0 would be for ever.
            command = ("BRPOP", self._queue, f"{left:.3f}") if left > 0.001 else ("RPOP", self._queue)
            (reply,) = self._line().exchange([command], max(left, 0.0))
            if reply:
                delivery = self.open(reply[1] if isinstance(reply, list) else reply)
                if delivery is not None:
                    return delivery
            elif left <= 0.001:
                return None

    def open(self, entry: bytes, *, redelivered: bool = False) -> CeleryDelivery | None:
        """What a task does with its message; it runs from now on."""
        message = json.loads(entry)
        fields = unpacked(json.loads(message["body"])[2][BESIDE])
        where = message["properties"]["delivery_info"]["routing_key"]
        delivery = self.desk.open(fields, where, redelivered=redelivered)
        if delivery is not None:
            self.desk._running[delivery.envelope.rid] = delivery
        return delivery

    def send(self, report: Report) -> None:
        self.desk.send(report)  # type: ignore[arg-type]  # what a loop says
        if isinstance(report, Freed) or (isinstance(report, Outcome) and report.last):
            running = self.desk._running.get(report.rid)
            if running is not None and running.envelope.attempt == report.attempt:
                del self.desk._running[report.rid]

    def told(self, rid: str, attempt: int = 1) -> None:
        """What its parent says of a child that was killed."""
        self.end.tell(rid, Outcome(rid, "worker-lost", attempt=attempt), heard=True)

    def _line(self) -> Line:
        line: Line | None = getattr(self._mine, "line", None)
        if line is None:
            line = self._mine.line = Line(self._place.address)
            self._lines.append(line)
        return line

    def close(self) -> None:
        self.end.close()
        line = Line(self._place.address)
        line.exchange([("XADD", self._place.names.orders(self.name), "*", "e", "")])  # who listens looks up
        self._listens.join(10)
        for each in (line, *self._lines, *self.end.lines):
            each.close()


class Cluster:
    """One web process and its workers. Opened and closed on the event loop of the web process.

    Args:
        epoch: of the web process; None: the suite's, whose ids name none.
    """

    def __init__(
        self,
        url: str,
        *,
        keys: Sequence[str] = (),
        namespace: str = "",
        epoch: str | None = None,
        pool: str | None = None,
        transport: type[CeleryTransport] = CeleryTransport,
    ) -> None:
        self.place = RedisBroker(url, namespace or f"test-{uuid4().hex}")
        if epoch is None:
            self.place.names = OneInbox(self.place.names.namespace)
        self.keys = keys
        self.pool = pool
        self.epoch = epoch or ""
        self.workers: list[Worker] = []
        self.web = transport(
            asyncio.get_running_loop(),
            lambda user: self.place.web_end(self.epoch, {pool}, keys, monotonic, user, LIMIT),
            self.place.names.namespace, self.place.names.inbox(self.epoch), targets(pool),
            keys=keys, max_reply=LIMIT, max_body=LIMIT, max_deliveries=3, grace=5.0, clock=monotonic,
        )  # fmt: skip

    async def start(self) -> None:
        await self.web.start()
        await asyncio.sleep(0)  # its life begins

    def worker(self) -> Worker:
        worker = Worker(self.place, f"worker-{len(self.workers)}", self.keys, self.pool)
        self.workers.append(worker)
        return worker

    async def stop(self) -> None:
        lives = list(self.web._lives)
        self.web.close()
        await asyncio.gather(*lives, return_exceptions=True)
        for worker in self.workers:
            await asyncio.to_thread(worker.close)
        for _ in range(5):  # connections that were dropped are closed a turn later
            await asyncio.sleep(0)


class HandEnd:
    """`ends.WebEnd`, driven by a test: what was sent lies here until the test says what the broker answers.

    Attributes:
        letters, claims, ordered: what was sent, in order; `claims` with the function that is told.
        skew: of the common clock against this host's.
        gate, lost: as of a broker that remembers nothing: by what is sent begins, and of whom it is not known.
        shuts: what is told when a gate is shut, in order.
    """

    def __init__(self, user: Any) -> None:
        self.user = user
        self.is_up = True
        self.skew = 1000.0
        self.letters: list[Letter] = []
        self.claims: list[tuple[Sequence[Claim], Callable[[list[str | None]], None]]] = []
        self.ordered: list[Order] = []
        self.batches = 0
        self.looks = 0
        self.closed = False
        self.gate = "gate 0"
        self.lost: set[str] = set()
        self.shuts: list[Callable[[], None]] = []
        self._answered: dict[tuple[str, int], Callable[[Letter, str], None]] = {}

    async def connect(self) -> None:
        if not self.is_up:
            raise ConnectionRefusedError("nobody listens there")

    async def serve(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    def look(self) -> None:
        self.looks += 1

    def publish(self, letters: Sequence[Letter], answered: Callable[[Letter, str], None]) -> None:
        assert self.is_up, "nothing is sent while it is not up"
        self.batches += 1
        for letter in letters:
            self.letters.append(letter)
            self._answered[letter.rid, letter.attempt] = answered

    def withdraw(self, claims: Sequence[Claim], found: Callable[[list[str | None]], None]) -> None:
        assert self.is_up, "nothing is sent while it is not up"
        self.claims.append((claims, found))

    def knows(self, rid: str) -> bool:
        return rid not in self.lost

    def shut(self, done: Callable[[], None]) -> None:
        assert self.is_up, "nothing is sent while it is not up"
        self.shuts.append(done)
        self.gate = f"gate {len(self.shuts)}"

    def order(self, order: Order) -> None:
        self.ordered.append(order)

    def broker_time(self, at: float) -> float:
        return at + self.skew if at else 0.0

    def local_time(self, at: float) -> float:
        return at - self.skew if at else 0.0

    def close(self) -> None:
        self.closed = True

    # ---- the test's side

    def answer(self, letter: Letter, fault: str = "") -> None:
        self._answered.pop((letter.rid, letter.attempt))(letter, fault)

    def fall(self) -> None:
        self.is_up = False
        self.user.down()

    def rise(self) -> None:
        self.is_up = True
        self.user.up()


class Told:
    """All that a web process is told."""

    def __init__(self, web: CeleryTransport) -> None:
        self.reports: list[Report] = []
        self._came = asyncio.Event()
        web.subscribe(self._hear)

    def _hear(self, reports: Sequence[Report]) -> None:
        self.reports += reports
        self._came.set()

    async def until(self, enough: Callable[[list[Report]], bool]) -> None:
        async with asyncio.timeout(10):
            while not enough(self.reports):
                self._came.clear()
                await self._came.wait()

    async def has(self, *wanted: Report) -> None:
        await self.until(lambda reports: all(report in reports for report in wanted))

    def of(self, *kinds: type[Report]) -> Iterator[Report]:  # type: ignore[valid-type]
        return (report for report in self.reports if isinstance(report, kinds))


def begun(rid: str, attempt: int = 1, worker: str = "worker-0", at: float = 0.0) -> Begun:
    return Begun(rid, attempt, worker, at)


def said(fields: Returned, inbox: str, keys: Sequence[str] = ()) -> tuple[bytes, ...]:
    """A report as it lies in an inbox."""
    return tuple(
        each if isinstance(each, bytes) else each.encode() for each in returns(keys, LIMIT).write(inbox, fields)
    )


def sent(rid: str = "r1", **fields: Any) -> Envelope:
    return Envelope(rid=rid, **{"endpoint": "read", "payload": b"{}", "deadline": monotonic() + 60.0, **fields})
