"""The app of the sockets, with a count of what is sent in one turn of the event loop, while a test asks for it.

In messages and not in seconds: how long one takes, and for how long a machine runs nobody, is no affair of a flood's.
"""

import asyncio

from starlette.types import Message, Receive, Scope, Send

from tests.e2e.programs import sockets_app


class Turns:
    """Every turn, from `begin` on."""

    def __init__(self) -> None:
        self.sent = self.most = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.sent = self.most = 0
        self._task = asyncio.create_task(self._take())

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _take(self) -> None:
        while True:
            before = self.sent
            await asyncio.sleep(0)
            self.most = max(self.most, self.sent - before)


turns = Turns()


@sockets_app.app.post("/turns")
async def begin() -> None:
    turns.begin()


@sockets_app.app.get("/turns")
async def end() -> dict[str, int]:
    turns.end()
    return {"sent": turns.sent, "most": turns.most}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    async def counted(message: Message) -> None:
        if message["type"] == "websocket.send":
            turns.sent += 1
        elif message["type"] == "http.response.body":
            turns.sent += message.get("body", b"").count(b"event: chunk\n")
        await send(message)

    await sockets_app.app(scope, receive, counted)
