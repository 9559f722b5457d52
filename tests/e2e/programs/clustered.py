"""A program for clusters: nodes that leave traces which outlive their worker, hang, die, stream and look about.

Owns every way in which work behind a broker can end. It expects nothing: what is to happen is for the tests to say.
"""

import ctypes
import os
import time
from collections.abc import Iterator

from pydantic import BaseModel

from offloop import Endpoint, Job, endpoint, node
from tests.support.gate import hold, note

RECORD, FIELD = "TEST_RECORD", "TEST_FIELD"
"""Variables: where begun work is written down; whether `work` has a field more, as after a deployment."""


class Order(BaseModel):
    """`name`: stand at the gate under that name; `seconds`: of blocking work; `burns`: of work that needs a CPU;
    `number`: given back and written down.
    """

    name: str = ""
    number: int = 0
    seconds: float = 0.0
    burns: float = 0.0


class Done(BaseModel):
    pid: int
    number: int = 0


class Order2(Order):
    """What a later version takes: the same, and a field more."""

    more: str = "new"


Latest = Order2 if os.environ.get(FIELD) else Order


def done(order: Order, job: Job) -> Done:
    if RECORD in os.environ:
        file = os.open(os.environ[RECORD], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{order.number} {time.monotonic()} {os.getpid()}\n".encode())
        os.close(file)
    if order.name:
        note(f"{order.name} began in {os.getpid()}")
        hold(order.name)
    if order.seconds:
        time.sleep(order.seconds)  # noqa: TID251  a node that stands for blocking work
    until = time.thread_time() + order.burns
    while time.thread_time() < until:
        pass
    return Done(pid=os.getpid(), number=order.number)


@endpoint(http="POST /work", timeout=2, max_in_flight=300)
def work(order: Latest, job: Job) -> Done:  # type: ignore[valid-type]
    return done(order, job)


@endpoint(http="POST /patient", timeout=20, max_in_flight=300)
def patient(order: Order, job: Job) -> Done:
    """The same, with more time."""
    return done(order, job)


@endpoint(http="POST /varied", timeout=20, max_in_flight=300)
def varied(order: Order, job: Job) -> Done:
    """Quick, but for one in a while."""
    return done(order, job)


@endpoint(http="POST /again", timeout=15, max_in_flight=300, idempotent=True)
def again(order: Order, job: Job) -> Done:
    return done(order, job)


@endpoint(http="POST /poison", timeout=15, idempotent=True)
def poison(order: Order) -> Done:
    """Take the whole worker along, whenever it is tried."""
    note(order.name)
    os._exit(7)


@endpoint(http="POST /hang", timeout=0.5)
def hang(order: Order, job: Job) -> Done:
    """Outlast the deadline, and the grace after it."""
    return done(order, job)


@endpoint(http="POST /watchful", timeout=20)
def watchful(order: Order, job: Job) -> Done:
    """Look whether anyone still waits, until nobody does."""
    note(f"{order.name} began")
    while not job.cancelled:
        time.sleep(0.005)  # noqa: TID251  a node that stands for blocking work
    note(f"{order.name} saw it")
    return Done(pid=os.getpid())


@endpoint(http="POST /seize", timeout=20)
def seize(order: Order) -> Done:
    """Hold the GIL in native code, for so many seconds."""
    note(f"{order.name} began in {os.getpid()}")
    ctypes.PyDLL(None).usleep(int(order.seconds * 1e6))  # PyDLL does not release the GIL
    return Done(pid=os.getpid())


class Part(BaseModel):
    number: int
    text: str


@node
def make(order: Order) -> Iterator[Part | Done]:
    """Parts of 64 KiB each: sixteen of them are all that may be on their way."""
    for number in range(1, order.number + 1):
        note(f"{order.name} makes {number}")
        yield Part(number=number, text="x" * 2**16)
    yield Done(pid=os.getpid(), number=order.number)


parts = Endpoint("parts", Order, Done, stream=Part, to=make, timeout=30, http="POST /parts")
