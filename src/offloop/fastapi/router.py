"""The router: every endpoint with `http=` or `websocket=` as a route of FastAPI's, and the lifespan of the loops.

Owns which endpoints get a route, and what happens around the time in which they are served. How a request goes through
a route is the affair of `route` and `http`, and of `websocket`.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi.routing import APIRouter, iter_route_contexts
from starlette.routing import BaseRoute

from offloop import errors
from offloop.app import Offloop
from offloop.fastapi import signals
from offloop.fastapi.departures import Departures
from offloop.fastapi.entrance import guarded
from offloop.fastapi.http import HttpEndpoint
from offloop.fastapi.openapi import documented
from offloop.fastapi.responses import COMPONENTS
from offloop.fastapi.route import Components, OffloopRoute, prove
from offloop.fastapi.shortcuts import Shortcuts, shortcuts_in
from offloop.fastapi.websocket import SocketEndpoint, check_dependencies
from offloop.graph.endpoint import Endpoint


class OffloopRouter(APIRouter):
    """Routes for endpoints, and the life of the loops behind them.

    Args:
        off: the program and its loops. The router's lifespan enters it; entered twice it still counts once.
        endpoints: which ones, as `Endpoint` or decorated function; without any, all that have `http=` or
            `websocket=`.
        options: as for `fastapi.APIRouter`. Its `dependencies` hold for every route and run before admission; its
            `lifespan` is entered when the loops are up and left before they drain.

    Raises:
        UsageError: an endpoint is not of this program, or has neither `http=` nor `websocket=`.
    """

    def __init__(self, off: Offloop, *endpoints: Endpoint[Any, Any] | Callable[..., Any], **options: Any) -> None:
        super().__init__(**options)
        self._off = off
        self._departures = Departures()
        self._shortcuts: list[Shortcuts] = []
        self._sockets: list[BaseRoute] = []
        named = [off.program.find(endpoint) for endpoint in endpoints]
        for endpoint in named or off.program.endpoints.values():
            if endpoint.websocket is not None:
                # FastAPI's own route: what it costs is paid once for a connection that stays.
                served = SocketEndpoint(off, endpoint).serve
                self.add_api_websocket_route(endpoint.websocket, served, name=f"{endpoint.name}_websocket")
                self._sockets.append(self.routes[-1])
            if off.program.http(endpoint.name) is not None:
                self._expose(endpoint)
            elif named and endpoint.websocket is None:
                raise errors.UsageError(f"{endpoint!r} has neither http= nor websocket=, and so no route")
        if self._ours():
            self._add_components()
        self.lifespan_context = self._living(self.lifespan_context)

    def _expose(self, endpoint: Endpoint[Any, Any]) -> None:
        spec = self._off.program.http(endpoint.name)
        assert spec is not None
        described = documented(endpoint, spec)
        self.add_api_route(
            spec.path,
            described.function,
            methods=[spec.method],
            name=endpoint.name,
            summary=endpoint.summary or None,
            description=endpoint.description or None,
            status_code=endpoint.status,
            responses=described.responses,
            response_model=described.response_model,
            response_class=described.response_class,
            openapi_extra=described.openapi_extra or None,
            route_class_override=OffloopRoute,
        )
        route = self.routes[-1]
        assert isinstance(route, OffloopRoute)
        route.bare = HttpEndpoint(self._off, endpoint, spec, self._departures)
        route.shortcuts = self._shortcuts

    def _add_components(self) -> None:
        async def nothing() -> None: ...

        first, *others = COMPONENTS
        self.routes.append(
            Components(
                f"{self.prefix}/",
                nothing,
                methods=[],
                operation_id="offloop_components",
                response_model=first,
                responses={500 + number: {"model": model} for number, model in enumerate(others)},
                include_in_schema=self.include_in_schema,
            )
        )

    def _ours(self) -> list[OffloopRoute]:
        return [route for route in self.routes if isinstance(route, OffloopRoute)]

    def _living(self, theirs: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The loops' life around the lifespan that the user gave."""

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Mapping[str, Any] | None]:
            await prove()
            self._check(app)
            with ExitStack() as afterwards, shortcuts_in(app, self, self._shortcuts):
                async with self._off:
                    signals.join(self._off)
                    afterwards.callback(signals.leave, self._off)  # when the drain has ended
                    async with theirs(app) as state:
                        yield state

        return lifespan

    def _check(self, app: Any) -> None:
        """What a request would meet is met at the start instead."""
        ours = self._ours()
        for context in iter_route_contexts(getattr(app, "routes", self.routes)):
            if any(context.original_route is route for route in ours) and context.dependencies:
                guarded(ours[0].bare, context)  # type: ignore[arg-type]
            elif any(context.original_route is route for route in self._sockets):
                check_dependencies(context.path_format, context.dependant.dependencies)  # type: ignore[arg-type]
