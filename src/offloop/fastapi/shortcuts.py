"""Shortcuts: a path without parameters that was matched once is found by a look-up from then on.

FastAPI tries the routes of an included router one after the other, and does so twice for each request, which costs
more than the rest of a request's way here. Shortcuts stand in the app's own list of routes, before the router whose
requests they know. Owns what was found for which path; what holds for a route (its dependencies, its limits) was
decided when its entrance was made, and nothing of that is skipped.
"""

from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

PLAIN = (Route, APIRoute)


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

    def learn(self, route: BaseRoute, inclusion: Any, app: ASGIApp) -> None:
        """A request has been matched to this route; others of the same method and path will be."""
        if not inclusion.param_convertors:
            for method in inclusion.methods:
                self._found[method, inclusion.path_format] = (app, route, inclusion)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Nothing matches below a root path or under FastAPI's own telemetry: the router itself comes next."""
        if (
            scope["type"] != "http"
            or (found := self._found.get((scope["method"], scope["path"]))) is None
            or scope.get("root_path")
            or "fastapi.telemetry" in scope
            or len(self._routes) != self._count
        ):
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


def _place(routes: Sequence[BaseRoute], end: int) -> int:
    """Before the routes that come before `end` and look at nothing but method and path.

    What is learnt had not matched them, and never will. A mount, a host or a route of the user's own kind may look at
    something else, and stays in front.
    """
    start = end
    while start and type(routes[start - 1]) in PLAIN:
        start -= 1
    return start


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
        yield
    finally:
        for shortcut in made:
            known.remove(shortcut)
            routes.remove(shortcut)
