"""Reads a decorated function's signature into a `Node`, or says what is wrong with it.

Owns the rules for a node's parameters and return annotation (section 3 of the contract). It looks at one function
alone; how functions fit together is the affair of `preflight`.
"""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from inspect import Parameter
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from dishka import DependencyKey
from dishka.integrations.base import default_parse_dependency

from offloop.graph.job import Job
from offloop.graph.kinds import Kind, kinds, name_of, parts, stripped
from offloop.graph.node import Mark, Node, Site, site_of

ITERATED = (Iterator, Iterable, Generator)


def read(function: Callable[..., Any], mark: Mark, faults: list[str]) -> Node | None:
    """The node that a decorated function is, as far as it can be read; None if not at all. `faults` says why."""
    site = site_of(function)
    found: list[str] = []
    node = _read(function, mark, site, found)
    faults.extend(f"{site}: {fault}" for fault in found)
    return node


def _read(function: Callable[..., Any], mark: Mark, site: Site, faults: list[str]) -> Node | None:
    if reason := _no_plain_function(function):
        faults.append(reason)
        return None
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as unknown:
        faults.append(
            f"an annotation names {unknown.name!r}, which does not exist at run time. Import it at module level and "
            f"outside of `if TYPE_CHECKING:`"
        )
        return None
    except Exception as broken:  # noqa: BLE001  (evaluating a string annotation runs anything; the fault says what)
        faults.append(f"its annotations cannot be evaluated: {broken}. Write them as types")
        return None
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        faults.append("it has no parameter. The first one is the message it consumes")
        return None
    consumes = _consumed(parameters[0], hints, faults)
    job, services = _others(parameters[1:], hints, faults)
    emits, iterates, returns = _emitted(function, hints, faults)
    return Node(
        function=function,
        name=mark.name or f"{function.__module__}.{function.__name__}",
        site=site,
        consumes=consumes,
        emits=emits,
        silent=any(stripped(part) is NoneType for part in parts(returns)),
        iterates=iterates,
        job=job,
        services=services,
        request=hints.get(parameters[0].name),
        returns=returns,
    )


def _no_plain_function(function: Callable[..., Any]) -> str | None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return (
            "it is `async def`. Nodes block in a loop of their own, off the event loop, and there is no async runner "
            "yet. Write a plain `def` with blocking calls"
        )
    if function.__name__ == "<lambda>":
        return "it is a lambda, which has no annotations. Write a `def`"
    return None


def _consumed(parameter: Parameter, hints: dict[str, Any], faults: list[str]) -> tuple[Kind, ...]:
    name = parameter.name
    if parameter.kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        faults.append(f"its first parameter {name!r} cannot be given by position. Make it the message it consumes")
        return ()
    if name not in hints:
        faults.append(
            f"its first parameter {name!r} has no annotation. Annotate it with the type it consumes; if a decorator "
            f"hides the annotation, the decorator needs functools.wraps"
        )
        return ()
    hint = hints[name]
    if stripped(hint) is Job or default_parse_dependency(parameter, hint) is not None:
        faults.append(f"its first parameter {name!r} is a Job or a service. Put the message it consumes first")
        return ()
    if any(stripped(part) is NoneType for part in parts(hint)):
        faults.append(f"its parameter {name!r} may be None, but None is never a message. Leave the None away")
        return ()
    try:
        return kinds(hint)
    except ValueError as reason:
        faults.append(f"it cannot consume {name_of(hint)}: {reason}")
        return ()


def _others(
    parameters: list[Parameter], hints: dict[str, Any], faults: list[str]
) -> tuple[str | None, tuple[tuple[str, DependencyKey], ...]]:
    job: str | None = None
    services: list[tuple[str, DependencyKey]] = []
    for parameter in parameters:
        name, hint = parameter.name, hints.get(parameter.name)
        if parameter.kind not in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            faults.append(f"its parameter {name!r} cannot be given by name. Leave `*`, `**` and `/` away")
        elif stripped(hint) is Job and job is None:
            job = name
        elif stripped(hint) is Job:
            faults.append(f"its parameters {job!r} and {name!r} are both the Job. Leave one away")
        elif (service := default_parse_dependency(parameter, hint)) is not None:
            services.append((name, service))
        elif name not in hints:
            faults.append(f"its parameter {name!r} has no annotation. Annotate it Job, or FromDishka[...]")
        else:
            faults.append(
                f"nobody would give its parameter {name!r} a value. Annotate it FromDishka[{name_of(hint)}] for a "
                f"service, or make it a constant of the module"
            )
    return job, tuple(services)


def _emitted(
    function: Callable[..., Any], hints: dict[str, Any], faults: list[str]
) -> tuple[tuple[Kind, ...], bool, Any]:
    """What it emits, whether it is iterated, and the annotation of one emission."""
    if "return" not in hints:
        faults.append("it has no return annotation. Annotate what it emits; `-> None` if nothing")
        return (), False, None
    returns = stripped(hints["return"])
    iterates = get_origin(returns) in ITERATED or returns in ITERATED
    if iterates:
        arguments = get_args(returns)
        if not arguments:
            faults.append(f"{name_of(returns)} does not say what it emits. Write {name_of(returns)}[...]")
            return (), True, None
        if len(arguments) == 3 and stripped(arguments[2]) is not NoneType:
            faults.append(f"what a generator returns ({name_of(arguments[2])}) is not emitted. Yield it instead")
        emission = arguments[0]
    else:
        if inspect.isgeneratorfunction(function):
            faults.append(f"it yields. Annotate it Iterator[{name_of(returns)}]")
        emission = hints["return"]
    try:
        return kinds(emission), iterates, emission
    except ValueError as reason:
        faults.append(f"it cannot emit {name_of(emission)}: {reason}")
        return (), iterates, None
