"""Preflight: whether a program can work as it is written, before anything runs.

Owns the judgement of all that was discovered, and of how it fits together. Every fault is found and told at once; each
text names the place and the remedy. Nothing is built, opened or called here.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from offloop.graph.discovery import Found
from offloop.graph.endpoint import Endpoint
from offloop.graph.http_spec import HttpSpec
from offloop.graph.kinds import Kind, kinds, name_of, parts, stripped
from offloop.graph.node import Node
from offloop.graph.payloads import travels
from offloop.graph.policies import faults_of_policy
from offloop.graph.shape import Graph, graph_of
from offloop.graph.socket_spec import SocketSpec
from offloop.graph.wiring import faults_of


@dataclass(slots=True)
class Checked:
    """What was found out on the way; of use only if there are no faults."""

    graphs: dict[Endpoint[Any, Any], Graph] = field(default_factory=dict)
    http: dict[Endpoint[Any, Any], HttpSpec] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def check(found: Found, *, elsewhere: bool = False) -> Checked:
    """Judge all that was discovered.

    Args:
        elsewhere: the nodes run in other processes, which judge them. Some may be here, and need not fit together.
    """
    checked = Checked(faults=[*found.faults])
    faults = checked.faults
    faults += _twice((node.name, node.site) for node in found.nodes if node.name)
    faults += _twice((endpoint.name, endpoint.site) for endpoint in found.endpoints)
    for endpoint in found.endpoints:
        faults += faults_of_policy(endpoint)
        faults += _faults_of_types(endpoint)
        if elsewhere:
            faults += _faults_of_to(endpoint)
        else:
            _shape(endpoint, found.nodes, checked)
        _expose(endpoint, checked)
    faults += _same_places(found.endpoints, checked.http)
    if not elsewhere:
        faults += _faults_between(found.nodes, found.endpoints)
        faults += faults_of(found.providers, found.nodes)
    return checked


def _twice(named: Iterable[tuple[str, object]]) -> Iterator[str]:
    first: dict[str, object] = {}
    for name, site in named:
        other = first.setdefault(name, site)
        if other is not site:
            yield f"{site}: the name {name!r} is taken by {other}. Choose another"


# ---- types


def _faults_of_types(endpoint: Endpoint[Any, Any]) -> Iterator[str]:
    for role in ("request", "reply", "stream"):
        annotation = getattr(endpoint, role)
        if annotation is None:
            if role == "request":
                yield f"{endpoint.site}: its request is None, and None is never a message. Name a class"
            continue
        if any(stripped(part) is NoneType for part in parts(annotation)):
            yield f"{endpoint.site}: its {role} may be None, and None is never a message. Leave the None away"
        try:
            kinds(annotation)
        except ValueError as reason:
            yield f"{endpoint.site}: its {role} cannot be told: {reason}"
            continue
        if (why := travels(annotation)) is not None:
            yield f"{endpoint.site}: its {role}, {name_of(annotation)}, cannot travel: {why}"


# ---- the graph of one endpoint


def _shape(endpoint: Endpoint[Any, Any], nodes: list[Node], checked: Checked) -> None:
    to = _named(endpoint.to, nodes)
    if endpoint.to is not None and to is None:
        text = endpoint.to if isinstance(endpoint.to, str) else getattr(endpoint.to, "__qualname__", repr(endpoint.to))
        checked.faults.append(
            f"{endpoint.site}: its `to`, {text}, is no node of this program. Give a function with @node, or "
            f'"module:function", and name its module among the packages'
        )
        return
    try:
        graph = graph_of(endpoint, to, nodes)
    except ValueError:
        return  # a type that cannot be told has been named already
    if not graph.request:
        return  # so has a request of None
    checked.graphs[endpoint] = graph
    faults = list(_faults_of_entry(graph, to)) or list(_faults_of_reach(graph))
    checked.faults += (f"{endpoint.site}: {fault}" for fault in faults)


def _faults_of_to(endpoint: Endpoint[Any, Any]) -> Iterator[str]:
    """Of a name of what is elsewhere, as far as one can tell from here."""
    to: Any = endpoint.to
    if not (to is None or callable(to) or (isinstance(to, str) and re.fullmatch(r"[\w.]+:\w+", to))):
        yield f'{endpoint.site}: its `to`, {to}, is no name of a node. Give "module:function", or a function with @node'


def _named(to: Callable[..., Any] | str | None, nodes: list[Node]) -> Node | None:
    return next(
        (node for node in nodes if node.function is to or f"{node.module}:{node.function.__name__}" == to), None
    )


def _faults_of_entry(graph: Graph, to: Node | None) -> Iterator[str]:
    for kind in graph.request:
        takers = [node for node in graph.entries if kind in node.consumes]
        if to is not None and not takers:
            consumed = " | ".join(str(one) for one in to.consumes)
            yield f"its `to`, {to.site}, consumes {consumed}, not {kind}. Let one of them follow the other"
        elif not takers:
            reply = " | ".join(str(one) for one in graph.reply)
            leads = f" leads to {reply}" if reply else " exists"
            yield f"no node that consumes {kind}{leads}. Write one, or correct the endpoint's types"
        elif len(takers) > 1:
            named = ", ".join(str(node.site) for node in takers)
            yield f"several nodes could take its {kind}: {named}. Say which: `to=`"


def _faults_of_reach(graph: Graph) -> Iterator[str]:
    emitted = [kind for node in graph.reached() for kind in node.emits]
    entries = ", ".join(str(node.site) for node in graph.entries)
    for kind in graph.reply:
        if kind not in emitted:
            yield f"its reply {kind} cannot be reached from {entries}. Emit it on the way, or correct `reply`"
    for kind in graph.stream:
        if kind in graph.reply:
            yield f"{kind} is both its reply and its stream type. Give one of them a class of its own"
        elif kind not in emitted:
            yield f"no node reached from {entries} emits its stream type {kind}. Emit it, or leave `stream` away"


# ---- where endpoints are exposed


def _expose(endpoint: Endpoint[Any, Any], checked: Checked) -> None:
    if endpoint.http is not None:
        try:
            checked.http[endpoint] = HttpSpec.of(endpoint)
        except ValueError as reason:
            checked.faults.append(f"{endpoint.site}: {reason}")
    if isinstance(endpoint.websocket, str) and endpoint.websocket.startswith("/"):  # else that is a fault already
        try:
            SocketSpec.of(endpoint)
        except ValueError as reason:
            checked.faults.append(f"{endpoint.site}: websocket={endpoint.websocket!r}: {reason}")


def _same_places(endpoints: Iterable[Endpoint[Any, Any]], http: Mapping[Endpoint[Any, Any], HttpSpec]) -> Iterator[str]:
    places: dict[tuple[str, str], list[Endpoint[Any, Any]]] = defaultdict(list)
    for endpoint in endpoints:
        if (spec := http.get(endpoint)) is not None:
            places[spec.method, _unnamed(spec.path)].append(endpoint)
        if isinstance(endpoint.websocket, str):
            places["websocket", _unnamed(endpoint.websocket)].append(endpoint)
    for (method, path), (first, *others) in places.items():
        for other in others:
            yield f"{other.site}: {method} {path} is taken by {first.site}. Choose another path"


def _unnamed(path: str) -> str:
    """A path whose fields have lost their names, which tell no two requests apart."""
    return re.sub(r"\{[^}]*\}", "{}", path)


# ---- between the nodes


def _faults_between(nodes: list[Node], endpoints: list[Endpoint[Any, Any]]) -> Iterator[str]:
    requested = [kind for endpoint in endpoints for kind in _told(endpoint.request)]
    answered = [kind for endpoint in endpoints for kind in (*_told(endpoint.reply), *_told(endpoint.stream))]
    emitted = [kind for node in nodes for kind in node.emits if not kind.bare]
    for node in nodes:
        for kind in node.consumes:
            if kind not in requested and kind not in emitted:
                yield f"{node.site}: nobody emits {kind}, and no endpoint requests it. {_remedy(kind)}"
        for kind in node.emits:
            if kind.bare and kind not in answered:
                yield f"{node.site}: it emits {kind}, which is no endpoint's reply. {_remedy(kind)}"


def _told(annotation: Any) -> tuple[Kind, ...]:
    """The kinds of a type; none where they cannot be told, which is a fault of its own."""
    try:
        return kinds(annotation)
    except ValueError:
        return ()


def _remedy(kind: Kind) -> str:
    if kind.bare:
        return "A builtin says nothing of its meaning and never passes between nodes: wrap it in a class"
    return "Emit it, request it, or remove the node"
