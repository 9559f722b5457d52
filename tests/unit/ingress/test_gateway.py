"""The way in and the way out, one decision at a time; what holds in every history is in tests/simulation."""

import pytest

from offloop import errors
from offloop.messages import Begun, Freed, Outcome, Withdrawn
from tests.unit.ingress.rig import Promise, Rig


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


# ---- who stays to hear how it ended


def test_what_is_withdrawn_before_it_began_ends_as_such_for_whoever_waits() -> None:
    rig = Rig()
    first, _ = rig.sent()
    rig.begun(first)
    waiter, promise = rig.sent()
    rig.gateway.withdraw(waiter)
    assert promise.outcome == Outcome(rid=waiter.rid, reason="cancelled", started=False)
    assert [event.outcome for event in rig.seen("disconnect")] == ["cancelled"]
    rig.gateway.withdraw(waiter)
    assert len(rig.seen("disconnect")) == 1
    assert rig.gateway.unsent == 1
    rig.gateway.close(waiter)
    assert rig.gateway.unsent == 0


def test_what_is_withdrawn_while_it_runs_is_told_to_have_begun() -> None:
    rig = Rig()
    waiter, promise = rig.sent("keeps")  # who leaves it lets it finish; who wants it no more does not
    rig.begun(waiter)
    rig.gateway.withdraw(waiter)
    assert promise.outcome == Outcome(rid=waiter.rid, reason="cancelled", started=True)
    assert rig.sink.cancelled == [waiter.rid]


@pytest.mark.parametrize("begun", [True, False])
def test_what_lies_with_a_worker_when_it_is_withdrawn_ends_when_that_has_answered(begun: bool) -> None:
    rig = Rig(shared=False)
    waiter, promise = rig.sent()
    rig.sink.answers = [None]
    rig.gateway.withdraw(waiter)
    rig.gateway.withdraw(waiter)
    assert (promise.outcome, len(rig.seen("disconnect"))) == (None, 1)
    rig.reports(Withdrawn(waiter.rid, begun))
    assert promise.outcome == Outcome(rid=waiter.rid, reason="cancelled", started=begun)


def test_what_had_ended_when_it_was_withdrawn_ends_as_it_did() -> None:
    rig = Rig()
    waiter, promise = rig.sent()
    rig.sink.unread = [Begun(waiter.rid, 1, "w1", 100.0), Outcome(rid=waiter.rid, payload=b"reply")]
    rig.gateway.withdraw(waiter)
    assert promise.outcome == Outcome(rid=waiter.rid, payload=b"reply")
    assert rig.ends() == [(waiter.rid, "ok", True)]


def test_whoever_has_left_withdraws_nothing() -> None:
    rig = Rig()
    waiter, _ = rig.sent("keeps")
    rig.gateway.cancel(waiter, "disconnect")
    rig.gateway.withdraw(waiter)
    assert [event.outcome for event in rig.seen("disconnect")] == ["disconnect"]
    assert rig.gateway.waiters.count("keeps") == 1


# ---- who is refused for what it has, or before it has asked


def test_a_caller_that_has_as_many_as_it_may_is_refused_as_from_a_busy_endpoint() -> None:
    rig = Rig()
    with pytest.raises(errors.EndpointBusy) as refused:
        rig.opened("again", crowded=True)
    assert (refused.value.retry_after, refused.value.retry_safe) == (1, True)
    assert [(event.kind, event.outcome) for event in rig.events[1:]] == [("arrive", ""), ("reject", "endpoint-busy")]
    with pytest.raises(errors.PayloadTooLarge):  # what comes before it in the contract's order
        rig.opened("again", crowded=True, declared=101)
    rig.gateway.begin_drain()
    with pytest.raises(errors.Draining):
        rig.opened("again", crowded=True)


def test_whoever_knocks_hears_what_would_refuse_whatever_it_asked_and_that_counts_as_a_refusal() -> None:
    rig = Rig(limit=2)
    rig.opened()
    rig.gateway.knock("plain", "label")
    rig.opened()
    rig.gateway.knock("again")  # the queue is full, and that is not what it asks about
    assert rig.seen("reject") == []
    with pytest.raises(errors.EndpointBusy) as busy:
        rig.gateway.knock("plain", "label")
    assert (busy.value.endpoint, busy.value.request_id, busy.value.retry_after) == ("plain", "label", 1)
    rig.gateway.begin_drain()
    with pytest.raises(errors.Draining):
        rig.gateway.knock("plain")
    told = [event.rid for event in rig.seen("arrive")[-2:]]
    assert [(event.rid, event.outcome) for event in rig.seen("reject")] == [
        (told[0], "endpoint-busy"), (told[1], "draining"),
    ]  # fmt: skip
    assert rig.gateway.refused == 2


def test_what_has_ended_and_nobody_has_read_yet_is_read_before_anybody_is_sent_away() -> None:
    rig = Rig()
    waiter, _ = rig.sent()
    rig.sent()
    rig.sink.unread = [Begun(waiter.rid, 1, "w1", 100.0), Outcome(rid=waiter.rid)]
    rig.gateway.knock("plain")
    assert rig.seen("reject") == []
