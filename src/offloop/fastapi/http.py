"""One endpoint as an ASGI application: bytes in, bytes out.

Owns the way of one HTTP request from its headers to the last byte of its answer. Admission, outcomes and their order
are the gateway's; what the program says of HTTP is in its `HttpSpec`. No framework's request or response object, and
nothing that looks into a payload, may enter: this is the hot path.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import Receive, Scope, Send

from offloop import errors
from offloop.core.waiters import Waiter
from offloop.fastapi import events, problems
from offloop.fastapi.answers import answer
from offloop.fastapi.departures import Call, Departures
from offloop.fastapi.headers import (
    disposition_header,
    filename_of,
    media_type_header,
    request_label,
    request_timeout,
)
from offloop.fastapi.upload import discard_body, read_body
from offloop.ingress.gateway import Gateway
from offloop.ingress.outcomes import error_of
from offloop.ingress.streaming import Stream
from offloop.messages import Form, Outcome

if TYPE_CHECKING:
    from offloop.graph.endpoint import Endpoint
    from offloop.graph.http_spec import HttpSpec

SMALL = 65536
"""An unread body of so many bytes is left to the server, which reads it to go on with the connection."""
TRACE = (b"traceparent", b"tracestate", b"baggage")
JSON_TYPE = b"application/json"


class Door(Protocol):
    """The part of an Offloop that a request needs."""

    @property
    def gateway(self) -> Gateway | None: ...


class HttpEndpoint:
    """Serves one endpoint. An ASGI application for requests that a router has matched.

    Args:
        off: where the gateway is, while it runs.
        endpoint: what is asked.
        spec: how the program wants it to meet HTTP.
        departures: where callers are looked after while they wait; shared by many endpoints.
    """

    def __init__(self, off: Door, endpoint: "Endpoint[Any, Any]", spec: "HttpSpec", departures: Departures) -> None:
        self._off = off
        self._name = endpoint.name
        self._status = endpoint.status
        self._fields_of = spec.fields if spec.parameters else None
        self._takes_body = spec.body != "none"
        self._form_of = spec.form_of
        # Most bodies are of one of few types: those are looked up, the rest are parsed.
        usual = (None, "application/json", *(spec.media_types or ()))
        self._forms: dict[bytes | None, Form | None] = {
            kind.encode("latin-1") if kind is not None else None: spec.form_of(kind) for kind in usual
        }
        self._departures = departures
        self._streams = endpoint.stream is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, read, enqueue, wait, answer; and whatever happens, close."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._streams and events.wanted(headers):
            await self._stream(scope, receive, send, headers)
            return
        label = request_label(headers.get(b"x-request-id"))
        form: Form | None = self._form(headers) if self._takes_body else "none"
        try:
            gateway = self._door()
            promise: asyncio.Future[Outcome | None] = gateway.promise()
            waiter = self._open(gateway, promise, headers, label, form)
        except errors.OffloopError as error:
            if await _fail(error, label, scope, send, unread=_unread(headers)):
                await _let_go(receive, send)
            return
        assert form is not None
        call = Call(gateway, waiter, promise, receive)
        departures = self._departures
        departures.add(call)
        body: bytes | None = b""
        lingers = False
        try:
            try:
                if self._takes_body:
                    body = await read_body(call, gateway, waiter.size)
                if body is not None:
                    self._enqueue(gateway, call, scope, headers, form, body)
                outcome = await promise
            finally:
                departures.discard(call)  # before an answer is written, which a server reports as a departure
            if outcome is not None and outcome.reason == "ok" and not outcome.status:
                await answer(send, self._status, self._head(outcome, label), outcome.payload)
            else:
                unread = _unread(headers) if body is None else 0
                lingers = await _failed(gateway, waiter, outcome, label, scope, send, unread=unread)
        except errors.OffloopError as error:  # the body grew beyond a bound
            lingers = await _fail(error, label, scope, send, unread=_unread(headers))
        finally:
            gateway.close(waiter)
        if lingers:  # after the close: the request is over, only the connection is not
            await _let_go(receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> None:
        """As above, for a caller who takes events: once the body is there, what comes is a stream."""
        label = request_label(headers.get(b"x-request-id"))
        form: Form | None = self._form(headers) if self._takes_body else "none"
        try:
            gateway = self._door()
            stream = Stream(gateway)
            waiter = self._open(gateway, stream.promise, headers, label, form)
        except errors.OffloopError as error:
            if await _fail(error, label, scope, send, unread=_unread(headers)):
                await _let_go(receive, send)
            return
        assert form is not None
        stream.begin(waiter)
        call = Call(gateway, waiter, stream.promise, receive)
        self._departures.add(call)
        said = events.Answer(send, label)
        body: bytes | None = b""
        lingers = False
        try:
            try:
                if self._takes_body:
                    body = await read_body(call, gateway, waiter.size)
                if body is not None:
                    self._enqueue(gateway, call, scope, headers, form, body, stream=True)
                    outcome = await said.serve(stream)
                else:
                    outcome = await stream.promise
            finally:
                self._departures.discard(call)
            if body is None:
                lingers = await _failed(gateway, waiter, outcome, label, scope, send, unread=_unread(headers))
            elif outcome is not None:
                await said.end(gateway, waiter, outcome)
            else:  # whoever does not read has left, as far as its request goes
                gateway.cancel(waiter, "disconnect")
        except errors.OffloopError as error:  # the body grew beyond a bound
            lingers = await _fail(error, label, scope, send, unread=_unread(headers))
        finally:
            gateway.close(waiter)
        if lingers:
            await _let_go(receive, send)

    def _door(self) -> Gateway:
        gateway = self._off.gateway
        if gateway is None:
            raise errors.BackendUnavailable(endpoint=self._name, retry_safe=True)
        return gateway

    def _open(
        self, gateway: Gateway, promise: Any, headers: dict[bytes, bytes], label: bytes, form: Form | None
    ) -> Waiter:
        """Admit, by what the headers say; raises what refuses."""
        length = headers.get(b"content-length", b"0")
        seconds = headers.get(b"x-request-timeout")
        return gateway.open(
            self._name,
            promise,
            request_id=label.decode("ascii"),
            timeout=request_timeout(seconds) if seconds is not None else None,
            declared=int(length) if self._takes_body and length.isdigit() else 0,
            acceptable=form is not None,
        )

    def _enqueue(
        self,
        gateway: Gateway,
        call: Call,
        scope: Scope,
        headers: dict[bytes, bytes],
        form: Form,
        body: bytes,
        *,
        stream: bool = False,
    ) -> None:
        traced = b"traceparent" in headers or b"baggage" in headers
        if form == "json" and self._fields_of is None and not traced:
            gateway.send(call.waiter, body, stream=stream)  # the usual case: nothing travels beside the bytes
            return
        fields: tuple[tuple[str, str, str], ...] = ()
        if self._fields_of is not None:
            fields = self._fields_of(scope.get("path_params", {}), scope["query_string"])  # a shortcut has none
        trace = _trace(scope) if traced else ()
        if form in {"json", "none"}:
            gateway.send(call.waiter, body, form=form, fields=fields, trace=trace, stream=stream)
            return
        kind = headers.get(b"content-type")
        named = headers.get(b"content-disposition")
        gateway.send(
            call.waiter,
            body,
            form=form,
            media_type=kind.decode("latin-1") if kind is not None else None,
            filename=filename_of(named) if named is not None else None,
            fields=fields,
            trace=trace,
            stream=stream,
        )

    def _form(self, headers: dict[bytes, bytes]) -> Form | None:
        """How the body is to be read; None where the endpoint does not take such a body."""
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            return None
        kind = headers.get(b"content-type")
        if kind in self._forms:
            return self._forms[kind]
        return self._form_of(kind.decode("latin-1") if kind is not None else None)

    def _head(self, outcome: Outcome, label: bytes) -> list[tuple[bytes, bytes]]:
        """The headers of a reply."""
        if self._status == 204:
            return [(b"x-request-id", label)]
        kind = JSON_TYPE if outcome.media_type is None else media_type_header(outcome.media_type)
        headers = [
            (b"content-type", kind), (b"content-length", b"%d" % len(outcome.payload)), (b"x-request-id", label),
        ]  # fmt: skip
        if outcome.filename is not None:
            headers.append((b"content-disposition", disposition_header(outcome.filename)))
        return headers


def _trace(scope: Scope) -> tuple[tuple[str, str], ...]:
    """As they came, several of a name included."""
    return tuple((name.decode(), value.decode("latin-1")) for name, value in scope["headers"] if name in TRACE)


def _unread(headers: dict[bytes, bytes]) -> int:
    """How many bytes of a body may still be on their way; beyond `SMALL` where that cannot be said.

    A caller who asked for `100 Continue` has sent nothing, and will not once it is refused: the connection has to end.
    """
    if b"transfer-encoding" in headers or b"expect" in headers:
        return SMALL + 1
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _failed(
    gateway: Gateway, waiter: Waiter, outcome: Outcome | None, label: bytes, scope: Scope, send: Send, *, unread: int
) -> bool:
    """Answer an outcome that is no reply; as `_fail`."""
    if outcome is None:
        await _unheard(send)
        return False
    retry_after = gateway.retry_after(waiter, outcome)
    error = error_of(outcome, waiter.policy, waiter.request_id, retry_after=retry_after)
    return await _fail(error, label, scope, send, unread=unread)


async def _fail(error: errors.OffloopError, label: bytes, scope: Scope, send: Send, *, unread: int) -> bool:
    """Answer a failure whole, also to a caller who is still sending; True: the answer is still to be completed.

    A server closes a connection as soon as an answer with `Connection: close` is complete; what the caller sends after
    that resets it, and may take the answer away from under its eyes. So the answer is sent but not completed until a
    bounded rest of the body has been let go. HTTP/2 and later end a single stream instead.
    """
    status, headers, body = problems.answer(error, label)
    closing = problems.CLOSE in headers
    if scope.get("http_version", "1.1") >= "2":
        headers = [header for header in headers if header != problems.CLOSE]
        unread = 0
    elif unread > SMALL and not closing:
        headers.append(problems.CLOSE)
        closing = True
    lingers = closing and unread > 0
    if not lingers:
        await answer(send, status, headers, body)
        return False
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    return True


async def _let_go(receive: Receive, send: Send) -> None:
    await discard_body(receive)
    await send({"type": "http.response.body", "body": b""})


async def _unheard(send: Send) -> None:
    """Nobody hears this: the server drops it, since it knows that the caller has gone.

    It is for whatever stands between: a middleware that waits for an answer gets one, and its log says 499.
    """
    await send({"type": "http.response.start", "status": 499, "headers": []})
    await send({"type": "http.response.body", "body": b""})
