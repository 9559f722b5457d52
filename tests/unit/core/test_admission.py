from math import ceil

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from offloop import errors
from offloop.core.admission import Admission, Pace
from offloop.core.backlog import Backlog
from offloop.core.crew import PATIENCE, Crew
from offloop.core.lifecycle import Lifecycle, Move
from offloop.core.policy import Policy
from offloop.core.waiters import Waiter, Waiters

LIMIT, BYTES = 4, 100
POLICIES = (Policy(name="a", max_in_flight=2, max_body=60), Policy(name="b", max_in_flight=9, max_body=200))


class Judge(RuleBasedStateMachine):
    """The model is a list of requests with their size and whether they have begun, and how far the life has come."""

    def __init__(self) -> None:
        super().__init__()
        self.lifecycle, self.waiters, self.backlog = Lifecycle(), Waiters(), Backlog()
        self.crew = Crew(shared=True, kill_grace=0.0)
        self.admission = Admission(
            self.lifecycle, self.waiters, self.backlog, self.crew, queue_limit=LIMIT, queue_bytes=BYTES, now=0.0
        )
        self.life = "new"
        self.loops = 0
        self.model: list[tuple[str, str, int]] = []
        self.begun: set[str] = set()
        self.live: dict[str, Waiter] = {}
        self.made = 0

    @rule(to=st.sampled_from(["start", "start", "leave", "refuse"]))
    def move(self, to: str) -> None:
        ways = {("new", "start"): "serving", ("serving", "leave"): "leaving", ("leaving", "refuse"): "draining"}
        self.lifecycle.move(Move(to))
        self.life = ways.get((self.life, to), self.life)

    @rule()
    def loop_up(self) -> None:
        self.loops += 1
        self.crew.up(f"w{self.loops}", 1)

    @rule()
    def loop_gone(self) -> None:
        if self.loops:
            self.crew.gone(f"w{self.loops}", 0.0)
            self.loops -= 1

    @rule(
        policy=st.sampled_from(POLICIES),
        size=st.just(0) | st.integers(0, 250),
        fits=st.sampled_from([True, True, False]),
        crowded=st.sampled_from([False, False, True]),
    )
    def arrive(self, policy: Policy, size: int, fits: bool, crowded: bool) -> None:
        queued = [size for rid, _, size in self.model if rid not in self.begun]
        of_this = [name for _, name, _ in self.model if name == policy.name]
        rows = [
            (self.life == "draining", errors.Draining),
            (self.life == "new" or not self.loops, errors.BackendUnavailable),
            (not fits, errors.UnsupportedMediaType),
            (size > policy.max_body, errors.PayloadTooLarge),
            (crowded or len(of_this) >= policy.max_in_flight, errors.EndpointBusy),
            (len(queued) >= LIMIT or sum(queued) + size > BYTES, errors.QueueFull),
        ]
        refusal = next((error for applies, error in rows if applies), None)
        assert self.admission.judge(policy, size, fits, 0.0, crowded) is refusal
        full = len(of_this) >= policy.max_in_flight
        whatever = (*rows[:2], (full, errors.EndpointBusy))
        assert self.admission.shut(policy, 0.0) is next((error for applies, error in whatever if applies), None)
        if refusal is None:
            self.made += 1
            rid = f"r{self.made}"
            self.model.append((rid, policy.name, size))
            self.live[rid] = Waiter(rid, policy, None, 0.0, 1.0, "", size)
            self.waiters.add(self.live[rid])
            self.backlog.reserve(rid, size)

    @rule(policy=st.sampled_from(POLICIES), size=st.integers(0, 80), more=st.integers(1, 200))
    def outgrow(self, policy: Policy, size: int, more: int) -> None:
        queued = sum(size for rid, _, size in self.model if rid not in self.begun)
        expected = (
            errors.PayloadTooLarge
            if size + more > policy.max_body
            else errors.QueueFull
            if queued + more > BYTES
            else None
        )
        assert self.admission.outgrown(policy, size, size + more) is expected

    @rule()
    def begin(self) -> None:
        for rid, _, _ in self.model:
            if rid not in self.begun:
                self.begun.add(rid)
                self.backlog.leave(rid)
                return

    @rule()
    def end(self) -> None:
        if self.model:
            rid, _, _ = self.model.pop(0)
            self.waiters.remove(self.live[rid])
            self.backlog.leave(rid)

    @invariant()
    def tells_when_to_try_again(self) -> None:
        for error in (errors.EndpointBusy, errors.QueueFull, errors.BackendUnavailable, errors.Draining):
            after = self.admission.retry_after(error, POLICIES[0], 1.0)
            assert after is not None
            assert 1 <= after <= 30
        for error in (errors.PayloadTooLarge, errors.UnsupportedMediaType):
            assert self.admission.retry_after(error, POLICIES[0], 1.0) is None


TestJudge = Judge.TestCase
TestJudge.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_the_refusals_stand_in_the_order_of_the_contract() -> None:
    judge = Judge()
    policy = Policy(name="a", max_in_flight=1, max_body=60)

    def refusal() -> type[errors.OffloopError] | None:
        return judge.admission.judge(policy, declared, acceptable, 0.0)

    declared, acceptable = 61, False
    judge.waiters.add(Waiter("r0", policy, None, 0.0, 1.0, "", 0))
    for number in range(LIMIT):
        judge.backlog.reserve(f"r{number}", 0)
    assert refusal() is errors.BackendUnavailable
    judge.lifecycle.move(Move.START)
    assert refusal() is errors.BackendUnavailable
    judge.crew.up("w1", 1)
    assert refusal() is errors.UnsupportedMediaType
    acceptable = True
    assert refusal() is errors.PayloadTooLarge
    declared = 60
    assert refusal() is errors.EndpointBusy
    policy = Policy(name="a", max_in_flight=2, max_body=60)
    assert refusal() is errors.QueueFull
    judge.backlog.leave("r0")
    judge.backlog.resize("r1", BYTES - 59)
    assert refusal() is errors.QueueFull
    judge.backlog.resize("r1", BYTES - 60)
    assert refusal() is None
    judge.lifecycle.move(Move.LEAVE)
    assert refusal() is None
    judge.lifecycle.move(Move.REFUSE)
    assert refusal() is errors.Draining


def test_for_a_while_after_the_last_worker_process_died_work_is_queued() -> None:
    crew = Crew(shared=False, kill_grace=0.0)
    lifecycle, waiters, backlog = Lifecycle(), Waiters(), Backlog()
    admission = Admission(lifecycle, waiters, backlog, crew, queue_limit=1, queue_bytes=BYTES, now=0.0)
    lifecycle.move(Move.START)
    crew.up("w1", 1)
    crew.gone("w1", 10.0)
    assert admission.judge(POLICIES[0], 0, True, 10.0 + PATIENCE - 0.001) is None
    assert admission.judge(POLICIES[0], 0, True, 10.0 + PATIENCE) is errors.BackendUnavailable


class Ended(RuleBasedStateMachine):
    """The model is the list of instants at which requests ended: the pace is told from the last 5 to 10 s of them."""

    def __init__(self) -> None:
        super().__init__()
        self.pace = Pace(0.0)
        self.now = 0.0
        self.ended_at: list[float] = []

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 4.0, 6.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 40))
    def end(self, count: int) -> None:
        for _ in range(count):
            self.pace.ended(self.now)
            self.ended_at.append(self.now)

    @rule(ahead=st.integers(0, 200))
    def ask(self, ahead: int) -> None:
        after = self.pace.retry_after(ahead, self.now)
        assert 1 <= after <= 30
        assert after <= self.pace.retry_after(ahead + 1, self.now)
        if self.now <= 5.0 and self.ended_at and self.now > 0:
            assert after == min(max(ceil(ahead / (len(self.ended_at) / self.now)), 1), 30)


TestEnded = Ended.TestCase
TestEnded.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def at_rate(per_second: int, *, since: float, until: float) -> Pace:
    pace = Pace(since)
    for number in range(int((until - since) * per_second)):
        pace.ended(since + number / per_second)
    return pace


@pytest.mark.parametrize(("ahead", "after"), [(0, 1), (5, 1), (100, 10), (10_000, 30)])
def test_retry_after_is_the_work_ahead_by_the_recent_rate(ahead: int, after: int) -> None:
    assert at_rate(10, since=0.0, until=20.0).retry_after(ahead, 20.0) == after


def test_the_rate_is_a_recent_one() -> None:
    pace = at_rate(100, since=0.0, until=10.0)
    for number in range(40):
        pace.ended(10.0 + number / 2)
    assert pace.retry_after(20, 30.0) == 10


def test_after_a_long_silence_the_old_count_says_nothing() -> None:
    pace = at_rate(1000, since=0.0, until=4.0)
    pace.ended(100.0)
    assert pace.retry_after(10, 101.0) == 10


def test_before_anything_has_ended_the_shortest_wait_is_told() -> None:
    assert Pace(0.0).retry_after(50, 0.0) == 1


def test_a_busy_endpoint_counts_its_own_waiters_and_a_full_queue_all_that_is_queued() -> None:
    judge = Judge()
    for _ in range(3):
        judge.admission.pace.ended(0.0)
    for number in range(9):
        judge.backlog.reserve(f"r{number}", 0)
    judge.waiters.add(Waiter("r0", POLICIES[0], None, 0.0, 1.0, "", 0))
    assert judge.admission.retry_after(errors.EndpointBusy, POLICIES[0], 6.0) == 2
    assert judge.admission.retry_after(errors.QueueFull, POLICIES[0], 6.0) == 18
