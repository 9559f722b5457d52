"""Starts a system under measurement, all parts of it, waits until it serves, and ends whatever it started."""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import brokers
from environments import Unavailable
from routes import SLEEP5, Route
from systems import APPS, HOST, System

START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0

WEB, WORKERS, BROKER = "web", "workers", "broker"

Child = subprocess.Popen[bytes]
_parts: dict[int, dict[str, list[Child]]] = {}
"""What the system that serves at a port consists of, for as long as it runs. Each child is a session of its own."""
_ports: dict[int, list[int]] = {}


@contextmanager
def serving(
    system: System, route: Route, *, workers: int | None = None, turns: int = 0, webs: int = 1
) -> Iterator[int]:
    """One system; yields the port of its web side once that answers the route, and ends it whatever happens.

    Args:
        webs: how many web processes, of what has no workers of its own. Each has a port: `ports_of`.

    Raises:
        Unavailable: it did not come to answer; the text is its own last words.
    """
    ports = [_free_port() for _ in range(webs)]
    port = ports[0]
    sides, beside = [system.command(each) for each in ports], system.commands_beside()
    with ExitStack() as parts, tempfile.TemporaryFile("w+") as log:
        met, meeting = None, list[Child]()
        if system.broker:
            at, home = _free_port(), parts.enter_context(tempfile.TemporaryDirectory())
            env = {**os.environ, **brokers.environment(system.broker, at, home)}
            parts.callback(brokers.leave, system.broker, env)
            meeting = [parts.enter_context(_child(brokers.command(system.broker, at, home), env, log))]
            _connectable(meeting[0], at)
            met = brokers.url(system.broker, at)
        env = system.variables(port, route.path.removeprefix("/"), workers, turns, met)
        aside = [parts.enter_context(_child(command, env, log)) for command in beside]
        front = [parts.enter_context(_child(command, env, log)) for command in sides]
        for each in ports:
            if (body := _first_answer((*front, *aside), each, route)) is None:
                log.seek(0)
                raise Unavailable(_last_words(log.read()) or f"no answer within {START_TIMEOUT:g} s")
            if not route.answer.fullmatch(body):
                raise Unavailable(f"it answers {route.path} with {body[:80]!r}")
        _parts[port] = {WEB: front, WORKERS: aside, BROKER: meeting}
        _ports[port] = ports
        try:
            yield port
        finally:
            del _parts[port], _ports[port]


def ports_of(port: int) -> list[int]:
    """Of all web processes of the system that serves at this one."""
    return _ports[port]


def cpu_of(port: int) -> float:
    """Seconds of CPU that the server and all its processes have used so far.

    By the scheduler's own count, in nanoseconds; `stat` has ticks of 10 ms. Threads that have ended are not in it.
    """
    return sum(cpu_by_part(port).values())


def cpu_by_part(port: int) -> dict[str, float]:
    """The same, of the web side, the workers and the broker each."""
    return {part: sum(map(_cpu_of_session, children)) for part, children in _parts[port].items() if children}


def _cpu_of_session(child: Child) -> float:
    used = 0.0
    for pid in _in_session(child.pid):
        with suppress(OSError):  # it ended meanwhile
            used += time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3): of all its threads, ended ones too
    return used


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


@contextmanager
def _child(command: Sequence[str], env: Mapping[str, str], log: IO[str]) -> Iterator[Child]:
    # A session of its own: whatever it has started can be found by that afterwards. Its programs are in `apps`.
    child = subprocess.Popen(command, env=env, cwd=APPS, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield child
    finally:
        _end(child)


def _connectable(child: Child, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), 1.0):
            return
        time.sleep(0.01)  # noqa: TID251  (another process starts; there is nothing to wait on)
    raise Unavailable("its broker does not come up")


def _first_answer(children: Sequence[Child], port: int, route: Route) -> bytes | None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and all(child.poll() is None for child in children):
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


def _end(child: Child) -> None:
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
    """The processes of a server, or what it left behind; a session's id is not given away while a process is in it."""
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
