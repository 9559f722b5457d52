"""Shortcuts: a path without parameters that was matched once is found by a look-up from then on.

FastAPI tries the routes of an included router one after the other, and does so twice for each request, which costs
more than the rest of a request's way here. Owns what was found for which path under which inclusion; what holds for a
route (its dependencies, its limits) was decided when its entrance was made, and nothing of that is skipped.
"""

from typing import Any, NamedTuple

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Scope

try:
    from fastapi.routing import _get_scope_included_router as includer_of
except ImportError:  # pragma: no cover  (a FastAPI that includes routers in another way: every request is matched)

    def includer_of(scope: Scope) -> Any | None:
        """Nothing is known of inclusions, so that there are no shortcuts."""
        return None


__all__ = ["FOUND", "Shortcut", "Shortcuts", "includer_of"]

FOUND = "offloop.shortcut"
"""Where a scope holds its shortcut between being matched and being handled."""


class Shortcut(NamedTuple):
    """Where a request goes, and what its scope is to say of that."""

    app: ASGIApp
    route: BaseRoute
    inclusion: Any
    includer: Any

    def enter(self, scope: Scope) -> ASGIApp:
        """Leave the scope as FastAPI's matching would."""
        scope["endpoint"] = self.inclusion.endpoint
        scope["route"] = self.route
        scope["fastapi"]["effective_route_context"] = self.inclusion
        scope.setdefault("path_params", {})
        return self.app


class Shortcuts:
    """Those of one router, whatever it is included in.

    Args:
        routes: the router's own list. Once it has another length, everything is forgotten.
    """

    def __init__(self, routes: list[BaseRoute]) -> None:
        self._routes = routes
        self._count = len(routes)
        self._found: dict[tuple[int, str, str], Shortcut] = {}

    def learn(self, scope: Scope, route: BaseRoute, inclusion: Any, app: ASGIApp) -> None:
        """A request has been matched to this route; others of the same method and path will be."""
        includer = includer_of(scope)
        if includer is None or inclusion.param_convertors:
            return
        if len(self._routes) != self._count:
            self._found.clear()
            self._count = len(self._routes)
        for method in inclusion.methods:
            self._found[id(includer), method, inclusion.path_format] = Shortcut(app, route, inclusion, includer)

    def find(self, scope: Scope) -> Shortcut | None:
        """None where the path has to be matched: the first time, below a root path, under FastAPI's own telemetry."""
        if scope["type"] != "http" or scope.get("root_path") or "fastapi.telemetry" in scope:
            return None
        shortcut = self._found.get((id(includer_of(scope)), scope["method"], scope["path"]))
        return shortcut if shortcut is not None and len(self._routes) == self._count else None
