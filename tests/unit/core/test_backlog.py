import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from offloop.core.backlog import Backlog
from offloop.messages import Envelope

NUMBERS = st.integers(0, 8)
SIZES = st.integers(0, 1000)


def envelope(rid: str) -> Envelope:
    return Envelope(rid=rid, endpoint="read", payload=b"", deadline=1.0)


class Queue(RuleBasedStateMachine):
    """The model is a list of places, and a line of rids: those that were given back, in order, before all others."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.places: list[tuple[str, int]] = []
        self.given_back: list[str] = []
        self.fresh: list[str] = []

    @property
    def line(self) -> list[str]:
        return [*self.given_back, *self.fresh]

    def has_place(self, rid: str) -> bool:
        return any(held == rid for held, _ in self.places)

    @rule(number=NUMBERS, size=SIZES)
    def reserve(self, number: int, size: int) -> None:
        rid = f"r{number}"
        if not self.has_place(rid):
            self.backlog.reserve(rid, size)
            self.places.append((rid, size))

    @rule(number=NUMBERS, size=SIZES)
    def resize(self, number: int, size: int) -> None:
        rid = f"r{number}"
        if self.has_place(rid):
            self.backlog.resize(rid, size)
            self.places = [(held, size if held == rid else was) for held, was in self.places]

    @rule(number=NUMBERS)
    def enqueue(self, number: int) -> None:
        rid = f"r{number}"
        if rid not in self.line:
            self.backlog.enqueue(envelope(rid))
            self.fresh.append(rid)

    @rule(number=NUMBERS)
    def give_back(self, number: int) -> None:
        rid = f"r{number}"
        if rid not in self.line:
            self.backlog.give_back(envelope(rid), number)
            self.given_back = sorted([*self.given_back, rid])

    @rule()
    def take(self) -> None:
        first = self.backlog.first()
        assert (first.rid if first else None) == (self.line[0] if self.line else None)
        if self.line:
            taken = self.backlog.take().rid
            assert taken == self.line[0]
            self.left(taken)
        else:
            with pytest.raises(KeyError):
                self.backlog.take()

    @rule(number=NUMBERS)
    def leave(self, number: int) -> None:
        rid = f"r{number}"
        self.backlog.leave(rid)
        self.places = [(held, size) for held, size in self.places if held != rid]
        self.left(rid)

    def left(self, rid: str) -> None:
        self.given_back = [held for held in self.given_back if held != rid]
        self.fresh = [held for held in self.fresh if held != rid]

    @invariant()
    def agrees(self) -> None:
        assert self.backlog.depth == len(self.places)
        assert self.backlog.bytes == sum(size for _, size in self.places)
        assert list(self.backlog.line) == self.line
        for number in range(9):
            assert (f"r{number}" in self.backlog) == self.has_place(f"r{number}")
            assert self.backlog.in_line(f"r{number}") == (f"r{number}" in self.line)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_was_given_to_a_transport_keeps_its_place_until_it_begins() -> None:
    backlog = Backlog()
    backlog.reserve("r1", 10)
    backlog.enqueue(envelope("r1"))
    assert backlog.take() == envelope("r1")
    assert (backlog.depth, backlog.bytes, len(backlog.line)) == (1, 10, 0)
    backlog.leave("r1")
    assert (backlog.depth, backlog.bytes) == (0, 0)


def test_what_a_dead_worker_had_not_begun_goes_to_the_front_in_the_order_in_which_it_came() -> None:
    backlog = Backlog()
    backlog.enqueue(envelope("r4"))
    for number in (2, 1, 3):
        backlog.give_back(envelope(f"r{number}"), number)
    assert [backlog.take().rid for _ in range(4)] == ["r1", "r2", "r3", "r4"]
    assert backlog.first() is None


def test_what_was_given_back_and_left_the_line_is_like_any_other_when_it_comes_again() -> None:
    backlog = Backlog()
    backlog.give_back(envelope("r1"), 1)
    backlog.leave("r1")
    backlog.give_back(envelope("r2"), 2)
    assert backlog.take().rid == "r2"
    for rid in ("r1", "r2"):
        backlog.enqueue(envelope(rid))
    backlog.give_back(envelope("r3"), 3)
    assert list(backlog.line) == ["r3", "r1", "r2"]


def test_what_a_broker_counts_has_no_bytes_here_and_who_has_left_is_passed_over() -> None:
    backlog = Backlog()
    backlog.reserve("a", 10)
    backlog.elsewhere("a")
    backlog.elsewhere("b")
    assert (backlog.depth, backlog.bytes, backlog.counted) == (1, 0, {"a"})
    backlog.leave("a")
    assert (backlog.depth, backlog.counted) == (0, set())
