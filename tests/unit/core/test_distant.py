"""Workers that are elsewhere: whether they can be reached, and who of them is there."""

from offloop.core.crew import ANYONE, PATIENCE
from offloop.core.distant import Distant

NOW = 100.0


def test_nothing_is_queued_while_the_broker_cannot_be_reached() -> None:
    crew = Distant(NOW)
    assert not crew.available(NOW, "read")
    assert crew.usable == 0
    assert crew.linked(True)
    assert crew.available(NOW, "read")
    assert crew.usable == 1
    assert crew.linked(False)
    assert not crew.available(NOW, "read")


def test_only_a_change_of_the_link_is_news() -> None:
    crew = Distant(NOW)
    assert [crew.linked(up) for up in (False, True, True, False, False)] == [False, True, False, True, False]


def test_without_a_worker_requests_wait_for_one_for_a_while_and_readiness_stays() -> None:
    crew = Distant(NOW)
    crew.linked(True)
    assert crew.available(NOW + PATIENCE - 0.1, "read")
    assert not crew.available(NOW + PATIENCE, "read")
    assert crew.usable == 1
    crew.staffed({"a/1": (1, 0)}, NOW + 60)
    assert crew.available(NOW + 90, "read")
    crew.staffed({}, NOW + 100)
    crew.staffed({}, NOW + 104)
    assert crew.available(NOW + 104, "read")
    assert not crew.available(NOW + 105, "read")


def test_a_pool_that_nobody_takes_from_is_closed_and_the_others_are_not() -> None:
    crew = Distant(NOW, pools={"read": "default", "list": "default", "draw": "gpu"})
    crew.linked(True)
    crew.staffed({"a/1": (1, 0)}, NOW + 1, {"default"})
    assert crew.available(NOW + PATIENCE - 0.1, "draw")  # somebody may be on the way
    assert not crew.available(NOW + PATIENCE, "draw")
    assert crew.available(NOW + 60, "read")
    assert crew.available(NOW + 60, "list")
    crew.staffed({"b/1": (1, 0)}, NOW + 70, {"gpu"})
    assert crew.available(NOW + 90, "draw")
    assert not crew.available(NOW + 90, "list")
    crew.staffed({"b/1": (1, 0)}, NOW + 100, {"gpu"})
    assert not crew.available(NOW + 101, "read")  # since when, counts from the first look


def test_whoever_says_of_no_pool_takes_from_all() -> None:
    crew = Distant(NOW, pools={"read": "default", "draw": "gpu"})
    crew.linked(True)
    crew.staffed({"a/1": (1, 0)}, NOW)
    assert crew.available(NOW + 60, "read")
    assert crew.available(NOW + 60, "draw")


def test_who_comes_and_who_goes_is_told_once() -> None:
    crew = Distant(NOW)
    assert crew.staffed({"a": (1, 0), "b": (1, 1)}, NOW) == (["a", "b"], [])
    assert crew.staffed({"b": (1, 0), "c": (2, 0)}, NOW) == (["c"], ["a"])
    assert crew.staffed({"b": (1, 0), "c": (2, 0)}, NOW) == ([], [])
    assert "b" in crew
    assert "a" not in crew


def test_states_count_loops() -> None:
    crew = Distant(NOW)
    crew.staffed({"a": (1, 1), "b": (4, 1)}, NOW)
    assert crew.states() == {"idle": 3, "busy": 2, "overdue": 0, "wedged": 0}


def test_whoever_takes_it_first_has_it_and_nothing_is_watched_from_here() -> None:
    crew = Distant(NOW)
    crew.up("a", 1)
    crew.failed()
    crew.hand("r", "a", "e", NOW)
    crew.begun("r", "a")
    crew.asked("r")
    crew.took("e", 1.0)
    crew.ran("e", 1.0)
    crew.freed("r")
    crew.abandon("r", NOW)
    assert crew.place("e") == ANYONE
    assert crew.gone("a", NOW) == ([], [])
    assert (crew.stranded(NOW), crew.due(NOW), crew.replaceable(), crew.next_at()) == ([], [], [], None)
    assert crew.shared
    assert not crew.reads_ahead
