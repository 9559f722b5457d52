from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from offloop.core.drain import ORDER, Drain, Step

SECONDS = st.integers(0, 20).map(float)


class Stop(RuleBasedStateMachine):
    """The model is the steps that were given, and the two instants as numbers."""

    @initialize(timeout=SECONDS, delay=SECONDS)
    def plan(self, timeout: float, delay: float) -> None:
        self.drain = Drain(timeout, delay)
        self.timeout, self.delay = timeout, delay
        self.now = 100.0
        self.began: float | None = None
        self.cuts = 0

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begin(self) -> None:
        if self.began is None:
            self.drain.begin(self.now)
            self.began = self.now

    @rule()
    def look(self) -> None:
        steps = self.drain.due(self.now)
        if self.began is None:
            assert steps == ()
            return
        over = self.now - self.began
        refuses, cuts = over >= self.delay or over >= self.timeout, over >= self.timeout
        assert (Step.REFUSE in steps) == refuses
        assert (Step.CUT in steps) == (cuts and not self.cuts)
        assert list(steps) == sorted(steps, key=[step for step, _ in ORDER].index)
        self.cuts += Step.CUT in steps

    @invariant()
    def looks_again_in_time(self) -> None:
        when = self.drain.next_at(self.now)
        if self.began is None or self.cuts:
            assert when is None
            return
        assert when is not None
        coming = [self.began + self.timeout]
        if self.now < self.began + min(self.delay, self.timeout):
            coming.append(self.began + self.delay)
        assert when == min(coming)


TestStop = Stop.TestCase
TestStop.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


def test_the_delay_is_a_part_of_the_budget() -> None:
    drain = Drain(timeout=2.0, delay=5.0)
    drain.begin(10.0)
    assert (drain.refuse_at, drain.cut_at) == (12.0, 12.0)
    assert drain.due(11.9) == ()
    assert drain.due(12.0) == (Step.REFUSE, Step.CUT)
    assert drain.due(13.0) == (Step.REFUSE,)


def test_nothing_is_due_before_the_beginning() -> None:
    drain = Drain(timeout=0.0)
    assert drain.due(1e9) == ()
    assert drain.next_at(1e9) is None


def test_every_step_is_in_the_order_once_with_its_reason() -> None:
    assert [step for step, _ in ORDER] == list(Step)
    assert all(reason for _, reason in ORDER)
