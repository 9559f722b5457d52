"""A gateway whose workers are elsewhere: the broker judges the bound, and what is there can be lost from sight."""

import pytest

from offloop import errors
from offloop.core.drain import Drain
from offloop.core.waiters import Phase
from offloop.messages import Begun, Linked, Outcome, Refused, Requeued, Staffed, Taken, Withdrawn
from tests.unit.ingress.rig import Rig


def test_a_request_is_admitted_when_the_broker_has_taken_it_as_of_its_arrival() -> None:
    rig = Rig(distant=True)
    waiter, promise = rig.sent()
    assert not rig.seen("admit")
    rig.now = 100.5
    rig.reports(Taken(waiter.rid), Taken(waiter.rid))
    (admitted,) = rig.seen("admit")
    assert (admitted.t, admitted.rid) == (100.0, waiter.rid)
    rig.begun(waiter)
    rig.reports(Outcome(rid=waiter.rid, payload=b"reply"))
    assert promise.outcome is not None
    assert rig.ends() == [("r1", "ok", True)]
    assert len(rig.seen("admit")) == 1


def test_one_that_the_broker_refuses_is_a_rejection_and_no_request() -> None:
    rig = Rig(distant=True)
    waiter, promise = rig.sent()
    rig.reports(Refused(waiter.rid, "queue-full"))
    assert promise.outcome is not None
    assert (promise.outcome.reason, promise.outcome.started) == ("queue-full", False)
    assert [(event.rid, event.outcome) for event in rig.seen("reject")] == [("r1", "queue-full")]
    assert (rig.seen("admit"), rig.ends(), rig.gateway.refused) == ([], [], 1)
    assert (len(rig.gateway.waiters), rig.gateway.backlog.depth) == (0, 0)
    assert rig.gateway.retry_after(waiter, promise.outcome) == 1


def test_one_that_nobody_answers_for_counts_as_admitted_when_it_ends() -> None:
    rig = Rig(distant=True)
    rig.sink.answers = [None]
    rig.sent()
    rig.until(111.0)
    assert [event.t for event in rig.seen("admit")] == [100.0]
    assert rig.ends() == [("r1", "deadline-exceeded", None)]


def test_what_the_broker_counts_does_not_count_here_and_its_bytes_are_not_here() -> None:
    rig = Rig(distant=True, limit=2)
    first, _ = rig.sent("again")
    rig.sent("again")
    with pytest.raises(errors.QueueFull):
        rig.opened("again")
    rig.reports(Taken(first.rid))
    assert first.envelope is None
    third = rig.opened("again")
    with pytest.raises(errors.QueueFull):
        rig.opened("again")
    assert rig.gateway.backlog.depth == 3
    assert rig.gateway.backlog.bytes == 4
    rig.begun(first)
    rig.gateway.cancel(third, "cancelled")
    assert (rig.gateway.backlog.depth, rig.gateway.backlog.counted) == (1, set())


def test_what_a_broker_takes_and_does_not_count_counts_here_until_it_begins() -> None:
    rig = Rig(distant=True, counted_there=False, limit=2)
    first, _ = rig.sent("again")
    second, _ = rig.sent("again")
    rig.reports(Taken(first.rid), Taken(second.rid))
    assert [event.rid for event in rig.seen("admit")] == [first.rid, second.rid]
    with pytest.raises(errors.QueueFull):
        rig.opened("again")
    rig.begun(first)
    assert rig.gateway.backlog.depth == 1
    rig.opened("again")


def test_what_nobody_will_ever_know_of_ends_at_once_and_frees_its_place() -> None:
    rig = Rig(distant=True, limit=2)
    rig.sink.answers = [None]
    waiter, promise = rig.sent()
    rig.until(waiter.deadline)
    assert (promise.outcome, rig.gateway.backlog.depth) == (None, 1)
    rig.reports(Withdrawn(waiter.rid, begun=None))
    assert promise.outcome is not None
    assert (promise.outcome.reason, promise.outcome.started) == ("deadline-exceeded", None)
    assert rig.gateway.backlog.depth == 0


def test_what_is_taken_for_nobody_changes_nothing() -> None:
    rig = Rig(distant=True)
    waiter, _ = rig.sent()
    rig.reports(Outcome(rid=waiter.rid))
    rig.reports(Taken(waiter.rid), Refused(waiter.rid, "queue-full"), Requeued(waiter.rid, 2))
    assert rig.ends() == [("r1", "ok", True)]
    assert (rig.gateway.backlog.depth, rig.gateway.backlog.counted) == (0, set())


def test_what_was_queued_once_more_is_another_attempt_and_only_its_reply_counts() -> None:
    rig = Rig(distant=True)
    waiter, promise = rig.sent("again")
    rig.reports(Taken(waiter.rid), Begun(waiter.rid, 1, "w1", 100.0), Requeued(waiter.rid, 2))
    assert (waiter.attempt, waiter.phase, waiter.begun_at) == (2, Phase.QUEUED, 0.0)
    rig.reports(Requeued(waiter.rid, 2), Outcome(rid=waiter.rid, payload=b"late"))
    assert promise.outcome is None
    assert [event.attempt for event in rig.seen("late_drop")] == [1]
    rig.reports(Outcome(rid=waiter.rid, attempt=2, payload=b"second"))
    assert promise.outcome is not None
    assert promise.outcome.payload == b"second"


@pytest.mark.parametrize(("begun", "reason"), [(False, "expired-in-queue"), (None, "deadline-exceeded")])
def test_another_attempt_says_no_more_than_is_known_of_the_last(begun: bool | None, reason: str) -> None:
    rig = Rig(distant=True)
    waiter, _ = rig.sent("again")
    rig.reports(Taken(waiter.rid), Requeued(waiter.rid, 2, begun=begun))
    rig.until(waiter.deadline)
    rig.reports(Withdrawn(waiter.rid, begun=False))
    assert rig.ends() == [("r1", reason, begun)]


@pytest.mark.parametrize("begun", [False, None, True])
def test_another_attempt_that_is_refused_says_whether_an_earlier_one_began(begun: bool | None) -> None:
    rig = Rig(distant=True)
    waiter, _ = rig.sent("again")
    rig.reports(Taken(waiter.rid), Requeued(waiter.rid, 2, begun=begun), Requeued(waiter.rid, 3, begun=False))
    rig.reports(Refused(waiter.rid, "backend-unavailable"))
    assert rig.ends() == [("r1", "backend-unavailable", begun)]


def test_what_is_recalled_while_it_is_queued_once_more_stays_recalled() -> None:
    rig = Rig(distant=True)
    rig.sink.answers = [None]
    waiter, _ = rig.sent("again")
    rig.reports(Taken(waiter.rid))
    rig.until(110.0)
    rig.reports(Requeued(waiter.rid, 2))
    assert waiter.phase is Phase.RECALLED
    rig.until(111.0)
    assert rig.ends() == [("r1", "deadline-exceeded", True)]


def test_what_a_worker_comes_upon_too_late_has_expired_in_the_queue() -> None:
    rig = Rig(distant=True)
    waiter, _ = rig.sent()
    rig.reports(Taken(waiter.rid))
    rig.now = 109.999
    rig.reports(Withdrawn(waiter.rid, begun=False))
    assert rig.ends() == [("r1", "expired-in-queue", False)]


@pytest.mark.parametrize(
    ("said", "tried", "told"),
    [
        (("expired-in-queue", False), True, ("deadline-exceeded", True)),
        (("expired-in-queue", False), None, ("deadline-exceeded", None)),
        (("expired-in-queue", False), False, ("expired-in-queue", False)),
        (("backend-unavailable", False), True, ("backend-unavailable", True)),
        (("backend-unavailable", False), None, ("backend-unavailable", None)),
        (("ok", True), None, ("ok", True)),
    ],
)
def test_what_a_worker_says_of_its_attempt_does_not_deny_that_an_earlier_had_begun(
    said: tuple[str, bool], tried: bool | None, told: tuple[str, bool | None]
) -> None:
    rig = Rig(distant=True)
    waiter, promise = rig.sent("again")
    rig.reports(Taken(waiter.rid), Requeued(waiter.rid, 2, tried))
    reason, started = said
    rig.reports(Outcome(waiter.rid, reason, attempt=2, started=started))
    assert promise.outcome is not None
    assert (promise.outcome.reason, promise.outcome.started) == told
    assert rig.ends() == [(waiter.rid, *told)]


def test_a_broker_that_cannot_be_reached_refuses_at_once_and_those_who_wait_go_on_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(distant=True)
    waiter, promise = rig.sent()
    rig.reports(Taken(waiter.rid))
    with caplog.at_level("INFO", "offloop"):
        rig.reports(Linked(False), Linked(False))
        assert not rig.gateway.ready
        with pytest.raises(errors.BackendUnavailable):
            rig.opened()
        assert promise.outcome is None
        rig.reports(Linked(True))
    assert rig.gateway.ready
    assert rig.opened().rid == "r3"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_who_comes_and_goes_elsewhere_is_told() -> None:
    rig = Rig(distant=True)
    rig.reports(Staffed({"w2": (2, 1)}))
    assert [event.worker for event in rig.seen("worker_up")] == ["w1", "w2"]
    assert [(event.worker, event.outcome) for event in rig.seen("worker_lost")] == [("w1", "stopped")]
    assert rig.gateway.snapshot()["workers"] == {"idle": 1, "busy": 1, "overdue": 0, "wedged": 0}


def test_without_workers_for_a_while_requests_are_refused_though_the_process_is_ready() -> None:
    rig = Rig(distant=True)
    rig.reports(Staffed({}))
    rig.opened()
    rig.now = 105.1
    with pytest.raises(errors.BackendUnavailable):
        rig.opened()
    assert rig.gateway.ready


def test_a_pool_without_workers_is_closed_and_the_others_are_not() -> None:
    rig = Rig(distant=True, pools={"plain": "gpu", "again": "default"})
    rig.reports(Staffed({"w1": (1, 0)}, frozenset({"default"})))
    rig.now = 105.1
    with pytest.raises(errors.BackendUnavailable):
        rig.opened("plain")
    with pytest.raises(errors.BackendUnavailable):
        rig.gateway.knock("plain")
    rig.gateway.knock("again")
    rig.opened("again")


def test_a_drain_cuts_what_the_broker_gives_back_and_what_has_begun() -> None:
    rig = Rig(distant=True, drain=Drain(1.0))
    rig.sink.answers = [None, None]
    queued, _ = rig.sent("again")
    begun, _ = rig.sent("again")
    rig.reports(Taken(queued.rid), Taken(begun.rid))
    rig.begun(begun)
    rig.gateway.begin_drain()
    rig.until(101.0)
    rig.reports(Withdrawn(queued.rid, begun=False))
    assert sorted(rig.ends()) == [("r1", "drain-cut", False), ("r2", "drain-cut", True)]
    assert rig.drained == 1
