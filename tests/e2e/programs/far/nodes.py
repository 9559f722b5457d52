"""What workers import as well: nodes that do what a test says at the gate, and services that tell of themselves."""

import os
from collections.abc import Iterator

from dishka import FromDishka, Provider, Scope, provide

from offloop import node
from tests.e2e.programs.far.endpoints import Done, Order, Refused
from tests.support.gate import hold, note

WEB, START = "TEST_FAR_WEB", "TEST_FAR_START"
"""Variables: set where nobody may import this; what happens as a service is built (`hold`, `fail`, or nothing)."""

if WEB in os.environ:
    raise ImportError("a web process has imported the nodes")


class Tool: ...


class Gpu: ...


class Services(Provider):
    scope = Scope.APP

    @provide
    def tool(self) -> Iterator[Tool]:
        note("tool built")
        match os.environ.get(START):
            case "hold":
                hold("start")
            case "fail":
                raise RuntimeError("there is no tool")
        yield Tool()
        note("tool closed")

    @provide
    def gpu(self) -> Gpu:
        note("gpu built")
        return Gpu()


@node
def hold_on(order: Order, tool: FromDishka[Tool]) -> Done:
    word = hold(order.name) if order.name else ""
    if word == "refuse":
        raise Refused("not today")
    return Done(pid=os.getpid(), word=word)


@node
def break_down(order: Order) -> Done:
    if hold(order.name) == "die":
        os._exit(7)
    note(f"{order.name} was done")
    return Done(pid=os.getpid())


@node
def train(order: Order, gpu: FromDishka[Gpu]) -> Done:
    return Done(pid=os.getpid(), word="trained")
