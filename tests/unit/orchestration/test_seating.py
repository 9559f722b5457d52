"""Seats in the hands of a supervisor: asked for, given, and taken from those that have no use for them."""

import pytest

from offloop.orchestration.seating import CALM, Seating
from offloop.transports.local.frames import Asks, Crowded, Leaves, Sit, Stand


class Host:
    """Workers, each of one loop, as their supervisor sees them: who runs what, and who is stopped."""

    def __init__(self, most: int = 1) -> None:
        self.told: list[tuple[str, int]] = []
        self.stood: list[str] = []
        self.running: dict[str, float] = {}
        self.stopped: set[str] = set()
        self.seating = Seating(most, self._tell, lambda worker, _: self.running.get(worker, 0.0), self._halted)

    def _tell(self, worker: str, told: Sit | Stand) -> None:
        assert told.loop == 0
        if isinstance(told, Sit):
            self.told.append((worker, told.turn))
        else:
            self.stood.append(worker)

    def _halted(self, worker: str) -> bool:
        return worker in self.stopped

    def looks(self, times: int) -> list[tuple[str, int]]:
        """Who was told to sit by that."""
        before = len(self.told)
        for _ in range(times):
            self.seating.look()
        return self.told[before:]


@pytest.fixture
def host() -> Host:
    """One sits, two stand; the last that asked is the next."""
    host = Host()
    for worker in ("a", "b", "c"):
        host.seating.said(worker, Asks(0, 1))
    assert host.told == [("a", 1)]
    return host


def test_who_leaves_is_followed_at_once(host: Host) -> None:
    host.seating.said("a", Leaves(0, 1))
    assert host.told == [("a", 1), ("c", 1)]


def test_who_is_no_more_is_followed_at_once(host: Host) -> None:
    host.seating.gone("a")
    assert host.told == [("a", 1), ("c", 1)]


def test_who_waits_for_work_keeps_its_seat(host: Host) -> None:
    assert host.looks(5) == []


def test_who_runs_another_request_at_each_look_keeps_its_seat(host: Host) -> None:
    for deadline in range(1, 6):
        host.running["a"] = float(deadline)
        assert host.looks(1) == []


def test_who_runs_the_same_request_at_two_looks_loses_it(host: Host) -> None:
    host.running["a"] = 7.0
    assert host.looks(1) == []
    assert host.looks(1) == [("c", 1)]
    assert host.looks(3) == []


def test_who_is_stopped_loses_it_at_the_first(host: Host) -> None:
    host.stopped.add("a")
    assert host.looks(1) == [("c", 1)]


def test_who_lost_it_may_have_it_again(host: Host) -> None:
    host.stopped.add("a")
    host.looks(1)
    host.stopped.clear()
    host.seating.said("a", Leaves(0, 1))  # it notices now
    host.seating.said("a", Asks(0, 2))
    host.seating.said("c", Leaves(0, 1))
    assert host.told[-1] == ("a", 2)


def test_one_more_sits_while_those_who_do_are_too_few() -> None:
    host = roomy()
    host.seating.said("a", Crowded())
    assert host.told == [("a", 1), ("c", 1)]
    host.seating.said("a", Crowded())
    assert len(host.told) == 2  # there are no more seats


def test_fewer_sit_once_nobody_has_missed_more_for_a_while() -> None:
    host = roomy()
    host.seating.said("a", Crowded())
    host.looks(CALM - 1)
    host.seating.said("c", Crowded())
    host.looks(CALM - 1)
    assert host.stood == []
    host.looks(1)
    assert host.stood == ["c"]
    host.looks(5 * CALM)
    assert host.stood == ["c"]  # one sits always


@pytest.mark.parametrize("halted", [False, True])
def test_after_one_was_held_up_there_is_another_beside_whoever_follows(halted: bool) -> None:
    host = roomy()
    host.running["a"] = 7.0
    if halted:
        host.stopped.add("a")
    assert host.looks(2) == [("c", 1), ("b", 1)]


def roomy() -> Host:
    """There may be two seats; one sits, two stand."""
    host = Host(most=2)
    for worker in ("a", "b", "c"):
        host.seating.said(worker, Asks(0, 1))
    return host
