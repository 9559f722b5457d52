"""An answer leaves uvicorn in one write, with the bytes and in the order in which it would leave it in two."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from offloop.fastapi.answers import JOINED, answer

REQUEST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
Answering = Callable[[Send], Any]


class Wire(asyncio.Transport):
    """What a connection is asked to write, and that it is closed, in order."""

    def __init__(self) -> None:
        super().__init__({"socket": None, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.closed = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed.is_set()
        if data:
            self.written.append(bytes(data))

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Served:
    """One connection of a uvicorn, and what the app that answers on it was called with."""

    def __init__(self, protocol: type[Any], answering: Answering) -> None:
        self.wire = Wire()
        self.cycles: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            self.cycles.append(send.__self__)  # type: ignore[attr-defined]
            await answering(send)

        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
        config.load()
        self.state = ServerState()
        self.protocol = protocol(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.wire)

    async def asked(self, *requests: bytes) -> list[bytes]:
        self.protocol.data_received(b"".join(requests))
        async with asyncio.timeout(10):
            while self.state.tasks or len(self.cycles) < len(requests):  # noqa: ASYNC110  (nothing tells of it)
                await asyncio.sleep(0)
        self.closed = self.wire.closed.is_set()
        self.protocol.connection_lost(None)
        return self.wire.written


def head(body: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), *more]


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol])
def protocol(request: pytest.FixtureRequest) -> type[Any]:
    found: type[Any] = request.param
    return found


async def in_two(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def undated(written: bytes) -> bytes:
    return b"\r\n".join(line for line in written.split(b"\r\n") if not line.startswith(b"date:"))


@pytest.mark.parametrize(("status", "body"), [(200, b"x"), (202, b"y" * JOINED), (200, b"")])
async def test_it_is_one_write_of_the_same_bytes(protocol: type[Any], status: int, body: bytes) -> None:
    served = Served(protocol, lambda send: answer(send, status, head(body), body))
    (written,) = await served.asked(REQUEST)
    apart = await Served(protocol, lambda send: in_two(send, status, head(body), body)).asked(REQUEST)
    assert undated(written) == undated(b"".join(apart))
    assert written.endswith(b"\r\n\r\n" + body)
    assert [cycle.transport for cycle in served.cycles] == [served.wire]
    assert not served.closed


async def test_a_large_body_is_not_copied(protocol: type[Any]) -> None:
    body = b"x" * (JOINED + 1)
    first, second = await Served(protocol, lambda send: answer(send, 200, head(body), body)).asked(REQUEST)
    assert first.endswith(b"\r\n\r\n")
    assert second == body


async def test_a_connection_is_closed_after_the_last_byte(protocol: type[Any]) -> None:
    served = Served(protocol, lambda send: answer(send, 200, head(b"x", (b"connection", b"close")), b"x"))
    (written,) = await served.asked(REQUEST)
    assert written.endswith(b"\r\n\r\nx")
    assert served.closed


async def test_requests_that_come_at_once_are_answered_in_order(protocol: type[Any]) -> None:
    served = Served(protocol, lambda send: answer(send, 200, head(b"x"), b"%d" % len(served.cycles)))
    written = await served.asked(REQUEST, REQUEST, REQUEST)
    assert [one[-1:] for one in written] == [b"1", b"2", b"3"]


async def test_what_was_written_before_a_fault_leaves(protocol: type[Any]) -> None:
    """The head says that there is less than comes: the server refuses to send the body."""
    served = Served(protocol, lambda send: answer(send, 200, head(b""), b"too much"))
    written = await served.asked(REQUEST)
    assert written[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"too much" not in b"".join(written)
    assert served.closed
    assert [cycle.transport for cycle in served.cycles] == [served.wire]


async def test_nothing_is_written_to_a_caller_who_has_gone(protocol: type[Any]) -> None:
    async def late(send: Send) -> None:
        served.protocol.connection_lost(None)
        await answer(send, 200, head(b"x"), b"x")

    served = Served(protocol, late)
    assert await served.asked(REQUEST) == []


async def test_a_connection_that_is_full_is_left_to_the_server(protocol: type[Any]) -> None:
    async def full(send: Send) -> None:
        served.protocol.pause_writing()
        asyncio.get_running_loop().call_soon(served.protocol.resume_writing)
        await answer(send, 200, head(b"x"), b"x")

    served = Served(protocol, full)
    written = await served.asked(REQUEST)
    assert len(written) == 2
    assert b"".join(written).endswith(b"\r\n\r\nx")


class RequestResponseCycle:
    """As uvicorn's by name, and like nothing that is known."""

    __module__ = "uvicorn.protocols.http.h11_impl"

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)


async def test_any_other_server_gets_it_as_asgi_has_it() -> None:
    strange, sent = RequestResponseCycle(), list[Message]()

    async def plain(message: Message) -> None:
        sent.append(message)

    for send in (strange.send, strange.send, plain):
        await answer(send, 200, head(b"x"), b"x")
    start = {"type": "http.response.start", "status": 200, "headers": head(b"x")}
    assert strange.sent == [start, {"type": "http.response.body", "body": b"x"}] * 2
    assert sent == strange.sent[:2]
