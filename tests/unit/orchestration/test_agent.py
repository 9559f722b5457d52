"""The life of `offloop worker`, with workers that do as they are told."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from offloop.clock import monotonic
from offloop.errors import StartError
from offloop.orchestration.agent import LEAST_STOP, TAKEN, Agent, State
from offloop.orchestration.supervisor import Standing

DEADLINE = 10.0
THERE = Standing(True, 1, 1, 0, 1, {})


@pytest.fixture(autouse=True)
def _signals_are_given_back() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in TAKEN}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


class Staff:
    """Stands for a supervisor."""

    def __init__(self) -> None:
        self.now = Standing(False, 0, 0, 2, 0, {})
        self.up = asyncio.Event()
        self.fault: StartError | None = None
        self.ended = asyncio.Event()
        self.left = 0
        self.stops: list[float] = []
        self.stopping = asyncio.Event()
        self.given_up = False

    async def start(self) -> None:
        try:
            await self.up.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        if self.fault is not None:
            raise self.fault
        self.now = THERE

    async def stop(self, timeout: float) -> int:
        self.stops.append(timeout)
        self.stopping.set()
        if timeout:
            await self.ended.wait()
        return self.left

    def standing(self) -> Standing:
        return self.now


class Clock:
    def __init__(self) -> None:
        self.now = monotonic()

    def __call__(self) -> float:
        return self.now


async def within(waited: "asyncio.Task[bool]") -> bool:
    return await asyncio.wait_for(waited, DEADLINE)


async def until(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), DEADLINE)


@pytest.mark.parametrize("signum", TAKEN)
async def test_the_first_signal_drains_and_all_is_well_where_nobody_was_killed(signum: signal.Signals) -> None:
    staff = Staff()
    agent = Agent(staff, drain_timeout=7.0, clock=Clock())
    running = asyncio.ensure_future(agent.run())
    staff.up.set()
    await turns()
    assert (agent.state, agent.ready) == (State.SERVING, True)
    os.kill(os.getpid(), signum)
    await until(staff.stopping)
    assert (agent.state, agent.ready) == (State.DRAINING, False)
    staff.ended.set()
    assert await within(running)
    assert staff.stops == [7.0]
    assert signal.getsignal(signum) is signal.SIG_IGN  # one more changes nothing


async def turns() -> None:
    """Until all that is ready to run has run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_that_had_to_be_killed_is_told() -> None:
    staff = Staff()
    agent = Agent(staff, drain_timeout=0.0, clock=Clock())
    running = asyncio.ensure_future(agent.run())
    staff.up.set()
    await turns()
    agent.signalled()
    staff.left = 1
    staff.ended.set()
    assert not await within(running)
    assert staff.stops == [LEAST_STOP]


async def test_a_repeated_signal_is_the_same_and_a_second_one_ends_it_at_once() -> None:
    staff, clock = Staff(), Clock()
    agent = Agent(staff, drain_timeout=60.0, clock=clock)
    running = asyncio.ensure_future(agent.run())
    staff.up.set()
    await turns()
    agent.signalled()
    await until(staff.stopping)
    clock.now += 1.9
    agent.signalled()
    await turns()
    assert staff.stops == [60.0]
    clock.now += 0.1
    staff.left = 2
    agent.signalled()
    assert not await within(running)
    assert staff.stops == [60.0, 0.0]


async def test_a_signal_that_comes_before_workers_are_there_ends_their_start() -> None:
    staff = Staff()
    agent = Agent(staff, drain_timeout=5.0, clock=Clock())
    running = asyncio.ensure_future(agent.run())
    await turns()
    agent.signalled()
    staff.ended.set()
    assert await within(running)
    assert staff.given_up
    assert staff.stops == [5.0]


async def test_a_start_that_fails_is_raised_and_nothing_is_stopped_twice() -> None:
    staff = Staff()
    staff.fault = StartError("there is no tool")
    staff.up.set()
    with pytest.raises(StartError, match="there is no tool"):
        await Agent(staff, drain_timeout=5.0, clock=Clock()).run()
    assert staff.stops == []


@pytest.mark.parametrize(
    ("now", "ready"),
    [
        (THERE, True),
        (Standing(True, 1, 0, 1, 0, {}), True),
        (Standing(True, 0, 1, 0, 1, {}), True),  # busy is not gone
        (Standing(True, 0, 0, 2, 0, {}), False),
        (Standing(False, 2, 0, 0, 0, {}), False),
    ],
)
async def test_it_is_ready_where_there_is_a_broker_and_a_worker(now: Standing, ready: bool) -> None:
    staff = Staff()
    staff.now = now
    assert Agent(staff, drain_timeout=5.0, clock=Clock()).ready is ready


async def test_whoever_watches_is_shown_how_things_stand() -> None:
    staff = Staff()
    shown: asyncio.Queue[tuple[State, Standing]] = asyncio.Queue()
    agent = Agent(staff, drain_timeout=5.0, clock=Clock(), show=lambda *now: shown.put_nowait(now))
    running = asyncio.ensure_future(agent.run())
    assert await asyncio.wait_for(shown.get(), DEADLINE) == (State.STARTING, staff.now)
    staff.up.set()
    while await asyncio.wait_for(shown.get(), DEADLINE) != (State.SERVING, THERE):
        pass
    agent.signalled()
    while (await asyncio.wait_for(shown.get(), DEADLINE))[0] != State.DRAINING:
        pass
    staff.ended.set()
    assert await within(running)
