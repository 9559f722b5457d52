from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from offloop.core.crew import ANYONE, Crew

PICK = st.integers(0, 1000)
GRACE = 5.0


@dataclass
class Held:
    """One request in the model: who has it, whether it has begun, whether anyone waits for it."""

    rid: str
    worker: str
    deadline: float
    begun: bool = False
    abandoned: bool = False


@dataclass
class Loop:
    name: str
    loops: int
    wedged: bool = False
    replaced: bool = False


class Crews(RuleBasedStateMachine):
    """The model is a list of workers and one list of what is held, in the order in which it was handed out or began."""

    @initialize(shared=st.booleans(), spare=st.sampled_from([None, 0, 1]), ahead=st.integers(0, 2))
    def build(self, shared: bool, spare: int | None, ahead: int) -> None:
        self.shared, self.spare, self.ahead = shared, spare, ahead
        self.crew = Crew(shared=shared, kill_grace=GRACE, spare=spare, read_ahead=ahead)
        self.workers: list[Loop] = []
        self.held: list[Held] = []
        self.now = 0.0
        self.made = 0

    def of(self, name: str, *, begun: bool) -> list[Held]:
        return [held for held in self.held if held.worker == name and held.begun == begun]

    def overdue(self, name: str) -> list[Held]:
        return [held for held in self.of(name, begun=True) if held.abandoned]

    @rule(loops=st.integers(1, 3))
    def up(self, loops: int) -> None:
        self.made += 1
        self.workers.append(Loop(f"w{self.made}", loops))
        self.crew.up(f"w{self.made}", loops)

    @precondition(lambda self: self.workers)
    @rule(pick=PICK)
    def gone(self, pick: int) -> None:
        worker = self.workers.pop(pick % len(self.workers))
        running, buffered = self.crew.gone(worker.name)
        assert running == [held.rid for held in self.of(worker.name, begun=True)]
        assert buffered == [held.rid for held in self.of(worker.name, begun=False)]
        self.held = [held for held in self.held if held.worker != worker.name]

    @rule()
    def gone_before(self) -> None:
        assert self.crew.gone("nobody") == ([], [])

    @rule(wait=st.integers(0, 10), pick=PICK)
    def hand(self, wait: int, pick: int) -> None:
        """The next request: to a buffer, or, where all loops share one, begun by whoever takes it."""
        self.made += 1
        rid, deadline = f"r{self.made}", self.now + wait
        name = self.crew.place()
        if self.shared:
            assert name == ANYONE
            self.crew.hand(rid, name)
            if self.workers:
                taker = self.workers[pick % len(self.workers)].name
                self.crew.begun(rid, taker)
                self.held.append(Held(rid, taker, deadline, begun=True))
            return
        load = {
            worker.name: len([held for held in self.held if held.worker == worker.name]) / worker.loops
            for worker in self.workers
            if not worker.wedged
            and len([held for held in self.held if held.worker == worker.name]) < worker.loops + self.ahead
        }
        if name is None:
            assert not load
            return
        assert load[name] == min(load.values())
        self.crew.hand(rid, name)
        self.held.append(Held(rid, name, deadline))

    def pick(self, pick: int) -> Held | None:
        return self.held[pick % len(self.held)] if self.held else None

    @rule(pick=PICK)
    def begin(self, pick: int) -> None:
        held = self.pick(pick)
        if held is not None and not held.begun:
            held.begun = True
            self.held.remove(held)
            self.held.append(held)  # after those that its worker has begun before
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
        self.held.remove(held)
        self.crew.freed(held.rid, held.worker if named else "")
        worker = next(worker for worker in self.workers if worker.name == held.worker)
        if worker.wedged and not worker.replaced and not self.overdue(worker.name):
            worker.wedged = False

    @rule(wait=st.integers(0, 8))
    def look(self, wait: int) -> None:
        self.now += wait
        expected = [
            worker
            for worker in self.workers
            if not worker.wedged and any(held.deadline + GRACE <= self.now for held in self.overdue(worker.name))
        ]
        assert sorted(self.crew.due(self.now)) == sorted(worker.name for worker in expected)
        for worker in expected:
            worker.wedged = True

    @precondition(lambda self: self.workers)
    @rule(pick=PICK)
    def hang(self, pick: int) -> None:
        """What one worker holds begins, loses its callers, and does not end."""
        name = self.workers[pick % len(self.workers)].name
        for held in [held for held in self.held if held.worker == name]:
            self.begin(self.held.index(held))
            self.abandon(self.held.index(held))
        self.look(20)

    @rule()
    def replace(self) -> None:
        room = len(self.workers) if self.spare is None else self.spare
        room -= sum(1 for worker in self.workers if worker.replaced)
        chosen = [worker for worker in self.workers if worker.wedged and not worker.replaced]
        if self.spare is not None:
            chosen = chosen[: max(room, 0)]
        assert self.crew.replaceable() == [worker.name for worker in chosen]
        for worker in chosen:
            worker.replaced = True

    @invariant()
    def agrees(self) -> None:
        assert self.crew.usable == sum(not worker.wedged for worker in self.workers)
        assert len(self.crew) == len(self.workers)
        assert "nobody" not in self.crew
        counts = {"idle": 0, "busy": 0, "overdue": 0, "wedged": 0}
        for worker in self.workers:
            assert worker.name in self.crew
            running = self.of(worker.name, begun=True)
            counts[
                "wedged" if worker.wedged else "overdue" if self.overdue(worker.name) else "busy" if running else "idle"
            ] += 1
        assert self.crew.states() == counts

    @invariant()
    def looks_again_in_time(self) -> None:
        watched = [
            held.deadline + GRACE for worker in self.workers if not worker.wedged for held in self.overdue(worker.name)
        ]
        when = self.crew.next_at()
        if watched:
            assert when is not None
            assert when <= min(watched)
        abandoned = {held.deadline + GRACE for held in self.held if held.abandoned}
        assert when is None or when in abandoned


TestCrews = Crews.TestCase
TestCrews.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def shared(**policy: int) -> Crew:
    return Crew(shared=True, kill_grace=GRACE, **policy)


def test_a_node_that_nobody_waits_for_holds_its_loop_until_it_ends() -> None:
    crew = shared()
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=10.0)
    assert crew.states() == {"idle": 0, "busy": 0, "overdue": 1, "wedged": 0}
    crew.freed("r1")
    assert crew.states() == {"idle": 1, "busy": 0, "overdue": 0, "wedged": 0}
    assert crew.next_at() is None


def test_a_loop_is_wedged_when_its_node_has_outlived_the_deadline_by_the_grace() -> None:
    crew = shared()
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=10.0)
    assert crew.next_at() == 15.0
    assert crew.due(14.9) == []
    assert crew.due(15.0) == ["w1"]
    assert crew.due(16.0) == []
    assert not crew.usable
    assert crew.states() == {"idle": 0, "busy": 0, "overdue": 0, "wedged": 1}
    assert crew.replaceable() == ["w1"]
    assert crew.replaceable() == []


def test_a_beginning_that_is_told_after_the_deadline_is_watched_as_well() -> None:
    crew = shared()
    crew.up("w1", 1)
    crew.abandon("r1", deadline=10.0)
    assert crew.next_at() is None
    crew.begun("r1", "w1")
    assert crew.next_at() == 15.0


def test_the_late_word_of_one_worker_does_not_free_another() -> None:
    crew = shared()
    for name in ("w1", "w2"):
        crew.up(name, 1)
    crew.begun("r1", "w1")
    assert crew.gone("w1") == (["r1"], [])
    crew.begun("r1", "w2")
    crew.freed("r1", by="w1")
    assert crew.states()["busy"] == 1
    crew.freed("r1", by="w2")
    assert crew.states()["busy"] == 0


def test_a_node_that_ended_within_the_grace_wedges_nothing() -> None:
    crew = shared()
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=10.0)
    crew.freed("r1")
    assert crew.due(20.0) == []
    assert crew.usable


def test_only_so_many_fresh_loops_stand_beside_wedged_ones() -> None:
    crew = shared(spare=1)
    for number in "12":
        crew.up(f"w{number}", 1)
        crew.begun(f"r{number}", f"w{number}")
        crew.abandon(f"r{number}", deadline=0.0)
    assert sorted(crew.due(GRACE)) == ["w1", "w2"]
    assert crew.replaceable() == ["w1"]
    crew.gone("w1")
    assert crew.replaceable() == ["w2"]


def test_a_wedged_worker_that_was_not_replaced_may_go_on() -> None:
    crew = shared(spare=0)
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=0.0)
    crew.due(GRACE)
    assert crew.replaceable() == []
    crew.freed("r1")
    assert crew.usable


def test_a_wedged_worker_is_handed_nothing_though_it_has_room() -> None:
    crew = Crew(shared=False, kill_grace=GRACE)
    crew.up("w1", 2)
    crew.hand("r1", "w1")
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=0.0)
    assert crew.place() == "w1"
    assert crew.due(GRACE) == ["w1"]
    assert crew.place() is None


@pytest.mark.parametrize(("ahead", "handed"), [(0, ["w1", "w2", "w2", None]), (1, ["w1", "w2", "w2", "w1"])])
def test_work_goes_to_the_least_busy_worker_that_has_room(ahead: int, handed: list[str | None]) -> None:
    crew = Crew(shared=False, kill_grace=GRACE, read_ahead=ahead)
    crew.up("w1", 1)
    crew.up("w2", 2)
    places = []
    for number in range(4):
        places.append(crew.place())
        if places[-1] is not None:
            crew.hand(f"r{number}", places[-1])
    assert places == handed
