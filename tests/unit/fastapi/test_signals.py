import asyncio
import signal
import subprocess
import sys

import pytest

from offloop.fastapi.signals import SAME_WITHIN, Holding, Relay, Verdict

TERM, INT = signal.SIGTERM, signal.SIGINT


# ---- what is decided


def test_the_first_signal_begins_the_drain_and_is_passed_on_when_it_has_ended():
    holding = Holding()
    assert not holding.draining
    assert holding.arrived(TERM, 10.0) is Verdict.BEGIN
    assert holding.draining
    assert holding.release() == TERM
    assert holding.release() is None


@pytest.mark.parametrize("second", [TERM, INT])
def test_a_signal_soon_after_the_first_is_the_same_one(second):
    holding = Holding()
    holding.arrived(TERM, 10.0)
    assert holding.arrived(second, 10.0 + SAME_WITHIN - 0.001) is Verdict.SAME
    assert holding.release() == TERM


def test_a_later_signal_is_passed_on_at_once_and_the_first_is_not_passed_on_again():
    holding = Holding()
    holding.arrived(TERM, 10.0)
    assert holding.arrived(INT, 10.0 + SAME_WITHIN) is Verdict.PASS
    assert holding.release() is None
    assert holding.arrived(INT, 13.0) is Verdict.PASS


def test_a_repeated_signal_is_the_same_one_even_after_an_idle_drain_has_ended():
    holding = Holding()
    holding.arrived(TERM, 10.0)
    holding.release()
    assert holding.arrived(TERM, 10.5) is Verdict.SAME
    assert holding.arrived(TERM, 12.5) is Verdict.PASS


def test_nothing_is_passed_on_where_no_signal_came():
    assert Holding().release() is None


# ---- what is done


class Program:
    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.drained = asyncio.Event()

    def begin_drain(self) -> None:
        self.draining.set()

    async def wait_drained(self) -> None:
        await self.drained.wait()


class Heard:
    """A handler as a server sets it."""

    def __init__(self) -> None:
        self.signals: asyncio.Queue[int] = asyncio.Queue()

    def __call__(self, signum: int, frame: object) -> None:
        self.signals.put_nowait(signum)

    async def next(self) -> int:
        async with asyncio.timeout(5):
            return await self.signals.get()


@pytest.fixture
def heard():
    handler = Heard()
    before = {signum: signal.signal(signum, handler) for signum in (TERM, INT)}
    yield handler
    for signum, previous in before.items():
        signal.signal(signum, previous)


async def _draining(program: Program) -> None:
    async with asyncio.timeout(5):
        await program.draining.wait()


def test_the_handler_that_was_there_hears_of_the_signal_when_the_drain_has_ended(heard):
    async def story() -> None:
        relay, program = Relay(), Program()
        relay.join(program)
        signal.raise_signal(TERM)
        await _draining(program)
        assert heard.signals.empty()
        program.drained.set()
        assert await heard.next() == TERM
        relay.leave(program)
        assert signal.getsignal(TERM) is heard
        assert heard.signals.empty()

    asyncio.run(story())


def test_a_later_signal_goes_through_at_once(heard):
    async def story() -> None:
        now = 100.0
        relay, program = Relay(lambda: now), Program()
        relay.join(program)
        signal.raise_signal(TERM)
        await _draining(program)
        now += SAME_WITHIN
        signal.raise_signal(INT)
        assert await heard.next() == INT
        program.drained.set()
        relay.leave(program)
        assert heard.signals.empty()

    asyncio.run(story())


def test_with_two_programs_both_drain_and_the_signal_waits_for_both(heard):
    async def story() -> None:
        relay, one, two = Relay(), Program(), Program()
        relay.join(one)
        relay.join(two)
        signal.raise_signal(TERM)
        await _draining(one)
        await _draining(two)
        one.drained.set()
        await asyncio.sleep(0)
        assert heard.signals.empty()
        two.drained.set()
        assert await heard.next() == TERM
        relay.leave(one)
        assert signal.getsignal(TERM) is not heard
        relay.leave(two)
        assert signal.getsignal(TERM) is heard

    asyncio.run(story())


def test_a_program_that_joins_a_drain_drains_too(heard):
    async def story() -> None:
        relay, one, late = Relay(), Program(), Program()
        relay.join(one)
        signal.raise_signal(TERM)
        await _draining(one)
        relay.join(late)
        assert late.draining.is_set()
        relay.leave(late)
        relay.leave(one)

    asyncio.run(story())


def test_nested_joins_count_and_a_stranger_leaving_changes_nothing(heard):
    async def story() -> None:
        relay, program = Relay(), Program()
        relay.join(program)
        relay.join(program)
        relay.leave(Program())
        relay.leave(program)
        assert signal.getsignal(TERM) is not heard
        relay.leave(program)
        assert signal.getsignal(TERM) is heard

    asyncio.run(story())


def test_a_signal_still_held_back_when_the_lifespan_ends_is_passed_on_then(heard):
    async def story() -> None:
        relay, program = Relay(), Program()
        relay.join(program)
        signal.raise_signal(TERM)
        await _draining(program)
        relay.leave(program)
        assert await heard.next() == TERM
        program.drained.set()
        await asyncio.sleep(0)
        assert heard.signals.empty()

    asyncio.run(story())


def test_the_next_life_starts_afresh(heard):
    async def story() -> None:
        relay = Relay()
        for _ in range(2):
            program = Program()
            program.drained.set()
            relay.join(program)
            signal.raise_signal(TERM)
            assert await heard.next() == TERM
            relay.leave(program)

    asyncio.run(story())


def test_an_ignored_signal_stays_ignored(heard):
    async def story() -> None:
        signal.signal(INT, signal.SIG_IGN)
        relay, program = Relay(), Program()
        relay.join(program)
        assert signal.getsignal(INT) is signal.SIG_IGN
        assert signal.getsignal(TERM) is not heard
        relay.leave(program)
        assert signal.getsignal(INT) is signal.SIG_IGN

    asyncio.run(story())


def test_a_signal_that_the_event_loop_serves_is_not_taken_over(heard):
    async def story() -> None:
        asyncio.get_running_loop().add_signal_handler(TERM, lambda: None)
        served = signal.getsignal(TERM)
        relay, program = Relay(), Program()
        relay.join(program)
        assert signal.getsignal(TERM) is served
        relay.leave(program)
        asyncio.get_running_loop().remove_signal_handler(TERM)

    asyncio.run(story())


def test_a_handler_that_was_set_after_ours_is_left_alone(heard):
    async def story() -> None:
        relay, program = Relay(), Program()
        relay.join(program)
        signal.signal(TERM, signal.SIG_IGN)
        relay.leave(program)
        assert signal.getsignal(TERM) is signal.SIG_IGN

    asyncio.run(story())


def test_off_the_main_thread_nothing_is_installed(heard):
    def story() -> None:
        async def inner() -> None:
            relay, program = Relay(), Program()
            relay.join(program)
            assert signal.getsignal(TERM) is heard
            relay.leave(program)

        asyncio.run(inner())

    async def main() -> None:
        await asyncio.to_thread(story)

    asyncio.run(main())


def test_an_interrupt_without_a_handler_of_its_own_ends_the_loops_run_after_the_drain():
    before = signal.signal(INT, signal.default_int_handler)
    relay, program = Relay(), Program()
    ended: list[str] = []

    async def story() -> None:
        relay.join(program)
        try:
            signal.raise_signal(INT)
            await _draining(program)
            ended.append("drained")
            program.drained.set()
            await asyncio.Event().wait()
        finally:
            relay.leave(program)

    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(story())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert ended == ["drained"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()
        signal.signal(INT, before)


# ---- a real process

PLAIN = """
import asyncio, signal, threading
from fastapi import FastAPI
from offloop import Offloop, Settings
from offloop.fastapi import OffloopRouter
from tests.unit.fastapi import program

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
off = Offloop("tests.unit.fastapi.program", settings=Settings(threads=1, gc_freeze=False))
app = FastAPI()
app.include_router(OffloopRouter(off))

async def main():
    async with app.router.lifespan_context(app):
        asking = asyncio.create_task(off.ask(program.wait, program.Wait()))
        while not off.status()["workers"]["busy"]:
            await asyncio.sleep(0)
        print("busy", flush=True)
        while off.ready:
            await asyncio.sleep(0)
        print("draining", flush=True)
        program.OPEN.set()
        print((await asking).words, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_plain_program_drains_before_the_signal_has_its_usual_effect(number):
    with subprocess.Popen([sys.executable, "-c", PLAIN], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"busy\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    assert out == b"draining\n0\n", err
    # Python turns an interrupt of its own into the same death, after its `finally` blocks.
    assert child.returncode == -number, err
