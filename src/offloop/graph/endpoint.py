"""Endpoint: a named request/reply pair with its policy.

Owns the `Endpoint` specification and the `endpoint` decorator. Both are plain data, free of the web: nothing is
checked, imported or opened here. Preflight judges, `http_spec` reads `http=`.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

from offloop.errors import Problem
from offloop.graph.kinds import kinds, without
from offloop.graph.node import Function, Node, Site, mark, mark_of

Request = TypeVar("Request")
Reply = TypeVar("Reply")

MIB = 2**20
POLICY = "__offloop_endpoint__"


class Policy(TypedDict, total=False):
    """All that an endpoint may say beside its types; see `Endpoint`."""

    stream: Any
    problems: Sequence[type[Problem]]
    timeout: float
    max_in_flight: int
    idempotent: bool
    max_body: int
    media_types: Sequence[str] | None
    status: int
    on_disconnect: Literal["cancel", "finish"]
    pool: str | None
    http: str | None
    websocket: str | None


class PolicyTo(Policy, total=False):
    """A policy, and where requests go."""

    to: Callable[..., Any] | str | None


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Endpoint(Generic[Request, Reply]):
    """A named request/reply pair with its policy: frozen, free of the web, and no more than what it says.

    A type checker knows `Endpoint[Request, Reply]` where both are classes. Where it cannot (a union, say), annotate:
    `read: Endpoint[Blob, Text | Scan] = Endpoint("read", Blob, Text | Scan)`.

    Attributes:
        name: unique in a program.
        request, reply: the types; a reply of None means that the end of `to` ends the request, 204.
        to: the node that takes the request, a function or `"module:function"`; None: whoever consumes the type.
        stream: the type of messages that reach a caller as they come; None: there are none.
        problems: the `Problem` classes that callers may expect.
        timeout: seconds from admission to the outcome.
        max_in_flight: callers that may wait at once, per web process.
        idempotent: whether a request may begin more than once.
        max_body: bytes of a request's body.
        media_types: what a Blob request may be; None: anything.
        status: of a reply over HTTP, 2xx.
        on_disconnect: whether a caller's leaving cancels the request (`cancel`) or not (`finish`).
        pool: which workers run it, in cluster mode.
        http: `"METHOD /path"`, or None.
        websocket: a path, or None.
        function: the decorated function, for `@endpoint`.
        summary, description: its docstring's first line and the rest.
        module, file, line: where it is written.
    """

    name: str
    request: Any
    reply: Any
    to: Callable[..., Any] | str | None
    stream: Any
    problems: tuple[type[Problem], ...]
    timeout: float
    max_in_flight: int
    idempotent: bool
    max_body: int
    media_types: tuple[str, ...] | None
    status: int
    on_disconnect: Literal["cancel", "finish"]
    pool: str | None
    http: str | None
    websocket: str | None
    function: Callable[..., Any] | None
    summary: str
    description: str
    module: str
    file: str
    line: int

    @overload
    def __init__(
        self: "Endpoint[Request, None]", name: str, request: type[Request], reply: None, **policy: Unpack[PolicyTo]
    ) -> None: ...
    @overload
    def __init__(self, name: str, request: type[Request], reply: type[Reply], **policy: Unpack[PolicyTo]) -> None: ...
    @overload
    def __init__(self, name: str, request: Any, reply: Any, **policy: Unpack[PolicyTo]) -> None: ...
    def __init__(
        self,
        name: str,
        request: Any,
        reply: Any,
        *,
        to: Callable[..., Any] | str | None = None,
        stream: Any = None,
        problems: Sequence[type[Problem]] = (),
        timeout: float = 15.0,
        max_in_flight: int = 100,
        idempotent: bool = False,
        max_body: int = MIB,
        media_types: Sequence[str] | None = None,
        status: int = 200,
        on_disconnect: Literal["cancel", "finish"] = "cancel",
        pool: str | None = None,
        http: str | None = None,
        websocket: str | None = None,
    ) -> None:
        # Frozen for everybody else. What is no sequence is kept as it is, for preflight to name.
        self.__dict__.update(
            name=name,
            request=request,
            reply=reply,
            to=to,
            stream=stream,
            problems=_frozen(problems),
            timeout=timeout,
            max_in_flight=max_in_flight,
            idempotent=idempotent,
            max_body=max_body,
            media_types=_frozen(media_types),
            status=204 if reply is None and status == 200 else status,
            on_disconnect=on_disconnect,
            pool=pool,
            http=http,
            websocket=websocket,
            function=None,
            summary="",
            description="",
            **_written(),
        )

    @classmethod
    def of(cls, node: Node, policy: Policy) -> "Endpoint[Any, Any]":
        """The endpoint that `@endpoint(**policy)` makes of a node: the reply is what is left without the stream.

        Raises:
            ValueError: `stream` is no type that could be told.
        """
        function = node.function
        reply = without(node.returns, kinds(policy.get("stream")))
        made: Endpoint[Any, Any] = Endpoint(function.__name__, node.request, reply, to=function, **policy)
        summary, _, description = (inspect.getdoc(function) or "").partition("\n")
        made.__dict__.update(
            function=function,
            summary=summary.strip().removesuffix("."),
            description=description.strip(),
            module=node.module,
            file=node.file,
            line=node.line,
        )
        return made

    @property
    def site(self) -> Site:
        return Site(f"endpoint {self.name!r} of {self.module}", self.file, self.line)

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, {self.request!r}, {self.reply!r})"


@overload
def endpoint(function: Function, /) -> Function: ...
@overload
def endpoint(**policy: Unpack[Policy]) -> Callable[[Function], Function]: ...
def endpoint(function: Any = None, /, **policy: Any) -> Any:
    """Make a plain function a node and an endpoint of its name; it stays an ordinary function.

    The request is what it consumes, the reply what it returns less None and the `stream` type; its docstring is
    summary and description. The policy is `Endpoint`'s, without `to`.

    Raises:
        TypeError: there is no such policy.
        UsageError: it is no function, or a method.
    """
    if unknown := policy.keys() - Policy.__annotations__.keys():
        raise TypeError(f"@endpoint has no policy named {', '.join(sorted(unknown))}")
    if function is None:
        return functools.partial(_mark, policy=policy)
    return _mark(function, policy)


def policy_of(value: object) -> Policy | None:
    """What `@endpoint` left on a function; None for anything else."""
    return getattr(value, POLICY, None) if mark_of(value) else None


def _mark(function: Function, policy: dict[str, Any]) -> Function:
    if mark_of(function) is None:  # `@node(name=…)` below it may have been first
        mark(function)
    setattr(function, POLICY, policy)
    return function


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _written() -> dict[str, Any]:
    """Where `Endpoint(...)` is written: two frames up, or further where it was called as `Endpoint[A, B](...)`."""
    depth = 2
    while (frame := sys._getframe(depth)).f_globals.get("__name__") == "typing":  # noqa: SLF001  (public since 2.1)
        depth += 1
    return {
        "module": frame.f_globals.get("__name__", "?"),
        "file": frame.f_code.co_filename,
        "line": frame.f_lineno,
    }
