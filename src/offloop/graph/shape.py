"""Shape: which nodes one endpoint's graph has, and who hears whom in it.

Owns the graph itself, a pure function of what was discovered: preflight judges it, the router compiles it. The rules
are section 3 of the contract: an endpoint's graph is the nodes from which its reply or stream type can be reached,
and the sinks that consume what those emit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from offloop.graph.endpoint import Endpoint
from offloop.graph.kinds import Kind, kinds
from offloop.graph.node import Node


@dataclass(frozen=True, slots=True)
class Graph:
    """One endpoint's nodes.

    Attributes:
        entries: who may take the request.
        nodes: all, in the order in which several consumers of one message are called.
        request, reply, stream: the endpoint's kinds.
        ends: the node whose end is the reply None; None where the reply is a message.
    """

    endpoint: Endpoint[Any, Any]
    entries: tuple[Node, ...]
    nodes: tuple[Node, ...]
    request: tuple[Kind, ...]
    reply: tuple[Kind, ...]
    stream: tuple[Kind, ...]
    ends: Node | None

    def consumers(self, kind: Kind) -> tuple[Node, ...]:
        """Who is called with an emitted message. A reply goes no further, and a builtin never passes between nodes."""
        if kind in self.reply or kind.bare:
            return ()
        return tuple(node for node in self.nodes if kind in node.consumes)

    def reached(self) -> list[Node]:
        """The nodes that a request can come to, the entries first."""
        found = list(self.entries)
        for node in found:  # grows while it is walked
            for kind in node.emits:
                found.extend(consumer for consumer in self.consumers(kind) if consumer not in found)
        return found


def graph_of(endpoint: Endpoint[Any, Any], to: Node | None, nodes: Sequence[Node]) -> Graph:
    """The graph of an endpoint among all nodes of the program.

    Args:
        endpoint: whose graph.
        to: the node that the endpoint names, if it names one.
        nodes: in order.

    Raises:
        ValueError: a type of the endpoint is none that could be told; the text says why.
    """
    request, reply, stream = kinds(endpoint.request), kinds(endpoint.reply), kinds(endpoint.stream)
    takers = [node for node in nodes if any(kind in node.consumes for kind in request)]
    ends = None
    if endpoint.reply is None:
        ends = to or (takers[0] if len(takers) == 1 else None)
    answering = _leading_to((*reply, *stream), ends, nodes)
    if endpoint.reply is None:
        entries = (ends,) if ends else tuple(takers)
    else:
        entries = (to,) if to else tuple(node for node in takers if node in answering)
    heard = [kind for node in answering for kind in node.emits if kind not in reply and not kind.bare]
    members = tuple(
        node for node in nodes if node in answering or (node.sink and any(kind in heard for kind in node.consumes))
    )
    return Graph(endpoint, entries, members, request, reply, stream, ends)


def _leading_to(targets: Iterable[Kind], ends: Node | None, nodes: Sequence[Node]) -> list[Node]:
    """The nodes from which one of these kinds, or the node that ends the request, can be reached."""
    targets = tuple(targets)
    found = [node for node in nodes if node is ends or any(kind in targets for kind in node.emits)]
    for later in found:  # grows while it is walked
        found.extend(
            node
            for node in nodes
            if node not in found and any(kind in later.consumes and not kind.bare for kind in node.emits)
        )
    return found
