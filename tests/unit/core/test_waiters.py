from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from offloop.core.policy import Policy
from offloop.core.waiters import SLACK, Waiter, Waiters

TIMES = st.floats(0, 100).map(lambda seconds: round(seconds, 1))  # few enough for ties


def waiter(rid: str = "r1", endpoint: str = "read", deadline: float = 10.0) -> Waiter:
    return Waiter(rid, Policy(name=endpoint), promise=None, admitted_at=0.0, deadline=deadline, request_id="", size=0)


class Registry(RuleBasedStateMachine):
    """The model is a list of waiters, each with the instant at which it is to be named."""

    waiters = Bundle("waiters")

    def __init__(self) -> None:
        super().__init__()
        self.registry = Waiters()
        self.model: list[tuple[Waiter, float]] = []
        self.made = 0

    @rule(target=waiters, endpoint=st.sampled_from("abc"), deadline=TIMES)
    def add(self, endpoint: str, deadline: float) -> Waiter:
        self.made += 1
        added = waiter(f"r{self.made}", endpoint, deadline)
        self.registry.add(added)
        self.model.append((added, deadline))
        return added

    def end(self, gone: Waiter) -> None:
        held = any(each is gone for each, _ in self.model)
        assert self.registry.remove(gone) == held
        self.model = [(each, when) for each, when in self.model if each is not gone]

    def put_off(self, later: Waiter, until: float) -> None:
        deadline = later.deadline
        self.registry.postpone(later, until)
        assert later.deadline == deadline
        self.model = [(each, until if each is later else when) for each, when in self.model]

    @rule(gone=waiters)
    def remove(self, gone: Waiter) -> None:
        self.end(gone)

    @rule(deadline=TIMES)
    def come_and_go_many(self, deadline: float) -> None:
        for _ in range(SLACK + 1):
            self.end(self.add("b", deadline))

    @rule(later=waiters, until=TIMES)
    def postpone(self, later: Waiter, until: float) -> None:
        if any(each is later for each, _ in self.model):
            self.put_off(later, until)

    @rule(now=TIMES, ends=st.lists(st.booleans(), max_size=8))
    def name_the_due(self, now: float, ends: list[bool]) -> None:
        """Each that is named ends, and the youngest with it; or it is postponed."""
        before = -1.0
        for due in self.registry.due(now):
            when = next(when for each, when in self.model if each is due)
            assert before <= when == due.due_at <= now
            before = when
            if ends and not ends.pop():
                self.put_off(due, now + 1)
            else:
                youngest = self.model[-1][0]
                self.end(due)
                self.registry.remove(youngest)
                self.model = [(each, when) for each, when in self.model if each is not youngest]
        assert all(when > now for _, when in self.model)

    @invariant()
    def agrees(self) -> None:
        held = [each for each, _ in self.model]
        assert list(self.registry) == held
        assert len(self.registry) == len(held)
        for endpoint in "abcd":
            assert self.registry.count(endpoint) == sum(1 for each in held if each.endpoint == endpoint)
        assert self.registry.next_at() == min((when for _, when in self.model), default=None)
        assert all(self.registry.get(each.rid) is each for each in held)


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_entries_of_ended_waiters_do_not_pile_up_under_a_long_deadline() -> None:
    registry = Waiters()
    for number in range(1000):
        gone = waiter(f"r{number}", deadline=900.0)
        registry.add(gone)
        registry.remove(gone)
    assert len(registry._dues) <= SLACK
    assert len(registry) == 0


def test_a_waiter_is_not_found_after_its_end_and_not_taken_out_twice() -> None:
    registry, gone = Waiters(), waiter()
    registry.add(gone)
    assert registry.remove(gone)
    assert not registry.remove(gone)
    assert registry.get("r1") is None
    assert registry.count("read") == 0
