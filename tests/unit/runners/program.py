"""A small program whose nodes do whatever a test says."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from dishka import FromDishka, Provider, Scope, provide
from pydantic import BaseModel

from offloop import Blob, Endpoint, Job, Problem, endpoint, node

log = logging.getLogger("user.nodes")


class Order(BaseModel):
    """What is asked for."""

    name: str = "it"


class Done(BaseModel):
    """The reply."""

    text: str


class Part(BaseModel):
    """A stream message."""

    number: int


class Slab(BaseModel):
    """A stream message of any size."""

    text: str


class Note:
    """Passes between nodes, and never travels."""


class Letter:
    """The same, in another graph."""


class Refused(Problem):
    status, title = 409, "It was refused"


class Forgetful(Problem):
    """Its constructor does not call the one it inherits."""

    status, title = 409, "It has no members"

    def __init__(self) -> None:
        self.why = "forgotten"


script: dict[str, Callable[..., Any]] = {}
"""What nodes do, by their name; set by the fixture `does`."""


def act(name: str, *args: Any) -> Any:
    return script[name](*args) if name in script else None


class Loan:
    """A service of one request."""


class Services(Provider):
    @provide(scope=Scope.REQUEST)
    def loan(self) -> Iterator[Loan]:
        act("lend")
        yield Loan()
        act("return")


@endpoint
def plain(order: Order, job: Job) -> Done:
    return act("plain", order, job) or Done(text=order.name)


@endpoint
def lent(order: Order, loan: FromDishka[Loan]) -> Done:
    act("lent", loan)
    return Done(text=type(loan).__name__)


@endpoint
def blob(order: Blob) -> Blob:
    return Blob(order.data[::-1], order.media_type, order.filename)


@endpoint
def empty(order: Order) -> Done | None:
    return None


@endpoint
def wrong(order: Order) -> Done:
    return act("wrong")


@node
def parts(order: Order) -> Iterator[Part | Done]:
    for number in (1, 2):
        yield Part(number=number)
        act("parts", number)
    yield Done(text="all parts")


pieces = Endpoint("pieces", Order, Done, stream=Part, to=parts)


@node
def flood(order: Order, job: Job) -> Iterator[Slab | Done]:
    try:
        while size := act("flood", job):
            yield Slab(text="x" * size)
        yield Done(text="all slabs")
    finally:
        act("flooded")


slabs = Endpoint("slabs", Order, Done, stream=Slab, to=flood)


@node
def noting(order: Order) -> Iterator[Note | Done]:
    yield Note()
    try:
        yield Done(text="noted")
    finally:
        act("closing")


@node
def keep(note: Note) -> None:
    log.info("keeping a note")
    act("keep")


noted = Endpoint("noted", Order, Done, to=noting)


@node
def write(order: Order) -> Letter:
    act("write")
    return Letter()


@node
def send(letter: Letter) -> Done:
    act("send")
    return Done(text="sent")


sent = Endpoint("sent", Order, Done, to=write)
