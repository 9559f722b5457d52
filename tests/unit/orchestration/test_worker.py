"""A worker process from the inside: a real one, to which the test speaks as the web process does."""

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from offloop.clock import monotonic
from offloop.graph.program import Program
from offloop.messages import Envelope, Outcome, Withdrawn
from offloop.orchestration.child import Child, Ending, spawn
from offloop.orchestration.process import HOME
from offloop.orchestration.worker import CODE, Place
from offloop.telemetry.forwarding import Frames, decode, record_of
from offloop.transports.local.frames import (
    Answers,
    Cancel,
    Failed,
    Progress,
    Reader,
    Ready,
    Setup,
    Stop,
    Withdraw,
    Work,
    plain,
)
from offloop.transports.local.table import Table, shared_memory
from tests.e2e.programs import fatal
from tests.support.gate import Gate, gate_at
from tests.unit.orchestration.test_child import spawner_leaves

__all__ = ["spawner_leaves"]  # a fixture that holds here as well

DEADLINE = 20.0
PLACES = 8
FATAL = Program.load(fatal.__name__)
KILLED = Ending(None, signal.SIGKILL)

T = TypeVar("T")


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with tempfile.TemporaryDirectory(prefix="offloop-") as folder, gate_at(Path(folder)) as gate:
        yield gate


SETUP = Setup(
    packages=(fatal.__name__,), path=tuple(map(os.fsencode, sys.path)), name="worker-0:1",
    endpoints=tuple(FATAL.endpoints), loops=1, max_reply=10_000, gc_freeze=True, debug=False,
    levels={"": logging.WARNING},
)  # fmt: skip


class Hand:
    """A worker, held by the web process' ends of its lines."""

    def __init__(self, child: Child, work: socket.socket, control: socket.socket, table: Table, logs: int) -> None:
        self.child = child
        self.work = work
        self.control = control
        self.table = table
        self.logs = logs
        self.said: list[Answers] = []
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._reader: Reader[Answers] = Reader(Answers, 2**20)
        self._sent = 0
        child.watch(self.ended.set_result)

    def tell(self, message: object) -> None:
        for piece in plain(message):
            self.work.sendall(piece)

    def tell_aside(self, message: object) -> None:
        for piece in plain(message):
            self.control.sendall(piece)

    def ask(self, endpoint: str = "echo", seconds: float = 60.0, **order: Any) -> str:
        """Hand out a request; its place in the table is its number from 0. Returns its rid."""
        self._sent += 1
        payload = fatal.Order(**order).model_dump_json().encode()
        envelope = Envelope(rid=f"rid-{self._sent}", endpoint=endpoint, payload=payload, deadline=monotonic() + seconds)
        self.tell(Work(self._sent - 1, self._sent, envelope))
        return envelope.rid

    async def hear(self, kind: type[T], rid: str = "") -> T:
        """The next of that kind, and of that request; what comes before it is in `said`."""
        seen = 0
        while True:
            for said in self.said[seen:]:
                seen += 1
                if isinstance(said, kind) and (not rid or getattr(said, "rid", "") == rid):
                    return said
            came = await asyncio.to_thread(self._reader.read, self.work)
            assert self._reader.fault is None
            assert came is not None, f"no {kind.__name__} came, but {self.said}"
            self.said += came

    async def end(self) -> Ending:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.shield(self.ended)

    async def records(self) -> list[logging.LogRecord]:
        """All that it has logged by its end."""
        await self.end()
        data = b""
        while select.select([self.logs], [], [], 0)[0] and (read := os.read(self.logs, 2**16)):
            data += read
        return [record_of(decode(frame), "worker-0", self.child.pid) for frame in Frames().feed(data)]

    def printed(self) -> str:
        """What is there on stderr."""
        data = b""
        while select.select([self.child.stderr], [], [], 0)[0] and (read := os.read(self.child.stderr, 2**16)):
            data += read
        return data.decode()


@asynccontextmanager
async def worker(setup: Setup | None = SETUP, **env: str) -> AsyncIterator[Hand]:
    """A worker that was told that; killed at the end if it still lives."""
    with ExitStack() as stack:
        (work, its_work), (control, its_control) = socket.socketpair(), socket.socketpair()
        for line in (work, control):
            line.settimeout(DEADLINE)
        logs, its_logs = os.pipe()
        its_tether, tether = os.pipe()
        memory = shared_memory(PLACES)
        table = Table(memory)
        fds = (its_work.fileno(), its_control.fileno(), memory, its_logs, its_tether)
        args = map(str, Place(os.getpid(), 0, *fds))
        child = await spawn(CODE, HOME, *args, pass_fds=fds, env={**os.environ, "OFFLOOP_WORKER_INDEX": "0", **env})
        its_work.close()
        its_control.close()
        os.close(memory)
        os.close(its_logs)
        os.close(its_tether)
        stack.callback(table.close)
        for fd in (logs, child.stdout, child.stderr, tether):
            stack.callback(os.close, fd)
        for line in (work, control):
            stack.callback(line.close)
        hand = Hand(child, work, control, table, logs)
        try:
            if setup is not None:
                hand.tell(setup)
            yield hand
        finally:
            child.kill()
            await hand.end()
            child.close()


def but(**changes: Any) -> Setup:
    return msgspec.structs.replace(SETUP, **changes)


def said(outcome: Outcome) -> Any:
    assert outcome.reason == "ok", outcome
    return msgspec.json.decode(outcome.payload)


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], Setup]:
    """A program of those lines: what a worker is told of it."""

    def write(text: str) -> Setup:
        (tmp_path / "written.py").write_text(text)
        return but(packages=("written",), path=(*SETUP.path, os.fsencode(tmp_path)), endpoints=())

    return write


# ---- coming up


async def test_it_says_what_it_does_until_it_is_ready_and_then_serves() -> None:
    async with worker() as hand:
        await hand.hear(Ready)
        assert hand.said == [Progress(f"importing {fatal.__name__}"), Progress("building services"), Ready()]
        before = monotonic()
        outcome = await hand.hear(Outcome, hand.ask(number=7))
        assert said(outcome) == {"pid": hand.child.pid, "word": "", "number": 7}
        assert outcome.worker == "worker-0:1"
        assert outcome.last
        assert before <= hand.table[0] == outcome.begun_at <= outcome.ended_at <= monotonic()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder's name is text")
async def test_a_program_may_lie_in_a_folder_whose_name_is_no_text(module: Callable[[str], Setup]) -> None:
    setup = module("from offloop import endpoint\n@endpoint()\ndef echo(n: int) -> int:\n    return n\n")
    *before, folder = setup.path
    os.rename(folder, folder + b"\xe9")  # noqa: PTH104  (a Path is not made of bytes)
    async with worker(msgspec.structs.replace(setup, path=(*before, folder + b"\xe9"))) as hand:
        await hand.hear(Ready)


FAILURES = [
    ("import nowhere_to_be_found", "the program could not be imported: ModuleNotFoundError: No module named"),
    ("raise ValueError('one\\ntwo')", "the program could not be imported: ValueError: one"),
    ("import sys; sys.exit('no')", "the program could not be imported: SystemExit: no"),
    ("raise KeyboardInterrupt", "the program could not be imported: KeyboardInterrupt: "),
    ("nothing = 1", "the program could not be imported: "),
]


@pytest.mark.parametrize(("text", "line"), FAILURES)
async def test_a_program_that_cannot_be_imported_is_told_in_one_line(
    module: Callable[[str], Setup], text: str, line: str
) -> None:
    async with worker(msgspec.structs.replace(module(text), endpoints=("gone",))) as hand:
        failed = await hand.hear(Failed)
        assert failed.line.startswith(line)
        assert "\n" not in failed.line
        assert "Traceback" in failed.trace
        assert await hand.end() == Ending(1, None)


async def test_an_endpoint_that_the_files_have_no_more_fails_the_start() -> None:
    async with worker(but(endpoints=("echo", "gone", "another"))) as hand:
        failed = await hand.hear(Failed)
        assert "no another, gone: the files have changed since the web process started" in failed.line
        assert await hand.end() == Ending(1, None)


async def test_a_service_that_cannot_be_built_is_told_in_one_line() -> None:
    async with worker(but(packages=("tests.e2e.programs.broken",), endpoints=("score",))) as hand:
        failed = await hand.hear(Failed)
        assert failed.line == "a service could not be built: FileNotFoundError: the model's file is missing"
        assert await hand.end() == Ending(1, None)


async def test_what_comes_before_the_setup_ends_it() -> None:
    async with worker(None) as hand:
        hand.tell(Stop())
        assert await hand.end() == Ending(1, None)
        assert "a Stop before the setup" in hand.printed()


async def test_a_parent_that_has_gone_before_it_came_is_no_parent() -> None:
    child = await spawn(CODE, HOME, *map(str, Place(1, 0, 0, 0, 0, 0, 0)), pass_fds=(), env=os.environ)
    ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
    child.watch(ended.set_result)
    async with asyncio.timeout(DEADLINE):
        assert await ended == Ending(1, None)
    child.close()
    os.close(child.stdout)
    os.close(child.stderr)


# ---- its place in the world


WORLD = """
import logging, os, signal, sys, threading
from offloop import endpoint

logging.getLogger("quiet").setLevel(logging.DEBUG)

@endpoint
def look(n: int) -> dict[str, str]:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    logging.getLogger("quiet").error("not to be heard")
    logging.getLogger("loud").error("heard", extra={"n": n})
    return {
        "argv": repr(sys.argv), "index": os.environ["OFFLOOP_WORKER_INDEX"], "group": str(os.getpgrp() == os.getpid()),
        "main": str(threading.current_thread() is threading.main_thread()), "last": sys.path[-1],
        "web": str(any(name in sys.modules for name in ("fastapi", "starlette", "uvicorn"))),
    }
"""


async def test_nodes_find_a_world_like_the_web_process_and_signals_to_all_pass_over(
    module: Callable[[str], Setup],
) -> None:
    setup = msgspec.structs.replace(module(WORLD.replace("@endpoint\n", "@endpoint()\n")), levels={"quiet": 60})
    async with worker(setup) as hand:
        await hand.hear(Ready)
        envelope = Envelope(rid="rid", endpoint="look", payload=b"3", deadline=monotonic() + 60)
        hand.tell(Work(0, 1, envelope))
        outcome = await hand.hear(Outcome)
        assert said(outcome) == {
            "argv": "['-c']", "index": "0", "group": "True", "main": "True", "web": "False",
            "last": os.fsdecode(setup.path[-1]),
        }  # fmt: skip
        hand.tell(Stop())
        told = [(record.name, record.getMessage(), record.__dict__.get("n")) for record in await hand.records()]
        assert told == [("loud", "heard", 3)]


async def test_loops_beside_the_first_have_threads_and_run_at_once(gate: Gate) -> None:
    async with worker(but(loops=3)) as hand:
        await hand.hear(Ready)
        rids = [hand.ask(name="at once") for _ in range(3)]
        await asyncio.to_thread(gate.wait, "at once", 3)
        gate.open("at once")
        for rid in rids:
            await hand.hear(Outcome, rid)


# ---- while nodes run


async def test_what_has_not_begun_can_be_taken_back_while_a_node_runs(gate: Gate) -> None:
    async with worker() as hand:
        await hand.hear(Ready)
        running, waiting = hand.ask(name="ahead"), hand.ask()
        await asyncio.to_thread(gate.wait, "ahead")
        hand.tell_aside(Withdraw(waiting, 2))
        assert not (await hand.hear(Withdrawn, waiting)).begun
        hand.tell_aside(Withdraw(running, 1))
        assert (await hand.hear(Withdrawn, running)).begun
        hand.tell_aside(Cancel(running))
        gate.open("ahead")
        await hand.hear(Outcome, running)
        hand.tell(Stop())
        assert await hand.end() == Ending(0, None)
        assert hand.table[0] > 0.0
        assert hand.table[1] == 0.0


async def test_a_reply_that_is_too_large_is_a_failure_of_the_node() -> None:
    async with worker(but(max_reply=5)) as hand:
        await hand.hear(Ready)
        assert (await hand.hear(Outcome, hand.ask())).reason == "node-failed"


# ---- the end


async def test_told_to_stop_it_ends_what_it_has_and_closes_its_services(module: Callable[[str], Setup]) -> None:
    text = """
import sys
from collections.abc import Iterator
from dishka import FromDishka, Provider, Scope, provide
from offloop import endpoint

class Tool: ...

class Services(Provider):
    @provide(scope=Scope.APP)
    def tool(self) -> Iterator[Tool]:
        yield Tool()
        print("closed", file=sys.stderr)

@endpoint()
def use(n: int, tool: FromDishka[Tool]) -> str:
    return "used"
"""
    async with worker(module(text)) as hand:
        await hand.hear(Ready)
        for number in range(3):
            envelope = Envelope(rid=f"rid-{number}", endpoint="use", payload=b"1", deadline=monotonic() + 60)
            hand.tell(Work(number, number + 1, envelope))
        hand.tell(Stop())
        assert await hand.end() == Ending(0, None)
        for number in range(3):
            assert said(await hand.hear(Outcome, f"rid-{number}")) == "used"
        assert hand.printed() == "closed\n"


@pytest.mark.parametrize("held", [False, True])
async def test_when_the_web_process_is_gone_it_ends_with_all_that_its_nodes_started(gate: Gate, held: bool) -> None:
    async with worker(but(loops=2)) as hand:
        await hand.hear(Ready)
        name = f"orphan {held}"
        if held:
            hand.ask("family", name=name)
            await asyncio.to_thread(gate.wait, name)
        hand.control.close()
        assert await hand.end() == KILLED
        if held:
            child = int(next(note for note in gate.notes if note.startswith(name)).split()[-1])
            async with asyncio.timeout(DEADLINE):
                while not has_ended(child):  # noqa: ASYNC110  (it was nobody's child that could be waited for)
                    await asyncio.sleep(0.005)
            gate.open(name)


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


@pytest.mark.parametrize("loops", [1, 2])
async def test_what_it_cannot_understand_on_its_work_socket_ends_it(loops: int) -> None:
    async with worker(but(loops=loops)) as hand:
        await hand.hear(Ready)
        hand.work.sendall(b"\xff" * 64)
        ending = await hand.end()
        assert ending.code == 1
        assert "FrameError" in hand.printed()


async def test_what_it_cannot_understand_on_its_control_socket_ends_it() -> None:
    async with worker() as hand:
        await hand.hear(Ready)
        hand.control.sendall(b"\xff" * 64)
        assert await hand.end() == KILLED


async def test_a_crash_says_on_stderr_where_it_was() -> None:
    async with worker() as hand:
        await hand.hear(Ready)
        hand.ask("die", how="abort")
        assert await hand.end() == Ending(None, signal.SIGABRT)
        told = hand.printed()
        assert told.startswith("these are my last words\nFatal Python error: Aborted\n")
        assert "in _end" in told
