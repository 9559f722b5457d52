"""A workforce of real processes over the real transport, without a gateway: who comes, who goes, what is said of it."""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from offloop import errors
from offloop.clock import monotonic
from offloop.core.respawn import FIRST
from offloop.events import Events
from offloop.graph.program import Program
from offloop.messages import Begun, Envelope, Outcome, Report, WorkerGone, WorkerUp
from offloop.orchestration import process
from offloop.orchestration.child import Child, Ending, spawn
from offloop.orchestration.process import ProcessWorkforce
from offloop.telemetry import forwarding
from offloop.transports.local.frames import Setup
from offloop.transports.local.web import LocalTransport
from tests.e2e.programs import fatal
from tests.e2e.programs.fatal import FLAG, STARTS, STAYS
from tests.support.gate import Gate, gate_at
from tests.unit.orchestration.test_child import spawner_leaves

__all__ = ["spawner_leaves"]  # a fixture that holds here as well

DEADLINE = 20.0
PROGRAM = Program.load(fatal.__name__)


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with tempfile.TemporaryDirectory(prefix="offloop-") as folder, gate_at(Path(folder)) as gate:
        yield gate


class Flag:
    """A file that, where it exists, ends every worker as it starts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def up(self) -> None:
        self._path.touch()

    def down(self) -> None:
        self._path.unlink()


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flag:
    monkeypatch.setenv(FLAG, str(tmp_path / "flag"))
    return Flag(tmp_path / "flag")


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """All that are spawned."""
    made: list[Child] = []

    async def spawns(*args: Any, **options: Any) -> Child:
        made.append(await spawn(*args, **options))
        return made[-1]

    monkeypatch.setattr(process, "spawn", spawns)
    return made


def cannot_be_made(setup: Setup) -> Setup:
    raise TypeError("what a user's code has put there")


UNTELLABLE: dict[str, Callable[[Setup], Setup]] = {
    "made": cannot_be_made,
    "encoded": lambda setup: msgspec.structs.replace(setup, packages=("\udcff",)),
}


class Force:
    """A workforce, what it reports, and a way to give its workers something to do.

    Attributes:
        cannot: makes of what a worker is to be told what it cannot be.
    """

    def __init__(self, count: int = 1, loops: int = 1, **options: Any) -> None:
        self.reports: list[Report] = []
        self.cannot: Callable[[Setup], Setup] | None = None
        self.came = asyncio.Event()
        self.transport = LocalTransport(asyncio.get_running_loop(), Events(), 2**20)
        self.transport.subscribe(self.receive)
        self.workers = ProcessWorkforce(
            count, loops, loops + 4, self.transport, self.setup, clock=monotonic, **options
        )  # fmt: skip
        self.loops = loops
        self._sent = 0

    def setup(self, name: str) -> Setup:
        path = tuple(map(os.fsencode, sys.path))
        setup = Setup(
            PROGRAM.packages, path, name, tuple(PROGRAM.endpoints), self.loops, 2**20, False, False, forwarding.levels()
        )
        return setup if self.cannot is None else self.cannot(setup)

    def receive(self, reports: Sequence[Report]) -> None:
        self.reports.extend(reports)
        self.came.set()

    def put(self, worker: str, endpoint: str = "echo", **order: Any) -> str:
        """A request for that worker; returns its rid."""
        self._sent += 1
        rid, payload = f"rid-{self._sent}", fatal.Order(**order).model_dump_json().encode()
        envelope = Envelope(rid=rid, endpoint=endpoint, payload=payload, deadline=monotonic() + 60)
        self.transport.put(envelope, worker)
        return rid

    async def until(self, kind: type[Any], *, but: str = "", **fields: Any) -> Any:
        """The first report of that kind and content, of any worker but that one."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for report in self.reports:
                    alike = isinstance(report, kind) and all(getattr(report, f) == fields[f] for f in fields)
                    if alike and getattr(report, "worker", None) != (but or ()):
                        return report
                self.came.clear()
                await self.came.wait()

    def ups(self) -> list[str]:
        return [report.worker for report in self.reports if isinstance(report, WorkerUp)]


@asynccontextmanager
async def started(count: int = 1, loops: int = 1, **options: Any) -> AsyncIterator[Force]:
    force = Force(count, loops, **options)
    await force.workers.start()
    try:
        yield force
    finally:
        await force.workers.stop(0.0)
        force.transport.close()


def pid_of(worker: str) -> int:
    return int(worker.rpartition(":")[2])


def gone(worker: str) -> bool:
    """Reaped by this process, whose child it was."""
    try:
        os.kill(pid_of(worker), 0)
    except ProcessLookupError:
        return True
    return False


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110  (nobody tells of it)
            await asyncio.sleep(0.005)


def no_process(*_: Any, **__: Any) -> Any:
    raise BlockingIOError("the system has no process to give")


# ---- start and stop


async def test_as_many_as_are_told_come_up_and_are_gone_after_the_stop() -> None:
    force = Force(2)
    await force.workers.start()
    ups = sorted(force.ups())
    assert [name.partition(":")[0] for name in ups] == ["worker-0", "worker-1"]
    told = {(report.worker, report.loops, report.rank) for report in force.reports if isinstance(report, WorkerUp)}
    assert told == {(ups[0], 1, 0), (ups[1], 1, 1)}
    assert await force.workers.stop(DEADLINE) == 0
    assert all(map(gone, ups))
    causes = [(report.worker, report.cause) for report in force.reports if isinstance(report, WorkerGone)]
    assert sorted(causes) == [(name, "stopped") for name in ups]
    assert await force.workers.stop(DEADLINE) == 0
    force.transport.close()


async def test_a_stop_waits_for_what_runs_and_kills_what_takes_too_long(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(2) as force:
        first, second = force.ups()
        ends, stays = force.put(first, name="ends"), force.put(second, name="stays")
        await asyncio.to_thread(gate.wait, "ends")
        await asyncio.to_thread(gate.wait, "stays")
        stop = asyncio.create_task(force.workers.stop(1.0))
        await asyncio.sleep(0)
        gate.open("ends")
        assert await stop == 1
        await force.until(Outcome, rid=ends, reason="ok")
        assert not any(isinstance(report, Outcome) and report.rid == stays for report in force.reports)
        assert gone(first)
        assert gone(second)
    assert "had not ended when the time to stop was up; it was running echo (rid-2)" in caplog.text
    gate.open("stays")


async def test_a_stop_does_not_wait_for_a_worker_that_is_stopped_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "LOOK_EVERY", 0.01)
    async with started() as force:
        (name,) = force.ups()
        os.kill(pid_of(name), signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE):
            assert await force.workers.stop(3600.0) == 1
        assert gone(name)
    assert "was killed: it had been stopped, as by SIGSTOP" in caplog.text


async def test_an_end_that_nobody_can_tell_of_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "END_WITHIN", DEADLINE)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with started(2) as force:
            assert await force.workers.stop(DEADLINE) == 0
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_stop_in_the_middle_of_a_start_ends_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STARTS, "60")
    force = Force(1)
    start = asyncio.create_task(force.workers.start())
    await eventually(lambda: bool(force.workers._workers))
    (name,) = force.workers._workers
    assert await force.workers.stop(DEADLINE) == 0
    await start
    assert gone(name)
    assert force.ups() == []
    force.transport.close()


async def test_a_system_that_gives_no_process_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "spawn", no_process)
    force = Force(2)
    with pytest.raises(errors.StartError, match="a worker process could not be started: the system has no process"):
        await force.workers.start()
    assert force.workers._workers == {}
    force.transport.close()


async def test_what_a_worker_cannot_be_told_fails_the_start_and_leaves_no_child(children: list[Child]) -> None:
    force = Force(1)
    force.cannot = UNTELLABLE["encoded"]
    with pytest.raises(errors.StartError, match="a worker process could not be started: UnicodeEncodeError: "):
        await force.workers.start()
    assert force.workers._workers == {}
    assert [child.ending for child in children] == [Ending(None, signal.SIGKILL)]
    force.transport.close()


async def test_sockets_of_a_process_that_sets_a_time_limit_for_all_wait_in_its_workers_all_the_same() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DEADLINE)
    try:
        async with started() as force:
            (name,) = force.ups()
            for _ in range(2):
                await force.until(Outcome, rid=force.put(name), reason="ok")
            assert force.ups() == [name]
    finally:
        socket.setdefaulttimeout(before)


async def test_a_worker_that_is_not_ready_in_time_fails_the_start_and_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(STARTS, "60")
    monkeypatch.setattr(process, "SLOW", 0.1)
    force = Force(1, start_within=1.0)
    with pytest.raises(errors.StartError, match="a worker was not ready within 1 s: it was "):
        await force.workers.start()
    assert "is not ready after" in caplog.text
    assert "is killed: a worker was not ready within 1 s" in caplog.text
    assert force.workers._workers == {}
    force.transport.close()


async def test_a_worker_that_dies_before_it_is_ready_is_tried_again(
    flag: Flag, caplog: pytest.LogCaptureFixture
) -> None:
    flag.up()
    async with started() as force:
        assert force.ups() == []
        await force.until(WorkerGone, cause="start-failed")
        flag.down()
        await force.until(WorkerUp)
        assert len(force.ups()) == 1
    assert "died before it was ready" in caplog.text
    assert "the flag is up" in caplog.text


# ---- going and coming


async def test_a_death_brings_up_another_in_its_place() -> None:
    async with started(2) as force:
        first, second = sorted(force.ups())
        force.put(first, "die", how="exit")
        await force.until(WorkerGone, worker=first, cause="died")
        await eventually(lambda: len(force.ups()) == 3)
        assert force.ups()[-1].startswith("worker-0:")
        assert not gone(second)
        assert gone(first)


async def test_what_was_begun_is_told_before_the_death(gate: Gate) -> None:
    async with started() as force:
        (name,) = force.ups()
        begun, waiting = force.put(name, name="lost"), force.put(name)
        await asyncio.to_thread(gate.wait, "lost")
        os.kill(pid_of(name), signal.SIGKILL)
        await force.until(WorkerGone, worker=name)
        told = [report.rid for report in force.reports if isinstance(report, Begun)]
        kinds = [type(report) for report in force.reports]
        assert told == [begun]
        assert waiting not in told
        assert kinds.index(Begun) < kinds.index(WorkerGone)
    gate.open("lost")


async def test_a_wedged_worker_is_killed_and_another_takes_its_place(gate: Gate) -> None:
    async with started() as force:
        (name,) = force.ups()
        force.put(name, name="wedged")
        await asyncio.to_thread(gate.wait, "wedged")
        force.workers.replace(name)
        force.workers.replace("worker-7:1")
        await force.until(WorkerGone, worker=name, cause="wedged")
        await force.until(WorkerUp, but=name)
    gate.open("wedged")


async def test_when_the_system_has_no_process_to_give_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with started() as force:
        (name,) = force.ups()
        monkeypatch.setattr(process, "spawn", no_process)
        os.kill(pid_of(name), signal.SIGKILL)
        await force.until(WorkerGone, worker="worker-0", cause="start-failed")
        monkeypatch.setattr(process, "spawn", spawn)
        await force.until(WorkerUp, but=name)
    assert "worker 0 cannot be started, and is tried again in" in caplog.text


@pytest.mark.parametrize("what", ["made", "encoded"])
async def test_when_a_worker_cannot_be_told_what_it_has_to_know_it_is_tried_again(
    children: list[Child], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    async with started() as force:
        (name,) = force.ups()
        force.cannot = UNTELLABLE[what]
        os.kill(pid_of(name), signal.SIGKILL)
        await force.until(WorkerGone, worker="worker-0", cause="start-failed")
        assert force.workers._workers == {}
        assert children[-1].ending == Ending(None, signal.SIGKILL)
        force.cannot = None
        await force.until(WorkerUp, but=name)
    assert "worker 0 cannot be started, and is tried again in" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_stop_gives_up_on_those_that_were_to_come(flag: Flag) -> None:
    async with started() as force:
        (name,) = force.ups()
        flag.up()
        os.kill(pid_of(name), signal.SIGKILL)
        await force.until(WorkerGone, cause="start-failed")
        assert await force.workers.stop(DEADLINE) == 0
        flag.down()
        await asyncio.sleep(2 * FIRST)  # what it must not do has no event: this is as long as it would have waited
        assert force.ups() == [name]
        assert force.workers._workers == {}


# ---- recycling


async def test_a_worker_that_had_its_share_leaves_when_its_successor_is_ready_and_its_work_is_done(gate: Gate) -> None:
    async with started(max_requests=2) as force:
        (name,) = force.ups()
        running, last = force.put(name, name="share"), force.put(name)
        up = await force.until(WorkerUp, but=name)
        assert up.replaces == name
        assert not gone(name)
        assert force.put(name)  # the gateway has not heard of it yet
        gate.open("share")
        await force.until(WorkerGone, worker=name, cause="recycled")
        done = [report.rid for report in force.reports if isinstance(report, Outcome)]
        assert done[:2] == [running, last]
        assert force.ups() == [name, up.worker]


async def test_a_worker_stays_while_its_successor_cannot_start(gate: Gate, flag: Flag) -> None:
    async with started(max_requests=2) as force:
        (name,) = force.ups()
        flag.up()
        force.put(name)
        force.put(name)
        await force.until(WorkerGone, cause="start-failed")
        rid = force.put(name)
        await force.until(Outcome, rid=rid, reason="ok")
        flag.down()
        up = await force.until(WorkerUp, but=name)
        assert up.replaces == name
        await force.until(WorkerGone, worker=name, cause="recycled")


async def test_a_worker_that_dies_while_its_successor_starts_has_no_second_one(gate: Gate) -> None:
    async with started(max_requests=2) as force:
        (name,) = force.ups()
        force.put(name, name="dies")
        await asyncio.to_thread(gate.wait, "dies")
        force.put(name)
        await eventually(lambda: len(force.workers._workers) == 2)
        os.kill(pid_of(name), signal.SIGKILL)
        await force.until(WorkerGone, worker=name, cause="died")
        up = await force.until(WorkerUp, but=name)
        rid = force.put(up.worker)
        await force.until(Outcome, rid=rid)
        assert force.ups() == [name, up.worker]
        assert list(force.workers._workers) == [up.worker]
        assert not force.workers._coming
    gate.open("dies")


@pytest.mark.parametrize("what", ["service", "thread"])
async def test_a_worker_that_is_to_leave_and_is_kept_from_it_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    monkeypatch.setenv(STAYS, what)
    monkeypatch.setattr(process, "LOOK_EVERY", 0.01)
    async with started(max_requests=1, leave_within=0.1) as force:
        (name,) = force.ups()
        for generation in range(2):
            force.put(name)
            await force.until(WorkerGone, worker=name, cause="recycled")
            assert gone(name)
            name = force.ups()[-1]
            assert len(force.ups()) == generation + 2
            assert list(force.workers._workers) == [name]
    assert caplog.text.count("was killed: it was to be recycled, had nothing left to do, and did not end") == 2


async def test_a_worker_that_is_to_leave_may_take_its_time_for_what_it_holds(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setenv(STAYS, "thread")
    monkeypatch.setattr(process, "LOOK_EVERY", 3600.0)
    async with started(max_requests=2, leave_within=0.0) as force:
        (name,) = force.ups()
        running, waiting = force.put(name, name="unhurried"), force.put(name)
        await force.until(WorkerUp, but=name)
        await asyncio.to_thread(gate.wait, "unhurried")
        force.workers._look()
        assert not force.workers._workers[name].killed
        gate.open("unhurried")
        for rid in (running, waiting):
            await force.until(Outcome, rid=rid, reason="ok")
        force.workers._look()
        await force.until(WorkerGone, worker=name, cause="recycled")


# ---- looks


async def test_a_worker_that_is_seen_stopped_twice_in_a_row_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOOK_EVERY", 3600.0)
    async with started() as force:
        (name,) = force.ups()
        (worker,) = force.workers._workers.values()
        for _ in range(2):
            os.kill(worker.child.pid, signal.SIGSTOP)
            await eventually(worker.child.stopped)
            force.workers._look()
            os.kill(worker.child.pid, signal.SIGCONT)
            await eventually(lambda: not worker.child.stopped())
            force.workers._look()
        rid = force.put(name)
        await force.until(Outcome, rid=rid)
        os.kill(worker.child.pid, signal.SIGSTOP)
        await eventually(worker.child.stopped)
        force.workers._look()
        force.workers._look()
        await force.until(WorkerGone, worker=name, cause="suspended")
        await force.until(WorkerUp, but=name)


async def test_a_worker_that_closes_its_socket_and_lives_is_killed(gate: Gate) -> None:
    async with started() as force:
        (name,) = force.ups()
        force.put(name, "garble", how="silence", name="silent")
        await force.until(WorkerGone, worker=name)
        assert gone(name)
        await force.until(WorkerUp, but=name)


async def test_what_cannot_be_understood_ends_its_worker(caplog: pytest.LogCaptureFixture) -> None:
    async with started() as force:
        (name,) = force.ups()
        force.put(name, "garble", how="unreadable")
        await force.until(WorkerGone, worker=name, cause="garbled")
    assert "is killed: it sent a head that cannot be read" in caplog.text
    assert "was killed: what it sent could not be understood; it was running garble (rid-1)" in caplog.text


async def test_a_worker_that_is_ready_twice_is_out_of_its_mind(caplog: pytest.LogCaptureFixture, gate: Gate) -> None:
    async with started() as force:
        (name,) = force.ups()
        force.put(name, "garble", how="ready again", name="ready again")
        await force.until(WorkerGone, worker=name, cause="garbled")
        up = await force.until(WorkerUp, but=name)
        assert force.ups() == [name, up.worker]
    assert "is killed: it sent a Ready though it was ready" in caplog.text


# ---- what is said


async def test_a_worker_that_cannot_start_has_its_own_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    force = Force(1)
    force.cannot = lambda setup: msgspec.structs.replace(
        setup, packages=("tests.e2e.programs.broken",), endpoints=("score",)
    )
    line = "a service could not be built: FileNotFoundError: the model's file is missing"
    with pytest.raises(errors.StartError, match=line):
        await force.workers.start()
    (record,) = [record for record in caplog.records if "cannot start" in record.getMessage()]
    said, *trace = record.getMessage().splitlines()
    assert said.endswith(f"cannot start: {line}")
    assert trace[0] == "Traceback (most recent call last):"
    assert any("broken.py" in text for text in trace)
    assert trace[-1] == "FileNotFoundError: the model's file is missing"
    force.transport.close()


async def test_the_log_tells_of_starts_at_debug_and_of_readiness_at_info(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "offloop"):
        async with started():
            pass
    told = [record.getMessage() for record in caplog.records]
    for part in ("is importing tests.e2e.programs.fatal", "is building services", "is ready after"):
        assert any(part in text for text in told), part
