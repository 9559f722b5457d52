"""wrk: a closed loop, in which every connection sends its next request when the last was answered."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from routes import Route
from systems import HOST

SCRIPT = Path(__file__).resolve().parent / "wrk.lua"


@dataclass(frozen=True)
class Measured:
    """What wrk saw; latencies in seconds."""

    requests: int
    rps: float
    p50: float
    p99: float
    max: float
    failed: int


NOTHING = Measured(requests=0, rps=0.0, p50=0.0, p99=0.0, max=0.0, failed=1)
"""A server that cannot even be connected to."""


def measure(port: int, route: Route, connections: int, seconds: int) -> Measured:
    """Loads the route for that time."""
    with _wrk(port, route, connections, seconds) as child:
        told, _ = child.communicate(timeout=seconds + 30)
    found = [line.removeprefix("RESULT ") for line in told.splitlines() if line.startswith("RESULT ")]
    return Measured(**json.loads(found[0])) if found else NOTHING


@contextmanager
def loading(port: int, route: Route, connections: int, seconds: int) -> Iterator[None]:
    """Keeps that many connections busy in the background, for no longer than `seconds`."""
    with _wrk(port, route, connections, seconds):
        yield


@contextmanager
def _wrk(port: int, route: Route, connections: int, seconds: int) -> Iterator[subprocess.Popen[str]]:
    command = [
        *("wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"),
        *("--timeout", "10s", "--script", str(SCRIPT), f"http://{HOST}:{port}{route.path}"),
    ]
    with NamedTemporaryFile() as body:  # a variable cannot hold 1 MiB
        body.write(route.body)
        body.flush()
        env = {**os.environ, "BODY_FILE": body.name, "CONTENT_TYPE": route.content_type}
        child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        try:
            yield child
        finally:
            child.kill()
            child.communicate()
