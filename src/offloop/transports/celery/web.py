"""The web side of the Celery transport: `WorkSink` and `ReplySource`, for one web process.

Owns what becomes of a request when a worker ends, and keeps it for as long as that may be to send it again; the rest is
`brokered`'s. Celery itself knows nothing of attempts and deadlines: what may run again is sent again from here, as a
task of its own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from random import Random

import msgspec

from offloop.clock import Clock
from offloop.core.redelivery import Fate, fate
from offloop.core.waiters import either
from offloop.errors import WorkerLost
from offloop.messages import Envelope, Outcome, Report, Requeued, Taken, Withdrawn
from offloop.transports.brokered import BrokeredTransport, Sent, Target
from offloop.transports.celery.ends import Claim, Fields, WebEnd
from offloop.transports.celery.letters import Letter, Letters
from offloop.transports.parcels import Cancel, NotOurs, Order, Refusals

LOOK_EVERY = 0.5
"""Seconds between two looks at who is there."""
LARGE = 2**18
"""Bytes of a payload whose message is not written in one go: half a millisecond of the event loop's time."""
STRANGE = 0.05
"""Seconds, about, before a request goes out once more that a worker gave back: it lacks the endpoint, as during a
deployment, and another is to have it."""


class SentTask(Sent, eq=False, kw_only=True):
    """What was sent and has not ended.

    Attributes:
        envelope: kept for as long as it may have to be sent again.
        gate: by which it is to begin; empty while it lies nowhere.
        suspect: it was given out a second time, and is waited for until nobody can begin it any more.
        started: whether an earlier attempt had begun; None where that cannot be known.
        spent: how many of them had, or have taken their process with them.
        writing: it is large, and its message is being written: it lies nowhere yet.
    """

    envelope: Envelope | None
    gate: str = ""
    suspect: bool = False
    started: bool | None = False
    spent: int = 0
    writing: bool = False


class CeleryTransport(BrokeredTransport[SentTask]):
    """Used as `BrokeredTransport` is.

    Args:
        end: the way to the broker; `end(self)` makes it.
        grace: seconds that a node may run past its deadline before a pool that can do so kills its process.
    """

    _way: WebEnd

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        end: Callable[["CeleryTransport"], WebEnd],
        namespace: str,
        inbox: str,
        targets: Mapping[str, Target],
        *,
        keys: Sequence[str],
        max_reply: int,
        max_body: int,
        max_deliveries: int,
        grace: float,
        clock: Clock,
    ) -> None:
        super().__init__(
            loop, inbox, targets, keys=keys, max_reply=max_reply, max_body=max_body,
            refusals=Refusals("a message to this process' inbox", clock), clock=clock,
        )  # fmt: skip
        self._max_deliveries = max_deliveries
        self._letters = Letters(namespace, {name: target.pool for name, target in targets.items()}, grace)
        self._way = end(self)
        self._random = Random()
        self._large: deque[tuple[SentTask, int]] = deque()
        self._writes: asyncio.Task[None] | None = None
        self._cutting = False

    async def start(self) -> None:
        await super().start()
        self._lives.append(self._loop.create_task(self._looks()))

    async def _looks(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(LOOK_EVERY)

    def close(self) -> None:
        """Nothing is taken or delivered any more. Requests that nobody has begun will not be: their inbox is gone."""
        super().close()
        if self._writes is not None:
            self._writes.cancel()
        self._large.clear()
        self._way.close()

    # ---- what the broker's end says: `ends.User`

    def up(self) -> None:
        super().up()
        # Whether these have begun was to be seen once their gate was shut, and went with the connection.
        self._unseen([sent for sent in self._sent.values() if sent.gate not in ("", self._way.gate)])
        for sent in self._sent.values():
            if sent.asked:  # the question, or its answer, was lost with the connection
                self._recall(sent)
            if sent.cancelled and sent.worker:
                self._order(Cancel(sent.worker, sent.rid))

    def came(self, messages: Sequence[Fields]) -> None:
        self._hear(messages)

    def _ask_who_is_there(self) -> None:
        self._way.look()

    # ---- out

    def _send(self, envelopes: Iterable[Envelope]) -> None:
        letters: list[Letter] = []
        for envelope in envelopes:
            sent = SentTask(envelope.rid, envelope.attempt, envelope.deadline, envelope=envelope)
            self._sent[envelope.rid] = sent
            if len(envelope.payload) < LARGE:
                letters.append(self._letter(sent, envelope))
            else:
                self._slowly(sent)
        if letters:
            self._way.publish(letters, self._published)

    def withdraw(self, rid: str) -> bool | None:
        sent = self._sent.get(rid)
        if sent is not None and sent.writing:
            if sent.attempt == 1:
                del self._sent[rid]
                return True
            sent.asked = True  # an earlier attempt is known to be over: this one will not be sent
            self._loop.call_soon(self._withdrawn, [sent], [""])
            return None
        return super().withdraw(rid)

    def cut(self) -> None:
        self._cutting = True

    def cancel(self, rid: str) -> None:
        sent = self._sent.get(rid)
        if sent is None or not sent.writing:
            super().cancel(rid)
        elif not sent.asked:  # else that it will not begin is about to be told, by which its place is freed
            del self._sent[rid]

    # ---- what is large

    def _slowly(self, sent: SentTask) -> None:
        """Written a part at a time, and others in between: one after the other, in the order in which they came."""
        sent.writing = True
        self._large.append((sent, sent.attempt))
        if self._writes is None or self._writes.done():
            self._writes = self._loop.create_task(self._write_large())

    async def _write_large(self) -> None:
        while self._large:
            sent, attempt = self._large.popleft()
            wanted = self._wanted(sent, attempt) and sent.envelope is not None
            writing = self._writing(sent, sent.envelope) if wanted and sent.envelope is not None else None
            letter: Letter | None = None
            while writing is not None and self._wanted(sent, attempt):
                try:
                    next(writing)
                except StopIteration as written:
                    letter, writing = written.value, None
                except ValueError as fault:
                    writing = None
                    if sent.envelope is not None:
                        self._unwritable(sent.envelope, fault)
                await asyncio.sleep(0)
            if not self._wanted(sent, attempt):
                continue
            if sent.gate != self._way.gate and self._way.is_up:
                self._large.appendleft((sent, attempt))  # it has been shut meanwhile
                continue
            sent.writing = False
            if not self._way.is_up:
                self._refuse([sent.rid])
            elif letter is not None:
                self._way.publish([letter], self._published)

    def _wanted(self, sent: SentTask, attempt: int) -> bool:
        return self._sent.get(sent.rid) is sent and sent.attempt == attempt and not sent.asked

    def _letter(self, sent: SentTask, envelope: Envelope) -> Letter:
        """What its worker is told: the deadline is an instant of the clock that both ends read."""
        sent.gate = self._way.gate
        parcel = self._parcel(envelope, sent.gate)
        fields = self._parcels.write(self._letters.queue(envelope.endpoint), parcel)
        return self._letters.write(*self._address(envelope), fields, self._left(envelope), parcel.expires)

    def _writing(self, sent: SentTask, envelope: Envelope) -> Generator[None, None, Letter]:
        """The same, with a pause after each part."""
        sent.gate = self._way.gate
        parcel = self._parcel(envelope, sent.gate)
        fields = yield from self._parcels.writing(self._letters.queue(envelope.endpoint), parcel)
        letter = self._letters.writing(*self._address(envelope), fields, self._left(envelope), parcel.expires)
        return (yield from letter)

    def _address(self, envelope: Envelope) -> tuple[str, str, int]:
        return envelope.endpoint, envelope.rid, envelope.attempt

    def _left(self, envelope: Envelope) -> float:
        return envelope.deadline - self._clock()

    def _published(self, letter: Letter, fault: str) -> None:
        if self._current(letter.rid, letter.attempt) is None:
            return
        if fault:
            self._turned_away([letter.rid], fault)
        else:
            self._receive((Taken(letter.rid),))

    def _take_back(self, recalled: Sequence[SentTask]) -> None:
        now = self._clock()
        # One whose caller has left was withdrawn and cancelled in one go: nobody waits to know.
        claims = [
            Claim(
                sent.rid, sent.attempt, sent.deadline - now, self._cutting and not sent.cancelled,
                sent.envelope is not None and self._again(sent.envelope),
            )
            for sent in recalled
        ]  # fmt: skip
        self._way.withdraw(claims, partial(self._withdrawn, recalled))

    def _withdrawn(self, asked: Sequence[SentTask], found: Sequence[str | None]) -> None:
        reports: list[Report] = []
        for sent, held in zip(asked, found, strict=True):
            if self._sent.get(sent.rid) is not sent:
                continue  # it has ended meanwhile
            worker = sent.worker or held  # that it began may have come in the meantime
            if worker:
                sent.asked = False
                self._known(sent, worker)
            elif worker is not None:
                del self._sent[sent.rid]
            reports.append(Withdrawn(sent.rid, begun=None if worker is None else bool(worker)))
        self._receive(reports)
        for sent in asked:
            if sent.cancelled and not sent.worker:  # maybe only since that was told
                sent.envelope = None  # nobody waits: what may become of it, it will not be sent again

    def _order(self, order: Order) -> None:
        self._way.order(order)

    # ---- begun, lost, sent again

    def _known(self, sent: SentTask, worker: str) -> None:
        super()._known(sent, worker)
        if sent.envelope is not None and not self._again(sent.envelope):
            sent.envelope = None  # it will never be sent again: the body's memory is the worker's alone

    def _unbegun(self, report: Withdrawn) -> None:
        sent = self._sent.get(report.rid)
        # Nor does an earlier attempt know of a later, whose beginning may not have come.
        if sent is not None and (sent.worker or (sent.attempt > 1 and not self._way.knows(sent.rid))):
            raise NotOurs("a copy of what has begun came too late")
        super()._unbegun(report)

    def _lost(self, outcome: Outcome) -> Report | None:
        """All that its worker had said came before, if it came at all.

        Either its process is no more (`started` is what its parent supposes), or (None) the broker has given it out a
        second time: then whoever had it first may be there, cut off, and begin it yet.
        """
        sent = self._current(outcome.rid, outcome.attempt)
        if sent is None:
            return outcome
        if sent.worker or not self._way.knows(sent.rid):
            return self._gone(sent, outcome, True if sent.worker else None)
        if outcome.started is not None or not sent.gate:
            return self._gone(sent, outcome, False)
        sent.suspect = True
        self._shut(sent)
        return None

    def _gone(self, sent: SentTask, outcome: Outcome, begun: bool | None, spent: int = 1) -> Report:
        """This attempt is over, and it is known whether it had begun (None: it is not)."""
        sent.started = either(sent.started, begun)
        sent.spent += spent
        judged = fate(
            again=sent.envelope is not None and (begun is False or self._again(sent.envelope)), attempt=sent.spent,
            max_deliveries=self._max_deliveries, left=sent.deadline - self._clock(),
        )  # fmt: skip
        if judged is not Fate.AGAIN or sent.cancelled or not self._way.is_up:
            del self._sent[sent.rid]
            return msgspec.structs.replace(outcome, started=sent.started)
        report = self._anew(sent)
        self._send_again(sent, sent.attempt)
        return report

    def _anew(self, sent: SentTask) -> Requeued:
        """Another attempt: what is still said of the last one counts no more."""
        assert sent.envelope is not None  # kept for as long as it may be sent again
        sent.attempt += 1
        sent.worker, sent.chunks, sent.gate, sent.suspect = "", 0, "", False
        sent.envelope = msgspec.structs.replace(sent.envelope, attempt=sent.attempt)
        return Requeued(sent.rid, sent.attempt, sent.started)

    def _requeued(self, report: Requeued, fields: Sequence[bytes]) -> Report | None:
        """A worker lacks its endpoint, and has not begun it: to another one, in a moment."""
        sent = self._current(report.rid, report.attempt)
        if sent is None or sent.worker or sent.envelope is None:
            return None
        told = self._anew(sent)
        self._loop.call_later(STRANGE * (0.5 + self._random.random()), self._send_again, sent, sent.attempt)
        return told

    def _send_again(self, sent: SentTask, attempt: int) -> None:
        if self._sent.get(sent.rid) is not sent or sent.attempt != attempt or sent.envelope is None or sent.asked:
            return
        if not self._way.is_up:
            self._refuse([sent.rid])
        elif len(sent.envelope.payload) < LARGE:
            self._way.publish([self._letter(sent, sent.envelope)], self._published)
        else:
            self._slowly(sent)

    # ---- what may be with two

    def _shut(self, sent: SentTask) -> None:
        """So that it is known whether it has begun, and stays so. Once for all that went by the same gate."""
        if sent.gate == self._way.gate:
            self._way.shut(partial(self._is_shut, sent.gate))

    def _is_shut(self, gate: str) -> None:
        """Nothing begins by it any more: what has not, is sent again, to begin by another."""
        self._unseen([sent for sent in self._sent.values() if sent.gate == gate])

    def _unseen(self, shut_out: Sequence[SentTask]) -> None:
        reports: list[Report] = []
        for sent in shut_out:
            if sent.writing:
                continue  # it lies nowhere, and will say another
            begun = True if sent.worker else False if self._way.knows(sent.rid) else None
            if begun and not sent.suspect:
                continue  # its worker has it
            if sent.cancelled and begun is False:
                del self._sent[sent.rid]
                reports.append(Withdrawn(sent.rid, begun=False))
            elif begun or not sent.asked:  # else whoever takes it back will tell
                lost = Outcome(sent.rid, WorkerLost.reason, attempt=sent.attempt)
                reports.append(self._gone(sent, lost, begun, spent=0 if begun is False else 1))
        self._receive(reports)
