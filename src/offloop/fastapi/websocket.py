"""The handshake of a WebSocket: who may open one, and what is said to who may not.

Owns what happens between a matched route and an accepted connection. Dependencies have run before that: the route is
FastAPI's own. What is said on the connection is the affair of `sockets`.
"""

import re
from typing import TYPE_CHECKING, Any

from starlette.types import Scope
from starlette.websockets import WebSocket

from offloop import errors
from offloop.fastapi import problems
from offloop.fastapi.headers import request_label
from offloop.fastapi.http import TRACE
from offloop.fastapi.sockets.connection import Asks, Connection
from offloop.graph.kinds import stripped
from offloop.ingress.gateway import Gateway
from offloop.messages import Blob

if TYPE_CHECKING:
    from offloop.app import Offloop
    from offloop.graph.endpoint import Endpoint

DENIAL = "websocket.http.response"
PORTS = {"http": "80", "https": "443"}


class SocketEndpoint:
    """Serves the sockets of one endpoint; `serve` is the function of a WebSocket route."""

    def __init__(self, off: "Offloop", endpoint: "Endpoint[Any, Any]") -> None:
        accepted = endpoint.media_types or ()
        only = accepted[0] if len(accepted) == 1 and "*" not in accepted[0] else None
        self._off = off
        self._asks = Asks(endpoint.name, endpoint.max_body, stripped(endpoint.request) is Blob, only)

    async def serve(self, websocket: WebSocket) -> None:
        """From the handshake to the close."""
        scope = websocket.scope
        label = request_label(dict(scope["headers"]).get(b"x-request-id"))
        await websocket.receive()  # that it connects
        if not origin_allowed(scope, self._off.settings.ws_origins):
            await websocket.close(1008)  # before it is accepted, this is a 403
            return
        gateway = self._off.gateway
        refusal = self._refusal(gateway, label)
        if refusal is not None:
            await _refuse(websocket, refusal, label)
            return
        assert gateway is not None
        await websocket.accept(headers=[(b"x-request-id", label)])
        trace = tuple((name.decode(), value.decode("latin-1")) for name, value in scope["headers"] if name in TRACE)
        limit = self._off.settings.ws_in_flight
        await Connection(self._off, gateway, websocket, self._asks, limit=limit, label=label, trace=trace).serve()

    def _refusal(self, gateway: Gateway | None, label: bytes) -> errors.OffloopError | None:
        """What would refuse every request that could come. A full house refuses each by itself: it may soon be over."""
        kind = errors.BackendUnavailable if gateway is None else gateway.closed()
        if kind is None:
            return None
        return kind(endpoint=self._asks.name, request_id=label.decode("ascii"), retry_safe=True)


async def _refuse(websocket: WebSocket, error: errors.OffloopError, label: bytes) -> None:
    if DENIAL not in (websocket.scope.get("extensions") or {}):  # then a server could only say 403
        await websocket.accept(headers=[(b"x-request-id", label)])
        await websocket.close(1013, error.reason)
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
