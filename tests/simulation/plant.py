"""The worker side of a history: workers, what they do with a request, and how their reports travel.

Owns the fakes of `WorkSink` and of the part of a workforce that the gateway calls. It says what a `SyncRunner` would
say, in the same order, and keeps accounts of its own; it judges nothing but what it is handed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from offloop.events import STOPPED, Event, Events, Kind
from offloop.messages import Begun, Chunk, Envelope, Freed, Outcome, Refused, Report, Withdrawn, WorkerGone, WorkerUp
from tests.simulation.world import World


@dataclass(frozen=True)
class Plan:
    """What one attempt at a request comes to.

    Attributes:
        seconds: until its reply, or what stands for it.
        end: `ok`, a reason, a Problem's reason (`too-many`), or `die`.
        after: seconds of work after the reply; 0.0 for none.
        chunks: how many come before the reply.
        twice: whether the reply is sent twice.
        heeds: whether the work notices that it is cancelled or late.
    """

    seconds: float
    end: str
    after: float = 0.0
    chunks: int = 0
    twice: bool = False
    heeds: bool = True


class Delivery:
    """An envelope on its way or in a worker's hands. `begun` is None until it has begun, or never will."""

    __slots__ = ("begun", "cancelled", "envelope", "replied", "where")

    def __init__(self, envelope: Envelope, where: "Worker | None") -> None:
        self.envelope = envelope
        self.where = where
        self.begun: bool | None = None
        self.replied = False
        self.cancelled = False


@dataclass(eq=False)
class Worker:
    """One loop (shared), or one process with some loops."""

    name: str
    loops: int
    buffer: deque[Delivery] = field(default_factory=deque)
    running: dict[str, Delivery] = field(default_factory=dict)
    control: list[Delivery] = field(default_factory=list)
    frozen_until: float = 0.0
    leaving: bool = False
    condemned: bool = False
    alive: bool = True


class Plant:
    """All workers of one history.

    Args:
        shared: one buffer that all loops take from (threads); else each worker has its own (processes).
        withdrawals: how a withdrawal is answered where work is not shared: `now` or `late`.
        tells_late: whether a worker reports what it found to be late, or leaves that to the web side.
        ghosts: the share of requests lost with their worker whose reply comes all the same, much later.
        refuses: the share of envelopes that the transport cannot take.
    """

    def __init__(
        self,
        world: World,
        random: Random,
        events: Events,
        plan: Callable[[Envelope], Plan],
        *,
        shared: bool,
        loops: int,
        read_ahead: int,
        withdrawals: str,
        tells_late: bool,
        ghosts: float,
        refuses: float,
    ) -> None:
        self.world = world
        self.random = random
        self.shared = shared
        self.workers: dict[str, Worker] = {}
        self.receive: Callable[[Sequence[Report]], None] = lambda reports: None
        self.outcomes_sent = 0
        self.firsts: dict[str, None] = {}
        """Every rid that was ever handed out, in the order in which it was the first time."""
        self.handed: dict[str, tuple[str, int]] = {}
        """By rid: to whom it was handed last, and as the how manieth of all."""
        self.closed = False
        self._events = events
        self._plan = plan
        self._loops = loops
        self._room = loops + read_ahead
        self._withdrawals = withdrawals
        self._tells_late = tells_late
        self._ghosts = ghosts
        self._refuses = refuses
        self._refused: set[str] = set()
        self._buffer: deque[Delivery] = deque()
        self._deliveries: dict[str, Delivery] = {}
        self._reports: deque[tuple[str, Report]] = deque()
        self._armed = False
        self._made = 0
        self._puts = 0

    # ---- on the event loop: WorkSink

    def put(self, envelope: Envelope, worker: str | None) -> None:
        if self.closed:
            return
        assert (worker is None) == self.shared, "work was handed to the wrong kind of buffer"
        if self.random.random() < self._refuses and (worker is None or self.workers[worker].alive):
            self._refused.add(envelope.rid)
            self._send(worker or "", Refused(envelope.rid, "backend-unavailable"))
            return
        self.firsts[envelope.rid] = None
        if worker is None:
            self._deliveries[envelope.rid] = delivery = Delivery(envelope, None)
            self._buffer.append(delivery)
            self.world.after(self._soon(), self._take_shared)
            return
        where = self.workers[worker]
        assert not where.condemned, "work was handed to a worker that is being replaced"
        self._puts += 1
        self.handed[envelope.rid] = worker, self._puts
        self._deliveries[envelope.rid] = delivery = Delivery(envelope, where)
        if where.alive:
            where.buffer.append(delivery)
            assert len(where.buffer) + len(where.running) <= self._room, (
                f"{worker} was handed more than it has room for"
            )
            self.world.after(self._soon(), lambda: self._take(where))

    def withdraw(self, rid: str) -> bool | None:
        if rid in self._refused:
            return True if self._withdrawals == "now" or self.shared else None  # what it reported is the answer
        delivery = self._deliveries[rid]
        if self._withdrawals == "now" or self.shared:
            return self._take_back(delivery)
        where = delivery.where
        assert where is not None
        where.control.append(delivery)
        self.world.after(self.random.uniform(0.0, 0.008), lambda: self._heed_control(where))
        return None

    def _take_back(self, delivery: Delivery) -> bool:
        if delivery.begun is not None:
            return not delivery.begun
        delivery.begun = False
        if delivery.where is not None and delivery in delivery.where.buffer:
            delivery.where.buffer.remove(delivery)
        return True

    def cancel(self, rid: str) -> None:
        if (delivery := self._deliveries.get(rid)) is not None:
            delivery.cancelled = True

    def settle(self) -> None:
        """All that was sent, between threads; between processes what stands before the last evidence of a worker."""
        if self.closed:
            return
        reports = self._reports
        if self.shared:
            self._deliver(len(reports))
            return
        evident: set[str] = set()
        read, kept = [], deque[tuple[str, Report]]()
        while reports:
            name, report = reports.pop()
            if type(report) is Begun:
                evident.add(name)
            if name in evident:
                read.append(report)
            else:
                kept.appendleft((name, report))
        self._reports = kept
        self.receive(read[::-1])

    def _deliver(self, count: int) -> None:
        if count and not self.closed:
            self.receive([self._reports.popleft()[1] for _ in range(count)])

    def settle_all(self) -> None:
        """Everything that was sent."""
        self._deliver(len(self._reports))

    def _woken(self) -> None:
        self._armed = False
        self.settle_all()

    # ---- on the event loop: the workforce

    def replace(self, worker: str) -> None:
        """A wedged thread is left to itself and ends with its node; a wedged process is killed."""
        assert not self.closed, "a worker was replaced after the stop"
        where = self.workers[worker]
        if self.shared:
            where.leaving = True
            self.world.after(
                self.random.uniform(0.0, 1.0), lambda: self._go(where)
            )  # it may have ended since, and idle
            self.start()
        else:
            where.condemned = True
            self.world.after(self.random.uniform(0.0, 0.02), lambda: self.lose(where, "wedged"))

    def start(self) -> None:
        """One more worker."""
        self._made += 1
        worker = self.workers[f"w{self._made}"] = Worker(f"w{self._made}", self._loops)
        self._send(worker.name, WorkerUp(worker.name, worker.loops))
        self.world.after(self._soon(), self._take_shared)

    # ---- in the workers

    def lose(self, worker: Worker, cause: str) -> None:
        """It dies, with everything that it held. Another comes up after a while, unless it was told to leave."""
        if not worker.alive:
            return
        worker.alive = False
        for delivery in worker.running.values():
            if self.random.random() < self._ghosts:
                self.world.after(
                    self.random.uniform(0.001, 0.3), lambda delivery=delivery: self._haunt(delivery, worker)
                )
        self._send(worker.name, WorkerGone(worker.name, cause))
        if cause != STOPPED and not worker.leaving:
            self.world.after(self.random.choice((0.001, 0.02, 0.2)), self.start)

    def _haunt(self, delivery: Delivery, worker: Worker) -> None:
        """What a worker said before its end may come after the news of its end, where a broker stands between."""
        self._emit("finish", delivery.envelope, worker, outcome="ok")
        self._outcome(delivery.envelope, worker, payload=b"a ghost's")

    def freeze(self, worker: Worker, seconds: float) -> None:
        """It answers nothing and begins nothing for so long; what it runs goes on."""
        worker.frozen_until = self.world.now + seconds
        self.world.after(seconds, lambda: self._heed_control(worker))
        self.world.after(seconds, lambda: self._take(worker))

    def _heed_control(self, worker: Worker) -> None:
        if not worker.alive or self.world.now < worker.frozen_until:
            return
        asked, worker.control = worker.control, []
        for delivery in asked:
            self._send(worker.name, Withdrawn(delivery.envelope.rid, begun=not self._take_back(delivery)))
        self._take(worker)

    def _take_shared(self) -> None:
        for worker in tuple(self.workers.values()):
            self._take(worker)

    def _take(self, worker: Worker) -> None:
        if not worker.alive or self.world.now < worker.frozen_until:
            return
        buffer = self._buffer if self.shared else worker.buffer
        while buffer and len(worker.running) < worker.loops and not worker.leaving:
            delivery = buffer.popleft()
            if delivery.begun is None:
                self._begin(delivery, worker)

    def _begin(self, delivery: Delivery, worker: Worker) -> None:
        envelope = delivery.envelope
        now = self.world.clock()
        if now >= envelope.deadline:
            if self._tells_late:
                delivery.begun = False
                again = envelope.attempt > 1
                reason = "deadline-exceeded" if again else "expired-in-queue"
                self._outcome(envelope, worker, reason=reason, started=again)
            return
        delivery.begun = True
        worker.running[envelope.rid] = delivery
        self._send(worker.name, Begun(envelope.rid, envelope.attempt, worker.name, now))
        self._emit("dequeue", envelope, worker)
        self._emit("start", envelope, worker)
        plan = self._plan(envelope)
        for number in range(1, plan.chunks + 1):
            self._then(worker, delivery, plan.seconds * number / (plan.chunks + 1), self._chunk, number)
        self._then(worker, delivery, plan.seconds, self._end, plan)

    def _then(
        self, worker: Worker, delivery: Delivery, delay: float, act: Callable[..., None], argument: object
    ) -> None:
        def happen() -> None:
            if worker.alive and worker.running.get(delivery.envelope.rid) is delivery:
                act(delivery, worker, argument)

        self.world.after(delay, happen)

    def _chunk(self, delivery: Delivery, worker: Worker, number: int) -> None:
        envelope = delivery.envelope
        self._send(worker.name, Chunk(envelope.rid, envelope.attempt, number, envelope.payload))

    def _end(self, delivery: Delivery, worker: Worker, plan: Plan) -> None:
        envelope = delivery.envelope
        if plan.end == "die":
            self.lose(worker, "killed")
            return
        if plan.heeds and delivery.cancelled:
            self._emit("finish", envelope, worker, outcome="cancelled")
            self._free(delivery, worker, plan)
            return
        late = plan.heeds and self.world.clock() >= envelope.deadline
        reason = "deadline-exceeded" if late else plan.end
        self._emit("finish", envelope, worker, outcome=reason)
        last = plan.after == 0.0
        delivery.replied = True
        if last:
            self._leave(delivery, worker)
        for _ in range(2 if plan.twice and last else 1):
            self._outcome(
                envelope, worker, reason=reason, last=last, started=reason != "invalid-payload",
                status=422 if reason == "too-many" else 0, payload=f"{envelope.rid}/{envelope.attempt}".encode(),
            )  # fmt: skip
        if last:
            self._take(worker)
            self._go(worker)
        else:
            self._then(worker, delivery, plan.after, self._free, plan)

    def _free(self, delivery: Delivery, worker: Worker, plan: Plan) -> None:
        self._leave(delivery, worker)
        self._send(worker.name, Freed(delivery.envelope.rid, delivery.envelope.attempt, worker.name))
        self._take(worker)
        self._go(worker)

    def _leave(self, delivery: Delivery, worker: Worker) -> None:
        del worker.running[delivery.envelope.rid]

    def _go(self, worker: Worker) -> None:
        if worker.leaving and not worker.running:
            self.lose(worker, STOPPED)

    # ---- back

    def _outcome(self, envelope: Envelope, worker: Worker, **said: object) -> None:
        self.outcomes_sent += 1
        outcome = Outcome(
            rid=envelope.rid, attempt=envelope.attempt, worker=worker.name, ended_at=self.world.clock(), **said
        )  # type: ignore[arg-type]
        self._send(worker.name, outcome)

    def _send(self, name: str, report: Report) -> None:
        self._reports.append((name, report))
        if not self._armed and type(report) is not Begun:
            self._armed = True
            self.world.after(self._soon(), self._woken, web=True)

    def _soon(self) -> float:
        return self.random.uniform(0.0, 0.001)

    def _emit(self, kind: Kind, envelope: Envelope, worker: Worker, outcome: str = "") -> None:
        for see in self._events.of(kind):
            see(
                Event(
                    t=self.world.clock(), kind=kind, rid=envelope.rid, endpoint=envelope.endpoint, outcome=outcome,
                    attempt=envelope.attempt, deadline=envelope.deadline, worker=worker.name,
                )
            )  # fmt: skip
