"""A listener for probes: a few pages over HTTP/1.1, for what asks whether a process is well.

Owns as much of HTTP as a probe and Prometheus need (RFC 9112): GET and HEAD, one request a connection, everything
bounded. What a page says is for whoever gives it; no request for work ever comes here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import NamedTuple

from offloop.errors import StartError

log = logging.getLogger("offloop")

LARGEST = 2**13
"""Bytes of a request's head."""
PATIENCE = 5.0
"""Seconds for one request, from its connection to the last byte of its answer."""
AT_ONCE = 64
"""Connections; what comes on top of them is closed."""


class Page(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    media_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Page]]
"""By path."""


@asynccontextmanager
async def listening(host: str, port: int, pages: Pages) -> AsyncIterator[int]:
    """Answer there for as long as it is entered; gives the port, which the system chooses where it was 0.

    Raises:
        StartError: nobody can listen there.
    """
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(connections) >= AT_ONCE:
            writer.close()
            return
        answering = asyncio.ensure_future(_answer(reader, writer, pages))
        connections.add(answering)
        answering.add_done_callback(connections.discard)

    try:
        server = await asyncio.start_server(connected, host, port, limit=LARGEST)
    except OSError as fault:
        raise StartError(f"probes cannot be answered on {host}:{port}: {fault.strerror or fault}") from None
    bound: int = server.sockets[0].getsockname()[1]
    log.info("probes are answered on http://%s:%d", host, bound)
    try:
        yield bound
    finally:
        server.close()
        for answering in tuple(connections):
            answering.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Pages) -> None:
    try:
        # Whoever does not ask in time, asks without end, or hangs up has no answer.
        with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE):
                method, page = await _asked(reader, pages)
                writer.write(_written(page, bodiless=method == "HEAD"))
                await writer.drain()
    finally:
        writer.close()


async def _asked(reader: asyncio.StreamReader, pages: Pages) -> tuple[str, Page]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return "", _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", _plain(HTTPStatus.BAD_REQUEST)
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        return method, _plain(HTTPStatus.METHOD_NOT_ALLOWED)
    page = pages.get(target.partition("?")[0])
    return method, _plain(HTTPStatus.NOT_FOUND) if page is None else page()


def _plain(status: HTTPStatus) -> Page:
    return Page(status, f"{status.phrase}\n".encode())


def _written(page: Page, *, bodiless: bool) -> bytes:
    status = HTTPStatus(page.status)
    allow = "allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {page.media_type}\r\n"
        f"content-length: {len(page.body)}\r\ncache-control: no-store\r\n{allow}connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if bodiless else page.body)
