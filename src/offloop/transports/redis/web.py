"""The web side of the Redis transport: `WorkSink` and `ReplySource`, for one web process.

Owns by which name the broker knows what was sent, and what is unknown of it since a connection was lost; the rest is
`brokered`'s. Who is admitted is decided at the broker, by `scripts`; what that means for a request, by the gateway,
which is told.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import msgspec

from offloop.clock import Clock
from offloop.errors import QueueFull
from offloop.messages import Envelope, Outcome, Refused, Report, Requeued, Taken, Withdrawn
from offloop.transports.brokered import BrokeredTransport, Sent, Target
from offloop.transports.parcels import LARGEST, Order, Refusals, orders, parcels
from offloop.transports.redis import scripts
from offloop.transports.redis.link import BEAT, Link
from offloop.transports.redis.names import GROUP, INBOX_LIVES, POOL, Names, worker_of
from offloop.transports.redis.reaping import GRACE, Reaper
from offloop.transports.redis.staff import forgetting, present
from offloop.transports.redis.wire import Address, Command, Reply, ReplyError, passed_over

log = logging.getLogger("offloop")

LOOK_EVERY = 2
"""Beats between two looks at who is there."""
ON_ITS_WAY = 1.0
"""Seconds that the end of a request may take to come, once it is at the broker no more."""
ORDERS_KEPT = 10_000
"""Entries that may lie before a supervisor that does not read."""


class SentEntry(Sent, eq=False, kw_only=True):
    """What was sent and has not ended.

    Attributes:
        id: the broker's; None while it has not answered.
        lost: the broker's answer went with a connection: its id will not be known, nor whether it lies there.
    """

    stream: str
    id: bytes | None = None
    lost: bool = False


class RedisTransport(BrokeredTransport[SentEntry]):
    """Used as `BrokeredTransport` is.

    Args:
        address: where the broker is.
        epoch: of this web process; its inbox is named by it.
        bound: how many may wait in one pool.
    """

    _way: Link

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: Address,
        names: Names,
        epoch: str,
        targets: Mapping[str, Target],
        *,
        bound: int,
        keys: Sequence[str],
        max_reply: int,
        max_body: int,
        max_deliveries: int,
        clock: Clock,
    ) -> None:
        super().__init__(
            loop, names.inbox(epoch), targets, keys=keys, max_reply=max_reply, max_body=max_body,
            refusals=Refusals("an entry of this process' inbox", clock), clock=clock,
        )  # fmt: skip
        self._names = names
        self._bound = bound
        pools = {endpoint: target.pool or POOL for endpoint, target in targets.items()}
        self._pools = sorted(set(pools.values()))
        self._streams = {endpoint: names.requests(pool) for endpoint, pool in pools.items()}
        self._orders = orders(keys)
        self._unheard: deque[Order] = deque(maxlen=ORDERS_KEPT)
        self._way = Link(address, clock, self)
        self._reapers = [
            Reaper(
                names, pool, epoch, parcels(keys, LARGEST), self._returns,
                max_deliveries=max_deliveries, broker_now=lambda: self._way.broker_time(clock()),
            )
            for pool in self._pools
        ]  # fmt: skip

    @property
    def refused(self) -> int:
        return super().refused + sum(reaper.refused for reaper in self._reapers)

    def close(self) -> None:
        """Nothing is taken or delivered any more. Requests that nobody has begun stay where they are."""
        self._way.ask(("DEL", self._inbox), passed_over)
        super().close()

    # ---- what the link says: `link.User`

    @property
    def stream(self) -> str:
        return self._inbox

    def opening(self) -> Sequence[Command]:
        # The group of an inbox is never used: it is how one makes an empty stream.
        return [
            *scripts.load(),
            *(("XGROUP", "CREATE", self._names.requests(pool), GROUP, "0", "MKSTREAM") for pool in self._pools),
            *self._opens_inbox(),
        ]

    def _opens_inbox(self) -> list[Command]:
        return [
            ("XGROUP", "CREATE", self._inbox, "owner", "$", "MKSTREAM"),
            ("PEXPIRE", self._inbox, round(INBOX_LIVES * 1000)),
        ]

    def up(self) -> None:
        super().up()
        self._look()
        for order in self._unheard:
            self._tell(order)
        for sent in self._sent.values():
            if sent.asked and sent.id is not None:  # the question, or its answer, was lost with the connection
                self._recall(sent)

    def down(self) -> None:
        super().down()
        for sent in self._sent.values():
            sent.lost = sent.lost or sent.id is None
        self._unknown([sent for sent in self._sent.values() if sent.asked and sent.lost])

    def beat(self, number: int) -> None:
        self._way.ask(("PEXPIRE", self._inbox, round(INBOX_LIVES * 1000)), self._prolonged)
        if number * BEAT > GRACE:
            for reaper in self._reapers:
                reaper.look(self._way.ask_together)
        if number % LOOK_EVERY == 0:
            self._look()

    def _prolonged(self, reply: Reply) -> None:
        if reply == 0:
            log.warning("the broker has lost this process' inbox: what was sent into it is lost, it is made again")
            self._way.ask_together(self._opens_inbox(), lambda _: None)

    def _look(self) -> None:
        self._way.ask(("XTRIM", self._inbox, "MINID", self._way.last), passed_over)
        super()._look()

    def _ask_who_is_there(self) -> None:
        self._way.ask_together([("HGETALL", self._names.workers(pool)) for pool in self._pools], self._found)

    def _found(self, replies: list[Reply]) -> None:
        now = self._way.broker_time(self._clock())
        there = {pool: present(reply, now) for pool, reply in zip(self._pools, replies, strict=True)}
        served = frozenset(pool for pool, staff in there.items() if staff)
        # Of a host that was lost: it has not said that it leaves.
        for command in forgetting([self._names.workers(pool) for pool in self._pools], replies, now):
            self._way.ask(command, passed_over)
        self.seen({name: each for staff in there.values() for name, each in staff.items()}, served)

    def came(self, entries: Sequence[Reply]) -> None:
        self._hear([fields for _, fields in entries])

    # ---- out

    def _send(self, envelopes: Iterable[Envelope]) -> None:
        by_stream: dict[str, list[SentEntry]] = {}
        entries: dict[str, list[tuple[str | bytes, ...]]] = {}
        for envelope in envelopes:
            stream = self._streams[envelope.endpoint]
            sent = SentEntry(envelope.rid, envelope.attempt, envelope.deadline, stream=stream)
            self._sent[envelope.rid] = sent
            by_stream.setdefault(stream, []).append(sent)
            entries.setdefault(stream, []).append(self._parcels.write(stream, self._parcel(envelope)))
        for stream, batch in by_stream.items():
            self._way.ask(scripts.add(stream, self._bound, entries[stream]), partial(self._added, batch))

    def _added(self, batch: list[SentEntry], reply: Reply) -> None:
        if isinstance(reply, ReplyError):
            self._turned_away([sent.rid for sent in batch], reply)
            return
        reports: list[Report] = []
        for sent, id_ in zip(batch, reply, strict=True):
            if id_ is None:
                self._sent.pop(sent.rid, None)
                reports.append(Refused(sent.rid, QueueFull.reason))
                continue
            sent.id = id_
            reports.append(Taken(sent.rid))
            if sent.asked:
                self._recall(sent)
        self._receive(reports)

    def _order(self, order: Order) -> None:
        """Once more over the next connection, if this one breaks before the broker has it: twice does no harm."""
        self._unheard.append(order)
        self._tell(order)

    def _tell(self, order: Order) -> None:
        stream = self._names.orders(order.worker.partition("/")[0])
        fields = self._orders.write(stream, order)
        # Not made where it is not: whoever was to read it has gone.
        self._way.ask(("XADD", stream, "NOMKSTREAM", "MAXLEN", "~", ORDERS_KEPT, "*", *fields), self._heard)

    def _heard(self, reply: Reply) -> None:
        if self._unheard:
            self._unheard.popleft()  # answers come in the order of the questions
        passed_over(reply)

    # ---- taken back, by its id

    def _recall(self, sent: SentEntry) -> None:
        """What the broker has not named yet is taken back as soon as it has."""
        if sent.lost:
            self._loop.call_soon(self._unknown, [sent])
        elif sent.id is not None:
            super()._recall(sent)

    def _take_back(self, recalled: Sequence[SentEntry]) -> None:
        by_stream: dict[str, list[SentEntry]] = {}
        for sent in recalled:
            by_stream.setdefault(sent.stream, []).append(sent)
        for stream, batch in by_stream.items():
            ids = [sent.id for sent in batch if sent.id is not None]
            self._way.ask(scripts.withdraw(stream, ids), partial(self._withdrawn, batch))

    def _withdrawn(self, batch: list[SentEntry], reply: Reply) -> None:
        if isinstance(reply, ReplyError):
            log.warning("the broker does not take requests back: %s", reply)
            self._unknown(batch)
            return
        reports: list[Report] = []
        for sent, found in zip(batch, reply, strict=True):
            if (
                found is None
            ):  # it has ended, and what became of it is on its way, unless the broker has lost all it had
                self._loop.call_later(ON_ITS_WAY, self._given_up, sent, sent.id)
                continue
            holder, many = found
            if not holder:
                self._over(sent.rid, sent.attempt)
                reports.append(Withdrawn(sent.rid, begun=False))
                continue
            # The only one that its loop has is what that loop runs; else it may lie behind another.
            reports.append(Withdrawn(sent.rid, begun=True if sent.worker or many == 1 else None))
            sent.asked = False
            self._known(sent, worker_of(holder.decode()))
        self._receive(reports)

    def _given_up(self, sent: SentEntry, id_: bytes | None) -> None:
        if self._sent.get(sent.rid) is sent and sent.id == id_:
            self._unknown([sent])

    # ---- a worker's end, as whoever has found it tells

    def _lost(self, outcome: Outcome) -> Report:
        sent = self._sent.get(outcome.rid)
        if outcome.last:
            self._over(outcome.rid, outcome.attempt)
        if sent is not None and sent.worker:
            return msgspec.structs.replace(outcome, started=True)  # here it is known
        return outcome

    def _requeued(self, report: Requeued, fields: Sequence[bytes]) -> Report:
        """It lies there under another id, which the script that put it there has told beside the report. The same
        attempt, where a worker has given it back unbegun.
        """
        sent = self._sent.get(report.rid)
        if sent is None or report.attempt < sent.attempt:
            return report
        sent.attempt, sent.worker, sent.chunks, sent.lost = report.attempt, "", 0, False
        sent.id = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"i")
        if sent.cancelled or sent.asked:
            self._recall(sent)
        return report
