"""One request from Python to its outcome, on the event loop. Owns the order of open, send, wait and close."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, NamedTuple, Self, TypeVar

from offloop import errors
from offloop.ingress.gateway import Gateway
from offloop.ingress.streaming import Stream
from offloop.messages import Chunk, Outcome
from offloop.ports.codec import Codec, Encoded

Reply = TypeVar("Reply")


async def outcome_of(
    gateway: Gateway, endpoint: str, encoded: Encoded, *, timeout: float | None, request_id: str
) -> tuple[Outcome, int | None]:
    """Returns the outcome and, where it has one, its Retry-After in seconds. Raises the error that refuses.

    Cancelling the caller cancels the request.
    """
    promise: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    waiter = gateway.open(endpoint, promise, request_id=request_id, timeout=timeout, declared=len(encoded.payload))
    try:
        gateway.send(
            waiter, encoded.payload, form=encoded.form, media_type=encoded.media_type, filename=encoded.filename
        )
        outcome = await promise
        return outcome, gateway.retry_after(waiter, outcome)
    finally:
        gateway.close(waiter)


class Progress(NamedTuple):
    """How far the work says it has come: `done` of `total`, where it knows that, and a note for people."""

    done: float
    total: float | None
    note: str | None


class Messages(Generic[Reply]):
    """What `off.stream` gives: the stream messages as they come, by `async for`, and then the reply.

    Whoever does not take messages makes the node wait for it, once a mebibyte of them is on its way.

    Attributes:
        progress: what the node said last of how far it is; None before that.
    """

    def __init__(self, stream: Stream, codec: Codec, error: Callable[[Outcome], errors.OffloopError]) -> None:
        self.progress: Progress | None = None
        self._stream = stream
        self._codec = codec
        self._error = error
        self._replied = False
        self._reply: Any = None

    @property
    def reply(self) -> Reply:
        """The reply, once the iteration has come to its end.

        Raises:
            UsageError: it has not.
        """
        if not self._replied:
            raise errors.UsageError("there is no reply before the end: iterate over the messages first (`async for`)")
        reply: Reply = self._reply
        return reply

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Raises the error that names the failure, where the request ends with one."""
        while not isinstance(heard := await self._stream.take(), Outcome | None):
            if isinstance(heard, Chunk):
                return self._codec.decode_chunk(Encoded(heard.payload, "json", heard.media_type, heard.filename))
            self.progress = Progress(heard.done, heard.total, heard.note)
        assert heard is not None  # nobody but a caller over a network goes without a word
        if heard.reason != "ok" or heard.status:
            raise self._error(heard)
        if not self._replied:
            self._replied = True
            self._reply = self._codec.decode_reply(Encoded(heard.payload, "json", heard.media_type, heard.filename))
        raise StopAsyncIteration


@asynccontextmanager
async def stream_of(
    gateway: Gateway,
    endpoint: str,
    encoded: Encoded,
    codec: Codec,
    error: Callable[[Outcome, int | None], errors.OffloopError],
    *,
    timeout: float | None,
    request_id: str,
) -> AsyncIterator[Messages[Any]]:
    """Within it the request is asked; leaving it before its end cancels it. Raises the error that refuses."""
    stream = Stream(gateway)
    waiter = gateway.open(
        endpoint, stream.promise, request_id=request_id, timeout=timeout, declared=len(encoded.payload)
    )
    stream.begin(waiter)
    try:
        gateway.send(
            waiter, encoded.payload, form=encoded.form, media_type=encoded.media_type, filename=encoded.filename,
            stream=True,
        )  # fmt: skip
        yield Messages(stream, codec, lambda outcome: error(outcome, gateway.retry_after(waiter, outcome)))
    finally:
        gateway.close(waiter)
