"""The worker side of a history: workers, and what they do with a request.

Owns the fakes of `WorkSink` and of the part of a workforce that the gateway calls. It says what a `SyncRunner` would
say, in the same order, and keeps accounts of its own; it judges nothing but what it is handed.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from random import Random

from offloop.core.respawn import Respawn
from offloop.events import STOPPED, Event, Events, Kind
from offloop.messages import (
    FRAME,
    Begun,
    Chunk,
    Envelope,
    Freed,
    Outcome,
    Progressed,
    Refused,
    Report,
    Withdrawn,
    WorkerGone,
    WorkerUp,
)
from tests.simulation.account import Account
from tests.simulation.parts import Delivery, Plan, Worker
from tests.simulation.streams import Streams
from tests.simulation.wire import Wire
from tests.simulation.world import World

UNSENT = 1e-4
"""Seconds for which what was handed out has not left this process."""
SUSPENDED = 1.5
"""Seconds after which a worker that was stopped is killed."""
RECYCLED = "recycled"


class Plant:
    """All workers of one history.

    Args:
        shared: one buffer that all loops take from (threads); else each worker has its own (processes).
        withdrawals: how a withdrawal is answered where work is not shared: `now`, or `late` what cannot be known now.
        table: whether beginnings are seen in shared memory when the web side looks, or sent as reports.
        limit: a worker has a successor after about so many requests; 0: never.
        fails: the share of starts that fail, as long as there are some.
        slow_start: seconds that a worker takes to come up, drawn from these.
        tells_late: whether a worker reports what it found to be late, or leaves that to the web side.
        ghosts: the share of requests lost with their worker whose reply comes all the same, much later.
        refuses: the share of envelopes that the transport cannot take.
        streams: the account of what is on its way.
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
        table: bool,
        limit: int,
        fails: float,
        slow_start: tuple[float, ...],
        tells_late: bool,
        ghosts: float,
        refuses: float,
        streams: Streams,
    ) -> None:
        self.world = world
        self.random = random
        self.shared = shared
        self.workers: dict[str, Worker] = {}
        self.wire = Wire(world, random, self._applied, shared=shared, table=table)
        self.account: Account | None = None
        self.outage_until = 0.0
        self.outcomes_sent = 0
        self.waited = 0
        """How often a loop waited for room."""
        self.streams = streams
        self.firsts: dict[str, None] = {}
        """Every rid that was ever handed out, in the order in which it was the first time."""
        self.taking_back = False
        """Whether what is withdrawn now is so because it lies behind a busy loop for too long."""
        self._events = events
        self._plan = plan
        self._loops = loops
        self._room = loops + read_ahead
        self._withdrawals = withdrawals
        self._limit = limit
        self._fails = fails
        self._failures_left = 8
        self._slow_start = slow_start
        self._tells_late = tells_late
        self._ghosts = ghosts
        self._refuses = refuses
        self._refused: set[str] = set()
        self._buffer: deque[Delivery] = deque()
        self._deliveries: dict[str, Delivery] = {}
        self._made = 0

    # ---- on the event loop: WorkSink

    def put(self, envelope: Envelope, worker: str | None) -> None:
        if self.wire.closed:
            return
        assert (worker is None) == self.shared, "work was handed to the wrong kind of buffer"
        assert not self.wire.reading, "work was handed out before all was read that had come"
        if self.account is not None and worker is not None:
            self.account.handed(envelope, worker, self.world.now)
        self.firsts[envelope.rid] = None
        if self.random.random() < self._refuses and (worker is None or self.workers[worker].alive):
            self._refused.add(envelope.rid)
            self.wire.send(worker or "", Refused(envelope.rid, "backend-unavailable"))
            return
        if worker is None:
            self._deliveries[envelope.rid] = delivery = Delivery(envelope, None, self.world.now)
            self._buffer.append(delivery)
            self.world.after(self._soon(), self._take_shared)
            return
        where = self.workers[worker]
        assert not where.condemned, "work was handed to a worker that is being replaced"
        assert not where.finishing, "work was handed to a worker that has a successor"
        where.handed += 1
        if where.handed == where.limit:
            self._come(where.respawn, 0.0, where)
        self._deliveries[envelope.rid] = delivery = Delivery(envelope, where, self.world.now)
        if where.alive:
            where.buffer.append(delivery)
            assert len(where.buffer) + len(where.running) <= self._room, (
                f"{worker} was handed more than it has room for"
            )
            self.world.after(self._soon(), lambda: self._take(where))

    def withdraw(self, rid: str) -> bool | None:
        answer = self._withdraw(rid)
        if self.account is not None:
            self.account.asked_back(rid, answer, self.world.now, stranded=self.taking_back)
        return answer

    def _withdraw(self, rid: str) -> bool | None:
        at_once = self._withdrawals == "now" or self.shared
        if rid in self._refused:
            if not at_once:
                return None  # what it reported is the answer
            self._refused.discard(rid)
            self.wire.retract(rid)
            return True
        delivery = self._deliveries[rid]
        if at_once:
            return self._take_back(delivery)
        where = delivery.where
        assert where is not None
        if delivery.begun:
            return False
        if where.alive and delivery.begun is None and self.world.now - delivery.put_at < UNSENT:
            return self._take_back(delivery)
        if not delivery.asked:
            delivery.asked = True
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
            self._let_on(delivery)

    def grant(self, rid: str, room: int) -> None:
        self.streams.granted(rid, room)
        if (delivery := self._deliveries.get(rid)) is not None:
            delivery.room += room
            self._let_on(delivery)

    def _let_on(self, delivery: Delivery) -> None:
        """Whoever waits for room goes on in its own time: there is some now, or nobody waits any more."""
        goes_on, delivery.waits = delivery.waits, None
        if goes_on is not None:
            self.world.after(self._soon(), goes_on)

    def cut(self) -> None: ...

    def settle(self) -> None:
        self.wire.settle()

    # ---- on the event loop: the workforce

    def replace(self, worker: str) -> None:
        """A wedged thread is left to itself and ends with its node; a wedged process is killed."""
        assert not self.wire.closed, "a worker was replaced after the stop"
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

    def start(self, respawn: Respawn | None = None, before: Worker | None = None) -> None:
        """One more worker, in the place of another or in a new one."""
        self._made += 1
        name = f"w{self._made}"
        respawn = respawn or Respawn()
        alive = before is not None and before.alive
        if self.world.now < self.outage_until or (self._failures_left and self.random.random() < self._fails):
            self._failures_left -= 1
            self.wire.send(name, WorkerGone(name, "start-failed"))
            delay = respawn.delay(lived=None, handed=0, random=self.random.random())
            self._come(respawn, delay, before if alive else None)
            return
        limit = round(self._limit * self.random.uniform(0.9, 1.1))
        worker = self.workers[name] = Worker(name, self._loops, respawn, self.world.now, max(1, limit) if limit else 0)
        if alive and before is not None:
            # As one step, as a workforce does it: who is told to end is handed nothing behind that.
            self.world.after(0.0, lambda: self._succeed(worker, before), web=True)
        else:
            self.wire.send(name, WorkerUp(name, worker.loops))
        self.world.after(self._soon(), self._take_shared)

    def _succeed(self, worker: Worker, before: Worker) -> None:
        if worker.alive and not self.wire.closed:  # one that died before it was ready has never been up
            self.wire.settle_all()
            self.wire.apply([WorkerUp(worker.name, worker.loops, before.name)])

    def _applied(self, report: Report) -> None:
        """Who has a successor from now on is told to end behind what it was handed so far."""
        if isinstance(report, WorkerUp) and report.replaces:
            before = self.workers[report.replaces]
            before.finishing = True
            self.world.after(self._soon(), lambda: self._go(before))

    def _come(self, respawn: Respawn, delay: float, before: Worker | None) -> None:
        """Another comes up after a while."""
        if before is not None:
            before.succeeded = True
        took = self.random.choice(self._slow_start)
        self.world.after(delay + took, lambda: self._arrive(respawn, before))

    def _arrive(self, respawn: Respawn, before: Worker | None) -> None:
        if not self.wire.closed:
            self.start(respawn, before)

    # ---- in the workers

    def lose(self, worker: Worker, cause: str) -> None:
        """It dies, with everything that it held. Another comes up after a while, unless one is on its way."""
        if not worker.alive:
            return
        worker.alive = False
        for delivery in worker.running.values():
            if self.random.random() < self._ghosts:
                self.world.after(
                    self.random.uniform(0.001, 0.3), lambda delivery=delivery: self._haunt(delivery, worker)
                )
        self.wire.send(worker.name, WorkerGone(worker.name, cause))
        if cause != STOPPED and not worker.leaving and not worker.succeeded:
            lived = self.world.now - worker.ready_at
            delay = worker.respawn.delay(lived=lived, handed=worker.handed, random=self.random.random())
            self._come(worker.respawn, 0.0 if self.shared else delay, None)

    def _haunt(self, delivery: Delivery, worker: Worker) -> None:
        """What a worker said before its end may come after the news of its end, where a broker stands between."""
        self._emit("finish", delivery.envelope, worker, outcome="ok")
        self._outcome(delivery.envelope, worker, payload=b"a ghost's")

    def freeze(self, worker: Worker, seconds: float) -> None:
        """It answers nothing and begins nothing for so long; what it runs goes on."""
        worker.frozen_until = self.world.now + seconds
        if seconds > SUSPENDED:
            self.world.after(SUSPENDED, lambda: self.lose(worker, "suspended"))
            return
        self.world.after(seconds, lambda: self._heed_control(worker))
        self.world.after(seconds, lambda: self._take(worker))
        self.world.after(seconds, lambda: self._go(worker))

    def _heed_control(self, worker: Worker) -> None:
        if not worker.alive or self.world.now < worker.frozen_until:
            return
        asked, worker.control = worker.control, []
        for delivery in asked:
            self.wire.send(worker.name, Withdrawn(delivery.envelope.rid, begun=not self._take_back(delivery)))
        self._take(worker)
        self._go(worker)

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
        delivery.begun, delivery.begun_at = True, now
        worker.running[envelope.rid] = delivery
        self.wire.send(worker.name, Begun(envelope.rid, envelope.attempt, worker.name, now))
        self._emit("dequeue", envelope, worker)
        self._emit("start", envelope, worker)
        plan = self._plan(envelope)
        self._go_on(delivery, worker, (plan, 1))

    def _go_on(self, delivery: Delivery, worker: Worker, upto: tuple[Plan, int]) -> None:
        """With the next of its stream messages, or its end."""
        plan, number = upto
        if number <= plan.chunks:
            self._then(worker, delivery, plan.seconds / (plan.chunks + 1), self._chunk, upto)
        else:
            self._then(worker, delivery, plan.seconds / (plan.chunks + 1), self._end, plan)

    def _then(
        self, worker: Worker, delivery: Delivery, delay: float, act: Callable[..., None], argument: object
    ) -> None:
        def happen() -> None:
            if worker.alive and worker.running.get(delivery.envelope.rid) is delivery:
                act(delivery, worker, argument)

        self.world.after(delay, happen)

    def _chunk(self, delivery: Delivery, worker: Worker, upto: tuple[Plan, int]) -> None:
        envelope, (plan, number) = delivery.envelope, upto
        if delivery.cancelled or self.world.clock() >= envelope.deadline:
            # As a loop's own wait ends: nothing more is sent, whatever the work would like.
            delivery.waits = None
            self._end(delivery, worker, replace(plan, heeds=True, end="ok" if plan.end == "die" else plan.end))
        elif delivery.room <= 0:
            self.waited += 1
            delivery.waits = lambda: self._then(worker, delivery, 0.0, self._chunk, upto)
            # Its own patience, which ends whatever it is told.
            self.world.at(max(self.world.now, envelope.deadline), lambda: self._let_on(delivery))
        else:
            delivery.room -= plan.size
            if number == plan.chunks // 2 + 1:
                self.wire.send(worker.name, Progressed(envelope.rid, envelope.attempt, number, plan.chunks))
            chunk = Chunk(envelope.rid, envelope.attempt, number, _payload(plan.size - FRAME))
            self.streams.sent(chunk)
            self.wire.send(worker.name, chunk)
            self._go_on(delivery, worker, (plan, number + 1))

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
        self.wire.send(worker.name, Freed(delivery.envelope.rid, delivery.envelope.attempt, worker.name))
        self._take(worker)
        self._go(worker)

    def _leave(self, delivery: Delivery, worker: Worker) -> None:
        del worker.running[delivery.envelope.rid]

    def _go(self, worker: Worker) -> None:
        if worker.running:
            return
        if worker.leaving:
            self.lose(worker, STOPPED)
        elif worker.finishing and not worker.buffer and self.world.now >= worker.frozen_until:
            self.lose(worker, RECYCLED)

    # ---- back

    def _outcome(self, envelope: Envelope, worker: Worker, **said: object) -> None:
        self.outcomes_sent += 1
        outcome = Outcome(
            rid=envelope.rid, attempt=envelope.attempt, worker=worker.name, ended_at=self.world.clock(),
            begun_at=self._deliveries[envelope.rid].begun_at, **said,
        )  # type: ignore[arg-type]  # fmt: skip
        self.wire.send(worker.name, outcome)

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


@cache
def _payload(size: int) -> bytes:
    """The same object each time: what streams carry is of no account, and may be large."""
    return bytes(size)
