"""The gateway, one decision at a time; what holds in every history is in tests/simulation."""

import logging

import pytest

from offloop import errors
from offloop.core.drain import Drain
from offloop.core.lifecycle import State
from offloop.messages import Begun, Chunk, Freed, Outcome, Refused, Withdrawn, WorkerGone, WorkerUp
from tests.unit.ingress.rig import Promise, Rig

# ---- the way in


def test_one_request_from_its_arrival_to_its_answer() -> None:
    rig = Rig()
    waiter, promise = rig.sent(request_id="label")
    assert [envelope.payload for envelope, _ in rig.sink.put_to] == [b"body"]
    rig.begun(waiter)
    assert rig.gateway.backlog.depth == 0
    rig.reports(Outcome(rid="r1", payload=b"reply", worker="w1"))
    assert promise.outcome == Outcome(rid="r1", payload=b"reply", worker="w1")
    assert rig.gateway.unsent == 1
    rig.gateway.close(waiter)
    rig.gateway.close(waiter)
    assert rig.gateway.unsent == 0
    kinds = [event.kind for event in rig.events]
    assert kinds == ["worker_up", "arrive", "admit", "waiter_add", "enqueue", "terminal", "waiter_del"]
    assert {event.request_id for event in rig.events if event.kind in ("arrive", "admit", "terminal")} == {"label"}


def test_a_refusal_says_which_request_and_when_to_try_again() -> None:
    rig = Rig()
    rig.opened()
    rig.opened()
    with pytest.raises(errors.EndpointBusy) as refused:
        rig.opened(request_id="label")
    error = refused.value
    assert (error.endpoint, error.request_id, error.started, error.retry_safe) == ("plain", "label", False, True)
    assert error.retry_after == 1
    assert [event.outcome for event in rig.seen("reject")] == ["endpoint-busy"]
    assert rig.gateway.refused == 1


def test_what_a_loop_has_begun_and_nobody_has_read_yet_is_read_before_a_refusal() -> None:
    rig = Rig(limit=1)
    waiter, _ = rig.sent("again")
    rig.sink.unread = [Begun(waiter.rid, 1, "w1", 100.0)]
    assert rig.opened("again").rid == "r2"
    with pytest.raises(errors.QueueFull):
        rig.opened("again")


def test_what_was_read_before_an_admission_is_told_before_it() -> None:
    rig = Rig(limit=1)
    waiter, _ = rig.sent("again")
    rig.sink.unread = [Begun(waiter.rid, 1, "w1", 100.0), Outcome(rid=waiter.rid)]
    rig.sink.settle, settle = lambda: (setattr(rig, "now", 101.0), settle()), rig.sink.settle  # type: ignore[method-assign]
    rig.opened("again")
    assert rig.seen("admit")[-1].t >= rig.seen("terminal")[-1].t


@pytest.mark.parametrize(
    ("timeout", "deadline"),
    [(None, 110.0), (2.0, 102.0), (99.0, 110.0), (0.0, 100.0), (-5.0, 100.0), (float("nan"), 110.0)],
)
def test_a_timeout_shortens_the_deadline_and_never_lengthens_it(timeout: float | None, deadline: float) -> None:
    assert Rig().opened(timeout=timeout).deadline == deadline


def test_a_body_that_turns_out_smaller_than_declared_gives_its_bytes_back() -> None:
    rig = Rig()
    waiter = rig.opened(declared=90)
    rig.gateway.send(waiter, b"0123456789")
    assert rig.gateway.backlog.bytes == 10


def test_a_body_that_grows_reserves_as_it_arrives() -> None:
    rig = Rig()
    waiter = rig.opened()
    rig.gateway.grow(waiter, 40)
    rig.gateway.grow(waiter, 30)
    assert rig.gateway.backlog.bytes == 40
    rig.gateway.send(waiter, b"x" * 60)
    assert rig.gateway.backlog.bytes == 60


def test_a_body_that_outgrows_its_endpoint_is_refused_and_its_place_is_free() -> None:
    rig = Rig()
    waiter = rig.opened()
    with pytest.raises(errors.PayloadTooLarge):
        rig.gateway.grow(waiter, 101)
    assert (len(rig.gateway.waiters), rig.gateway.backlog.depth, rig.gateway.unsent) == (0, 0, 0)
    assert rig.ends() == [("r1", "payload-too-large", False)]
    rig.gateway.grow(waiter, 1000)
    rig.gateway.send(waiter, b"more")
    rig.gateway.close(waiter)
    assert rig.sink.put_to == []


def test_a_body_that_outgrows_the_queue_is_refused_only_after_a_look_at_what_has_begun() -> None:
    rig = Rig(size=100)
    first, _ = rig.sent("again", payload=b"x" * 60)
    second = rig.opened("again", declared=40)
    rig.sink.unread = [Begun(first.rid, 1, "w1", 100.0)]
    rig.gateway.grow(second, 90)
    third = rig.opened("again")
    with pytest.raises(errors.QueueFull) as refused:
        rig.gateway.grow(third, 11)
    assert refused.value.retry_after == 1


def test_an_upload_that_is_unfinished_at_its_deadline_ends_there() -> None:
    rig = Rig()
    promise = Promise()
    waiter = rig.gateway.open("plain", promise, timeout=1.0)
    rig.until(101.0)
    assert promise.outcome == Outcome(rid="r1", reason="upload-timeout", started=False)
    rig.gateway.send(waiter, b"")
    assert rig.sink.put_to == []


# ---- leaving


def test_a_caller_that_leaves_before_its_request_began_takes_it_back() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    rig.gateway.cancel(waiter, "disconnect")
    rig.gateway.cancel(waiter, "disconnect")
    rig.gateway.close(waiter)
    assert rig.sink.withdrawn == ["r1"]
    assert rig.ends() == [("r1", "cancelled", False)]
    assert promise.outcome is None
    assert rig.gateway.unsent == 0


def test_a_caller_that_leaves_a_running_request_leaves_its_loop_overdue() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    rig.begun(waiter)
    rig.gateway.close(waiter)
    assert rig.sink.cancelled == ["r1"]
    assert rig.ends() == [("r1", "cancelled", True)]
    assert rig.crew.states()["overdue"] == 1
    rig.reports(Freed("r1", 1, "w1"))
    assert rig.crew.states()["idle"] == 1


def test_a_caller_that_leaves_after_the_outcome_had_come_cancels_nothing() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    rig.sink.unread = [Begun("r1", 1, "w1", 100.0), Outcome(rid="r1")]
    rig.gateway.cancel(waiter, "cancelled")
    assert rig.ends() == [("r1", "ok", True)]
    assert promise.outcome is None
    assert rig.sink.cancelled == []


def test_under_finish_a_caller_that_leaves_is_not_missed_once_its_body_was_complete() -> None:
    rig = Rig()
    waiter, promise = rig.sent("keeps")
    rig.gateway.cancel(waiter, "disconnect")
    rig.gateway.close(waiter)
    assert rig.sink.withdrawn == []
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1"))
    assert rig.ends() == [("r1", "ok", True)]
    assert promise.outcome is None


@pytest.mark.parametrize("cause", ["disconnect", "cancelled"])
def test_under_finish_an_unfinished_upload_is_cancelled_like_any_other(cause: str) -> None:
    rig = Rig()
    waiter = rig.opened("keeps")
    rig.gateway.cancel(waiter, cause)
    assert rig.ends() == [("r1", "cancelled", False)]


def test_a_promise_that_was_cancelled_is_not_settled() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    promise.cancelled = True
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1"))
    assert promise.outcome is None
    assert rig.gateway.unsent == 0


def test_a_promise_may_close_its_waiter_from_within() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    promise.set_result = lambda outcome: rig.gateway.close(waiter)  # type: ignore[method-assign]
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1"))
    assert rig.gateway.unsent == 0


def test_a_request_ends_once() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    for reason in ("ok", "node-failed"):
        rig.gateway._end(waiter, Outcome(rid="r1", reason=reason), rig.now)
    assert promise.outcome == Outcome(rid="r1")
    assert len(rig.ends()) == 1


# ---- deadlines and withdrawals


def test_what_never_began_expires_in_the_queue_and_what_began_exceeds_its_deadline() -> None:
    rig = Rig()
    begun, one = rig.sent()
    rig.begun(begun)
    _, two = rig.sent()
    rig.until(110.0)
    assert one.outcome == Outcome(rid="r1", reason="deadline-exceeded", started=True)
    assert two.outcome == Outcome(rid="r2", reason="expired-in-queue", started=False)
    assert rig.sink.cancelled == ["r1"]


def test_a_reply_that_came_before_the_deadline_and_is_read_after_it_still_counts() -> None:
    rig = Rig()
    _, promise = rig.sent()
    rig.sink.unread = [Begun("r1", 1, "w1", 109.0), Outcome(rid="r1")]
    rig.until(110.0)
    assert promise.outcome == Outcome(rid="r1")


@pytest.mark.parametrize(
    ("answer", "reason"), [(False, "expired-in-queue"), (True, "deadline-exceeded"), (None, "deadline-exceeded")]
)
def test_an_outcome_waits_a_moment_for_a_transport_that_has_to_be_asked(answer: bool | None, reason: str) -> None:
    rig = Rig(shared=False)
    _, promise = rig.sent()
    rig.sink.answers = [None]
    rig.until(110.01)
    assert promise.outcome is None
    rig.reports(Withdrawn("r1", answer))
    assert promise.outcome == Outcome(rid="r1", reason=reason, started=answer)
    assert rig.seen("terminal")[0].deadline == 110.0


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    rig = Rig(shared=False)
    _, promise = rig.sent()
    rig.sink.answers = [None]
    rig.until(110.05)
    assert promise.outcome == Outcome(rid="r1", reason="deadline-exceeded", started=None)
    assert rig.gateway.backlog.depth == 1, "for all that is known it may yet begin"
    rig.reports(Withdrawn("r1", begun=False))
    assert rig.gateway.backlog.depth == 0
    assert rig.crew.place() == "w1"


def test_a_beginning_answers_a_withdrawal() -> None:
    rig = Rig(shared=False)
    waiter, promise = rig.sent()
    rig.sink.answers = [None]
    rig.until(110.01)
    rig.begun(waiter)
    assert promise.outcome == Outcome(rid="r1", reason="deadline-exceeded", started=True)
    assert rig.sink.cancelled == ["r1"]
    assert rig.crew.states()["overdue"] == 1


def test_a_caller_that_leaves_does_not_wait_for_a_transport_that_has_to_be_asked() -> None:
    rig = Rig(shared=False)
    waiter, _ = rig.sent()
    rig.sink.answers = [None]
    rig.gateway.close(waiter)
    assert rig.ends() == [("r1", "cancelled", None)]
    assert rig.sink.cancelled == ["r1"]
    rig.begun(waiter)
    assert rig.crew.states()["overdue"] == 1, "what nobody waits for may not hold its loop for ever"
    rig.reports(Withdrawn("r1", begun=True), Freed("r1", 1, "w1"))
    assert rig.crew.states()["idle"] == 1


def test_a_caller_may_leave_while_a_withdrawal_is_being_answered() -> None:
    rig = Rig(shared=False)
    waiter, _ = rig.sent()
    rig.sink.answers = [None]
    rig.until(110.01)
    rig.gateway.close(waiter)
    assert rig.ends() == [("r1", "cancelled", None)]
    assert rig.gateway.backlog.depth == 1
    rig.reports(Withdrawn("r1", begun=False))
    assert rig.gateway.backlog.depth == 0


def test_a_place_that_a_withdrawal_has_freed_goes_to_the_next_in_line() -> None:
    rig = Rig(shared=False)
    first, _ = rig.sent("again")
    rig.sent("again")
    assert rig.sink.rids == ["r1"]
    rig.gateway.close(first)
    assert rig.sink.rids == ["r1", "r2"]


def test_one_timer_serves_all_and_an_early_one_does_no_harm() -> None:
    rig = Rig()
    rig.opened()
    rig.opened(timeout=1.0)
    assert [timer.when for timer in rig.pending] == [101.0]
    rig.pending[0].callback()
    assert rig.ends() == []
    assert rig.pending[-1].when == 101.0


def test_a_late_timer_is_told_as_lag() -> None:
    rig = Rig()
    rig.opened(timeout=1.0)
    timer = rig.pending[0]
    rig.now = 101.5
    timer.callback()
    assert [event.value for event in rig.seen("lag")] == [0.5]


def test_what_goes_wrong_with_one_waiter_does_not_stop_the_watch_over_the_others() -> None:
    rig = Rig()
    rig.sent("again", timeout=1.0)
    _, promise = rig.sent("again", timeout=2.0)
    rig.sink.withdraw = lambda rid: rig.sink.broken  # type: ignore[attr-defined, method-assign]
    with pytest.raises(AttributeError):
        rig.until(101.0)
    rig.sink.withdraw = lambda rid: True  # type: ignore[method-assign]
    rig.until(102.0)
    assert promise.outcome is not None


# ---- workers


def test_a_reply_for_nobody_is_counted_and_dropped() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1", worker="w1"), Outcome(rid="r1", worker="w1"), Outcome(rid="nobody's"))
    assert [event.rid for event in rig.seen("late_drop")] == ["r1", "nobody's"]


def test_a_report_that_cannot_be_applied_does_not_stop_the_reader(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    waiter.chunks = lambda chunk: 1 / 0
    rig.begun(waiter)
    with caplog.at_level(logging.ERROR, "offloop"):
        rig.reports(Chunk("r1", 1, 1, b""), Outcome(rid="r1"))
    assert promise.outcome is not None
    assert "Chunk" in caplog.text


def test_chunks_reach_a_caller_that_streams_and_only_of_its_own_attempt() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    seen: list[Chunk] = []
    rig.reports(Chunk("r1", 1, 1, b"nobody looks"))
    waiter.chunks = seen.append
    rig.reports(Chunk("r1", 2, 1, b"another attempt's"), Chunk("r2", 1, 1, b"another's"), Chunk("r1", 1, 2, b"own"))
    assert [chunk.payload for chunk in seen] == [b"own"]


def test_what_a_dead_worker_had_not_begun_is_handed_out_again_in_its_order() -> None:
    rig = Rig(shared=False, read_ahead=2, limit=9)
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
    assert rig.crew.place() is None
    assert len(rig.seen("late_drop")) == 1
    rig.reports(Outcome(rid="r1", attempt=2))
    assert promise.outcome == Outcome(rid="r1", attempt=2)


def test_a_death_answers_the_withdrawals_that_the_worker_owed() -> None:
    rig = Rig(shared=False, read_ahead=1)
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


# ---- the end


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


# ---- what it tells


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
