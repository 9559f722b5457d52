"""Failures as HTTP answers: problem documents (RFC 9457), and the one exception to them.

Owns the members of a document, the headers beside it, and `exception_handlers`. Status, reason and texts come from the
errors themselves; nothing is judged here, and nothing of an exception but what its class allows may leave the process.
"""

from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

from fastapi import Request, Response
from pydantic_core import to_json

from offloop import errors
from offloop.fastapi.headers import request_label

TYPE = "urn:offloop:problem:"
PROBLEM_JSON = (b"content-type", b"application/problem+json")
JSON = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")
CLOSE = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]


def document(error: errors.OffloopError, request_id: str, instance: str | None = None) -> dict[str, Any]:
    """The members of the problem document.

    `instance` names this one occurrence (`urn:uuid:…`). It is made for the answer: neither the path, which may hold
    what belongs to the caller, nor the correlation id, which nobody outside is to know.
    """
    known = isinstance(error, errors.Problem)
    members: dict[str, Any] = {
        "type": TYPE + error.reason,
        "title": error.title,
        "status": error.status,
        # What a UsageError says is for the app's developer, not for its callers.
        "detail": error.explanation if isinstance(error, errors.UsageError) else error.detail,
        "instance": instance or f"urn:uuid:{uuid4()}",
        "reason": error.reason,
        "request_id": request_id,
        "endpoint": error.endpoint,
        "started": error.started,
        "retry_safe": error.retry_safe and not known,
    }
    if isinstance(error, errors.Problem):
        members |= {name: value for name, value in error.members.items() if name not in members}
    if error.debug is not None:
        members["debug"] = error.debug
    return members


def answer(error: errors.OffloopError, label: bytes) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the answer that a failure stands for.

    Args:
        error: a row of the contract's table, or a Problem.
        label: the request's `X-Request-ID`.
    """
    if isinstance(error, errors.InvalidPayload):
        kind, said = JSON, {"detail": error.errors}
    else:
        kind, said = PROBLEM_JSON, document(error, label.decode("ascii"))
    body = to_json(said, inf_nan_mode="null")
    headers = [kind, (b"content-length", b"%d" % len(body)), NO_STORE, (b"x-request-id", label)]
    if error.status in (429, 503):
        headers.append((b"retry-after", b"%d" % (error.retry_after or 1)))
    if isinstance(error, errors.Draining):
        headers.append(CLOSE)
    return error.status, headers, body


async def _handle(request: Request, error: Exception) -> Response:
    """For own routes that call `off.ask`. Wrong use of the library is no answer: it is raised on, as any mistake is."""
    assert isinstance(error, errors.OffloopError)
    if not isinstance(error, errors.Problem) and error.reason not in errors.BY_REASON:
        raise error
    said = error.request_id or request.headers.get("x-request-id")
    status, headers, body = answer(error, request_label(said.encode("utf-8") if said else None))
    response = Response(body, status)
    response.raw_headers = headers
    return response


exception_handlers: dict[Any, Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {errors.OffloopError: _handle}
"""For `FastAPI(exception_handlers=…)`: own routes that call `off.ask` answer as offloop's do. An app's own handler for
`OffloopError` wins: `{**exception_handlers, OffloopError: mine}`, or `app.add_exception_handler`."""
