"""One WebSocket that was accepted: its requests, their answers, and its end.

Owns the life of the connection: one task reads, one for each request takes what its work says, and whoever writes
holds the lock. What waits to be written is at most one message of each request, so a peer that does not read makes its
own generators wait, and nobody else's. Who is admitted is the gateway's affair; what is said, that of `frames`.
"""

import asyncio
import logging
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from offloop import errors
from offloop.core.lifecycle import ADMITS
from offloop.core.waiters import Phase, Waiter
from offloop.fastapi.cutting import cut, cut_unless_read
from offloop.fastapi.patience import Reader, patiently
from offloop.fastapi.sockets import frames
from offloop.ingress.gateway import Gateway
from offloop.ingress.outcomes import error_of
from offloop.ingress.streaming import Stream
from offloop.ingress.turns import Share
from offloop.messages import Chunk, Form, Outcome, Progressed

log = logging.getLogger("offloop")

CLOSE_WITHIN = 5.0
"""Seconds that a close may wait behind what was not read, when patience or the drain's budget has ended."""
CROWDED = "As many requests as one socket may have at once are in flight on this one."
MALFORMED = 3
"""So many malformed frames, one after the other, end the socket."""
ROOM = 1024
"""Characters of a text frame beside its data: the id, the names, and some space."""


class Drains(Protocol):
    """The part of an Offloop that a socket waits for."""

    async def wait_drained(self) -> None: ...


class Asks(NamedTuple):
    """What a socket needs to know of its endpoint, and of its handshake.

    Attributes:
        name: the endpoint's.
        max_body: bytes of one request.
        raw: whether requests are binary frames.
        media_type: of those, where the endpoint leaves no choice.
        timeout: seconds that the handshake leaves to each request.
        fields: (where, name, value) of what each request takes from the path.
        trace: (name, value) of the trace context that the handshake came with.
    """

    name: str
    max_body: int
    raw: bool
    media_type: str | None
    timeout: float = inf
    fields: tuple[tuple[str, str, str], ...] = ()
    trace: tuple[tuple[str, str], ...] = ()


class Close(NamedTuple):
    """How a socket ends, in the words of RFC 6455, section 7.4.1, and of the IANA registry that it made."""

    code: int
    reason: str


UNREAD = Close(1008, "what was sent is not read")
SENSELESS = Close(1008, "malformed frames")
TOO_LARGE = Close(1009, "the request is too large")
RESTART = Close(1012, "draining")


@dataclass(eq=False, slots=True)
class Request:
    """One id, from its admission until its last frame is written.

    `withdrawn`: the peer has cancelled it, and hears only its end.
    """

    id: str
    waiter: Waiter
    stream: Stream
    task: "asyncio.Task[None] | None" = None
    withdrawn: bool = False


class Connection:
    """One accepted WebSocket; `serve` is its whole life.

    Args:
        off: says when a drain has ended.
        gateway: admits each request.
        websocket: accepted, and not read from yet.
        asks: what its requests are.
        limit: requests at once.
        label: its `X-Request-ID`, for all of them.
    """

    def __init__(
        self,
        off: Drains,
        gateway: Gateway,
        websocket: WebSocket,
        asks: Asks,
        *,
        limit: int,
        label: bytes,
    ) -> None:
        self._off = off
        self._gateway = gateway
        self._websocket = websocket
        self._asks = asks
        self._limit = limit
        self._label = label
        self._live: dict[str, Request] = {}  # by id, until the last frame is about to be written
        self._requests: set[Request] = set()  # until it is written: what a peer does not read counts
        self._writing = asyncio.Lock()
        self._reader = Reader()
        self._numbered = 0
        self._malformed = 0
        self._over: asyncio.Future[Close | None] = gateway.promise()

    async def serve(self) -> None:
        """Until the peer has gone, or is told to go. Every request that is left then is cancelled."""
        loop = asyncio.get_running_loop()
        watches = [loop.create_task(self._read()), loop.create_task(self._drained())]
        for watch in watches:
            watch.add_done_callback(self._ended)
        self._rest()
        close = None
        try:
            close = await self._over
        finally:
            tasks = [*watches, *(request.task for request in self._requests if request.task is not None)]
            for request in tuple(self._requests):  # at once: a task that never ran would have no `finally` of its own
                self._gateway.cancel(request.waiter, "disconnect")
                self._gateway.close(request.waiter)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._close(close)

    async def _close(self, close: Close | None) -> None:
        """Say how it ends, and see to it that it does, whether that is read or not."""
        patience = CLOSE_WITHIN if close is UNREAD else self._reader.allowed()
        patience = min(patience, max(CLOSE_WITHIN, self._gateway.budget_left()))  # the server's stop waits for this
        send = self._websocket._send  # noqa: SLF001  (there is no other way to what carries it)
        if close is not None:
            try:
                await patiently(self._websocket.close(*close), patience)
            except TimeoutError:
                await cut(send)
                return
            except (WebSocketDisconnect, RuntimeError):
                pass  # it has ended already
        cut_unless_read(send, patience)

    def _end(self, close: Close | None) -> None:
        """Once; the first cause counts. None: the peer has gone."""
        if not self._over.done():
            self._over.set_result(close)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        # A fault in any of the tasks is the connection's: the server is to hear of it, and the peer is not to wait.
        if not task.cancelled() and (fault := task.exception()) is not None and not self._over.done():
            self._over.set_exception(fault)

    async def _drained(self) -> None:
        await self._off.wait_drained()
        self._end(RESTART)

    def _rest(self) -> None:
        """A socket with nothing left to answer does not wait for the others of a drain."""
        if not self._requests and self._gateway.lifecycle.state not in ADMITS:
            self._end(RESTART)

    # ---- from the peer

    async def _read(self) -> None:
        share = Share(self._gateway.turns)  # what a server has read already it gives without a pause
        while True:
            await share.over()
            message = await self._websocket.receive()
            share.done()
            if message["type"] == "websocket.disconnect":
                self._end(None)
                return
            text = message.get("text")
            if text is not None:
                await self._hear(text)
            else:
                await self._take(message["bytes"])

    async def _hear(self, text: str) -> None:
        if len(text) > self._asks.max_body + ROOM:
            self._end(TOO_LARGE)
            return
        try:
            said = frames.read(text)
        except errors.InvalidPayload as fault:
            await self._misunderstood(fault)
            return
        self._malformed = 0
        if said.event == "cancel":
            self._cancel(said.id)
        elif said.id in self._live:
            # Without the id: with it, this would be taken for the end of the request that has it.
            await self._refuse(None, frames.invalid("This id is that of a request that has not ended", "id"))
        elif self._asks.raw:
            await self._refuse(said.id, frames.invalid("A request is a binary frame here: the bytes, and no text"))
        elif not bytes(said.data):
            await self._refuse(said.id, frames.invalid("Field required", "data"))
        elif said.timeout is not None and said.timeout <= 0:
            await self._refuse(said.id, frames.invalid("Input should be a number of seconds above 0", "timeout"))
        else:
            await self._ask(said.id, bytes(said.data), "json", said.timeout)

    async def _take(self, data: bytes) -> None:
        if not self._asks.raw:
            await self._misunderstood(frames.invalid("A request is a text frame here, with its id and its data"))
            return
        self._malformed = 0
        self._numbered += 1
        await self._ask(str(self._numbered), data, "raw")

    async def _ask(self, id: str, payload: bytes, form: Form, timeout: float | None = None) -> None:  # noqa: A002
        gateway, asks = self._gateway, self._asks
        if len(payload) > asks.max_body:
            self._end(TOO_LARGE)
            return
        label = self._label.decode("ascii")
        stream = Stream(gateway)
        seconds = asks.timeout if timeout is None else min(asks.timeout, timeout)
        crowded = len(self._requests) >= self._limit
        try:
            waiter = gateway.open(
                asks.name, stream.promise, request_id=label, timeout=seconds, declared=len(payload), crowded=crowded
            )
        except errors.OffloopError as refusal:
            if crowded and isinstance(refusal, errors.EndpointBusy):
                refusal.detail = CROWDED
            await self._refuse(id, refusal)
            self._rest()
            return
        request = self._live[id] = Request(id, waiter, stream)
        self._requests.add(request)
        stream.begin(waiter)
        gateway.send(
            waiter, payload, form=form, media_type=asks.media_type if form == "raw" else None, fields=asks.fields,
            trace=asks.trace, stream=True,
        )  # fmt: skip
        request.task = asyncio.get_running_loop().create_task(self._answer(request))
        request.task.add_done_callback(self._ended)

    def _cancel(self, id: str) -> None:  # noqa: A002
        """An id that is unknown has ended meanwhile: its answer is on its way."""
        request = self._live.get(id)
        if request is not None and request.waiter.phase is not Phase.ENDED:
            self._gateway.withdraw(request.waiter)
            # Its end may have been here, unseen: then all that came before it is the peer's, too.
            told = request.stream.promise
            end = told.result() if told.done() else None
            request.withdrawn = end is None or end.reason == errors.Cancelled.reason

    async def _misunderstood(self, fault: errors.InvalidPayload) -> None:
        self._malformed += 1
        await self._refuse(None, fault)
        if self._malformed >= MALFORMED:
            self._end(SENSELESS)

    # ---- to the peer

    async def _answer(self, request: Request) -> None:
        """All that one request's work says, in order; its end last, and once."""
        try:
            while isinstance(heard := await request.stream.take(), Chunk | Progressed):
                if request.withdrawn:
                    continue
                if isinstance(heard, Chunk):
                    await self._write(*frames.message(request.id, "chunk", heard))
                else:
                    await self._write(*frames.progress(request.id, heard))
            assert heard is not None  # who leaves takes this task along
            # Before it is written: whoever has read it may use the id again.
            del self._live[request.id]
            await self._write(*self._last(request, heard))
        finally:
            self._requests.discard(request)
            self._gateway.close(request.waiter)
        self._rest()

    def _last(self, request: Request, outcome: Outcome) -> tuple[frames.Frame, ...]:
        if outcome.reason == "ok" and not outcome.status:
            return frames.message(request.id, "reply", outcome)
        waiter = request.waiter
        retry_after = self._gateway.retry_after(waiter, outcome)
        error = error_of(outcome, waiter.policy, waiter.request_id, retry_after=retry_after)
        return frames.problem(request.id, error, self._label)

    async def _refuse(self, id: str | None, error: errors.OffloopError) -> None:  # noqa: A002
        await self._write(*frames.problem(id, error, self._label))

    async def _write(self, *written: frames.Frame) -> None:
        """One after the other and with nothing between them. Whoever waits here waits for the peer to read."""
        async with self._writing:
            for frame in written:
                if self._over.done():
                    return
                kind = "text" if isinstance(frame, str) else "bytes"
                try:
                    sending = self._websocket.send({"type": "websocket.send", kind: frame})
                    await self._reader.takes(sending, frames.size(frame))
                except TimeoutError:
                    log.info("a WebSocket of %s is closed: its peer does not read", self._asks.name)
                    self._end(UNREAD)
                except (WebSocketDisconnect, RuntimeError):
                    # A server that has closed it by itself, on a ping without an answer, say, calls the next send wrong
                    # use; what it has to say of that comes to the reader.
                    self._end(None)
