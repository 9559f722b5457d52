"""A real Redis server of a test's own, on a port that the system chose: stopped, started again and paused at will.

Nothing is kept on disk: a server that was stopped comes back empty. Never the one that a machine may have anyway.
"""

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offloop.transports.redis.wire import Line, ReplyError, address_of
from tests.support.daemon import Daemon, free_port

DEADLINE = 10.0


class Broker(Daemon):
    """A `redis-server`. Started by `start`; what `broker()` gives is started already.

    Args:
        folder: where it runs; nothing that matters is written there.
        options: more of its command line, such as `--maxmemory 4mb`.
    """

    name, up, deadline = "redis-server", "eady to accept connections", DEADLINE

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self._options = options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _settle_down(self) -> None:
        self.port = free_port()

    def _command(self) -> list[str]:
        program = shutil.which(self.name)
        assert program is not None, "redis-server is not installed; `make test` sees to that"
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return [*command, "--dir", str(self.folder), *self._options]

    def resume(self) -> None:
        """Also where it does not run: tests call it to undo whatever was done."""
        if self._process is not None:
            super().resume()

    def cli(self, *command: str | bytes | int) -> Any:
        """One command on a connection of its own; its answer as the protocol has it. Raises ReplyError."""
        line = Line(address_of(self.url), patience=DEADLINE)
        try:
            (reply,) = line.exchange([command])
        finally:
            line.close()
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def until(self, true: Callable[[Any], bool], *command: str | bytes | int) -> Any:
        """Ask until the answer is what is waited for; a failing deadline otherwise."""
        line, pause = Line(address_of(self.url), patience=DEADLINE), threading.Event()
        try:
            reply: Any = None
            for _ in range(round(DEADLINE * 100)):
                (reply,) = line.exchange([command])
                if true(reply):
                    return reply
                pause.wait(0.01)
        finally:
            line.close()
        raise AssertionError(f"{command}: {reply!r} after {DEADLINE} s")

    def keys(self, pattern: str = "*") -> list[str]:
        return sorted(key.decode() for key in self.cli("KEYS", pattern))

    @property
    def version(self) -> tuple[int, ...]:
        found = re.search(r"redis_version:([\d.]+)", self.cli("INFO", "server").decode())
        assert found is not None
        return tuple(int(part) for part in found.group(1).split("."))


@contextmanager
def broker(*options: str) -> Iterator[Broker]:
    """One that is up; ended at the end, whatever state it is in."""
    with tempfile.TemporaryDirectory(prefix="offloop-redis-") as folder:
        one = Broker(Path(folder), *options)
        try:
            one.start()
            yield one
        finally:
            one.kill()
