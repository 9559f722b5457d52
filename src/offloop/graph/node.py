"""Node: a plain function that consumes one typed message and emits typed messages.

Owns the `node` decorator and `Node`, what is known of one function once it was read. A decorated function stays the
function it was and carries its mark itself: there is no registry, so that several programs may share a module. How a
signature is read is the affair of `signature`.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from dishka import DependencyKey

from offloop.errors import UsageError
from offloop.graph.job import Job
from offloop.graph.kinds import Kind

Function = TypeVar("Function", bound=Callable[..., Any])

MARK = "__offloop_node__"


class Site(NamedTuple):
    """Where something of the user's is written: the start of every fault."""

    name: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.name} ({self.file}:{self.line})"


class Mark(NamedTuple):
    """What `@node` leaves on a function."""

    name: str | None


class Resolver(Protocol):
    """Gives services by their type; a dishka container is one."""

    def get(self, dependency_type: Any, component: str | None = "") -> Any: ...


Call = Callable[[object, Job, Resolver | None], object]
"""A node made ready to be called: takes the message, the job, and services where they must be asked for."""


@overload
def node(function: Function, /) -> Function: ...
@overload
def node(*, name: str | None = None) -> Callable[[Function], Function]: ...
def node(function: Any = None, /, *, name: str | None = None) -> Any:
    """Make a plain function a node; it stays an ordinary function.

    Its first parameter's annotation is what it consumes (a union consumes each), its return annotation what it emits:
    `T`, `T | U`, `T | None`, `Iterator[T]`, or `None`. Other parameters are a `Job` or services, `FromDishka[T]`.

    Args:
        function: module-level, not `async`.
        name: for logs; by default `module.function`.

    Raises:
        UsageError: it is no function, or a method. All else is found by preflight.
    """
    if function is None:
        return functools.partial(mark, name=name)
    return mark(function, name=name)


def mark(function: Function, *, name: str | None = None) -> Function:
    """Leave the mark, unless it cannot be a node at all."""
    inner: object = inspect.unwrap(function) if callable(function) else function  # type: ignore[redundant-expr]  # untyped users
    if not isinstance(inner, FunctionType):
        raise UsageError(
            f"{getattr(function, '__qualname__', repr(function))} cannot be a node: it is a "
            f"{type(function).__name__}, not a function. Decorate a module-level `def`"
        )
    if "." in inner.__qualname__.rpartition("<locals>.")[2]:
        raise UsageError(
            f"{site_of(inner)} cannot be a node: it is a method, and nobody would give it its `self`. Make it a "
            f"module-level function, and what it needs a service: a parameter annotated FromDishka[...]"
        )
    setattr(function, MARK, Mark(name))
    return function


def mark_of(value: object) -> Mark | None:
    """The mark of a decorated function; None for anything else, which is not touched: it may be a lazy proxy."""
    found = None if issubclass(type(value), type) else inspect.getattr_static(value, MARK, None)
    return found if type(found) is Mark else None


def site_of(function: Callable[..., Any]) -> Site:
    """Where a function is written, decorators seen through."""
    code = inspect.unwrap(function).__code__
    return Site(f"{function.__module__}.{function.__qualname__}", code.co_filename, code.co_firstlineno)


def site_of_class(cls: type) -> Site:
    """Where a class is written; line 0 where its source cannot be found."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or "?"
    try:
        line = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        line = 0
    return Site(f"{cls.__module__}.{cls.__qualname__}", file, line)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node, as its signature says.

    Attributes:
        function: what is called, decorators and all.
        name: for logs; `module.function` unless it was given.
        consumes: the kinds of its messages.
        emits: the kinds it may emit; a sink has none.
        silent: whether it may also emit nothing (`T | None`, or `None`).
        iterates: whether what it returns is iterated (`Iterator[T]`).
        job: name of its parameter for the job; None where it asks for none.
        services: names of its parameters for services, and what dishka is to be asked for.
        request, returns: the annotations as they are written, for an endpoint that is made of this node.
    """

    function: Callable[..., Any]
    name: str
    site: Site
    consumes: tuple[Kind, ...]
    emits: tuple[Kind, ...]
    silent: bool
    iterates: bool
    job: str | None
    services: tuple[tuple[str, DependencyKey], ...]
    request: Any
    returns: Any

    @property
    def module(self) -> str:
        return str(self.function.__module__)

    @property
    def file(self) -> str:
        return self.site.file

    @property
    def line(self) -> int:
        return self.site.line

    @property
    def sink(self) -> bool:
        """Whether it emits nothing at all."""
        return not self.emits

    def call(self, known: Mapping[DependencyKey, object]) -> Call:
        """Make it ready: services that are known already are bound, the others are asked for at every call."""
        bound = {parameter: known[key] for parameter, key in self.services if key in known}
        asked = tuple((parameter, key) for parameter, key in self.services if key not in known)
        function = functools.partial(self.function, **bound) if bound else self.function
        job = self.job
        if asked:
            return _call_asking(function, job, asked)
        if job is None:
            return lambda message, _job, _services: function(message)
        return lambda message, its_job, _services: function(message, **{job: its_job})


def _call_asking(function: Callable[..., Any], job: str | None, asked: tuple[tuple[str, DependencyKey], ...]) -> Call:
    def call(message: object, its_job: Job, services: Resolver | None) -> object:
        assert services is not None  # a route that asks for services is given some: Route.uses_services
        given = {parameter: services.get(key.type_hint, component=key.component) for parameter, key in asked}
        if job is not None:
            given[job] = its_job
        return function(message, **given)

    return call
