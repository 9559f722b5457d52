"""One request from Python to its outcome, on the event loop. Owns the order of open, send, wait and close."""

import asyncio

from offloop.ingress.gateway import Gateway
from offloop.messages import Outcome
from offloop.ports.codec import Encoded


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
