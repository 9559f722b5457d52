"""Nodes for callers that stay: streams, bytes, work that waits at the gate, and more than anybody reads."""

from collections.abc import Iterator

from pydantic import BaseModel

from offloop import Blob, Endpoint, Job, Problem, endpoint, node
from tests.support.gate import hold, note

DROP = 65536
MIB = 2**20


class Echo(BaseModel):
    n: int


class Echoed(BaseModel):
    n: int


class Tell(BaseModel):
    bits: int
    name: str = ""
    """Wait at the gate under this name after each bit."""


class Bit(BaseModel):
    number: int


class Told(BaseModel):
    bits: int


class Drizzle(BaseModel):
    drops: int


class Large(BaseModel):
    mib: int


class Wait(BaseModel):
    name: str


class Waited(BaseModel):
    word: str


class Keep(BaseModel):
    name: str


class Flood(BaseModel):
    mib: int
    name: str


class Drop(BaseModel):
    number: int
    water: str


class Flooded(BaseModel):
    drops: int


class Seat(BaseModel):
    room: str
    number: int


class Odd(Problem):
    status, title = 409, "That is odd"


@endpoint(http="POST /echo", websocket="/echo", problems=(Odd,), max_body=MIB)
def echo(message: Echo) -> Echoed:
    if message.n < 0:
        raise Odd(n=message.n)
    return Echoed(n=message.n)


@node
def say(message: Tell, job: Job) -> Iterator[Bit | Told]:
    for number in range(message.bits):
        job.progress(number, message.bits)
        yield Bit(number=number)
        if message.name:
            hold(message.name)
    yield Told(bits=message.bits)


tell = Endpoint("tell", Tell, Told, stream=Bit, to=say, websocket="/tell", timeout=30, max_in_flight=1000)


@node
def patter(message: Drizzle) -> Iterator[Bit | Told]:
    for number in range(message.drops):
        yield Bit(number=number)
    yield Told(bits=message.drops)


drizzle = Endpoint(
    "drizzle", Drizzle, Told, stream=Bit, to=patter, http="POST /drizzle", websocket="/drizzle", timeout=60
)


@endpoint(websocket="/wait", timeout=30, max_in_flight=4)
def wait(message: Wait, job: Job) -> Waited:
    word = hold(message.name)
    if job.cancelled:
        note(f"{message.name} cancelled")
    return Waited(word=word)


@endpoint(websocket="/keep", timeout=30, on_disconnect="finish")
def keep(message: Keep, job: Job) -> Waited:
    word = hold(message.name)
    note(f"{message.name} {'cancelled' if job.cancelled else 'kept'}")
    return Waited(word=word)


@endpoint(websocket="/shout", media_types=("text/plain",), max_body=MIB)
def shout(text: Blob) -> Blob:
    return Blob(text.data.upper(), text.media_type, "capitals.txt")


@endpoint(websocket="/rooms/{room}")
def sit(message: Seat) -> Seat:
    return message


@endpoint(websocket="/large", timeout=30)
def large(message: Large) -> Blob:
    return Blob(bytes(message.mib * MIB), "application/octet-stream")


@node
def pour(message: Flood) -> Iterator[Drop | Flooded]:
    drops = message.mib * (MIB // DROP)
    try:
        for number in range(drops):
            if number % (MIB // DROP) == 0:
                note(f"{message.name} {number * DROP // MIB}")
            yield Drop(number=number, water="~" * DROP)
        yield Flooded(drops=drops)
    finally:
        note(f"{message.name} closed")


flood = Endpoint("flood", Flood, Flooded, stream=Drop, to=pour, websocket="/flood", timeout=60)
