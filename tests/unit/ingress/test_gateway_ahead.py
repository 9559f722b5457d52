"""Reading ahead and taking back; successors, failed starts, and how long work is queued for nobody."""

import pytest

from offloop import errors
from offloop.core.crew import PATIENCE, STRANDED, STUCK
from offloop.messages import Begun, Freed, Outcome, Refused, Withdrawn, WorkerGone, WorkerUp
from tests.unit.ingress.rig import Rig


def ahead(workers: int = 1, read_ahead: int = 16) -> Rig:
    """Worker processes, and an endpoint that is known to be quick."""
    rig = Rig(workers, shared=False, read_ahead=read_ahead, limit=9)
    rig.crew.took("again", 0.0)
    return rig


def places(rig: Rig) -> list[tuple[str, str | None]]:
    return [(envelope.rid, worker) for envelope, worker in rig.sink.put_to]


def told(rid: str, took: float) -> Outcome:
    return Outcome(rid=rid, worker="w1", begun_at=200.0, ended_at=200.0 + took)


def test_an_endpoint_is_read_ahead_once_it_has_been_seen_to_be_quick() -> None:
    rig = Rig(shared=False, read_ahead=16, limit=9)
    for _ in range(3):
        rig.sent("again")
    assert rig.sink.rids == ["r1"]
    rig.reports(told("r1", 0.0001))
    assert rig.sink.rids == ["r1", "r2", "r3"]


@pytest.mark.parametrize(
    "outcome",
    [told("r1", 0.1), Outcome(rid="r1", worker="w1", ended_at=0.0001), Outcome(rid="r1", begun_at=200.0, last=False)],
    ids=["slow", "never begun", "not over"],
)
def test_an_endpoint_is_not_read_ahead_after_what_was_slow_or_says_nothing(outcome: Outcome) -> None:
    rig = Rig(shared=False, read_ahead=16, limit=9)
    for _ in range(3):
        rig.sent("again")
    rig.reports(outcome)
    rig.reports(Freed("r1", 1, "w1"))
    assert rig.sink.rids == ["r1", "r2"]


def test_what_lies_with_a_busy_worker_goes_to_one_that_has_become_free() -> None:
    rig = ahead(2)
    for _ in range(5):
        rig.sent("again")
    assert places(rig) == [("r1", "w1"), ("r2", "w2"), ("r3", "w1"), ("r4", "w2"), ("r5", "w1")]
    rig.reports(Outcome(rid="r2", worker="w2"), Outcome(rid="r4", worker="w2"))
    rig.until(100.0 + STRANDED / 2)
    assert rig.sink.withdrawn == []
    rig.until(100.0 + STUCK)
    assert rig.sink.withdrawn == ["r3", "r5"]
    assert places(rig)[5:] == [("r3", "w2"), ("r5", "w2")]
    assert rig.gateway.backlog.depth == 3, "r1 has not begun either, as far as anyone has said"


def test_a_worker_that_has_to_be_asked_gives_back_later_or_never() -> None:
    rig = ahead(2)
    for _ in range(5):
        rig.sent("again")
    rig.sink.answers = [None, None]
    rig.reports(Outcome(rid="r2", worker="w2"), Outcome(rid="r4", worker="w2"))
    rig.until(101.0)
    assert rig.sink.withdrawn == ["r3", "r5"], "each is asked back once"
    assert len(places(rig)) == 5
    rig.reports(Withdrawn("r3", begun=False), Withdrawn("r5", begun=True))
    assert places(rig)[5:] == [("r3", "w2")]
    rig.reports(Begun("r5", 1, "w1", 101.0), Outcome(rid="r5", worker="w1"))
    assert rig.ends()[-1] == ("r5", "ok", True)


def test_what_is_given_back_late_goes_out_in_the_order_in_which_it_came() -> None:
    rig = ahead(2)
    for _ in range(9):
        rig.sent("again")
    rig.sink.answers = [None] * 4
    rig.reports(*(Outcome(rid=rid, worker="w2") for rid in ("r2", "r4", "r6", "r8")))
    rig.until(101.0)
    assert rig.sink.withdrawn == ["r3", "r5", "r7", "r9"]
    rig.reports(*(Withdrawn(rid, begun=False) for rid in ("r5", "r9", "r3", "r7")))
    assert places(rig)[9:] == [("r3", "w2"), ("r5", "w2"), ("r7", "w2"), ("r9", "w2")]


def test_what_has_begun_meanwhile_stays_where_it_is() -> None:
    rig = ahead(2)
    for _ in range(3):
        rig.sent("again")
    rig.sink.answers = [False]
    rig.reports(Outcome(rid="r2", worker="w2"))
    rig.until(101.0)
    assert rig.sink.withdrawn == ["r3"]
    assert len(places(rig)) == 3


def test_a_caller_that_leaves_while_its_request_is_asked_back_is_not_served() -> None:
    rig = ahead(2)
    waiters = [rig.sent("again")[0] for _ in range(3)]
    rig.sink.answers = [None, None]
    rig.reports(Outcome(rid="r2", worker="w2"))
    rig.until(101.0)
    rig.gateway.close(waiters[2])
    rig.reports(Withdrawn("r3", begun=False))
    assert len(places(rig)) == 3
    assert rig.gateway.backlog.depth == 1


def test_what_was_recalled_and_has_not_been_answered_is_not_asked_back_as_well() -> None:
    rig = ahead(2)
    waiters = [rig.sent("again")[0] for _ in range(3)]
    rig.sink.answers = [None]
    rig.gateway.close(waiters[2])
    rig.reports(Outcome(rid="r2", worker="w2"))
    rig.until(101.0)
    assert rig.sink.withdrawn == ["r3"]


def test_what_two_workers_had_not_begun_stands_before_the_rest_in_the_order_in_which_it_came() -> None:
    rig = ahead(2, read_ahead=2)
    waiters = [rig.sent("again")[0] for _ in range(8)]
    assert rig.sink.rids == ["r1", "r2", "r3", "r4", "r5", "r6"]
    rig.begun(waiters[0], "w1")
    rig.begun(waiters[1], "w2")
    rig.reports(WorkerGone("w2", "killed"), WorkerGone("w1", "killed"))
    rig.reports(WorkerUp("w3", loops=8))
    assert rig.sink.rids[6:] == ["r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"]


def test_what_lies_behind_a_hung_node_goes_before_a_steady_line() -> None:
    rig = ahead(2, read_ahead=1)
    for _ in range(6):
        rig.sent("again")
    assert places(rig) == [("r1", "w1"), ("r2", "w2"), ("r3", "w1"), ("r4", "w2")]
    ended: list[str] = []
    while ("r3", "w2") not in places(rig):
        assert rig.now < 100.0 + 2 * STUCK, "it starves"
        rig.until(rig.now + STUCK / 5)
        ended.append(next(rid for rid, name in places(rig) if name == "w2" and rid not in ended))
        rig.reports(Outcome(rid=ended[-1], worker="w2"))
        rig.sent("again")
        assert rig.gateway.backlog.line, "it was to be steady"
    assert rig.sink.withdrawn == ["r3"]


def test_all_that_has_come_is_read_before_anything_is_handed_out() -> None:
    rig = ahead(1, read_ahead=0)
    for _ in range(2):
        rig.sent("again")
    rig.reports(Outcome(rid="r1", worker="w1"), WorkerGone("w1", "killed"), WorkerUp("w2"))
    assert places(rig) == [("r1", "w1"), ("r2", "w2")]


def test_after_what_went_on_after_its_reply_nothing_is_read_ahead() -> None:
    rig = ahead(1)
    rig.begun(rig.sent("again")[0])
    rig.reports(Outcome(rid="r1", worker="w1", begun_at=100.0, ended_at=100.0, last=False))
    rig.reports(Freed("r1", 1, "w1"))
    for _ in range(2):
        rig.sent("again")
    assert rig.sink.rids == ["r1", "r2"]


def test_after_what_ran_until_its_deadline_nothing_is_read_ahead() -> None:
    rig = ahead(1)
    rig.begun(rig.sent("again")[0])
    rig.sink.answers = [False]
    rig.until(110.0)
    assert rig.ends() == [("r1", "deadline-exceeded", True)]
    rig.reports(Freed("r1", 1, "w1"))
    for _ in range(2):
        rig.sent("again")
    assert rig.sink.rids == ["r1", "r2"]


def test_what_was_cancelled_soon_is_no_evidence_that_its_endpoint_is_quick() -> None:
    rig = Rig(shared=False, read_ahead=16, limit=9)
    waiter, _ = rig.sent("again")
    rig.begun(waiter)
    rig.gateway.close(waiter)
    rig.reports(Freed("r1", 1, "w1"))
    for _ in range(2):
        rig.sent("again")
    assert rig.sink.rids == ["r1", "r2"]


def test_what_an_attempt_took_that_was_lost_says_nothing_of_one_that_has_not_begun() -> None:
    rig = ahead(1)
    waiter, _ = rig.sent("again")
    rig.begun(waiter)
    rig.until(105.0)
    rig.gone("w1")
    rig.reports(WorkerUp("w2"))
    rig.sink.answers = [None]
    rig.gateway.close(waiter)
    rig.reports(Withdrawn("r1", begun=False))
    for _ in range(2):
        rig.sent("again")
    assert rig.sink.rids == ["r1", "r1", "r2", "r3"]


@pytest.mark.parametrize("news", ["up", "refused", "cancelled", "freed", "gone"])
def test_whatever_makes_a_loop_free_has_it_looked_at_what_lies_elsewhere(news: str) -> None:
    rig = ahead(1)
    waiters = [rig.sent("again")[0] for _ in range(2)]
    rig.begun(waiters[0])
    if news == "up":
        rig.reports(WorkerUp("w2"))
    elif news == "gone":
        rig.reports(WorkerUp("w2"))
        rig.until(100.001)
        rig.gone("w2")
        rig.reports(WorkerUp("w3"))
    else:
        rig.reports(WorkerUp("w2"))
        busy, _ = rig.sent("again")
        assert places(rig)[-1] == ("r3", "w2")
        rig.until(100.0 + STUCK / 2)
        if news == "refused":
            rig.reports(Refused("r3", "backend-unavailable"))
        elif news == "cancelled":
            rig.gateway.close(busy)
        else:
            rig.begun(busy, "w2")
            rig.reports(Outcome(rid="r3", worker="w2", last=False), Freed("r3", 1, "w2"))
    assert rig.pending[-1].when <= rig.now + STRANDED
    rig.until(rig.now + 2 * STRANDED)
    assert places(rig)[-1][0] == "r2"
    assert places(rig)[-1][1] != "w1"


def test_a_worker_that_has_a_successor_is_handed_no_more() -> None:
    rig = ahead(1)
    rig.begun(rig.sent("again")[0])
    rig.reports(WorkerUp("w2", replaces="w1"))
    rig.reports(Outcome(rid="r1", worker="w1"))
    rig.sent("again")
    assert places(rig) == [("r1", "w1"), ("r2", "w2")]
    rig.reports(WorkerGone("w1", "recycled"))
    assert rig.gateway.ready


def test_a_death_refuses_nothing_and_what_is_queued_meanwhile_is_served() -> None:
    rig = ahead(1)
    rig.gone("w1")
    assert not rig.gateway.ready
    rig.until(100.0 + PATIENCE - 0.1)
    _, promise = rig.sent("again")
    rig.reports(WorkerUp("w2"))
    rig.reports(Outcome(rid="r1", worker="w2"))
    assert promise.outcome == Outcome(rid="r1", worker="w2")


def test_without_a_worker_for_too_long_requests_are_refused() -> None:
    rig = ahead(1)
    rig.gone("w1")
    rig.until(100.0 + PATIENCE)
    with pytest.raises(errors.BackendUnavailable):
        rig.opened("again")


def test_after_two_failed_starts_in_a_row_requests_are_refused() -> None:
    rig = ahead(1)
    rig.gone("w1")
    rig.reports(WorkerGone("w2", "start-failed"))
    rig.opened("again")
    rig.reports(WorkerGone("w3", "start-failed"))
    with pytest.raises(errors.BackendUnavailable):
        rig.opened("again")
