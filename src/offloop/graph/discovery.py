"""Discovery: imports the user's packages and finds what they hold at module level.

Owns the importing and the order of what was found: by package as given, by module name, by line. It keeps nothing
between two programs, and it judges nothing but what cannot be read at all.

What counts: a node and a Provider class count where they are defined, and one that was only imported from elsewhere
does not; so a node of another package can be called like any function. An `Endpoint` and a Provider's instance count
wherever a module holds them. Everything counts once.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from dishka import Provider
from dishka.provider import BaseProvider

from offloop.errors import UsageError
from offloop.graph.endpoint import Endpoint, policy_of
from offloop.graph.node import Node, mark_of, site_of, site_of_class
from offloop.graph.signature import read


class Held(NamedTuple):
    """One thing that a module holds, and its place in the order of everything."""

    rank: int
    line: int
    value: Any


@dataclass(slots=True)
class Found:
    """What the packages hold, each in its order, and what was wrong with it."""

    nodes: list[Node] = field(default_factory=list)
    endpoints: list[Endpoint[Any, Any]] = field(default_factory=list)
    providers: list[BaseProvider] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def discover(*packages: str) -> Found:
    """Import the packages with all their modules but `__main__`, and look at each.

    Raises:
        UsageError: no package was named, or one does not exist.
        Exception: whatever an import raises, with a note that names the module.
    """
    if not packages:
        raise UsageError('there is no program without a package: name at least one, as in Offloop("documents.nodes")')
    modules = {module.__name__: module for package in packages for module in _modules(package)}
    held = _held(modules)
    found = Found()
    _add_nodes(held, found)
    _add_endpoints(held, found)
    _add_providers(held, found)
    return found


def _modules(package: str) -> Iterator[ModuleType]:
    try:
        top = _import(package)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{package}.".startswith(f"{missing.name}."):
            raise
        raise UsageError(
            f"there is no package {package!r}: nothing named {missing.name!r} can be imported. Correct the name, or "
            f"start where it can be found (python -m, or an installed package)"
        ) from missing
    yield top
    yield from _below(top)


def _below(package: ModuleType) -> Iterator[ModuleType]:
    for found in sorted(pkgutil.iter_modules(getattr(package, "__path__", ())), key=lambda module: module.name):
        if found.name != "__main__":
            module = _import(f"{package.__name__}.{found.name}")
            yield module
            yield from _below(module)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as failure:
        failure.add_note(f"while offloop was importing {name!r}")
        raise


def _held(modules: dict[str, ModuleType]) -> list[Held]:
    """Everything of interest, once, by the module that it is written in or else first held by, and by line."""
    ranks = {name: rank for rank, name in enumerate(modules)}
    held: dict[int, Held] = {}
    for name, module in modules.items():
        for value in list(vars(module).values()):
            if id(value) not in held and (home := _home(value)) is not None and not _foreign(value, home[0], modules):
                held[id(value)] = Held(ranks.get(home[0], ranks[name]), home[1], value)
    return sorted(held.values(), key=lambda one: (one.rank, one.line))


def _home(value: Any) -> tuple[str, int] | None:
    """Module and line of a node, an endpoint or a provider; None for anything else.

    Asks for the type only: a module may hold proxies that must not be touched before their time.
    """
    cls = type(value)
    if issubclass(cls, Endpoint):
        return value.module, value.line
    if issubclass(cls, BaseProvider) or (issubclass(cls, type) and issubclass(value, Provider)):
        return getattr(value, "__module__", ""), 0
    if mark_of(value) is None:
        return None
    return value.__module__, site_of(value).line


def _foreign(value: object, home: str, modules: dict[str, ModuleType]) -> bool:
    """Whether a function or class was only imported, from a module that is no part of the program.

    One that its own module does not hold was made there for somebody else (a factory of nodes), and is not foreign.
    """
    if home in modules or isinstance(value, Endpoint | BaseProvider):
        return False
    return any(held is value for held in vars(sys.modules[home]).values()) if home in sys.modules else False


def _add_nodes(held: list[Held], found: Found) -> None:
    for one in held:
        mark = mark_of(one.value)
        if mark is not None:
            node = read(one.value, mark, found.faults)
            if node is not None:
                found.nodes.append(node)


def _add_endpoints(held: list[Held], found: Found) -> None:
    by_function = {id(node.function): node for node in found.nodes}
    for one in held:
        if isinstance(one.value, Endpoint):
            found.endpoints.append(one.value)
        node, policy = by_function.get(id(one.value)), policy_of(one.value)
        if node is None or policy is None or not node.consumes:
            continue
        try:
            found.endpoints.append(Endpoint.of(node, policy))
        except ValueError as reason:
            found.faults.append(f"{node.site}: its stream cannot be told: {reason}")


def _add_providers(held: list[Held], found: Found) -> None:
    providers = [one.value for one in held if isinstance(one.value, BaseProvider | type)]
    instantiated = {type(provider) for provider in providers}
    for provider in providers:
        if isinstance(provider, BaseProvider):
            found.providers.append(provider)
        elif provider not in instantiated:
            try:
                found.providers.append(provider())
            except Exception as failure:  # noqa: BLE001  (its constructor is the user's; the fault says what it raised)
                found.faults.append(
                    f"{site_of_class(provider)}: this Provider cannot be made without arguments: {failure}. Give its "
                    f"parameters defaults, or hold an instance of it at module level"
                )
