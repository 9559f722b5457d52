"""One random history: what is drawn, how it runs, what must be true all the time, at rest, and of its events.

Owns the draw and the checks. Everything random follows from the seed; a caller's part follows from the seed and its
number alone, so that callers can be left out without changing the others.
"""

from random import Random

from offloop.core.crew import Crew
from offloop.core.drain import Drain
from offloop.core.lifecycle import State
from offloop.core.policy import Policy
from offloop.core.waiters import Phase
from offloop.events import Events
from offloop.ingress.gateway import Gateway
from offloop.messages import FRAME, WINDOW, Envelope
from tests.simulation.account import Account
from tests.simulation.afterwards import MAX_DELIVERIES, Afterwards
from tests.simulation.callers import Caller
from tests.simulation.parts import Plan
from tests.simulation.plant import Plant
from tests.simulation.recorder import Recorder
from tests.simulation.streams import Streams
from tests.simulation.world import FakeTimers, World

ENDS = ("ok", "too-many", "node-failed", "no-reply", "invalid-payload", "die")


class History:
    """A gateway with a core, between callers and a plant that are made up.

    Args:
        seed: everything follows from it.
        without: numbers of callers to leave out.
    """

    def __init__(self, seed: int, without: frozenset[int] = frozenset()) -> None:
        self.seed = seed
        self.draw = draw = Random(seed)
        self.recorder = Recorder()
        self.streams = Streams()
        self.world = world = World()
        world.watch = self._always
        events = Events([self.recorder])
        self.kill_grace = draw.choice((0.0, 0.05, 0.3))
        self.shared = draw.random() < 0.4
        self.rush = not self.shared and draw.random() < 0.5
        """Many requests at once that are short, mostly: what reading ahead is for, and where it goes wrong."""
        self.limit = draw.choice((8, 40, 60) if self.rush else (1, 3, 8, 40))
        self.bytes = draw.choice((800, 3000, 100_000, 100_000))
        self.outage = not (self.shared or self.rush) and draw.random() < 0.1
        self.window = 9.0 if self.outage else draw.choice((0.004, 0.01, 0.03) if self.rush else (0.05, 0.3, 1.5))
        crowd = draw.choice((2, 3, 4) if self.rush else (1, 2, 3, 4))
        self.troubled = draw.random()
        self.slow = draw.choice((0.00005, 0.0002, 0.0005) if self.rush else (0.001, 0.01, 0.1))
        self.surprising = draw.choice((0.02, 0.05, 0.1)) if self.rush else 0.0
        count = draw.randint(20, 120) if self.rush else draw.randint(1, 40)
        policies = [
            Policy(name="plain", timeout=draw.choice((0.05, 0.4)), max_in_flight=draw.choice((3, 20)), max_body=1000),
            Policy(name="again", timeout=0.5, max_in_flight=60 if self.rush else 8, max_body=500, idempotent=True),
            Policy(name="keeps", timeout=draw.choice((0.02, 0.3)), max_in_flight=5, max_body=1000, finishes=True),
            Policy(name="tight", timeout=0.08, max_in_flight=1, max_body=300, idempotent=True, finishes=True),
        ]
        self.plant = Plant(
            world, Random(draw.random()), events, self._plan, shared=self.shared,
            loops=1 if self.shared else draw.choice((1, 1, 3)),
            read_ahead=0 if self.shared else draw.choice((1, 3, 16, 16) if self.rush else (0, 1, 3, 16)),
            withdrawals=draw.choice(("now", "late")),
            table=draw.random() < 0.7,
            limit=0 if self.shared else draw.choice((0, 0, 2, 5)),
            fails=0.0 if self.shared or self.rush else draw.choice((0.0, 0.0, 0.3, 0.8)),
            slow_start=draw.choice(((0.0,), (0.001, 0.02, 0.2), (0.02, 6.0))),
            tells_late=draw.random() < 0.3,
            ghosts=draw.choice((0.0, 0.0, 0.5)),
            refuses=draw.choice((0.0, 0.0, 0.05)),
            streams=self.streams,
        )  # fmt: skip
        self.timers = FakeTimers(world, Random(draw.random()))
        self.drain = Drain(draw.choice((0.0, 0.05, 0.5, 2.0)), draw.choice((0.0, 0.0, 0.1, 1.0)))
        self.crew = Crew(
            shared=self.shared, kill_grace=self.kill_grace, spare=crowd if self.shared else None,
            read_ahead=self.plant._room - self.plant._loops,
        )  # fmt: skip
        self.rids = 0
        self.gateway = Gateway(
            {policy.name: policy for policy in policies}, clock=world.clock, timers=self.timers, rid=self._rid,
            sink=self.plant, crew=self.crew, workforce=self.plant, drain=self.drain, events=events,
            queue_limit=self.limit, queue_bytes=self.bytes, max_deliveries=MAX_DELIVERIES, drained=self._drained,
            answered=self._answered,
        )  # fmt: skip
        self.plant.wire.receive = self.gateway.receive
        self.account: Account | None = None
        if not self.shared:
            self._keep_account()
        self.callers = []
        for number in range(count):
            own = Random(f"{seed}/{number}")
            policy = own.choice([*policies, policies[1]] if self.rush else policies)
            caller = Caller(number, own, policy, world.now + own.uniform(0, self.window), self.window)
            if number not in without:
                self.callers.append(caller)
        self.drained_at: float | None = None
        self.answered = 0
        self._emit = events.emit
        self._crowd = crowd

    def _keep_account(self) -> None:
        plant, gateway = self.plant, self.gateway

        def waits(rid: str, attempt: int) -> bool:
            waiter = gateway.waiters.get(rid)
            return waiter is not None and waiter.attempt == attempt

        timeouts = {name: policy.timeout for name, policy in gateway.policies.items()}
        account = Account(timeouts, plant._room - plant._loops, waits, self.world.excused)
        self.account = plant.account = self.recorder.account = account
        plant.wire.note = lambda report: account.report(report, self.world.now)
        take_back = gateway._take_back

        def taking_back(now: float) -> None:
            plant.taking_back = True
            take_back(now)
            plant.taking_back = False

        gateway._take_back = taking_back  # type: ignore[method-assign]

    def _rid(self) -> str:
        self.rids += 1
        return f"r{self.rids}"

    def _plan(self, envelope: Envelope) -> Plan:
        """Drawn from the caller's label, so that it stays the same whoever else is there."""
        poison = self.troubled > 0.5 and Random(f"{self.seed}/{envelope.request_id}/poison").random() < 0.05
        if poison:
            return Plan(0.001, "die")
        draw = Random(f"{self.seed}/{envelope.request_id}/{envelope.attempt}")
        seconds = draw.expovariate(1 / self.slow)
        if draw.random() < self.surprising:
            seconds += draw.choice((0.01, 0.1, 0.8))
        end = "ok"
        if draw.random() < (0.02 if self.rush else 0.1 + 0.4 * self.troubled):
            end = draw.choice(ENDS)
            if draw.random() < 0.3:
                seconds += max(0.0, envelope.deadline - self.world.now) + self.kill_grace + draw.uniform(-0.05, 1.0)
        goes_on = end == "ok" and (not self.rush or draw.random() < self.surprising)
        after = draw.choice((0.0, 0.0, 0.0, self.slow, 1.0)) if goes_on else 0.0
        return Plan(
            seconds, end, after, chunks=draw.choice((0, 3, 12)) if envelope.stream else 0,
            twice=draw.random() < 0.1, heeds=draw.random() < 0.6,
            size=draw.choice((FRAME, WINDOW // 5, WINDOW // 3, 2 * WINDOW)),
        )  # fmt: skip

    # ---- what happens

    def run(self) -> None:
        world, draw, gateway = self.world, self.draw, self.gateway
        self._emit(world.clock(), "open", limit=self.limit, value=float(MAX_DELIVERIES),
                   mode="thread" if self.shared else "process")  # fmt: skip
        gateway.begin_drain()  # without effect before the start
        for _ in range(self._crowd):
            self.plant.start()
        self.plant.wire.settle_all()
        gateway.start()
        for caller in self.callers:
            caller.plan(world, gateway, self.streams, self._refused)
        self._trouble()
        drains = draw.random() < 0.6
        stops = draw.random() < 0.5
        if drains:
            world.after(draw.uniform(0, self.window * 1.2), gateway.begin_drain, web=True)
            world.after(draw.uniform(0, self.window * 2), gateway.begin_drain, web=True)
            if stops:
                self._stop_after = draw.choice((0.0, 0.01, 0.3))
        world.run()
        if not (drains and stops):
            self._at_rest()
            gateway.begin_drain()
            world.run()
            assert gateway.lifecycle.state is State.DRAINED, "the drain did not end"
            self._stop()
        world.run()
        self._after_all()

    _stop_after: float | None = None

    def _drained(self) -> None:
        assert self.drained_at is None, "it drained twice"
        assert not len(self.gateway.waiters), "it drained with waiters left"
        self.drained_at = self.world.now
        if self._stop_after is not None:
            self.world.after(self._stop_after, self._stop, web=True)

    def _answered(self) -> None:
        assert self.drained_at is not None, "it spoke of answers before the drain had ended"
        self.answered += 1

    def _stop(self) -> None:
        self.plant.wire.settle_all()
        self.plant.wire.closed = True
        self.gateway.stop()
        assert not self.timers.pending, "a timer is left"
        self._emit(self.world.clock(), "close")

    def _trouble(self) -> None:
        world, plant = self.world, self.plant
        own = Random(f"{self.seed}/trouble")
        if self.outage:
            world.after(own.uniform(0.2, 0.6), lambda: self._fall(own.choice((4.0, 6.0))))
        if self.troubled < 0.3:
            return
        for _ in range(own.choice((0, 0, 1, 3))):
            seconds = own.choice((0.005, 0.03, 0.2))
            world.after(own.uniform(0, self.window), lambda seconds=seconds: self._block(seconds), web=True)
        for _ in range(own.choice((0, 1, 4))):
            pick = own.random()
            world.after(own.uniform(0, self.window), lambda pick=pick: self._strike(pick, plant.lose, "killed"))
        for _ in range(own.choice((0, 1, 3))):
            pick = own.random()
            seconds = own.choice((0.01, 0.1, 1.0) if self.shared else (0.01, 0.1, 1.0, 9.0))
            world.after(
                own.uniform(0, self.window),
                lambda pick=pick, seconds=seconds: self._strike(pick, plant.freeze, seconds),
            )

    def _fall(self, seconds: float) -> None:
        """All workers die, and none can be started for a while."""
        self.plant.outage_until = self.world.now + seconds
        for worker in tuple(self.plant.workers.values()):
            self.plant.lose(worker, "killed")

    def _block(self, seconds: float) -> None:
        """The event loop stands still; the probe tells of it, as it does in a real process."""
        began = self.world.now
        self.world.block(seconds)
        self.world.after(seconds, lambda: self._emit(self.world.clock(), "lag", value=self.world.now - began), web=True)

    def _strike(self, pick: float, how, what) -> None:
        alive = [worker for worker in self.plant.workers.values() if worker.alive]
        if alive:
            how(alive[int(pick * len(alive))], what)

    # ---- what must be true

    def _always(self) -> None:
        """After everything that happens on the event loop."""
        gateway, backlog = self.gateway, self.gateway.backlog
        now = self.world.now
        live = list(gateway.waiters)
        for name, policy in gateway.policies.items():
            count = sum(1 for waiter in live if waiter.endpoint == name)
            assert count == gateway.waiters.count(name) <= policy.max_in_flight
        places = backlog.places
        assert backlog.depth == len(places) <= self.limit, "more is queued than may be"
        assert backlog.bytes == sum(places.values()) <= self.bytes, "more bytes are reserved than may be"
        assert not (gateway.ready and self.recorder.draining)
        for waiter in live:
            assert waiter.phase is not Phase.ENDED
            if waiter.phase is Phase.UPLOADING:
                assert waiter.promise is not None, "the upload of a caller that has gone is waited for"
            elif waiter.phase is Phase.QUEUED and waiter.attempt == 1:
                assert places[waiter.rid] == len(waiter.envelope.payload), "it holds bytes that it does not have"
            if waiter.phase is Phase.UPLOADING or (waiter.phase is Phase.QUEUED and waiter.attempt == 1):
                assert waiter.rid in backlog, f"{waiter.rid} has lost its place"
            elif waiter.phase is Phase.BEGUN:
                assert waiter.rid not in backlog, f"{waiter.rid} has begun and keeps its place"
                self.streams.owed(waiter.rid)
            assert now <= self.world.excused(waiter.deadline, 0.05), f"{waiter.rid} outlives its deadline"
        self._handed_out(now)
        self._in_order()
        self._watched(now)
        self._held(now)
        unsent = sum(1 for caller in self.callers if caller.promise.outcome is not None and not caller.closed)
        assert gateway.unsent == unsent
        if gateway.lifecycle.state is State.DRAINED:
            assert not live

    def _handed_out(self, now: float) -> None:
        """Who has room is given work, and nobody more than that."""
        crew, first = self.crew, self.gateway.backlog.first()
        if not self.shared and first is not None:
            assert crew.place(first.endpoint) is None, "work waits, and a worker has room"
        assert crew.usable == sum(1 for worker in crew._workers.values() if not (worker.wedged or worker.retired))
        for worker in crew._workers.values():
            assert worker.held == len(worker.buffered) + len(worker.running) <= max(self.plant._room, 1)
        if self.account is not None:
            self.account.look(now, first.endpoint if first is not None else None)

    def _in_order(self) -> None:
        """Whoever came first stands first, whatever was given back in between and by whom."""
        line = [self.recorder.enqueued[rid] for rid in self.gateway.backlog.line]
        assert line == sorted(line), "the line is out of order"

    def _held(self, now: float) -> None:
        """Who is held by work that nobody waits for is told so, and not held for ever."""
        waiters, deadlines = self.gateway.waiters, self.recorder.deadlines
        for worker in self.plant.workers.values():
            if not worker.alive:
                continue
            for rid, delivery in worker.running.items():
                told = delivery.cancelled or delivery.replied or waiters.get(rid) is not None
                assert told, f"{worker.name} was not told that nobody waits for {rid}"
            for delivery in worker.buffer:
                queued = delivery.begun is not None or delivery.envelope.attempt > 1
                assert queued or delivery.envelope.rid in self.gateway.backlog, "what may yet begin is not counted"
        if self.gateway.lifecycle.state is State.STOPPED:
            return
        for held in self.crew._workers.values():
            for rid in held.running:
                patience = self.world.excused(deadlines[rid] + self.kill_grace, 0.05)
                assert waiters.get(rid) or now <= patience or held.wedged, f"{held.name} is held by {rid} for ever"

    def _refused(self, caller: Caller, size: int, acceptable: bool) -> None:
        """A refusal must be true when it is given, and no earlier row of the contract's table may have applied."""
        gateway, error = self.gateway, caller.error
        assert error is not None
        room = len(gateway.backlog.places) < self.limit and gateway.backlog.bytes + size <= self.bytes
        draining, now = self.recorder.draining, self.world.now
        ends = draining.ended_at if draining is not None else float("inf")
        assert now >= ends - 0.001 or error.reason != "draining"
        rows = {
            "draining": error.reason == "draining" or now > self.world.excused(ends, 0.01),
            "backend-unavailable": self._unavailable(error.reason, now),
            "unsupported-media-type": not acceptable,
            "payload-too-large": size > caller.policy.max_body,
            "endpoint-busy": gateway.waiters.count(caller.policy.name) >= caller.policy.max_in_flight,
            "queue-full": not room,
        }
        assert rows[error.reason], f"{error.reason} is not true"
        if caller.waiter is None:
            assert next(reason for reason, applies in rows.items() if applies) == error.reason
        if error.reason == "queue-full":
            left = [rid for rid in gateway.backlog.places if rid in self.recorder.begun]
            assert not left, f"the queue is full of {left}, which have begun"

    def _unavailable(self, reason: str, now: float) -> bool:
        if self.account is None:
            return not self.crew.usable
        if reason == "backend-unavailable":
            self.account.refused(now)
            return True
        return self.account.available(now) is False

    def _watched(self, now: float) -> None:
        """Whatever will be due has a timer that looks at it in time. What lies with workers is the account's affair."""
        gateway = self.gateway
        pending = self.timers.pending
        assert len(pending) <= 1
        if gateway.lifecycle.state is State.STOPPED:
            assert not pending, "a timer is left after the stop"
            return
        due = [when for when in (gateway.waiters.next_at(), self.drain.next_at(now)) if when]
        for worker in self.crew._workers.values():
            due += [] if worker.wedged else [self.recorder.deadlines[rid] + self.kill_grace for rid in worker.overdue]
        if due:
            assert pending, "nothing looks at what will be due"
            assert pending[0] <= max(min(due), now + 0.0011), "it is looked at too late"

    def _at_rest(self) -> None:
        """Nobody asks, and everything that ran has ended."""
        gateway, crew = self.gateway, self.crew
        assert not len(gateway.waiters)
        assert gateway.backlog.depth == 0, f"places are left: {gateway.backlog.places}"
        assert gateway.backlog.bytes == 0
        assert len(gateway.backlog.line) == 0
        assert not crew._holdings, f"the crew holds {list(crew._holdings)}"
        assert not crew.reads_ahead
        assert all(worker.expected == 0 for worker in crew._workers.values())
        assert not crew._abandoned, f"the crew remembers {list(crew._abandoned)}"
        alive = {worker.name for worker in self.plant.workers.values() if worker.alive}
        assert set(crew._workers) == alive
        staying = sum(1 for worker in crew._workers.values() if not worker.retired)
        assert crew.states() == {"idle": staying, "busy": 0, "overdue": 0, "wedged": 0}
        assert gateway.unsent == 0
        assert not self.timers.pending or gateway.lifecycle.state is State.DRAINED, "a timer without a purpose"

    def _after_all(self) -> None:
        assert self.drained_at is not None
        gateway = self.gateway
        assert gateway.lifecycle.state is State.STOPPED
        assert not self.timers.pending
        assert gateway.unsent == 0
        for caller in self.callers:
            caller.judge()
        order = [self.recorder.enqueued[rid] for rid in self.plant.firsts]
        assert order == sorted(order), "work was not handed out in its order"
        assert self.rids == len(self.callers)
        Afterwards(self.recorder, self.world, self.streams, grace=self.kill_grace).judge()
