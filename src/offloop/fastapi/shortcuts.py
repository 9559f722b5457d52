"""Shortcuts: a path without parameters that was matched once is found by a look-up from then on.

FastAPI tries the routes of an included router one after the other, and does so twice for each request, which costs
more than the rest of a request's way here. Shortcuts stand in the app's own list of routes, before the router whose
requests they know. Owns what was found for which path; what holds for a route (its dependencies, its limits) was
decided when its entrance was made, and nothing of that is skipped.

Before the routes an app has its middleware. Where there is none but what FastAPI itself puts there, to turn exceptions
into answers and to close what dependencies opened, a shortcut to an unguarded endpoint stands in front of that too: it
raises nothing that those would answer, and opens nothing.
"""

from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, APIRouter
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

PLAIN = (Route.matches, APIRoute.matches)


class Shortcuts(BaseRoute):
    """Those of one inclusion of a router in an app.

    Args:
        included: what stands for the router in the app's list of routes.
        routes: the router's own list. Once it has another length than when a path was learnt, nothing is known.
    """

    def __init__(self, included: BaseRoute, routes: Sequence[BaseRoute]) -> None:
        self.included = included
        self._routes = routes
        self._count = len(routes)
        self._found: dict[tuple[str, str], tuple[ASGIApp, BaseRoute, Any]] = {}
        self._bare: dict[tuple[str, str], ASGIApp] = {}

    def learn(self, route: BaseRoute, inclusion: Any, app: ASGIApp, *, bare: bool) -> None:
        """A request has been matched to this route; others of the same method and path will be.

        `bare`: nothing stands before the endpoint under this inclusion, neither a dependency nor a limit.
        """
        if not inclusion.param_convertors:
            for method in inclusion.methods:
                self._found[method, inclusion.path_format] = (app, route, inclusion)
                if bare:
                    self._bare[method, inclusion.path_format] = app

    def _sure(self, scope: Scope) -> bool:
        """Not below a root path, nor under FastAPI's own telemetry, nor once routes were added or taken out."""
        return not scope.get("root_path") and "fastapi.telemetry" not in scope and len(self._routes) == self._count

    def bare(self, scope: Scope) -> ASGIApp | None:
        """The endpoint itself, if that is all that there is for this request."""
        if scope["type"] != "http":
            return None
        app = self._bare.get((scope["method"], scope["path"]))
        return app if app is not None and self._sure(scope) else None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Where it is not sure nothing matches: the router itself comes next."""
        if scope["type"] != "http":
            return Match.NONE, {}
        found = self._found.get((scope["method"], scope["path"]))
        if found is None or not self._sure(scope):
            return Match.NONE, {}
        _, route, inclusion = found
        return Match.FULL, {"endpoint": inclusion.endpoint, "route": route, "path_params": {}}

    def handle(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Serve what was matched. Not a coroutine function itself: the hot path has one frame less."""
        app, _, inclusion = self._found[scope["method"], scope["path"]]
        scope.setdefault("fastapi", {})["effective_route_context"] = inclusion
        return app(scope, receive, send)  # type: ignore[return-value]  # an application is a coroutine function

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Names are the router's."""
        raise NoMatchFound(name, path_params)


class Front:
    """In the place of an app's middleware, where that has nothing to do for a shortcut.

    Args:
        stack: what was there.
        shortcuts: the first in the app's list of routes.
    """

    def __init__(self, stack: ASGIApp, shortcuts: Shortcuts) -> None:
        self.stack = stack
        self._bare = shortcuts.bare

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (self._bare(scope) or self.stack)(scope, receive, send)


@contextmanager
def _front(app: Any, made: Sequence[Shortcuts]) -> Iterator[None]:
    """While it lasts, the app has a front, if it has no middleware, handler or build of its own that may be missed."""
    own = (
        not isinstance(app, FastAPI)
        or type(app).build_middleware_stack is not FastAPI.build_middleware_stack
        or app.user_middleware
        or app.debug
        or not {500, Exception}.isdisjoint(app.exception_handlers)
        or getattr(app, "max_body_size", None) is not None
    )
    if own or app.middleware_stack is None or not made or app.router.routes[0] is not made[0]:
        yield
        return
    front = Front(app.middleware_stack, made[0])
    app.middleware_stack = front
    try:
        yield
    finally:
        if app.middleware_stack is front:
            app.middleware_stack = front.stack


def _place(routes: Sequence[BaseRoute], end: int) -> int:
    """Before the routes that come before `end` and look at nothing but method and path.

    What is learnt had not matched them, and never will. A mount, a host or a route of the user's own kind may look at
    something else, and stays in front.
    """
    start = end
    while start and _plain(routes[start - 1]):
        start -= 1
    return start


def _plain(route: BaseRoute) -> bool:
    """Whether it matches as FastAPI's own routes do; of an included router, whether all of its routes do."""
    router = getattr(route, "original_router", None)
    if router is not None:
        return type(router).matches is APIRouter.matches and all(map(_plain, router.routes))
    return type(route).matches in PLAIN


@contextmanager
def shortcuts_in(app: Any, router: Router, known: list[Shortcuts]) -> Iterator[None]:
    """While it lasts, the app has shortcuts to a router that is included in it, and they are among those `known`.

    There are none where the router is included in another router, or is the application itself.
    """
    outer = getattr(app, "router", None)
    routes: list[BaseRoute] = outer.routes if isinstance(outer, Router) else []
    there = {id(shortcut.included) for shortcut in known}  # a router that is included twice has two lifespans
    made = [
        Shortcuts(route, router.routes)
        for route in routes
        if getattr(route, "original_router", None) is router and id(route) not in there
    ]
    for shortcut in made:
        known.append(shortcut)
        routes.insert(_place(routes, routes.index(shortcut.included)), shortcut)
    try:
        with _front(app, made):
            yield
    finally:
        for shortcut in made:
            known.remove(shortcut)
            routes.remove(shortcut)
