"""The drain, and what is told of a gateway."""

import pytest

from offloop import errors
from offloop.core.drain import Drain
from offloop.core.lifecycle import State
from offloop.messages import Begun, Outcome, Withdrawn, WorkerUp
from tests.unit.ingress.rig import Promise, Rig


def test_a_drain_lets_what_was_admitted_end_and_admits_nothing() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    rig.begun(waiter)
    rig.gateway.begin_drain()
    rig.gateway.begin_drain()
    assert not rig.gateway.ready
    with pytest.raises(errors.Draining):
        rig.opened()
    assert rig.drained == 0
    rig.reports(Outcome(rid="r1"))
    assert promise.outcome is not None
    assert rig.drained == 1
    assert [event.kind for event in rig.events if event.kind.startswith("drain")] == ["drain_begin", "drain_end"]


def test_a_drain_with_nobody_waiting_ends_at_once() -> None:
    rig = Rig()
    rig.gateway.begin_drain()
    assert rig.drained == 1
    rig.gateway.stop()
    assert rig.pending == []
    assert rig.gateway.lifecycle.state is State.STOPPED
    rig.gateway.stop()


def test_of_a_drains_budget_is_left_what_has_not_passed() -> None:
    rig = Rig(drain=Drain(5.0))
    rig.sent()
    assert rig.gateway.budget_left() == float("inf")
    rig.gateway.begin_drain()
    rig.until(102.0)
    assert rig.gateway.budget_left() == 3.0
    rig.until(106.0)
    assert rig.gateway.budget_left() == -1.0


def test_before_the_start_there_is_nothing_to_drain() -> None:
    rig = Rig(0)
    rig.gateway.lifecycle.state = State.NEW
    rig.gateway.begin_drain()
    assert rig.gateway.lifecycle.state is State.NEW
    with pytest.raises(errors.BackendUnavailable):
        rig.opened()


def test_during_the_delay_readiness_is_false_and_admission_goes_on() -> None:
    rig = Rig(drain=Drain(20.0, delay=2.0))
    rig.gateway.begin_drain()
    assert not rig.gateway.ready
    rig.opened(timeout=1.0)
    rig.until(101.5)
    assert rig.drained == 0
    rig.until(102.0)
    assert rig.drained == 1


def test_at_the_budget_everyone_left_gets_an_outcome_of_its_own() -> None:
    rig = Rig(shared=False, drain=Drain(3.0), limit=9)
    begun, one = rig.sent("again")
    rig.begun(begun)
    _, two = rig.sent("again")
    three = Promise()
    rig.gateway.open("again", three)
    rig.gateway.begin_drain()
    rig.until(103.0)
    assert one.outcome == Outcome(rid="r1", reason="drain-cut", started=True)
    assert two.outcome == Outcome(rid="r2", reason="drain-cut", started=False)
    assert three.outcome == Outcome(rid="r3", reason="drain-cut", started=False)
    assert rig.gateway.cut == 3
    assert rig.drained == 1
    assert rig.sink.cut_after == [0], "before anything is taken back for it"


def test_a_drain_without_a_budget_cuts_at_once() -> None:
    rig = Rig(drain=Drain(0.0))
    _, promise = rig.sent()
    rig.gateway.begin_drain()
    assert promise.outcome == Outcome(rid="r1", reason="drain-cut", started=False)
    assert rig.drained == 1


@pytest.mark.parametrize("begun", [True, False, None])
def test_a_cut_keeps_its_name_when_a_transport_has_to_be_asked(begun: bool | None) -> None:
    rig = Rig(shared=False, drain=Drain(3.0))
    _, expiring = rig.sent(timeout=2.99)
    rig.reports(WorkerUp("w2"))
    _, cut = rig.sent()
    rig.sink.answers = [None, None]
    rig.gateway.begin_drain()
    rig.until(103.0)
    rig.reports(Withdrawn("r1", begun=False), Withdrawn("r2", begun))
    assert expiring.outcome == Outcome(rid="r1", reason="expired-in-queue", started=False)
    assert cut.outcome == Outcome(rid="r2", reason="drain-cut", started=begun)
    assert rig.gateway.cut == 1


def test_the_last_answer_is_told_once_the_drain_has_ended() -> None:
    rig = Rig(2)
    (one, _), (two, _) = rig.sent(), rig.sent()
    for waiter in (one, two):
        rig.begun(waiter)
    rig.gateway.begin_drain()
    rig.reports(Outcome(rid="r1"), Outcome(rid="r2"))
    assert (rig.drained, rig.answered) == (1, 0)
    rig.gateway.close(one)
    assert rig.answered == 0
    rig.gateway.close(two)
    assert rig.answered == 1


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(rid="r1", reason="expired-in-queue", started=False), 1),
        (Outcome(rid="r1", reason="drain-cut", started=False), 1),
        (Outcome(rid="r1", reason="drain-cut", started=True), None),
        (Outcome(rid="r1", reason="deadline-exceeded"), None),
        (Outcome(rid="r1", reason="too-many", status=422), None),
        (Outcome(rid="r1"), None),
    ],
)
def test_an_outcome_that_is_a_503_says_when_to_try_again(outcome: Outcome, told: int | None) -> None:
    rig = Rig()
    assert rig.gateway.retry_after(rig.opened(), outcome) == told


def test_a_snapshot_reads_what_has_not_been_read_yet() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    rig.sink.unread = [Begun(waiter.rid, 1, "w1", 100.0)]
    said = rig.gateway.snapshot()
    assert (said["state"], said["ready"]) == ("serving", True)
    assert (said["queue_depth"], said["queue_limit"], said["queue_bytes"]) == (0, 3, 0)
    assert said["endpoints"]["plain"] == {"in_flight": 1, "limit": 2}
    assert said["workers"] == {"idle": 0, "busy": 1, "overdue": 0, "wedged": 0}


def test_events_that_nobody_wants_are_never_made() -> None:
    class Few(Rig):
        kinds = frozenset({"terminal"})

    rig = Few()
    waiter, _ = rig.sent()
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1"))
    assert [event.kind for event in rig.events] == ["terminal"]
