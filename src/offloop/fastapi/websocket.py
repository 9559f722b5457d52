"""The handshake of a WebSocket: who may open one, and what is said to who may not.

Owns what happens between a matched route and an accepted connection. Dependencies have run before that: the route is
FastAPI's own, and what they may ask for is looked at when the app starts. What is said on the connection is the affair
of `sockets`.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from fastapi.dependencies.models import Dependant
from starlette.types import Scope
from starlette.websockets import WebSocket

from offloop import errors
from offloop.fastapi import problems
from offloop.fastapi.headers import request_label, request_timeout
from offloop.fastapi.http import TRACE
from offloop.fastapi.sockets.connection import Asks, Connection
from offloop.graph.socket_spec import SocketSpec
from offloop.ingress.gateway import Gateway

if TYPE_CHECKING:
    from offloop.app import Offloop
    from offloop.graph.endpoint import Endpoint

DENIAL = "websocket.http.response"
PORTS = {"http": "80", "https": "443"}


class SocketEndpoint:
    """Serves the sockets of one endpoint; `serve` is the function of a WebSocket route."""

    def __init__(self, off: "Offloop", endpoint: "Endpoint[Any, Any]") -> None:
        self._off = off
        self._name = endpoint.name
        self._max_body = endpoint.max_body
        self._spec = SocketSpec.of(endpoint)

    async def serve(self, websocket: WebSocket) -> None:
        """From the handshake to the close."""
        scope = websocket.scope
        headers: dict[bytes, bytes] = dict(scope["headers"])
        label = request_label(headers.get(b"x-request-id"))
        await websocket.receive()  # that it connects
        if not origin_allowed(scope, self._off.settings.ws_origins):
            await websocket.close(1008)  # before it is accepted, this is a 403
            return
        try:
            seconds = headers.get(b"x-request-timeout")
            timeout = request_timeout(seconds) if seconds is not None else inf
            gateway = self._door(label)
        except errors.OffloopError as refusal:
            await _refuse(websocket, refusal, label)
            return
        await websocket.accept(headers=[(b"x-request-id", label)])
        asks = Asks(
            name=self._name,
            max_body=self._max_body,
            raw=self._spec.raw,
            media_type=self._spec.media_type,
            timeout=timeout,
            fields=self._spec.fields(scope.get("path_params", {})),
            trace=tuple((name.decode(), value.decode("latin-1")) for name, value in scope["headers"] if name in TRACE),
        )
        limit = self._off.settings.ws_in_flight
        await Connection(self._off, gateway, websocket, asks, limit=limit, label=label).serve()

    def _door(self, label: bytes) -> Gateway:
        """Raises what would refuse every request that could come. A full house refuses each: it may soon be over."""
        gateway = self._off.gateway
        kind = errors.BackendUnavailable if gateway is None else gateway.closed(self._name)
        if kind is not None:
            raise kind(endpoint=self._name, request_id=label.decode("ascii"), retry_safe=True)
        assert gateway is not None
        return gateway


async def _refuse(websocket: WebSocket, error: errors.OffloopError, label: bytes) -> None:
    if DENIAL not in (websocket.scope.get("extensions") or {}):  # then a server could only say 403
        await websocket.accept(headers=[(b"x-request-id", label)])
        await websocket.close(1013 if error.status == 503 else 1008, error.reason)
        return
    status, headers, body = problems.answer(error, label)
    await websocket.send({"type": f"{DENIAL}.start", "status": status, "headers": headers})
    await websocket.send({"type": f"{DENIAL}.body", "body": body})


def origin_allowed(scope: Scope, allowed: tuple[str, ...]) -> bool:
    """Whether a page of that origin may open a socket here; who sends no `Origin` is no browser, and may.

    Browsers open WebSockets across origins without asking, cookies and all (RFC 6455, section 10.2). The same origin is
    the host that was asked for, and a scheme no weaker: `https` also where what ended TLS spoke plain HTTP to here.
    """
    given = [value for name, value in scope["headers"] if name == b"origin"]
    if not given or "*" in allowed:
        return True
    if len(given) > 1:
        return False
    origin = given[0].decode("latin-1").lower()
    if allowed:
        return origin in {one.lower() for one in allowed}
    scheme, _, host = origin.partition("://")
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    secure = scope.get("scheme") in ("wss", "https")
    if scheme not in PORTS or len(hosts) != 1 or (secure and scheme != "https"):
        return False
    return _place(host, scheme) == _place(hosts[0], scheme)


def _place(host: str, scheme: str) -> str:
    """Host and port: a port that goes without saying is said by some and not by others."""
    return host if re.search(r":[0-9]+$", host) else f"{host}:{PORTS[scheme]}"


def check_dependencies(path: str, dependencies: Sequence[Dependant]) -> None:
    """See at the start what every handshake would meet.

    Raises:
        UsageError: a dependency asks for what a socket does not have.
    """
    if faults := sorted(set(_unfit(dependencies))):
        raise errors.UsageError(f"websocket {path}: {'; '.join(faults)}")


def _unfit(dependencies: Sequence[Dependant]) -> Iterator[str]:
    for dependency in dependencies:
        call = dependency.call
        name = f"{getattr(call, '__module__', '?')}.{getattr(call, '__qualname__', type(call).__qualname__)}"
        asked = dependency.request_param_name
        if asked is not None and _required(call, asked):
            yield (
                f"the dependency {name} asks for a Request (`{asked}`), and FastAPI gives a socket none. Let it ask "
                f"for an HTTPConnection, which both have, or give that parameter a default"
            )
        for parameter in dependency.body_params:
            yield (
                f"the dependency {name} reads `{parameter.name}` from the body, and a handshake has none. Let it "
                f"declare headers, cookies, query and path parameters"
            )
        yield from _unfit(dependency.dependencies)


def _required(call: Any, name: str) -> bool:
    """Whether a dependency cannot be called without this parameter; yes, where that cannot be told."""
    try:
        return inspect.signature(call).parameters[name].default is inspect.Parameter.empty
    except (TypeError, ValueError, KeyError):
        return True
