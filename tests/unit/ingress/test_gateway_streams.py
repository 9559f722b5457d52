"""Stream messages and progress at the gateway: who hears them, what is granted for them, and what they rule out."""

import pytest

from offloop.messages import FRAME, WINDOW, Begun, Chunk, Outcome, Progressed, WorkerUp
from tests.unit.ingress.rig import Rig

Heard = Chunk | Progressed


def chunk(number: int = 1, size: int = 1000, attempt: int = 1) -> Chunk:
    """One that counts for `size` bytes."""
    return Chunk("r1", attempt, number, bytes(size - FRAME))


def test_progress_reaches_a_caller_that_streams_and_only_of_its_own_attempt() -> None:
    rig = Rig()
    waiter, _ = rig.sent(stream=True)
    seen: list[Heard] = []
    rig.reports(Progressed("r1", 1, 0.0, None, "nobody looks"))
    waiter.hears = seen.append
    rig.reports(Progressed("r1", 2, 1.0), Progressed("r2", 1, 2.0), Progressed("r1", 1, 3.0))
    assert seen == [Progressed("r1", 1, 3.0)]


def test_what_was_taken_is_granted_by_the_quarter_of_a_window() -> None:
    rig = Rig()
    waiter, _ = rig.sent(stream=True)
    rig.begun(waiter)
    quarter = WINDOW // 4
    rig.gateway.take(waiter, chunk(size=quarter - 1000))
    rig.gateway.take(waiter, chunk(size=999))
    assert rig.sink.granted == []
    rig.gateway.take(waiter, chunk(size=FRAME))
    assert rig.sink.granted == [("r1", quarter - 1 + FRAME)]
    rig.gateway.take(waiter, chunk(size=3 * WINDOW))
    assert rig.sink.granted[1:] == [("r1", 3 * WINDOW)]
    assert waiter.taken == 0


def test_nothing_is_granted_to_what_has_ended() -> None:
    rig = Rig()
    waiter, _ = rig.sent(stream=True)
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1"))
    rig.gateway.take(waiter, chunk(size=WINDOW))
    assert rig.sink.granted == []


def test_after_its_end_a_request_holds_on_to_nobody_who_heard_it() -> None:
    rig = Rig()
    waiter, _ = rig.sent(stream=True)
    waiter.hears = [].append
    rig.begun(waiter)
    rig.reports(Outcome(rid="r1"))
    assert waiter.hears is None


# ---- run again


def lost(heard: Heard | None, attempt: int = 1) -> tuple[Rig, list[Heard]]:
    """An idempotent request whose worker has died after it said that."""
    rig, seen = Rig(), list[Heard]()
    waiter, _ = rig.sent("again", stream=True)
    waiter.hears = seen.append
    rig.begun(waiter)
    if heard is not None:
        rig.reports(heard)
    rig.gone("w1")
    return rig, seen


def test_a_request_of_which_a_stream_message_was_heard_is_not_run_again() -> None:
    rig, _ = lost(chunk())
    assert rig.ends() == [("r1", "worker-lost", True)]


@pytest.mark.parametrize(
    "heard", [None, Progressed("r1", 1, 1.0), chunk(attempt=2)], ids=["nothing", "progress", "other"]
)
def test_one_of_which_none_was_heard_is_run_again_and_heard_from_its_start(heard: Heard | None) -> None:
    rig, seen = lost(heard)
    assert rig.ends() == []
    rig.reports(WorkerUp("w2"))
    seen.clear()
    rig.reports(Begun("r1", 2, "w2", rig.now), chunk(1, attempt=1), chunk(1, attempt=2), Outcome(rid="r1", attempt=2))
    assert seen == [chunk(1, attempt=2)]
    assert rig.ends() == [("r1", "ok", True)]


# ---- its caller has left


def test_a_caller_that_leaves_cancels_its_stream() -> None:
    rig = Rig()
    waiter, _ = rig.sent(stream=True)
    waiter.hears = [].append
    rig.begun(waiter)
    rig.gateway.cancel(waiter, "disconnect")
    assert rig.sink.cancelled == ["r1"]
    assert rig.sink.granted == []


def test_under_finish_the_work_goes_on_and_does_not_wait_for_whoever_has_left() -> None:
    rig, seen = Rig(), list[Heard]()
    waiter, _ = rig.sent("keeps", stream=True)
    waiter.hears = seen.append
    rig.begun(waiter)
    rig.reports(chunk(1))
    rig.gateway.cancel(waiter, "disconnect")
    ((rid, room),) = rig.sink.granted
    assert rid == "r1"
    assert room > 2**40
    rig.reports(chunk(2), Progressed("r1", 1, 1.0), Outcome(rid="r1"))
    assert seen == [chunk(1)]
    assert rig.ends() == [("r1", "ok", True)]


def test_under_finish_a_caller_that_did_not_stream_leaves_nothing_to_grant() -> None:
    rig = Rig()
    waiter, _ = rig.sent("keeps")
    rig.begun(waiter)
    rig.gateway.cancel(waiter, "disconnect")
    assert rig.sink.granted == []


def test_under_finish_what_begins_after_its_caller_has_left_does_not_wait_either() -> None:
    rig = Rig(shared=False)
    first, _ = rig.sent("again")
    waiter, _ = rig.sent("keeps", stream=True)
    waiter.hears = [].append
    assert rig.sink.rids == [first.rid]
    rig.gateway.cancel(waiter, "disconnect")
    rig.sink.granted.clear()  # there was nobody yet to be told
    rig.begun(first)
    rig.reports(Outcome(rid=first.rid, worker="w1"))
    rig.begun(waiter)
    half = WINDOW // 2
    rig.reports(*(Chunk(waiter.rid, 1, number, bytes(half - FRAME)) for number in (1, 2, 3)))
    assert rig.sink.granted == [(waiter.rid, half)] * 3
