"""A constant-rate load (`openload.c`): what callers see who do not wait for each other.

A request's time counts from the moment it was due, so that a server which is behind cannot hide it. h2load's `--rps`
would not do: over HTTP/1.1 each of its connections waits for its answer before it sends again, and its log counts
from then.
"""

import json
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from compiled import compiled
from routes import Route

CONNECTIONS = 2_000
LATE = 0.001
RECORD = struct.Struct("<dddq")
FATES = {0: "never sent", -1: "refused", -2: "broken off", -3: "gave up"}
"""What `openload.c` calls a request that got no answer."""


class Answer(NamedTuple):
    """One request; instants of the monotonic clock."""

    due: float
    sent: float
    ended: float
    status: int

    @property
    def wait(self) -> float:
        return self.ended - self.due

    @property
    def fate(self) -> str:
        return FATES.get(self.status, str(self.status))


@dataclass(frozen=True)
class Own:
    """What the load itself cost and how late it was (seconds): what it adds to what it reports."""

    cpu: float
    late_mean: float
    late_max: float

    def remark(self, system: str) -> list[str]:
        """A word where it was not small beside what was measured."""
        if self.late_mean <= LATE:
            return []
        return [f"{system}: the load itself was late by {self.late_mean * 1000:.1f} ms on average"]


class Load:
    """A load that goes on; `finished` waits for its last answer."""

    def __init__(self, child: subprocess.Popen[str], began: float, seconds: float, records: Path) -> None:
        self.began, self.ends = began, began + seconds
        self._child, self._records = child, records

    def finished(self) -> tuple[list[Answer], Own]:
        """Every request in the order in which it was due."""
        told, _ = self._child.communicate(timeout=120)
        if self._child.returncode:
            raise RuntimeError(f"openload ended with {self._child.returncode}")
        answers = [Answer(*fields) for fields in RECORD.iter_unpack(self._records.read_bytes())]
        return answers, Own(**json.loads(told))


@contextmanager
def offered(port: int, route: Route, rate: float, seconds: float, patience: float) -> Iterator[Load]:
    """Offers `rate` requests a second; their callers give up after `patience` seconds."""
    with NamedTemporaryFile() as body, NamedTemporaryFile() as records:
        body.write(route.body)
        body.flush()
        numbers = (f"{rate:.3f}", f"{seconds:.3f}", str(CONNECTIONS), f"{patience:.3f}")
        child = subprocess.Popen(
            [str(program()), str(port), route.path, route.content_type, body.name, *numbers, records.name],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stdout is not None
            yield Load(child, float(child.stdout.readline() or "nan"), seconds, Path(records.name))
        finally:
            child.kill()
            child.communicate()


def program() -> Path:
    """`openload`, compiled once a run. Raises Unavailable where it cannot be."""
    return compiled("openload")
