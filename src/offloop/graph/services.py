"""Services: what nodes need besides messages, built once per worker or once per request.

Owns the life of one dishka container: built whole before a worker is ready, torn down at its drain. It decides nothing
about requests; a service that fails at its end is logged, because no outcome can depend on it any more.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType, TracebackType

from dishka import Container
from dishka.provider import BaseProvider

from offloop.errors import UsageError
from offloop.graph.node import Resolver
from offloop.graph.router import Route, Runs
from offloop.graph.wiring import Wiring, container_of

log = logging.getLogger("offloop.services")


class Services:
    """One worker process's services, shared by its loops.

    `open` and `close` belong to the thread that owns the worker; between them everything else is thread-safe. It may
    be opened again after it was closed, and builds everything anew.

    Args:
        providers: in order; where two provide the same, the later one wins.
        routes: every endpoint's, by name.
        stand_ins: what runs in the place of some of them, by name; it may change at any time.
    """

    def __init__(
        self,
        providers: Sequence[BaseProvider],
        routes: Mapping[str, Route],
        stand_ins: Mapping[str, Runs] = MappingProxyType({}),
    ) -> None:
        self._providers = tuple(providers)
        self._routes = routes
        self._stand_ins = stand_ins
        self._bound: Mapping[str, Route] = {}
        self._container: Container | None = None

    def open(self) -> None:
        """Build every service of APP scope that the program uses.

        Raises:
            BaseException: what a provider raised, as it is; nothing is left built.
        """
        container = container_of(self._providers)
        try:
            needed = Wiring(container).once_per_worker(key for route in self._routes.values() for key in route.needs)
            known = {key: container.get(key.type_hint, component=key.component) for key in needed}
        except BaseException as failure:
            _close(container, failure)
            raise
        self._container = container
        self._bound = {name: route.bound(known) for name, route in self._routes.items()}

    def route(self, name: str) -> Runs:
        """What a loop runs: an endpoint's graph with this worker's services in place, or what stands in for it."""
        self._opened()
        return self._stand_ins.get(name) or self._bound[name]

    def request(self) -> AbstractContextManager[Resolver]:
        """One REQUEST scope, entered and left by the loop's own thread; what it built is torn down at its end.

        A request that fails shows its exception to the providers. A teardown that fails is logged.
        """
        return _RequestScope(self._opened())

    def close(self) -> None:
        """Tear down, the last built first. A teardown that fails is logged, and the others still happen. Idempotent."""
        container, self._container, self._bound = self._container, None, {}
        if container is not None:
            _close(container, None)

    def _opened(self) -> Container:
        if self._container is None:
            raise UsageError("these services are not open: call open() first, and nothing after close()")
        return self._container


class _RequestScope:
    __slots__ = ("_scope",)

    def __init__(self, container: Container) -> None:
        self._scope = container()

    def __enter__(self) -> Resolver:
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._scope.__exit__(kind, failure, trace)
        except BaseException:
            log.exception("a service of a request failed at its end")


def _close(container: Container, failure: BaseException | None) -> None:
    try:
        container.close(failure)
    except BaseException:
        log.exception("a service failed at its end")
