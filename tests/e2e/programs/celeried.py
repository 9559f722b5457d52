"""What there is to show behind a Celery beside `clustered`: pools, refusals, services, streams that wait at the gate.

It expects nothing: what is to happen is for the tests to say.
"""

import os
import time
from collections.abc import Iterator

from dishka import FromDishka, Provider, Scope, provide
from pydantic import BaseModel

from offloop import Endpoint, Job, Problem, endpoint, node
from tests.e2e.programs.clustered import Done, Order, done
from tests.support.gate import hold, note


class Occupied(Problem):
    status, title = 409, "It is occupied"


class Failing(BaseModel):
    how: str


class Where(BaseModel):
    pid: int


class Steps(BaseModel):
    """`number` of them, each held at the gate under `name` and its number."""

    name: str
    number: int


class Step(BaseModel):
    number: int


class Tool:
    """Built once in each process; says when it is made and when it is put away."""

    def __init__(self) -> None:
        self.pid = os.getpid()


class Tools(Provider):
    scope = Scope.APP

    @provide
    def tool(self) -> Iterator[Tool]:
        if os.environ.get("TEST_TOOL") == "broken":
            raise RuntimeError("the tool is broken")
        said = os.environ.get("TEST_TOOL") == "told"
        if said:
            note(f"tool made in {os.getpid()}")
        yield Tool()
        if said:
            note(f"tool put away in {os.getpid()}")


@endpoint(http="POST /failing", timeout=10, problems=(Occupied,))
def fail(order: Failing) -> Done | None:
    """Fail in every way that matters here."""
    match order.how:
        case "problem":
            raise Occupied("by somebody else", by="them")
        case "raise":
            raise ValueError("a secret that nobody outside may read")
        case "exit":
            raise SystemExit(3)
        case "kill":
            os.kill(os.getpid(), 9)
        case "silence":
            return None
    return Done(pid=os.getpid())


@endpoint(http="POST /gpu", timeout=10, pool="gpu")
def compute(order: Order, job: Job) -> Done:
    """Wherever there is one."""
    return done(order, job)


@endpoint(http="POST /tooled", timeout=10)
def use(order: Order, tool: FromDishka[Tool]) -> Where:
    """With a service."""
    return Where(pid=tool.pid)


@endpoint(websocket="/called", timeout=20)
def called(order: Order, job: Job) -> Done:
    """On a socket."""
    return done(order, job)


@endpoint(http="POST /brief", timeout=0.4)
def brief(order: Order, job: Job) -> Done:
    """With little time."""
    return done(order, job)


@node
def step(order: Steps, job: Job) -> Iterator[Step | Where]:
    """Steps as they come, each with how far it has come."""
    try:
        for number in range(1, order.number + 1):
            job.progress(number, order.number, f"step {number}")
            yield Step(number=number)
            hold(f"{order.name} {number}")
        yield Where(pid=os.getpid())
    finally:
        note(f"{order.name} closed")


steps = Endpoint("steps", Steps, Where, stream=Step, to=step, timeout=20, http="POST /steps")


@node
def forever(order: Steps, job: Job) -> Iterator[Step | Where]:
    """Until nobody waits."""
    note(f"{order.name} began")
    while not job.cancelled:
        time.sleep(0.005)  # noqa: TID251  a node that stands for blocking work
    note(f"{order.name} saw it")
    yield Where(pid=os.getpid())


endless = Endpoint("endless", Steps, Where, stream=Step, to=forever, timeout=20, http="POST /endless")
