"""A server program of a test's own: started until it says that it is up, stopped, killed and paused at will.

Owns its process and what that prints, and tries again on other ports where somebody else has taken one. Which program
it is, and what one asks of it, is for the classes that are one.
"""

import signal
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

TRIES = 20


def free_port() -> int:
    """One that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Daemon(ABC):
    """Started by `start`.

    Args:
        folder: where it runs.

    Attributes:
        name: of the program.
        up: what it prints when it takes connections.
        deadline: seconds that it may take to start, or to end.
        port: the same over every start.
        log: what it has printed, line by line.
    """

    name: ClassVar[str]
    up: ClassVar[str]
    deadline: ClassVar[float]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.log: list[str] = []
        self._environment: dict[str, str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()

    @abstractmethod
    def _settle_down(self) -> None:
        """On a port of its own, and whatever else it is to have of its own."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _port_was_taken(self) -> bool:
        """Whether that may be why it did not start."""
        return True

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Returns when it takes connections; after a `stop` or a `kill` on the same port."""
        if self.port:
            assert self._started(), self._shown()
            return
        for _ in range(TRIES):  # somebody else may take a port between its choice and its use
            self._settle_down()
            if self._started():
                return
            if not self._port_was_taken():
                break
        raise AssertionError(self._shown())

    def _started(self) -> bool:
        before = len(self.log)
        self._process = subprocess.Popen(
            self._command(), env=self._environment, cwd=self.folder, text=True,
            errors="replace",  # RabbitMQ, for one, prints what it was sent
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        reading = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        reading.start()

        def up() -> bool:
            return any(self.up in line for line in self.log[before:])

        with self._changed:
            self._changed.wait_for(lambda: up() or not reading.is_alive() or self._ended(), self.deadline)
        if up():
            return True
        self.kill()
        return False

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                with self._changed:
                    self.log.append(line.rstrip("\n"))
                    self._changed.notify_all()
        process.wait()
        with self._changed:
            self._changed.notify_all()

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _shown(self) -> str:
        return f"{self.name} did not start:\n" + "\n".join(self.log)

    def until_said(self, text: str) -> None:
        """It has printed this; a failing deadline otherwise."""
        with self._changed:
            said = self._changed.wait_for(lambda: any(text in line for line in self.log), self.deadline)
        assert said, f"{text!r} was not printed:\n" + "\n".join(self.log)

    def stop(self) -> None:
        """Let it end in good order: connections are closed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(self.deadline)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def pause(self) -> None:
        """It hangs: connections stay, and nothing is answered."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGCONT)
