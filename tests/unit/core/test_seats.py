"""Who waits at the broker: never more than there are seats, and never fewer while somebody stands."""

from hypothesis import given
from hypothesis import strategies as st

from offloop.core.seats import Seats, Sitter

A, B, C, D = (Sitter(f"worker-{number}", 0, 1) for number in range(4))


def of(count: int) -> Seats:
    """So many, all of them put up."""
    seats = Seats(count)
    for _ in range(count):
        assert seats.more() == []
    return seats


def test_the_first_to_ask_sit_and_the_rest_stand() -> None:
    seats = of(2)
    assert [seats.asks(who) for who in (A, B, C)] == [[A], [B], []]
    assert seats.sitting == (A, B)


def test_there_is_one_at_first_and_never_more_than_there_may_be() -> None:
    seats = Seats(2)
    assert [seats.asks(who) for who in (A, B, C)] == [[A], [], []]
    assert seats.more() == [C]
    assert seats.more() == []
    assert seats.sitting == (A, C)


def test_who_sat_down_last_stands_up_first_and_the_last_seat_stays() -> None:
    seats = of(3)
    for who in (A, B, C):
        seats.asks(who)
    assert [seats.fewer() for _ in range(3)] == [C, B, None]
    assert seats.sitting == (A,)


def test_a_seat_that_nobody_has_is_taken_away_from_nobody() -> None:
    seats = of(2)
    seats.asks(A)
    assert seats.fewer() is None
    assert seats.asks(B) == []


def test_who_had_to_stand_up_may_ask_again() -> None:
    seats = of(2)
    seats.asks(A)
    seats.asks(B)
    assert seats.fewer() == B
    assert seats.leaves(B) == []  # it has heard
    assert seats.asks(B._replace(turn=2)) == []
    assert seats.more() == [B._replace(turn=2)]


def test_who_stood_up_last_is_the_next_to_sit() -> None:
    seats = Seats(1)
    for who in (A, B, C, D):
        seats.asks(who)
    assert seats.leaves(A) == [D]
    seats.asks(A._replace(turn=2))
    assert seats.leaves(D) == [A._replace(turn=2)]


def test_who_stands_may_leave_too() -> None:
    seats = Seats(1)
    seats.asks(A)
    seats.asks(B)
    assert seats.leaves(B) == []
    assert seats.leaves(A) == []
    assert seats.sitting == ()


def test_a_worker_that_is_gone_holds_none_of_its_seats() -> None:
    seats = of(2)
    twice = A._replace(loop=1)
    for who in (A, twice, B, A._replace(loop=2), C):
        seats.asks(who)
    assert seats.gone(A.worker) == [C, B]
    assert seats.sitting == (C, B)


def test_of_another_turn_or_unknown_nothing_is_left() -> None:
    seats = Seats(1)
    seats.asks(A)
    assert seats.leaves(A._replace(turn=2)) == []
    assert seats.leaves(B) == []
    assert seats.gone("nobody") == []
    assert seats.sitting == (A,)


WHAT = ("asks", "leaves", "gone", "more", "fewer")
Moves = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 5), st.integers(0, 1)))


@given(st.integers(1, 4), Moves)
def test_all_seats_are_taken_or_nobody_stands(most: int, moves: list[tuple[str, int, int]]) -> None:
    seats = Seats(most)
    count = 1
    asked: dict[Sitter, None] = {}
    called: set[Sitter] = set()
    for what, worker, loop in moves:
        who = Sitter(f"worker-{worker}", loop, 1)
        if what == "asks":
            if who in asked:
                continue  # a loop asks once for each turn
            asked[who] = None
            called.update(seats.asks(who))
        elif what == "leaves":
            asked.pop(who, None)
            called.update(seats.leaves(who))
        elif what == "more":
            count = min(most, count + 1)
            called.update(seats.more())
        elif what == "fewer":
            count = max(1, count - 1)
            if (stood := seats.fewer()) is not None:
                del asked[stood]
        else:
            asked = {other: None for other in asked if other.worker != who.worker}
            called.update(seats.gone(who.worker))
        called &= asked.keys()
        assert set(seats.sitting) == called
        assert len(called) == min(count, len(asked))
