"""The way into a route that has dependencies.

Owns the run of FastAPI's own machinery before a request reaches its endpoint: dependencies of every level, yielded
ones, overrides, security schemes, exception handlers. Nothing of it is written anew: a hidden route of FastAPI's does
it all, and its endpoint returns a response that is the bare ASGI application.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from fastapi import Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offloop.errors import UsageError


class Inclusion(Protocol):
    """A route as it is included somewhere: its path and dependencies are those of every level above it."""

    path_format: str
    name: str
    methods: set[str]
    dependencies: list[params.Depends]
    dependency_overrides_provider: Any


class Entered(Response):
    """A response that is an ASGI application."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(receive, Replay):
            receive = receive.again
        await self._app(scope, receive, send)
        if self.background is not None:
            await self.background()


class Replay:
    """A `receive` that gives once more what it gave: to a dependency that looks at the raw body, then to the endpoint.

    Such a dependency (one that checks a signature, say) reads before admission, by its own choice and its own bounds.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._given: list[Message] = []

    async def __call__(self) -> Message:
        message = await self._receive()
        self._given.append(message)
        return message

    async def again(self) -> Message:
        return self._given.pop(0) if self._given else await self._receive()


def guarded(app: ASGIApp, inclusion: Inclusion) -> ASGIApp:
    """The application, behind the dependencies of one inclusion.

    Raises:
        UsageError: a dependency declares a part of the body as its parameter; that would read, parse and keep every
            body before admission, and on the event loop.
    """

    async def enter(request: Request) -> Response:  # noqa: ARG001  (FastAPI calls it so)
        return Entered(app)

    hidden = APIRoute(
        inclusion.path_format,
        enter,
        methods=list(inclusion.methods),
        name=inclusion.name,
        dependencies=inclusion.dependencies,
        dependency_overrides_provider=inclusion.dependency_overrides_provider,
        response_model=None,
        include_in_schema=False,
    )
    if faults := sorted(set(_reading_the_body(hidden.dependant.dependencies))):
        raise UsageError(
            f"{inclusion.path_format}: {', '.join(faults)}. Dependencies of offloop's routes run before admission, and "
            "so before the body is read: let them declare headers, cookies, query and path parameters, or serve the "
            "endpoint from an own route with `off.ask`."
        )
    entrance = hidden.app

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        await entrance(scope, Replay(receive), send)

    return served


def _reading_the_body(dependencies: Sequence[Dependant]) -> Iterator[str]:
    for dependency in dependencies:
        for parameter in dependency.body_params:
            call = dependency.call
            name = f"{getattr(call, '__module__', '?')}.{getattr(call, '__qualname__', repr(call))}"
            yield f"the dependency {name} reads `{parameter.name}` from the body"
        yield from _reading_the_body(dependency.dependencies)
