"""Time that moves only when a test moves it."""

import doctest

import pytest

from offloop.testing import ManualClock, ManualTimers, clock


def test_a_clock_stands_still_until_it_is_moved() -> None:
    now = ManualClock(5.0)
    assert (now(), now()) == (5.0, 5.0)
    now.advance(0.5)
    assert now() == 5.5
    now.move_to(7.0)
    assert now() == 7.0


def test_a_clock_never_goes_back() -> None:
    now = ManualClock(5.0)
    with pytest.raises(ValueError, match="cannot be moved back"):
        now.advance(-1.0)
    now.move_to(4.0)
    assert now() == 5.0


def test_timers_fire_at_their_instants_in_their_order() -> None:
    now = ManualClock()
    timers = ManualTimers(now)
    fired: list[tuple[str, float]] = []
    for name, when in (("c", 3.0), ("a", 1.0), ("b", 1.0), ("d", 9.0)):
        timers.call_at(when, lambda name=name: fired.append((name, now())))  # type: ignore[misc]
    timers.advance(3.0)
    assert fired == [("a", 1.0), ("b", 1.0), ("c", 3.0)]
    assert (now(), timers.next_at) == (3.0, 9.0)


def test_a_timer_that_a_timer_sets_fires_in_the_same_advance_if_it_is_due() -> None:
    now = ManualClock()
    timers = ManualTimers(now)
    fired: list[float] = []

    def again() -> None:
        fired.append(now())
        timers.call_at(now() + 1.0, again)

    timers.call_at(1.0, again)
    timers.advance(3.5)
    assert fired == [1.0, 2.0, 3.0]
    assert (now(), timers.next_at) == (3.5, 4.0)


def test_a_cancelled_timer_does_not_fire() -> None:
    now = ManualClock()
    timers = ManualTimers(now)
    first = timers.call_at(1.0, lambda: second.cancel())  # noqa: PLW0108  (there is no second yet)
    second = timers.call_at(2.0, lambda: pytest.fail("it was cancelled"))
    timers.advance(5.0)
    assert not first.pending
    assert not second.pending
    assert timers.next_at is None
    first.fire()
    assert now() == 5.0


def test_what_is_due_already_fires_without_moving_the_clock() -> None:
    now = ManualClock(10.0)
    timers = ManualTimers(now)
    fired: list[float] = []
    timers.call_at(4.0, lambda: fired.append(now()))
    timers.advance()
    assert fired == [10.0]


def test_the_examples_of_the_docstrings_are_true() -> None:
    assert doctest.testmod(clock) == doctest.TestResults(0, 8)
