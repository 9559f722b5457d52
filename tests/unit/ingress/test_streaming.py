"""One stream and the one task that takes from it: order, waiting, the end, and what is told of what was taken."""

import asyncio
import gc
import weakref

import pytest

from offloop.core.waiters import Waiter
from offloop.ingress.streaming import Stream
from offloop.ingress.turns import AT_ONCE
from offloop.messages import FRAME, WINDOW, Chunk, Outcome, Progressed
from tests.unit.ingress.rig import Rig

pytestmark = pytest.mark.anyio
END = Outcome(rid="r1", payload=b"reply")


def chunk(number: int, size: int = 1000) -> Chunk:
    return Chunk("r1", 1, number, bytes(size - FRAME))


def streaming(rig: Rig) -> tuple[Stream, Waiter]:
    stream = Stream(rig.gateway)
    waiter = rig.gateway.open("plain", stream.promise)
    stream.begin(waiter)
    rig.gateway.send(waiter, b"", stream=True)
    rig.begun(waiter)
    return stream, waiter


async def taking(stream: Stream) -> "asyncio.Task[object]":
    """A task that waits for the next."""
    task = asyncio.ensure_future(stream.take())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_messages_come_in_their_order_and_then_the_outcome_again_and_again() -> None:
    rig = Rig()
    stream, _ = streaming(rig)
    came = [chunk(1), Progressed("r1", 1, 0.5), chunk(2)]
    rig.reports(*came, END)
    assert [await stream.take() for _ in range(5)] == [*came, END, END]


@pytest.mark.parametrize("report", [chunk(1), Progressed("r1", 1, 0.5), END], ids=lambda one: type(one).__name__)
async def test_whoever_waits_is_woken_by_what_comes(report: Chunk | Progressed | Outcome) -> None:
    rig = Rig()
    stream, _ = streaming(rig)
    task = await taking(stream)
    rig.reports(report)
    assert await asyncio.wait_for(task, 10) == report


async def test_whoever_was_woken_and_has_not_run_yet_is_not_woken_twice() -> None:
    rig = Rig()
    stream, _ = streaming(rig)
    task = await taking(stream)
    rig.reports(chunk(1), chunk(2), END)
    assert await asyncio.wait_for(task, 10) == chunk(1)
    assert [await stream.take(), await stream.take()] == [chunk(2), END]


async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    rig = Rig()
    stream, _ = streaming(rig)
    for number in (1, 2):
        task = await taking(stream)
        if number == 2:
            rig.reports(chunk(1))  # it was on its way to who is cancelled
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    rig.reports(chunk(2), END)
    assert [await stream.take() for _ in range(3)] == [chunk(1), chunk(2), END]


async def test_of_progress_that_nobody_has_seen_only_the_newest_is_kept() -> None:
    rig = Rig()
    stream, _ = streaming(rig)
    rig.reports(*(Progressed("r1", 1, float(done)) for done in range(5)), chunk(1), Progressed("r1", 1, 5.0))
    rig.reports(END)
    assert [await stream.take() for _ in range(4)] == [
        Progressed("r1", 1, 4.0), chunk(1), Progressed("r1", 1, 5.0), END,
    ]  # fmt: skip


async def test_what_was_taken_is_granted_and_what_lies_here_is_not() -> None:
    rig = Rig()
    stream, _ = streaming(rig)
    half = WINDOW // 2
    rig.reports(chunk(1, half), Progressed("r1", 1, 1.0), chunk(2, half))
    assert rig.sink.granted == []
    await stream.take()
    assert rig.sink.granted == [("r1", half)]
    await stream.take()
    await stream.take()
    assert rig.sink.granted == [("r1", half)] * 2


async def test_what_is_left_of_a_stream_that_nobody_holds_is_freed_at_once() -> None:
    rig = Rig()
    stream, waiter = streaming(rig)
    rig.reports(chunk(1), END)
    rig.gateway.close(waiter)
    await asyncio.sleep(0)
    left = weakref.ref(stream)
    gc.disable()
    try:
        del stream
        assert left() is None
    finally:
        gc.enable()


async def test_what_has_come_can_be_taken_together_and_counts_as_taken() -> None:
    rig = Rig()
    stream, waiter = streaming(rig)
    assert list(stream.take_now(5)) == []
    came = [chunk(1, WINDOW // 4), Progressed("r1", 1, 0.5), chunk(2)]
    rig.reports(*came)
    assert list(stream.take_now(2)) == came[:2]
    assert rig.sink.granted == [(waiter.rid, WINDOW // 4)]
    rig.reports(END)
    assert list(stream.take_now(5)) == came[2:]
    assert list(stream.take_now(5)) == []
    assert await stream.take() == END


@pytest.mark.parametrize("streams", [1, 3])
async def test_who_keeps_up_with_a_flood_leaves_the_others_their_turn(streams: int) -> None:
    rig = Rig(2)
    taken = 0

    async def take(stream: Stream) -> None:
        nonlocal taken
        while await stream.take() is not stream.promise.result():
            taken += 1

    tasks = []
    for number in range(streams):
        stream = Stream(rig.gateway)
        waiter = rig.gateway.open("keeps", stream.promise)
        stream.begin(waiter)
        rig.gateway.send(waiter, b"", stream=True)
        rig.begun(waiter, f"w{number % 2 + 1}")
        rig.reports(*(Chunk(waiter.rid, 1, n, b"") for n in range(500)), Outcome(rid=waiter.rid))
        tasks.append(asyncio.ensure_future(take(stream)))
    while not all(task.done() for task in tasks):
        before = taken
        await asyncio.sleep(0)
        # All together; a little more where one does not know of the next yet, or has just ended.
        assert taken - before <= 2 * AT_ONCE
    assert taken == 500 * streams


async def test_who_takes_all_that_is_there_lets_the_others_on_before_it_goes_on() -> None:
    rig = Rig()
    stream, _ = streaming(rig)
    rig.reports(*(chunk(number) for number in range(AT_ONCE)))
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await stream.turn()
    assert turns == []
    assert len(list(stream.take_now(AT_ONCE))) == AT_ONCE
    await stream.turn()
    assert turns == [1]
