"""Calls from a thread of its own: in order, bounded for each who asks, and nobody waits for one."""

import threading
from collections.abc import Callable, Iterator

import pytest

from offloop.orchestration.aside import Aside

DEADLINE = 10.0
ROOM = 10


class Rig:
    """An `Aside` whose first call stands until `go`; what was called is in `called`."""

    def __init__(self) -> None:
        self.called: list[object] = []
        self.go = threading.Event()
        self.aside = Aside("offloop-aside", ROOM, self.run, lambda by, count: self.called.append((by, count)))

    def run(self, call: Callable[[], object]) -> None:
        call()

    def ask(self, by: str, what: str, size: int = 1) -> None:
        self.aside.ask(by, size, lambda: self.called.append(what))

    def stands(self) -> None:
        entered = threading.Event()

        def stand() -> None:
            entered.set()
            assert self.go.wait(DEADLINE)

        self.aside.start()
        self.aside.ask("", 0, stand)
        assert entered.wait(DEADLINE)

    def all(self) -> list[object]:
        """All that was called by the end."""
        self.go.set()
        self.aside.end()
        self.aside.join(DEADLINE)
        return self.called


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.all()
    assert not rig.aside._thread.is_alive()


def test_calls_are_made_in_order(rig: Rig) -> None:
    rig.stands()
    for by, what in [("a", "1"), ("b", "2"), ("a", "3")]:
        rig.ask(by, what)
    assert rig.called == []
    assert rig.all() == ["1", "2", "3"]


def test_what_is_too_much_of_one_is_dropped_and_counted_where_it_is_missing(rig: Rig) -> None:
    rig.stands()
    rig.ask("a", "1", ROOM)
    for _ in range(3):
        rig.ask("a", "too much")
    rig.ask("b", "2", ROOM)
    rig.ask("a", "too much")
    assert rig.all() == ["1", ("a", 4), "2"]


def test_what_was_called_makes_room(rig: Rig) -> None:
    rig.stands()
    rig.ask("a", "1", ROOM)
    rig.go.set()
    called = threading.Event()
    rig.aside.ask("", 0, called.set)
    assert called.wait(DEADLINE)
    rig.ask("a", "2", ROOM)
    assert rig.all() == ["1", "2"]


def test_whoever_has_nothing_waiting_may_ask_for_something_of_any_size(rig: Rig) -> None:
    rig.stands()
    rig.ask("a", "1", 2 * ROOM)
    rig.ask("a", "too much")
    assert rig.all() == ["1", ("a", 1)]


def test_never_started_the_calls_are_made_by_who_joins(rig: Rig) -> None:
    rig.ask("a", "1")
    assert rig.all() == ["1"]
