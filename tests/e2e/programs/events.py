"""Nodes that stream: in pieces that a test lets on one by one, more than a caller may leave unread, and for ever."""

import os
import signal
import time
from collections.abc import Iterator

from pydantic import BaseModel, Field

from offloop import Blob, Endpoint, Job, Problem, node
from tests.support.gate import hold, note

BIG = "x" * 2**18
"""A quarter of what may be on its way to one caller."""


class Order(BaseModel):
    """So many rows; after each the node stands at the gate under this name and the row's number, if it has one."""

    name: str = ""
    count: int = Field(default=3, ge=0)


class Row(BaseModel):
    number: int
    text: str = ""


class Note(BaseModel):
    text: str


class Table(BaseModel):
    rows: int


class Torn(Problem):
    status, title = 422, "The table is torn"


@node
def rows(order: Order, job: Job) -> Iterator[Row | Table]:
    """Rows, then the table."""
    try:
        for number in range(1, order.count + 1):
            yield Row(number=number)
            word = hold(f"{order.name} {number}") if order.name else ""
            if word == "tear":
                raise Torn("in two", row=number)
            if word == "fail":
                raise ValueError("a secret that nobody outside may read")
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        yield Table(rows=order.count)
    finally:
        if order.name:
            note(f"{order.name} closed")


@node
def tell(order: Order, job: Job) -> Iterator[Row | Table]:
    """Say how far it is, and then wait at the gate."""
    job.progress(0, order.count, "the first\nof all")
    hold(f"{order.name} told")
    yield Row(number=1)
    job.progress(order.count, order.count)
    yield Table(rows=1)


@node
def watch(order: Order, job: Job) -> Iterator[Row | Table]:
    """A row, and then nothing until nobody waits any more."""
    try:
        yield Row(number=1)
        while not job.cancelled:
            time.sleep(0.005)  # noqa: TID251  a node that stands for blocking work
        note(f"{order.name} saw it")
        yield Row(number=2)
        note(f"{order.name} went on")
    finally:
        note(f"{order.name} closed")


@node
def flood(order: Order, job: Job) -> Iterator[Row | Table]:
    """Much more than anybody leaves unread; then it says after how many rows it was closed."""
    number = 0
    try:
        for number in range(1, order.count + 1):
            yield Row(number=number, text=BIG)
            if number == 1 and order.name:
                hold(f"{order.name} 1")
        yield Table(rows=order.count)
    finally:
        if order.name:
            note(f"{order.name} made {number}")
            note(f"{order.name} closed")


@node
def erase(order: Order) -> Iterator[Row]:
    """Rows, and no reply."""
    for number in range(1, order.count + 1):
        yield Row(number=number)


@node
def sort(order: Order) -> Iterator[Row | Note | Table]:
    """Messages of several classes."""
    yield Row(number=1)
    yield Note(text="a note")
    yield Table(rows=1)


@node
def cut(blob: Blob) -> Iterator[Blob]:
    """Each line by itself, whatever it is said to be."""
    for line in blob.data.split(b"\n"):
        yield Blob(line, blob.media_type)


@node
def slice_up(blob: Blob) -> Iterator[Row | Blob]:
    """The lines' numbers, then all of it with its name."""
    for number, _ in enumerate(blob.data.split(b"\n"), 1):
        yield Row(number=number)
    yield Blob(blob.data, blob.media_type, blob.filename)


@node
def pile(order: Order) -> Iterator[Row | Blob]:
    """All at once, at the end."""
    yield Blob(BIG.encode() * order.count, "text/plain")


tabulate = Endpoint("tabulate", Order, Table, stream=Row, to=rows, problems=(Torn,), http="POST /tables")
query = Endpoint("query", Order, Table, stream=Row, to=rows, http="GET /tables")
narrow = Endpoint("narrow", Order, Table, stream=Row, to=rows, max_in_flight=1, http="POST /narrow")
again = Endpoint("again", Order, Table, stream=Row, to=rows, idempotent=True, http="POST /again")
created = Endpoint("created", Order, Table, stream=Row, to=rows, status=201, http="POST /created")
telling = Endpoint("telling", Order, Table, stream=Row, to=tell, http="POST /progress")
watched = Endpoint("watched", Order, Table, stream=Row, to=watch, http="POST /watched")
flooded = Endpoint("flooded", Order, Table, stream=Row, to=flood, timeout=30, http="POST /floods")
steadfast = Endpoint(
    "steadfast", Order, Table, stream=Row, to=flood, timeout=30, on_disconnect="finish", http="POST /steadfast"
)
piled = Endpoint("piled", Order, Blob, stream=Row, to=pile, http="POST /piles")
erased = Endpoint("erased", Order, None, stream=Row, to=erase, http="POST /erased")
sorted_ = Endpoint("sorted", Order, Table, stream=Row | Note, to=sort, http="POST /sorted")
pieces = Endpoint(
    "pieces", Blob, Blob, stream=Row, to=slice_up, max_body=2**20, media_types=("text/*",), http="POST /pieces"
)
cuts = Endpoint("cuts", Blob, None, stream=Blob, to=cut, http="POST /cuts")
