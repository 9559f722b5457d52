"""Routes for whoever runs the service: alive, ready, metrics, status.

Owns what they answer; what is so is known to the Offloop. They must answer while every loop is busy, so nothing here
may need a thread, a body or a place in the queue.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from offloop import errors
from offloop.app import Offloop
from offloop.core.lifecycle import ENDING
from offloop.fastapi import problems
from offloop.fastapi.headers import request_label
from offloop.fastapi.responses import PROBLEM_JSON
from offloop.fastapi.schemas import schema_of

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
NO_STORE = {"Cache-Control": "no-store"}


class OperatorRouter(APIRouter):
    """`/livez`, `/readyz`, `/metrics` and `/status`.

    Args:
        off: whose health, metrics and status.
        options: as for `fastapi.APIRouter`; give it `dependencies` where metrics and status must not be open.
    """

    def __init__(self, off: Offloop, **options: Any) -> None:
        super().__init__(**options)
        self._off = off
        for path, answer, media_type, text in (
            ("/livez", self._livez, "application/json", "Whether this process can serve"),
            ("/readyz", self._readyz, "application/json", "Whether this process should be sent requests"),
            ("/metrics", self._metrics, PROMETHEUS, "The metrics of this process, for Prometheus"),
            ("/status", self._status, "application/json", "What this process is doing"),
        ):
            self.add_api_route(
                path,
                answer,
                name=path.removeprefix("/"),
                summary=text,
                response_class=Response,
                responses=_described(path, media_type),
            )

    async def _livez(self) -> Response:
        return _json({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        if self._off.ready:
            return _json({"status": "ready"})
        gateway = self._off.gateway
        leaving = gateway is not None and gateway.lifecycle.state in ENDING
        error = errors.Draining() if leaving else errors.BackendUnavailable()
        label = request.headers.get("x-request-id")
        status, headers, body = problems.answer(error, request_label(label.encode("utf-8") if label else None))
        response = Response(body, status)
        response.raw_headers = headers
        return response

    async def _metrics(self) -> Response:
        return Response(self._off.metrics(), headers={"Content-Type": PROMETHEUS} | NO_STORE)

    async def _status(self) -> Response:
        return _json(self._off.status())


def _json(said: dict[str, Any]) -> Response:
    return Response(to_json(said), media_type="application/json", headers=NO_STORE)


def _described(path: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string"} if media_type == PROMETHEUS else {"type": "object"}
    found: dict[int | str, dict[str, Any]] = {200: {"content": {media_type: {"schema": schema}}}}
    if path == "/readyz":
        from offloop.fastapi.responses import OffloopProblem

        content = {PROBLEM_JSON: {"schema": schema_of(OffloopProblem)}}
        found[503] = {"description": "Draining, not started, or no loop can take work", "content": content}
    return found
