"""Single decisions of a crew, told one by one; what holds after any of them is in `test_crew.py`."""

import pytest

from offloop.core.crew import AHEAD, PATIENCE, STRANDED, STUCK, Crew

GRACE = 5.0


def threads(**policy: int) -> Crew:
    return Crew(shared=True, kill_grace=GRACE, **policy)


def processes(*loops: int, read_ahead: int = 16) -> Crew:
    """Workers w1, w2… with so many loops each; a `quick` request is expected to take a quarter of what may be ahead."""
    crew = Crew(shared=False, kill_grace=GRACE, read_ahead=read_ahead)
    for number, count in enumerate(loops, 1):
        crew.up(f"w{number}", count)
    crew.took("quick", (AHEAD / 4 - 29.5) / 1e6)
    return crew


def handed(crew: Crew, *rids: str, endpoint: str = "quick", now: float = 0.0) -> list[str | None]:
    places = []
    for rid in rids:
        places.append(crew.place(endpoint))
        if places[-1] is not None:
            crew.hand(rid, places[-1], endpoint, now)
    return places


# ---- whose turn it is


def test_of_those_with_equally_much_to_do_the_lowest_rank_is_asked_and_no_other() -> None:
    crew = processes()
    for rank in (2, 0, 1):
        crew.up(f"w{rank}", 1, rank=rank)
    for rid in ("r1", "r2", "r3"):
        assert handed(crew, rid) == ["w0"]
        crew.freed(rid)
    assert handed(crew, "r4", "r5", "r6") == ["w0", "w1", "w2"]


def test_a_successor_has_the_rank_of_who_it_replaces() -> None:
    crew = processes()
    for rank in (0, 1):
        crew.up(f"w{rank}", 1, rank=rank)
    crew.up("next", 1, "w0", rank=0)
    assert handed(crew, "r1") == ["next"]
    crew.gone("w0", now=0.0)
    assert handed(crew, "r2", "r3") == ["w1", "next"]


# ---- hung loops


def test_a_node_that_nobody_waits_for_holds_its_loop_until_it_ends() -> None:
    crew = threads()
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=10.0)
    assert crew.states() == {"idle": 0, "busy": 0, "overdue": 1, "wedged": 0}
    crew.freed("r1")
    assert crew.states() == {"idle": 1, "busy": 0, "overdue": 0, "wedged": 0}
    assert crew.next_at() is None


def test_a_loop_is_wedged_when_its_node_has_outlived_the_deadline_by_the_grace() -> None:
    crew = threads()
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=10.0)
    assert crew.next_at() == 15.0
    assert crew.due(14.9) == []
    assert crew.due(15.0) == ["w1"]
    assert crew.due(16.0) == []
    assert not crew.usable
    assert crew.states() == {"idle": 0, "busy": 0, "overdue": 0, "wedged": 1}
    assert crew.replaceable() == ["w1"]
    assert crew.replaceable() == []


def test_a_beginning_that_is_told_after_the_deadline_is_watched_as_well() -> None:
    crew = threads()
    crew.up("w1", 1)
    crew.abandon("r1", deadline=10.0)
    assert crew.next_at() is None
    crew.begun("r1", "w1")
    assert crew.next_at() == 15.0


def test_the_late_word_of_one_worker_does_not_free_another() -> None:
    crew = threads()
    for name in ("w1", "w2"):
        crew.up(name, 1)
    crew.begun("r1", "w1")
    assert crew.gone("w1", 0.0) == (["r1"], [])
    crew.begun("r1", "w2")
    crew.freed("r1", by="w1")
    assert crew.states()["busy"] == 1
    crew.freed("r1", by="w2")
    assert crew.states()["busy"] == 0


def test_a_node_that_ended_within_the_grace_wedges_nothing() -> None:
    crew = threads()
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=10.0)
    crew.freed("r1")
    assert crew.due(20.0) == []
    assert crew.usable


def test_only_so_many_fresh_loops_stand_beside_wedged_ones() -> None:
    crew = threads(spare=1)
    for number in "12":
        crew.up(f"w{number}", 1)
        crew.begun(f"r{number}", f"w{number}")
        crew.abandon(f"r{number}", deadline=0.0)
    assert sorted(crew.due(GRACE)) == ["w1", "w2"]
    assert crew.replaceable() == ["w1"]
    crew.gone("w1", GRACE)
    assert crew.replaceable() == ["w2"]


def test_a_wedged_worker_that_was_not_replaced_may_go_on() -> None:
    crew = threads(spare=0)
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=0.0)
    crew.due(GRACE)
    assert crew.replaceable() == []
    crew.freed("r1")
    assert crew.usable


def test_a_wedged_worker_is_handed_nothing_though_it_has_room() -> None:
    crew = processes(2)
    handed(crew, "r1")
    crew.begun("r1", "w1")
    crew.abandon("r1", deadline=0.0)
    assert crew.place("quick") == "w1"
    assert crew.due(GRACE) == ["w1"]
    assert crew.place("quick") is None


# ---- reading ahead


@pytest.mark.parametrize(
    ("ahead", "places"), [(0, ["w1", "w2", "w2", None]), (1, ["w1", "w2", "w2", "w1", "w2", None])]
)
def test_work_goes_to_the_least_busy_worker_that_has_room(ahead: int, places: list[str | None]) -> None:
    crew = processes(1, 2, read_ahead=ahead)
    assert handed(crew, *(f"r{number}" for number in range(len(places)))) == places


def test_a_busy_worker_is_handed_only_as_much_as_will_soon_be_done() -> None:
    crew = processes(1)
    assert handed(crew, "r1", "r2", "r3", "r4", "r5") == ["w1", "w1", "w1", "w1", None]
    crew.freed("r1")
    assert handed(crew, "r6", "r7") == ["w1", None]


@pytest.mark.parametrize("seconds", [None, (AHEAD + 1) / 1e6])
def test_behind_work_that_may_take_long_nothing_is_read_ahead(seconds: float | None) -> None:
    crew = processes(1)
    if seconds is not None:
        crew.took("slow", seconds)
    assert handed(crew, "r1", endpoint="slow") == ["w1"]
    assert crew.place("quick") is None
    crew.freed("r1")
    assert handed(crew, "r2") == ["w1"]
    assert crew.place("slow") is None


def test_a_request_that_turned_out_slow_stops_the_reading_ahead_of_its_endpoint_at_once() -> None:
    crew = processes(1)
    handed(crew, "r1")
    assert crew.place("quick") == "w1"
    crew.took("quick", 0.1)
    assert crew.place("quick") is None


def test_a_request_that_runs_for_long_and_has_not_ended_stops_the_reading_ahead_of_its_endpoint() -> None:
    crew = processes(1)
    handed(crew, "r1")
    crew.ran("quick", 0.0)
    assert crew.place("quick") == "w1"
    crew.ran("quick", 0.1)
    assert crew.place("quick") is None


def test_what_was_expected_of_a_request_is_taken_off_as_it_was_put_on() -> None:
    crew = processes(1)
    handed(crew, "r1", "r2")
    crew.took("quick", 0.1)
    crew.freed("r1")
    crew.freed("r2")
    crew.took("tiny", 0.0)
    assert handed(crew, "r3", "r4", endpoint="tiny") == ["w1", "w1"]


def test_what_a_worker_began_that_it_was_not_handed_counts_as_nothing_expected() -> None:
    crew = processes(1)
    crew.begun("r1", "w1")
    assert handed(crew, "r2", "r3", "r4", "r5") == ["w1", "w1", "w1", "w1"]
    crew.freed("r1")
    assert crew.place("quick") is None


def test_a_request_that_another_worker_has_begun_is_with_that_one() -> None:
    crew = processes(1, 1)
    assert handed(crew, "r1", "r2") == ["w1", "w2"]
    crew.begun("r1", "w2")
    assert crew.reads_ahead
    assert handed(crew, "r3", endpoint="slow") == ["w1"]
    assert crew.gone("w1", 0.0) == ([], ["r3"])
    assert crew.gone("w2", 0.0) == (["r1"], ["r2"])
    assert not crew.reads_ahead


# ---- taking back


def test_what_lies_with_a_busy_worker_while_another_is_free_is_asked_back_once() -> None:
    crew = processes(1)
    handed(crew, "r1", "r2", "r3")
    assert crew.next_at() == STUCK
    crew.up("w2", 1)
    assert crew.next_at() == STRANDED
    assert crew.stranded(STRANDED / 2) == []
    assert crew.stranded(STRANDED) == ["r2", "r3"]
    assert crew.stranded(1.0) == []
    assert crew.next_at() is None


def test_what_is_about_to_begin_in_a_free_loop_of_its_own_worker_is_not_asked_back() -> None:
    crew = processes(3, 1)
    assert handed(crew, "r1", "r2", "r3", "r4") == ["w1", "w2", "w1", "w1"]
    assert handed(crew, "r5") == ["w1"]
    crew.begun("r1", "w1")
    crew.freed("r2")
    assert crew.stranded(1.0) == ["r5"]


def test_what_lies_behind_a_busy_loop_for_too_long_is_asked_back_once_though_none_is_free() -> None:
    crew = processes(1, 1)
    handed(crew, "r1", "r2", "r3")
    handed(crew, "r4", now=STUCK / 2)
    assert crew.next_at() == STUCK
    assert crew.stranded(STUCK - 0.001) == []
    assert crew.stranded(STUCK) == ["r3"]
    assert crew.next_at() == STUCK / 2 + STUCK
    assert crew.stranded(1.0) == ["r4"]
    assert crew.stranded(2.0) == []
    assert crew.next_at() is None


def test_what_was_asked_back_though_none_is_free_stands_in_no_hung_workers_buffer_again() -> None:
    crew = processes(1, 1)
    handed(crew, "r1", "r2", "r3")
    assert crew.stranded(STUCK) == ["r3"]
    crew.freed("r3")
    assert handed(crew, "r3") == ["w2"], "w1 has ended nothing since"
    crew.freed("r2", by="w2")
    assert handed(crew, "r4", "r5", "r6", "r7") == ["w2", "w2", "w2", None]


@pytest.mark.parametrize("hindrance", ["retired", "wedged"])
def test_a_worker_that_may_have_no_more_is_nowhere_to_go(hindrance: str) -> None:
    crew = processes(1, 2)
    assert handed(crew, "r1", "r2", "r3", "r4") == ["w1", "w2", "w2", "w1"]
    if hindrance == "retired":
        crew.up("w3", 1, "w2")
        handed(crew, "r5")
    else:
        crew.begun("r2", "w2")
        crew.abandon("r2", 0.0)
        crew.due(GRACE)
    crew.freed("r3")
    assert crew.next_at() == STUCK, "no loop is free"
    assert crew.stranded(STUCK) == ["r4"]


def test_what_lies_with_a_worker_that_has_a_successor_is_asked_back() -> None:
    crew = processes(1)
    handed(crew, "r1", "r2")
    crew.up("w2", 1, "w1")
    assert crew.stranded(1.0) == ["r2"]


def test_what_was_taken_back_does_not_go_to_the_same_worker_again_while_that_ends_nothing() -> None:
    crew = processes(1, 1)
    assert handed(crew, "r1", "r2", "r3", "r4") == ["w1", "w2", "w1", "w2"]
    crew.freed("r2", by="w2")
    crew.freed("r4", by="w2")
    assert crew.stranded(1.0) == ["r3"]
    crew.freed("r3")
    assert handed(crew, "r3", "r5", "r6", "r7", "r8") == ["w2", "w2", "w2", "w2", None]
    crew.freed("r1", by="w1")
    assert handed(crew, "r8", "r9") == ["w1", "w1"]


def test_behind_work_that_nobody_waits_for_any_more_nothing_is_read_ahead() -> None:
    crew = processes(1)
    handed(crew, "r1")
    crew.begun("r1", "w1")
    assert crew.place("quick") == "w1"
    crew.abandon("r1", 10.0)
    assert crew.place("quick") is None


# ---- successors


def test_a_worker_that_has_a_successor_is_handed_nothing_and_ends_what_it_holds() -> None:
    crew = processes(2)
    handed(crew, "r1")
    crew.up("w2", 1, replaces="w1")
    assert crew.usable == 1
    assert handed(crew, "r2") == ["w2"]
    assert crew.gone("w1", 0.0) == ([], ["r1"])
    assert crew.usable == 1


def test_a_worker_that_has_a_successor_is_counted_while_it_runs_something() -> None:
    crew = processes(1)
    handed(crew, "r1")
    crew.begun("r1", "w1")
    crew.up("w2", 1, replaces="w1")
    assert crew.states() == {"idle": 1, "busy": 1, "overdue": 0, "wedged": 0}
    crew.freed("r1")
    assert crew.states() == {"idle": 1, "busy": 0, "overdue": 0, "wedged": 0}


def test_a_worker_that_has_a_successor_never_comes_back_from_being_wedged() -> None:
    crew = threads(spare=0)
    crew.up("w1", 1)
    crew.begun("r1", "w1")
    crew.abandon("r1", 0.0)
    crew.due(GRACE)
    crew.up("w2", 1, replaces="w1")
    assert crew.usable == 1
    crew.freed("r1")
    assert crew.usable == 1


# ---- whether work may be queued


def test_a_death_alone_refuses_nothing_for_a_while() -> None:
    crew = processes(1)
    crew.gone("w1", 100.0)
    assert crew.available(100.0)
    assert crew.available(100.0 + PATIENCE - 0.001)
    assert not crew.available(100.0 + PATIENCE)
    crew.up("w2", 1)
    assert crew.available(1000.0)


def test_two_failed_starts_in_a_row_leave_no_hope() -> None:
    crew = processes(1)
    crew.gone("w1", 100.0)
    crew.failed()
    assert crew.available(100.0)
    crew.failed()
    assert not crew.available(100.0)
    crew.up("w2", 1)
    crew.gone("w2", 101.0)
    assert crew.available(101.0)


def test_the_patience_begins_with_the_last_worker_that_could_take_work() -> None:
    crew = processes(1, 1)
    crew.gone("w1", 100.0)
    crew.gone("w2", 103.0)
    assert crew.available(107.0)
    crew.up("w3", 1)
    handed(crew, "r1")
    crew.begun("r1", "w3")
    crew.abandon("r1", 200.0)
    assert crew.due(205.0) == ["w3"]
    crew.gone("w3", 209.0)
    assert not crew.available(210.0), "it was wedged before it had gone"


def test_before_the_first_worker_is_up_nothing_is_queued() -> None:
    assert not processes().available(0.0)


def test_threads_that_are_all_wedged_are_not_waited_for() -> None:
    crew = threads()
    crew.up("w1", 1)
    assert crew.available(0.0)
    crew.gone("w1", 0.0)
    assert not crew.available(0.0)
