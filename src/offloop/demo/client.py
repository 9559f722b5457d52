"""A small HTTP/1.1 client on asyncio, as far as the demo needs one.

Owns sending a request and reading its answer over kept connections. Nothing of the demo's own paths or messages may
enter. It sends to a server it knows, and understands what uvicorn answers; elsewhere use a real client.
"""

import asyncio
import json
from dataclasses import dataclass
from time import perf_counter
from typing import Any

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Answer:
    """What came back. `headers` have lower-case names; `seconds` is from the first byte out to the last byte in."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class Client:
    """Sends requests to one server, each on a connection of its own; connections are kept for the next."""

    def __init__(self, host: str, port: int, *, timeout: float = 60.0) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout
        self._idle: list[Connection] = []

    async def send(self, method: str, path: str, body: bytes = b"", media_type: str | None = None) -> Answer:
        """One request.

        Raises:
            OSError: the server cannot be reached, or went away; TimeoutError is one.
        """
        began = perf_counter()
        async with asyncio.timeout(self._timeout):
            connection = await self._connect()
            try:
                head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Length: {len(body)}\r\n"
                head += f"Content-Type: {media_type}\r\n" if media_type else ""
                await _write(connection[1], f"{head}\r\n".encode() + body)
                status, headers, content = await _read(connection[0])
            except asyncio.IncompleteReadError as error:
                connection[1].close()
                raise ConnectionError("the server closed the connection before it had answered") from error
            except BaseException:
                connection[1].close()
                raise
        if headers.get("connection", "").lower() == "close":
            connection[1].close()
        else:
            self._idle.append(connection)
        return Answer(status, headers, content, perf_counter() - began)

    async def close(self) -> None:
        """Close the connections that are kept."""
        closing = [writer for _, writer in self._idle]
        self._idle.clear()
        for writer in closing:
            writer.close()
        # How a connection ends that nobody uses any more is nobody's concern.
        await asyncio.gather(*(writer.wait_closed() for writer in closing), return_exceptions=True)

    async def _connect(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    try:
        await writer.drain()
    except ConnectionError:
        # Refused before the whole body was sent: the answer is there to be read, and if not, reading says so.
        return


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body (RFC 9112)."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _chunked(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(first.split()[1]), headers, body


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while (await reader.readline()).strip():
        pass  # trailers
    return bytes(body)
