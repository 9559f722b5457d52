"""Routes: how a matched request finds its way in, and the dependencies that hold for it.

Owns the bare path past FastAPI's request handling where there is nothing to guard. It fails closed: where it cannot
tell which dependencies hold for a route, nothing is imported, or nothing is started.
"""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import fastapi
from fastapi.routing import APIRoute, APIRouter
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from offloop import errors
from offloop.fastapi.entrance import guarded
from offloop.fastapi.shortcuts import Shortcuts

try:
    # Not public, and there is no public way: without it a route could not know the dependencies that hold for it.
    from fastapi.routing import _get_scope_effective_route_context as inclusion_of
    from fastapi.routing import _get_scope_included_router as includer_of
except ImportError as missing:
    raise ImportError(
        f"offloop.fastapi cannot tell which dependencies hold for a route under FastAPI {fastapi.__version__}, and so "
        "serves none. It is made for FastAPI 0.137 and later; a version after 0.165 may need a later offloop."
    ) from missing


class OffloopRoute(APIRoute):
    """One endpoint. Documented as any route; served past FastAPI's request handling.

    Attributes:
        bare: the ASGI application that serves it.
        shortcuts: to the router that it belongs to; what it is matched to is told to them.
    """

    bare: ASGIApp
    shortcuts: Sequence[Shortcuts] = ()
    proven: ClassVar[bool] = False

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
        for shortcut in self.shortcuts:
            if shortcut.included is includer_of(scope):
                shortcut.learn(self, inclusion, found[1], bare=found[1] is self.bare)
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


class Proof(Exception):
    """Raised by a dependency that must not be passed by."""


async def prove() -> None:
    """See, once, that under this FastAPI a route of ours meets the dependencies of its inclusion.

    What is imported above could go on to exist and mean something else; the loss would be silent, and an open door.

    Raises:
        UsageError: it does not.
    """
    if OffloopRoute.proven:
        return

    async def refuse() -> None:
        raise Proof

    async def passed(*_: Any) -> None:
        raise errors.UsageError(
            f"FastAPI {fastapi.__version__} does not let offloop see the dependencies of include_router(), and so "
            "nothing is served. Use an earlier FastAPI, or a later offloop."
        )

    async def nothing(*_: Any) -> Any: ...

    router = APIRouter()
    router.add_api_route("/", nothing, response_model=None, route_class_override=OffloopRoute)
    router.routes[-1].bare = passed  # type: ignore[attr-defined]
    app = fastapi.FastAPI(openapi_url=None, telemetry={"tracing": False, "metrics": False, "logs": False})
    app.include_router(router, dependencies=[fastapi.Depends(refuse)])
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "query_string": b"", "headers": []}
    with suppress(Proof):
        await app(scope, nothing, nothing)
    OffloopRoute.proven = True


class Components(APIRoute):
    """A route that matches nothing and has no methods: FastAPI lists its models among the document's components."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.NONE, {}
