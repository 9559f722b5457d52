"""Router: one endpoint's graph, compiled, and the walk of one request through it.

Owns the order in which nodes are called, what becomes of what they emit, and when a request has ended. Nothing is
inspected here at run time: which class goes where was decided when the route was compiled. No I/O, no threads, and
nothing of how messages travel.
"""

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from dishka import DependencyKey

from offloop import errors
from offloop.graph.job import Job
from offloop.graph.kinds import name_of
from offloop.graph.node import Call, Node, Resolver
from offloop.graph.shape import Graph

log = logging.getLogger("offloop.nodes")

MAX_HOPS = 1000
"""Messages on their way to nodes, in one request."""


class Out(Protocol):
    """Where a request's messages go. Belongs to the loop's own thread."""

    def chunk(self, message: object) -> None:
        """A message of the stream type, as it comes. Never called after the reply."""

    def reply(self, message: object, *, last: bool) -> None:
        """The reply, at most once. `last`: nothing of the request's nodes runs after it."""


class Runs(Protocol):
    """What a loop runs for one endpoint: a `Route`, or what stands in for it in a test."""

    @property
    def uses_services(self) -> bool: ...

    def run(self, message: object, job: Job, services: Resolver | None, out: Out) -> None:
        """As `Route.run`."""


class Way(NamedTuple):
    """What becomes of the messages of one class that one node emits."""

    reply: bool = False
    chunk: bool = False
    steps: "tuple[Step, ...]" = ()


class Step:
    """One node's place in one graph."""

    __slots__ = ("call", "ends", "iterates", "node", "ways")

    def __init__(self, node: Node, call: Call, *, ends: bool) -> None:
        self.node = node
        self.call = call
        self.ends = ends
        self.iterates = node.iterates
        self.ways: dict[type, Way] = {}

    def way(self, message: object) -> Way:
        """Raises NodeFailed where the node never said that it emits this class."""
        way = self.ways.get(type(message))
        if way is None:
            raise _undeclared(self.node, message)
        return way


class Route:
    """One endpoint's graph, compiled. Thread-safe: it holds nothing of any request.

    Attributes:
        needs: the services that its nodes ask for.
        uses_services: whether `run` has to be given a request's services.
        stream: whether stream messages may come.
    """

    __slots__ = ("_entries", "_first", "_graph", "needs", "stream", "uses_services")

    def __init__(self, graph: Graph, known: Mapping[DependencyKey, object] | None = None) -> None:
        known = known or {}
        self._graph = graph
        self.stream = bool(graph.stream)
        self.needs = tuple(key for node in graph.reached() for _, key in node.services)
        self.uses_services = any(key not in known for key in self.needs)
        steps = _compiled(graph, known)
        self._entries = {kind.cls: steps[id(node)] for node in graph.entries for kind in node.consumes}
        self._first = steps[id(graph.entries[0])] if len(graph.entries) == 1 else None

    def bound(self, known: Mapping[DependencyKey, object]) -> "Route":
        """The same route with some services in place, so that they need not be asked for at every call."""
        return Route(self._graph, known)

    def run(self, message: object, job: Job, services: Resolver | None, out: Out) -> None:
        """Take one request from its first node to its last. Returns when nothing is left to do, reply or not.

        Before every node and between a generator's messages it looks whether anybody still waits. After the reply it
        never raises: what fails then is logged, with the node's name.

        Args:
            message: of the request's type.
            job: what nodes may know of the request, and whether anybody still waits.
            services: the request's; needed only if `uses_services`.
            out: where stream messages and the reply go.

        Raises:
            Cancelled, DeadlineExceeded: nobody waits any more; no reply was given.
            NodeFailed: a node emitted what it had not declared, or messages went round and round.
            BaseException: whatever a node or `out` raised before the reply, as it is.
        """
        step = self._first or self._entries[type(message)]
        if job.cancelled or job.remaining <= 0:
            raise _gone(job)
        if not step.iterates:
            # The common case, in a straight line: one plain function that returns the reply.
            result = step.call(message, job, services)
            way = step.ways.get(type(result))
            if way is not None and way.reply:
                out.reply(result, last=True)
                return
            walk = Walk(job, services, out)
            ended = walk.take(step, result)
        else:
            walk = Walk(job, services, out)
            ended = walk.visit(step, message)
        walk.go_on(ended=ended)


class Walk:
    """One request on its way, first in first out. Lives as long as `Route.run`."""

    __slots__ = ("_hops", "_job", "_out", "_services", "_waiting")

    def __init__(self, job: Job, services: Resolver | None, out: Out) -> None:
        self._job = job
        self._services = services
        self._out = out
        self._waiting: deque[tuple[Step, object]] = deque()
        self._hops = 1

    def go_on(self, *, ended: bool) -> None:
        """Until the request has ended and all that was emitted before its end is handled, or the work runs out."""
        job = self._job
        while self._waiting and not ended:
            step, message = self._waiting.popleft()
            if job.cancelled or job.remaining <= 0:
                raise _gone(job)
            ended = self.visit(step, message)
        while self._waiting:
            step, message = self._waiting.popleft()
            if job.cancelled or job.remaining <= 0:
                left = len(self._waiting) + 1
                log.warning("%d messages emitted before the reply were not handled: %s", left, _gone(job).reason)
                return
            self._handle(step, message)

    def visit(self, step: Step, message: object) -> bool:
        """Call one node and take what it emits. True: the request has ended."""
        job = self._job
        result = step.call(message, job, self._services)
        if not step.iterates:
            return self.take(step, result)
        messages = iter(result)  # type: ignore[call-overload]  # declared Iterator[...]; else its own TypeError says so
        try:
            for emitted in messages:
                if self._emit(step, emitted):
                    return True
                if job.cancelled or job.remaining <= 0:
                    raise _gone(job)
        finally:
            _close(step.node, messages)
        return self._end(step)

    def take(self, step: Step, result: object) -> bool:
        """Take what a plain function returned. True: the request has ended."""
        return self._emit(step, result) or self._end(step)

    def _emit(self, step: Step, message: object) -> bool:
        way = step.way(message)
        if way.reply:
            self._out.reply(message, last=not (self._waiting or step.iterates))
            return True
        if way.chunk:
            self._out.chunk(message)
        self._hops += len(way.steps)
        if self._hops > MAX_HOPS:
            text = f"{step.node.site}: more than {MAX_HOPS} hops in one request. Do messages go in circles?"
            raise _node_failed(text)
        self._waiting.extend((consumer, message) for consumer in way.steps)
        return False

    def _end(self, step: Step) -> bool:
        if step.ends:
            self._out.reply(None, last=not self._waiting)
        return step.ends

    def _handle(self, step: Step, message: object) -> None:
        """Call a node for what was emitted before the reply; what it emits itself is dropped."""
        try:
            result = step.call(message, self._job, self._services)
            if step.iterates:
                self._exhaust(step, result)
        except BaseException:
            log.exception("%s failed after the reply", step.node.name)

    def _exhaust(self, step: Step, result: Any) -> None:
        messages = iter(result)
        try:
            for _ in messages:
                if self._job.cancelled or self._job.remaining <= 0:
                    return
        finally:
            _close(step.node, messages)


def _compiled(graph: Graph, known: Mapping[DependencyKey, object]) -> dict[int, Step]:
    steps = {id(node): Step(node, node.call(known), ends=node is graph.ends) for node in graph.reached()}
    for step in steps.values():
        node = step.node
        for kind in node.emits:
            consumers = tuple(steps[id(consumer)] for consumer in graph.consumers(kind))
            step.ways[kind.cls] = Way(reply=kind in graph.reply, chunk=kind in graph.stream, steps=consumers)
        if node.silent:
            step.ways[type(None)] = Way(reply=step.ends and not node.iterates)
    return steps


def _gone(job: Job) -> errors.OffloopError:
    """Why nobody waits any more."""
    return errors.Cancelled() if job.cancelled else errors.DeadlineExceeded()


def _close(node: Node, messages: Iterable[object]) -> None:
    """Close a generator at its yield. How the request ended is decided by then, so a failure is logged."""
    close = getattr(messages, "close", None)
    if close is None:
        return
    try:
        close()
    except BaseException:
        log.exception("%s failed while it was closed", node.name)


def _node_failed(text: str) -> errors.NodeFailed:
    failure = errors.NodeFailed(debug=text)
    failure.__cause__ = TypeError(text)  # what a log shows: the error's own text is for callers, and says nothing
    return failure


def _undeclared(node: Node, message: object) -> errors.NodeFailed:
    cls = type(message)
    declared = ", ".join(str(kind) for kind in node.emits) or "None"
    text = f"{node.site}: it emitted a {name_of(cls)}, but declares {declared}. Declare it in the return annotation"
    if any(issubclass(cls, kind.cls) for kind in node.emits):
        text += "; messages find their way by exact class, and a subclass is another class"
    return _node_failed(text)
