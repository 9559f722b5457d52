"""The router: every endpoint with `http=` as a route of FastAPI's, and the lifespan that starts and drains the loops.

Owns how routes are included, nested, prefixed and guarded, and the bare path past FastAPI's request handling where
there is nothing to guard. It fails closed: where it cannot tell which dependencies hold for a route, nothing is served.
"""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import fastapi
from fastapi.routing import APIRoute, APIRouter, iter_route_contexts
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from offloop import errors
from offloop.app import Offloop
from offloop.fastapi import signals
from offloop.fastapi.entrance import guarded
from offloop.fastapi.http import HttpEndpoint
from offloop.fastapi.openapi import documented
from offloop.fastapi.responses import COMPONENTS
from offloop.graph.endpoint import Endpoint

try:
    # Not public, and there is no public way: without it a route could not know the dependencies that hold for it.
    from fastapi.routing import _get_scope_effective_route_context as inclusion_of
except ImportError as missing:
    raise ImportError(
        f"offloop.fastapi cannot tell which dependencies hold for a route under FastAPI {fastapi.__version__}, and so "
        "serves none. It is made for FastAPI 0.137 and later; a version after 0.165 may need a later offloop."
    ) from missing

log = logging.getLogger("offloop")


class OffloopRoute(APIRoute):
    """One endpoint. Documented as any route; served past FastAPI's request handling.

    Attributes:
        bare: the ASGI application that serves it.
    """

    bare: ASGIApp

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        # By an inclusion's identity, with the inclusion beside it, so that its identity stays its own.
        self._entrances: dict[int, tuple[Any, ASGIApp]] = {}

    def handle(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Serve a request that was matched. Not a coroutine function itself: the hot path has one frame less."""
        inclusion: Any = inclusion_of(scope)
        if inclusion is None or inclusion.original_route is not self:
            inclusion = self  # in an app's own list of routes, or in a router that is served by itself
        if scope["method"] not in inclusion.methods:
            return super().handle(scope, receive, send)  # 405, with Allow
        found = self._entrances.get(id(inclusion))
        if found is None:
            found = self._entrances[id(inclusion)] = (inclusion, self.entrance(inclusion))
        return found[1](scope, receive, send)  # type: ignore[return-value]  # an application is a coroutine function

    def entrance(self, inclusion: Any) -> ASGIApp:
        """The way in under one inclusion: guarded by its dependencies, bounded by its limit on bodies, or bare.

        Raises:
            UsageError: a dependency reads the body.
        """
        app = guarded(self.bare, inclusion) if inclusion.dependencies else self.bare
        limit = getattr(inclusion, "max_body_size", None)  # not in every version that is supported
        if limit is not None:
            from starlette.middleware.body_limit import RequestBodyLimitMiddleware

            return RequestBodyLimitMiddleware(app, max_body_size=limit)
        return app


class Components(APIRoute):
    """A route that matches nothing and has no methods: FastAPI lists its models among the document's components."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.NONE, {}


class OffloopRouter(APIRouter):
    """Routes for endpoints, and the life of the loops behind them.

    Args:
        off: the program and its loops. The router's lifespan enters it; entered twice it still counts once.
        endpoints: which ones, as `Endpoint` or decorated function; without any, all that have `http=`.
        options: as for `fastapi.APIRouter`. Its `dependencies` hold for every route and run before admission; its
            `lifespan` is entered when the loops are up and left before they drain.

    Raises:
        UsageError: an endpoint is not of this program, or has neither `http=` nor `websocket=`.
    """

    def __init__(self, off: Offloop, *endpoints: Endpoint[Any, Any] | Callable[..., Any], **options: Any) -> None:
        super().__init__(**options)
        self._off = off
        self._sockets: list[str] = []
        named = [off.program.find(endpoint) for endpoint in endpoints]
        for endpoint in named or off.program.endpoints.values():
            if endpoint.websocket is not None:
                self._sockets.append(endpoint.websocket)
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
        route.bare = HttpEndpoint(self._off, endpoint, spec)

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
            self._check(app)
            try:
                async with self._off:
                    signals.join(self._off)
                    async with theirs(app) as state:
                        yield state
            finally:
                signals.leave(self._off)

        return lifespan

    def _check(self, app: Any) -> None:
        """What a request would meet is met at the start instead."""
        ours = self._ours()
        for context in iter_route_contexts(getattr(app, "routes", self.routes)):
            if any(context.original_route is route for route in ours) and context.dependencies:
                guarded(ours[0].bare, context)  # type: ignore[arg-type]
        if self._sockets:
            log.warning("WebSocket is not served by this version of offloop: %s answer 404", ", ".join(self._sockets))
