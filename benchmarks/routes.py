"""What every system is asked: the same paths, the same bodies."""

import json
import random
import re
from dataclasses import dataclass
from hashlib import sha256

MIB = 2**20


@dataclass(frozen=True)
class Route:
    """One request; without a body it is a GET."""

    path: str
    answer: re.Pattern[bytes]
    """What a right answer is."""
    body: bytes = b""
    content_type: str = "application/json"


_SMALL = json.dumps({"n": 1, "payload": "x" * 128}).encode()
_LARGE = random.Random(1).randbytes(MIB)

ECHO = Route("/echo", re.compile(rb'{"n":1,"size":128}'), _SMALL)
CPU10 = Route("/cpu10", re.compile(rb'{"n":1,"size":\d+}'), _SMALL)
"""10 ms of pure Python that hold the GIL."""
SLEEP5 = Route("/sleep5", re.compile(rb'{"n":1,"pid":\d+}'), _SMALL)
"""5 ms of sleep; the answer names the process that slept."""
HOLD = Route("/hold", re.compile(rb'{"n":1,"size":128}'), _SMALL)
"""Not answered while anybody measures."""
BIG = Route(
    "/big",
    re.compile(b'{"sha256":"%s"}' % sha256(_LARGE).hexdigest().encode()),
    _LARGE,
    "application/octet-stream",
)
"""The sha256 of a raw body of 1 MiB."""
PING = Route("/ping", re.compile(rb'{"ok":true}'))
STATUS = Route("/status", re.compile(rb"{.*}"))
"""What is asked of offloop alone: how things stand."""
