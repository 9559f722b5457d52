from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from offloop.core.lifecycle import ADMITS, ENDING, READY, Lifecycle, Move, State

WAY = ["start", "leave", "refuse", "empty", "stop"]
"""The one way through, and what is so after so many steps of it."""
STATES = [State.NEW, State.SERVING, State.LEAVING, State.DRAINING, State.DRAINED, State.STOPPED]


class Life(RuleBasedStateMachine):
    """The model is how many steps of the one way have been made."""

    def __init__(self) -> None:
        super().__init__()
        self.lifecycle = Lifecycle()
        self.steps = 0

    @rule(move=st.sampled_from(Move))
    def move(self, move: Move) -> None:
        failed_start = self.steps == 0 and move == "stop"
        expected = failed_start or (self.steps < len(WAY) and WAY[self.steps] == move)
        assert self.lifecycle.move(move) == expected
        if expected:
            self.steps = len(WAY) if failed_start else self.steps + 1

    @invariant()
    def agrees(self) -> None:
        state = self.lifecycle.state
        assert state is STATES[self.steps]
        assert (state in READY) == (self.steps == 1)
        assert (state in ADMITS) == (self.steps in (1, 2))
        assert (state in ENDING) == (self.steps >= 2)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


def test_there_is_no_way_back() -> None:
    lifecycle = Lifecycle()
    assert all(lifecycle.move(Move(move)) for move in WAY)
    assert not any(lifecycle.move(move) for move in Move)


def test_a_failed_start_can_be_stopped() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.move(Move.STOP)
    assert lifecycle.state is State.STOPPED
