from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from offloop.core.crew import AHEAD, ANYONE, FAILED_STARTS, PATIENCE, STRANDED, STUCK, Crew
from offloop.core.durations import OVERHEAD, UNKNOWN

PICK = st.integers(0, 1000)
GRACE = 5.0
ENDPOINTS = {"quick": AHEAD // 4, "medium": AHEAD // 2, "slow": 10 * AHEAD, "new": UNKNOWN}
"""Microseconds that one request of each is expected to take."""


@dataclass
class Held:
    """One request in the model: who has it, whether it has begun, whether it was asked back, whether anyone waits."""

    rid: str
    worker: str
    deadline: float
    at: float
    expected: int
    begun: bool = False
    asked: bool = False
    abandoned: bool = False


@dataclass
class Loop:
    name: str
    loops: int
    wedged: bool = False
    replaced: bool = False
    retired: bool = False
    stuck: bool = False

    @property
    def usable(self) -> bool:
        return not (self.wedged or self.retired)


@dataclass
class Model:
    """A list of workers and one list of what is held, in the order in which it was handed out or began."""

    shared: bool
    spare: int | None
    ahead: int
    workers: list[Loop] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    vacant_since: float | None = None
    failed_starts: int = 0

    def called(self, name: str) -> Loop:
        return next(worker for worker in self.workers if worker.name == name)

    def of(self, name: str, *, begun: bool) -> list[Held]:
        return [held for held in self.held if held.worker == name and held.begun == begun]

    def all_of(self, name: str) -> list[Held]:
        return [held for held in self.held if held.worker == name]

    def overdue(self, name: str) -> list[Held]:
        return [held for held in self.of(name, begun=True) if held.abandoned]

    def usable(self) -> int:
        return sum(worker.usable for worker in self.workers)

    def lost_one(self, usable_before: int, now: float) -> None:
        if usable_before and not self.usable() and not self.shared:
            self.vacant_since = now

    def room(self, endpoint: str) -> dict[str, float]:
        """By worker that may have the next request, how busy it is."""
        free = {}
        for worker in self.workers:
            holds = self.all_of(worker.name)
            short = sum(held.expected for held in holds) + ENDPOINTS[endpoint] <= AHEAD * worker.loops
            surprised = worker.stuck or self.overdue(worker.name)
            room = worker.loops + (self.ahead if short and not surprised else 0)
            if worker.usable and len(holds) < room:
                free[worker.name] = len(holds) / worker.loops
        return free

    def behind(self) -> dict[str, float]:
        """Of what waits for a loop of its own worker and was not asked back, when it is to be."""
        free = any(worker.usable and len(self.all_of(worker.name)) < worker.loops for worker in self.workers)
        found = []
        for worker in self.workers:
            begins = max(0, worker.loops - len(self.of(worker.name, begun=True)))
            found += self.of(worker.name, begun=False)[begins:]
        return {held.rid: held.at + (STRANDED if free else STUCK) for held in found if not held.asked}


class Crews(RuleBasedStateMachine):
    """A crew beside the model of one."""

    @initialize(shared=st.booleans(), spare=st.sampled_from([None, 0, 1]), ahead=st.sampled_from([0, 1, 2, 16]))
    def build(self, shared: bool, spare: int | None, ahead: int) -> None:
        ahead = 0 if shared else ahead
        self.model = Model(shared, spare, ahead)
        self.crew = Crew(shared=shared, kill_grace=GRACE, spare=spare, read_ahead=ahead)
        for name, micros in ENDPOINTS.items():
            if micros != UNKNOWN:
                self.crew.took(name, (micros - OVERHEAD + 0.5) / 1e6)
        self.now = 0.0
        self.made = 0

    # ---- who is there

    @rule(loops=st.integers(1, 3), pick=PICK, replaces=st.booleans())
    def up(self, loops: int, pick: int, replaces: bool) -> None:
        self.made += 1
        model = self.model
        before = model.workers[pick % len(model.workers)] if replaces and model.workers else None
        model.workers.append(Loop(f"w{self.made}", loops))
        model.failed_starts = 0
        if before is not None:
            before.retired = True
        self.crew.up(f"w{self.made}", loops, before.name if before else "")

    @rule()
    def up_in_the_place_of_one_that_has_gone(self) -> None:
        self.made += 1
        self.model.workers.append(Loop(f"w{self.made}", 1))
        self.model.failed_starts = 0
        self.crew.up(f"w{self.made}", 1, "nobody")

    @rule()
    def fail_to_start(self) -> None:
        self.model.failed_starts += 1
        self.crew.failed()

    @precondition(lambda self: self.model.workers)
    @rule(pick=PICK)
    def gone(self, pick: int) -> None:
        model = self.model
        before = model.usable()
        worker = model.workers.pop(pick % len(model.workers))
        running, buffered = self.crew.gone(worker.name, self.now)
        assert running == [held.rid for held in model.of(worker.name, begun=True)]
        assert buffered == [held.rid for held in model.of(worker.name, begun=False)]
        model.held = [held for held in model.held if held.worker != worker.name]
        model.lost_one(before, self.now)

    @precondition(lambda self: self.model.workers)
    @rule()
    def all_gone(self) -> None:
        while self.model.workers:
            self.gone(0)

    @rule()
    def gone_before(self) -> None:
        assert self.crew.gone("nobody", self.now) == ([], [])

    # ---- who holds what

    @rule(wait=st.integers(0, 10), pick=PICK, endpoint=st.sampled_from(sorted(ENDPOINTS)), count=st.integers(1, 4))
    def hand(self, wait: int, pick: int, endpoint: str, count: int) -> None:
        """The next requests: to a buffer, or, where all loops share one, begun by whoever takes them."""
        for _ in range(count):
            self.hand_one(self.now + wait, pick, endpoint)

    def hand_one(self, deadline: float, pick: int, endpoint: str) -> None:
        self.made += 1
        model, rid = self.model, f"r{self.made}"
        name = self.crew.place(endpoint)
        if model.shared:
            assert name == ANYONE
            if model.workers:
                taker = model.workers[pick % len(model.workers)].name
                self.crew.begun(rid, taker)
                model.held.append(Held(rid, taker, deadline, self.now, 0, begun=True))
            return
        load = model.room(endpoint)
        if name is None:
            assert not load
            return
        assert name == min(load, key=lambda name: load[name]), "the first of those that are least busy"
        self.crew.hand(rid, name, endpoint, self.now)
        model.held.append(Held(rid, name, deadline, self.now, ENDPOINTS[endpoint]))

    def pick(self, pick: int) -> Held | None:
        held = self.model.held
        return held[pick % len(held)] if held else None

    @rule(pick=PICK)
    def begin(self, pick: int) -> None:
        held = self.pick(pick)
        if held is not None and not held.begun:
            held.begun = True
            self.model.held.remove(held)
            self.model.held.append(held)  # after those that its worker has begun before
            self.crew.begun(held.rid, held.worker)

    @rule()
    def begin_at_a_worker_that_has_gone(self) -> None:
        self.crew.begun("r0", "nobody")

    @rule(pick=PICK)
    def abandon(self, pick: int) -> None:
        held = self.pick(pick)
        if held is not None:
            held.abandoned = True
            self.crew.abandon(held.rid, held.deadline)

    @rule(pick=PICK)
    def free_by_another(self, pick: int) -> None:
        held = self.pick(pick)
        if held is not None:
            self.crew.freed(held.rid, "nobody")

    @rule(pick=PICK, named=st.booleans())
    def free(self, pick: int, named: bool) -> None:
        held = self.pick(pick)
        if held is None:
            self.crew.freed("r0")
            return
        model = self.model
        model.held.remove(held)
        self.crew.freed(held.rid, held.worker if named else "")
        worker = model.called(held.worker)
        if named:
            worker.stuck = False
        if worker.wedged and not worker.replaced and not model.overdue(worker.name):
            worker.wedged = False

    # ---- what time brings

    @rule(wait=st.sampled_from([0.0, STRANDED / 2, STRANDED, STUCK - STRANDED, STUCK, PATIENCE - STRANDED]))
    def wait(self, wait: float) -> None:
        self.now += wait

    @rule()
    def take_back(self) -> None:
        expected = {rid for rid, due in self.model.behind().items() if due <= self.now}
        assert sorted(self.crew.stranded(self.now)) == sorted(expected)
        for held in (held for held in self.model.held if held.rid in expected):
            held.asked = True
            self.model.called(held.worker).stuck = True
        assert self.crew.stranded(self.now) == [], "each is asked back once"

    @rule(pick=PICK)
    def ask_back(self, pick: int) -> None:
        held = self.pick(pick)
        if held is None:
            self.crew.asked("r0")
        else:
            held.asked = held.asked or not held.begun
            self.crew.asked(held.rid)

    @rule(wait=st.integers(0, 8))
    def look(self, wait: int) -> None:
        self.now += wait
        model = self.model
        before = model.usable()
        expected = [
            worker
            for worker in model.workers
            if not worker.wedged and any(held.deadline + GRACE <= self.now for held in model.overdue(worker.name))
        ]
        assert sorted(self.crew.due(self.now)) == sorted(worker.name for worker in expected)
        for worker in expected:
            worker.wedged = True
        model.lost_one(before, self.now)

    @precondition(lambda self: self.model.workers)
    @rule(pick=PICK)
    def hang(self, pick: int) -> None:
        """What one worker holds begins, loses its callers, and does not end."""
        model = self.model
        name = model.workers[pick % len(model.workers)].name
        for held in model.all_of(name):
            self.begin(model.held.index(held))
            self.abandon(model.held.index(held))
        self.look(20)

    @rule()
    def replace(self) -> None:
        model = self.model
        room = len(model.workers) if model.spare is None else model.spare
        room -= sum(1 for worker in model.workers if worker.replaced)
        chosen = [worker for worker in model.workers if worker.wedged and not worker.replaced]
        if model.spare is not None:
            chosen = chosen[: max(room, 0)]
        assert self.crew.replaceable() == [worker.name for worker in chosen]
        for worker in chosen:
            worker.replaced = True

    # ---- what is always so

    @invariant()
    def agrees(self) -> None:
        model = self.model
        assert self.crew.usable == model.usable()
        assert len(self.crew) == len(model.workers)
        assert "nobody" not in self.crew
        counts = {"idle": 0, "busy": 0, "overdue": 0, "wedged": 0}
        for worker in model.workers:
            assert worker.name in self.crew
            running = model.of(worker.name, begun=True)
            overdue = model.overdue(worker.name)
            state = "wedged" if worker.wedged else "overdue" if overdue else "busy" if running else "idle"
            counts[state] += state != "idle" or not worker.retired
        assert self.crew.states() == counts
        ahead = sum(max(0, len(model.all_of(worker.name)) - worker.loops) for worker in model.workers)
        assert self.crew.reads_ahead == (ahead > 0)

    @invariant()
    def says_whether_work_may_be_queued(self) -> None:
        model = self.model
        for later in (0.0, PATIENCE - STRANDED, PATIENCE, 2 * PATIENCE):
            now = self.now + later
            lately = model.vacant_since is not None and now - model.vacant_since < PATIENCE
            hope = lately and model.failed_starts < FAILED_STARTS
            assert self.crew.available(now) == (model.usable() > 0 or hope)

    @invariant()
    def looks_again_in_time(self) -> None:
        model = self.model
        watched = [
            held.deadline + GRACE
            for worker in model.workers
            if not worker.wedged
            for held in model.overdue(worker.name)
        ]
        lying = list(model.behind().values())
        when = self.crew.next_at()
        if watched or lying:
            assert when is not None
            assert when <= min(watched + lying)
        abandoned = {held.deadline + GRACE for held in model.held if held.abandoned}
        assert when is None or when in abandoned | set(lying)


TestCrews = Crews.TestCase
TestCrews.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
