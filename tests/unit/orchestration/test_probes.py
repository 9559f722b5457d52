import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from offloop.errors import StartError
from offloop.orchestration import probes
from offloop.orchestration.probes import AT_ONCE, LARGEST, Page, listening

DEADLINE = 10.0
PAGES = {"/livez": lambda: Page(200, b"alive\n"), "/readyz": lambda: Page(503, b"no\n", "text/odd")}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with listening("127.0.0.1", 0, PAGES) as port:
        yield port


async def answer(port: int, request: bytes) -> bytes:
    """All that comes until the connection is closed."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode()


async def test_a_page_is_answered_whole_and_the_connection_closed(port: int) -> None:
    head, _, body = (await answer(port, get("/livez?verbose"))).partition(b"\r\n\r\n")
    assert body == b"alive\n"
    status, *headers = head.decode().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert set(headers) == {
        "content-type: text/plain; charset=utf-8", "content-length: 6", "cache-control: no-store", "connection: close",
    }  # fmt: skip


async def test_a_page_says_its_status_and_type(port: int) -> None:
    said = await answer(port, get("/readyz"))
    assert said.startswith(b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/odd\r\n")


async def test_head_is_answered_without_a_body(port: int) -> None:
    said = await answer(port, get("/livez", "HEAD"))
    assert b"content-length: 6\r\n" in said
    assert said.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/other"), b"404 Not Found"),
        (get("/livez", "POST"), b"405 Method Not Allowed"),
        (b"noise\r\n\r\n", b"400 Bad Request"),
        (b"GET /livez SMTP\r\n\r\n", b"400 Bad Request"),
        (b"GET /\xff\x00 HTTP/1.1\r\n\r\n", b"404 Not Found"),
    ],
)
async def test_what_is_no_probe_is_told_so(port: int, request_: bytes, status: bytes) -> None:
    said = await answer(port, request_)
    assert said.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert (b"allow: GET, HEAD" in said) == (b"405" in status)


async def test_a_head_without_end_is_refused_and_harms_nobody(port: int) -> None:
    said = await answer(port, b"GET /livez HTTP/1.1\r\nx: " + b"y" * (3 * LARGEST))
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")  # what is unread makes a close a reset
    assert b"alive" in await answer(port, get("/livez"))


async def test_whoever_does_not_ask_in_time_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PATIENCE", 0.05)
    assert await answer(port, b"GET /livez HTTP/1.1\r\n") == b""


async def test_connections_have_a_bound_and_those_that_idle_end_with_it() -> None:
    async with listening("127.0.0.1", 0, PAGES) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(AT_ONCE)]
        assert await answer(port, get("/livez")) == b""
        idle[0][1].write(get("/livez"))
        assert b"alive" in await asyncio.wait_for(idle[0][0].read(), DEADLINE)
        assert b"alive" in await answer(port, get("/livez"))
    assert await asyncio.wait_for(idle[1][0].read(), DEADLINE) == b""
    for _, writer in idle:
        writer.close()


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"^probes cannot be answered on 127\.0\.0\.1:{port}: "):
            async with listening("127.0.0.1", port, PAGES):
                pass
