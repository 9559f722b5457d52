"""What is found behind a `send`, under each of uvicorn's ways and through what stands in front of it; and its end."""

import asyncio
import warnings
from typing import Any

import pytest
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle as OfH11
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as OfHttptools
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from offloop.fastapi.cutting import DEEPEST, connection_of, cut, cut_unless_read

with warnings.catch_warnings(action="ignore"):  # of these two parts, that they are to go
    from uvicorn.protocols.websockets.websockets_impl import WebSocketProtocol

WAYS = {
    OfH11: "send", OfHttptools: "send", WebSocketsSansIOProtocol: "send", WSProtocol: "send",
    WebSocketProtocol: "asgi_send",
}  # fmt: skip
SCOPE = {"type": "http", "headers": [], "method": "GET", "path": "/", "query_string": b""}


class Line:
    """A connection with so many bytes that have not left; what became of it, and who heard of it."""

    def __init__(self, unread: int = 0) -> None:
        self.unread = unread
        self.ends: list[str] = []

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.ends.append("aborted")
        asyncio.get_running_loop().call_soon(self.ends.append, "told")


def sends(way: type[Any], transport: Any) -> Send:
    """The `send` that this way of uvicorn's gives to an application, with that transport behind it."""
    protocol = object.__new__(way)
    protocol.transport = transport
    send: Send = getattr(protocol, WAYS[way])
    return send


async def wrapped(send: Send, times: int) -> Send:
    """As an application behind so many of Starlette's own wrappers gets it."""
    got: list[Send] = []

    async def inmost(_: Scope, __: Receive, send: Send) -> None:
        got.append(send)

    async def nothing() -> Message:
        return {}

    app: ASGIApp = inmost
    for _ in range(times):
        app = wrap_app_handling_exceptions(app, Request(SCOPE))
    await app(SCOPE, nothing, send)
    return got[0]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.__module__.split('.')[-1]}")
@pytest.mark.parametrize("wrappers", [0, 1, 3])
async def test_each_of_uvicorns_connections_is_found_bare_and_behind_starlettes_wrappers(
    way: type[Any], wrappers: int
) -> None:
    line = Line()
    assert connection_of(await wrapped(sends(way, line), wrappers)) is line


async def test_what_is_another_servers_or_of_another_shape_is_left_alone() -> None:
    line = Line()

    class Own:
        transport = line

        async def send(self, message: Message) -> None: ...

    async def closing_over_nothing(message: Message) -> None: ...

    async def closing_over_another(message: Message) -> None:
        await closing_over_nothing(message)

    for send in (Own().send, closing_over_nothing, closing_over_another, print, None, sends(OfH11, None)):
        assert connection_of(send) is None
        await cut(send)
        cut_unless_read(send, 0.0)
    assert connection_of(sends(OfH11, object())) is None
    assert connection_of(await wrapped(sends(OfH11, line), DEEPEST + 1)) is None
    assert line.ends == []


async def test_a_connection_that_is_cut_is_so_at_once_and_its_server_knows_before_the_application_goes_on() -> None:
    line = Line(5)
    await cut(sends(WSProtocol, line))
    assert line.ends == ["aborted", "told"]


@pytest.mark.parametrize(("before", "after", "ends"), [(0, 5, []), (5, 0, []), (5, 5, ["aborted"])])
async def test_only_what_has_not_left_in_time_is_cut_later(before: int, after: int, ends: list[str]) -> None:
    line = Line(before)
    cut_unless_read(sends(WSProtocol, line), 0.0)
    assert line.ends == []
    line.unread = after
    await asyncio.sleep(0.01)
    assert line.ends[:1] == ends
