"""One child process from the outside: spawned, watched, looked at, killed; and how it ties itself to its parent.

Owns the process and its process group, which ends with it. What the process runs, what is said to it and what its end
means never enter here: no frame, no envelope, no crew, no decision to restart.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple


class Ending(NamedTuple):
    """How a process ended. Both are None where nobody can tell, as when somebody else waited for it."""

    code: int | None
    """The exit code; None if a signal ended it."""
    signal: int | None

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:  # one of the real-time signals, of which most have no name
                return f"killed by signal {self.signal}"
        return "ended" if self.code is None else f"exit code {self.code}"


UNKNOWN = Ending(None, None)


class Child:
    """A process that leads a process group of its own. Made by `spawn`.

    `watch` and `close` belong to the event loop; the rest is for any thread, and only `discard` blocks. Whatever the
    process leaves behind in its group is killed when its end is noticed. A descendant that has left the group (a
    daemon, a session of its own) is out of reach.

    Attributes:
        stdout, stderr: the read ends of its pipes. Whoever takes them closes them; `close` does not.
    """

    def __init__(self, process: subprocess.Popen[bytes], stdout: int, stderr: int) -> None:
        self.pid = process.pid
        self.stdout = stdout
        self.stderr = stderr
        self._process = process  # is told of the end, or it would wait for it by itself, and warn
        self._lock = threading.Lock()
        self._ending: Ending | None = None
        self._reaper = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pidfd: int | None = None
        self._ended: Callable[[Ending], None] | None = None

    # ---- its end

    @property
    def ending(self) -> Ending | None:
        """None while it lives."""
        with self._lock:
            self._look()
            return self._ending

    def _look(self) -> None:
        """Reap it if it has ended, and kill what is left of its group. The lock is held."""
        if self._ending is not None or self._reaper:
            return
        if not hasattr(os, "waitid"):
            self._settle(self._reap(os.WNOHANG))
            return
        with suppress(ChildProcessError):  # somebody else has reaped it: the number may be anybody's
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return
            # Before it is reaped: until then neither its number nor that of its group is given to others.
            self._kill_group()
        self._ending = self._reap(os.WNOHANG)

    def _settle(self, ending: Ending | None) -> None:
        """It was reaped where one cannot look first (macOS before Python 3.13). The lock is held.

        A group that is not empty keeps its number, so that what is left of it can still be killed. An empty one's
        number has been free since a moment ago, and numbers are given out in turn.
        """
        self._ending = ending
        if ending is not None and ending != UNKNOWN:
            self._kill_group()

    def _reap(self, options: int) -> Ending | None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            self._process.returncode = 0
            return UNKNOWN
        if not pid:
            return None
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        return Ending(None, -code) if code < 0 else Ending(code, None)

    def stopped(self) -> bool:
        """Whether it was stopped as by SIGSTOP, and not continued; a debugger's hold is none. False where unknown.

        The kernel shows the stop until SIGCONT to whoever leaves it there (WNOWAIT), as often as asked.
        """
        with self._lock:
            if self._ending is not None or not hasattr(os, "waitid"):
                return False
            with suppress(ChildProcessError):
                return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
            return False

    def kill(self) -> None:
        """SIGKILL to it and to all in its group, also where it is stopped. Without effect once its end was noticed."""
        with self._lock:
            self._look()
            if self._ending is None:
                self._kill_group()
                with suppress(OSError):  # it may have left its group
                    os.kill(self.pid, signal.SIGKILL)

    def _kill_group(self) -> None:
        with suppress(OSError):  # nobody is left, or nobody who may be killed
            os.killpg(self.pid, signal.SIGKILL)

    def discard(self) -> None:
        """Kill it, wait for its end and close its pipes: for one that nobody has taken or watches. Blocks."""
        self.kill()
        with self._lock:
            self._ending = self._ending or self._reap(0)
        os.close(self.stdout)
        os.close(self.stderr)

    # ---- watching

    def watch(self, ended: Callable[[Ending], None]) -> None:
        """Call `ended` on the running event loop, once, when it has ended and was reaped. To be called once."""
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        if self.ending is not None:
            self._loop.call_soon(self._tell)
            return
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, an old kernel, a seccomp filter, no descriptor left
            self._wait_in_thread()
        else:
            self._loop.add_reader(self._pidfd, self._readable)

    def _readable(self) -> None:
        self._release()
        if self.ending is None:  # hidden from its parent until the debugger that traced it lets go
            self._wait_in_thread()
        else:
            self._tell()

    def _wait_in_thread(self) -> None:
        with self._lock:
            # Where waiting is reaping, only one may do it: the other would be told that there is no such child.
            self._reaper = not hasattr(os, "waitid")
        threading.Thread(target=self._wait, name=f"offloop-wait-{self.pid}", daemon=True).start()

    def _wait(self) -> None:
        if self._reaper:
            ending = self._reap(0)
            with self._lock:
                self._reaper = False
                self._settle(ending)
        else:
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert self._loop is not None
        _call_soon(self._loop, self._tell)

    def _tell(self) -> None:
        ending = self.ending
        if self._ended is not None and ending is not None:
            self._ended(ending)

    def _release(self) -> None:
        if self._pidfd is None:
            return
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None

    def close(self) -> None:
        """Watch it no more. It lives on; a thread that waits for its end does so unheard."""
        self._ended = None
        self._release()


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the event loop has been closed: nobody waits there
        loop.call_soon_threadsafe(callback)


# ---- spawning


class _Spawner:
    """A daemon thread that lives as long as the process, and spawns.

    PR_SET_PDEATHSIG strikes when the *thread* that spawned has ended, whatever the process does (man 2 prctl).
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._run, name="offloop-spawner", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.work.get()()


_spawning = threading.Lock()
_spawner: _Spawner | None = None


def _running_spawner() -> _Spawner:
    global _spawner  # noqa: PLW0603  (one thread for the whole process)
    with _spawning:
        if _spawner is None or _spawner.owner != os.getpid():  # a fork has no threads but the one that forked
            _spawner = _Spawner()
        return _spawner


async def spawn(code: str, *args: str, pass_fds: Sequence[int], env: Mapping[str, str]) -> Child:
    """Run `code` in a Python like this one, with `args` as its `sys.argv[1:]`.

    `pass_fds` stay with the caller, and open until this has returned or raised. Nothing is left of a child whose
    spawning is cancelled. Raises OSError if there can be none.
    """
    command = [sys.executable, *_flags(), "-c", code, *args]
    loop = asyncio.get_running_loop()
    made = asyncio.Event()
    request: Future[Child] = Future()
    request.add_done_callback(lambda _: _call_soon(loop, made.set))
    work = _running_spawner().work
    work.put(lambda: _make(request, command, pass_fds, env))
    try:
        await made.wait()
    except BaseException as given_up:
        if not request.cancel():
            request.add_done_callback(lambda _: work.put(lambda: _discard(request)))
            # The caller will close its descriptors; a child made after that would inherit whatever has their numbers.
            while isinstance(given_up, asyncio.CancelledError) and not request.done():
                with suppress(asyncio.CancelledError):
                    await made.wait()
        raise
    return request.result()


def _make(request: Future[Child], command: list[str], pass_fds: Sequence[int], env: Mapping[str, str]) -> None:
    if request.set_running_or_notify_cancel():
        try:
            child = _start(command, pass_fds, env)
        except BaseException as failure:  # noqa: BLE001  (told to whoever waits)
            request.set_exception(failure)
        else:
            request.set_result(child)


def _start(command: list[str], pass_fds: Sequence[int], env: Mapping[str, str]) -> Child:
    opened: list[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe()
        stdout, its_stdout, stderr, its_stderr = opened
        process = subprocess.Popen(  # noqa: S603  (this interpreter, and code of our own)
            command, stdin=subprocess.DEVNULL, stdout=its_stdout, stderr=its_stderr,
            pass_fds=pass_fds, env=env, process_group=0,
        )  # fmt: skip
    except BaseException:
        for end in opened:
            os.close(end)
        raise
    os.close(its_stdout)
    os.close(its_stderr)
    return Child(process, stdout, stderr)


def _discard(request: Future[Child]) -> None:
    if request.exception() is None:
        request.result().discard()


_FLAGS = {
    "bytes_warning": "-b",
    "dont_write_bytecode": "-B",
    "ignore_environment": "-E",
    "isolated": "-I",
    "no_site": "-S",
    "no_user_site": "-s",
    "optimize": "-O",
    "verbose": "-v",
}


def _flags() -> list[str]:
    """What this interpreter was started with (Python documentation, "Command line and environment").

    Always with -P: the directory that the parent happens to run in is no place to import from.
    """
    flags = ["-P"]
    for name, flag in _FLAGS.items():
        flags += [flag] * int(getattr(sys.flags, name))
    for option in sys.warnoptions:
        flags += ["-W", option]
    for name, value in sys._xoptions.items():  # noqa: SLF001  (documented, and the only way to learn them)
        flags += ["-X", name if value is True else f"{name}={value}"]
    return flags


# ---- in the child itself

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


def end_with_parent(parent: int) -> None:
    """See to it that this process does not outlive `parent`, its parent's pid. To be called first.

    On Linux the kernel tells it by SIGHUP, whose handler is libc's own `alarm`: that takes the signal's number, 1, for
    seconds. So whoever notices the parent's end has a second to end what this process has started, and then SIGALRM
    ends the process itself, even while native code holds the GIL. What it starts inherits none of this. Elsewhere this
    only ends what is too late.

    A node may have use for SIGALRM itself, and take it from there. It cannot take what `tie` does.
    """
    _hang_up_by_alarm()
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGHUP))
    if os.getppid() != parent:  # asked after: a parent that died before the kernel was told is not noticed by it
        os._exit(1)


def _hang_up_by_alarm() -> None:
    if sys.platform != "linux":
        return
    try:
        import ctypes
    except ImportError:  # as below; without it SIGHUP ends the process, but nobody asks for it
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGHUP), ctypes.cast(libc.alarm, ctypes.c_void_p))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGALRM})  # a mask is inherited


def tie(tether: int) -> None:
    """Have the kernel kill this process' group once the other end of that pipe is closed, to which nobody writes.

    On Linux, what happens to a descriptor can be told to a group, and by any signal (man 2 fcntl, F_SETOWN and
    F_SETSIG). No code of this process has a part in that: nothing is in its way, be it a handler, a mask, or native
    code that holds the GIL. Where it fails, it is done without, as on other systems.
    """
    if sys.platform != "linux":
        return
    import fcntl

    mine = os.getpid()
    with suppress(OSError):
        fcntl.fcntl(tether, fcntl.F_SETOWN, -mine if os.getpgrp() == mine else mine)
        fcntl.fcntl(tether, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(tether, fcntl.F_SETFL, fcntl.fcntl(tether, fcntl.F_GETFL) | os.O_ASYNC)


def name_process(name: str) -> None:
    """The name that `top` and `ps -o comm` show, of which Linux keeps 15 bytes. Without effect elsewhere."""
    _prctl(PR_SET_NAME, name.encode())


def _prctl(option: int, value: int | bytes) -> None:
    """Where it fails (a seccomp filter), it is done without, as on other systems."""
    if sys.platform != "linux":
        return
    try:
        import ctypes
    except ImportError:  # a Python built where there was no libffi
        return
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    rest = [ctypes.c_ulong(0)] * 3  # all of them are `unsigned long`, and variadic: nothing is converted
    ctypes.CDLL(None).prctl(option, argument, *rest)
