"""A server's side of one request, in the test's hands."""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message

JSON = [(b"content-type", b"application/json")]
DEADLINE = 10.0


class Caller:
    """One request to an ASGI application: what it receives is said, what it sends is seen, as it happens."""

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        *,
        method: str = "POST",
        headers: Iterable[tuple[bytes, bytes]] = (),
        query: bytes = b"",
        version: str = "1.1",
    ) -> None:
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": version, "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "root_path": "",
            "headers": list(headers), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        self.sent: list[Message] = []
        self.received = 0
        self._said: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._heard = asyncio.Condition()
        self.task = asyncio.create_task(app(scope, self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> Message:
        message = await self._said.get()
        if isinstance(message, Exception):
            raise message
        self.received += 1
        return message

    async def _send(self, message: Message) -> None:
        async with self._heard:
            self.sent.append(message)
            self._heard.notify_all()

    def say(self, body: bytes, *, more: bool = False) -> "Caller":
        self._said.put_nowait({"type": "http.request", "body": body, "more_body": more})
        return self

    def leave(self) -> None:
        self._said.put_nowait({"type": "http.disconnect"})

    def breaks(self, fault: Exception) -> None:
        """The connection fails where it is listened to."""
        self._said.put_nowait(fault)

    async def hears(self, count: int) -> None:
        """Until so many messages were sent."""
        async with asyncio.timeout(DEADLINE), self._heard:
            await self._heard.wait_for(lambda: len(self.sent) >= count)

    async def answered(self) -> "Caller":
        async with asyncio.timeout(DEADLINE):
            await self.task
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def complete(self) -> bool:
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)
