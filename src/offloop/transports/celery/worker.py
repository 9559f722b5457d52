"""The worker side of the Celery transport: one request in the hands of a Celery task.

Owns how a task's parcel becomes a delivery, what of its reports goes where, and what is told to a request that runs.
Celery decides who runs what, and when; nothing here knows it.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

import msgspec

from offloop.clock import Clock
from offloop.errors import NodeFailed, WorkerLost
from offloop.messages import Begun, Chunk, Envelope, Freed, Outcome, Progressed, Report, Requeued, Withdrawn
from offloop.transports.celery.ends import Fields, TooLarge, WorkerEnd
from offloop.transports.celery.letters import id_of
from offloop.transports.celery.recent import Recent
from offloop.transports.delivery import ClaimedDelivery
from offloop.transports.outcomes import written
from offloop.transports.parcels import Cancel, NotOurs, Order, Parcel, Refusals, Seal

log = logging.getLogger("offloop")


class CeleryDelivery(ClaimedDelivery):
    """Claimed at the broker: that it begins is said there before it does."""

    __slots__ = ("_begins",)

    def __init__(self, envelope: Envelope, begins: Callable[[Envelope], bool]) -> None:
        super().__init__(envelope)
        self._begins = begins

    def begin(self) -> bool:
        return super().begin() and self._begins(self.envelope)


class Desk:
    """Opens parcels, and is `ports.replies.ReplySink` for the loops of one process. Thread-safe.

    Args:
        name: of this process, by which it is told what concerns what it runs.
        fingerprints: of the endpoints that it has, by name.
        queues: theirs.
        seal: for parcels.
        end: the way to the broker.
        ending: whether this process has been told to end, so that what a node fails by may be that.
    """

    def __init__(
        self,
        name: str,
        fingerprints: Mapping[str, str],
        queues: AbstractSet[str],
        seal: Seal[Parcel],
        end: WorkerEnd,
        clock: Clock,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._name = name
        self._fingerprints = fingerprints
        self._queues = queues
        self._seal = seal
        self._end = end
        self._clock = clock
        self._ending = ending
        self._running: dict[str, CeleryDelivery] = {}
        self._opened = Recent()
        self._lock = threading.Lock()
        self._refusals = Refusals("a request", clock)

    # ---- a request comes

    def open(self, fields: Fields, queue: str, *, redelivered: bool) -> CeleryDelivery | None:
        """What a task was given; None: it is not to run here, and whoever asked has been told, if anyone.

        Args:
            queue: where it lay, which its signature vouches for.
            redelivered: the broker has given it to somebody before.

        Raises:
            OSError: the broker is gone.
        """
        try:
            if queue not in self._queues:  # where it lay is what the message says
                raise NotOurs("it was sent to a queue that is none of ours")
            parcel, too_large = self._seal.read_any(queue, fields)
        except NotOurs as fault:
            self._refusals.add(fault)
            return None
        envelope = parcel.envelope
        if redelivered and not self._end.remembers:
            # Who asked can tell what had begun, and see to it that what had not does not any more.
            lost = Outcome(envelope.rid, WorkerLost.reason, attempt=envelope.attempt, started=None)
            self._end.tell(envelope.rid, lost, heard=True)
            return None
        if self._fingerprints.get(envelope.endpoint) != parcel.fingerprint:
            # Another has it, or will have once a deployment is through.
            self._end.tell(envelope.rid, Requeued(envelope.rid, envelope.attempt), heard=True)
            return None
        if too_large is not None:
            self._refusals.add(too_large)
            return None
        deadline = self._end.local_time(parcel.expires)
        if self._clock() >= deadline:
            self._end.tell(envelope.rid, Withdrawn(envelope.rid, begun=False), heard=True)
            return None
        if not self._first_time(envelope):
            return None
        return CeleryDelivery(
            msgspec.structs.replace(envelope, deadline=deadline),
            lambda mine: self._begins(mine, parcel),
        )

    def _first_time(self, envelope: Envelope) -> bool:
        """A broker that has lost sight of this process may give it the same again, while it runs or later."""
        attempt = id_of(envelope.rid, envelope.attempt)
        with self._lock:
            known = attempt in self._opened
            self._opened.add(attempt)
        return not known

    def _begins(self, envelope: Envelope, parcel: Parcel) -> bool:
        """Whether it may: it is asked for, in time, and nobody has begun it before."""
        begun = Begun(envelope.rid, envelope.attempt, self._name, self._end.broker_time(self._clock()))
        why = self._end.begin(parcel, begun)
        if why:
            log.debug("a request is not begun (%s): %s", envelope.rid, why)
        elif envelope.stream:
            self._end.settled()  # what was torn before is nothing to this one
        return not why

    def run(self, delivery: CeleryDelivery, handle: Callable[[CeleryDelivery], None]) -> None:
        """Have it handled; meanwhile it hears what is told to it."""
        rid = delivery.envelope.rid
        with self._lock:
            self._running[rid] = delivery
        try:
            handle(delivery)
        finally:
            with self._lock:
                if self._running.get(rid) is delivery:
                    del self._running[rid]

    # ---- ReplySink

    def send(self, report: Report) -> None:
        """What a loop says of its request. A broker that is gone now is not told; its web process ends by time."""
        if isinstance(report, Begun):
            return  # said when it was claimed
        assert isinstance(report, Chunk | Progressed | Outcome | Freed)
        try:
            if isinstance(report, Outcome):
                self._tell_outcome(report)
            else:
                self._end.tell(report.rid, report, heard=not isinstance(report, Chunk | Progressed))
        except OSError as fault:
            log.warning("the broker was not told of a request (%s): %s", type(report).__name__.lower(), fault)

    def _tell_outcome(self, outcome: Outcome) -> None:
        delivery = self._running.get(outcome.rid)
        if delivery is not None and delivery.envelope.stream and not self._end.settled():
            log.warning("stream messages of %s were lost on their way to the broker", delivery.envelope.endpoint)
            outcome = _lost(outcome)
        elif outcome.reason == NodeFailed.reason and self._ending():
            outcome = _lost(outcome)
        at = self._end.broker_time
        told = msgspec.structs.replace(outcome, begun_at=at(outcome.begun_at), ended_at=at(outcome.ended_at))
        written(told, self._tell)

    def _tell(self, outcome: Outcome) -> None:
        """Raises ValueError where neither the web process nor the broker takes it."""
        try:
            self._end.tell(outcome.rid, outcome, heard=True)
        except TooLarge as fault:
            raise ValueError(f"the broker takes nothing so large: {fault}") from fault

    # ---- what it is told

    def listen(self) -> None:
        """Heed orders; the target of a thread of its own, which ends with the broker's end."""
        for order in self._end.orders():
            self.obey(order)

    def obey(self, order: Order) -> None:
        """One of them. What is no more, or not yet here, is passed over."""
        with self._lock:
            delivery = self._running.get(order.rid)
        if delivery is None:
            return
        if isinstance(order, Cancel):
            delivery.cancel()
        else:
            delivery.grant(order.room)


def _lost(outcome: Outcome) -> Outcome:
    """The same end, of which all that is known is that there was no other."""
    return Outcome(
        outcome.rid, WorkerLost.reason, attempt=outcome.attempt, begun_at=outcome.begun_at, ended_at=outcome.ended_at,
        worker=outcome.worker, last=outcome.last,
    )  # fmt: skip
