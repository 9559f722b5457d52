"""A program whose node stays where it is until a test lets it on, and whose service does what a test says."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from dishka import FromDishka, Provider, Scope, provide
from pydantic import BaseModel

from offloop import endpoint

DEADLINE = 10.0


class Order(BaseModel):
    gate: str = ""


class Done(BaseModel):
    by: str


class Tool:
    """A service of the whole worker."""


class Gates:
    """Where nodes stand."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self._gates: dict[str, threading.Event] = {}

    def __getitem__(self, name: str) -> threading.Event:
        return self._gates.setdefault(name, threading.Event())

    def open_all(self) -> None:
        for gate in self._gates.values():
            gate.set()


gates = Gates()
script: dict[str, Callable[[], Any]] = {}


class Services(Provider):
    @provide(scope=Scope.APP)
    def tool(self) -> Iterator[Tool]:
        script.get("open", list)()
        yield Tool()
        script.get("close", list)()


@endpoint(timeout=0.05)
def hold(order: Order, tool: FromDishka[Tool]) -> Done:
    if order.gate:
        gates.arrived.release()
        gates[order.gate].wait(DEADLINE)
    return Done(by=threading.current_thread().name)
