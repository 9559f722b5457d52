"""Streaming from Python, in every mode: order, the end, leaving, waiting for whoever takes slowly, deaths, drains."""

import asyncio
import resource
import sys

import pytest

from offloop import Blob, Offloop, errors
from offloop.ingress.asking import Messages
from offloop.messages import FRAME, WINDOW
from offloop.testing import lose_worker
from tests.e2e.programs import streams
from tests.e2e.programs.streams import ENDLESS, Order, Part, Whole
from tests.support.gate import Gate
from tests.support.modes import Mode

PROGRAM = "tests.e2e.programs.streams"
PLENTY = 50_000
"""Bytes of a part; a window takes some twenty of them."""


def started(mode: Mode, loops: int = 1, **settings: object) -> Offloop:
    return Offloop(PROGRAM, settings=mode.settings(loops, **settings))


async def wait_note(gate: Gate, note: str) -> None:
    await asyncio.to_thread(gate.wait_note, note)


async def into(got: list[int], messages: Messages[Whole]) -> None:
    """All that comes, kept even if it ends with a failure."""
    async for part in messages:
        got.append(part.number)  # noqa: PERF401


def made(gate: Gate, name: str) -> int:
    """How many parts it has made so far."""
    return sum(note.startswith(f"{name} makes ") for note in gate.notes)


def fits(size: int = PLENTY) -> int:
    """How many parts of that size go out before any is taken; the last may go beyond the window."""
    return -(-WINDOW // (len(Part(number=10, text="x" * size).model_dump_json()) + FRAME))


@pytest.fixture
def process_mode_only(mode: Mode) -> None:
    if mode is not Mode.PROCESS:  # over Redis deaths have tests of their own, and what streams is not begun again
        pytest.skip("no worker dies alone in this mode")


# ---- the straight way


async def test_messages_come_in_their_order_and_then_the_reply(mode: Mode, gate: Gate) -> None:
    async with started(mode) as off:
        async with off.stream(streams.parts, Order(name="order", count=200)) as messages:
            assert [part.number async for part in messages] == list(range(1, 201))
        assert messages.reply == Whole(parts=200)
        assert off.status()["endpoints"]["parts"]["in_flight"] == 0
        await wait_note(gate, "order is closed in its own thread")
        assert "order is cancelled" not in gate.notes


async def test_a_message_comes_before_the_next_is_made(mode: Mode, gate: Gate) -> None:
    async with started(mode) as off, off.stream(streams.parts, Order(name="live", count=2, stops=2)) as messages:
        assert (await anext(messages)).number == 1
        await asyncio.to_thread(gate.wait, "live")
        await wait_note(gate, "live makes 1")
        assert "live makes 2" not in gate.notes
        gate.open("live")
        assert [part.number async for part in messages] == [2]


async def test_many_streams_at_once_do_not_mix(mode: Mode, gate: Gate) -> None:
    async def read(off: Offloop, number: int) -> list[int]:
        async with off.stream(streams.parts, Order(count=20 + number, size=number, notes=False)) as messages:
            got = [part.number async for part in messages if len(part.text) == number]
        assert messages.reply == Whole(parts=20 + number)
        return got

    async with started(mode, 4, per_worker=2) as off:
        read_by = await asyncio.gather(*(read(off, number) for number in range(30)))
    assert read_by == [list(range(1, 21 + number)) for number in range(30)]


async def test_blobs_come_with_their_types_and_names(mode: Mode) -> None:
    async with started(mode) as off, off.stream(streams.slices, Order(count=3, size=2 * WINDOW)) as messages:
        got = [(blob.data, blob.media_type, blob.filename) async for blob in messages]
    assert got == [(bytes([n]) * 2 * WINDOW, "image/png", f"Seite {n}.png") for n in (1, 2, 3)]


async def test_an_endpoint_that_streams_nothing_has_its_reply_and_its_progress(mode: Mode, gate: Gate) -> None:
    async with started(mode) as off:
        async with off.stream(streams.count_up, Order(name="up", count=8)) as messages:
            waiting = asyncio.create_task(anext(messages, None))
            await asyncio.to_thread(gate.wait, "up")
            async with asyncio.timeout(10):
                while messages.progress is None:  # noqa: ASYNC110  (each turn of the event loop is what it waits for)
                    await asyncio.sleep(0)
            assert messages.progress == (4.0, 8.0, "half")
            gate.open("up")
            assert await waiting is None
        assert messages.progress == (8.0, 8.0, None)
        assert messages.reply == Whole(parts=8)


# ---- how it may end


@pytest.mark.parametrize(
    ("how", "failure"),
    [("raise", errors.NodeFailed), ("refuse", streams.TooManyParts), ("nothing", errors.NoReply)],
)
async def test_a_failure_is_raised_by_its_name_after_what_came_before_it(
    mode: Mode, gate: Gate, how: str, failure: type[errors.OffloopError]
) -> None:
    got: list[int] = []
    async with started(mode) as off, off.stream(streams.parts, Order(count=3, how=how)) as messages:
        with pytest.raises(failure) as caught:
            await into(got, messages)
    assert got == [1, 2, 3]
    assert caught.value.started is True
    assert getattr(caught.value, "members", {"parts": 3}) == {"parts": 3}


async def test_leaving_early_cancels_it_and_its_generator_is_closed_in_its_own_thread(mode: Mode, gate: Gate) -> None:
    async with started(mode) as off:
        async with off.stream(streams.parts, Order(name="early", count=ENDLESS, size=PLENTY)) as messages:
            async for part in messages:
                if part.number == 2:
                    break
        assert off.status()["endpoints"]["parts"]["in_flight"] == 0
        await wait_note(gate, "early is closed in its own thread")
        assert "early is cancelled" in gate.notes
        assert (await off.ask(streams.count_up, Order(count=2))).parts == 2  # the loop is free


async def test_cancelling_whoever_iterates_cancels_it(mode: Mode, gate: Gate) -> None:
    async def iterate(off: Offloop) -> None:
        async with off.stream(streams.parts, Order(name="task", count=ENDLESS)) as messages:
            async for _ in messages:
                pass

    async with started(mode) as off:
        task = asyncio.create_task(iterate(off))
        await wait_note(gate, "task makes 3")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_note(gate, "task is closed in its own thread")
        assert "task is cancelled" in gate.notes


async def test_what_the_block_raises_comes_out_as_it_is(mode: Mode, gate: Gate) -> None:
    async with started(mode) as off:
        with pytest.raises(LookupError, match="the caller's own"):
            async with off.stream(streams.parts, Order(name="own", count=ENDLESS)):
                raise LookupError("the caller's own")
        assert (await off.ask(streams.count_up, Order(count=2))).parts == 2


async def test_time_runs_out_for_a_caller_who_does_not_take(mode: Mode, gate: Gate) -> None:
    order = Order(name="slow", count=ENDLESS, size=PLENTY)
    async with started(mode) as off, off.stream(streams.parts, order, timeout=0.5) as messages:
        await wait_note(gate, f"slow makes {fits() + 1}")
        await wait_note(gate, "slow is closed in its own thread")
        got: list[int] = []
        with pytest.raises(errors.DeadlineExceeded):
            await into(got, messages)
        assert got == list(range(1, fits() + 1))


async def test_time_runs_out_while_nothing_comes(mode: Mode, gate: Gate) -> None:
    order = Order(name="stuck", count=2, stops=2)
    async with started(mode) as off, off.stream(streams.parts, order, timeout=0.3) as messages:
        assert (await anext(messages)).number == 1
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await anext(messages)
        assert caught.value.started is True
        await asyncio.to_thread(gate.wait, "stuck")
        gate.open("stuck")


# ---- whoever takes slowly


async def test_a_caller_who_does_not_take_makes_the_node_wait_and_nobody_else(mode: Mode, gate: Gate) -> None:
    count = 3 * fits()
    async with (
        started(mode, 2) as off,
        off.stream(streams.parts, Order(name="wait", count=count, size=PLENTY)) as messages,
    ):
        await wait_note(gate, f"wait makes {fits() + 1}")  # it is made, and waits
        for _ in range(5):
            assert (await off.ask(streams.count_up, Order(count=2))).parts == 2
        assert made(gate, "wait") == fits() + 1
        taken = 0
        async for part in messages:
            taken += 1
            assert part.number == taken
            assert made(gate, "wait") <= taken + fits() + 1
            await asyncio.sleep(0)
        assert taken == count


async def test_memory_stays_flat_however_much_is_streamed(mode: Mode) -> None:
    size, count = 2**20, 150

    def peak() -> float:
        """The most memory that this process has ever had, in MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    async with started(mode, 2) as off:
        async with off.stream(streams.parts, Order(count=3, size=size, notes=False)) as messages:
            assert [part.number async for part in messages] == [1, 2, 3]
        before = peak()
        async with off.stream(streams.parts, Order(count=count, size=size, notes=False)) as messages:
            async for part in messages:
                assert len(part.text) == size
                for _ in range(1000 if part.number == 1 else 0):  # time in which all the rest might have come
                    await off.ask(streams.count_up, Order(count=2))
        assert messages.reply == Whole(parts=count)
    assert peak() - before < 50


# ---- wrong use


async def test_there_is_no_reply_before_the_end(mode: Mode, gate: Gate) -> None:
    async with started(mode) as off, off.stream(streams.parts, Order(count=1)) as messages:
        with pytest.raises(errors.UsageError, match="async for"):
            _ = messages.reply


async def test_what_is_refused_is_refused_on_entering(mode: Mode) -> None:
    off = started(mode)
    with pytest.raises(errors.NotStarted, match="Include"):
        await off.stream(streams.parts, Order()).__aenter__()
    async with off:
        early = off.stream(streams.parts, Order(count=1, notes=False))
        with pytest.raises(errors.UsageError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, off.stream(streams.parts, Order()).__aenter__())
        with pytest.raises(TypeError):
            await off.stream(streams.parts, Blob(b"")).__aenter__()  # type: ignore[misc]
        with pytest.raises(errors.UsageError):
            await off.stream(made, Order()).__aenter__()  # type: ignore[call-overload]
        async with early as messages:
            assert [part.number async for part in messages] == [1]
    with pytest.raises(errors.NotStarted):
        await off.stream(streams.parts, Order()).__aenter__()


async def test_a_stream_is_made_where_no_event_loop_runs(mode: Mode) -> None:
    off = started(mode)
    later = await asyncio.to_thread(off.stream, streams.parts, Order(count=1, notes=False))
    async with off, later as messages:
        assert [part.number async for part in messages] == [1]


# ---- deaths and drains


@pytest.mark.usefixtures("process_mode_only")
@pytest.mark.parametrize("endpoint", [streams.parts, streams.parts_again], ids=["once", "idempotent"])
async def test_a_worker_that_dies_in_mid_stream_is_lost_with_it(mode: Mode, gate: Gate, endpoint: object) -> None:
    async with started(mode) as off, off.stream(endpoint, Order(name="dies", count=2, stops=2)) as messages:  # type: ignore[call-overload]
        assert (await anext(messages)).number == 1
        await asyncio.to_thread(gate.wait, "dies")
        lose_worker(off)
        with pytest.raises(errors.WorkerLost) as caught:
            await anext(messages)
        assert caught.value.started is True


@pytest.mark.usefixtures("process_mode_only")
async def test_one_that_dies_before_the_first_message_is_replaced_where_that_is_allowed(mode: Mode, gate: Gate) -> None:
    order = Order(name="again", count=2, stops=1)
    async with started(mode) as off, off.stream(streams.parts_again, order) as messages:
        await asyncio.to_thread(gate.wait, "again")
        lose_worker(off)
        await asyncio.to_thread(gate.wait, "again", 2)  # where it stood before counts, too
        gate.open("again")
        assert [part.number async for part in messages] == [1, 2]


async def test_a_drain_that_ends_too_soon_cuts_a_stream(mode: Mode, gate: Gate) -> None:
    off = started(mode, drain_timeout=0.2)
    async with off, off.stream(streams.parts, Order(name="cut", count=ENDLESS, size=PLENTY)) as messages:
        await wait_note(gate, f"cut makes {fits() + 1}")
        off.begin_drain()
        await wait_note(gate, "cut is closed in its own thread")
        got: list[int] = []
        with pytest.raises(errors.DrainCut) as caught:
            await into(got, messages)
        assert got == list(range(1, fits() + 1))
        assert caught.value.status == 504


async def test_whoever_takes_after_everything_has_stopped_is_told_all_the_same(
    mode: Mode, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offloop.assembly.REPLIES_WITHIN", 0.01)
    off = started(mode, drain_timeout=0.2)
    await off.__aenter__()
    async with off.stream(streams.parts, Order(name="late", count=ENDLESS, size=PLENTY)) as messages:
        await wait_note(gate, f"late makes {fits() + 1}")
        await off.__aexit__(None, None, None)
        with pytest.raises(errors.DrainCut):
            async for _ in messages:
                pass
