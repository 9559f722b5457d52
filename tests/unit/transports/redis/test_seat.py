"""A loop's seat: asked for once a turn, given for that turn only; and what counts as work that waits."""

import threading
import time
from collections.abc import Callable

import pytest

from offloop.transports.redis.seat import AGAIN, CROWDED_AFTER, LAIN, SMOOTH, Seat, Waits

SOON = 10.0


class Office:
    """Notes what a seat says."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.left: list[int] = []
        self.stands = threading.Event()
        self.crowded = 0
        self.seat = Seat(self._asks, self.left.append, self._crowded)

    def _crowded(self) -> None:
        self.crowded += 1

    def _asks(self, turn: int) -> None:
        self.asked.append(turn)
        self.stands.set()


@pytest.fixture
def office() -> Office:
    return Office()


def test_it_asks_once_until_it_is_given(office: Office) -> None:
    assert not office.seat.wait(0.0)
    assert not office.seat.wait(0.0)
    assert office.asked == [1]
    office.seat.give(1)
    assert office.seat.taken
    assert office.seat.wait(0.0)
    assert office.asked == [1]


def test_who_waits_is_woken_by_it(office: Office) -> None:
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(office.seat.wait(SOON)))
    waiting.start()
    assert office.stands.wait(SOON)
    office.seat.give(1)
    waiting.join(SOON)
    assert found == [True]


def test_what_was_left_is_not_given_by_what_comes_late(office: Office) -> None:
    office.seat.wait(0.0)
    office.seat.leave()
    office.seat.give(1)
    assert not office.seat.taken
    office.seat.wait(0.0)
    office.seat.give(1)
    assert not office.seat.taken
    office.seat.give(2)
    assert office.seat.taken
    assert office.left == [1]


def test_who_has_not_asked_leaves_nothing(office: Office) -> None:
    office.seat.leave()
    office.seat.give(0)
    assert not office.left
    assert not office.seat.taken


def test_a_stop_wakes_who_waits(office: Office) -> None:
    waiting = threading.Thread(target=office.seat.wait, args=(SOON,))
    waiting.start()
    assert office.stands.wait(SOON)
    office.seat.wake()
    waiting.join(SOON)
    assert not waiting.is_alive()


def test_it_is_given_back_for_the_turn_that_it_is_wanted_of(office: Office) -> None:
    office.seat.wait(0.0)
    office.seat.give(1)
    office.seat.stand(2)
    assert office.seat.taken
    office.seat.stand(1)
    assert not office.seat.taken
    assert office.left == [1]
    office.seat.stand(1)
    assert office.left == [1]


def test_those_who_sit_are_too_few_once_all_that_comes_has_lain_there_for_a_while(office: Office) -> None:
    for now in (0.0, CROWDED_AFTER / 2, CROWDED_AFTER):
        office.seat.lain(2 * LAIN, now)
        assert office.crowded == 0
    office.seat.lain(2 * LAIN, 1.1 * CROWDED_AFTER)
    assert office.crowded == 1


def test_one_that_had_not_lain_there_says_that_they_are_enough(office: Office) -> None:
    for now in (0.0, 1.0, 2.0):
        office.seat.lain(2 * LAIN, now)
        office.seat.lain(0.0, now + CROWDED_AFTER / 2)
    assert office.crowded == 0


def test_who_stood_in_between_begins_anew(office: Office) -> None:
    office.seat.wait(0.0)
    office.seat.give(1)
    office.seat.lain(2 * LAIN, 0.0)
    office.seat.leave()
    office.seat.lain(2 * LAIN, 1.0)
    assert office.crowded == 0


def test_that_they_are_too_few_is_said_now_and_then(office: Office) -> None:
    for now in (0.0, AGAIN / 2, 1.1 * AGAIN, 1.2 * AGAIN):
        office.seat.crowded(now)
    assert office.crowded == 2


def test_where_there_are_seats_enough_it_does_not_matter() -> None:
    assert not Seat(None, lambda _: None).matters


def spin() -> None:
    sum(range(10_000))


def doze() -> None:
    time.sleep(0.001)  # noqa: TID251  work that waits


def run(waits: Waits, work: Callable[[], None], times: int) -> None:
    for _ in range(times):
        waits.begin()
        work()
        waits.end(1)


def test_work_counts_as_waiting_until_it_is_seen_not_to() -> None:
    waits = Waits()
    assert waits.often
    run(waits, spin, 3 * SMOOTH)
    assert not waits.often


def test_work_that_sleeps_waits() -> None:
    waits = Waits()
    run(waits, spin, 3 * SMOOTH)
    run(waits, doze, 2 * SMOOTH)
    assert waits.often


def test_one_wait_among_many_is_none(office: Office) -> None:
    waits = Waits()
    run(waits, spin, 3 * SMOOTH)
    run(waits, doze, 1)
    assert not waits.often


def test_what_is_the_loops_own_affair_is_passed_over() -> None:
    waits = Waits()
    run(waits, spin, 3 * SMOOTH)
    for _ in range(2 * SMOOTH):
        waits.begin()
        doze()
        waits.passes_over()
        waits.end(1)
    assert not waits.often


def test_nothing_done_says_nothing() -> None:
    waits = Waits()
    waits.begin()
    waits.end(0)
    assert waits.often
