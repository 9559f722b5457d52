"""What the reports of workers, and their ends, do to requests."""

import logging

import pytest

from offloop import errors
from offloop.messages import Begun, Chunk, Outcome, Refused, WorkerGone, WorkerUp
from tests.unit.ingress.rig import Rig


def test_a_reply_for_nobody_is_counted_and_dropped() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1", worker="w1"), Outcome(rid="r1", worker="w1"), Outcome(rid="nobody's"))
    assert [event.rid for event in rig.seen("late_drop")] == ["r1", "nobody's"]


def test_a_report_that_cannot_be_applied_does_not_stop_the_reader(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    waiter.hears = lambda chunk: 1 / 0
    rig.begun(waiter)
    with caplog.at_level(logging.ERROR, "offloop"):
        rig.reports(Chunk("r1", 1, 1, b""), Outcome(rid="r1"))
    assert promise.outcome is not None
    assert "Chunk" in caplog.text


def test_chunks_reach_a_caller_that_streams_and_only_of_its_own_attempt() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    seen: list[Chunk] = []
    waiter.hears = seen.append
    rig.reports(Chunk("r1", 2, 1, b"another attempt's"), Chunk("r2", 1, 1, b"another's"), Chunk("r1", 1, 2, b"own"))
    assert [chunk.payload for chunk in seen] == [b"own"]


def test_what_a_dead_worker_had_not_begun_is_handed_out_again_in_its_order() -> None:
    rig = Rig(shared=False, read_ahead=2, limit=9)
    rig.crew.took("again", 0.0)
    for _ in range(4):
        rig.sent("again")
    assert rig.sink.rids == ["r1", "r2", "r3"]
    rig.gone("w1")
    rig.reports(WorkerUp("w2"))
    assert rig.sink.rids == ["r1", "r2", "r3", "r1", "r2", "r3"]
    assert {envelope.attempt for envelope, _ in rig.sink.put_to} == {1}


def test_what_a_dead_worker_was_running_is_lost() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    rig.begun(waiter)
    rig.gone("w1")
    assert promise.outcome == Outcome(rid="r1", reason="worker-lost", started=True)
    rig.gone("nobody")


def test_what_a_dead_worker_was_running_for_nobody_is_nobodys_loss() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    rig.begun(waiter)
    rig.begun(waiter)
    rig.gateway.close(waiter)
    rig.gone("w1")
    assert rig.ends() == [("r1", "cancelled", True)]


def test_what_a_dead_worker_was_running_begins_again_where_it_may_in_its_order() -> None:
    rig = Rig(0, shared=False, limit=9)
    rig.reports(WorkerUp("w1", loops=2))
    for _ in range(2):
        rig.begun(rig.sent("again")[0])
    rig.sent("again")
    rig.gone("w1")
    rig.reports(WorkerUp("w2", loops=3))
    assert [(envelope.rid, envelope.attempt) for envelope, _ in rig.sink.put_to[2:]] == [
        ("r1", 2),
        ("r2", 2),
        ("r3", 1),
    ]


def test_a_request_begins_so_often_and_no_more() -> None:
    rig = Rig()
    waiter, promise = rig.sent("again")
    for attempt in (1, 2, 3):
        assert promise.outcome is None
        rig.begun(waiter, f"w{attempt}", attempt)
        rig.gone(f"w{attempt}")
        rig.reports(WorkerUp(f"w{attempt + 1}"))
    assert promise.outcome == Outcome(rid="r1", reason="worker-lost", attempt=3, started=True)


def test_what_waits_to_begin_again_has_begun() -> None:
    rig = Rig()
    waiter, promise = rig.sent("again")
    rig.begun(waiter)
    rig.gone("w1")
    rig.until(110.0)
    assert promise.outcome == Outcome(rid="r1", reason="deadline-exceeded", attempt=2, started=True)


def test_reports_of_an_earlier_attempt_change_nothing() -> None:
    rig = Rig(2, shared=False)
    waiter, promise = rig.sent("again")
    rig.begun(waiter)
    rig.gone("w1")
    rig.begun(waiter, "w2", attempt=2)
    rig.reports(Begun("r1", 1, "w1", 100.0), Outcome(rid="r1", attempt=1))
    assert promise.outcome is None
    assert rig.crew.place("again") is None
    assert len(rig.seen("late_drop")) == 1
    rig.reports(Outcome(rid="r1", attempt=2))
    assert promise.outcome == Outcome(rid="r1", attempt=2)


def test_a_death_answers_the_withdrawals_that_the_worker_owed() -> None:
    rig = Rig(shared=False, read_ahead=1)
    rig.crew.took("plain", 0.0)
    gone, _ = rig.sent()
    _, promise = rig.sent()
    rig.sink.answers = [None, None]
    rig.gateway.close(gone)
    rig.until(110.01)
    rig.gone("w1")
    assert promise.outcome == Outcome(rid="r2", reason="expired-in-queue", started=False)
    assert rig.gateway.backlog.depth == 0


def test_what_a_transport_refuses_ends_and_its_room_goes_to_the_next() -> None:
    rig = Rig(shared=False)
    _, promise = rig.sent("again")
    rig.sent("again")
    rig.reports(Refused("r1", "backend-unavailable"), Refused("nobody's", "queue-full"))
    assert promise.outcome == Outcome(rid="r1", reason="backend-unavailable", started=False)
    assert rig.sink.rids == ["r1", "r2"]


def test_a_refusal_frees_the_place_of_a_request_whose_caller_has_gone() -> None:
    rig = Rig(shared=False)
    waiter, _ = rig.sent()
    rig.sink.answers = [None]
    rig.gateway.close(waiter)
    rig.reports(Refused("r1", "backend-unavailable"))
    assert rig.gateway.backlog.depth == 0


def test_a_loop_that_works_on_after_the_reply_is_held_and_may_not_be_held_for_ever() -> None:
    rig = Rig(shared=False)
    waiter, promise = rig.sent("again")
    rig.sent("again")
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1", last=False))
    assert promise.outcome is not None
    assert rig.sink.rids == ["r1"]
    rig.until(115.0)
    assert rig.workforce.replaced == ["w1"]


def test_a_wedged_loop_is_replaced_once_and_with_none_left_nothing_is_admitted() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    rig.begun(waiter)
    rig.until(116.0)
    assert rig.workforce.replaced == ["w1"]
    assert [event.worker for event in rig.seen("overdue")] == ["w1"]
    assert not rig.gateway.ready
    with pytest.raises(errors.BackendUnavailable):
        rig.opened()
    rig.reports(WorkerUp("w2"))
    assert rig.gateway.ready
    rig.reports(Outcome(rid="r1", worker="w1"), WorkerGone("w1", "stopped"))
    assert rig.crew.states() == {"idle": 1, "busy": 0, "overdue": 0, "wedged": 0}


def test_a_beginning_that_is_read_after_the_grace_is_no_evidence_of_lag() -> None:
    rig = Rig(grace=0.0)
    waiter, _ = rig.sent()
    rig.sink.answers = [False]
    rig.until(110.0)
    rig.now = 111.0
    rig.begun(waiter)
    rig.until(111.0)
    assert rig.workforce.replaced == ["w1"]
    assert rig.seen("lag") == []
