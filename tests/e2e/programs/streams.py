"""A program that streams: parts of any size and number, told to the gate as they are made, and every way to end."""

import threading
from collections.abc import Iterator

from pydantic import BaseModel

from offloop import Blob, Endpoint, Job, Problem, endpoint, node
from tests.support.gate import hold, note

ENDLESS = 10**9


class Order(BaseModel):
    """`stops`: before that part it stands at the gate under `name`; `how`: what it does in the place of its reply."""

    name: str = ""
    count: int = 3
    size: int = 0
    stops: int = 0
    how: str = "reply"
    notes: bool = True


class Part(BaseModel):
    number: int
    text: str


class Whole(BaseModel):
    parts: int


class TooManyParts(Problem):
    """More parts than anyone takes."""

    status, title = 422, "There are too many parts"


@node
def make(order: Order, job: Job) -> Iterator[Part | Whole]:
    """Parts as they come, then the whole."""
    thread, text = threading.get_ident(), "x" * order.size
    try:
        for number in range(1, order.count + 1):
            if number == order.stops:
                hold(order.name)
            if order.notes:
                note(f"{order.name} makes {number}")
            yield Part(number=number, text=text)
        match order.how:
            case "raise":
                raise ValueError("a secret that nobody outside may read")
            case "refuse":
                raise TooManyParts("too many", parts=order.count)
            case "reply":
                yield Whole(parts=order.count)
    finally:
        if order.notes and job.cancelled:
            note(f"{order.name} is cancelled")
        if order.notes:
            note(f"{order.name} is closed in {'its own' if threading.get_ident() == thread else 'another'} thread")


parts = Endpoint("parts", Order, Whole, stream=Part, to=make, timeout=30, problems=(TooManyParts,))
parts_again = Endpoint("parts_again", Order, Whole, stream=Part, to=make, timeout=30, idempotent=True)


@node
def cut(order: Order) -> Iterator[Blob | Whole]:
    for number in range(1, order.count + 1):
        yield Blob(bytes([number]) * order.size, "image/png", f"Seite {number}.png")
    yield Whole(parts=order.count)


slices = Endpoint("slices", Order, Whole, stream=Blob, to=cut)


@endpoint
def count_up(order: Order, job: Job) -> Whole:
    """It streams nothing, and says how far it is; it stops when it is half done."""
    for done in range(order.count + 1):
        if order.name and done == order.count // 2:
            job.progress(done, order.count, "half")
            hold(order.name)
    job.progress(order.count, order.count)
    return Whole(parts=order.count)
