"""Streams in a closed loop (`streamload.c`): every connection asks again when its reply has come.

A client in Python would be slower than what is measured.
"""

import json
import subprocess
from dataclasses import dataclass

from compiled import compiled
from report import percentile
from servers import cpu_of

TIMEOUT = 120.0
MOST = 20
"""Seconds, at most, that streams are asked for: uvicorn then pings, and the load does not answer."""


@dataclass(frozen=True)
class Streamed:
    """What came in one measurement; times in seconds."""

    requests: int
    chunks: int
    bytes: int
    """With the frames and heads around them."""
    seconds: float
    first_p50: float
    """From a request to its first chunk."""
    first_p99: float
    whole_p50: float
    """To its reply."""
    cpu: float
    """That all of the server's processes used."""
    load_cpu: float
    """That the load used; where it comes near `seconds`, it is the load that was measured."""
    failed: int

    @property
    def rps(self) -> float:
        return self.requests / self.seconds

    @property
    def chunk_rate(self) -> float:
        return self.chunks / self.seconds

    @property
    def cpu_a_request(self) -> float:
        return self.cpu / self.requests


def stream(port: int, over: str, pieces: int, size: int, connections: int, seconds: int) -> Streamed:
    """Asks for `pieces` chunks of `size` characters, again and again, on every connection.

    Args:
        over: `ws` or `sse`.
        seconds: after so many nothing more is asked, but each connection asks once.

    Raises:
        RuntimeError: a connection broke, or a server spoke what the load does not understand.
        Unavailable: the load cannot be compiled.
    """
    asked = json.dumps({"pieces": pieces, "size": size}, separators=(",", ":"))
    numbers = (str(pieces), str(connections), str(min(seconds, MOST)))
    command = [str(compiled("streamload")), str(port), "/stream", over, asked, *numbers]
    before = cpu_of(port)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    cpu = cpu_of(port) - before
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"streamload ended with {done.returncode}")
    told = json.loads(done.stdout)
    firsts, wholes = sorted(told["first"]), sorted(told["whole"])
    return Streamed(
        requests=len(wholes),
        chunks=told["chunks"],
        bytes=told["bytes"],
        seconds=told["seconds"],
        first_p50=percentile(firsts, 0.5) or 0.0,
        first_p99=percentile(firsts, 0.99) or 0.0,
        whole_p50=percentile(wholes, 0.5) or 0.0,
        cpu=cpu,
        load_cpu=told["cpu"],
        failed=told["failed"],
    )
