"""The web side of the Celery transport: `WorkSink` and `ReplySource`, for one web process.

Owns what becomes of a request when a worker ends, and keeps it for as long as that may be to send it again; the rest is
`brokered`'s. Celery itself knows nothing of attempts and deadlines: what may run again is sent again from here, as a
task of its own.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random

import msgspec

from offloop.clock import Clock
from offloop.core.redelivery import Fate, fate
from offloop.messages import Envelope, Outcome, Report, Requeued, Taken, Withdrawn
from offloop.transports.brokered import BrokeredTransport, Sent, Target
from offloop.transports.celery.ends import Claim, Fields, WebEnd
from offloop.transports.celery.letters import Letter, Letters
from offloop.transports.parcels import Cancel, NotOurs, Order, Refusals

LOOK_EVERY = 0.5
"""Seconds between two looks at who is there."""
STRANGE = 0.05
"""Seconds, about, before a request goes out once more that a worker gave back: it lacks the endpoint, as during a
deployment, and another is to have it."""


class SentTask(Sent, eq=False, kw_only=True):
    """What was sent and has not ended.

    Attributes:
        envelope: kept for as long as it may have to be sent again.
    """

    envelope: Envelope | None


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
        self._way.close()

    # ---- what the broker's end says: `ends.User`

    def up(self) -> None:
        super().up()
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
            letters.append(self._letter(envelope))
        self._way.publish(letters, self._published)

    def _letter(self, envelope: Envelope) -> Letter:
        """What its worker is told: the deadline is an instant of the clock that both ends read."""
        endpoint = envelope.endpoint
        fields = self._parcels.write(self._letters.queue(endpoint), self._parcel(envelope))
        return self._letters.write(endpoint, envelope.rid, envelope.attempt, fields, envelope.deadline - self._clock())

    def _published(self, letter: Letter, fault: str) -> None:
        if self._current(letter.rid, letter.attempt) is None:
            return
        if fault:
            self._turned_away([letter.rid], fault)
        else:
            self._receive((Taken(letter.rid),))

    def _take_back(self, recalled: Sequence[SentTask]) -> None:
        now = self._clock()
        # A caller that has left was withdrawn and cancelled in one go; whoever else is withdrawn is waited for.
        claims = [Claim(sent.rid, sent.attempt, sent.deadline - now, not sent.cancelled) for sent in recalled]
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

    def _order(self, order: Order) -> None:
        self._way.order(order)

    # ---- begun, lost, sent again

    def _known(self, sent: SentTask, worker: str) -> None:
        super()._known(sent, worker)
        if sent.envelope is not None and not self._again(sent.envelope):
            sent.envelope = None  # it will never be sent again: the body's memory is the worker's alone

    def _unbegun(self, report: Withdrawn) -> None:
        sent = self._sent.get(report.rid)
        if sent is not None and sent.worker:
            raise NotOurs("a copy of what has begun came too late")
        super()._unbegun(report)

    def _lost(self, outcome: Outcome) -> Report:
        """All that its worker had said came before: if there was no beginning, there was none."""
        sent = self._current(outcome.rid, outcome.attempt)
        if sent is None:
            return outcome
        begun = bool(sent.worker)
        judged = fate(
            again=sent.envelope is not None, attempt=sent.attempt, max_deliveries=self._max_deliveries,
            left=sent.deadline - self._clock(),
        )  # fmt: skip
        if judged is not Fate.AGAIN or sent.envelope is None or sent.cancelled:
            del self._sent[sent.rid]
            return msgspec.structs.replace(outcome, started=begun or sent.attempt > 1)
        sent.attempt += 1
        sent.worker, sent.chunks = "", 0
        sent.envelope = msgspec.structs.replace(sent.envelope, attempt=sent.attempt)
        self._send_again(sent)
        return Requeued(sent.rid, sent.attempt)

    def _requeued(self, report: Requeued, fields: Sequence[bytes]) -> None:
        """A worker lacks its endpoint: to another one, in a moment."""
        sent = self._current(report.rid, report.attempt)
        if sent is not None and not sent.worker:
            self._loop.call_later(STRANGE * (0.5 + self._random.random()), self._send_again, sent)

    def _send_again(self, sent: SentTask) -> None:
        if self._sent.get(sent.rid) is not sent or sent.envelope is None or sent.asked:
            return
        if self._way.is_up:
            self._way.publish([self._letter(sent.envelope)], self._published)
        else:
            self._refuse([sent.rid])
