"""A cluster over Celery without Celery, as `rig`, on a real RabbitMQ: a worker takes messages from its queue itself.

Nothing of `offloop` is replaced but what a worker process does around its desk. Of a namespace nothing is left behind.
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any
from uuid import uuid4

import amqp
import msgspec

from offloop.messages import Freed, Outcome, Report
from offloop.transports.celery.amqp import AmqpBroker, AmqpWorkerEnd
from offloop.transports.celery.amqp_line import Line
from offloop.transports.celery.letters import BESIDE, boxed, queue_of, unpacked
from offloop.transports.celery.web import CeleryTransport
from offloop.transports.celery.worker import CeleryDelivery, Desk
from offloop.transports.parcels import OVERHEAD, Cancel, Parcel, Returned, orders, parcels, returns
from tests.unit.transports.celery.rig import BEGINS, ENDPOINTS, LIMIT, PRINT, targets

EPOCH = "suite"
DEADLINE = 10.0
LOOKS = 0.001
"""Seconds between two looks into an empty queue."""


class OneInbox(AmqpBroker):
    """Every id is of the same web process: the suite's ids name none."""

    def inbox(self, epoch: str) -> str:
        return super().inbox(EPOCH)


@contextmanager
def administrator(place: AmqpBroker) -> Iterator[Any]:
    """A channel beside all others."""
    address = place.address
    with amqp.Connection(f"{address.host}:{address.port}") as connection:
        yield connection.channel()


def cleared(place: AmqpBroker, *pools: str | None) -> None:
    """Nothing of a namespace is left, which no worker and no web process uses any more."""
    with administrator(place) as admin:
        for queue in (queue_of(place.namespace, pool) for pool in pools or (None,)):
            admin.queue_delete(queue)
            admin.exchange_delete(queue)  # kombu's
        for exchange in (place.gate, place.withdrawn):
            admin.exchange_delete(exchange)


class End(AmqpWorkerEnd):
    """Whatever begins, begins at the suite's instant, for its one web process."""

    def begin(self, parcel: Parcel, begun: Returned) -> str:
        return super().begin(parcel, msgspec.structs.replace(begun, at=self.broker_time(BEGINS)))


class Worker:
    """One process of a pool: `get` takes a message and opens it, `send` says what its loop says, in any thread.

    A message is acknowledged when its request has ended, as Celery does with our task.
    """

    def __init__(self, place: AmqpBroker, name: str, keys: Sequence[str] = ()) -> None:
        self.name = name
        self.end = End(place, name, returns(keys, LIMIT), keys, monotonic)
        self._place = place
        self._queue = queue_of(place.namespace, None)
        self.desk = Desk(
            name, dict.fromkeys(ENDPOINTS, PRINT), {self._queue}, parcels(keys, LIMIT), self.end, monotonic
        )
        self._nothing = boxed(orders(keys).write(place.orders(name), Cancel(name, "nobody")))
        self._tags: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        address = place.address
        self._connection = amqp.Connection(f"{address.host}:{address.port}")
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.queue_declare(self._queue, durable=True, auto_delete=False)
        self._listens = threading.Thread(target=self.desk.listen, daemon=True)
        self._listens.start()
        self._until_it_listens()

    def _until_it_listens(self) -> None:
        until, pause = monotonic() + DEADLINE, threading.Event()
        while not self.finds(self._place.orders(self.name)):
            assert monotonic() < until, f"{self.name} hears no orders"
            pause.wait(LOOKS)

    def finds(self, queue: str) -> bool:
        """Whether there is such a queue: an order that concerns nobody arrives there."""
        line = Line(self._place.address)
        line.send("", queue, self._nothing, mandatory=True)
        line.settle()
        line.close()
        return not line.returned

    def get(self, timeout: float) -> CeleryDelivery | None:
        until, pause = monotonic() + timeout, threading.Event()
        while True:
            with self._lock:
                message = self._channel.basic_get(self._queue)
            if message is not None:
                delivery = self.open(message)
                if delivery is not None:
                    return delivery
            elif monotonic() >= until:
                return None
            else:
                pause.wait(LOOKS)

    def open(self, message: Any) -> CeleryDelivery | None:
        """What a task does with its message; it runs from now on."""
        fields = unpacked(json.loads(message.body)[2][BESIDE])
        info = message.delivery_info
        delivery = self.desk.open(fields, info["routing_key"], redelivered=info["redelivered"])
        if delivery is None:
            self._acknowledge(message.delivery_tag)
        else:
            envelope = delivery.envelope
            self._tags[envelope.rid, envelope.attempt] = message.delivery_tag
            self.desk._running[envelope.rid] = delivery
        return delivery

    def send(self, report: Report) -> None:
        self.desk.send(report)  # type: ignore[arg-type]  # what a loop says
        if isinstance(report, Freed) or (isinstance(report, Outcome) and report.last):
            running = self.desk._running.get(report.rid)
            if running is not None and running.envelope.attempt == report.attempt:
                del self.desk._running[report.rid]
            if (tag := self._tags.pop((report.rid, report.attempt), None)) is not None:
                self._acknowledge(tag)

    def _acknowledge(self, tag: int) -> None:
        with self._lock:
            self._channel.basic_ack(tag)

    def told(self, rid: str, attempt: int = 1) -> None:
        """What its parent says of a child that was killed."""
        self.end.tell(rid, Outcome(rid, "worker-lost", attempt=attempt), heard=True)

    def vanish(self) -> None:
        """Its host is no more: what it had not acknowledged, the broker gives to another."""
        with self._lock:
            self._connection.collect()

    def close(self) -> None:
        self.end.close()
        with suppress(OSError):
            self.finds(self._place.orders(self.name))  # who listens looks up
        self._listens.join(DEADLINE)
        with self._lock:
            if self._connection.connected:
                self._connection.close()


class Cluster:
    """One web process and its workers. Opened and closed on the event loop of the web process."""

    def __init__(self, url: str, *, keys: Sequence[str] = ()) -> None:
        self.place = OneInbox(url, f"test-{uuid4().hex}")
        self.keys = keys
        self.workers: list[Worker] = []
        self.web = CeleryTransport(
            asyncio.get_running_loop(),
            lambda user: self.place.web_end(EPOCH, {None}, keys, monotonic, user, LIMIT + OVERHEAD),
            self.place.namespace, self.place.inbox(EPOCH), targets(),
            keys=keys, max_reply=LIMIT, max_body=LIMIT, max_deliveries=3, grace=5.0, clock=monotonic,
        )  # fmt: skip

    async def start(self) -> None:
        await self.web.start()

    def worker(self) -> Worker:
        worker = Worker(self.place, f"worker-{len(self.workers)}", self.keys)
        self.workers.append(worker)
        return worker

    async def stop(self) -> None:
        lives = list(self.web._lives)
        self.web.close()
        await asyncio.gather(*lives, return_exceptions=True)
        await asyncio.gather(*[asyncio.to_thread(worker.close) for worker in self.workers])
        await asyncio.to_thread(cleared, self.place)
        for _ in range(5):  # connections that were dropped are closed a turn later
            await asyncio.sleep(0)
