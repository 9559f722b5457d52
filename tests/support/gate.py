"""A gate: nodes in any process stop at it, and a test lets them on.

A node calls `hold(name)`: it connects to the gate's Unix socket, says its name, and blocks until the test answers or
the gate closes. So a test waits for "this node has begun" and says "now end", and nobody sleeps.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = "TEST_GATE"
DEADLINE = 10.0


def hold(name: str, timeout: float = 60.0) -> str:
    """Block the calling thread until the test lets `name` on; returns the word it was given."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(timeout)
        line.connect(os.environ[ADDRESS])
        line.sendall(name.encode() + b"\n")
        return line.recv(1024).decode()


def note(name: str) -> None:
    """Tell the test that something has happened, and go on."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ[ADDRESS])
        line.sendall(b"!" + name.encode() + b"\n")


class Gate:
    """The test's side."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._held: dict[str, list[socket.socket]] = {}
        self.notes: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(256)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line.makefile() as words:
                name = words.readline().strip()
            with self._changed:
                if name.startswith("!"):
                    self.notes.append(name[1:])
                    line.close()
                else:
                    self._held.setdefault(name, []).append(line)
                self._changed.notify_all()

    def holds(self, name: str) -> int:
        """How many nodes stand at the gate under that name."""
        with self._changed:
            return len(self._held.get(name, ()))

    def wait(self, name: str, count: int = 1, timeout: float = DEADLINE) -> None:
        """Until `count` nodes stand there."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._held.get(name, ())) >= count, timeout):
                raise AssertionError(f"{count} of {name!r} did not come to the gate; there are {sorted(self._held)}")

    def wait_note(self, name: str, timeout: float = DEADLINE) -> None:
        """Until a node has told it."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self.notes, timeout):
                raise AssertionError(f"{name!r} was not told; what was: {self.notes}")

    def open(self, name: str, word: str = "go") -> int:
        """Let on all that stand there under that name; says how many."""
        with self._changed:
            lines = self._held.pop(name, [])
        let_on = 0
        for line in lines:
            with line:
                try:
                    line.sendall(word.encode())
                except OSError:
                    continue  # its process has gone
                let_on += 1
        return let_on

    def clear(self) -> None:
        """Let on all that stand there, and forget what was noted."""
        for name in list(self._held):
            self.open(name)
        self.notes.clear()

    def close(self) -> None:
        self._listener.close()
        self.clear()


@contextmanager
def gate_at(folder: Path) -> Iterator[Gate]:
    """A gate whose address nodes of this process and its children find in the environment."""
    gate = Gate(folder / "gate.sock")
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = str(gate.path)
    try:
        yield gate
    finally:
        gate.close()
        if before is None:
            del os.environ[ADDRESS]
        else:
            os.environ[ADDRESS] = before
