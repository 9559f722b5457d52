"""Wiring: the services that providers offer, seen as dishka sees them.

Owns all that reads dishka's graph: what nobody provides, what is once per worker and what once per request. It builds
no service; that is the affair of `services`.
"""

import inspect
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from dishka import Container, DependencyKey, Provider, Scope, make_container
from dishka.dependency_source import Factory
from dishka.entities.factory_type import FactoryType
from dishka.exception_base import DishkaError
from dishka.exceptions import GraphMissingFactoryError
from dishka.provider import BaseProvider
from dishka.registry import Registry

from offloop.graph.kinds import name_of
from offloop.graph.node import Node, Site, site_of, site_of_class

ASYNC = (FactoryType.ASYNC_FACTORY, FactoryType.ASYNC_GENERATOR)
REMEDY = "Provide it by a dishka Provider at module level in the program's packages, in scope APP or REQUEST"


def container_of(providers: Iterable[BaseProvider]) -> Container:
    """An unopened APP container, shared by loops. Later providers win.

    Its lock is reentrant, so that a factory may ask the container it was given for more.
    """
    return make_container(*providers, lock_factory=threading.RLock)


class Wiring:
    """What a container could give, and in which scope."""

    def __init__(self, container: Container) -> None:
        self._app = _registries(container)
        with container() as request:
            self._request = _registries(request)

    def provides(self, key: DependencyKey) -> bool:
        """Whether a node may ask for it, in APP or in REQUEST scope."""
        return _factory(self._request, key) is not None

    def once_per_worker(self, keys: Iterable[DependencyKey]) -> list[DependencyKey]:
        """The services of APP scope among these and among all that these need, however deep."""
        found: dict[DependencyKey, None] = {}
        seen: set[DependencyKey] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop(0)
            factory = _factory(self._request, key)
            if key in seen or factory is None:
                continue
            seen.add(key)
            # A key of some depth is what a decorator wraps: dishka alone can ask for it.
            if _factory(self._app, key) is not None and not getattr(key, "depth", 0):
                found[key] = None
            else:
                waiting += _needs(factory)
        return list(found)


def faults_of(providers: Sequence[BaseProvider], nodes: Iterable[Node]) -> list[str]:
    """Everything that is wrong with a program's services."""
    faults = [
        f"{_site(factory)}: it is `async`. Services are built in loops that block; write a plain `def`"
        for provider in providers
        for factory in (*provider.factories, *(decorator.factory for decorator in provider.decorators))
        if factory.type in ASYNC
    ]
    try:
        container = _validated(providers, faults)
    except DishkaError as broken:
        return [*faults, f"the services cannot be wired: {broken}"]
    wiring = Wiring(container)
    for node in nodes:
        for parameter, key in node.services:
            if not wiring.provides(key):
                faults.append(
                    f"{node.site}: its parameter {parameter!r} is the service {_name(key)}, which nobody provides. "
                    f"{REMEDY}"
                )
    return faults


def _validated(providers: Sequence[BaseProvider], faults: list[str]) -> Container:
    """Dishka names the first service that is missing; a stand-in for each brings the next to light."""
    stand_ins: list[BaseProvider] = []
    while True:
        try:
            return container_of([*providers, *stand_ins])
        except GraphMissingFactoryError as missing:
            key = missing.requested
            faults.append(f"{_site(missing.path[-1])}: it needs the service {_name(key)}, which nobody provides in a "
                          f"scope it can reach. {REMEDY}")  # fmt: skip
            stand_in = Provider(scope=Scope.RUNTIME, component=key.component)
            stand_in.provide(lambda: None, provides=key.type_hint)
            stand_ins.append(stand_in)


def _registries(container: Container) -> list[Registry]:
    found: list[Registry] = []
    inner: Container | None = container
    while inner is not None:
        found.append(inner.registry)
        inner = inner.parent_container
    return found


def _factory(registries: Iterable[Registry], key: DependencyKey) -> Factory | None:
    return next((factory for registry in registries if (factory := registry.get_factory(key)) is not None), None)


def _needs(factory: Factory) -> list[DependencyKey]:
    variants = getattr(factory, "when_dependencies", ())  # older dishkas have no conditional factories
    return [*factory.dependencies, *factory.kw_dependencies.values(), *(variant.provides for variant in variants)]


def _site(factory: Any) -> Site:
    source = inspect.unwrap(getattr(factory.source, "__func__", factory.source))
    return site_of_class(source) if isinstance(source, type) else site_of(source)


def _name(key: DependencyKey) -> str:
    return name_of(key.type_hint) + (f" of component {key.component!r}" if key.component else "")
