"""A broker that stays away is tried less and less often, but never less than once in the longest delay."""

from offloop.transports.backoff import FIRST, LONGEST, Backoff


def test_delays_double_up_to_the_longest_and_each_is_half_of_that_or_more() -> None:
    backoff, due = Backoff(), FIRST
    for _ in range(10):
        assert due / 2 <= backoff.delay() <= due
        due = min(LONGEST, 2 * due)
    assert due == LONGEST


def test_after_a_good_try_the_next_delay_is_the_first_again() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.delay()
    backoff.reset()
    assert backoff.delay() <= FIRST


def test_those_who_fail_together_do_not_try_together() -> None:
    assert len({Backoff().delay() for _ in range(10)}) > 1
