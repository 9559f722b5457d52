"""Starts the applications under measurement, loads them with wrk, and ends whatever it started."""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
BODY = json.dumps({"n": 1, "payload": "x" * 128})
START_TIMEOUT = 30.0


@dataclass(frozen=True)
class System:
    """One way to serve the same routes."""

    name: str
    app: str
    env: Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """What wrk saw; latencies in seconds."""

    requests: int
    rps: float
    p50: float
    p99: float
    max: float
    failed: int


@contextmanager
def serving(system: System, turns: int) -> Iterator[int]:
    """One uvicorn process; yields its port once it answers, and ends it whatever happens."""
    port = _free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", f"{system.app}:app", "--app-dir", str(HERE / "apps")),
        *("--host", HOST, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "warning"),
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OFFLOOP_")}
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(
            command, env={**clean, "BENCH_TURNS": str(turns), **system.env}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _until_it_answers(child, port)
            yield port
        except TimeoutError as error:
            log.seek(0)
            sys.exit(f"{system.name}: {error}\n{log.read()}")
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def loading(port: int, path: str, connections: int, seconds: int) -> Iterator[None]:
    """Keeps that many connections busy in the background."""
    child = subprocess.Popen(
        _wrk(port, path, connections, seconds),
        env={**os.environ, "BODY": BODY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        yield
    finally:
        child.kill()
        child.wait()


def measure(port: int, path: str, connections: int, seconds: int, *, body: str = BODY) -> Measured:
    """A closed loop: every connection sends its next request when the last was answered."""
    finished = subprocess.run(
        _wrk(port, path, connections, seconds),
        env={**os.environ, "BODY": body},
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    )
    line = next(line for line in finished.stdout.splitlines() if line.startswith("RESULT "))
    return Measured(**json.loads(line.removeprefix("RESULT ")))


def _wrk(port: int, path: str, connections: int, seconds: int) -> list[str]:
    script = str(HERE / "wrk.lua")
    return [
        *("wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"),
        *("--timeout", "10s", "--script", script, f"http://{HOST}:{port}{path}"),
    ]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _until_it_answers(child: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and child.poll() is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=1)
        try:
            connection.request("POST", "/echo", BODY, {"Content-Type": "application/json"})
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # it is not listening yet
        finally:
            connection.close()
        time.sleep(0.05)  # noqa: TID251  (another process starts; there is nothing to wait on)
    raise TimeoutError(f"gave no answer within {START_TIMEOUT:g} s")
