"""Policies: whether one endpoint says what an endpoint may say.

Owns the checks of a single `Endpoint`: its name, its numbers, its problems, and where it is exposed. How endpoints and
nodes fit together is the affair of `preflight`.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from offloop.errors import BY_REASON, Problem
from offloop.graph.endpoint import Endpoint
from offloop.graph.kinds import name_of
from offloop.graph.payload_fields import fields_of
from offloop.messages import Blob

EMPTY = (204, 205)
"""Statuses of answers without a body (RFC 9110, sections 15.3.5 and 15.3.6)."""


class Rule(NamedTuple):
    """What one policy may be."""

    field: str
    holds: Callable[[Any], bool]
    must: str


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(value))


def _media_types(value: Any) -> bool:
    return value is None or (
        isinstance(value, tuple)
        and bool(value)
        and all(isinstance(one, str) and re.fullmatch(r"[^\s/;]+/[^\s/;]+", one) for one in value)
    )


RULES = (
    Rule("name", lambda v: isinstance(v, str) and re.fullmatch(r"[\w.-]+", v) is not None,
         "made of letters, digits, `_`, `.` and `-`"),
    Rule("timeout", _seconds, "a number of seconds above 0"),
    Rule("max_in_flight", _count, "a whole number of at least 1"),
    Rule("max_body", _count, "a whole number of bytes, at least 1"),
    Rule("idempotent", lambda v: isinstance(v, bool), "True or False"),
    Rule("status", lambda v: _count(v) and 200 <= v <= 299, "a status from 200 to 299; refuse by raising a Problem"),
    Rule("on_disconnect", lambda v: v in ("cancel", "finish"), '"cancel" or "finish"'),
    Rule("pool", _text, "a name, or None"),
    Rule("http", _text, '"METHOD /path", or None'),
    Rule("websocket", lambda v: v is None or (isinstance(v, str) and v.startswith("/")),
         'a path that begins with "/", or None'),
    Rule("media_types", _media_types, 'several such as ("application/pdf",), or None for any'),
    Rule("problems", lambda v: isinstance(v, tuple), "several such as (EncryptedPdf,)"),
)  # fmt: skip


def faults_of_policy(endpoint: Endpoint[Any, Any]) -> Iterator[str]:
    """Everything wrong with what an endpoint says of itself, types aside; each text begins with its place."""
    site = endpoint.site
    for field, holds, must in RULES:
        value = getattr(endpoint, field)
        if not holds(value):
            yield f"{site}: its {field} is {value!r}. It must be {must}"
    if endpoint.reply is not None and endpoint.status in EMPTY:
        yield f"{site}: an answer of status {endpoint.status} has no body, but there is a reply. Choose another status"
    if endpoint.media_types is not None and not takes_blob(endpoint.request):
        yield (
            f"{site}: its media_types are for a Blob, but its request is {name_of(endpoint.request)}. Leave them away, "
            f"or make the request a Blob or a model with a Blob field"
        )
    if isinstance(endpoint.problems, tuple):
        yield from _faults_of_problems(endpoint)


def takes_blob(request: Any) -> bool:
    """Whether a request is, or has, bytes of any kind."""
    return request is Blob or any(field.blob for field in fields_of(request) or ())


def _faults_of_problems(endpoint: Endpoint[Any, Any]) -> Iterator[str]:
    site = endpoint.site
    by_reason: dict[str, type[Problem]] = {}
    declared: tuple[Any, ...] = endpoint.problems
    for problem in declared:
        if not isinstance(problem, type) or not issubclass(problem, Problem) or problem is Problem:
            yield f"{site}: among its problems is {problem!r}. Each must be a subclass of Problem"
            continue
        name, reason = name_of(problem), problem.reason
        if reason in BY_REASON:
            yield f"{site}: the reason of its problem {name}, {reason!r}, is one of offloop's own. Rename the class"
        elif by_reason.setdefault(reason, problem) is not problem:
            yield (
                f"{site}: its problems {name_of(by_reason[reason])} and {name} have the same reason, {reason!r}. "
                f"Rename one, or set its `reason`"
            )
