"""Callers who wait: each has sent its request, and holds its connection for as long as they are wanted."""

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from environments import Unavailable
from routes import HOLD, STATUS
from servers import ask
from systems import HOST

AT_ONCE = 500
"""Connections that are opened before the server is looked at: more than it lets wait would be slow to come."""
WITHIN = 60.0
SPARE = 500
"""Files that are open besides."""


class Waiters:
    """See `waiters`."""

    def __init__(self, port: int, held: ExitStack) -> None:
        self._port = port
        self._held = held
        self._count = 0
        head = f"POST {HOLD.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {HOLD.content_type}\r\n"
        self._asked = f"{head}Content-Length: {len(HOLD.body)}\r\n\r\n".encode() + HOLD.body

    def grow(self, count: int) -> None:
        """Until so many wait.

        Raises:
            Unavailable: they do not come to wait.
        """
        while self._count < count:
            until = min(count, self._count + AT_ONCE)
            for _ in range(until - self._count):
                connection = self._held.enter_context(socket.create_connection((HOST, self._port), WITHIN))
                connection.sendall(self._asked)
            self._count = until
            self._taken()

    def _taken(self) -> None:
        deadline, waiting = time.monotonic() + WITHIN, -1
        while time.monotonic() < deadline:
            status, body = ask(self._port, STATUS, WITHIN)
            if status == 200 and (waiting := json.loads(body)["endpoints"]["hold"]["in_flight"]) == self._count:
                return
            time.sleep(0.05)  # noqa: TID251  (another process reads; there is nothing to wait on)
        raise Unavailable(f"{waiting} of {self._count} requests wait")


@contextmanager
def waiters(port: int) -> Iterator[Waiters]:
    """Nobody at first, and nobody in the end."""
    with ExitStack() as held:
        yield Waiters(port, held)


def allow(count: int) -> None:
    """So many waiters: for this process, and for servers that it starts from now on.

    Raises:
        Unavailable: the system does not let so many files be open.
    """
    count += SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise Unavailable(f"{count} open files are needed, and {hard} are allowed (ulimit -Hn)")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
