"""Loops in threads: their start, their replacement and their end; over the memory transport, with a real program."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from offloop import Offloop, Settings, errors
from offloop.clock import monotonic
from offloop.events import Event, Events, Kind
from offloop.graph.program import Program
from offloop.messages import Begun, Envelope, Outcome, Report, WorkerGone, WorkerUp
from offloop.orchestration import thread
from offloop.orchestration.thread import ThreadWorkforce
from offloop.runners.sync import SyncRunner
from offloop.transports.memory import MemoryTransport
from tests.unit.orchestration import program
from tests.unit.orchestration.program import DEADLINE, Gates

PROGRAM = Program.load(program.__name__)


def threads() -> dict[str, threading.Thread]:
    """The threads of this mode, by name. What spawns worker processes lives as long as the process: not counted."""
    return {
        thread.name: thread
        for thread in threading.enumerate()
        if thread.name.startswith(("offloop-loop", "offloop-services"))
    }


def loops() -> list[str]:
    return sorted(name for name in threads() if name.startswith("offloop-loop"))


def left() -> list[str]:
    """The names of those that do not end. A loop says that it has gone on its own thread: it ends just after."""
    ending = threads()
    for one in ending.values():
        one.join(DEADLINE)
    return [name for name, one in ending.items() if one.is_alive()]


@pytest.fixture(autouse=True)
def gates(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gates]:
    """Fresh gates, open at the end; every test begins and ends without a thread of offloop's."""
    assert not threads()
    gates = Gates()
    monkeypatch.setattr(program, "gates", gates)
    yield gates
    gates.open_all()
    assert not left()


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Says what the service does when it is opened or closed."""
    return lambda name, what: monkeypatch.setitem(program.script, name, what)


def raises(failure: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise failure

    return act


class Crew:
    """A workforce with what it needs, on the running event loop."""

    def __init__(self, count: int = 2) -> None:
        self.reports: list[Report] = []
        self.came = asyncio.Event()
        self.transport = MemoryTransport(asyncio.get_running_loop().call_soon_threadsafe)
        self.transport.subscribe(self.receive)
        self.services = PROGRAM.services()
        self.force = ThreadWorkforce(count, self.transport, self.services, self.runner)

    def runner(self, name: str) -> SyncRunner:
        return SyncRunner(
            name, PROGRAM, self.services, self.transport,
            clock=monotonic, events=Events(), max_reply=1000,
        )  # fmt: skip

    def receive(self, reports: Any) -> None:
        self.reports.extend(reports)
        self.came.set()

    def put(self, rid: str, gate: str = "") -> None:
        payload = program.Order(gate=gate).model_dump_json().encode()
        self.transport.put(Envelope(rid=rid, endpoint="hold", payload=payload, deadline=monotonic() + 60), None)

    async def hold(self, rid: str) -> None:
        """Put a request; when this returns its node stands at the gate of its id."""
        self.put(rid, gate=rid)
        assert await asyncio.to_thread(program.gates.arrived.acquire, timeout=DEADLINE)

    async def until(self, report: type[Any], **fields: Any) -> Report:
        """The first report of that kind and content."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for each in self.reports:
                    if isinstance(each, report) and all(getattr(each, name) == fields[name] for name in fields):
                        return each
                self.came.clear()
                await self.came.wait()


@asynccontextmanager
async def started(count: int = 2) -> AsyncIterator[Crew]:
    crew = Crew(count)
    await crew.force.start()
    try:
        yield crew
    finally:
        program.gates.open_all()
        await crew.force.stop(DEADLINE)


# ---- start


async def test_a_start_brings_up_as_many_loops_as_it_is_told() -> None:
    async with started(3) as crew:
        assert loops() == ["offloop-loop-1", "offloop-loop-2", "offloop-loop-3"]
        crew.transport.settle()
        assert crew.reports == [WorkerUp("loop-1"), WorkerUp("loop-2"), WorkerUp("loop-3")]


async def test_loops_never_keep_the_process_from_its_end() -> None:
    async with started():
        assert all(loop.daemon for loop in threads().values())


async def test_services_are_built_before_the_loops_and_off_the_event_loop(does: Any) -> None:
    turned, built = threading.Event(), list[str]()

    def build() -> None:
        assert turned.wait(DEADLINE)  # only an event loop that still turns can let it on
        built.extend([threading.current_thread().name, *threads()])

    does("open", build)
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, turned.set)
    async with started():
        assert built == ["offloop-services", "offloop-services"]


FAILURES = [ValueError("no model\nnor plan"), SystemExit("no model"), KeyboardInterrupt("no model"), StopIteration()]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_provider_that_raises_stops_the_start_with_one_line_and_leaves_no_thread(
    does: Any, failure: BaseException
) -> None:
    does("open", raises(failure))
    crew = Crew()
    with pytest.raises(errors.StartError) as refused:
        await crew.force.start()
    text = str(refused.value)
    assert text.startswith("a service could not be built: ")
    assert "no model" in text or "StopIteration" in text
    assert "\n" not in text
    assert refused.value.__cause__ is not None
    assert not left()
    assert await crew.force.stop(0.0) == 0


async def test_a_start_that_is_given_up_closes_the_services_that_come_after_all(does: Any) -> None:
    building, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def build() -> None:
        building.set()
        assert go_on.wait(DEADLINE)

    does("open", build)
    does("close", closed.set)
    crew = Crew()
    start = asyncio.create_task(crew.force.start())
    assert await asyncio.to_thread(building.wait, DEADLINE)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await crew.force.stop(0.0) == 0
    go_on.set()
    assert await asyncio.to_thread(closed.wait, DEADLINE)
    assert not left()


async def test_a_system_without_more_threads_stops_the_start_and_leaves_nothing(
    does: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()
    does("close", closed.set)
    no_more_threads(monkeypatch, after="offloop-loop-1")
    crew = Crew(3)
    with pytest.raises(errors.StartError, match="a loop could not be started: RuntimeError: can't start new thread"):
        await crew.force.start()
    assert closed.is_set()
    assert not left()
    await crew.until(WorkerGone, worker="loop-2", cause="no-thread")
    await crew.until(WorkerGone, worker="loop-1", cause="stopped")


def no_more_threads(monkeypatch: pytest.MonkeyPatch, *, after: str) -> None:
    """From the loop after that one on."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("offloop-loop") and self.name > after:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)


# ---- a loop that does not come back


async def test_a_wedged_loop_is_replaced_and_its_successor_takes_the_work() -> None:
    async with started(1) as crew:
        await crew.hold("stuck")
        crew.put("waiting")
        crew.force.replace("loop-1")
        await crew.until(Outcome, rid="waiting", worker="loop-2", reason="ok")


async def test_a_new_loop_is_announced_before_it_begins_anything() -> None:
    async with started(1) as crew:
        await crew.hold("stuck")
        for number in range(20):
            crew.put(f"waiting-{number}", gate=f"waiting-{number}")
            crew.force.replace(f"loop-{number + 1}")
            assert await asyncio.to_thread(program.gates.arrived.acquire, timeout=DEADLINE)
        crew.transport.settle()
        told = [(type(report), report.worker) for report in crew.reports if isinstance(report, WorkerUp | Begun)]
        for number in range(2, 22):
            assert told.index((WorkerUp, f"loop-{number}")) < told.index((Begun, f"loop-{number}"))


async def test_a_wedged_loop_ends_when_its_node_returns(gates: Gates) -> None:
    async with started(1) as crew:
        await crew.hold("stuck")
        wedged = threads()["offloop-loop-1"]
        crew.force.replace("loop-1")
        crew.put("waiting")
        await crew.until(Outcome, rid="waiting")
        gates["stuck"].set()
        await crew.until(WorkerGone, worker="loop-1", cause="stopped")
        await asyncio.to_thread(wedged.join, DEADLINE)
        assert loops() == ["offloop-loop-2"]


async def test_a_loop_that_has_gone_meanwhile_is_not_replaced() -> None:
    async with started(1) as crew:
        crew.force.replace("loop-7")
        assert loops() == ["offloop-loop-1"]


async def test_without_threads_a_wedged_loop_stays_unreplaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(1) as crew:
        no_more_threads(monkeypatch, after="offloop-loop-1")
        crew.force.replace("loop-1")
        await crew.until(WorkerGone, worker="loop-2", cause="no-thread")
    assert "no loop could be started in the place of loop-1" in caplog.text


class Overdue:
    """An observer of loops that come and go."""

    kinds: frozenset[Kind] = frozenset({"worker_up", "overdue"})

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append((event.kind, event.worker))


async def until_ready(off: Offloop, ready: bool) -> None:
    async with asyncio.timeout(DEADLINE):
        while off.ready is not ready:  # noqa: ASYNC110  (no event tells of it)
            await asyncio.sleep(0.005)


async def test_at_most_as_many_loops_again_stand_in_for_wedged_ones(gates: Gates) -> None:
    seen = Overdue()
    settings = Settings(threads=2, kill_grace=0.0, drain_timeout=0.1, gc_freeze=False)
    off = Offloop(program.__name__, settings=settings, observers=(seen,))
    async with off:
        standing = 0
        while standing < 4:
            # Of a busy machine's requests some are late before they begin.
            with pytest.raises((errors.DeadlineExceeded, errors.ExpiredInQueue, errors.BackendUnavailable)):
                await off.ask(program.hold, program.Order(gate="stuck"))
            while gates.arrived.acquire(blocking=False):
                standing += 1
        await until_ready(off, False)
        with pytest.raises(errors.BackendUnavailable):
            await off.ask(program.hold, program.Order())
        assert sum(kind == "worker_up" for kind, _ in seen.events) == 4
        assert sum(kind == "overdue" for kind, _ in seen.events) == 4
        assert len(loops()) == 4
        gates.open_all()
        await until_ready(off, True)
        assert (await off.ask(program.hold, program.Order())).by.startswith("offloop-loop-")


# ---- the end


async def test_idle_loops_end_at_once(does: Any) -> None:
    closed = list[str]()
    does("close", lambda: closed.append(threading.current_thread().name))
    crew = Crew(4)
    await crew.force.start()
    async with asyncio.timeout(thread.UNDO_WITHIN):
        assert await crew.force.stop(DEADLINE) == 0
    assert closed == ["offloop-services"]


async def test_a_stop_waits_for_the_request_in_hand(gates: Gates) -> None:
    crew = Crew(1)
    await crew.force.start()
    await crew.hold("last")
    stop = asyncio.create_task(crew.force.stop(DEADLINE))
    await asyncio.sleep(0)
    gates["last"].set()
    assert await stop == 0
    await crew.until(Outcome, rid="last", reason="ok")


async def test_a_stop_leaves_stuck_loops_behind_in_time_and_their_services_open(
    does: Any, caplog: pytest.LogCaptureFixture
) -> None:
    closed = list[str]()
    does("close", lambda: closed.append("closed"))
    crew = Crew(2)
    await crew.force.start()
    await crew.hold("stuck")
    began = monotonic()
    assert await crew.force.stop(0.05) == 1
    assert monotonic() - began < 1.0
    assert "1 loops were still running a node when their time was up" in caplog.text
    assert closed == []


async def test_a_stuck_loop_that_is_replaced_during_the_stop_is_not(gates: Gates) -> None:
    crew = Crew(1)
    await crew.force.start()
    await crew.hold("stuck")
    stop = asyncio.create_task(crew.force.stop(DEADLINE))
    await asyncio.sleep(0)
    crew.force.replace("loop-1")
    assert loops() == ["offloop-loop-1"]
    gates["stuck"].set()
    assert await stop == 0


async def test_a_stop_before_or_after_everything_has_no_effect() -> None:
    crew = Crew()
    assert await crew.force.stop(DEADLINE) == 0
    async with started() as crew:
        assert await crew.force.stop(DEADLINE) == 0
        assert await crew.force.stop(DEADLINE) == 0


async def test_services_that_do_not_close_in_time_are_left_behind(does: Any, caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()
    does("close", lambda: go_on.wait(DEADLINE))
    crew = Crew()
    await crew.force.start()
    assert await crew.force.stop(0.05) == 0
    assert "the services were still closing when their time was up" in caplog.text
    go_on.set()


async def test_a_service_that_fails_at_its_end_does_not_fail_the_stop(
    does: Any, caplog: pytest.LogCaptureFixture
) -> None:
    does("close", raises(ValueError("not today")))
    crew = Crew()
    await crew.force.start()
    assert await crew.force.stop(DEADLINE) == 0
    assert "not today" in caplog.text


async def test_whatever_goes_wrong_at_the_end_does_not_fail_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crew = Crew()
    await crew.force.start()
    close = crew.services.close
    monkeypatch.setattr(crew.services, "close", raises(SystemExit("out of order")))
    assert await crew.force.stop(DEADLINE) == 0
    assert "out of order" in caplog.text
    close()


def test_a_loop_that_outlives_its_event_loop_ends_in_silence(
    gates: Gates, does: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def abandon() -> None:
        crew = Crew(1)
        await crew.force.start()
        await crew.hold("stuck")
        assert await crew.force.stop(0.0) == 1

    caplog.set_level(logging.DEBUG)
    asyncio.run(abandon())
    assert loops() == ["offloop-loop-1"]
    gates["stuck"].set()
    assert not left()
    assert "a loop ended after its event loop had closed" in caplog.text


def test_services_that_outlive_their_event_loop_end_in_silence(does: Any, caplog: pytest.LogCaptureFixture) -> None:
    building, go_on = threading.Event(), threading.Event()

    def build() -> None:
        building.set()
        assert go_on.wait(DEADLINE)

    async def abandon() -> None:
        start = asyncio.create_task(Crew().force.start())
        assert await asyncio.to_thread(building.wait, DEADLINE)
        start.cancel()

    does("open", build)
    caplog.set_level(logging.DEBUG)
    asyncio.run(abandon())
    assert list(threads()) == ["offloop-services"]
    go_on.set()
    assert not left()
    assert "offloop-services ended after its event loop had closed" in caplog.text
