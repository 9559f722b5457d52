"""The web side of a transport over a broker, `WorkSink` and `ReplySource`: what is the same over each.

Owns what was put and is not sent yet, what was sent and has not ended, and what reports say of that. It never blocks:
what is put in one turn of the event loop goes out together. How a request lies at the broker, and how it is sent,
taken back, and sent again, is each transport's own: no command, no message and no name of where it lies may enter.

It is longer than most files because what was sent has one life, over every broker.
"""

import asyncio
import contextlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from offloop.clock import Clock
from offloop.errors import BackendUnavailable, PayloadTooLarge, StartError, WorkerLost
from offloop.messages import (
    Begun,
    Chunk,
    Envelope,
    Freed,
    Linked,
    Outcome,
    Refused,
    Report,
    Requeued,
    Staffed,
    Withdrawn,
)
from offloop.transports.parcels import Cancel, Grant, NotOurs, Order, Parcel, Refusals, Returned, parcels, returns

log = logging.getLogger("offloop")

SAY_EVERY = 1.0
"""Seconds between two lines about a broker that refuses what it is sent."""
FORGET = 60.0
"""Seconds past its deadline after which nothing is expected of a request any more."""
ASK_EVERY = 0.02
"""Seconds between two looks at who is there, for a start that waits for somebody."""


class Target(NamedTuple):
    """What has to be known of an endpoint here.

    Attributes:
        pool: None for one that names none.
    """

    pool: str | None
    fingerprint: str
    idempotent: bool


class Sent(msgspec.Struct, eq=False):
    """What was sent and has not ended.

    Attributes:
        worker: who has it, once that is known.
        asked: it is to be taken back.
        cancelled: nobody waits; whoever has it is to be told, as soon as it is known who.
        chunks: the number of the last stream message that has come.
    """

    rid: str
    attempt: int
    deadline: float
    worker: str = ""
    asked: bool = False
    cancelled: bool = False
    chunks: int = 0


S = TypeVar("S", bound=Sent)


class Way(Protocol):
    """To the broker."""

    @property
    def is_up(self) -> bool: ...

    async def connect(self) -> None:
        """Once, for a start. Raises OSError where there is no broker."""

    async def serve(self) -> None:
        """Keep it up until cancelled."""

    def broker_time(self, at: float) -> float:
        """Of an instant of this host's monotonic clock, in the time that both sides read."""

    def local_time(self, at: float) -> float:
        """The reverse; 0.0, which is no instant, stays so."""


class BrokeredTransport(ABC, Generic[S]):
    """Used on one event loop only. `start` before anything is put. What each broker does in its own way comes last.

    Args:
        loop: the event loop.
        inbox: where reports come, by the name that they are signed for.
        targets: by endpoint.
        keys: signing keys, or none.
        max_reply: bytes of the largest payload that a worker may send.
        max_body: bytes of the largest payload that is sent.
        refusals: counts what comes into the inbox and is not believed.
    """

    _way: Way

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        inbox: str,
        targets: Mapping[str, Target],
        *,
        keys: Sequence[str],
        max_reply: int,
        max_body: int,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._inbox = inbox
        self._targets = targets
        self._parcels = parcels(keys, max_body)
        self._returns = returns(keys, max_reply)
        self._refusals = refusals
        self._lives: list[asyncio.Task[None]] = []
        self._anybody = asyncio.Event()
        self._receive: Callable[[Sequence[Report]], None] = lambda _: None
        self._sent: dict[str, S] = {}
        self._unsent: dict[str, Envelope] = {}
        self._recalled: list[S] = []
        self._refused_at = -math.inf
        self._flushing = False
        self._closed = False

    @property
    def refused(self) -> int:
        """What has come and was not believed."""
        return self._refusals.count

    # ---- its life

    async def start(self) -> None:
        """Connect, and go on connecting for as long as it lives. Raises StartError where there is no broker now."""
        try:
            await self._way.connect()
        except OSError as fault:
            raise StartError(f"the broker cannot be reached: {fault}") from None
        self._lives.append(self._loop.create_task(self._way.serve()))

    async def staffed(self, timeout: float) -> None:
        """Until somebody has been seen who takes requests, or so many seconds. For a start, and not for a request."""
        until = self._clock() + timeout
        while not self._anybody.is_set() and self._clock() < until:
            self._ask_who_is_there()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_EVERY):
                    await self._anybody.wait()

    def _look(self) -> None:
        """From time to time: who is there, and what will not end any more."""
        self._ask_who_is_there()
        now = self._clock()
        forgotten = [sent for sent in self._sent.values() if now > sent.deadline + FORGET]
        for sent in forgotten:
            del self._sent[sent.rid]
        self._unknown(forgotten)

    def _unknown(self, asked: Sequence[S]) -> None:
        """Whether these have begun will not be known: they are waited for no longer, and hold no place here."""
        if asked:
            self._receive([Withdrawn(sent.rid, begun=None) for sent in asked])

    def close(self) -> None:
        """Nothing is taken or delivered any more."""
        self._receive = lambda _: None
        self._closed = True
        self._unsent.clear()
        self._sent.clear()
        for life in self._lives:
            life.cancel()
        self._lives.clear()

    # ---- what its way to the broker says

    def up(self) -> None:
        """Requests are taken from now on."""
        self._receive((Linked(True),))

    def down(self) -> None:
        """What was sent and not answered may be there, and may not: it is waited for until its deadline."""
        self._receive((Linked(False),))

    def seen(self, there: dict[str, tuple[int, int]], pools: frozenset[str] | None = None) -> None:
        """Who takes requests: (loops, of which busy) by name; and of which pools, None: of all."""
        if there:
            self._anybody.set()
        self._receive((Staffed(there, pools),))

    # ---- WorkSink

    def put(self, envelope: Envelope, worker: str | None) -> None:
        if not self._closed:
            self._unsent[envelope.rid] = envelope
            self._soon()

    def withdraw(self, rid: str) -> bool | None:
        if self._unsent.pop(rid, None) is not None:
            return True
        sent = self._sent.get(rid)
        if sent is None or sent.worker:
            return False
        self._ask_back(sent)
        return None

    def cancel(self, rid: str) -> None:
        sent = self._sent.get(rid)
        if sent is None:
            return
        sent.cancelled = True  # whoever has it by then, and whoever may get it when that one dies
        if sent.worker:
            self._order(Cancel(sent.worker, rid))
        else:  # the broker knows who has it
            self._ask_back(sent)

    def grant(self, rid: str, room: int) -> None:
        sent = self._sent.get(rid)
        if sent is not None and sent.worker:  # who sends messages has said that it began
            self._order(Grant(sent.worker, rid, room))

    def cut(self) -> None:
        """Each withdrawal is answered as any."""

    def settle(self) -> None:
        """All that the worker side makes visible comes by itself."""

    # ---- out, once in a turn of the event loop

    def _ask_back(self, sent: S) -> None:
        """Once."""
        if not sent.asked:
            sent.asked = True
            self._recall(sent)

    def _recall(self, sent: S) -> None:
        self._recalled.append(sent)
        self._soon()

    def _soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        unsent, self._unsent = self._unsent, {}
        recalled, self._recalled = self._recalled, []
        if not self._way.is_up:
            self._refuse(unsent)
            return
        if unsent:
            try:
                self._send(unsent.values())
            except ValueError:
                self._send_apart(unsent.values())
        if recalled:
            self._take_back(recalled)

    def _send_apart(self, envelopes: Iterable[Envelope]) -> None:
        """One of them cannot be written: a file's name without measure, or in no known letters. The others can."""
        for envelope in envelopes:
            try:
                self._send((envelope,))
            except ValueError as fault:
                self._unwritable(envelope, fault)

    def _unwritable(self, envelope: Envelope, fault: ValueError) -> None:
        log.warning("a request to %s cannot be sent: %s", envelope.endpoint, fault)
        self._sent.pop(envelope.rid, None)
        self._receive((Refused(envelope.rid, PayloadTooLarge.reason),))

    def _parcel(self, envelope: Envelope, gate: str = "") -> Parcel:
        return Parcel(
            self._way.broker_time(envelope.deadline), self._targets[envelope.endpoint].fingerprint,
            self._again(envelope), msgspec.structs.replace(envelope, deadline=0.0), gate,
        )  # fmt: skip

    def _again(self, envelope: Envelope) -> bool:
        """What was streamed to a caller cannot be taken back from it: such a request begins once, whatever it is."""
        return self._targets[envelope.endpoint].idempotent and not envelope.stream

    def _turned_away(self, rids: Collection[str], why: object) -> None:
        """The broker does not take these."""
        now = self._clock()
        if now - self._refused_at > SAY_EVERY:
            self._refused_at = now
            log.warning("the broker refuses requests: %s", why)
        self._refuse(rids)

    def _refuse(self, rids: Collection[str]) -> None:
        for rid in rids:
            self._sent.pop(rid, None)
        if rids:
            self._receive([Refused(rid, BackendUnavailable.reason) for rid in rids])

    # ---- ReplySource

    def subscribe(self, receive: Callable[[Sequence[Report]], None]) -> None:
        self._receive = receive

    def _hear(self, arrived: Iterable[Sequence[bytes]]) -> None:
        """Parcels that have come into the inbox, in order."""
        reports: list[Report] = []
        for fields in arrived:
            try:
                report = self._read(self._returns.read(self._inbox, fields), fields)
                if report is not None:
                    reports.append(report)
            except NotOurs as fault:
                self._refusals.add(fault)
        self._receive(reports)

    def _read(self, report: Returned, fields: Sequence[bytes]) -> Report | None:
        """One report, its instants in this host's time; None: there is nothing to tell yet.

        Raises:
            NotOurs: it is not to be told: it has come before, or too late. What else comes twice means nothing then.
        """
        local = self._way.local_time
        if isinstance(report, Outcome):
            report = msgspec.structs.replace(report, begun_at=local(report.begun_at), ended_at=local(report.ended_at))
            if report.reason == WorkerLost.reason:
                return self._lost(report)
            if report.last:
                self._over(report.rid, report.attempt)
        elif isinstance(report, Begun):
            if (sent := self._current(report.rid, report.attempt)) is not None:
                self._known(sent, report.worker)
            return msgspec.structs.replace(report, at=local(report.at))
        elif isinstance(report, Chunk):
            self._numbered(report)
        elif isinstance(report, Freed):
            self._over(report.rid, report.attempt)
        elif isinstance(report, Withdrawn):
            self._unbegun(report)
        elif isinstance(report, Requeued):
            return self._requeued(report, fields)
        return report

    def _current(self, rid: str, attempt: int) -> S | None:
        """What was sent, if that is the attempt that counts."""
        sent = self._sent.get(rid)
        return sent if sent is not None and sent.attempt == attempt else None

    def _known(self, sent: S, worker: str) -> None:
        """Who has it, whom to tell that nobody waits."""
        sent.worker = worker
        if sent.cancelled:
            self._order(Cancel(worker, sent.rid))

    def _numbered(self, chunk: Chunk) -> None:
        sent = self._current(chunk.rid, chunk.attempt)
        if sent is not None:
            if chunk.number <= sent.chunks:
                raise NotOurs("it has come before")
            sent.chunks = chunk.number

    def _over(self, rid: str, attempt: int) -> None:
        """That attempt has ended. What is said of an earlier one is nothing to the one that runs now."""
        sent = self._sent.get(rid)
        if sent is not None and sent.attempt <= attempt:
            del self._sent[rid]

    def _unbegun(self, report: Withdrawn) -> None:
        """Whoever was handed it says that it will never begin."""
        self._sent.pop(report.rid, None)

    # ---- what each does in its own way

    @abstractmethod
    def _ask_who_is_there(self) -> None:
        """`seen` is to be told."""

    @abstractmethod
    def _send(self, envelopes: Iterable[Envelope]) -> None:
        """All of one turn, and remember them. Raises ValueError, and sends none, where one cannot be written."""

    @abstractmethod
    def _take_back(self, recalled: Sequence[S]) -> None:
        """All of one turn that `_recall` was told."""

    @abstractmethod
    def _order(self, order: Order) -> None:
        """To the worker that is named in it."""

    @abstractmethod
    def _lost(self, outcome: Outcome) -> Report | None:
        """Its worker is gone. Whether this ends it, or it goes on as another attempt, and what is told of it."""

    @abstractmethod
    def _requeued(self, report: Requeued, fields: Sequence[bytes]) -> Report | None:
        """It has been put back, as this attempt; `fields`: of the parcel that tells of it."""
