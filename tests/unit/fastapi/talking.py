"""The program behind the tests of sockets, and a server's side of one WebSocket in the test's hands."""

import asyncio
import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import Message

from offloop import Blob, Endpoint, Job, endpoint, node

DEADLINE = 10.0
OPEN = threading.Event()
"""What the blocking nodes wait for."""
BEGUN = threading.Semaphore(0)
"""Released by each that has begun."""
ENDED: list[str] = []
"""Nodes that have come to their end."""


class Ask(BaseModel):
    text: str


class Long(BaseModel):
    title: str


class Short(BaseModel):
    text: str


class Wait(BaseModel):
    name: str = ""


class Keep(BaseModel):
    name: str


class Bits(BaseModel):
    count: int


class Bit(BaseModel):
    number: int


class Whole(BaseModel):
    bits: int


class Mixed(BaseModel):
    raw: bool


class Measured(BaseModel):
    size: int
    media_type: str | None


@node
def either(ask: Ask) -> Long | Short:
    return Long(title=ask.text) if len(ask.text) > 3 else Short(text=ask.text)


answer: Endpoint[Ask, Long | Short] = Endpoint("answer", Ask, Long | Short, websocket="/answer", max_body=2000)


@endpoint(websocket="/nothing")
def nothing(bits: Bits) -> None: ...


@endpoint(websocket="/wait", timeout=30)
def wait(message: Wait, job: Job) -> Whole:
    BEGUN.release()
    OPEN.wait(30)
    ENDED.append(f"{message.name}{' cancelled' if job.cancelled else ''}")
    return Whole(bits=0)


class Narrow(BaseModel):
    pass


@endpoint(websocket="/narrow", timeout=30, max_in_flight=1)
def narrow(message: Narrow) -> Whole:
    BEGUN.release()
    OPEN.wait(30)
    return Whole(bits=0)


@endpoint(websocket="/keep", timeout=30, on_disconnect="finish")
def keep(message: Keep, job: Job) -> Whole:
    OPEN.wait(30)
    ENDED.append(f"{message.name}{' cancelled' if job.cancelled else ''}")
    return Whole(bits=0)


@node
def bit_by_bit(bits: Bits, job: Job) -> Iterator[Bit | Whole]:
    for number in range(bits.count):
        job.progress(number, note="bit by bit")
        yield Bit(number=number)
    yield Whole(bits=bits.count)


pieces = Endpoint("pieces", Bits, Whole, stream=Bit, to=bit_by_bit, websocket="/pieces")


@node
def slices(mixed: Mixed) -> Iterator[Blob | Whole]:
    for _ in range(50):
        yield Blob(b"x" * 65536, "text/plain")
    yield Whole(bits=50)


sliced = Endpoint("sliced", Mixed, Whole, stream=Blob, to=slices, websocket="/sliced")


@endpoint(websocket="/measure", media_types=("image/*",))
def measure(image: Blob) -> Measured:
    return Measured(size=len(image.data), media_type=image.media_type)


class Place(BaseModel):
    room: str
    seat: int = 0
    text: str


@endpoint(websocket="/rooms/{room}/{seat}")
def sit(place: Place) -> Place:
    return place


class Time(BaseModel):
    pass


class Left(BaseModel):
    seconds: float


@endpoint(websocket="/time", timeout=100)
def time_left(message: Time, job: Job) -> Left:
    return Left(seconds=job.remaining)


class Peer:
    """One WebSocket to an ASGI application: what it says is received, what is sent to it is seen, as it happens.

    Args:
        app: the application.
        path: of the route.
        headers: of the handshake.
        scheme: `ws` or `wss`.
        denial: whether the server can answer the handshake by an HTTP response of the application's.
        reads: whether the peer reads what is sent to it.
    """

    def __init__(
        self,
        app: FastAPI,
        path: str,
        *,
        headers: Iterable[tuple[bytes, bytes]] = ((b"host", b"here.example"),),
        scheme: str = "ws",
        denial: bool = True,
        reads: bool = True,
    ) -> None:
        scope: dict[str, Any] = {
            "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": scheme, "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": list(headers),
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "subprotocols": [],
            "extensions": {"websocket.http.response": {}} if denial else {},
        }  # fmt: skip
        self.sent: list[Message] = []
        self.heard = 0
        self.waits = 0
        self._room = asyncio.Semaphore(0)
        self.reading = asyncio.Event()
        if reads:
            self.reading.set()
        self.closes = asyncio.Event()
        self.closes.set()
        self.breaks: Exception | None = None
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        self._changed = asyncio.Condition()
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        return await self._said.get()

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self.waits += 1
            await self._read()
            await asyncio.sleep(0)  # as a server that has to write: others have their turn
        if message["type"] == "websocket.close":
            await self.closes.wait()
        if self.breaks is not None:
            raise self.breaks
        async with self._changed:
            self.sent.append(message)
            self._changed.notify_all()

    async def _read(self) -> None:
        """Until it reads at all, or there is room for one message."""
        reading, room = asyncio.ensure_future(self.reading.wait()), asyncio.ensure_future(self._room.acquire())
        try:
            await asyncio.wait([reading, room], return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            room.cancel()

    def read(self, messages: int) -> None:
        """Take so many more, for one that does not read."""
        for _ in range(messages):
            self._room.release()

    def say(self, frame: str | bytes) -> None:
        kind = "text" if isinstance(frame, str) else "bytes"
        self._said.put_nowait({"type": "websocket.receive", kind: frame})

    def ask(self, id: str, data: Any) -> None:
        self.say(json.dumps({"id": id, "data": data}))

    def leave(self) -> None:
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def next(self) -> Message:
        """The next that was sent to it, whatever it is."""
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(lambda: len(self.sent) > self.heard)
        self.heard += 1
        return self.sent[self.heard - 1]

    async def accepted(self) -> "Peer":
        assert (await self.next())["type"] == "websocket.accept"
        return self

    async def hear(self) -> Any:
        """The next text frame, read."""
        return json.loads((await self.next())["text"])

    async def ended(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.task

    async def close(self) -> tuple[int, str]:
        """Until it is closed; the code and the reason."""
        while (message := await self.next())["type"] != "websocket.close":
            pass
        await self.ended()
        return message["code"], message["reason"]
