"""Who waits at the broker: never more than there are seats, and never fewer while somebody stands."""

from hypothesis import given
from hypothesis import strategies as st

from offloop.core.seats import Seats, Sitter

A, B, C, D = (Sitter(f"worker-{number}", 0, 1) for number in range(4))


def test_the_first_to_ask_sit_and_the_rest_stand() -> None:
    seats = Seats(2)
    assert [seats.asks(who) for who in (A, B, C)] == [[A], [B], []]
    assert seats.sitting == (A, B)


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
    seats = Seats(2)
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


Moves = st.lists(st.tuples(st.sampled_from(("asks", "leaves", "gone")), st.integers(0, 5), st.integers(0, 1)))


@given(st.integers(1, 4), Moves)
def test_all_seats_are_taken_or_nobody_stands(count: int, moves: list[tuple[str, int, int]]) -> None:
    seats = Seats(count)
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
        else:
            asked = {other: None for other in asked if other.worker != who.worker}
            called.update(seats.gone(who.worker))
        called &= asked.keys()
        assert set(seats.sitting) == called
        assert len(called) == min(count, len(asked))
