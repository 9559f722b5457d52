"""Deadlines, withdrawals and timers."""

import pytest

from offloop.messages import Begun, Freed, Outcome, Withdrawn
from tests.unit.ingress.rig import Rig


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
    assert rig.crew.place("plain") == "w1"


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
