"""Starts a system under measurement, waits until it serves, and ends whatever it started."""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from environments import Unavailable
from routes import SLEEP5, Route
from systems import HOST, System

START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0


@contextmanager
def serving(system: System, route: Route, *, workers: int | None = None, turns: int = 0) -> Iterator[int]:
    """One server; yields its port once it answers that route, and ends it whatever happens.

    Raises:
        Unavailable: it did not come to answer; the text is its own last words.
    """
    port = _free_port()
    command = system.command(port)
    with tempfile.TemporaryFile("w+") as log:
        # A session of its own: whatever it has started can be found by that afterwards.
        child = subprocess.Popen(
            command,
            env=system.variables(port, route.path.removeprefix("/"), workers, turns),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if (body := _first_answer(child, port, route)) is None:
                log.seek(0)
                raise Unavailable(_last_words(log.read()) or f"no answer within {START_TIMEOUT:g} s")
            if not route.answer.fullmatch(body):
                raise Unavailable(f"it answers {route.path} with {body[:80]!r}")
            yield port
        finally:
            _end(child)


def ask(port: int, route: Route, timeout: float = 5.0) -> tuple[int, bytes]:
    """One request on a connection of its own; status 0 where there was no answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        method = "POST" if route.body else "GET"
        connection.request(method, route.path, route.body or None, {"Content-Type": route.content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def workers_of(port: int, count: int, within: float) -> set[int]:
    """The processes that run the 5 ms sleeps: asks until so many were seen, or the time is up."""
    deadline, seen = time.monotonic() + within, set[int]()
    with ThreadPoolExecutor(2 * count) as pool:
        while len(seen) < count and time.monotonic() < deadline:
            for status, body in pool.map(lambda _: ask(port, SLEEP5), range(4 * count)):
                if status == 200:
                    seen.add(json.loads(body)["pid"])
    return seen


def _first_answer(child: subprocess.Popen[bytes], port: int, route: Route) -> bytes | None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and child.poll() is None:
        status, body = ask(port, route)
        if status == 200:
            return body
        time.sleep(0.05)  # noqa: TID251  (another process starts; there is nothing to wait on)
    return None


def _last_words(log: str) -> str:
    """The last line that says more than that there was a failure."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if "Application startup failed" not in line]
    return (telling or lines or [""])[-1]


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pid in _in_session(child.pid):
        with suppress(ProcessLookupError):  # it was already ending
            os.kill(pid, signal.SIGKILL)


def _in_session(session: int) -> list[int]:
    """What a server left behind; a session's id is not given away while a process is in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session:
            found.append(int(entry.name))
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
