"""Real processes: how they end, what is seen of them, and that nothing of them is left."""

import asyncio
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from offloop.orchestration import child as module
from offloop.orchestration.child import Child, Ending, end_with_parent, name_process, spawn, tie
from offloop.testing.conformance.web_side import eventually

DEADLINE = 10.0
KILLED = Ending(None, signal.SIGKILL)
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")

UP = "import os, signal, sys; print('up', flush=True);"
STAY = f"{UP} signal.pause()"
# Leaves a descendant in its group that answers on the socket whose descriptor is its first argument.
LEAVE = """
import os, signal, socket, sys
if os.fork() == 0:
    os.close(1)
    line = socket.socket(fileno=int(sys.argv[1]))
    line.send(b"up")
    while asked := line.recv(1): line.send(asked)
    os._exit(0)
"""


@pytest.fixture(scope="module", autouse=True)
def spawner_leaves() -> Iterator[None]:
    """It lives as long as the process, but other tests look whether a thread was left behind."""
    yield
    spawner, module._spawner = module._spawner, None
    if spawner is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda _: None)  # pytest's takes this exit for a failure
            spawner.work.put(sys.exit)
            eventually(lambda: "offloop-spawner" not in thread_names(), "the spawner's end")


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=["pidfd", "thread", "thread that reaps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How an end is noticed: by a descriptor, or by a thread that waits and can look, or can only reap."""
    if request.param != "pidfd":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    if request.param == "thread that reaps":
        monkeypatch.delattr(os, "waitid", raising=False)
    return str(request.param)


@asynccontextmanager
async def spawned(code: str, *args: str, pass_fds: tuple[int, ...] = ()) -> AsyncIterator[Child]:
    """Killed and reaped at the end, its pipes closed."""
    child = await spawn(code, *args, pass_fds=pass_fds, env=os.environ)
    try:
        yield child
    finally:
        child.close()
        child.kill()
        eventually(lambda: child.ending is not None, "the child's end")
        os.close(child.stdout)
        os.close(child.stderr)


def read(fd: int) -> str:
    """What there is to read, once there is something; empty at the end of the file."""
    assert select.select([fd], [], [], DEADLINE)[0], f"nothing came within {DEADLINE} s"
    return os.read(fd, 65536).decode()


def read_line(fd: int) -> str:
    text = ""
    while not text.endswith("\n") and (more := read(fd)):
        text += more
    return text


def up(child: Child) -> None:
    """Wait until it says that it is."""
    assert read_line(child.stdout) == "up\n"


def read_all(fd: int) -> str:
    text = ""
    while more := read(fd):
        text += more
    return text


class Watched:
    """What `watch` has told."""

    def __init__(self, child: Child) -> None:
        self.told: list[Ending] = []
        self._came = asyncio.Event()
        child.watch(self._ended)

    def _ended(self, ending: Ending) -> None:
        self.told.append(ending)
        self._came.set()

    async def ending(self) -> Ending:
        async with asyncio.timeout(DEADLINE):
            await self._came.wait()
        return self.told[0]


class Line:
    """A socket to a descendant: it answers as long as it lives, and ends with it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(DEADLINE)

    def up(self) -> None:
        """Wait for its first word. Only it holds the other side from then on."""
        assert self.ours.recv(2) == b"up"
        self.theirs.close()

    def answers(self) -> bool:
        self.ours.send(b"?")
        return self.ours.recv(1) == b"?"

    def ended(self) -> bool:
        """Wait for its end."""
        return self.ours.recv(1) == b""


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    with line.ours, line.theirs:
        yield line


def reap(pid: int) -> None:
    os.waitpid(pid, 0)


def is_reaped(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def state(pid: int) -> str:
    """One letter, as in `ps`."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def turning_until(true: Callable[[], bool]) -> None:
    """As `eventually`, for what needs the event loop."""
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110  (no event tells of it)
            await asyncio.sleep(0)


def descriptors() -> set[tuple[str, str]]:
    """What is open in this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            found.add((entry.name, str(entry.readlink())))
    return found


@contextmanager
def nothing_left_open() -> Iterator[None]:
    before = descriptors() if sys.platform == "linux" else set()
    yield
    if sys.platform == "linux":
        eventually(lambda: descriptors() <= before, "every descriptor closed")


# ---- how it ended


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (Ending(3, None), "exit code 3"),
        (Ending(0, None), "exit code 0"),
        (Ending(None, signal.SIGSEGV), "killed by SIGSEGV"),
        (Ending(None, signal.SIGKILL), "killed by SIGKILL"),
        (Ending(None, signal.SIGRTMIN + 3 if sys.platform == "linux" else 77), "killed by signal "),
        (Ending(None, None), "ended"),
    ],
    ids=str,
)
def test_an_ending_says_in_few_words_how_it_came(ending: Ending, text: str) -> None:
    assert str(ending).startswith(text)
    assert "None" not in str(ending)


ENDS = {
    "sys.exit(3)": Ending(3, None),
    "os._exit(4)": Ending(4, None),
    "pass": Ending(0, None),
    "os.kill(os.getpid(), signal.SIGTERM)": Ending(None, signal.SIGTERM),
    "os.abort()": Ending(None, signal.SIGABRT),
}


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_is_told_with_its_exit_code_or_its_signal(way: str, end: str) -> None:
    async with spawned(f"import os, signal, sys; {end}") as child:
        assert await Watched(child).ending() == ENDS[end]
        assert child.ending == ENDS[end]


async def test_while_it_lives_there_is_no_ending_and_nothing_is_told(way: str) -> None:
    async with spawned(STAY) as child:
        watched = Watched(child)
        up(child)
        assert child.ending is None
        await asyncio.sleep(0)
        assert watched.told == []


async def test_an_end_is_told_once_and_leaves_no_zombie(way: str) -> None:
    async with spawned(STAY) as child:
        watched = Watched(child)
        child.kill()
        assert await watched.ending() == KILLED
        assert is_reaped(child.pid)
        assert child.ending == KILLED
        child.close()
        await asyncio.sleep(0)
        assert watched.told == [KILLED]


async def test_an_end_that_was_seen_before_the_watching_began_is_told_all_the_same(way: str) -> None:
    async with spawned("") as child:
        eventually(lambda: child.ending is not None, "its end")
        watched = Watched(child)
        assert watched.told == []  # never inside of the call
        assert await watched.ending() == Ending(0, None)


async def test_an_end_that_was_first_asked_for_is_told_all_the_same(way: str) -> None:
    async with spawned(STAY) as child:
        watched = Watched(child)
        child.kill()
        eventually(lambda: child.ending is not None, "its end")
        assert await watched.ending() == KILLED


async def test_without_watching_an_end_is_seen_by_asking(way: str) -> None:
    async with spawned("raise SystemExit(5)") as child:
        eventually(lambda: child.ending is not None, "its end")
        assert child.ending == Ending(5, None)


async def test_how_it_ended_is_unknown_where_somebody_else_waited_for_it(way: str) -> None:
    async with spawned(STAY) as child:
        os.kill(child.pid, signal.SIGKILL)
        reap(child.pid)
        assert await Watched(child).ending() == Ending(None, None)
        assert not child.stopped()


async def test_how_it_ended_is_unknown_where_the_program_ignores_its_children(way: str) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with spawned(STAY) as child:
            watched = Watched(child)
            child.kill()
            assert await watched.ending() == Ending(None, None)
    finally:
        signal.signal(signal.SIGCHLD, before)


# ---- watching ends


async def test_once_closed_nothing_is_told(way: str) -> None:
    async with spawned(STAY) as child:
        watched = Watched(child)
        child.close()
        child.close()
        child.kill()
        eventually(lambda: child.ending is not None, "its end")
        eventually(lambda: not waiting_threads(), "the end of the thread that waited")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert watched.told == []


def waiting_threads() -> list[str]:
    return [name for name in thread_names() if name.startswith("offloop-wait")]


def test_an_event_loop_may_be_closed_before_the_child_has_ended(way: str) -> None:
    told = list[Ending]()

    async def watch() -> Child:
        child = await spawn(STAY, pass_fds=(), env=os.environ)
        child.watch(told.append)
        return child

    with nothing_left_open():
        child = asyncio.run(watch())
        assert child.ending is None
        child.kill()
        eventually(lambda: child.ending is not None, "its end")
        eventually(lambda: not waiting_threads(), "the end of the thread that waited")
        child.close()
        child.discard()
    assert told == []


@linux
async def test_nothing_is_left_open_by_children_that_came_and_went(way: str) -> None:
    async with spawned("") as child:  # whatever the event loop opens once
        await Watched(child).ending()
    with nothing_left_open():
        for _ in range(3):
            async with spawned(STAY) as child:
                watched = Watched(child)
                child.kill()
                await watched.ending()


# ---- stopped


@pytest.mark.parametrize("stop", [signal.SIGSTOP, signal.SIGTSTP])
async def test_a_stop_is_seen_as_often_as_asked_until_it_is_continued(stop: signal.Signals) -> None:
    async with spawned(STAY) as child:
        up(child)
        assert not child.stopped()
        os.kill(child.pid, stop)
        eventually(child.stopped, "the stop")
        assert [child.stopped() for _ in range(5)] == [True] * 5
        assert child.ending is None
        os.kill(child.pid, signal.SIGCONT)
        eventually(lambda: not child.stopped(), "its going on")
        os.kill(child.pid, stop)
        eventually(child.stopped, "the second stop")


async def test_one_that_works_hard_is_not_stopped() -> None:
    async with spawned(f"{UP}\nwhile True: pass") as child:
        up(child)
        assert not child.stopped()


async def test_one_that_has_ended_is_not_stopped(way: str) -> None:
    async with spawned(STAY) as child:
        up(child)
        os.kill(child.pid, signal.SIGSTOP)
        child.kill()
        eventually(lambda: not child.stopped(), "the end of the stop")
        eventually(lambda: child.ending is not None, "its end")
        assert not child.stopped()


async def test_where_nobody_can_tell_it_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async with spawned(STAY) as child:
        up(child)
        os.kill(child.pid, signal.SIGSTOP)
        eventually(child.stopped, "the stop")
        monkeypatch.delattr(os, "waitid")
        assert not child.stopped()


# PTRACE_SEIZE and PTRACE_INTERRUPT: it is held as by a debugger at a breakpoint. "held" once the hold is seen.
DEBUGGER = """
import ctypes, os, signal, sys
pid, ptrace = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True).ptrace
zero = ctypes.c_void_p(0)
for request in (0x4206, 0x4207):
    if ptrace(ctypes.c_long(request), ctypes.c_long(pid), zero, zero) != 0:
        print(os.strerror(ctypes.get_errno()), flush=True)
        sys.exit()
os.waitpid(pid, 0x40000000)  # __WALL
print("held", flush=True)
signal.pause()
"""


@asynccontextmanager
async def debugged(child: Child) -> AsyncIterator[Child]:
    async with spawned(DEBUGGER, str(child.pid)) as debugger:
        said = read_line(debugger.stdout).strip()
        if said == os.strerror(errno.EPERM):
            pytest.skip("nothing may be traced here")
        assert said == "held"
        yield debugger


@linux
async def test_one_that_a_debugger_holds_is_not_stopped() -> None:
    async with spawned(STAY) as child:
        up(child)
        async with debugged(child):
            assert state(child.pid) == "t"  # the kernel's own word for it
            assert not child.stopped()
            assert child.ending is None


@linux
async def test_an_end_that_a_debugger_hides_is_told_when_the_debugger_lets_go() -> None:
    async with spawned(STAY) as child:
        up(child)
        watched = Watched(child)
        async with debugged(child) as debugger:
            pidfd = os.pidfd_open(child.pid)
            child.kill()
            assert select.select([pidfd], [], [], DEADLINE)[0]
            os.close(pidfd)
            await turning_until(lambda: bool(waiting_threads()))
            assert child.ending is None
            debugger.kill()
            assert await watched.ending() == KILLED


# ---- killed


async def test_a_stopped_process_is_killed(way: str) -> None:
    async with spawned(STAY) as child:
        up(child)
        watched = Watched(child)
        os.kill(child.pid, signal.SIGSTOP)
        child.kill()
        assert await watched.ending() == KILLED


async def test_one_that_shuts_its_ears_is_killed() -> None:
    deaf = f"import signal; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; {STAY}"
    async with spawned(deaf) as child:
        up(child)
        watched = Watched(child)
        os.kill(child.pid, signal.SIGTERM)
        os.kill(child.pid, signal.SIGINT)
        assert child.ending is None
        child.kill()
        assert await watched.ending() == KILLED


async def test_a_kill_takes_with_it_what_the_process_has_started(line: Line, way: str) -> None:
    async with spawned(f"{LEAVE}signal.pause()", str(line.theirs.fileno()), pass_fds=(line.theirs.fileno(),)) as child:
        line.up()
        assert line.answers()
        child.kill()
        eventually(lambda: child.ending == KILLED, "its end")
        assert line.ended()


async def ask(child: Child) -> None:
    assert child.ending == Ending(None, signal.SIGTERM)


async def kill(child: Child) -> None:
    child.kill()


async def watch(child: Child) -> None:
    assert await Watched(child).ending() == Ending(None, signal.SIGTERM)


@linux
@pytest.mark.parametrize("notice", [ask, kill, watch])
async def test_what_a_process_leaves_behind_is_killed_when_its_end_is_noticed(
    line: Line, way: str, notice: Callable[[Child], Awaitable[None]]
) -> None:
    async with spawned(f"{LEAVE}signal.pause()", str(line.theirs.fileno()), pass_fds=(line.theirs.fileno(),)) as child:
        line.up()
        os.kill(child.pid, signal.SIGTERM)
        eventually(lambda: state(child.pid) == "Z", "its end")
        assert line.answers()
        await notice(child)
        assert line.ended()
        assert child.ending == Ending(None, signal.SIGTERM)


async def test_what_cannot_be_killed_without_doubt_is_left_alone(line: Line, way: str) -> None:
    """Whoever else reaped it has set its number free: it may be that of any process, or of any group."""
    async with spawned(LEAVE, str(line.theirs.fileno()), pass_fds=(line.theirs.fileno(),)) as child:
        line.up()
        reap(child.pid)
        assert child.ending == Ending(None, None)
        child.kill()
        assert line.answers()
        os.killpg(child.pid, signal.SIGKILL)
        assert line.ended()


async def test_a_kill_may_be_repeated_and_come_late(way: str) -> None:
    async with spawned(STAY) as child:
        watched = Watched(child)
        child.kill()
        child.kill()
        assert await watched.ending() == KILLED
        child.kill()
        assert child.ending == KILLED


async def test_one_that_has_left_its_group_is_killed(way: str) -> None:
    async with spawned(f"import os; os.setpgid(0, os.getpgid(os.getppid())); {STAY}") as child:
        up(child)
        assert os.getpgid(child.pid) == os.getpgid(0)
        watched = Watched(child)
        child.kill()
        assert await watched.ending() == KILLED


# ---- spawned


async def test_a_child_gets_its_arguments_its_environment_and_its_descriptors() -> None:
    ours, theirs = os.pipe()
    code = "import os, sys; os.write(int(sys.argv[1]), f'{sys.argv[1:]} {dict(os.environ)[\"WORD\"]}'.encode())"
    env = {**os.environ, "WORD": "as given"}
    child = await spawn(code, str(theirs), "a b", pass_fds=[theirs], env=env)
    os.close(theirs)
    assert read_all(ours) == f"['{theirs}', 'a b'] as given"
    os.close(ours)
    child.discard()


async def test_what_it_prints_comes_by_two_pipes() -> None:
    async with spawned("import sys; print('out'); print('err', file=sys.stderr)") as child:
        assert read_all(child.stdout) == "out\n"
        assert read_all(child.stderr) == "err\n"


async def test_it_reads_nothing_of_what_is_meant_for_its_parent() -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"for the parent\n")
    before = os.dup(0)
    os.dup2(ours, 0)
    try:
        async with spawned("import sys; print(repr(sys.stdin.read()))") as child:
            assert read_all(child.stdout) == "''\n"
    finally:
        os.dup2(before, 0)
        for fd in (before, ours, theirs):
            os.close(fd)


async def test_it_leads_a_group_of_its_own_and_stays_where_its_parent_is() -> None:
    async with spawned("import os; print(os.getpid() == os.getpgid(0), os.getcwd())") as child:
        assert read_all(child.stdout) == f"True {Path.cwd()}\n"


async def test_it_inherits_nothing_but_what_it_is_given() -> None:
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    async with spawned(f"import os, sys; os.fstat({theirs})") as child:
        os.close(theirs)
        assert "Bad file descriptor" in read_all(child.stderr)
        assert read(ours) == ""
    os.close(ours)


TELL = "import sys; print(sys.flags, sys.warnoptions, sys._xoptions, sep='\\n')"
TELL_BOTH = f"""
import asyncio, os, sys
from offloop.orchestration.child import spawn
async def main():
    child = await spawn({TELL!r}, pass_fds=(), env=os.environ)
    while text := os.read(child.stdout, 65536):
        sys.stdout.write(text.decode())
    child.discard()
asyncio.run(main())
{TELL}
"""


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-O -B -X utf8=0 -X faulthandler -W error::ResourceWarning -W ignore::UserWarning",
        "-OO -b -X dev -X int_max_str_digits=4000",
        "-E -s -X utf8",
        "-I",
    ],
)
def test_it_is_a_python_like_its_parent(options: str) -> None:
    command = [sys.executable, *options.split(), "-P", "-c", TELL_BOTH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:3] == lines[3:]
    assert "safe_path=True" in lines[0]


async def test_a_child_that_cannot_be_made_is_an_error_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with nothing_left_open(), pytest.raises(FileNotFoundError, match="/nowhere/python"):
        await spawn("", pass_fds=(), env=os.environ)
    monkeypatch.undo()
    async with spawned("") as child:  # and the next one can
        assert await Watched(child).ending() == Ending(0, None)


# ---- given up


class Making:
    """The real making of children, held up once each is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = list[Child]()
        self.come, self.go_on = threading.Event(), threading.Event()
        real = module._start

        def start(*args: Any) -> Child:
            self.made.append(real(*args))
            self.come.set()
            assert self.go_on.wait(DEADLINE)
            return self.made[-1]

        monkeypatch.setattr(module, "_start", start)


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Iterator[Making]:
    making = Making(monkeypatch)
    yield making
    making.go_on.set()


def spawner_is_through() -> None:
    """Wait until the spawner has done all that it was given."""
    through = threading.Event()
    module._running_spawner().work.put(through.set)
    assert through.wait(DEADLINE)


async def test_a_spawn_that_is_given_up_before_its_turn_makes_nothing(making: Making) -> None:
    turn = threading.Event()

    def take_its_time() -> None:
        assert turn.wait(DEADLINE)

    making.go_on.set()
    module._running_spawner().work.put(take_its_time)
    waiting = asyncio.create_task(spawn(STAY, pass_fds=(), env=os.environ))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting  # while the spawner is still held up
    turn.set()
    spawner_is_through()
    assert making.made == []


@pytest.mark.parametrize("times", [1, 3])
async def test_a_spawn_that_is_given_up_while_the_child_is_made_ends_after_that_and_leaves_nothing(
    making: Making, times: int
) -> None:
    with nothing_left_open():
        waiting = asyncio.create_task(spawn(STAY, pass_fds=(), env=os.environ))
        await asyncio.to_thread(making.come.wait, DEADLINE)
        for _ in range(times):
            waiting.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        # Descriptors that its caller closes now would be somebody else's by the time the child inherits them.
        assert not waiting.done()
        making.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        spawner_is_through()
        spawner_is_through()  # the first may have come before the order to discard
        assert making.made[0].ending == KILLED
    assert is_reaped(making.made[0].pid)


async def test_a_spawn_that_is_given_up_when_the_child_is_there_leaves_nothing(making: Making) -> None:
    with nothing_left_open():
        waiting = asyncio.create_task(spawn(STAY, pass_fds=(), env=os.environ))
        await asyncio.to_thread(making.come.wait, DEADLINE)
        making.go_on.set()
        spawner_is_through()  # and the event loop does not turn meanwhile
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        spawner_is_through()
        assert making.made[0].ending == KILLED


async def test_a_spawn_that_fails_after_it_was_given_up_leaves_nothing(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nothing_left_open():
        held, real = threading.Event(), os.pipe

        def pipe() -> tuple[int, int]:
            making.come.set()
            assert held.wait(DEADLINE)
            return real()

        monkeypatch.setattr(os, "pipe", pipe)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        waiting = asyncio.create_task(spawn("", pass_fds=(), env=os.environ))
        await turning_until(making.come.is_set)
        waiting.cancel()
        await asyncio.sleep(0)
        held.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        spawner_is_through()
        assert making.made == []


def test_a_spawn_whose_event_loop_was_closed_leaves_nothing(making: Making) -> None:
    with nothing_left_open():
        loop = asyncio.new_event_loop()
        waiting = spawn(STAY, pass_fds=(), env=os.environ)
        task = loop.create_task(waiting)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert making.come.wait(DEADLINE)
        loop.close()
        making.go_on.set()
        spawner_is_through()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        waiting.close()
        spawner_is_through()
        assert making.made[0].ending == KILLED


# ---- the spawner


ECHO = """
import os, socket, sys
from offloop.orchestration.child import end_with_parent
end_with_parent(int(sys.argv[2]))
line = socket.socket(fileno=int(sys.argv[1]))
line.send(b"up")
while asked := line.recv(1): line.send(asked)
"""


def test_a_child_outlives_the_thread_that_asked_for_it(line: Line) -> None:
    made = list[Child]()

    async def ask() -> None:
        fd = line.theirs.fileno()
        made.append(await spawn(ECHO, str(fd), str(os.getpid()), pass_fds=[fd], env=os.environ))
        line.up()  # while this thread lives: the kernel looks to whoever is the parent by then

    thread = threading.Thread(target=asyncio.run, args=(ask(),))
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    try:
        assert line.answers()
        assert made[0].ending is None
    finally:
        made[0].discard()


async def test_all_children_are_spawned_by_one_daemon_thread() -> None:
    async with spawned(""), spawned(""):
        assert [t.daemon for t in threading.enumerate() if t.name == "offloop-spawner"] == [True]


AGAIN_IN_A_FORK = """
import asyncio, os
from offloop.orchestration.child import spawn
def once():
    child = asyncio.run(asyncio.wait_for(spawn("print('made')", pass_fds=(), env=os.environ), 5))
    said = os.read(child.stdout, 100)
    child.discard()
    return said.startswith(b"made")
assert once()
forked = os.fork()
if forked == 0: os._exit(0 if once() else 1)
assert os.waitpid(forked, 0)[1] == 0
assert once()
"""


def test_a_process_that_was_forked_spawns_by_a_thread_of_its_own() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", AGAIN_IN_A_FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- in the child


PARENT = f"""
import asyncio, os, signal, sys
from offloop.orchestration.child import spawn
CODE = '''
import os, signal, sys
from offloop.orchestration.child import end_with_parent
end_with_parent(int(sys.argv[1]))
{STAY}
'''
async def main():
    child = await spawn(CODE, str(os.getpid()), pass_fds=(), env=os.environ)
    assert os.read(child.stdout, 10).startswith(b"up")
    print(child.pid, flush=True)
asyncio.run(main())
signal.pause()
"""


DEAF = """
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGALRM})
"""


@linux
@pytest.mark.parametrize("before", ["", DEAF], ids=["", "its parent is deaf to the signals"])
async def test_a_child_ends_with_its_parent_that_was_killed(before: str) -> None:
    async with spawned(before + PARENT) as parent:
        grandchild = int(read_line(parent.stdout))
        with ExitStack() as stack:
            pidfd = os.pidfd_open(grandchild)
            stack.callback(os.close, pidfd)
            stack.callback(kill_by, pidfd)
            assert not select.select([pidfd], [], [], 0)[0]
            os.kill(parent.pid, signal.SIGKILL)  # not its group: the grandchild leads one of its own anyway
            assert select.select([pidfd], [], [], DEADLINE)[0], "it lives on"


def kill_by(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


# Hears nothing any more, starts another like it that answers on the socket, and keeps the interpreter to itself.
STONE_DEAF = f"""
import os, signal, sys
from itertools import repeat
from offloop.orchestration.child import tie
tie(int(sys.argv[2]))
os.set_inheritable(int(sys.argv[2]), False)
for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
    try: signal.signal(number, lambda *_: None)
    except OSError: pass  # one of libc's own
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
{LEAVE}
os.close(int(sys.argv[1]))
print('up', flush=True)
sum(repeat(0, 10**12))
"""


@linux
async def test_a_child_that_is_tied_ends_with_its_tether_and_its_family_with_it(line: Line) -> None:
    its_end, tether = os.pipe()
    try:
        fds = (line.theirs.fileno(), its_end)
        async with spawned(STONE_DEAF, *map(str, fds), pass_fds=fds) as child:
            os.close(its_end)
            line.up()
            up(child)
            watched = Watched(child)
            assert line.answers()
            assert child.ending is None
            os.close(tether)
            assert line.ended()
            assert await watched.ending() == KILLED
    finally:
        with suppress(OSError):
            os.close(tether)


@linux
async def test_what_cannot_be_tied_runs_on() -> None:
    async with spawned("import os, sys; from offloop.orchestration.child import tie; tie(99); print('lives')") as child:
        assert read_all(child.stdout) == "lives\n"


IN_CHILD = "from offloop.orchestration.child import end_with_parent, name_process; import os, sys;"


async def test_a_child_whose_parent_has_gone_already_ends_at_once() -> None:
    async with spawned(f"{IN_CHILD} end_with_parent(os.getppid() + 1); print('lives')") as child:
        assert read_all(child.stdout) == ""
        assert await Watched(child).ending() == Ending(1, None)


async def test_a_python_without_ctypes_is_made_do_with() -> None:
    code = f"{IN_CHILD} sys.modules['ctypes'] = None; end_with_parent(os.getppid()); name_process('x'); print('lives')"
    async with spawned(code) as child:
        assert read_all(child.stdout) == "lives\n"


def test_on_other_systems_a_child_only_looks_whether_its_parent_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    name_process("offloop-test")
    end_with_parent(os.getppid())
    tie(-1)
    if Path("/proc/self/comm").exists():
        assert Path("/proc/self/comm").read_text() != "offloop-test\n"


@linux
@pytest.mark.parametrize(("name", "shown"), [("offloop-0", "offloop-0"), ("offloop-worker-12", "offloop-worker-")])
async def test_a_process_is_named_for_those_who_look_at_all(name: str, shown: str) -> None:
    async with spawned(f"{IN_CHILD} name_process({name!r}); print(open('/proc/self/comm').read())") as child:
        assert read_all(child.stdout).strip() == shown
