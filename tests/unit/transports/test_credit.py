"""How much of a stream may be on its way: never more than the room and one message, and nobody waits for nothing."""

import threading
from queue import SimpleQueue

import pytest

from offloop.testing.conformance.web_side import in_threads
from offloop.transports.credit import Credit

DEADLINE = 10.0
ROOM = 100


def test_as_much_as_there_is_room_for_may_be_sent_and_no_more() -> None:
    credit = Credit(ROOM)
    assert credit.spend(60, 0.0)
    assert credit.spend(40, 0.0)
    assert not credit.spend(1, 0.0)


def test_a_message_larger_than_the_whole_room_goes_and_is_owed_afterwards() -> None:
    credit = Credit(ROOM)
    assert credit.spend(10 * ROOM, 0.0)
    credit.grant(9 * ROOM)
    assert not credit.spend(1, 0.0)
    credit.grant(1)
    assert credit.spend(1, 0.0)


def test_what_was_taken_lets_a_waiting_loop_go_on() -> None:
    credit = Credit(ROOM)
    assert credit.spend(ROOM, 0.0)
    went: list[bool] = []
    waits = threading.Event()

    def spend() -> None:
        waits.set()
        went.append(credit.spend(1, DEADLINE))

    def grant() -> None:
        assert waits.wait(DEADLINE)
        credit.grant(1)

    in_threads(spend, grant)
    assert went == [True]
    assert not credit.spend(1, 0.0)


def test_the_end_lets_a_waiting_loop_go_and_nothing_opens_it_again() -> None:
    credit = Credit(ROOM)
    assert credit.spend(ROOM, 0.0)
    went: list[bool] = []
    waits = threading.Event()

    def spend() -> None:
        waits.set()
        # Longer than `in_threads` waits: one that only runs out of time does not pass.
        went.append(credit.spend(1, 2 * DEADLINE))

    def end() -> None:
        assert waits.wait(DEADLINE)
        credit.end()

    in_threads(spend, end)
    assert went == [False]
    credit.grant(ROOM)
    assert not credit.spend(1, DEADLINE)


def test_the_end_takes_the_room_that_was_left() -> None:
    credit = Credit(ROOM)
    credit.end()
    assert not credit.spend(1, DEADLINE)


def test_a_wait_runs_out_and_takes_nothing() -> None:
    credit = Credit(ROOM)
    assert credit.spend(ROOM, 0.0)
    assert not credit.spend(1, 0.01)
    credit.grant(1)
    assert credit.spend(1, 0.0)


@pytest.mark.parametrize("largest", [1, 7, 3 * ROOM])
def test_a_flood_never_has_more_on_its_way_than_the_room_and_one_message(largest: int) -> None:
    credit, sent = Credit(ROOM), SimpleQueue[int]()
    counting = threading.Lock()
    on_its_way, most = 0, 0

    def make() -> None:
        nonlocal on_its_way, most
        for number in range(2000):
            size = 1 + number % largest
            assert credit.spend(size, DEADLINE)
            with counting:
                on_its_way += size
                most = max(most, on_its_way)
            sent.put(size)
        sent.put(0)

    def take() -> None:
        nonlocal on_its_way
        while size := sent.get(timeout=DEADLINE):
            with counting:
                on_its_way -= size
            credit.grant(size)

    in_threads(make, take)
    assert on_its_way == 0
    assert most < ROOM + largest
