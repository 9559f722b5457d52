"""A program whose nodes kill, hang, stop, flood and garble the worker process that runs them.

Owns every way in which a worker can come to harm. It expects nothing: what is to happen then is for the tests to say.
"""

import ctypes
import inspect
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from dishka import FromDishka, Provider, Scope, provide
from pydantic import BaseModel

from offloop import Blob, endpoint
from offloop.runners.sync import SyncRunner
from offloop.transports.local.frames import Ready
from offloop.transports.local.worker import LocalSource
from tests.support.gate import hold, note

FLAG, STARTS, RECORD, STAYS = "TEST_FATAL_FLAG", "TEST_START_TAKES", "TEST_RECORD", "TEST_STAYS"
"""Variables: a file that keeps workers from starting while it is there; how long a start takes; where ids go; what
keeps a worker that was told to end: a `service` that does not close, or a `thread`."""

IN_WORKER = "OFFLOOP_WORKER_INDEX" in os.environ
if IN_WORKER and Path(os.environ.get(FLAG, "/nowhere")).exists():
    print("the flag is up", file=sys.stderr, flush=True)
    os._exit(9)

log = logging.getLogger("flood")


class Order(BaseModel):
    """What most nodes take. `name`: stand at the gate under that name first; `how`, `seconds`: it depends."""

    name: str = ""
    how: str = ""
    seconds: float = 0.0
    number: int = 0


class Done(BaseModel):
    pid: int
    word: str = ""
    number: int = 0


class Model:
    """Stands for what takes its time to load."""


class Services(Provider):
    @provide(scope=Scope.APP)
    def model(self) -> Iterator[Model]:
        if IN_WORKER:
            time.sleep(float(os.environ.get(STARTS, "0")))  # noqa: TID251  a service that takes its time
        stays = os.environ.get(STAYS) if IN_WORKER else None
        if stays == "thread":
            threading.Thread(target=threading.Event().wait).start()
        yield Model()
        if stays == "service":
            threading.Event().wait()


def done(word: str = "", number: int = 0) -> Done:
    return Done(pid=os.getpid(), word=word, number=number)


@endpoint(http="POST /echo", timeout=20, max_in_flight=300)
def echo(order: Order, model: FromDishka[Model]) -> Done:
    """Quick, unless it is to stand at the gate."""
    return done(hold(order.name) if order.name else "", order.number)


@endpoint(http="POST /gated", timeout=15)
def gated(order: Order) -> Done:
    return done(hold(order.name), order.number)


@endpoint(http="POST /again", timeout=15, idempotent=True)
def again(order: Order) -> Done:
    note(f"{order.name} began")
    return done(hold(order.name))


@endpoint(http="POST /die", timeout=20)
def die(order: Order) -> Done:
    """Take the whole worker along."""
    print("these are my last words", file=sys.stderr)
    _end(order.how)
    return done()


@endpoint(http="POST /poison", timeout=15, idempotent=True)
def poison(order: Order) -> Done:
    """The same, and may be tried again."""
    note(order.name)
    _end("exit")
    return done()


def _end(how: str) -> None:
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)


@endpoint(http="POST /hang", timeout=0.5)
def hang(order: Order) -> Done:
    """Outlast the deadline, with a process of its own that would outlast this one."""
    started(order.name)
    return done(hold(order.name))


@endpoint(http="POST /family", timeout=15)
def family(order: Order) -> Done:
    """Stand at the gate, with a process of its own."""
    started(order.name)
    return done(hold(order.name))


def started(name: str) -> None:
    """A grandchild of the web process; the test is told its pid."""
    child = subprocess.Popen(["sleep", "600"])
    note(f"{name} child {child.pid}")


@endpoint(http="POST /spin", timeout=30)
def spin(order: Order) -> Done:
    """Keep the interpreter to itself for so long, in Python or in native code."""
    note(f"{order.name} began")
    match order.how:
        case "native":
            ctypes.PyDLL(None).usleep(int(order.seconds * 1e6))  # PyDLL does not release the GIL
        case "deaf":
            sum(repeat(0, 10**12))  # nor does this, which no signal interrupts: for hours
        case "stone deaf":
            # Nor does it hear what else may tell it of its parent's end: a node may have use for the same signals.
            for number in (signal.SIGALRM, signal.SIGHUP):
                signal.signal(number, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            started(order.name)
            sum(repeat(0, 10**12))
        case _:
            until = time.monotonic() + order.seconds
            while time.monotonic() < until:
                pass
    return done()


@endpoint(http="POST /weigh", timeout=15, max_body=32 * 2**20)
def weigh(blob: Blob) -> Done:
    return done(number=len(blob.data))


def own_source() -> LocalSource:
    """Of the loop that runs this."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is SyncRunner.run.__code__:
            source = frame.f_locals["source"]
            assert isinstance(source, LocalSource)
            return source
        frame = frame.f_back
    raise LookupError("no loop runs this")


@endpoint(http="POST /garble", timeout=20)
def garble(order: Order) -> Done:
    """Write what is no frame into the worker's own socket, in the middle of others' work."""
    source = own_source()
    if order.how == "ready again":
        source.tell(Ready())
        return done(hold(order.name))
    if order.how == "silence":
        source._work.shutdown(socket.SHUT_RDWR)
        return done(hold(order.name))
    lengths = struct.Struct("<II")
    garbage = {
        "noise": os.urandom(4096),
        "long head": lengths.pack(2**31, 0),
        "long body": lengths.pack(0, 2**32 - 1),
        "unreadable": lengths.pack(8, 0) + b"\xc1" * 8,
        "cut short": lengths.pack(16, 0) + b"\x93",  # what comes next is taken for the rest of it
        "cut short by its end": lengths.pack(1000, 0) + b"\x93",
    }
    with source._writing:
        source._work.sendall(garbage[order.how])
    if order.how == "cut short by its end":
        os._exit(7)
    return done()


@endpoint(http="POST /say", timeout=20)
def say(order: Order) -> Done:
    print(f"{order.name} on stdout")
    print(f"{order.name} on stderr", file=sys.stderr)
    return done()


@endpoint(http="POST /flood", timeout=30)
def flood(order: Order) -> Done:
    for number in range(order.number):
        log.warning("record %d", number)
    return done()


@endpoint(http="POST /record", timeout=15, max_in_flight=300)
def record(order: Order) -> Done:
    """Leave a trace that outlives the worker, then work for a while."""
    file = os.open(os.environ[RECORD], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{order.number}\n".encode())
    os.close(file)
    time.sleep(order.seconds)  # noqa: TID251  a node that stands for blocking work
    return done(number=order.number)
