"""The program that the end-to-end tests run: one endpoint for each way of behaving."""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator

from opentelemetry.baggage import get_baggage
from opentelemetry.trace import get_current_span
from pydantic import BaseModel, Field

from offloop import Blob, Endpoint, Job, Problem, endpoint, node
from tests.support.gate import hold, note

log = logging.getLogger("documents")


class Echo(BaseModel):
    n: int
    text: str = Field(default="", max_length=100_000)


class Echoed(BaseModel):
    n: int
    size: int
    request_id: str


class Gated(BaseModel):
    name: str


class Passed(BaseModel):
    name: str
    word: str


class Item(BaseModel):
    item: int
    tag: list[str] = []
    limit: int = 10


class Found(BaseModel):
    item: int
    tags: list[str]
    limit: int


class Size(BaseModel):
    size: int
    media_type: str | None
    filename: str | None


class Letter(BaseModel):
    to: str
    copies: int = 1
    body: Blob


class Sealed(BaseModel):
    to: str
    copies: int
    size: int
    filename: str | None


class Failing(BaseModel):
    how: str


class Traced(BaseModel):
    trace_id: str
    span_id: str
    is_remote: bool
    tenant: str | None


class Look(BaseModel):
    name: str = ""


class Surroundings(BaseModel):
    pid: int
    worker_index: str | None
    thread: str
    modules: list[str]


class Part(BaseModel):
    number: int


class Whole(BaseModel):
    parts: int


class TooManyPages(Problem):
    """More pages than anyone reads."""

    status, title = 422, "The document has too many pages"


class Gone(Problem):
    status, title = 410, "It is gone"


@endpoint(http="POST /echo", timeout=10, max_in_flight=300)
def echo(message: Echo, job: Job) -> Echoed:
    """Echo the message.

    Gives back its number and the length of its text.
    """
    log.info("echoing %d", message.n)
    return Echoed(n=message.n, size=len(message.text), request_id=job.request_id)


@endpoint(http="POST /gated", timeout=8, max_in_flight=8)
def gated(message: Gated, job: Job) -> Passed:
    """Wait at the gate."""
    return Passed(name=message.name, word=hold(message.name))


@endpoint(http="POST /brief", timeout=0.4, max_in_flight=8)
def brief(message: Gated) -> Passed:
    """The same, with little time."""
    return Passed(name=message.name, word=hold(message.name))


@endpoint(http="POST /patient", timeout=30, max_in_flight=8)
def patient(message: Gated, job: Job) -> Passed:
    """Look whether anyone still waits, until nobody does."""
    note(f"{message.name} began")
    while not job.cancelled:
        time.sleep(0.005)  # noqa: TID251  a node that stands for blocking work
    note(f"{message.name} saw it")
    return Passed(name=message.name, word="cancelled")


@endpoint(http="POST /steadfast", timeout=8, max_in_flight=8, on_disconnect="finish")
def steadfast(message: Gated) -> Passed:
    """Run on, whoever leaves."""
    word = hold(message.name)
    note(f"{message.name} ended")
    return Passed(name=message.name, word=word)


@endpoint(http="GET /items/{item}")
def find(query: Item) -> Found:
    return Found(item=query.item, tags=query.tag, limit=query.limit)


@endpoint(http="PUT /items/{item}")
def store(message: Item) -> None:
    """Store it; there is nothing to say."""


@endpoint(http="POST /blobs", max_body=2**20, media_types=("application/pdf", "text/*"))
def weigh(blob: Blob) -> Size:
    return Size(size=len(blob.data), media_type=blob.media_type, filename=blob.filename)


@endpoint(http="POST /anything", max_body=8 * 2**20)
def weigh_anything(blob: Blob) -> Blob:
    return Blob(blob.data, blob.media_type or "application/octet-stream", "grüße.bin")


@endpoint(http="POST /letters", max_body=2**20)
def seal(letter: Letter) -> Sealed:
    return Sealed(to=letter.to, copies=letter.copies, size=len(letter.body.data), filename=letter.body.filename)


@endpoint(http="POST /refused", problems=(TooManyPages, Gone))
def refuse(message: Failing) -> Echoed:
    if message.how == "gone":
        raise Gone
    raise TooManyPages("900 pages are too many", pages=900, limit=[1, 500])


@endpoint(http="POST /failing")
def fail(message: Failing) -> Echoed | None:
    """Fail in every way that Python knows."""
    match message.how:
        case "raise":
            raise ValueError("a secret that nobody outside may read")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "stop":
            raise StopIteration("early")
        case "memory":
            raise MemoryError
        case "recursion":
            return fail(message)
        case "base":
            raise BaseException("the base of all")  # noqa: TRY002
    return None


@endpoint(http="POST /traces")
def trace(message: Echo) -> Traced:
    """Say which trace it belongs to."""
    span = get_current_span().get_span_context()
    tenant = get_baggage("tenant")
    return Traced(
        trace_id=f"{span.trace_id:032x}",
        span_id=f"{span.span_id:016x}",
        is_remote=span.is_remote,
        tenant=None if tenant is None else str(tenant),
    )


@endpoint(http="GET /surroundings")
def look(query: Look) -> Surroundings:
    """Say where it runs; wait at the gate before, if there is a name for it."""
    if query.name:
        hold(query.name)
    return Surroundings(
        pid=os.getpid(),
        worker_index=os.environ.get("OFFLOOP_WORKER_INDEX"),
        thread=threading.current_thread().name,
        modules=sorted(sys.modules),
    )


@node
def parts(message: Gated, job: Job) -> Iterator[Part | Whole]:
    """Parts as they come, then the whole."""
    try:
        for number in range(1, 4):
            yield Part(number=number)
            hold(f"{message.name} {number}")
        yield Whole(parts=3)
    finally:
        note(f"{message.name} closed")


assemble = Endpoint(
    "assemble", Gated, Whole, stream=Part, to=parts, timeout=20, http="POST /assemblies", websocket="/assemblies/stream"
)
