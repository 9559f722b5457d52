"""A connection whose every byte a test decides: for slow uploads, early refusals and connections that idle."""

import json
import socket
from types import TracebackType
from typing import Any, NamedTuple, Self


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One TCP connection."""

    def __init__(self, port: int, timeout: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def head(self, line: str, **headers: str) -> None:
        """Send a request line and headers; underscores stand for hyphens."""
        lines = [f"{line} HTTP/1.1", "host: test", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def post(self, path: str, message: Any) -> None:
        body = json.dumps(message).encode()
        self.head(f"POST {path}", content_type="application/json", content_length=str(len(body)))
        self.send(body)

    def answer(self) -> Answer:
        """Read one whole response."""
        first = self._file.readline()
        if not first:
            raise ConnectionError("closed without an answer")
        status = int(first.split()[1])
        headers: dict[str, str] = {}
        while (line := self._file.readline().rstrip(b"\r\n")) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._file.readline(), 16):
                body += self._file.read(size)
                self._file.readline()
            self._file.readline()
        else:
            body = self._file.read(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    def closed(self) -> bool:
        """Wait until the other side closes; False if it sends something instead."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True
