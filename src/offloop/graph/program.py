"""Program: what the user's packages say, discovered and checked.

Owns one program's endpoints, and what was compiled for each: its route, its codec, its place in HTTP. It is immutable
but for the overrides of tests, and holds nothing that is open.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from dishka import Provider
from dishka.provider import BaseProvider

from offloop.errors import PreflightError, Problem, UsageError
from offloop.graph.discovery import Found, discover
from offloop.graph.endpoint import Endpoint
from offloop.graph.http_spec import HttpSpec
from offloop.graph.node import Node
from offloop.graph.payloads import codec_for
from offloop.graph.preflight import Checked, check
from offloop.graph.router import Route, Runs
from offloop.graph.services import Services
from offloop.ports.codec import Codec


class Program:
    """What was discovered and found to be without fault. Thread-safe.

    Attributes:
        packages: as they were given: what a process needs to import to have the same program.
        endpoints: by name, in order of discovery.
        nodes: in the order of package and line.
        providers: of services, in order; later ones win.
    """

    packages: tuple[str, ...]
    endpoints: Mapping[str, Endpoint[Any, Any]]
    nodes: Sequence[Node]
    providers: Sequence[BaseProvider]

    def __init__(self, packages: tuple[str, ...], found: Found, checked: Checked) -> None:
        self.packages = packages
        self.endpoints = MappingProxyType({endpoint.name: endpoint for endpoint in found.endpoints})
        self.nodes = tuple(found.nodes)
        self.providers = tuple(found.providers)
        self._http = {endpoint.name: spec for endpoint, spec in checked.http.items()}
        self._routes = {endpoint.name: Route(graph) for endpoint, graph in checked.graphs.items()}
        self._codecs = {name: codec_for(endpoint) for name, endpoint in self.endpoints.items()}
        self._problems = {
            (name, problem.reason): problem
            for name, endpoint in self.endpoints.items()
            for problem in endpoint.problems
        }  # fmt: skip
        self._asked: dict[int, Endpoint[Any, Any]] = {}
        for endpoint in found.endpoints:
            self._asked[id(endpoint)] = endpoint
            if endpoint.function is not None:
                self._asked[id(endpoint.function)] = endpoint
        self._overrides: list[BaseProvider] = []
        self._stand_ins: dict[str, Runs] = {}

    @classmethod
    def load(cls, *packages: str, elsewhere: bool = False) -> "Program":
        """Import the packages, discover what they hold, and check it.

        Args:
            packages: modules, or packages with all their modules but `__main__`.
            elsewhere: nodes run in other processes only, which check how they fit together. There need be none here,
                and this program has no routes.

        Raises:
            UsageError: a package does not exist.
            PreflightError: the program cannot work as written; it has every fault.
            Exception: what an import raised, with a note that names the module.
        """
        found = discover(*packages)
        checked = check(found, elsewhere=elsewhere)
        if checked.faults:
            raise PreflightError(checked.faults)
        return cls(packages, found, checked)

    def find(self, what: Endpoint[Any, Any] | Callable[..., Any]) -> Endpoint[Any, Any]:
        """The endpoint that is meant by an `Endpoint` or by a function under `@endpoint`.

        Raises:
            UsageError: it is none of this program's.
        """
        try:
            return self._asked[id(what)]
        except KeyError:
            name = what.name if isinstance(what, Endpoint) else getattr(what, "__qualname__", repr(what))
            known = ", ".join(self.endpoints) or "none"
            raise UsageError(
                f"{name} is no endpoint of this program, which has: {known}. Give an Endpoint or a function under "
                f"@endpoint, and name its module in Offloop(...)"
            ) from None

    def route(self, name: str) -> Route:
        """An endpoint's graph, compiled. A loop takes `Services.route` instead, with the worker's services in place."""
        return self._routes[name]

    def codec(self, name: str) -> Codec:
        """What writes and reads an endpoint's messages."""
        return self._codecs[name]

    def http(self, name: str) -> HttpSpec | None:
        """How an endpoint meets HTTP; None where it does not."""
        return self._http.get(name)

    def problem(self, name: str, reason: str) -> type[Problem] | None:
        """The class of a problem that an endpoint declares; None where it does not."""
        return self._problems.get((name, reason))

    def services(self, *endpoints: str) -> Services:
        """The services of one worker process, not yet open: those that these endpoints need, or all."""
        routes = {name: self._routes[name] for name in endpoints} if endpoints else self._routes
        return Services([*self.providers, *self._overrides], routes, self._stand_ins)

    @contextmanager
    def override(self, provider: Provider | type[Provider]) -> Iterator[None]:
        """Within it, new services take from this provider what it provides. Services that exist are not touched."""
        instance = provider() if isinstance(provider, type) else provider
        self._overrides.append(instance)
        try:
            yield
        finally:
            self._overrides[:] = [one for one in self._overrides if one is not instance]

    @contextmanager
    def stand_in(self, others: Mapping[str, Runs]) -> Iterator[None]:
        """Within it, loops run these in the place of the endpoints' own routes, also with services that exist."""
        before = {name: self._stand_ins.get(name) for name in others}
        self._stand_ins.update(others)
        try:
            yield
        finally:
            for name, other in before.items():  # one by one: a loop that looks meanwhile finds the one or the other
                if other is None:
                    del self._stand_ins[name]
                else:
                    self._stand_ins[name] = other
