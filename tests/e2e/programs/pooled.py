"""A program with two pools, whose nodes stand at the gate: for web processes that share their workers."""

import os

from pydantic import BaseModel

from offloop import endpoint
from tests.support.gate import hold


class Order(BaseModel):
    name: str


class Aside(Order): ...


class Done(BaseModel):
    pid: int


@endpoint(http="POST /near", timeout=20)
def near(order: Order) -> Done:
    hold(order.name)
    return Done(pid=os.getpid())


@endpoint(http="POST /aside", timeout=20, pool="aside")
def aside(order: Aside) -> Done:
    hold(order.name)
    return Done(pid=os.getpid())
