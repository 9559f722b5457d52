"""A real uvicorn in a process of its own, for tests that use real sockets and real signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self
from uuid import uuid4

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0
MARK = "TEST_SERVER"
"""In the environment of a server and of everything that it starts, by which they are found again."""


def living(*marks: str) -> set[int]:
    """Processes that were started with all of this in their environment, and have not ended. Linux only."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            environ = path.read_bytes()
            if all(mark.encode() in environ for mark in marks):
                found.add(int(path.parent.name))
    return found


def descriptors(server: "Server") -> int:
    """How many it has open. Linux only."""
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


def wait_descriptors(server: "Server", most: int, timeout: float = DEADLINE) -> None:
    """Until it has no more than so many open."""
    until = monotonic() + timeout
    while (count := descriptors(server)) > most:
        assert monotonic() < until, f"{count} descriptors are open, and not {most}"


class Server:
    """`python -m uvicorn APP`, on a port that the system chose.

    Args:
        app: `module:attribute`.
        args: more of uvicorn's options.
        env: added to the environment; None as a value takes a name out of it.
        group: in a process group of its own, for signals to all of it.
        module: run this module with `app` as its argument, instead of uvicorn.
    """

    def __init__(
        self,
        app: str,
        *args: str,
        env: dict[str, str | None] | None = None,
        group: bool = False,
        module: str = "",
    ) -> None:
        mark = uuid4().hex
        self._mark = f"{MARK}={mark}"
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", MARK: mark}
        for name, value in (env or {}).items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        command = ["-m", module, app] if module else ["-m", "uvicorn", app, "--port", "0", "--no-access-log", *args]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=environ, cwd=ROOT, start_new_session=group,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self.port = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_line(self, pattern: str, timeout: float = DEADLINE) -> re.Match[str]:
        """Until a line of its output matches; fails at the deadline, or when the output has ended."""

        def found() -> re.Match[str] | None:
            return next((match for line in list(self.lines) if (match := re.search(pattern, line))), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, timeout)
            match = found()
        if match is None:
            raise AssertionError(f"no line matches {pattern!r}:\n{self.log}")
        return match

    def wait_open(self, timeout: float = DEADLINE) -> None:
        """Until it takes connections; with `--workers` it names its port before anybody listens there."""
        until = monotonic() + timeout
        while monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            with self._changed:
                self._changed.wait(0.02)
        raise AssertionError(f"nobody listens on port {self.port}:\n{self.log}")

    def __enter__(self) -> Self:
        try:
            self.port = int(self.wait_line(r"running on http://[^:]+:(\d+)").group(1))
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        """Until it has ended; returns its exit code."""
        code = self.process.wait(timeout)
        with self._changed:
            self._changed.wait_for(lambda: self._ended, timeout)
        return code

    def processes(self) -> set[int]:
        """Those of it that live: the server, its workers, and whatever they have started."""
        return living(self._mark)

    def workers(self) -> set[int]:
        """Of those, the worker processes, and whatever their nodes have started."""
        return living(self._mark, "OFFLOOP_WORKER_INDEX=")

    def wait_gone(self, pids: set[int] | None = None, timeout: float = 2.0) -> None:
        """Until none of these lives any more; None: nothing at all of this server."""
        until = monotonic() + timeout
        while left := self.processes() if pids is None else self.processes() & pids:
            assert monotonic() < until, f"{left} live on:\n{self.log}"
            with self._changed:
                self._changed.wait(0.02)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        with self._changed:  # the thread closes the pipe, so that none is left to the garbage collector
            self._changed.wait_for(lambda: self._ended, DEADLINE)


@contextmanager
def serving(app: str, *args: str, env: dict[str, str | None] | None = None, group: bool = False) -> Iterator[Server]:
    """A server that is up; killed at the end if it still runs."""
    with Server(app, *args, env=env, group=group) as server:
        yield server
